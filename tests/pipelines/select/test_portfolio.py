"""`auto`: methods are judged on rows that they were not chosen by, the worse half goes, the winner chooses by all."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import gradsift
from gradsift.datastore import selections
from gradsift.datastore.errors import InputError
from gradsift.pipelines.methods.measures import Trials
from gradsift.pipelines.methods.portfolio import halves, most_trainings, portfolio
from gradsift.pipelines.methods.registry import Choice, methods
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.price import Priced, prices
from gradsift.pipelines.runs.probe import Speeds
from gradsift.pipelines.runs.trainings import Pool
from gradsift.pipelines.training import sft
from gradsift.pipelines.training.trial import portfolio_flops, trainer
from gradsift.scorers.errors import Unsuitable

IDS = ["a", "b", "c", "d"]
TOKENS = np.array([1, 2, 3, 4])
PRICE = 10.0


@dataclass(frozen=True)
class Target:
    """As much of a data set as halves look at."""

    name: str
    example_ids: list[str]
    subtasks: list[str]
    digest: str = ""


class Bench:
    """Evidence whose methods choose example 0 by the first half of the target, 1 by the second, 2 by all of it; what a
    training on these gives is a table."""

    def __init__(self, table):
        self.table, self.asked, self.seed, self.encoder = table, [], 0, None
        self.target = Target("t", IDS, ["x", "x", "y", "y"])
        self.ids = ["by first", "by second", "by all"]
        self.half = halves(self.target, IDS, 0)

    def towards(self, target, seed):
        there = SimpleNamespace(**vars(self))
        there.target, there.seed = target, seed
        return there

    def by(self, e, _method):
        first = [i for i, k in zip(IDS, self.half, strict=True) if k == 0]
        chosen = {tuple(IDS): 2, tuple(first): 0}.get(tuple(e.target.example_ids), 1)
        return Choice(np.array([chosen])), np.array([0.0, 1.0, 2.0])

    def losses(self, _label, trials):
        self.asked += trials
        return [np.array(self.table(one.name, one.example_ids[0], one.seed - 104_729), float) for one in trials]

    def trials(self):
        return Trials(lambda: (IDS, TOKENS), 2, lambda one: one.epochs, lambda one: PRICE * one.epochs, self.losses)

    def run(self, **options):
        return portfolio(self, self.by, **options)


def test_halves_divide_each_subtask():
    target = Target("t", list("abcdefg"), list("xxxxyyz"))
    half = halves(target, target.example_ids, 0)
    assert sorted(np.bincount(half)) == [3, 4]
    assert [int(half[:4].sum()), int(half[4:6].sum())] == [2, 1]
    assert any(halves(target, target.example_ids, seed).tolist() != half.tolist() for seed in range(1, 9))


def test_a_method_is_judged_on_rows_that_it_did_not_see():
    """`rds` learns the rows that it chose by by heart: its mean over all rows is the lower one, and it loses."""
    bench = Bench(lambda *_: [0.0] * 4)

    def table(name, by, _seed):
        seen = {"by first": bench.half == 0, "by second": bench.half == 1}.get(by, np.zeros(4, bool))
        return np.where(seen, 0.0, 5.0) if name == "rds" else np.full(4, 3.0)

    bench.table = table
    told = bench.run(of=["rds", "less"]).portfolio
    assert told.won == "less"
    assert {one.loss for one in told.rounds if one.method == "rds"} == {5.0}


def test_means_are_over_label_tokens_and_seeds_and_rounds_halve():
    """By hand: of seed s a method's loss of row v is base + s + v; tokens 1 to 4 give (0·1 + 1·2 + 2·3 + 3·4)/10 = 2."""
    base = {"less": 0.3, "rds": 0.2, "bm25": 0.1, "tagcos": 0.4, "random": 1.0}
    bench = Bench(lambda name, _by, seed: base[name] + seed + np.arange(4))
    choice = bench.run(of=["less", "rds", "bm25", "tagcos"])
    told = choice.portfolio
    found = [(one.round, one.method, one.seeds, round(one.loss, 9), one.stayed) for one in told.rounds]
    assert found == [
        (1, "bm25", 1, 2.1, True),
        (1, "rds", 1, 2.2, True),
        (1, "less", 1, 2.3, False),
        (1, "tagcos", 1, 2.4, False),
        (1, "random", 1, 3.0, True),
        (2, "bm25", 2, 2.6, True),
        (2, "rds", 2, 2.7, False),
        (2, "random", 2, 3.5, True),
    ]
    assert (told.won, told.runner_up) == ("bm25", "rds")
    assert choice.order.tolist() == [2], "the winner chooses by all rows"
    assert choice.scores.tolist() == [0.0, 1.0, 2.0]
    assert told.versus["rds"].difference == pytest.approx(-0.1)
    assert told.versus["random"].difference == pytest.approx(-0.9)
    assert told.versus["less"].verdict == "one seed"
    assert told.versus["rds"].comparisons == 4 * 3 / 2 + 4, "all pairs are corrected together"
    # Two trainings of each, one of `tagcos`, which looks at no target, and one of random rows; then two and random.
    assert told.trainings == len(bench.asked) == 8 + 5
    assert told.spent == PRICE * told.trainings
    assert told.allowed == 16 * 2 * PRICE, "whole trainings have two epochs"


