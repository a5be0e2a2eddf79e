"""Every method from a store that the real flow made: what its formula gets there is what its paper means.

Right formulas can be fed the wrong rows: unit rows for raw ones, Adam's steps for gradients, one checkpoint for all. So
each method is held against a loop of autograd over the warm-up's checkpoints (tests/truth.py): scores against the
formula written out here, rules that look at rows against the arrays that their formula must be handed.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from truth import fold, texts, true_rows, unit

from gradsift.datastore import features, runs
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.methods import row_rules, rules
from gradsift.pipelines.methods.registry import methods, scores, split_options
from gradsift.pipelines.methods.registry import rules as registered_rules
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.validate.attribution import checkpoint_of
from gradsift.scorers import lexical
from gradsift.scorers.rows import Rows

SIZE = 12
DIM = 2048


class Truth:
    """A finished run of the real flow, its evidence, and what autograd says of its rows at each checkpoint."""

    def __init__(self, store, encoder):
        last = runs.last_run(store)
        self.work = open_work(store, parse_recipe(last.recipes.resolved))
        self.e = evidence(self.work, material_of(store, last), "sql", encoder)
        self.ids, self.queries = self.e.ids, sorted(self.e.target.example_ids)
        of = dict(zip(self.e.target.example_ids, self.e.target.subtasks, strict=True))
        self.subtasks = np.array([of[i] for i in self.queries])
        rates = np.array([pair.mean_lr for pair in self.e.pairs])
        self.weights = rates / rates.sum()
        self.pool = [true_rows(self.work, pair.train, self.ids) for pair in self.e.pairs]
        self.target = [true_rows(self.work, pair.query, self.queries) for pair in self.e.pairs]

    def mean(self, rows):
        """[J, …] mean over the rows of each subtask, sorted."""
        return np.stack([rows[self.subtasks == name].mean(axis=0) for name in sorted(set(self.subtasks))])

    def weighted(self, each):
        return sum(w * each(p, t) for w, p, t in zip(self.weights, self.pool, self.target, strict=True))

    def found(self, name):
        """The score of a method, from the store."""
        method = methods()[name]
        of_score, _ = split_options(method.score, method.rule, method.options)
        return np.asarray(scores()[method.score].run(self.e, **of_score))


def small_recipe(folder, model_dir, **features):
    return parse_recipe(
        {
            "name": "truth",
            "pool": [{"path": str(folder / "pool.jsonl")}],
            "targets": {"sql": {"val": {"path": str(folder / "val.jsonl")}}},
            "decontaminate": None,
            "model": {"path": str(model_dir)},
            "encoding": {"max_length": 96},
            "lora": {"r": 2},
            "warmup": {"fraction": 0.5, "min_examples": 16, "epochs": 2, "batch_size": 4, "lr": 3e-3},
            "features": {"row_dtype": "f16", "plain_rows": True, **features},
            "select": {"examples": SIZE},
        }
    )


def write_rows(folder, data_dir, count):
    """Pool and target of a recipe: whole lines of the demo's, and a target of two subtasks."""
    lines = [line for line in (data_dir / "small.jsonl").read_text().splitlines() if line.endswith("}")]
    (folder / "pool.jsonl").write_text("\n".join(lines[:count]) + "\n")
    val = [json.loads(line) for line in (data_dir / "val.jsonl").read_text().splitlines()][:7]
    named = [line | {"subtask": "ab"[k % 3 == 0]} for k, line in enumerate(val)]
    (folder / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in named))


@pytest.fixture(scope="module")
def truth(model_dir, encoder_dir, data_dir, built_once, tmp_path_factory):
    def build(folder):
        """A pool of 40 chats; two checkpoints; every signal; rows as exact as they come."""
        write_rows(folder, data_dir, 40)
        recipe = small_recipe(folder, model_dir, projector={"dim": DIM}, signals={"answer_loss": True})
        with Store(folder / "store") as store:
            curate(recipe, store)

    made = built_once("truth", build)
    root = tmp_path_factory.mktemp("truth") / "store"
    shutil.copytree(made / "store", root)
    with Store(root) as store:
        yield Truth(store, str(encoder_dir))


def cosines(a, b):
    return unit(a) @ unit(b).T


# --- rows and signals ----------------------------------------------------------------------------------------------


