"""Rules that look at rows or tokens, not only at scores: clusters, pursuit, GIO, coverage, transport, Q-Tuning.

They read the rows they look at by blocks. All but TAGCOS's pursuit look at unit rows: distances between means over
checkpoints, which are shorter where checkpoints disagree, would order by length.
"""

from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.pipelines.methods import memory
from gradsift.pipelines.methods.evidence import Evidence, Represent
from gradsift.pipelines.methods.registry import Choice, represented, rule
from gradsift.pipelines.methods.rules import best, matrix
from gradsift.scorers import budgets, coverage, difficulty, gio, gip, qtuning, ranking, trajectories, transport
from gradsift.scorers.errors import Unsuitable
from gradsift.scorers.kmeans import kmeans
from gradsift.scorers.rows import unit_rows
from gradsift.scorers.tagcos import tagcos

F64 = NDArray[np.float64]
COVERED = 4096  # pool rows that facility location covers, at most


@rule("kmeans_quota", represented(), memory=memory.KMEANS)
def kmeans_quota(
    e: Evidence,
    scores: F64,
    size: int,
    *,
    represent: Represent = "gradients",
    clusters: int = 100,
    shares: Literal["proportional", "even"] = "proportional",
    inside: Literal["best", "softmax"] = "best",
    temperature: float = 1.0,
) -> Choice:
    """Clusters by k-means, shares in proportion to their sizes or even ones, the best scores in each or a draw by
    exp(score/temperature) without replacement.

    KMQ's release (`deita/kmeansrandom.py` of `for-ai/iterative-data-selection`) has even shares, ⌊size / clusters⌋, and
    draws by exp(score), the score a judge's whole number: among cosines, which differ by tenths, a temperature of 1
    draws nearly at random. What the paper says of shares and weights is UNCONFIRMED here. There a small cluster's lack
    is lost, here the larger ones give it; there rows are sentence embeddings (`represent: encoder`) as they are, in
    1,024 clusters, 300 iterations and 5 restarts.
    """
    groups = kmeans(e.rows(represent, unit=True), clusters, e.seed)
    sizes, labels = groups.sizes.tolist(), groups.labels.tolist()
    amounts = budgets.even(size, sizes) if shares == "even" else budgets.largest_remainder(sizes, size, sizes)
    values = best(scores) if inside == "best" else ranking.with_noise(best(scores), temperature, e.seed)
    chosen = ranking.quota(values, e.ids, labels, dict(enumerate(amounts.tolist())))
    return Choice(chosen, {"cluster": groups.labels})


@rule("omp", represented(), memory=memory.TAGCOS)
def omp(
    e: Evidence,
    scores: F64,
    size: int,
    *,
    represent: Represent = "gradients",
    clusters: int = 100,
    ridge: float = 1.0,
    tol: float = 1e-4,
    budget_mode: Literal["largest_remainder", "floor"] = "largest_remainder",
    fraction: float | None = None,
    continue_residual: bool = False,
    max_points: int = 0,
    iterations: int = 20,
) -> Choice:
    """TAGCOS: in each cluster the rows that reproduce its mean.

    `floor` takes ⌊n·fraction⌋ of a cluster's n rows. `fraction` is the budget's own where that is one (a size alone is
    rounded already, and would leave clusters one row short); of another budget it is size/N.
    """
    rows = e.rows(represent)
    groups = kmeans(rows, clusters, e.seed, iterations, max_points=max_points)
    sizes = groups.sizes.tolist()
    shares = budgets.largest_remainder(sizes, size, sizes)
    if budget_mode == "floor":
        if fraction is not None and int(fraction * len(rows)) > size:
            raise Unsuitable(
                f"`fraction` is {fraction} of {len(rows)} rows, the budget {size}; give the budget as `fraction`"
            )
        shares = budgets.floors(Fraction(size, len(rows)) if fraction is None else fraction, sizes)
    order = tagcos(rows, groups, shares.tolist(), ridge, tol, continue_residual)
    return Choice(order, {"cluster": groups.labels})


