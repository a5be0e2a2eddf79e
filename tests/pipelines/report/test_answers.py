"""What the report says first: sentences for every verdict, gains in percent, sizes, next steps, the matrix."""

import dataclasses
from dataclasses import replace

import pytest

from gradsift.datastore.runs import (
    ArmRow,
    Ingested,
    MixtureReport,
    PoolReport,
    RunResult,
    SelectionReport,
    SpaceRows,
    Versus,
)
from gradsift.datastore.warmups import Drift
from gradsift.pipelines.report import charts
from gradsift.pipelines.report.advice import advice
from gradsift.pipelines.report.answers import answers
from gradsift.pipelines.report.arms import arm_sections
from gradsift.pipelines.report.effects import Gain, gain, loss_words, percent_words, size
from gradsift.pipelines.report.matrix import matrix
from gradsift.pipelines.report.page import html, markdown
from gradsift.pipelines.report.parts import Answer, Document

EVIL = "<script>alert(1)</script>|*`x`"


def versus(verdict="better", difference=-0.21, low=-0.26, high=-0.17, claim="method", seeds=3, rows=48):
    found = Versus(difference, low, high, 0.001, 3, seeds, 0.01, -9.0, 0.01, 4, verdict, rows=rows, claim=claim)
    return replace(found, method_low=low, method_high=high, method_p=0.001, method_p_adjusted=0.01)


def arm(name, loss, target="sql", seeds=3, examples=120, **more):
    row = ArmRow(
        name, target, range(seeds), 1e-3, [loss] * seeds, loss, 0.01, "loss", [], None, None, None, examples, 1.0
    )
    return replace(row, **more)


def result(*arms, method="less", **more):
    pool = PoolReport(2000, "d", 2000, 2000, 0)
    made = [SelectionReport("demo-sql", "sql", method, "d", 120)]
    return replace(RunResult("demo", Ingested(pool, {}, {}), selections=made, arms=arms), **more)


def of(verdict, mine=0.70, ours="selected", metric=(None, None), others=(), **more):
    name = "loss" if metric[0] is None else "exact"
    scores = [{"metric": name, "score_mean": score} for score in metric]
    seeds = more.get("seeds", 3)
    return result(
        arm(ours, mine, seeds=seeds, versus={"random": versus(verdict, **more), **dict(others)}, **scores[0]),
        arm("random", 0.91, seeds=seeds, **scores[1]),
    )


def text(made):
    (answer,) = answers(made)
    return answer.text


