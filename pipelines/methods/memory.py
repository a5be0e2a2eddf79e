"""What scores and rules hold in memory, as they declare it, so that what does not fit is refused before it starts.

A declaration is a formula over the sizes of the work, words for the documentation, and what makes it less. It counts
what is held above the process itself and the rows: those are read by blocks, and are held only where there is room
(`Evidence.room`). `PER_EXAMPLE` is for ids, places and a signal or two (measured: 720 to 1,020 bytes of each example of
stores of 200,000 and 100,000).

Legend: N pool examples, D dims, V target rows, J columns of the scores, k picks, K clusters, C checkpoints.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradsift.scorers import coverage, dedup, gio, rows, tagcos, transport

PARTS_BYTES = 256 << 20  # of similarities of layers, while the rows of a checkpoint are read; at least those of one

PER_EXAMPLE = 1024
BLOCKS = 6  # blocks of rows at once: as stored, decoded, normalised, multiplied
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What decides how much a method holds. `dims` are those of the rows that it looks at, 0 for none; `tokens` label
    tokens of the pool."""

    pool: int
    dims: int
    target: int
    subtasks: int
    chosen: int
    checkpoints: int = 1
    tokens: int = 0

    def columns(self, options: Options) -> int:
        """Columns of a similarity."""
        return {"query": self.target, "all": 1}.get(options.get("per", "subtask"), self.subtasks)


@dataclass(frozen=True)
class Memory:
    """`need(sizes, options)` bytes; `holds`, what that is in words; `less`, what the user may change."""

    need: Callable[[Sizes, Options], float]
    holds: str
    less: str = ""


def reading(s: Sizes) -> float:
    """Blocks of rows, while they are read."""
    return BLOCKS * min(rows.BLOCK_BYTES, 4 * s.pool * s.dims)


def clustering(s: Sizes, clusters: int) -> float:
    """k-means: labels of two iterations and their order, centres and sums, blocks."""
    return reading(s) + 40 * s.pool + 24 * min(clusters, s.pool) * s.dims


def numbers(s: Sizes, count: float = 1) -> float:
    """So many numbers of 8 bytes for each example."""
    return 8 * s.pool * count


def _omp(s: Sizes, o: Options) -> float:
    picks: int = min(s.chosen, s.pool, tagcos.MOST)
    products = min(tagcos.PRODUCTS_BYTES, 4 * picks * s.pool)
    look_ahead = min(products, 4 * 7 * tagcos.AHEAD * s.pool)
    atoms = min(tagcos.ATOMS_BYTES, 4 * s.pool * s.dims)
    return clustering(s, o["clusters"]) + atoms + products + look_ahead + 32 * picks**2 + numbers(s, 4)


def _gio(s: Sizes, o: Options) -> float:
    quantised = 0 < o["quantise"] < s.pool
    points: int = o["quantise"] if quantised else s.pool
    target: int = min(s.target, o["quantise"] or s.target)
    of_target = 8 * target * (s.dims + 3 * target)
    blocks = 4 * 8 * gio.BLOCK if o["mode"] != "released" else 4 * 8 * min(points, rows.BLOCK_ROWS) * target
    pairs = 0 if o["mode"] == "exact" else 8 * points * target
    first = clustering(s, o["quantise"]) if quantised else reading(s)
    return first + of_target + blocks + pairs + 24 * points * (s.dims if quantised else 8) + numbers(s, 2)


def _facility_location(s: Sizes, o: Options) -> float:
    points: int = min(o["points"], s.pool)
    held = 4 * s.pool * points
    likeness = held if held <= coverage.HELD_BYTES else min(held, coverage.KEPT_BYTES)
    return reading(s) + likeness + 8 * points * s.dims + 8 * rows.BLOCK_ROWS * points + 200 * s.pool


def _tsds(s: Sizes, o: Options) -> float:
    near: int = min(o["neighbours"], s.pool)
    plan = 8 * s.target * (6 * near + 6 * min(rows.BLOCK_ROWS, s.pool))
    crowd = 0.0
    if o["density"] == "kde":
        crowd = 12 * min(s.pool, s.target * near) * s.dims + 8 * s.target * near * 6 + 2 * 4 * transport.BLOCK
    return reading(s) + plan + crowd + 8 * s.target * s.dims + numbers(s, 8)


def _influence(s: Sizes, o: Options) -> float:
    dims = 28 * s.dims**2 if o["precondition"] == "gram" else 0
    return numbers(s, 2 * s.subtasks) + dims + 8 * s.dims * (4 * s.target + 4 * s.subtasks) + reading(s)


def _similarity(s: Sizes, o: Options) -> float:
    columns = s.columns(o)
    if o.get("aggregate", "mean") == "mean":
        return numbers(s, columns + 1)
    return max(PARTS_BYTES, 4 * s.pool * columns) + numbers(s, 4 * columns + 4) + reading(s)


