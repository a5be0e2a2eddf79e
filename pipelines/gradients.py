"""Stage: gradient rows. Chats → per-example gradient → transform → projection → unit rows in the store.

A batch costs one forward and one backward; a unit of work is `unit_rows` examples, sorted by length and
batched by tokens. Rows do not depend on the batch they were computed in (to float rounding).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from datastore import checkpoints, examples, features, leases
from datastore.checkpoints import Checkpoint, CheckpointState
from datastore.errors import BusyError, InputError
from datastore.examples import Dataset
from datastore.rows import FeatureBlock, make_block
from datastore.store import Store
from pipelines import encode as enc
from pipelines import model as m
from pipelines import recipe as r
from pipelines.batches import by_length, collate, pad_id
from pipelines.capture import lora_layers, per_example_gradients
from pipelines.encode import Encoded, encode
from pipelines.progress import Progress, quiet
from pipelines.project import FoldProjector
from pipelines.transforms import Transform, make_transform

EXTRACTOR_VERSION = 1


@dataclass(frozen=True)
class GradientJob:
    """All that decides rows: model, adapter, encoding and features of a recipe, at one checkpoint."""

    loaded: m.Loaded
    model: r.Model
    lora: r.Lora
    encoding: r.Encoding
    features: r.Features
    seed: int
    checkpoint: Checkpoint
    state: CheckpointState
    transform: str

    def as_query(self) -> "GradientJob":
        """The same for target rows."""
        return replace(self, transform=self.features.query_transform)

    def space(self) -> dict[str, Any]:
        """Spec of the feature space: every field that decides a row's meaning, and nothing else."""
        f = self.features
        return {
            "model": self.loaded.model_digest,
            "model_dtype": self.model.dtype,
            "tokenizer": self.loaded.tokenizer_digest,
            "adapter": self.lora.model_dump(),
            "checkpoint": self.checkpoint.digest,
            "loss": "ce-mean-over-label-tokens",
            "labels": enc.LABEL_POLICY,
            "max_length": self.encoding.max_length,
            "truncation": enc.TRUNCATION,
            "parameters": "lora-a+b",
            "transform": self.transform,
            "projector": FoldProjector(f.projector.dim, f.projector.seed).spec,
            "row_dtype": f.row_dtype,
            "extractor": EXTRACTOR_VERSION,
        }


class Extractor:
    """A loaded model that turns encoded chats into rows. One for each worker."""

    def __init__(self, job: GradientJob) -> None:
        self.job = job
        self.device = m.device()
        self.model = m.load_lora(job.loaded, job.model, job.lora, job.seed)
        m.set_adapter(self.model, job.state.adapter)
        self.model.eval()
        lora_layers(self.model)  # fails early on layers we cannot capture
        self.projector = FoldProjector(job.features.projector.dim, job.features.projector.seed)
        self.transform = self._transform(job.transform)

    def _transform(self, kind: str) -> Transform:
        job = self.job
        return make_transform(kind, job.state.exp_avg, job.state.exp_avg_sq, job.checkpoint.step, self.device)

    def encode(self, messages: Sequence[dict[str, str]]) -> Encoded:
        """Encode one chat as this job does."""
        return encode(self.job.loaded.tokenizer, messages, self.job.encoding.max_length)

    def rows(
        self, ids: Sequence[str], chats: Sequence[Encoded], transform: str | None = None
    ) -> tuple[FeatureBlock, dict[str, str]]:
        """Feature rows of usable chats, in the given order, and {id: status} of those without a finite,
        non-zero gradient."""
        change = self.transform if transform is None else self._transform(transform)
        size, dim, pad = len(chats), self.projector.dim, pad_id(self.job.loaded.tokenizer)
        projected = np.zeros((size, dim), np.float32)
        grad_norm, loss = np.zeros(size, np.float32), np.zeros(size, np.float32)
        for part in by_length([len(c.input_ids) for c in chats], self.job.features.batch_tokens):
            batch = collate([chats[k] for k in part], pad).to(self.device)
            y, norm, mean_loss = self._batch(batch, change)
            projected[part], grad_norm[part], loss[part] = y.numpy(), norm.numpy(), mean_loss.numpy()
        labels = np.array([c.n_label_tokens for c in chats], np.int32)
        finite = np.isfinite(projected).all(1) & np.isfinite(loss)
        zero = finite & ~projected.any(1)
        good = np.flatnonzero(finite & ~zero)
        rejected = {ids[k]: "zero" if zero[k] else "non_finite" for k in np.flatnonzero(~finite | zero).tolist()}
        block = make_block(
            [ids[k] for k in good.tolist()],
            projected[good],
            grad_norm[good],
            loss[good],
            labels[good],
            self.job.features.row_dtype,
        )
        return block, rejected

    def _batch(self, batch: Any, change: Transform) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        size = len(batch.input_ids)
        rows = torch.zeros(size, self.projector.dim, device=self.device)
        squared = torch.zeros(size, device=self.device)

        def consume(name: str, gradient: torch.Tensor) -> None:
            gamma = change(name, gradient)
            squared.add_(gamma.square().sum((1, 2)))
            self.projector.add(rows, name, gamma)

        losses = per_example_gradients(self.model, batch, consume)
        return rows.cpu(), squared.sqrt().cpu(), losses.float().cpu()