SENTENCES = {
    "better": (
        of("better"),
        "Training on the 120 chosen rows makes the model 23 % better at *sql* than 120 random rows would (loss 0.70 "
        "instead of 0.91; between 19 and 29 %; 3 seeds).",
    ),
    "worse": (
        of("worse", 1.0, difference=0.09, low=0.04, high=0.14),
        "Training on the 120 chosen rows makes the model 10 % worse at *sql* than 120 random rows would (loss 1.00 "
        "instead of 0.91; between 4 and 15 %; 3 seeds).",
    ),
    "this set": (
        of("this set better", claim="this set"),
        "Training on the 120 chosen rows makes the model 23 % better at *sql* than 120 random rows would (loss 0.70 "
        "instead of 0.91; between 19 and 29 %; 3 seeds). That is about this very set: whether another set of the same "
        "method would do so is not shown.",
    ),
    "no evidence": (
        of("no evidence", 0.89, difference=-0.02, low=-0.045, high=0.01, claim=""),
        "This run does not show that the 120 chosen rows make the model better at *sql* than 120 random rows would: the "
        "difference (2 %, between −1 and 5 %; loss 0.89 instead of 0.91; 3 seeds) may be chance. If there is one, it is "
        "small at most.",
    ),
    "one seed": (
        of("one seed", low=None, high=None, seeds=1, claim=""),
        "One seed cannot tell whether the 120 chosen rows make the model better at *sql* than 120 random rows would "
        "(loss 0.70 instead of 0.91; 23 %; 1 seed): another seed may say otherwise.",
    ),
    "too few rows": (
        of("too few rows", rows=8, claim=""),
        "8 test rows cannot tell whether the 120 chosen rows make the model better at *sql* than 120 random rows would "
        "(loss 0.70 instead of 0.91; 23 %; 3 seeds): at least 10 are needed.",
    ),
    "diverged": (
        result(arm("selected", 0.7, seeds=2, diverged=1, versus={"random": versus("diverged")}), arm("random", 0.91)),
        "This run cannot say whether the 120 chosen rows make the model better at *sql* than 120 random rows would: 1 of "
        "3 trainings on the 120 chosen rows diverged, and what is left is no fair comparison.",
    ),
    "diverged wholly": (
        result(arm("selected", None, seeds=0, diverged=3), arm("random", 0.91)),
        "This run cannot say whether the 120 chosen rows help with *sql*: its training diverged with every seed.",
    ),
    "no random": (
        result(arm("selected", 0.7)),
        "This run cannot say whether the 120 chosen rows help with *sql*: no random rows were trained on to compare with "
        "(`arms: [random]`).",
    ),
    "not validated": (
        result(),
        "For *sql* 120 rows were chosen. Whether training on them helps was not measured: this run validated nothing.",
    ),
    "mixture": (
        of("better", ours="mixture"),
        "Training on the mixture of 120 rows makes the model 23 % better at *sql* than 120 random rows would (loss 0.70 "
        "instead of 0.91; between 19 and 29 %; 3 seeds).",
    ),
    "mixture not validated": (
        result(selections=(), mixtures=[MixtureReport("demo", "d", 200, 300)]),
        "The mixture took 300 rows. Whether training on them helps was not measured: this run validated nothing.",
    ),
    "metric": (
        of("better", metric=(0.62, 0.41)),
        "Training on the 120 chosen rows makes the model 23 % better at *sql* than 120 random rows would (loss 0.70 "
        "instead of 0.91; between 19 and 29 %; 3 seeds). By its answers (exact): 62 % instead of 41 %, +21 points; the "
        "verdict is about the loss.",
    ),
    "not better than bm25": (
        of("better", others={"bm25": versus("no evidence"), "length": versus("worse"), "full": versus("worse")}.items()),
        "Training on the 120 chosen rows makes the model 23 % better at *sql* than 120 random rows would (loss 0.70 "
        "instead of 0.91; between 19 and 29 %; 3 seeds). It is not shown to be better than bm25 and length, which need no "
        "gradient rows.",
    ),
    "not better than its lengths": (
        of("better", others={"random_lengths": versus("no evidence")}.items()),
        "Training on the 120 chosen rows makes the model 23 % better at *sql* than 120 random rows would (loss 0.70 "
        "instead of 0.91; between 19 and 29 %; 3 seeds). Whether more than the length of the rows (random_lengths) "
        "makes the difference is not shown.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SENTENCES)
def test_every_verdict_has_a_sentence_for_anyone(case):
    made, sentence = SENTENCES[case]
    assert text(made) == sentence


def test_a_gain_is_the_difference_over_the_loss_of_random_with_the_interval_of_the_verdict():
    found = gain(versus(difference=-0.2, low=-0.3, high=-0.1), arm("random", 2.0))
    assert (found.percent, found.low, found.high) == pytest.approx((10, 5, 15))
    turned = found.turned
    assert (turned.percent, turned.low, turned.high) == pytest.approx((-10, -15, -5))
    set_alone = replace(versus(low=-0.4, high=-0.1, claim="this set"), method_low=-9.0, method_high=9.0)
    assert gain(set_alone, arm("random", 2.0)).high == pytest.approx(20), "of the claim that is made"
    assert gain(versus(low=None, high=None), arm("random", 2.0)).most is None
    for loss in (None, 0.0):
        assert gain(versus(), arm("random", loss)) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Gain(23.9, 18.6, 28.7), ("24 %", "between 19 and 29 %")),
        (Gain(2.4, -1.2, 5.4), ("2 %", "between −1 and 5 %")),
        (Gain(2.4, 0.3, 4.5), ("2.4 %", "between 0.3 and 4.5 %")),
        (Gain(24.0, 23.8, 24.2), ("24.0 %", "between 23.8 and 24.2 %")),
        (Gain(0.04, 0.02, 0.06), ("0.04 %", "between 0.02 and 0.06 %")),
        (Gain(12.3), ("12 %", "")),
        (Gain(-3.21), ("−3.2 %", "")),
        (Gain(0.0), ("0.0 %", "")),
    ],
)
def test_percents_have_the_decimals_that_they_need(found, said):
    assert percent_words(found) == said


