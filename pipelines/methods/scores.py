"""The second axis of a method: scores of the pool's examples.

A score takes the evidence and its options (keyword arguments, which the recipe and the command line check against the
annotations) and gives [N], or [N, J] with a column for each subtask or query. The mathematics is in `scorers`.
Legend: N pool examples, J columns.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.pipelines.methods import memory
from gradsift.pipelines.methods.evidence import SCORE_DECIMALS, Evidence, Per, Represent
from gradsift.pipelines.methods.parts import raw_rows, similarities, steps
from gradsift.pipelines.methods.registry import Needs, Options, represented, score
from gradsift.scorers import difficulty, dvemb, gio, lexical, preconditioned
from gradsift.scorers.aggregate import opinion
from gradsift.scorers.lengths import without_length
from gradsift.scorers.rows import unit_rows

F64 = NDArray[np.float64]


@score("none", memory=memory.ZEROS)
def no_score(e: Evidence) -> F64:
    """Zero for all: the rule looks at rows instead."""
    return np.zeros(len(e.ids))


@score("similarity", represented("target"), memory=memory.SIMILARITY)
def similarity(
    e: Evidence,
    *,
    represent: Represent = "gradients",
    per: Per = "subtask",
    renorm_subtask_mean: bool = False,
    aggregate: Literal["mean", "rank", "vote"] = "mean",
    top: float = 0.05,
    length: Literal["none", "mild", "full"] = "none",
) -> F64:
    """Similarity to the target: LESS, mean cosine, RDS+, sentence embeddings.

    `aggregate`: over checkpoints, and over layers where rows are by module, the mean rank or votes for the best `top`
    instead of the mean. `length` takes out what the length of the answer explains, within tenths of the pool by length.
    """
    if aggregate == "mean":
        values = e.similarity(represent, per, renorm_subtask_mean)
    else:
        parts = similarities(e, represent, per, renorm_subtask_mean)
        values = sum((weight * opinion(part, aggregate, top) for weight, part in parts), np.zeros((len(e.ids), 1)))
    if length == "none":
        return values
    return np.round(without_length(values, np.array(e.label_tokens()), length), SCORE_DECIMALS)


@score("influence", ("plain", "target"), memory=memory.INFLUENCE)
def influence(
    e: Evidence,
    *,
    precondition: Literal["gram", "datainf", "gist", "none"] = "gram",
    ridge: float = 0.1,
    rank: int = 150,
) -> F64:
    """Influence with curvature (`none`: without, TracIn), for each subtask, summed over checkpoints by their weights:
    plain gradients with their length on both sides."""
    total = np.zeros((len(e.ids), len(set(e.target.subtasks))))
    for pair, weight in zip(e.pairs, e.weights, strict=True):
        queries, means = e.raw_queries(pair)
        if precondition == "gist":
            basis = preconditioned.gist_basis(queries, rank)
            for positions, rows in e.raw_blocks(pair):
                total[positions] += weight * preconditioned.cosines(rows @ basis, means @ basis)
            continue
        if precondition == "none":
            turned = means.astype(np.float64)
        elif precondition == "gram":
            turned = preconditioned.whiten(means, *preconditioned.gram(g for _, g in e.raw_blocks(pair)), ridge)
        else:
            layers = preconditioned.equal_layers(means.shape[1], e.layer_sizes(pair))
            turned = preconditioned.datainf(means, lambda: (g for _, g in e.raw_blocks(pair)), layers)
        for positions, rows in e.raw_blocks(pair):
            total[positions] += weight * (rows @ turned.T)
    return total


@score("dvemb", represented("plain", "target"), memory=memory.DVEMB)
def dvemb_score(e: Evidence, *, represent: Literal["gradients", "plain"] = "gradients", rate: float = 1.0) -> F64:
    """DVEmb: influence of a step on an example on the target at the end of training, for each subtask, summed over the
    intervals between checkpoints. Steps go along the rows of `represent` with their length (`gradients`: of
    `features.transform`, the optimizer's; `plain`: as SGD's), and are `rate` times as long as the warm-up's."""
    total = np.zeros((len(e.ids), len(set(e.target.subtasks))))
    carried = e.raw_queries(e.pairs[-1])[1].astype(np.float64)
    for pair, count in reversed(list(zip(e.pairs, steps(e), strict=True))):
        directions, gradients = raw_rows(e, pair, represent), raw_rows(e, pair, "plain")
        curved = dvemb.curvature((rows, gradients.read(places)) for places, rows in directions.blocks())
        seen, carried = dvemb.carry(carried, curved, rate * pair.mean_lr, count)
        total += pair.mean_lr * directions.products(seen)
    return total


@score("phi", represented("target"), memory=memory.PHI)
def phi(e: Evidence, *, represent: Represent = "gradients") -> F64:
    """GIO's −φ: how near an example is to the whole target, in mean log distance."""
    return -gio.phi(unit_rows(e.queries(represent)[0]), e.rows(represent, unit=True))


def _signal_needs(options: Options) -> Needs:
    return frozenset({"signals", "answer_loss"} if options["signal"] == "ifd" else {"signals"})


Signal = Literal["grand", "el2n", "loss", "perplexity", "entropy", "length", "ifd"]


@score("signal", _signal_needs, memory=memory.ONE_NUMBER)
def signal(e: Evidence, *, signal: Signal = "loss", checkpoint: int = -1, residual: bool = False) -> F64:
    """One number of the example alone. `residual` takes out what the log of its length explains."""
    column = {"grand": "grad_norm", "perplexity": "loss", "length": "n_label_tokens", "ifd": "loss"}.get(signal, signal)
    values = e.signal(column, checkpoint)
    if signal == "perplexity":
        values = difficulty.perplexity(values)
    if signal == "ifd":
        values = difficulty.ifd(values, e.signal("answer_loss", checkpoint))
    return difficulty.residual(values, np.array(e.label_tokens())) if residual else values


@score("loss_drop", ("target", "training"), memory=memory.ONE_NUMBER)
def loss_drop(e: Evidence) -> F64:
    """Relative fall of the loss after training on the target alone."""
    return difficulty.loss_drop(*e.losses())


@score("bm25", ("texts", "target"), memory=memory.WORDS)
def bm25(e: Evidence) -> F64:
    """BM25 of each pool text for each text of the target."""
    return lexical.bm25(e.texts(), e.target_texts()).astype(np.float64)


@score("dsir", ("texts", "target"), memory=memory.HASHED)
def dsir(e: Evidence, *, buckets: int = 10_000) -> F64:
    """Log importance of hashed words and word pairs, target against pool."""
    return lexical.dsir(e.texts(), e.target_texts(), buckets)
