"""Products of stored rows with queries, a block at a time, by the fastest kernel that is right on this machine.

A product is coarse: it is off by at most a bound that is known beforehand, and `datastore/search.py` computes in
float64 what the bound leaves open. With x a row's stored integers, s its scale, q a query:

- `int8`: q is rounded to integers i and a step t. |s·q·x − s·t·i·x| ≤ ‖q − t·i‖·‖s·x‖ (Cauchy–Schwarz), and ‖s·x‖ = 1.
  Sums of integers are exact where the CPU adds them in 32 bits (VNNI). Older CPUs add pairs of products in 16 bits,
  which is right for |i| ≤ 64 in one order of the operands: what holds here is tried out once.
- `f32`: rows are decoded into a small buffer; a sum of D products is off by at most D·2⁻²⁴·‖q‖·‖s·x‖.
- `numpy`: the same without torch, whose import takes longer than a few questions to a million rows.

Legend: Q queries, n rows of a block, D dims.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import threads
from gradsift.datastore.rows import Array, unpack_int4

if TYPE_CHECKING:  # it takes seconds to import, and most of the store does not multiply
    import torch
    from torch import Tensor

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Name = Literal["int8", "int8_half", "f32", "numpy"]
FINE: tuple[Name, ...] = ("f32", "numpy")  # their products are as good as sums of float32 get

BLOCK_NUMBERS = 1 << 22  # of the rows of a block, of which there are more for a single query
CACHED_BYTES = 1 << 20  # of rows that are read or decoded, then multiplied: what a core has for itself
LONGEST = 1 << 17  # dims of which a sum of products of int8 stays below 2³¹
SHORTEST = 8  # of fewer dims nothing is gained, and oneDNN mistakes the layout of a single one
SLACK = 1e-6  # of rounding a sum to f32, and of two products in f32, of numbers below 2
UNIT = 1.002  # longest stored unit row: float16 rounds each of its numbers by 2⁻¹¹ at most
PROBE_ROWS = 512
BY_NUMPY = 1 << 18  # numbers that are decoded at once: of more, OpenBLAS wakes threads for a product of microseconds
WORTH_TORCH = 5e9  # products of numbers beyond which torch, where it is not loaded yet, has made up for its import


@dataclass(frozen=True)
class Prepared:
    """Queries as a kernel wants them. `step[q]·products[q]` is within `error[q]` of the cosine."""

    kernel: Name
    operand: "Tensor | F32"  # [Q, D] int8 or f32; an array for `numpy`
    step: F32  # [Q]
    error: F64  # [Q]


class Buffers:
    """Memory of one search for the products of a block; [Q, n] and [n, D] of the largest one."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._arrays: dict[str, F32] = {}

    def take(self, name: str, rows: int, columns: int, dtype: "torch.dtype") -> "Tensor":
        """[rows, columns] of memory, of which the content is undefined."""
        import torch

        if name not in self._kept or self._kept[name].numel() < rows * columns:
            self._kept[name] = torch.empty(rows * columns, dtype=dtype)
        return self._kept[name][: rows * columns].view(rows, columns)

    def take_array(self, name: str, rows: int, columns: int) -> F32:
        """The same of float32, as an array."""
        if name not in self._arrays or self._arrays[name].size < rows * columns:
            self._arrays[name] = np.empty(rows * columns, np.float32)
        return self._arrays[name][: rows * columns].reshape(rows, columns)


def choose(count: int, rows: int, dim: int) -> Name | None:
    """`numpy` for so many queries and rows where torch is not loaded and would not pay; None: `prepare` knows."""
    return "numpy" if "torch" not in sys.modules and count * rows * dim < WORTH_TORCH else None