def test_rows_and_norms_are_those_of_autograd(truth):
    for pair, pool, target in zip(truth.e.pairs, truth.pool, truth.target, strict=True):
        for space, ids, rows in (
            (pair.train, truth.ids, pool.adam),
            (pair.plain, truth.ids, pool.plain),
            (pair.query, truth.queries, target.plain),
        ):
            block = features.read_all(truth.e.store, space, ids)
            np.testing.assert_allclose(block.unit(), unit(rows), atol=3e-4)
            np.testing.assert_allclose(block.norm, np.linalg.norm(rows, axis=1), rtol=1e-3)
        kept = features.read_all(truth.e.store, pair.train, truth.ids)
        for name, values in pool.signals.items():
            np.testing.assert_allclose(kept.signal(name), values, rtol=3e-3, atol=3e-3, err_msg=name)
        for name, lists in pool.tokens.items():
            for found, expected in zip(kept.token_signal(name), lists, strict=True):
                np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
        moved = kept.signal("transformed_norm") / kept.signal("grad_norm")
        assert moved.min() > 5  # Adam's steps are not gradients: their lengths say nothing of these


def test_adams_rows_are_alike_and_plain_ones_are_not(truth):
    """Why there are plain rows: momentum gives all of Adam's rows one common part."""
    last = truth.pool[-1]
    apart = ~np.eye(len(truth.ids), dtype=bool)
    assert np.median(cosines(last.adam, last.adam)[apart]) > 2 * np.median(cosines(last.plain, last.plain)[apart])


# --- scores --------------------------------------------------------------------------------------------------------


def similarity(truth, mean=True):
    reduce = truth.mean if mean else lambda rows: rows
    return truth.weighted(lambda p, t: unit(p.adam) @ reduce(unit(t.plain)).T)


def trak(truth, ridge=0.1):
    def one(p, t):
        hessian = p.plain.T @ p.plain / len(p.plain)
        hessian += ridge * np.trace(hessian) / DIM * np.eye(DIM)
        return p.plain @ np.linalg.solve(hessian, truth.mean(t.plain).T)

    return truth.weighted(one)


def datainf(truth):
    def one(p, t):
        g, damping = p.plain, (p.plain**2).mean() / 10
        turned = [sum(q - (q @ r) / (damping + r @ r) * r for r in g) / (len(g) * damping) for q in truth.mean(t.plain)]
        return g @ np.array(turned).T

    return truth.weighted(one)


def gist(truth):
    def one(p, t):
        _, _, right = np.linalg.svd(t.plain, full_matrices=False)
        return cosines(p.plain @ right.T, truth.mean(t.plain) @ right.T)

    return truth.weighted(one)


def dvemb(truth, rows="adam", factor=1):
    """The authors' recursion, M ← M + Σ e gᵀ/N step by step from the last, with Adam's steps for the moves."""
    m, total = np.zeros((DIM, DIM)), 0.0
    ends = [0, *(checkpoint_of(truth.work, pair).step for pair in truth.e.pairs)]
    query = truth.mean(truth.target[-1].plain)
    for k in reversed(range(len(truth.e.pairs))):
        a, g, rate = getattr(truth.pool[k], rows), truth.pool[k].plain, factor * truth.e.pairs[k].mean_lr
        for _ in range(ends[k + 1] - ends[k]):
            e = rate * (a - a @ m.T)
            total = total + e @ query.T / (ends[k + 1] - ends[k])
            m = m + e.T @ g / len(g)
    return total


def last(name):
    return lambda truth: truth.pool[-1].signals[name]


def ifd(truth):
    ratio = truth.pool[-1].signals["loss"] / truth.pool[-1].signals["answer_loss"]
    return np.where(ratio < 1, ratio, -ratio)


def encoded(truth, chats):
    """Mean over tokens of the encoder's last hidden states, one text at a time."""
    from transformers import AutoModel, AutoTokenizer

    folder = truth.encoder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return np.stack(
            [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for text in chats]
        )


def loss_drop(truth):
    """The recipe's own training on the target; losses by the plain model."""
    from truth import example_loss

    from gradsift.pipelines.model.chats import usable_chats
    from gradsift.pipelines.model.load import load_lora
    from gradsift.pipelines.progress import quiet
    from gradsift.pipelines.training.loop import Report, train

    work = truth.work
    _, pool = usable_chats(work, truth.ids)
    _, target = usable_chats(work, truth.e.target.example_ids)
    model = load_lora(work.model, work.recipe.model, work.recipe.lora, work.recipe.seed)

    def losses():
        with torch.no_grad():
            return np.array([example_loss(model, chat.input_ids, chat.labelled)[0].item() for chat in pool])

    before = losses()
    train(model, work.model.tokenizer, target, work.recipe.warmup, work.recipe.seed, Report("", quiet))
    return (before - losses()) / before


