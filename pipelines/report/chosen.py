"""What was chosen: sources before and after, scores, maps, overlaps, and rows in and out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples, features, selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.points import plain_space
from gradsift.datastore.rows import FeatureBlock
from gradsift.datastore.runs import RunResult
from gradsift.datastore.selections import Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.export.atlas import components
from gradsift.pipelines.pool.signatures import text_of
from gradsift.pipelines.report import charts
from gradsift.pipelines.report.parts import Part
from gradsift.pipelines.report.plane import plane
from gradsift.pipelines.select.overlap import overlap
from gradsift.pipelines.select.score_checks import correlates
from gradsift.pipelines.tables import Row, printable, shortened
from gradsift.scorers.kmeans import kmeans

DOTS = 1500  # examples on a map, at most
CLUSTERS = 8
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
SAMPLES = 5
TEXT_CHARS = 280


@dataclass(frozen=True)
class Chosen:
    """The selections and mixtures of a run, as the store holds them."""

    selections: Sequence[Selection]
    mixtures: Sequence[Selection]

    @property
    def all(self) -> list[Selection]:
        """Selections, then mixtures."""
        return [*self.selections, *self.mixtures]


def chosen_of(store: Store, result: RunResult) -> Chosen:
    """What a run chose, or what is left of it where examples were deleted since; a later run of its name may have
    chosen otherwise. Raises InputError where it was pruned."""
    return Chosen(
        [_as_then(store, made.name, made.target, made.digest) for made in result.selections],
        [_as_then(store, made.name, selections.MIXTURE, made.digest) for made in result.mixtures],
    )


def _as_then(store: Store, name: str, target: str, digest: str) -> Selection:
    then = selections.standing_for(store, name, target, digest) or selections.rest_of(store, name, target, digest)
    return then or selections.get(store, f"{name}@{digest}", target)


def chosen_parts(store: Store, result: RunResult, chosen: Chosen) -> list[Part]:
    """How what was chosen differs from the pool, and why it was."""
    return [
        _sources(store, result, chosen),
        *(part for selection in chosen.selections for part in _scores(store, result, selection)),
        *(part for selection in chosen.selections for part in _places(store, result, selection)),
        *_overlaps(store, result),
        *(
            Part(f"Mixture {mixture.name}: asked and got", [asdict(share) for share in mixture.table])
            for mixture in result.mixtures
        ),
    ]


def _sources(store: Store, result: RunResult, chosen: Chosen) -> Part:
    pool = result.ingest.pool
    counts = [("pool", pool.by_source)]
    if pool.used_by_source and pool.used_by_source != pool.by_source:
        counts.append(("after screening", pool.used_by_source))
    counts += [(selection.name, _rows_by_source(store, selection)) for selection in chosen.all]
    sources = {source for _, by_source in counts for source in by_source}
    table = [
        {"source": source} | {name: by_source.get(source, 0) for name, by_source in counts}
        for source in sorted(sources, key=lambda source: (-pool.by_source.get(source, 0), source))
    ]
    svg = charts.shares("Share of each source", counts)
    return Part("Sources before and after", table, svg, "Share of rows by source.")


def _rows_by_source(store: Store, selection: Selection) -> Mapping[str, int]:
    sources = examples.sources_of(store, selection.example_ids)
    counts: Counter[str] = Counter()
    for example, copies in zip(selection.example_ids, selection.copies, strict=True):
        counts[sources[example].source] += copies
    return counts


def _scores(store: Store, result: RunResult, selection: Selection) -> list[Part]:
    scores = _known_scores(store, selection)
    values = np.array(list(scores.values()))
    if len(values) < 2 or float(values.min()) == float(values.max()):
        return []
    kept = set(selection.example_ids)
    chosen = [score for example, score in scores.items() if example in kept]
    every, ours = np.quantile(values, QUANTILES).tolist(), np.quantile(chosen, QUANTILES).tolist()
    table = [
        {"quantile": quantile, "all": of_all, "chosen": of_chosen}
        for quantile, of_all, of_chosen in zip(QUANTILES, every, ours, strict=True)
    ]
    highest = np.array(list(scores))[np.argsort(-values, kind="stable")[: len(kept)]]
    cut = min(chosen) if set(highest.tolist()) == kept else None
    title = f"Scores of {selection.name}"
    note = f"{selection.method} for {selection.target}, n = {len(values):,}."
    note += "" if cut is None else " The line is the cut."
    histogram = Part(title, table, charts.histogram(title, values.tolist(), chosen, "score", cut), note)
    return [histogram, *_correlates(store, result, selection, scores)]


def _known_scores(store: Store, selection: Selection) -> dict[str, float]:
    """The score of every example that the method looked at; none where it gave no scores."""
    table = selections.details(store, selection)
    if table is None:
        return {}
    return dict(zip(table["example_id"].to_pylist(), table["score"].to_pylist(), strict=True))


def _correlates(store: Store, result: RunResult, selection: Selection, scores: Mapping[str, float]) -> list[Part]:
    if not result.pool_rows:
        return []
    table = correlates(store, result.pool_rows[-1].space_id, scores, selection.example_ids)
    note = (
        "Spearman's correlation of the score with other figures of the examples. Far from 0 for lengths: compare "
        "with random examples of the same lengths (the arm random_lengths) before crediting the method."
    )
    return [Part(f"What the scores of {selection.name} follow", table, note=note)]


@dataclass(frozen=True)
class _MapPoints:
    """Examples on a map, the `chosen` first ones of the selection, their rows at the last checkpoint with their
    signals, and the rows that place them: of plain gradients, where the store keeps these."""

    ids: Sequence[str]
    chosen: int
    block: FeatureBlock
    rows: NDArray[np.float32]


def _places(store: Store, result: RunResult, selection: Selection) -> list[Part]:
    if not result.pool_rows or result.pool_rows[-1].dataset_id is None:
        return []
    space, dataset = result.pool_rows[-1].space_id, result.pool_rows[-1].dataset_id
    known = set(features.with_rows(store, space, dataset))
    if not known:
        return []
    chosen = [example for example in selection.example_ids if example in known][: DOTS // 3]
    others = sorted(known - set(selection.example_ids))
    drawn = np.random.default_rng(0).permutation(len(others))[: DOTS - len(chosen)]
    ids = [*chosen, *(others[k] for k in sorted(drawn.tolist()))]
    block = features.read_all(store, space, ids)
    plain = plain_space(store, space)
    alike = features.with_rows(store, plain, dataset) if plain is not None else []
    rows = features.read_all(store, plain, ids).unit() if plain is not None and set(ids) <= set(alike) else block.unit()
    shown = _MapPoints(ids, len(chosen), block, rows)
    return [_map(store, selection.name, shown), *plane(selection.name, shown.block, shown.chosen)]


def _map(store: Store, name: str, shown: _MapPoints) -> Part:
    """Places by principal components of gradient rows, with numbers at the clusters."""
    rows = shown.rows
    places = components(rows)
    clusters = kmeans(rows, CLUSTERS, seed=0, spherical=True).members()
    clusters.sort(key=lambda members: (-int((members < shown.chosen).sum()), -len(members)))
    marks = [(*np.median(places[members], axis=0).tolist(), str(number)) for number, members in enumerate(clusters, 1)]
    note = (
        f"{shown.chosen:,} chosen and {len(shown.ids) - shown.chosen:,} other examples; gradient rows of the last "
        "checkpoint, two of many dims. Numbers are clusters (k-means in all dims), those with most of the chosen "
        "first; the table has all of them."
    )
    title = f"Map of {name}"
    clouds = charts.two_clouds(places.tolist(), shown.chosen)
    svg = charts.scatter(title, clouds, "first principal component", "second", marks)
    return Part(title, _cluster_table(store, shown, clusters), svg, note)


def _cluster_table(store: Store, shown: _MapPoints, clusters: Sequence[NDArray[np.int64]]) -> list[Row]:
    sources = examples.sources_of(store, shown.ids)
    table: list[Row] = []
    for number, members in enumerate(clusters, 1):
        most = Counter(sources[shown.ids[k]].source for k in members).most_common(3)
        table.append(
            {
                "cluster": number,
                "shown": len(members),
                "chosen": int((members < shown.chosen).sum()),
                "most of": ", ".join(f"{source} {count}" for source, count in most),
            }
        )
    return table


def _overlaps(store: Store, result: RunResult) -> list[Part]:
    parts = []
    for target in dict.fromkeys(made.target for made in result.selections):
        try:
            alike = overlap(store, (), target)
        except InputError:
            continue  # one selection only
        names = [row["selection"] for row in alike.rows]
        values = [[row[name] for name in names] for row in alike.rows]
        by_chance = "" if alike.by_chance is None else f" By chance: {alike.by_chance:.3f}."
        title = f"Overlap of selections for {target}"
        parts.append(Part(title, alike.rows, charts.heat(title, names, values), f"Jaccard index.{by_chance}"))
    return parts


def sample_parts(store: Store, result: RunResult, selection: Selection) -> list[Part]:
    """The first rows of what was chosen, and those with the lowest scores of what was not."""
    scores = _known_scores(store, selection)
    first = selection.example_ids[:SAMPLES]
    lowest: list[str] = []
    if result.ingest.pool.used_dataset_id is not None:
        kept = set(selection.example_ids)
        used = examples.get_dataset(store, result.ingest.pool.used_dataset_id)
        others = [example for example in used.example_ids if example not in kept]
        lowest = sorted(others, key=lambda example: (scores.get(example) or 0.0, example))[:SAMPLES]
    parts = [Part(f"First of {selection.name}", _sample_table(store, first, scores))]
    if lowest:
        title = f"Left out of {selection.name} (the lowest scores)"
        parts.append(Part(title, _sample_table(store, lowest, scores)))
    return parts


def _sample_table(store: Store, ids: Sequence[str], scores: Mapping[str, float]) -> list[Row]:
    chats, sources = examples.get_messages(store, ids), examples.sources_of(store, ids)
    return [
        {
            "example": example[:8],
            "source": sources[example].source,
            "score": scores.get(example),
            "text": shortened(" ".join(printable(text_of(chats[example])).split()), TEXT_CHARS),
        }
        for example in ids
    ]
