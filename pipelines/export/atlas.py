"""Points for embedding-atlas: x and y by principal components of plain gradient rows, neighbours in their own space.

    embedding-atlas atlas.parquet --x x --y y --neighbors neighbors --text text

Two dimensions keep little of a gradient: near on the map is a hint, `neighbors` is the fact. Neighbours are exact:
O(N²·D) for N examples of D dims, 4·N·D bytes in memory.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gradsift.datastore import examples, features, selections
from gradsift.datastore.chats import Messages, turn_text
from gradsift.datastore.errors import InputError
from gradsift.datastore.points import plain_space
from gradsift.datastore.selections import MIXTURE, Selection
from gradsift.datastore.store import Store
from gradsift.pipelines.progress import Progress

NEIGHBOURS = 15
TEXT_CHARS = 2_000
BLOCK = 4_096
F32 = NDArray[np.float32]


def write_atlas(store: Store, selection: Selection, facts: pa.Table, path: Path, progress: Progress) -> None:
    """Write the selection's distinct examples with their places. Raises InputError where some have no gradient row."""
    ids = facts["example_id"].to_pylist()
    rows = _rows(store, _space(store, selection), ids)
    xy = components(rows)
    near, distances = neighbours(rows, NEIGHBOURS, progress)
    texts = {
        i: _text(chat)
        for part in examples.in_parts(store, ids)
        for i, chat in examples.get_messages(store, part).items()
    }
    points = [{"ids": n.tolist(), "distances": d.tolist()} for n, d in zip(near, distances, strict=True)]
    kind = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])
    table = pa.table(
        {
            **{name: facts[name] for name in facts.column_names},
            "text": pa.array([texts[i] for i in ids], pa.string()),
            "x": pa.array(xy[:, 0], pa.float32()),
            "y": pa.array(xy[:, 1], pa.float32()),
            "neighbors": pa.array(points, kind),
        }
    )
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def _rows(store: Store, train: int, ids: list[str]) -> F32:
    """[N, D] unit rows of plain gradients (rows of Adam's steps are all near each other); a zero one stays zero."""
    space = plain_space(store, train)
    lacking = len(ids) if space is None else len(features.lacking(store, space, ids))
    if space is None or lacking:
        raise InputError(
            f"the atlas needs a row of the plain gradient of every example; {lacking} of {len(ids)} have none. Set "
            "`export.atlas: true` or `features.plain_rows: true` and run the recipe again"
        )
    block = features.read_all(store, space, ids)
    place = {name: k for k, name in enumerate(ids)}
    known = block.unit()
    rows = np.zeros((len(ids), known.shape[1]), np.float32)
    rows[[place[name] for name in block.example_ids]] = known
    return rows


def _text(chat: Messages) -> str:
    return "\n\n".join(map(turn_text, chat))[:TEXT_CHARS]


def _space(store: Store, selection: Selection) -> int:
    """The pool's feature space at the last checkpoint that the selection looked at."""
    spaces: Any = selections.spec_of(store, selection).get("spaces") or []
    if selection.method == MIXTURE and spaces:
        spaces = next((s for s in spaces.values() if s), [])
    space = features.space_by_fingerprint(store, spaces[-1][0]) if spaces else None
    if space is None:
        raise InputError(f"{selection.name!r} was chosen without gradient rows, which the atlas shows")
    return space


def components(rows: F32) -> F32:
    """[N, D] rows → [N, 2] places: the first two principal components, each with its largest value positive."""
    from scipy.sparse.linalg import LinearOperator, svds

    n, d = rows.shape
    if min(n, d) <= 2:
        return np.pad(rows[:, :2] - rows[:, :2].mean(axis=0), ((0, 0), (0, max(0, 2 - d)))).astype(np.float32)
    mean = rows.mean(axis=0)
    centred = LinearOperator(
        (n, d),
        matvec=lambda v: rows @ v.ravel() - mean @ v.ravel(),
        rmatvec=lambda u: rows.T @ u.ravel() - mean * u.sum(),
        dtype=np.float32,
    )
    # Not a constant start: centring takes that away, and nothing is left to begin with.
    start = np.random.default_rng(0).standard_normal(min(n, d), np.float32)
    u, s, _ = svds(centred, k=2, v0=start)
    places = (u * s)[:, np.argsort(-s)]
    signs = np.sign(places[np.abs(places).argmax(axis=0), range(2)])
    return np.asarray(places * np.where(signs == 0, 1, signs), np.float32)


def neighbours(rows: F32, k: int, progress: Progress) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """[N, D] unit rows → ([N, k] positions of the nearest others, [N, k] cosine distances); ties to the earlier."""
    n, k = len(rows), min(k, len(rows) - 1)
    near, distances = np.zeros((n, k), np.int64), np.zeros((n, k))
    for start in range(0, n, BLOCK):
        part = slice(start, min(n, start + BLOCK))
        cosine = (rows[part] @ rows.T).astype(np.float64).round(6)
        own = np.arange(part.start, part.stop)
        cosine[own - start, own] = -np.inf
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        near[part], distances[part] = order, 1 - np.take_along_axis(cosine, order, axis=1)
        progress("export: neighbours", part.stop, n)
    return near, distances
