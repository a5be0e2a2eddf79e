"""What the store knows about a pool and one target, as arrays: the one interface of all methods.

Representations (rows of pool and target that can be compared):

| name | row | compared at |
|---|---|---|
| `gradients` | projected gradient as the pool's transform makes it, unit; checkpoints weighted by rate | every one |
| `plain` | the same of the plain gradient, whatever the transform | every one |
| `embedding` | position-weighted mean of the last hidden states (RDS+), unit | one checkpoint |
| `encoder` | mean-pooled states of a sentence encoder, unit | once |

Rows of Adam's steps share the part that momentum gives to all of them: they are for pool × target, as LESS compares
them. Papers that compare pool rows with each other, or take a gradient's length, mean plain gradients.

Similarities to a target are streamed: memory is one shard plus [N, J]. Methods that look at all rows (clusters,
matching pursuit, coverage) get them as `Rows`, which are read by blocks: from memory where 4·N·D bytes are at most
`room`, else from a map of a scratch file. Everything is read when first asked for, then kept.
Legend: N pool examples with a row at every checkpoint, sorted by id; V target rows; J subtasks; C checkpoints; D dims.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import blocks, examples, features
from gradsift.datastore.chats import text
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.rows import FeatureBlock
from gradsift.datastore.store import Store
from gradsift.datastore.unusable import require_computed
from gradsift.pipelines.memory import default_budget
from gradsift.pipelines.methods.measures import Measures, Trials
from gradsift.scorers import less
from gradsift.scorers.rows import Rows, block_rows, unit_rows

Represent = Literal["gradients", "plain", "embedding", "encoder"]
Per = Literal["subtask", "query", "all"]
SCORE_DECIMALS = 6  # finer differences are float rounding; ties then go to the smaller id
ROOM = 0.25  # share of the memory that rows may take until a method says what it holds
PLAIN_NORMS = 3  # the extractor since which `grad_norm` is of the plain gradient
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class SpacePair:
    """Pool rows and target rows of one checkpoint, the checkpoint's mean learning rate, and the pool's plain rows, if
    there are any (the pool's own where they are plain)."""

    train: int
    query: int
    mean_lr: float
    plain: int | None = None


class Evidence:
    """Lazily read arrays about a pool and a target. `pairs` are the spaces of gradient rows, none in a run that
    computes none; `encoder` that of a sentence encoder, if any; `measures` what a loaded model can tell; `memory` what
    may be taken, in bytes (methods/room.py), by default a share of what is free; `usable` how many usable examples the
    whole pool has, where these are a shortlist of it."""

    def __init__(
        self,
        store: Store,
        pool: Dataset,
        target: Dataset,
        pairs: Sequence[SpacePair],
        seed: int = 0,
        encoder: SpacePair | None = None,
        measures: Measures | None = None,
        memory: int | None = None,
        usable: int | None = None,
    ) -> None:
        self.store, self.pool, self.target, self.pairs, self.seed = store, pool, target, list(pairs), seed
        self.encoder, self._measures, self.usable = encoder, measures, usable
        self.memory = memory or default_budget()
        self.room = ROOM * self.memory
        self._kept: dict[Any, Any] = {}

    def over(self, pool: Dataset) -> "Evidence":
        """The same for a part of the pool."""
        return self._with(pool, self.target, self.seed)

    def towards(self, target: Dataset, seed: int) -> "Evidence":
        """The same for other rows of the target, or for another seed; `losses` and `trials` stay those of the whole
        target."""
        return self._with(self.pool, target, seed)

    def _with(self, pool: Dataset, target: Dataset, seed: int) -> "Evidence":
        e = self
        return Evidence(e.store, pool, target, e.pairs, seed, e.encoder, e._measures, e.memory, e.usable)

    def fingerprints(self, with_encoder: bool = False) -> list[list[Any]]:
        """[pool space, target space, mean learning rate] of each checkpoint (and of the encoder): what decides rows."""
        digest = features.space_fingerprint
        pairs = [*self.pairs, *([self.encoder] if with_encoder and self.encoder else [])]
        return [[digest(self.store, pair.train), digest(self.store, pair.query), pair.mean_lr] for pair in pairs]

    @cached_property
    def weights(self) -> list[float]:
        """[C] checkpoint weights: mean learning rates, scaled to sum to one."""
        return less.checkpoint_weights([p.mean_lr for p in self.pairs])

    @cached_property
    def ids(self) -> list[str]:
        """[N] ids with a row at every checkpoint, sorted. Without gradient rows: those with a row of the encoder, if
        there is one, and with a label token, if a model can tell. Raises InputError when there is none, and where rows
        are still to come."""
        spaces = [pair.train for pair in self.pairs] or ([self.encoder.train] if self.encoder else [])
        rows = dict.fromkeys(self.pool.example_ids, 0)
        for space in spaces:
            for name in features.with_rows(self.store, space, self.pool.dataset_id):
                rows[name] += 1
        usable = [name for name in self.pool.example_ids if rows[name] == len(spaces)]
        bare = [name for name in self.pool.example_ids if rows[name] < len(spaces)]
        require_computed(self.store, spaces, bare, f"pool {self.pool.name!r}")
        if not self.pairs and self._measures is not None:
            labels = dict(zip(self.pool.example_ids, self._measures.label_tokens(self.pool).tolist(), strict=True))
            usable = [name for name in usable if labels[name]]
        if not usable:
            what = "with a row at every checkpoint" if self.pairs else "that can be used"
            raise InputError(f"pool {self.pool.name!r} has no example {what}")
        return usable

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.ids)}

    def _pair(self, represent: Represent, checkpoint: int = -1) -> SpacePair:
        if represent != "encoder":
            self._require_pairs()
            try:
                return self.pairs[checkpoint]
            except IndexError:
                raise InputError(f"there is no checkpoint {checkpoint}; this run has {len(self.pairs)}") from None
        if self.encoder is None:
            raise InputError("`represent: encoder` needs `select.encoder`, the folder of a sentence encoder")
        return self.encoder

    def _require_pairs(self) -> None:
        if not self.pairs:
            raise InputError("this looks at gradient rows and the run computed none; use `gradsift run`")

    def blocks(
        self, pair: SpacePair, represent: Represent = "gradients"
    ) -> Iterator[tuple[NDArray[np.int64], FeatureBlock]]:
        """(positions among the ids, rows) of the pool, shard by shard. An example whose plain gradient is zero has no
        plain row. Raises InputError where plain rows are asked for and not kept."""
        space = self._plain_space(pair) if represent == "plain" else pair.train
        for block in features.read(self.store, space, self.ids):
            yield np.array([self._place[name] for name in block.example_ids], np.int64), block

    def _plain_space(self, pair: SpacePair) -> int:
        lacking = len(self.ids) if pair.plain is None else len(features.lacking(self.store, pair.plain, self.ids))
        if pair.plain is None or lacking:
            raise InputError(
                f"this looks at rows of plain gradients, which {lacking:,} of {len(self.ids):,} examples of the pool "
                "lack here; set `features.plain_rows: true` and run the recipe again (or name this method in it)"
            )
        return pair.plain

    def similarity(self, represent: Represent = "gradients", per: Per = "subtask", renormalise: bool = False) -> F64:
        """[N, J] weighted similarity to the mean row of each subtask (or to each query, or to all: J = 1).

        Rounded, so that float noise does not order ties. Raises FeatureSpaceMismatch when rows may not be compared.
        """
        key = ("similarity", represent, per, renormalise)
        if key not in self._kept:
            total: F64 | None = None
            for pair, weight in self.weighted(represent):
                features.check_spaces(self.store, pair.train, pair.query)
                means = self.means(pair, represent, per, renormalise)
                if total is None:
                    total = np.zeros((len(self.ids), len(means)))
                for positions, block in self.blocks(pair, represent):
                    if represent == "embedding":
                        part = less.similarity(unit_rows(block.signal("embedding")), means)
                    else:
                        part = less.similarity(block.integers(), means, block.scale)
                    total[positions] += weight * part
            self._kept[key] = np.round(np.asarray(total), SCORE_DECIMALS, out=total)
        similarity: F64 = self._kept[key]
        return similarity

    def weighted(self, represent: Represent) -> list[tuple[SpacePair, float]]:
        """The spaces that such rows are compared in, with their weights, which sum to one."""
        if represent in ("gradients", "plain"):
            self._require_pairs()
            return list(zip(self.pairs, self.weights, strict=True))
        return [(self._pair(represent), 1.0)]

    def means(
        self, pair: SpacePair, represent: Represent = "gradients", per: Per = "subtask", renormalise: bool = False
    ) -> F32:
        """[J, D] mean rows of the target, subtasks sorted. Raises InputError for a subtask without a row."""
        means = self.mean_of(*self.query_rows(pair, represent), per)
        return unit_rows(means) if renormalise and per != "query" else means

    def mean_of(self, query: F32, subtasks: Sequence[str], per: Per = "subtask") -> F32:
        """[V, D] rows of the target, [V] subtasks → [J, D] what `per` says. Raises InputError as `means` does."""
        if per != "subtask":
            return query if per == "query" else query.mean(axis=0, keepdims=True)
        means, names = less.subtask_means(query, subtasks)
        if without_row := sorted(set(self.target.subtasks) - set(names)):
            raise InputError(f"target {self.target.name!r}: subtask {without_row[0]!r} has no row with a label token")
        return means

    def query_rows(self, pair: SpacePair, represent: Represent) -> tuple[F32, list[str]]:
        """([V, D] unit rows of the target at one checkpoint, [V] subtasks)."""
        block, subtasks = self._target_block(pair)
        return unit_rows(_signal(block, "embedding")) if represent == "embedding" else block.unit(), subtasks

    def _target_block(self, pair: SpacePair) -> tuple[FeatureBlock, list[str]]:
        """The target's rows at one checkpoint, and the subtask of each. Raises InputError where some are to come."""
        require_computed(self.store, [pair.query], self.target.example_ids, f"target {self.target.name!r}")
        subtask = dict(zip(self.target.example_ids, self.target.subtasks, strict=True))
        block = features.read_all(self.store, pair.query, sorted(self.target.example_ids))
        return block, [subtask[i] for i in block.example_ids]

    def queries(self, represent: Represent = "gradients") -> tuple[F32, list[str]]:
        """([V, D] rows of the target, as `rows` takes them; [V] subtasks)."""
        total: F32 | None = None
        subtasks: list[str] = []
        for pair, weight in self.weighted(represent):
            part, subtasks = self.query_rows(pair, represent)
            total = weight * part if total is None else total + weight * part
        return np.asarray(total, np.float32), subtasks

    def dims(self, represent: Represent) -> int:
        """Dims of the pool's rows."""
        pair, _ = self.weighted(represent)[-1]
        _, block = next(self.blocks(pair, represent))
        return int((_signal(block, "embedding") if represent == "embedding" else block.integers()).shape[1])

    def rows(self, represent: Represent = "gradients", *, unit: bool = False) -> Rows:
        """[N, D] f32 rows of the pool: unit rows, of gradients their weighted mean over checkpoints (not normalised
        again, as TAGCOS takes it, unless `unit`)."""
        key = ("rows", represent, unit)
        if key not in self._kept:
            source = self._laid_out(represent)
            self._kept[key] = (source.each(unit_rows) if unit else source).within(self.room)
        rows_of_pool: Rows = self._kept[key]
        return rows_of_pool

    def let_rows_go(self) -> None:
        """Give back the memory of `rows`, and their scratch files: asked for again, they are read again."""
        self._kept = {key: value for key, value in self._kept.items() if key[0] not in ("rows", "laid")}

    def _laid_out(self, represent: Represent) -> Rows:
        """The pool's rows, decoded and added up over checkpoints when they are read."""
        key = ("laid", represent)
        if key not in self._kept:
            self._kept[key] = [
                (blocks.lay_out(self.store, len(self.ids), self._stored(pair, represent)), np.float32(weight))
                for pair, weight in self.weighted(represent)
            ]
        parts: list[tuple[blocks.Laid, np.float32]] = self._kept[key]
        of_embedding, dims = represent == "embedding", parts[0][0].dims

        def read(where: blocks.Where) -> F32:
            total: F32 | None = None
            for laid, weight in parts:
                rows = laid.decode(where)
                rows = unit_rows(rows) if of_embedding else rows
                rows *= weight
                total = rows if total is None else np.add(total, rows, out=total)
            return np.asarray(total, np.float32)

        return Rows((len(self.ids), dims), read, block_rows(dims))

    def _stored(self, pair: SpacePair, represent: Represent) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], F32]]:
        """(positions, rows as they are stored, scales) of one checkpoint, shard by shard."""
        for positions, block in self.blocks(pair, represent):
            if represent == "embedding":
                yield positions, _signal(block, "embedding"), np.ones(len(positions), np.float32)
            else:
                yield positions, block.vectors, block.scale

    def raw_blocks(
        self, pair: SpacePair, represent: Literal["gradients", "plain"] = "plain"
    ) -> Iterator[tuple[NDArray[np.int64], F32]]:
        """(positions, [n, D] projected gradients with their length) of one checkpoint."""
        for positions, block in self.blocks(pair, represent):
            yield positions, block.raw()

    def raw_queries(self, pair: SpacePair) -> tuple[F32, F32]:
        """([V, D] plain gradients of the target with their length at one checkpoint; [J, D] their mean for each
        subtask, sorted)."""
        features.check_spaces(self.store, pair.train, pair.query)
        block, subtasks = self._target_block(pair)
        rows = block.raw()
        return rows, self.mean_of(rows, subtasks)

    def layer_sizes(self, pair: SpacePair, represent: Represent = "plain") -> list[int]:
        """Number of weights of each layer that rows hold side by side; [] where a row is one sketch of all.

        Raises InputError for rows of integers: one scale for all layers rounds the small ones to nothing.
        """
        spec = features.space_spec(self.store, pair.train)
        if not spec["projector"].get("per_module"):
            return []
        if spec["row_dtype"] != "f16":
            raise InputError(
                f"layer by layer, rows of {spec['row_dtype']} say nothing of layers with small gradients; set "
                "`features.row_dtype: f16` and run the recipe again"
            )
        metadata = next((block.signals.schema.metadata or {} for _, block in self.blocks(pair, represent)), {})
        if b"gradsift.sizes" not in metadata:
            raise InputError("these rows are of an older version, which kept no sizes of layers; run the recipe again")
        return [int(weights) for weights in json.loads(metadata[b"gradsift.sizes"])]

    def signal(self, name: str, checkpoint: int = -1) -> F64:
        """[N] a signal of the pool at one checkpoint. Raises InputError naming the setting that keeps it."""
        key = ("signal", name, checkpoint)
        if key not in self._kept:
            values = np.zeros(len(self.ids))
            pair = self._pair("gradients", checkpoint)
            if name == "grad_norm" and not self._plain_norms(pair):
                raise InputError(
                    "these rows are of an older version, which kept the length of Adam's step and not of the gradient; "
                    "run the recipe again"
                )
            for positions, block in self.blocks(pair):
                values[positions] = _signal(block, name)
            if not np.isfinite(values).all():
                raise InputError(f"{np.sum(~np.isfinite(values))} examples have no finite signal {name!r}")
            self._kept[key] = values
        signal: F64 = self._kept[key]
        return signal

    def _plain_norms(self, pair: SpacePair) -> bool:
        spec = features.space_spec(self.store, pair.train)
        return bool(spec["transform"] == "sgd" or spec["extractor"] >= PLAIN_NORMS)

    def token_signal(self, name: str, checkpoint: int = -1) -> list[F32]:
        """[N] arrays with one number for each label token."""
        by_example: list[F32] = [np.zeros(0, np.float32)] * len(self.ids)
        for positions, block in self.blocks(self._pair("gradients", checkpoint)):
            _require(block, name)
            for k, values in zip(positions.tolist(), block.token_signal(name), strict=True):
                by_example[k] = values
        return by_example

    def label_tokens(self) -> list[int]:
        """[N] label tokens of each example. Raises InputError where neither rows nor a model tell."""
        if self.pairs:
            return [int(n) for n in self.signal("n_label_tokens")]
        if self._measures is None:
            raise InputError("label tokens are counted by a model's tokenizer; give `model`")
        counted = dict(zip(self.pool.example_ids, self._measures.label_tokens(self.pool).tolist(), strict=True))
        return [int(counted[name]) for name in self.ids]

    def losses(self) -> tuple[F64, F64]:
        """[N] losses before and after training on the target alone. Raises InputError without a model."""
        if self._measures is None:
            raise InputError("the score `loss_drop` trains a model; name it in a recipe and use `gradsift run`")
        return self._measures.losses(self.ids)

    def trials(self) -> Trials:
        """Trainings that are measured on the target. Raises InputError without a model."""
        if self._measures is None:
            raise InputError("this trains a model on what each method chooses; name one in the recipe (`model`)")
        return self._measures.trials

    def sources(self) -> list[str]:
        """[N] source of each example."""
        of_ids = examples.sources_of(self.store, self.ids)
        return [of_ids[i].source for i in self.ids]

    def texts(self) -> list[str]:
        """[N] all turns of each chat, joined."""
        return texts_of(self.store, self.ids)

    def target_texts(self) -> list[str]:
        """The target's chats, as `texts` gives them."""
        return texts_of(self.store, sorted(self.target.example_ids))


def texts_of(store: Store, ids: Sequence[str]) -> list[str]:
    """All turns of each chat, joined by newlines. Raises BusyError when one was deleted meanwhile."""
    of_ids = examples.get_messages(store, ids)
    if len(of_ids) < len(set(ids)):
        raise BusyError(f"examples were deleted from {store.root} meanwhile; run this again")
    return [text(of_ids[i]) for i in ids]


KEPT_BY = {
    "embedding": "features.signals.embedding",
    "token_nll": "features.signals.tokens",
    "token_entropy": "features.signals.tokens",
    "answer_loss": "features.signals.answer_loss",
    "module_norms": "features.signals.module_norms",
}


def _require(block: FeatureBlock, name: str) -> None:
    if name not in block.signals.column_names:
        raise InputError(f"this store has no signal {name!r}; set `{KEPT_BY.get(name, 'features.signals')}: true`")


def _signal(block: FeatureBlock, name: str) -> NDArray[Any]:
    _require(block, name)
    return block.signal(name)