@pytest.mark.parametrize("count", range(1, 8))
def test_what_all_rounds_take_is_known_before(count):
    of = ["less", "rds", "bm25", "dsir", "gist", "trak", "tagcos"][:count]
    bench = Bench(lambda name, *_: [of.index(name) if name in of else 9.0] * 4)
    assert bench.run(of=of, flops=1e9).portfolio.trainings <= most_trainings(of)
    if "tagcos" not in of:
        assert len(bench.asked) == most_trainings(of)


def test_it_stops_before_a_round_that_is_not_allowed():
    worse_later = {"less": [0.0, 9.0], "rds": [1.0, 1.0], "random": [2.0, 2.0]}
    bench = Bench(lambda name, _by, seed: [worse_later[name][seed]] * 4)
    assert bench.run(of=["less", "rds"]).portfolio.won == "rds"
    told = bench.run(of=["less", "rds"], flops=9.9 * PRICE).portfolio  # five trainings of each round
    assert (told.won, told.runner_up, told.spent) == ("less", "rds", 5 * PRICE)
    with pytest.raises(Unsuitable, match="raise the option `flops`"):
        bench.run(of=["less", "rds"], flops=4.9 * PRICE)


def test_one_that_diverges_loses_and_is_told_without_a_figure():
    bench = Bench(lambda name, *_: [np.nan if name == "less" else 5.0] * 4)
    told = bench.run(of=["less", "rds"]).portfolio
    assert told.won == "rds"
    assert [one.loss for one in told.rounds if one.method == "less"] == [None, None]
    assert set(told.versus) == {"random"}


def test_a_target_of_one_row_is_refused():
    bench = Bench(lambda *_: [0.0])
    bench.trials = lambda: replace(Bench.trials(bench), rows=lambda: (IDS[:1], TOKENS[:1]))
    with pytest.raises(Unsuitable, match="1 rows with a label token"):
        bench.run(of=["less"])


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (["les"], "did you mean `less`"),
        (["random"], "what every candidate is compared with"),
        (["auto"], "chooses between methods itself"),
        (["less", "loss_drop"], "`loss_drop` trains a model on all `val` rows, by which it would then be judged"),
        ([], "each once"),
        (["less", "less"], "each once"),
    ],
)
def test_candidates_are_methods(recipe_data, of, words):
    with pytest.raises(InputError, match=words):
        parse_recipe(recipe_data | {"select": {"method": "auto", "examples": 12, "options": {"of": of}}})


def test_where_it_has_no_place_it_is_refused_with_a_way_on(recipe_data):
    auto = {"method": "auto", "examples": 12}
    with pytest.raises(InputError, match="it is the arm `selected`"):
        parse_recipe(recipe_data | {"validate": {"arms": ["auto"]}})
    with pytest.raises(InputError, match="name the method that won"):
        parse_recipe(recipe_data | {"select": auto, "mix": {"examples": 20, "parts": [{"target": "sql"}]}})
    with pytest.raises(InputError, match="needs `model`"):
        parse_recipe(recipe_data | {"select": auto, "model": None, "features": {}, "validate": None})
    for name in ("embed", "rds"):
        assert (
            methods()[name].needs
            <= parse_recipe(
                recipe_data | {"select": auto | {"encoder": "/e", "options": {"of": ["embed", "rds"]}}}
            ).needs
        )