def test_losses_have_the_decimals_that_tell_them_apart():
    assert loss_words(0.701, 0.914) == ("0.70", "0.91")
    assert loss_words(0.7012, 0.7034) == ("0.701", "0.703")
    assert loss_words(1.0, 1.0) == ("1.0000", "1.0000")


def test_sizes_have_fixed_limits_either_way():
    words = [size(sign * x) for x in (0.99, 1, 4.99, 5, 14.9, 15) for sign in (1, -1)]
    expected = ["negligible", "small", "small", "moderate", "moderate", "large"]
    assert words == [word for word in expected for _ in range(2)]


def test_what_is_significant_and_small_is_called_small_and_not_coloured_as_large():
    made = of("better", 0.88, difference=-0.03, low=-0.04, high=-0.02)
    (answer,) = answers(made)
    assert (answer.headline, answer.effect, answer.kind) == ("Better than random", "small", "better")
    page = html(document(answers=[answer]))
    assert 'class="answer better small"' in page
    assert ".better.small b" not in page, "its words keep the page's colour"
    assert ".better.large b" in page
    (none,) = answers(of("no evidence", claim=""))
    assert none.effect == "", "no size is claimed of what may be chance"


def document(**more):
    return replace(Document("demo", "w", [], [], "0"), **more)


STEPS = {
    "better": (of("better"), "gradsift export demo-sql FOLDER"),
    "this set": (of("this set better", claim="this set"), "add the arm `redrawn`"),
    "worse": (of("worse"), "Do not train on what was chosen for sql"),
    "no evidence": (of("no evidence"), "more seeds (6 instead of 3"),
    "one seed": (of("one seed", seeds=1), "more seeds (5 instead of 1"),
    "too few rows": (of("too few rows"), "Give sql more `test` rows"),
    "diverged": (of("diverged"), "Lower `validate.lr`"),
    "no random": (result(arm("selected", 0.7)), "arms: [random, random_tokens]"),
    "not validated": (result(), "`gradsift validate`"),
}  # fmt: skip


@pytest.mark.parametrize("case", STEPS)
def test_what_to_do_next_follows_from_what_was_found(case):
    made, words = STEPS[case]
    steps = advice(made)
    assert words in " ".join(steps)
    assert not [step for other, (_, theirs) in STEPS.items() if other not in (case, "better") for step in steps
                if theirs in step], case  # fmt: skip


def test_a_cheaper_method_is_advised_only_where_it_is_better_than_random():
    others = {"bm25": versus("no evidence", claim="")}
    made = of("better", others=others.items())
    assert "Use bm25" not in " ".join(advice(made))
    assert "better than bm25: validate with more seeds" in " ".join(advice(made))
    better = replace(made, arms=[*made.arms, arm("bm25", 0.70, versus={"random": versus("better")})])
    assert advice(better) == [
        "Use bm25 for sql: better than random, too, cheaper, and not shown to be worse than what was chosen."
    ]
    assert "(loss 0.70), which needs no gradient rows." in text(better)
    own = replace(better, selections=[replace(better.selections[0], method="dsir")])
    assert "Use bm25" not in " ".join(advice(own)), "what was chosen needs no gradients either"
    assert "gradients" not in text(own)


def test_drift_and_rows_without_a_label_are_advised_on():
    drift = {field.name: 0 for field in dataclasses.fields(Drift)} | {"advised": True}
    known = {
        name: value for name, value in drift.items() if name in {f.name for f in dataclasses.fields(Drift) if f.init}
    }
    rows = SpaceRows("pool", 1, "pool", 0, "adam", 9, 1, {"ok": 90, "no_labels": 10})
    made = of("better")
    assert "max_length" in " ".join(advice(replace(made, rows=[rows])))
    few = replace(rows, statuses={"ok": 99, "no_labels": 1})
    assert "max_length" not in " ".join(advice(replace(made, rows=[few])))
    assert "--new-warmup" not in " ".join(advice(made))
    moved = type("Moved", (), {**known, "advised": True})()
    assert "--new-warmup" in " ".join(advice(replace(made, drift=moved)))


