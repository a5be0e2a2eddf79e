"""The error–uncertainty plane: examples by their loss and entropy, in quadrants about the medians.

In the report for any selection, from signals of the gradient rows; as a file for a Q-Tuning selection, with what became
of each example. Loss is the logarithm of Q-Tuning's perplexity: the same order, the same quadrants.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.rows import FeatureBlock
from gradsift.datastore.store import Store
from gradsift.pipelines.report.charts import Cloud, Cross, scatter, standalone, two_clouds
from gradsift.pipelines.report.parts import Part
from gradsift.scorers.qtuning import quadrant

DOTS = 1500  # of a file, at most; its counts are of all
QUADRANTS = ("noise", "misconception", "redundant", "calibration")  # 1 to 4
STATES = {"dropped": "c7", "added to fill the budget": "c2", "kept whole": "c0", "tokens pruned": "c5"}  # as drawn
F64 = NDArray[np.float64]


def draw_plane(store: Store, name: str, path: Path) -> None:
    """Write the picture of a selection made by the rule `quadrants`. Raises InputError for another one."""
    chosen = selections.get(store, name)
    table = selections.details(store, chosen)
    if table is None or "quadrant" not in table.column_names:
        raise InputError(f"selection {name!r} has no error–uncertainty plane; make one with --method qtuning")
    kept, pruned = set(chosen.example_ids), set(selections.masks(store, chosen))

    def state_of(example: str, added: bool) -> str:
        if example not in kept:
            return "dropped"
        return "added to fill the budget" if added else "tokens pruned" if example in pruned else "kept whole"

    pairs = zip(table["example_id"].to_pylist(), table["added"].to_pylist(), strict=True)
    states = np.array([state_of(example, added) for example, added in pairs])
    points = np.stack([table["entropy"].to_numpy(), np.log(table["perplexity"].to_numpy())], axis=1)
    drawn = np.random.default_rng(0).permutation(len(states))[:DOTS]
    clouds = [
        Cloud(colour, f"{state} ({(states == state).sum()})", points[drawn[states[drawn] == state]].tolist())
        for state, colour in STATES.items()
    ]
    svg = _picture(f"{chosen.name}: error and uncertainty", clouds, points, table["quadrant"].to_numpy())
    path.write_text(standalone(svg), "utf-8")


def plane(name: str, block: FeatureBlock, chosen: int) -> list[Part]:
    """The plane of a block's examples, of which the first few were chosen; nothing where their rows lack a signal."""
    if not {"loss", "entropy"} <= set(block.signals.column_names):
        return []
    points = np.stack([block.signal("entropy"), block.signal("loss")], axis=1).astype(np.float64)
    quadrants = quadrant(points[:, 1], points[:, 0])
    every, ours = Counter(quadrants.tolist()), Counter(quadrants[:chosen].tolist())
    table = [
        {"quadrant": word, "examples": every[number], "chosen": ours[number]}
        for number, word in enumerate(QUADRANTS, 1)
    ]
    title = f"Error and uncertainty of {name}"
    clouds = two_clouds(points.tolist(), chosen)
    note = "Lines are the medians of those shown."
    return [Part(title, table, _picture(title, clouds, points, quadrants), note)]


def _picture(title: str, clouds: Sequence[Cloud], points: F64, quadrants: NDArray[np.int8]) -> str:
    counts = Counter(quadrants.tolist())
    corners = [f"{word} · {counts[number]}" for number, word in enumerate(QUADRANTS, 1)]
    entropy, loss = (float(middle) for middle in np.median(points, axis=0))
    cross = Cross(entropy, loss, corners)
    return scatter(title, clouds, "entropy, nats (uncertainty)", "loss, nats (error)", cross=cross, whole=True)
