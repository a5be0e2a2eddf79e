"""The error–uncertainty plane of a Q-Tuning selection, as an SVG file: one dot for each example of the pool."""

from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from gradsift.datastore import selections
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 560, 70, 60, 30, 60
DOTS = 1500  # at most; the counts are of all
COLOURS = {  # drawn in this order
    "dropped": "#c3c8cf", "added to fill the budget": "#8fbf7f", "kept whole": "#1f6fb4", "tokens pruned": "#d1651b",
}  # fmt: skip
CORNERS = (  # quadrant, what it means, where (0 or 1 of the axes)
    (1, "Q1 noise", 1, 1), (2, "Q2 misconception", 0, 1), (3, "Q3 redundant", 0, 0), (4, "Q4 calibration", 1, 0),
)  # fmt: skip


def draw_plane(store: Store, name: str, path: Path) -> None:
    """Write the picture of a selection made by the rule `quadrants`. Raises InputError for another one."""
    chosen = selections.get(store, name)
    table = selections.details(store, chosen)
    if table is None or "quadrant" not in table.column_names:
        raise InputError(f"selection {name!r} has no error–uncertainty plane; make one with --method qtuning")
    ids = table["example_id"].to_pylist()
    kept, pruned = set(chosen.example_ids), set(selections.masks(store, chosen))
    added = {i for i, more in zip(ids, table["added"].to_pylist(), strict=True) if more}

    def state_of(name: str) -> str:
        if name not in kept:
            return "dropped"
        return "added to fill the budget" if name in added else "tokens pruned" if name in pruned else "kept whole"

    state = [state_of(i) for i in ids]
    columns = {c: table[c].to_numpy() for c in ("perplexity", "entropy", "quadrant")}
    path.write_text(_svg(chosen.name, state, columns), "utf-8")


def _svg(name: str, state: list[str], columns: dict[str, Any]) -> str:
    x, low_x, high_x = _scaled(columns["entropy"])
    y, low_y, high_y = _scaled(np.log10(columns["perplexity"]))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(u: float, v: float) -> tuple[float, float]:
        return LEFT + u * wide, TOP + (1 - v) * high

    body = [
        f'<rect x="{LEFT}" y="{TOP}" width="{wide}" height="{high}" fill="#fff" stroke="#8a919b"/>',
        f'<text x="{LEFT}" y="26" font-size="17" font-weight="600">{escape(name)}: error and uncertainty</text>',
    ]
    mid_x, mid_y = float(np.median(x)), float(np.median(y))
    for points in ((at(mid_x, 0), at(mid_x, 1)), (at(0, mid_y), at(1, mid_y))):
        (x1, y1), (x2, y2) = points
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        body.append(f'<line {ends} stroke="#8a919b" stroke-dasharray="4 4"/>')
    order = np.random.default_rng(0).permutation(len(state))[:DOTS].tolist()
    for label in COLOURS:
        for k in (k for k in order if state[k] == label):
            cx, cy = at(x[k], y[k])
            body.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="2.6" fill="{COLOURS[label]}" fill-opacity="0.75"/>')
    counts = Counter(columns["quadrant"].tolist())
    for number, meaning, right, top in CORNERS:
        cx, cy = at(0.985 if right else 0.015, 0.955 if top else 0.02)
        anchor = "end" if right else "start"
        style = f'font-weight="600" text-anchor="{anchor}" paint-order="stroke" stroke="#fff" stroke-width="4"'
        body.append(_text(cx, cy, f"{meaning} · {counts[number]}", style))
    place = LEFT
    for label, colour in COLOURS.items():
        text = f"{label} ({state.count(label)})"
        body += [f'<circle cx="{place + 5}" cy="45" r="5" fill="{colour}"/>', _text(place + 15, 49, text)]
        place += round(34 + 6.7 * len(text))
    end, middle = 'text-anchor="end"', 'text-anchor="middle"'
    body += [
        _text(LEFT, HEIGHT - 38, f"{low_x:.2f}"),
        _text(WIDTH - RIGHT, HEIGHT - 38, f"{high_x:.2f}", end),
        _text(LEFT + wide / 2, HEIGHT - 16, "mean token entropy, nats", middle),
        _text(LEFT - 8, TOP + high, f"{_short(10**low_y)}", end),
        _text(LEFT - 8, TOP + 10, f"{_short(10**high_y)}", end),
        f'<g transform="translate(20 {TOP + high / 2}) rotate(-90)">{_text(0, 0, "perplexity (log)", middle)}</g>',
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif" fill="#20242a"><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" {style}>{escape(text)}</text>'


def _scaled(values: Any) -> tuple[Any, float, float]:
    """Values from 0 to 1 between their 0.5 % and 99.5 % quantiles (beyond: on the edge), and those ends."""
    low, high = (float(v) for v in np.quantile(values, (0.005, 0.995)))
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1), low, high
