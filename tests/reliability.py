"""What attacks on the store's promises came to, counted by the tests that make them.

A test that attacks takes the fixture `tally` and says of each attack what became of it:

    def test_flipped_bytes_of_an_export(tally, exported):
        flips = tally("flipped bytes of an export", promise=3)
        for place in range(0, size, 97):
            flip(exported, place)
            if problems := verify(exported):
                flips.reported()  # an error or a finding that names what is damaged, or refuses what is hostile
            elif rows(exported) == before:
                flips.harmless()  # nobody can tell the difference: no byte was used, or the work was done again
            else:
                flips.silent(f"byte {place}")  # wrong values, and nobody said so; code run; something written outside
            # flips.lost("which") is for what was committed and is gone

Each call counts one attack (or `n`); what is `silent` or `lost` fails the test when it ends, with the words given; so does
a tally that counted nothing. A test may take several, and parametrised cases of one test are added up. Areas of one
promise are rows of a table, so name them for a reader: what was done to what.

GRADSIFT_RELIABILITY=FILE runs the tests that take `tally` alone, and writes the file: JSON, a record for each promise, area
and test.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from workers import WORKER

PROPERTY = "reliability"
COUNTS = ("reported", "harmless", "silent", "lost")
PROMISES = {
    1: "A shard is visible if and only if its catalog row is committed. Kill the process anywhere: nothing is lost, "
    "nothing is there twice.",
    2: "A resumed run computes at most one unfinished shard per worker again. Added examples cost only themselves.",
    3: "A flipped or cut byte is reported, with the shard's id, before its values are used.",
    4: "Rows of different feature spaces are never compared: the store refuses, and says which field differs.",
    5: "Same recipe, seed and hardware class: the same selection, whatever the batch size or the number of workers.",
    6: "Everything derived (indexes, reports, clusters) can be deleted and is made again.",
    7: "Opening a store never runs code from it, nor writes outside of it: no pickle, no remote code, no template outside "
    "its sandbox.",
    8: "Deleting an example removes it from features, signals, indexes, clusters, scores and future mixtures.",
    9: "A bad row is quarantined with its source, line and reason; it is never dropped in silence and never stops a run.",
    10: "A store written by one version opens in the next.",
}


@dataclass
class Tally:
    """Attacks of one area, by what became of them."""

    area: str
    promise: int
    counts: dict = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    bad: list = field(default_factory=list)

    def reported(self, n=1):
        """Attacks that an error or a finding named, or that were refused."""
        self.counts["reported"] += n

    def harmless(self, n=1):
        """Attacks after which everything is as without them."""
        self.counts["harmless"] += n

    def silent(self, what):
        """An attack that changed what is answered, ran code or wrote outside, and nobody said so."""
        self.counts["silent"] += 1
        self.bad.append(f"silent: {what}")

    def lost(self, what):
        """An attack after which something committed is gone."""
        self.counts["lost"] += 1
        self.bad.append(f"lost: {what}")

    def record(self, test):
        return {"promise": self.promise, "area": self.area, "injected": sum(self.counts.values()), **self.counts} | {
            "test": test
        }


@pytest.fixture
def tally(request):
    """`tally(area, promise)`: a count of attacks on a promise (1 to 10), see this module's page."""
    made = []

    def new(area, promise):
        assert promise in PROMISES
        made.append(Tally(area, promise))
        return made[-1]

    yield new
    name = request.node.nodeid.partition("[")[0]
    request.node.user_properties.extend((PROPERTY, one.record(name)) for one in made)
    bad = [f"{one.area}: {what}" for one in made for what in one.bad]
    assert not bad, "\n".join(bad)
    assert all(sum(one.counts.values()) for one in made), "a tally that counted nothing"


class Reliability:
    """A pytest plugin for a run of all tests that take `tally`: it writes what they counted to a file."""

    def __init__(self, path):
        self.path, self.records = Path(path), {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        attacks = [item for item in items if "tally" in item.fixturenames]
        config.hook.pytest_deselected(items=[item for item in items if "tally" not in item.fixturenames])
        items[:] = attacks

    def pytest_runtest_logreport(self, report):
        if report.when != "teardown" or WORKER:  # the process that started workers hears of theirs
            return
        for name, record in report.user_properties:
            if name == PROPERTY:
                key = (record["promise"], record["area"], record["test"])
                kept = self.records.setdefault(key, {**record, **dict.fromkeys(("injected", *COUNTS), 0)})
                for count in ("injected", *COUNTS):
                    kept[count] += record[count]
                self._write()  # each time: a run of an hour may be stopped

    def _write(self):
        text = json.dumps([self.records[key] for key in sorted(self.records)], indent=1)
        self.path.write_text(text + "\n", "utf-8")