@dataclass(frozen=True)
class CoverageReport:
    """Rows of a dataset in a space after the stage, by status."""

    space_id: int
    computed: int
    statuses: dict[str, int]


def plan_rows(store: Store, job: GradientJob, dataset: Dataset) -> tuple[int, int]:
    """Plan the dataset's missing rows; returns (space id, rows planned now). Encodes the missing ones only."""
    space_id = features.define_space(store, job.space())
    todo = features.missing(store, space_id, dataset.example_ids)
    flagged: dict[str, str] = {}
    for start in range(0, len(todo), 5_000):
        for name, messages in examples.get_messages(store, todo[start : start + 5_000]).items():
            status = encode(job.loaded.tokenizer, messages, job.encoding.max_length).status
            if status in ("no_labels", "unrenderable"):
                flagged[name] = status
    return space_id, features.plan(store, space_id, todo, flagged, job.features.unit_rows)


def work(
    store: Store, job: GradientJob, space_id: int, dataset: Dataset, progress: Progress = quiet, label: str = ""
) -> int:
    """Compute open units until none is left for this worker; returns the number of rows computed.

    Units are claimed by lease: any number of workers may do this at the same time.
    """
    extractor: Extractor | None = None
    computed = 0
    passed: set[int] = set()
    total = dataset_total(store, space_id, dataset)
    while units := [u for u in features.open_units(store, space_id, dataset.dataset_id) if u not in passed]:
        unit = units[0]
        with leases.held(store.catalog, f"unit/{unit}") as mine:
            if not mine or unit not in features.open_units(store, space_id, dataset.dataset_id):
                passed.add(unit)
                continue
            extractor = extractor or Extractor(job)
            computed += _compute_unit(store, extractor, space_id, unit)
        done = total - sum(
            n for s, n in features.statuses(store, space_id, dataset.dataset_id).items() if s == "planned"
        )
        progress(label or f"gradients of {dataset.name}", done, total)
    return computed


def dataset_total(store: Store, space_id: int, dataset: Dataset) -> int:
    """Members of the dataset that have, or are to have, a row."""
    counted = features.statuses(store, space_id, dataset.dataset_id)
    return sum(n for status, n in counted.items() if status in ("ok", "planned"))


def _compute_unit(store: Store, extractor: Extractor, space_id: int, unit: int) -> int:
    ids = features.unit_ids(store, unit)
    messages = examples.get_messages(store, ids)
    chats = [extractor.encode(messages[i]) for i in ids]
    block, rejected = extractor.rows(ids, chats)
    features.commit_unit(store, space_id, unit, block, rejected)
    return len(ids)


def make_job(recipe: r.Recipe, loaded: m.Loaded, store: Store, checkpoint: Checkpoint) -> GradientJob:
    """The job of a recipe's pool rows at one checkpoint."""
    return GradientJob(
        loaded,
        recipe.model,
        recipe.lora,
        recipe.encoding,
        recipe.features,
        recipe.seed,
        checkpoint,
        checkpoints.load(store, checkpoint),
        recipe.features.transform,
    )


def require_rows(dataset: Dataset, report: dict[str, int]) -> None:
    """Raise InputError when no member of a dataset has a usable row, BusyError when some are still to come."""
    if report.get("planned"):
        raise BusyError(
            f"{report['planned']} rows of {dataset.name!r} are being computed by a worker elsewhere; "
            "run again when it has finished, or when its lease has expired (two minutes)"
        )
    if not report.get("ok"):
        counts = ", ".join(f"{n} {status}" for status, n in sorted(report.items()))
        raise InputError(
            f"{dataset.role} {dataset.name!r} has no usable gradient row ({counts}). Rows without a label token "
            "have none: raise encoding.max_length, or check that the chats end in an assistant turn."
        )