def fused(truth):
    """LESS and RDS+ by the best query, as reciprocal ranks from a sort."""
    total = np.zeros(len(truth.ids))
    for scores_of in (similarity(truth), SCORES["rds"](truth)):
        best = scores_of.max(axis=1)
        for place, k in enumerate(np.argsort(-best, kind="stable"), 1):
            total[k] += 1 / (60 + place)
    return total


SCORES = {
    "fused": fused,
    "less": similarity,
    "less_rr": similarity,
    "bids": similarity,
    "kmq": similarity,
    "mean_cosine": lambda truth: truth.weighted(lambda p, t: unit(p.adam) @ unit(t.plain).mean(axis=0)[:, None]),
    "uot": lambda truth: similarity(truth, mean=False),
    "trak": trak,
    "trak_damped": lambda truth: trak(truth, 30),
    "tracin": lambda truth: truth.weighted(lambda p, t: p.plain @ truth.mean(t.plain).T),
    "datainf": datainf,
    "gist": gist,
    "dvemb": dvemb,
    "distillation": lambda truth: truth.weighted(lambda p, t: unit(p.adam) @ unit(t.plain).mean(axis=0)[:, None]),
    "rds": lambda truth: cosines(truth.pool[-1].signals["embedding"], truth.target[-1].signals["embedding"]),
    "embed": lambda truth: cosines(
        encoded(truth, texts(truth.e.store, truth.ids)), encoded(truth, texts(truth.e.store, truth.queries))
    ),
    "bm25": lambda truth: lexical.bm25(texts(truth.e.store, truth.ids), texts(truth.e.store, truth.queries)),
    "dsir": lambda truth: lexical.dsir(texts(truth.e.store, truth.ids), texts(truth.e.store, truth.queries), 10_000),
    "grand": last("grad_norm"),
    "el2n": last("el2n"),
    "ccs": last("el2n"),
    "ccs_adapt": last("el2n"),
    "ppl_top": lambda truth: np.exp(truth.pool[-1].signals["loss"]),
    "ppl_mid": lambda truth: np.exp(truth.pool[-1].signals["loss"]),
    "ppl_low": lambda truth: np.exp(truth.pool[-1].signals["loss"]),
    "entropy": last("entropy"),
    "length": last("n_label_tokens"),
    "ifd": ifd,
    "loss_drop": loss_drop,
}


@pytest.mark.parametrize("name", SCORES)
def test_a_score_from_the_store_is_that_of_autograd(truth, name, encoder_dir):
    truth.encoder = encoder_dir
    found, expected = truth.found(name), np.asarray(SCORES[name](truth), np.float64)
    assert found.shape == expected.shape
    spread = expected.std()
    assert spread > 0
    np.testing.assert_allclose(found, expected, atol=0.01 * spread)


def test_data_value_embeddings_of_longer_steps_of_sgd(truth):
    found = scores()["dvemb"].run(truth.e, represent="plain", rate=30.0)
    expected, short = dvemb(truth, "plain", 30) / 30, dvemb(truth, "plain")
    np.testing.assert_allclose(found, expected, atol=0.01 * expected.std())
    assert np.abs(expected - short).max() > 0.05 * short.std(), "later steps matter here"


def places(columns):
    """Share of examples that are worse, half of those that are equal."""
    return np.stack([[(np.sum(c < v) + np.sum(c == v) / 2) / len(c) for v in c] for c in columns.T], axis=1)


@pytest.mark.parametrize("form", ["rank", "vote"])
def test_ranks_and_votes_are_of_each_checkpoint(truth, form):
    def one(p, t):
        share = places(unit(p.adam) @ truth.mean(unit(t.plain)).T)
        return share if form == "rank" else (share > 0.75) + 1e-3 * share

    found = scores()["similarity"].run(truth.e, aggregate=form, top=0.25)
    differ = np.abs(found - truth.weighted(one)) > 1e-9
    assert differ.mean() < 0.1, "neighbours in rank may change places by the rounding of stored rows"
    assert np.abs(found - truth.weighted(one)).max() < (0.06 if form == "rank" else 0.7)


