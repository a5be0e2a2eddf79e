"""The table of arms, from made-up results: what is compared, corrected, and said of arms that diverged."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gradsift.cli.tables import verdict_line
from gradsift.datastore.arms import ArmResult, Measured
from gradsift.datastore.compared import Versus
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.report.arms import arm_sections, how
from gradsift.pipelines.report.report import cards
from gradsift.pipelines.validate.arms import Arm
from gradsift.pipelines.validate.table import ArmRun, table

ROWS = 24
TARGETS = ("a", "b")


@pytest.fixture
def recipe(recipe_data):
    return parse_recipe(recipe_data | {"targets": dict.fromkeys(TARGETS, recipe_data["targets"]["sql"])})


def run(rng, name, seed, gap, diverged=False):
    if diverged:
        return ArmRun(Arm(name, seed, ("x",), TARGETS), 1e-3, ArmResult(8, 80, diverged=True))
    spread = 0.05 if name.startswith("random") else 0.002
    tests = {}
    for target in TARGETS:
        items = (2 + gap + spread * rng.normal() + 0.01 * rng.normal(size=ROWS)).tolist()
        tests[target] = Measured(float(np.mean(items)), items, [10] * ROWS)
    ids = () if name == "base" else ("x",)
    return ArmRun(Arm(name, seed, ids, TARGETS), 1e-3, ArmResult(8, 80, tests=tests, vals=dict.fromkeys(TARGETS, 2.0)))


def runs_of(gaps, seeds=6, lost=()):
    """Runs of arms that are so far from random; `lost` are (arm, seed) that diverged."""
    rng = np.random.default_rng(0)
    return [
        run(rng, name, seed, gap, (name, seed) in lost)
        for name, gap in gaps.items()
        for seed in range(1 if name == "base" else seeds)
    ]


def rows_of(recipe, runs):
    return {(row.arm, row.target): row for row in table(recipe, runs, dict.fromkeys(TARGETS, "loss"), {"x": "sql"})}


GAPS = {"base": 1.0, "selected": -0.6, "mixture": -0.1, "random": 0.0, "bm25": -0.6, "full": -0.7}


def test_all_that_a_report_prints_is_one_family(recipe):
    """Two targets: seven comparisons of ours and base, two of the others with random, on each."""
    rows = rows_of(recipe, runs_of(GAPS))
    pairs = [(arm, other) for (arm, target), row in rows.items() if target == "a" for other in row.versus]
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == 11
    versus = [v for row in rows.values() for v in row.versus.values()]
    assert {v.comparisons for v in versus} == {len(versus)} == {22}
    assert {v.firsts for v in versus} == {4}, "selected and mixture with random, on two targets"
    assert {v.rows for v in versus} == {ROWS}
    mine = rows["selected", "a"].versus
    assert mine["random"].p_adjusted <= 8 * mine["random"].p * (1 + 1e-9)
    assert min(v.p_adjusted / v.p for v in versus if v.p_adjusted < 1) >= 1


def test_verdicts_say_what_they_are_about(recipe):
    rows = rows_of(recipe, runs_of(GAPS))
    mine = rows["selected", "a"].versus
    assert (mine["random"].verdict, mine["random"].claim) == ("better", "method")
    assert mine["random"].told == (mine["random"].method_low, mine["random"].method_high,
                                   mine["random"].method_p_adjusted)  # fmt: skip
    assert mine["bm25"].verdict == "no evidence"
    assert mine["full"].draw_sd == pytest.approx(mine["random"].draw_sd), "bounded by random's draws"
    assert mine["base"].verdict == "better"
    without = rows_of(recipe, runs_of({name: gap for name, gap in GAPS.items() if name != "random"}))
    versus = without["selected", "a"].versus["full"]
    assert (versus.verdict, versus.claim, versus.method_p) == ("this set worse", "this set", None)


def test_redraws_of_the_method_bound_its_own_draws(recipe):
    """The made-up method's sets hardly vary: full is told from it, which random's draws would not allow."""
    alone, again = (rows_of(recipe, runs_of(gaps)) for gaps in (GAPS, GAPS | {"redrawn": -0.6}))
    assert alone["selected", "a"].versus["full"].verdict == "this set worse"
    assert again["selected", "a"].versus["full"].verdict == "worse"
    assert "redrawn" not in again["selected", "a"].versus
    assert again["redrawn", "a"].versus["random"].verdict == "better"
    mixed = again["mixture", "a"].versus["full"]
    assert mixed.draw_sd == pytest.approx(alone["mixture", "a"].versus["full"].draw_sd), "of its own method alone"


def test_half_of_the_seeds_diverged_is_not_better(recipe):
    lost = [("selected", seed) for seed in range(3)]
    rows = rows_of(recipe, runs_of(GAPS, lost=lost))
    versus = rows["selected", "a"].versus
    assert (versus["random"].verdict, versus["random"].seeds) == ("diverged", 3)
    assert rows["selected", "a"].diverged == 3
    assert not {v.verdict for v in versus.values()} & {"better", "this set better"}
    rows = rows_of(recipe, runs_of(GAPS, lost=[("random", 0)]))
    assert rows["selected", "a"].versus["random"].verdict == "better"
    rows = rows_of(recipe, runs_of(GAPS | {"bm25": 0.9}, lost=[("random", 0)]))
    assert rows["bm25", "a"].versus["random"].verdict == "diverged", "random is not better either"


def test_an_arm_that_diverged_everywhere_is_not_compared(recipe):
    rows = rows_of(recipe, runs_of(GAPS, lost=[("random", seed) for seed in range(6)]))
    assert "random" not in rows["selected", "a"].versus
    assert rows["selected", "a"].versus["bm25"].method_p is None
    assert rows["random", "a"].test_loss_mean is None


def test_the_report_prints_the_whole_family_and_how_it_was_corrected(recipe):
    rows = list(rows_of(recipe, runs_of(GAPS)).values())
    parts = [part for section in arm_sections(rows, [1e-3]) for part in section.parts]
    printed = [row for part in parts for row in part.table if "verdict" in row]
    assert len(printed) == 22
    note = next(part.note for part in parts if part.title == "selected against each other arm")
    assert "seed (6) and test row (24)" in note
    assert "all 22 comparisons of this report" in note
    assert "half of the level for the 4 of ours with random" in note
    assert {row["arm"] for part in parts if part.title == "The other arms against random" for row in part.table} == {
        "bm25",
        "full",
    }


def test_cards_and_lines_name_the_claim_and_what_it_rests_on(recipe):
    rows = rows_of(recipe, runs_of(GAPS))
    arm = rows["selected", "a"]
    (method,) = cards(SimpleNamespace(arms=[arm]))
    assert method.headline == "Better than random"
    assert re.search(r"p [<=] [\d.]+ \(corrected for 22\), n = 6 seeds, 24 test rows\. About the method", method.text)
    line = verdict_line("a", "selected", "random", arm.versus["random"])
    assert re.search(rf"\[{arm.versus['random'].method_low:+.4f}, .*of 6 seeds, p .* \(of 22\): better\.$", line)
    weaker = replace(arm.versus["random"], verdict="this set better", claim="this set")
    (this,) = cards(SimpleNamespace(arms=[replace(arm, versus={"random": weaker})]))
    assert (this.headline, this.kind) == ("This set: better than random", "this-set-better")
    assert this.text.endswith("About this very set of rows; another draw may differ.")


def test_verdicts_of_an_older_version_are_called_so():
    old = Versus(-0.1, -0.2, -0.05, 0.01, 3, 3, 0.1, -1.0, 0.03, 3, "better")
    assert how([old]).startswith("Verdicts of an older version")
    assert old.told == (-0.2, -0.05, 0.03)
