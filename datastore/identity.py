"""Identity: canonical JSON, digests, and the feature space a row belongs to.

Two things are the same if and only if their fingerprints are: sha256 over canonical JSON (UTF-8, sorted
keys, no spaces, no NaN) of every field that decides the output and of nothing else. Paths, worker counts
and batch sizes never enter.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradsift.datastore.errors import FeatureSpaceMismatch

Spec = Mapping[str, Any]  # all that decides a thing, as plain data: two with the same spec are the same
ID_CHARS = 32  # 128 bits of sha256: no collision to fear below 10^18 examples
SAME_ROWS = {2, 3}  # extractors whose rows are the same: 3 changed what a signal beside them means
CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> str:
    """The one JSON text of a value. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_text(text: str) -> str:
    """sha256 hex of a text's UTF-8 bytes."""
    return digest_bytes(text.encode("utf-8"))


def digest_bytes(content: bytes) -> str:
    """sha256 hex of bytes."""
    return hashlib.sha256(content).hexdigest()


def fingerprint(value: Any) -> str:
    """sha256 hex of a value's canonical JSON."""
    return digest_text(canonical_json(value))


def digest_file(path: Path) -> str:
    """sha256 hex of a file's bytes, read in blocks (about 1 GB/s on one core)."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            sha.update(block)
    return sha.hexdigest()


def digest_ids(ids: Iterable[str]) -> str:
    """sha256 hex over ids in the given order."""
    return digest_text("\n".join(ids))


def example_id(messages: Sequence[Mapping[str, Any]]) -> str:
    """Id of an example: digest of its canonical messages, with all that their turns hold."""
    return fingerprint(list(messages))[:ID_CHARS]


def differing_fields(one: Spec, other: Spec, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two specs differ, sorted."""
    names: list[str] = []
    for key in sorted(set(one) | set(other)):
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            names += differing_fields(left, right, f"{prefix}{key}.")
        elif left != right:
            names.append(prefix + key)
    return names


def check_comparable(train: Spec, query: Spec) -> None:
    """Refuse to compare rows of different feature spaces.

    Train and query rows may differ in `transform` and `loss` alone: one side is a step of training (by Adam, perhaps
    on another loss), the other the loss that should fall (LESS compares Adam rows with plain gradients). Which
    `signals` lie beside a row says nothing of the row.
    Raises FeatureSpaceMismatch naming every other field that differs, with both values.
    """
    alike = {"transform", "loss", "signals"}
    if {train.get("extractor"), query.get("extractor")} <= SAME_ROWS:
        alike.add("extractor")
    fields = [f for f in differing_fields(train, query) if f.split(".")[0] not in alike]
    if fields:
        shown = "; ".join(f"{f}: {_get(train, f)!r} against {_get(query, f)!r}" for f in fields)
        raise FeatureSpaceMismatch(
            f"these rows are of different feature spaces and cannot be compared ({shown}). "
            "Recompute one side with the other's settings."
        )


def _get(spec: Spec, dotted: str) -> Any:
    value: Any = spec
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