def _gip(s: Sizes, _o: Options) -> float:
    picks: int = min(s.chosen, s.pool, s.dims)
    factor = 4 * picks * s.pool
    kept = factor + 4 * 5 * tagcos.AHEAD * s.pool if factor <= tagcos.PRODUCTS_BYTES else 8 * picks * s.dims
    return reading(s) + kept + 3 * 8 * s.pool * s.target + numbers(s, 8)


def _dvemb(s: Sizes, _o: Options) -> float:
    return numbers(s, 2 * s.subtasks) + 28 * s.dims**2 + 8 * s.dims * (4 * s.target + 4 * s.subtasks) + 2 * reading(s)


ZEROS = Memory(lambda s, _o: numbers(s), "8·N of zeros")
SIMILARITY = Memory(
    _similarity,
    "8·N·J of scores; `rank` and `vote` 32·N·J, and 256 MiB of layers; blocks",
    "fewer targets, or `per: subtask`",
)
DVEMB = Memory(_dvemb, "16·N·J of scores; 28·D²; blocks", "fewer dims")
INFLUENCE = Memory(_influence, "16·N·J of scores; `gram` 28·D²", "fewer dims, or `datainf`")
PHI = Memory(lambda s, _o: reading(s) + 32 * gio.BLOCK + 16 * s.target * s.dims + numbers(s, 2), "blocks")
ONE_NUMBER = Memory(lambda s, _o: numbers(s, 4), "32·N")
WORDS = Memory(
    lambda s, _o: numbers(s, 2 * s.target),
    "16·N·V, and the texts themselves, which are not counted",
    "fewer target rows",
)
HASHED = Memory(lambda s, _o: numbers(s, 4), "32·N, and the texts themselves, which are not counted")
ORDER = Memory(
    lambda s, _o: numbers(s, 8) + 160 * (s.chosen if s.chosen >= s.pool else 0),
    "64·N of orders, and 160·N where all are ordered",
    "fewer picks",
)
RANKED = Memory(lambda s, _o: numbers(s, 24), "192·N of orders and ids")
STRATA = Memory(lambda s, _o: numbers(s, 36), "288·N of orders, ids and bins")
TURNS = Memory(
    lambda s, o: numbers(s, 3) + 16 * s.chosen * s.columns(o), "24·N, and 16·k·J of orders", "fewer picks or columns"
)
BIDS = Memory(
    lambda s, o: TURNS.need(s, o) + numbers(s, 3 * s.columns(o)), "24·N·J, and 16·k·J of orders", "fewer columns"
)
KMEANS = Memory(lambda s, o: clustering(s, o["clusters"]) + numbers(s, 12), "136·N, 24·K·D, blocks", "fewer `clusters`")
TAGCOS = Memory(_omp, "72·N, 24·K·D; of a cluster its rows and products, up to 512 MiB each; blocks", "fewer picks")
GIP = Memory(_gip, "24·N·V; 4·N·k of a factor up to 512 MiB (more: 8·k·D); blocks", "fewer picks or target rows")
GIO = Memory(
    _gio,
    "24·K·D of centres and 8·K·V; `quantise: 0`: 8·N·V, in mode `exact` none of them; blocks",
    "fewer target rows, `quantise: 1500`, or `mode: exact`",
)
FACILITY_LOCATION = Memory(
    _facility_location, "200·N, and 4·N·P of similarities up to 1 GiB (more: 256 MiB); blocks", "fewer `points`"
)
K_CENTER = Memory(lambda s, _o: reading(s) + numbers(s, 6), "48·N; blocks")
TSDS = Memory(
    _tsds,
    "96·V·n of n neighbours; `kde`: 12·U·D of U ≤ V·n of them; blocks",
    "fewer `neighbours`, or `density: uniform`",
)
UOT = Memory(lambda s, o: numbers(s, 7 * s.columns(o)), "56·N·V", "fewer target rows")
S2L = Memory(lambda s, _o: numbers(s, 8 + 3 * s.checkpoints), "64·N, 24·N·C")
QUADRANTS = Memory(
    lambda s, _o: numbers(s, 24) + 120 * s.pool + 8 * s.tokens,
    "312·N, and 8 for each label token",
    "a pool of fewer or shorter answers",
)
PORTFOLIO = Memory(
    lambda s, _o: numbers(s, 2), "16·N, and what one candidate holds after the other", "fewer candidates"
)
TIVE = Memory(lambda s, _o: reading(s) + numbers(s, 10), "80·N; blocks")
SEMDEDUP = Memory(
    lambda s, o: (
        clustering(s, o["clusters"] or round(s.pool**0.5))
        + min(dedup.CLUSTER_BYTES, 4 * s.pool * s.dims)
        + 3 * 4 * dedup.BLOCK**2
        + 8 * dedup.BLOCK * s.dims
        + numbers(s, 6)
    ),
    "88·N, 24·K·D; of a cluster its rows up to 1 GiB; blocks",
    "fewer `clusters`",
)