@pytest.mark.parametrize("form", ["mild", "full"])
def test_length_is_taken_out_within_tenths_of_the_pool(truth, form):
    values = similarity(truth)
    lengths = np.log1p(truth.pool[-1].signals["n_label_tokens"])
    tenth = np.searchsorted(np.quantile(lengths, np.arange(1, 10) / 10), lengths, side="right")
    for b in set(tenth.tolist()):
        x, part = lengths[tenth == b], values[tenth == b]
        line = np.stack(
            [np.polyval(np.polyfit(x, c, 1), x) if np.ptp(x) else np.full(len(x), c.mean()) for c in part.T], 1
        )
        values[tenth == b] -= line if form == "full" else line - part.mean(axis=0)
    found = scores()["similarity"].run(truth.e, length=form)
    np.testing.assert_allclose(found, values, atol=0.01 * values.std())


@pytest.mark.parametrize("name", ["trak", "datainf", "gist"])
def test_influence_ranks_as_with_whole_gradients(truth, name):
    """The same formulas on gradients that were never projected."""
    from scipy.stats import spearmanr

    def whole(p, t):
        g, q = p.gradients, truth.mean(t.gradients)
        if name == "gist":
            _, _, right = np.linalg.svd(t.gradients, full_matrices=False)
            return cosines(g @ right.T, q @ right.T)
        if name == "datainf":
            damping = (g**2).mean() / 10
            turned = len(g) * q - ((g @ q.T) / (damping + (g**2).sum(axis=1))[:, None]).T @ g
            return g @ turned.T / (len(g) * damping)
        # (GᵀG/N + λI)⁻¹ by Woodbury; λ a tenth of the mean eigenvalue over the dims of a row, as in the projected space
        gram = g @ g.T / len(g)
        ridge = 0.1 * np.trace(gram) / DIM
        inner = g @ q.T
        return (inner - gram @ np.linalg.solve(ridge * np.eye(len(g)) + gram, inner)) / ridge

    found, expected = truth.found(name), truth.weighted(whole)
    least = 0.8 if name == "trak" else 0.95  # an inverse raises directions in which rows hardly differ, and their error
    for column in range(expected.shape[1]):
        assert spearmanr(found[:, column], expected[:, column]).statistic > least


def test_rows_by_module_are_looked_at_layer_by_layer(model_dir, data_dir, tmp_path):
    """DataInf: each layer with its own λ, the mean of g² over its own weights. Ranks: of each layer's own cosines."""
    write_rows(tmp_path, data_dir, 12)
    recipe = small_recipe(tmp_path, model_dir, projector={"dim": 64, "per_module": True})
    with Store(tmp_path / "store") as store:
        curate(recipe, store)
        truth = Truth(store, None)

        def one(p, t):
            total = 0.0
            for name, weights in p.sizes.items():
                g = np.stack([fold({name: row}, 64) for row in p.by_name[name]])
                q = truth.mean(np.stack([fold({name: row}, 64) for row in t.by_name[name]]))
                damping = (g**2).sum(axis=1).mean() / weights / 10
                turned = [sum(v - (v @ r) / (damping + r @ r) * r for r in g) / (len(g) * damping) for v in q]
                total = total + g @ np.array(turned).T
            return total

        expected, found = truth.weighted(one), truth.found("datainf")
        np.testing.assert_allclose(found, expected, atol=0.01 * expected.std())

        def cosine_ranks(p, t):
            total = 0.0
            for name in p.sizes:
                g = np.stack([fold({name: row}, 64) for row in p.by_name[name]])
                q = np.stack([fold({name: row}, 64) for row in t.by_name[name]])
                total = total + places(unit(g) @ truth.mean(unit(q)).T) / len(p.sizes)
            return total

        ranks = scores()["similarity"].run(truth.e, represent="plain", aggregate="rank")
        np.testing.assert_allclose(ranks, truth.weighted(cosine_ranks), atol=0.02)


def test_datainf_layer_by_layer_refuses_rows_that_round_small_layers_to_nothing(model_dir, data_dir, tmp_path):
    write_rows(tmp_path, data_dir, 12)
    more = {"projector": {"dim": 64, "per_module": True}, "row_dtype": "int8"}
    with Store(tmp_path / "store") as store:
        curate(small_recipe(tmp_path, model_dir, **more), store)
        with pytest.raises(InputError, match=r"rows of int8 say nothing of layers .*row_dtype: f16"):
            Truth(store, None).found("datainf")


# --- rules that look at rows ---------------------------------------------------------------------------------------


def mean_rows(truth):
    return truth.weighted(lambda p, _: unit(p.adam))


def unit_mean(truth):
    return unit(mean_rows(truth))


def target_rows(truth):
    return unit(truth.weighted(lambda _, t: unit(t.plain)))


def embeddings(truth):
    return unit(truth.pool[-1].signals["embedding"])


