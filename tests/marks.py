"""Are the `slow` marks true? With GRADSIFT_CHECK_MARKS=1 a test run ends in a table of CPU seconds and of wrong marks.

A test is charged its own work and that of the commands it ran, and the fixtures that are not the whole run's (those are
built once for all). CPU seconds, not seconds: they mean the same on a busy machine.
"""

import resource

import pytest

LIMIT = 5.0
SHOWN = 25
fixture_costs = {}


def cpu_seconds():
    """Of this process and of the processes it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


class MarkCheck:
    """A pytest plugin that conftest registers; in workers it measures, at the end it says what was found."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        start = cpu_seconds()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "session":
                owner = request.node.nodeid if fixturedef.scope == "function" else request.node.path
                fixture_costs[(fixturedef.argname, str(owner))] = cpu_seconds() - start

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        start = cpu_seconds()
        try:
            return (yield)
        finally:
            owners = (item.nodeid, str(item.path))
            fixtures = sum(fixture_costs.get((name, owner), 0.0) for name in item.fixturenames for owner in owners)
            item.user_properties.append(("cpu", cpu_seconds() - start + fixtures))

    def pytest_terminal_summary(self, terminalreporter):
        rows = []
        for report in [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]:
            cost = dict(report.user_properties).get("cpu")
            if report.when == "call" and cost is not None:
                rows.append((cost, "slow" in report.keywords, report.nodeid))
        rows.sort(reverse=True)
        terminalreporter.section("CPU seconds of tests, with the fixtures of their modules")
        for cost, slow, name in rows[:SHOWN]:
            terminalreporter.write_line(f"{cost:7.1f}  {'slow' if slow else '    '}  {name}")
        quick = sum(cost for cost, slow, _ in rows if not slow)
        terminalreporter.write_line(f"{sum(row[0] for row in rows):7.1f}  all; {quick:.1f} in tests that are not slow")
        for cost, slow, name in rows:
            if slow != (cost > LIMIT):
                advice = "is marked slow and is not" if slow else "is slow and is not marked"
                terminalreporter.write_line(f"{name} {advice}: {cost:.1f} s")