@rule("gip", represented("target"), memory=memory.GIP)
def gip_rule(e: Evidence, scores: F64, size: int, *, represent: Represent = "gradients") -> Choice:
    """GIP: at each pick the row whose span, with that of the rows before it, holds most of the target's rows."""
    found = gip.gip(e.rows(represent, unit=True), e.queries(represent)[0], size)
    gains = np.zeros(len(e.ids))
    gains[found.order] = found.gains
    return Choice(found.order, {"gain": gains})


@rule("gio", represented("target"), memory=memory.GIO)
def gio_rule(
    e: Evidence,
    scores: F64,
    size: int,
    *,
    represent: Represent = "gradients",
    mode: Literal["released", "exact", "knn"] = "released",
    v_init: Literal["mean", "jump", "prev_opt"] = "jump",
    quantise: int = 1500,
    spherical: bool = True,
    k: int = 5,
    neighbours: int = 1,
    stop: Literal["none", "increase", "min_difference", "min_kl", "data_size", "sequential"] = "none",
    min_difference: float = 0.0,
    min_kl: float = 0.0,
    data_size: float = 1.0,
    max_increases: int = 3,
    max_resets: int = 0,
    steps: int = 50,
    rate: float = 0.01,
) -> Choice:
    """GIO on the centres of k-means (`quantise: 0`: on the rows), exploded back until the size is reached.

    `spherical` normalises the centres, which the release does not: the centre of a loose cluster is short, hence
    nearer to every target point where cosines are small, as they are between gradients, and GIO would choose loose
    clusters.
    """
    rows, target = e.rows(represent, unit=True), unit_rows(e.queries(represent)[0])
    groups = kmeans(rows, quantise, e.seed, spherical=spherical) if 0 < quantise < len(rows) else None
    if 0 < quantise < len(target):
        target = kmeans(target, quantise, e.seed, spherical=spherical).centers
    pool = rows if groups is None else groups.centers
    most = size if groups is None else len(pool)  # centres: as many as it takes
    stop_rule = gio.Stop(stop, min_difference, min_kl, data_size, max_increases)
    if mode == "knn":
        trace = gio.gio_knn(pool, target, most, neighbours)
    else:
        start = gio.uniform_start(rows.shape[1], e.seed)
        k = min(k, len(target) - 1)
        if mode == "exact":
            trace = gio.gio_exact(pool, target, start, most, stop_rule, k)
        else:
            trace = gio.gio_released(pool, target, start, most, stop_rule, k, v_init, steps, rate, max_resets, e.seed)
    if groups is None:
        return Choice(np.array(trace.picks[:size], np.int64))
    return Choice(gio.explode(trace.picks, groups.members(), rows, groups.centers, size), {"cluster": groups.labels})


@rule("facility_location", represented(), prefix=True, memory=memory.FACILITY_LOCATION)
def facility_location(
    e: Evidence, scores: F64, size: int, *, represent: Represent = "gradients", points: int = COVERED
) -> Choice:
    """Rows that cover the pool, or a seeded sample of `points` of it where it is larger."""
    rows = e.rows(represent, unit=True)
    sample = np.sort(np.random.default_rng(e.seed).permutation(len(rows))[:points])
    return Choice(coverage.facility_location(coverage.similarities(rows, rows.read(sample)), size))


@rule("k_center", represented(), prefix=True, memory=memory.K_CENTER)
def k_center(e: Evidence, scores: F64, size: int, *, represent: Represent = "gradients") -> Choice:
    """Farthest first."""
    return Choice(coverage.k_center(e.rows(represent, unit=True), size))


@rule("tsds", represented("target"), prefix=True, memory=memory.TSDS)
def tsds(
    e: Evidence,
    scores: F64,
    size: int,
    *,
    represent: Represent = "embedding",
    density: Literal["kde", "uniform"] = "kde",
    alpha: float = 0.5,
    scale: float = 5.0,
    sigma: float = 0.75,
    neighbours: int = 5000,
    kde_neighbours: int = 1000,
) -> Choice:
    """TSDS: sampling by the mass that an optimal transport plan gives.

    All rows that are some target's neighbour are compared with each other (seconds for 20,000, their square for more);
    fewer `neighbours` make them fewer.
    """
    rows, target = e.rows(represent, unit=True), unit_rows(e.queries(represent)[0])
    near = transport.nearest(target, rows, neighbours)
    if density == "kde":
        mass = transport.knn_kde(near, rows, sigma, kde_neighbours, alpha, scale)
    else:
        mass = transport.knn_uniform(near, alpha, scale)
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(mass), -1e9)
    logs = np.where(mass > 0, logs, -1e9 - near.least)  # beyond the plan: the nearest first
    return Choice(ranking.softmax_sample(logs, e.ids, size, 1.0, e.seed))