def block_rows(dim: int, count: int) -> int:
    """How many rows of a block: for one query a block is little work, and has its price in Python."""
    return max(32, BLOCK_NUMBERS * (4 if count == 1 else 1) // dim)


def prepare(queries: F32, stored: str, kernel: Name | None = None) -> Prepared:
    """[Q, D] queries for products with rows of a stored dtype, by the given kernel or the one that is best here.

    Cost O(Q·D); the first time for a shape, some milliseconds of trying.
    """
    if kernel == "numpy":
        return Prepared(kernel, queries.copy(), np.ones(len(queries), np.float32), rounding(queries))
    import torch

    if kernel is None:
        kernel = "f32" if stored == "f16" else best(*queries.shape)
    exact = queries.astype(np.float64)
    lengths = np.sqrt(np.square(exact).sum(axis=1))
    if kernel == "f32":
        # A user may let torch round operands to bfloat16.
        error = rounding(queries) + (torch.get_float32_matmul_precision() != "highest") * lengths * 2.0**-6
        return Prepared(kernel, torch.from_numpy(queries.copy()), np.ones(len(queries), np.float32), error)
    reach = 127 if kernel == "int8" else 64
    peak = np.abs(queries).max(axis=1, initial=0.0)
    step = np.where(peak > 0, peak / reach, 1.0).astype(np.float32)
    rounded = np.rint(queries / step[:, None]).clip(-reach, reach)
    rest = np.sqrt(np.square(exact - rounded * step[:, None].astype(np.float64)).sum(axis=1))
    error = rest * UNIT + SLACK * lengths
    return Prepared(kernel, torch.from_numpy(rounded.astype(np.int8)), step, error)


def rounding(queries: F32) -> F64:
    """[Q] how far a cosine may be off that was summed in float32, in whatever order."""
    lengths = np.sqrt(np.square(queries.astype(np.float64)).sum(axis=1))
    bound: F64 = lengths * (queries.shape[1] * 2.0**-24 * UNIT + SLACK)
    return bound


def multiply(prepared: Prepared, vectors: Array, scale: F32, buffers: Buffers) -> F32:
    """[Q, n] products of queries with [n, D] stored vectors ([n, D/2] uint8 for int4) times [n] scales, before `step`.

    They are valid until the next call with these buffers. Memory: what `Buffers` keeps.
    """
    if vectors.dtype == np.uint8:
        vectors = unpack_int4(vectors)
    if isinstance(prepared.operand, np.ndarray):
        return _by_numpy(prepared.operand, vectors, scale, buffers)
    import torch

    products = buffers.take("products", len(prepared.operand), len(vectors), torch.float32)
    rows = torch.from_numpy(vectors)
    if prepared.kernel == "f32":
        _decoded(prepared.operand, rows, products, buffers)
    elif len(products) == 1 and torch.get_num_threads() == 1:
        products.copy_(_read_first(prepared.kernel, prepared.operand, vectors, buffers))
    else:
        sums = buffers.take("sums", 1, products.numel(), torch.int32)[0]
        products.copy_(_SUMS[prepared.kernel](prepared.operand, rows, sums))
    found: F32 = products.mul_(torch.from_numpy(scale)).numpy()
    return found


def _by_numpy(queries: F32, vectors: Array, scale: F32, buffers: Buffers) -> F32:
    """Products with rows that are decoded to f32, as many at a time as stay in the cache, times their scales; each
    thread has a span of the rows."""
    products = buffers.take_array("products", len(queries), len(vectors))
    size = max(32, BY_NUMPY // vectors.shape[1])
    span = -(-len(vectors) // threads.count())

    def multiply_span(first: int) -> None:
        end = min(first + span, len(vectors))
        decoded = buffers.take_array(f"decoded from {first}", min(size, end - first), vectors.shape[1])
        for start in range(first, end, size):
            part = vectors[start : min(start + size, end)]
            np.copyto(decoded[: len(part)], part, casting="unsafe")
            products[:, start : start + len(part)] = queries @ decoded[: len(part)].T

    for _ in threads.each(multiply_span, range(0, len(vectors), span)):
        pass
    products *= scale
    return products


def _decoded(queries: "Tensor", rows: "Tensor", products: "Tensor", buffers: Buffers) -> None:
    """Products with rows that are decoded to f32, as many at a time as stay in the cache."""
    import torch

    size = max(32, CACHED_BYTES // (2 * rows.shape[1]))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        decoded = buffers.take("decoded", len(part), part.shape[1], torch.float32).copy_(part)
        products[:, start : start + size] = torch.mm(queries, decoded.t())


def _read_first(kernel: Name, operand: "Tensor", vectors: Array, buffers: Buffers) -> "Tensor":
    """[1, n] sums of one query, of rows that were brought into the cache, in order, just before: the product walks over
    several rows at once, which the CPU does not foresee, and would wait for memory twice as long (ADR 16)."""
    import torch

    dim = vectors.shape[1]
    size = max(8, CACHED_BYTES // dim & ~7)
    rows, sums = torch.from_numpy(vectors), buffers.take("sums", 1, len(vectors), torch.int32)[0]
    flat = vectors.reshape(-1)
    words = flat[: len(flat) & ~7].view(np.int64)
    multiply_part = _SUMS[kernel]
    for start in range(0, len(vectors), size):
        np.bitwise_or.reduce(words[start * dim // 8 : (start + size) * dim // 8])
        multiply_part(operand, rows[start : start + size], sums[start : start + size])
    return sums[None]


def _queries_first(queries: "Tensor", rows: "Tensor", out: "Tensor") -> "Tensor":
    """[Q, n] sums in the [Q·n] numbers of `out`."""
    import torch

    return torch._int_mm(queries, rows.t(), out=out.view(len(queries), len(rows)))


def _rows_first(queries: "Tensor", rows: "Tensor", out: "Tensor") -> "Tensor":
    """The same, with the operands in the other order."""
    import torch

    return torch._int_mm(rows, queries.t(), out=out.view(len(rows), len(queries))).t()


_SUMS: "dict[Name, Callable[[Tensor, Tensor, Tensor], Tensor]]" = {"int8": _queries_first, "int8_half": _rows_first}


@lru_cache(maxsize=256)
def best(count: int, dim: int) -> Name:
    """The kernel for so many queries of int8 rows: one for integers that is right here, or f32 where that is faster."""
    if not count or not SHORTEST <= dim <= LONGEST:
        return "f32"
    rng = np.random.default_rng(0)
    rows = rng.integers(-127, 128, (PROBE_ROWS, dim), np.int8)
    queries = rng.standard_normal((count, dim), np.float32)
    whole: Name = "int8" if is_right("int8", count, dim) else "int8_half"
    if not is_right(whole, count, dim):
        return "f32"
    return min(whole, "f32", key=lambda name: _seconds(name, queries, rows))


def is_right(kernel: Name, count: int, dim: int) -> bool:
    """Whether a kernel adds as it should, of rows and queries that come nearest to an overflow."""
    if kernel in FINE:
        return True
    import torch

    reach = 127 if kernel == "int8" else 64
    rows, queries = np.full((PROBE_ROWS, dim), 127, np.int8), np.full((count, dim), reach, np.int8)
    rows[1::4], rows[2::4, ::2], rows[3::4, ::3] = -127, -127, -127
    queries[1::3], queries[2::3, ::2] = -reach, -reach
    for part in (rows, rows[:1]):  # oneDNN has another way for a single row
        out = torch.empty(count * len(part), dtype=torch.int32)
        sums = _SUMS[kernel](torch.from_numpy(queries), torch.from_numpy(part), out).numpy()
        if not (sums == queries.astype(np.float64) @ part.T.astype(np.float64)).all():
            return False
    return True


def _seconds(kernel: Name, queries: F32, rows: Array) -> float:
    """The best time of three."""
    prepared, scale, buffers = prepare(queries, "int8", kernel), np.ones(len(rows), np.float32), Buffers()
    times = []
    for _ in range(4):
        start = time.perf_counter()
        multiply(prepared, rows, scale, buffers)
        times.append(time.perf_counter() - start)
    return min(times[1:])