HANDED = {  # rule: (module, formula, number of its argument, what that must be)
    "omp": [(row_rules, "tagcos", 0, mean_rows), (row_rules, "kmeans", 0, mean_rows)],
    "kmeans_quota": [(row_rules, "kmeans", 0, unit_mean)],
    "facility_location": [
        (row_rules.coverage, "facility_location", 0, lambda t: embeddings(t) @ embeddings(t).T),
    ],
    "k_center": [(row_rules.coverage, "k_center", 0, embeddings)],
    "s2l": [(row_rules.trajectories, "s2l", 0, lambda t: np.stack([p.signals["loss"] for p in t.pool], axis=1))],
    "gip": [
        (row_rules.gip, "gip", 0, unit_mean),
        (row_rules.gip, "gip", 1, lambda t: t.weighted(lambda _, q: unit(q.plain))),
    ],
    "gio": [
        (row_rules.gio, "gio_released", 0, unit_mean),
        (row_rules.gio, "gio_released", 1, target_rows),
    ],
    "tsds": [
        (row_rules.transport, "nearest", 0, lambda t: unit(t.target[-1].signals["embedding"])),
        (row_rules.transport, "nearest", 1, embeddings),
        (row_rules.transport, "density", 0, embeddings),
    ],
    "uot": [(row_rules.transport, "unbalanced_mass", 0, lambda t: similarity(t, mean=False).T)],
    "quadrants": [
        (row_rules.qtuning, "choose", 0, lambda t: np.exp(t.pool[-1].signals["loss"])),
        (row_rules.qtuning, "choose", 1, lambda t: t.pool[-1].signals["entropy"]),
    ],
    "tive": [
        (rules.budgets, "largest_remainder", 0, lambda t: by_source(t, t.pool[-1].signals["grad_norm"])),
        (rules.ranking, "softmax_sample", 0, lambda t: typicality(t)),
    ],
}


def by_source(truth, values):
    sources = np.array(truth.e.sources())
    return [values[sources == name].mean() for name in sorted(set(sources))]


def typicality(truth):
    """Cosine to the mean row of the first source, of plain gradients."""
    sources = np.array(truth.e.sources())
    rows = unit(truth.weighted(lambda p, _: unit(p.plain)))[sources == min(sources)]
    return rows @ rows.mean(axis=0)


@pytest.mark.parametrize("name", HANDED)
def test_a_rule_hands_its_formula_the_rows_of_autograd(truth, name, monkeypatch):
    seen = {}

    def watch(module, function):
        original = getattr(module, function)

        def wrapper(*args, **kwargs):
            seen.setdefault(function, args)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, function, wrapper)

    for module, function in {(module, function) for module, function, _, _ in HANDED[name]}:
        watch(module, function)
    method = next(m for m in methods().values() if m.rule == name)
    of_score, of_rule = split_options(method.score, method.rule, method.options)
    more = {"clusters": 5} if name in ("omp", "kmeans_quota", "s2l") else {"quantise": 0} if name == "gio" else {}
    values = scores()[method.score].run(truth.e, **of_score)
    registered_rules()[name].run(truth.e, values, SIZE, **{**of_rule, **more})
    for _, function, argument, expected in HANDED[name]:
        wanted = np.asarray(expected(truth), np.float64)
        handed = seen[function][argument]
        found = np.asarray(handed.array() if isinstance(handed, Rows) else handed, np.float64)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=0.02 * wanted.std(), err_msg=f"{function}, argument {argument}")


ALONE = {"random", "auto"}  # look at nothing, or at what others choose


def test_every_method_is_held_against_autograd():
    for name, method in methods().items():
        assert name in SCORES or method.rule in HANDED or name in ALONE, name
        if method.score not in ("none",):
            assert name in SCORES, name


# --- what is not there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trak", "datainf", "gist", "dvemb", "tive"])
def test_a_method_without_its_rows_says_what_keeps_them(truth, name):
    method = methods()[name]
    assert "plain" in method.needs
    bare = type(truth.e)(
        truth.e.store,
        truth.e.pool,
        truth.e.target,
        [type(pair)(pair.train, pair.query, pair.mean_lr) for pair in truth.e.pairs],
    )
    _, of_rule = split_options(method.score, method.rule, method.options)

    def choose():
        values = scores()[method.score].run(bare)
        return registered_rules()[method.rule].run(bare, values, SIZE, **of_rule)

    with pytest.raises(InputError, match=r"examples of the pool lack here; set `features.plain_rows: true`"):
        choose()
