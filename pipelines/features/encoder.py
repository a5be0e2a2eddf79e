"""Stage: rows of a sentence encoder, from a local folder, kept in the store like gradient rows.

The row of a chat is the mean over tokens of the encoder's last hidden states (as sentence-transformers' mean pooling),
normalised; the text is its turns joined by newlines, cut at the encoder's length. Stored as f16, 2·H bytes a row, in a
feature space of its own that names the encoder's weights. Cost: one forward for each chat.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gradsift.datastore import features
from gradsift.datastore.errors import InputError
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import Spec, digest_file, fingerprint
from gradsift.datastore.leases import Lease
from gradsift.datastore.rows import FeatureBlock, make_block
from gradsift.datastore.store import Store
from gradsift.pipelines.features.units import UnitsPiece, claimed, compute_open, require_space
from gradsift.pipelines.methods.evidence import SpacePair, texts_of
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.pieces import own_model
from gradsift.pipelines.model.pretrained import from_pretrained
from gradsift.pipelines.model.weights import weight_files
from gradsift.pipelines.model.work import Work

VERSION = 1
MAX_TOKENS = 512
BATCH_ROWS = 32
UNIT_ROWS = 1024
Rows = Callable[[Sequence[str], list[str]], tuple[FeatureBlock, dict[str, str]]]  # of names and texts


def encoder_pair(work: Work, folder: str | None, *datasets: Dataset) -> SpacePair | None:
    """The space of an encoder's rows, computing what these datasets lack; None without an encoder."""
    if folder is None:
        return None
    space = _space(work.store, Path(folder))
    for dataset in datasets:
        _rows(work, space, Path(folder), dataset)
    return SpacePair(space, space, 1.0)


def _space(store: Store, folder: Path) -> int:
    return features.define_space(store, encoder_spec(folder))


def encoder_spec(folder: Path) -> Spec:
    """Spec of the space of an encoder's rows. Raises InputError for a folder that holds no model."""
    if not (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
        raise InputError(f"select.encoder: {folder} is not a folder with a model (*.safetensors) and a tokenizer.json")
    files = [*weight_files(folder), folder / "config.json", folder / "tokenizer.json"]
    return {
        "kind": "encoder",
        "version": VERSION,
        "files": fingerprint([digest_file(f) for f in files]),
        "pooling": "mean",
        "max_tokens": MAX_TOKENS,
    }


def _rows(work: Work, space: int, folder: Path, dataset: Dataset) -> None:
    features.plan(work.store, space, features.unplanned(work.store, space, dataset.dataset_id), {}, UNIT_ROWS)
    order = work.order(model=False)
    label = f"encoder rows of {dataset.name}"
    compute_open(work, space, dataset, label, lambda part: EncoderPiece(order, part, space, folder))


@dataclass(frozen=True)
class EncoderPiece(UnitsPiece):
    """Units of an encoder's rows."""

    space_id: int
    folder: Path

    def run(self, work: Work) -> None:
        """Compute the units that are open and free. Raises FeatureSpaceMismatch where the encoder is another."""

        def make() -> Callable[[Sequence[str]], tuple[FeatureBlock, dict[str, str]]]:
            require_space(work.store, self.space_id, encoder_spec(self.folder))
            return encoder_rows(work.store, self.folder)

        def compute(unit: int, lease: Lease) -> None:
            rows = own_model(work, self.space_id, make)
            block, rejected = rows(features.unit_ids(work.store, unit))
            features.commit_unit(work.store, self.space_id, unit, block, rejected, lease)

        claimed(work, self.part.units, compute)


def encoder_rows(store: Store, folder: Path) -> Callable[[Sequence[str]], tuple[FeatureBlock, dict[str, str]]]:
    """A function that gives rows of examples, and {id: status} of those without one. Loads the encoder."""
    rows = text_rows(folder)
    return lambda ids: rows(ids, texts_of(store, ids))


def text_rows(folder: Path) -> Rows:
    """A function that gives rows of texts by their names, and {name: status} of others. Loads the encoder."""
    encode = _encoder(folder)

    def rows(names: Sequence[str], texts: list[str]) -> tuple[FeatureBlock, dict[str, str]]:
        vectors, counts = encode(texts)
        good = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
        kept = [i for i, ok in zip(names, good, strict=True) if ok]
        signals = pa.table({"n_tokens": pa.array(counts[good], pa.int32())})
        block = make_block(kept, vectors[good], signals, "f16")
        return block, {i: "non_finite" for i, ok in zip(names, good, strict=True) if not ok}

    return rows


def _encoder(folder: Path) -> Any:
    import torch

    tokenizer = from_pretrained("AutoTokenizer", folder)
    model = from_pretrained("AutoModel", folder).eval().to(best_device())
    longest = min(MAX_TOKENS, int(getattr(model.config, "max_position_embeddings", MAX_TOKENS)))

    @torch.no_grad()
    def encode(texts: list[str]) -> tuple[Any, Any]:
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
        vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
        counts = np.zeros(len(texts), np.int32)
        for start in range(0, len(order), BATCH_ROWS):
            part = order[start : start + BATCH_ROWS]
            batch = tokenizer(
                [texts[k] for k in part], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            ).to(best_device())
            hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            vectors[part] = ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy()
            counts[part] = batch["attention_mask"].sum(1).cpu().numpy()
        return vectors, counts

    return encode