@rule("uot", prefix=True, memory=memory.UOT)
def uot(e: Evidence, scores: F64, size: int, *, reg: float = 0.01, reg_pool: float = 1e-4) -> Choice:
    """Unbalanced optimal transport from the columns to the pool; the examples that receive most mass. Scores beyond
    [−1, 1] are scaled down by the largest."""
    columns = matrix(scores)
    columns = columns / max(1.0, float(np.abs(columns).max()))
    mass = transport.unbalanced_mass(columns.T, reg, reg_pool=reg_pool)
    return Choice(ranking.top_k(mass, e.ids, size))


@rule("s2l", ("signals",), memory=memory.S2L)
def s2l(e: Evidence, scores: F64, size: int, *, clusters: int = 100, least: int = 2, by_source: bool = True) -> Choice:
    """Equal shares of clusters of loss trajectories over the checkpoints; those of at most `least` members only where
    the others do not suffice."""
    losses = np.stack([e.signal("loss", c) for c in range(len(e.pairs))], axis=1)
    groups = e.sources() if by_source else ["all"] * len(e.ids)
    return Choice(trajectories.s2l(losses, groups, size, e.seed, clusters, least))


@rule("quadrants", ("signals", "tokens"), memory=memory.QUADRANTS)
def quadrants(
    e: Evidence,
    scores: F64,
    size: int,
    *,
    token_ratio: float = 0.5,
    smoothing: float = 0.5,
    supplement: Literal["minmax", "rank"] = "minmax",
    keep_highest: bool = False,
    both_above_median: bool = False,
    group: Literal["all", "source", "batch"] = "all",
    batch: int = 8,
    checkpoint: int = -1,
) -> Choice:
    """Q-Tuning over the whole corpus, by source, or in random pseudo-batches; with masks of label tokens.

    Static scoring is our extension (the paper scores each mini-batch in training); none of its figures apply.
    """
    nll = e.token_signal("token_nll", checkpoint)
    ppl, entropy = difficulty.perplexity(e.signal("loss", checkpoint)), e.signal("entropy", checkpoint)
    parts = _parts(e, group, batch)
    sizes = [len(p) for p in parts]
    shares = budgets.largest_remainder(sizes, size, sizes)
    keep, prune, added = (np.zeros(len(ppl), bool) for _ in range(3))
    critical = np.zeros(len(ppl))
    for part, share in zip(parts, shares.tolist(), strict=True):
        outcome = qtuning.choose(ppl[part], entropy[part], (share + 1e-9) / len(part), supplement)
        critical[part] = outcome.critical
        if share:
            keep[part], prune[part], added[part] = outcome.keep, outcome.prune, outcome.added
    kept = np.flatnonzero(keep)
    order = kept[np.lexsort((kept, critical[kept]))]
    masks = {
        int(k): qtuning.keep_tokens(nll[k], token_ratio, smoothing, keep_highest, both_above_median)
        for k in np.flatnonzero(prune)
    }
    place = qtuning.quadrant(ppl, entropy)
    columns: dict[str, NDArray[Any]] = {
        "perplexity": ppl,
        "entropy": entropy,
        "critical": critical,
        "quadrant": place,
        "added": added,
    }
    return Choice(order.astype(np.int64), columns, masks)


def _parts(e: Evidence, group: str, batch: int) -> list[NDArray[np.int64]]:
    everything = np.arange(len(e.ids))
    if group == "source":
        sources = np.array(e.sources())
        return [np.flatnonzero(sources == name) for name in sorted(set(sources.tolist()))]
    if group == "batch":
        if batch < 1:
            raise Unsuitable(f"a batch holds one example or more, not {batch}")
        shuffled = np.random.default_rng(e.seed).permutation(len(e.ids))
        return [np.sort(part) for part in np.array_split(shuffled, max(1, len(shuffled) // batch))]
    return [everything]