def test_a_killed_one_goes_on_and_the_store_says_what_won(copy, monkeypatch, tmp_path):
    trained, count = sft.trained, []

    def counted(*args, **options):
        if len(count) == 3:
            raise KeyboardInterrupt
        count.append(args[3])
        return trained(*args, **options)

    monkeypatch.setattr(sft, "trained", counted)
    asked = {"examples": 12, "options": {"of": ["bm25", "tagcos"]}, "store": copy}
    with pytest.raises(KeyboardInterrupt):
        gradsift.select("auto", **asked)
    monkeypatch.setattr(sft, "trained", lambda *args, **options: (count.append(args[3]), trained(*args, **options))[1])
    (made,) = gradsift.select("auto", **asked)
    assert len(count) == made.portfolio.trainings == 8  # a round of two of bm25, tagcos and random, and another
    (again,) = gradsift.select("auto", **asked)
    assert (len(count), again.digest, again.portfolio) == (8, made.digest, made.portfolio)
    chosen = selections.get(copy, made.version)
    won = made.portfolio.won
    assert chosen.method == made.method == f"auto ({won})"
    (alone,) = gradsift.select(won, examples=12, store=copy)
    assert alone.digest == made.digest
    gradsift.export(made.version, tmp_path / "out", store=copy)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"Chosen by `auto ({won})`" in card
    assert f"{won} of 2 methods by 8 trainings of an epoch" in card
    assert f"auto ({won})" in {
        one.method for one in gradsift.lineage(chosen.example_ids[0], store=copy).examples[0].scores
    }


def test_a_run_reports_its_rounds(recipe_data, store):
    select = {"method": "auto", "examples": 12, "options": {"of": ["bm25", "dsir"]}}
    recipe = parse_recipe(recipe_data | {"select": select, "features": {}, "validate": None})
    result = curate(recipe, store)
    assert not result.rows, "these look at words alone"
    (made,) = result.selections
    told = made.portfolio
    assert told.spent <= told.allowed
    assert {one.method for one in told.rounds} == {"bm25", "dsir", "random"}
    page = Path(result.report).read_text("utf-8")
    assert "Which method was believed" in page
    assert "Rounds for sql" in page
    assert f"{told.won} against the others on val of sql" in page


def test_the_price_is_known_before(recipe_data):
    """By hand: two that look at the target take 2·2 + 1 trainings a round; a token costs 4 FLOPs a weight, a measured
    one 2: (4·100 + 2·10)·10 = 4,200. A whole arm of two epochs is 820, sixteen of them 13,120."""

    def asked(**options):
        select = {"method": "auto", "examples": 12, "options": {"of": ["bm25", "dsir"], **options}}
        return parse_recipe(recipe_data | {"select": select, "validate": {"epochs": 2}})

    assert portfolio_flops(asked(), 1, 100, 10) == 4_200
    assert portfolio_flops(asked(epochs=5), 1, 100, 10) == 13_120
    assert portfolio_flops(asked(flops=1000.0), 1, 100, 10) == 1_000
    assert portfolio_flops(parse_recipe(recipe_data), 1, 100, 10) == 0
    # A dry run's line: 12 rows of 50 tokens, 300 tokens of one target, 7 weights: ten of (4·600 + 2·300)·7.
    priced = Priced(asked(), 7, Pool(1000, 50.0, 20.0), [50], 300.0, 0, Speeds())
    trials, _ = prices(priced, 0, [])
    assert (trials.what, trials.flops) == ("trials of methods for all targets, at most", 210_000)


def test_trials_train_as_the_arms_do(recipe_data):
    by_validate = trainer(parse_recipe(recipe_data | {"validate": {"lr": 3e-3, "epochs": 4, "mode": "full"}}), 1)
    assert (by_validate.lr, by_validate.epochs, by_validate.mode) == (3e-3, 1, "full")
    by_warmup = trainer(parse_recipe(recipe_data | {"validate": None}))
    assert (by_warmup.lr, by_warmup.epochs, by_warmup.mode) == (1e-3, 2, "lora")
