"""SemDeDup (Abbas et al. 2023, arXiv 2303.09540): near-duplicates by the cosine of two rows of a cluster."""

import numpy as np

from gradsift.datastore import features
from gradsift.datastore.examples import Dataset
from gradsift.datastore.marks import Mark
from gradsift.pipelines.features.encoder import encoder_pair
from gradsift.pipelines.features.gather import pool_rows
from gradsift.pipelines.methods.evidence import Evidence, Represent, SpacePair
from gradsift.pipelines.methods.room import make_room_for_semdedup
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.pool.screen import Screened, screened
from gradsift.pipelines.pool.signatures import VERSION
from gradsift.pipelines.recipe import Dedup, Semantic
from gradsift.scorers import dedup
from gradsift.scorers.kmeans import kmeans


def by_encoder(work: Work, pool: Dataset) -> Screened:
    """The pool without near-duplicates by a sentence encoder, before any gradient is computed; unchanged where the
    recipe does not ask for this."""
    settings = work.recipe.dedup
    if settings is None or settings.semantic is None or settings.semantic.represent != "encoder":
        return Screened(pool, [], 0)
    pair = encoder_pair(work, settings.semantic.encoder, pool)
    return _screened(work, pool_rows(work, pool, *([pair] if pair else [])), settings, settings.semantic)


def by_rows(work: Work, pool: Dataset, pairs: tuple[SpacePair, ...]) -> Screened:
    """The pool without near-duplicates by what the gradient pass computed; unchanged where the recipe does not ask
    for this."""
    settings = work.recipe.dedup
    if settings is None or settings.semantic is None or settings.semantic.represent == "encoder":
        return Screened(pool, [], 0)
    return _screened(work, pool_rows(work, pool, *pairs), settings, settings.semantic)


def _screened(work: Work, e: Evidence, settings: Dedup, semantic: Semantic) -> Screened:
    spec = {
        "version": VERSION,
        "pool": e.pool.digest,
        "semantic": semantic.model_dump(mode="json", exclude={"encoder"}),
        "spaces": [features.space_fingerprint(work.store, pair.train) for pair in e.pairs],
        "seed": e.seed,
        "keep": settings.keep,
    }
    return screened(work.store, e.pool, spec, lambda: _marks(e, settings, semantic), "semantic")


def _marks(e: Evidence, settings: Dedup, semantic: Semantic) -> list[Mark]:
    # By an encoder, the evidence's own rows are the encoder's; by gradients, rows of Adam's steps are all alike.
    represents: dict[str, Represent] = {"encoder": "gradients", "embedding": "embedding", "gradients": "plain"}
    make_room_for_semdedup(e, represents[semantic.represent], semantic.clusters or 0)
    rows = e.rows(represents[semantic.represent], unit=True)
    clusters = kmeans(rows, semantic.clusters or max(1, round(len(rows) ** 0.5)), e.seed)
    twins = dedup.semdedup(rows, clusters, semantic.epsilon, semantic.keep)
    keep = set(settings.keep)
    return [
        Mark(e.ids[k], "semantic", e.ids[int(twins.twin[k])], round(float(twins.similarity[k]), 6))
        for k in np.flatnonzero(twins.twin >= 0)
        if e.ids[k] not in keep
    ]