def several(second="b"):
    arms = []
    for target, loss in (("a", 0.8), (second, 1.0)):
        verdict = "better" if target == "a" else "no evidence"
        arms += [
            arm("base", 2.0, target),
            arm("selected", loss, target, versus={"random": versus(verdict, difference=loss - 1.0)}),
            arm("random", 1.0, target),
            arm("bm25", 0.99, target, versus={"random": versus("no evidence", difference=-0.01)}),
        ]
    return arms


def test_with_several_targets_one_matrix_comes_first():
    found = matrix(several())
    assert found.targets == ["a", "b"]
    cells = {line.arm: [cell.words for cell in line.cells] for line in found.lines}
    assert cells == {"base": ["(−100 %)", "(−100 %)"], "selected": ["+20 %", "(+0.0 %)"], "bm25": ["(+1.0 %)"] * 2}
    assert [[cell.best for cell in line.cells] for line in found.lines] == [[False] * 2, [True, False], [False, True]]
    page = html(document(matrix=found, answers=[Answer("a", "selected", "h", "t", "better", "large")]))
    assert page.index('class="matrix"') < page.index('class="answers"')
    assert '<th scope="row">selected</th><td class="n best">+20 %</td><td class="n untold">(+0.0 %)</td>' in page
    assert '<td class="n untold best">(+1.0 %)</td>' in page
    lines = markdown(document(matrix=found)).splitlines()
    assert "| selected | **+20 %** | (+0.0 %) |" in lines
    assert dataclasses.asdict(found)["lines"][1]["cells"][0] == {
        "percent": pytest.approx(20),
        "told": True,
        "best": True,
    }
    assert matrix([one for one in several() if one.target == "a"]) is None
    assert matrix([one for one in several() if one.arm != "random"]) is None


def test_hostile_names_stay_text():
    made = result(*several(EVIL))
    page = html(document(answers=answers(made), matrix=matrix(made.arms), next=advice(made), recipe=EVIL,
                         facts=[{"what": "run", "value": EVIL}], words={"w": EVIL}))  # fmt: skip
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    written = markdown(document(answers=answers(made), matrix=matrix(made.arms), next=advice(made)))
    assert "<script" not in written


def test_no_training_loss_shares_an_axis_with_anothers():
    """Curves of 1 to 2 and of 100 to 200 both fill their own panel."""
    low, high = [[[k, 1 + k / 20] for k in range(21)]], [[[k, 100 + 5 * k] for k in range(21)]]
    arms = [arm("selected", 1.0, curves=low), arm("random", 1.0, curves=high)]
    svg = next(
        part.svg for section in arm_sections(arms, [1e-3]) for part in section.parts if part.title == "Training loss"
    )
    assert svg == charts.panels("sql: training loss", {"selected": [[[5.0 * k, 1 + k / 20] for k in range(21)]],
                                "random": [[[5.0 * k, 100 + 5 * k] for k in range(21)]]},
                                "share of the steps, %", "loss of a batch")  # fmt: skip
    lines = [part.split('points="')[1].split('"')[0] for part in svg.split("<polyline")[1:]]
    heights = [[float(point.split(",")[1]) for point in line.split()] for line in lines]
    assert len(heights) == 2
    assert heights[0] == pytest.approx(heights[1], abs=0.2), "each by its own range"
    lefts = [float(line.split(",")[0]) for line in lines]
    assert lefts[1] - lefts[0] == charts.WIDTH // 2, "beside each other"


def test_tiny_losses_have_figures():
    assert loss_words(1e-7, 2e-7) == ("1e-07", "2e-07")
    assert loss_words(0.0012, 0.0034) == ("0.0012", "0.0034")
    assert loss_words(0.0, 0.0) == ("0.0000", "0.0000")


def test_long_names_break_on_a_narrow_screen():
    page = html(Document("x" * 300, "what", [], [], "1", run="r", date="2026"))
    assert "body { overflow-wrap: anywhere;" in page
