"""Pictures as inline SVG, drawn here: no library, no network. Each function returns one `<svg>` with a title.

Colours are Okabe and Ito's (safe for colour-blind readers) by CSS class, with the rules of `STYLE`; text takes the
page's colour, so that one picture serves light and dark. `standalone` makes a file of a picture. All text of data sets
is escaped.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from gradsift.pipelines.tables import printable, shortened

WIDTH = 720
LEFT, RIGHT, TOP, BOTTOM = 150, 20, 14, 40
INSIDE = 70  # the left end of pictures with figures on their y axis
NUMBERED = 16  # pixels of a share from which its number is written into it
SERIES = 8  # colour classes c0 to c7
Point = tuple[float, float]
Curve = Sequence[Sequence[float | None]]  # [step, value] of one run
F64 = NDArray[np.float64]

LIGHT = {
    "bg": "#fff", "fg": "#1b1f24", "soft": "#5b6470", "line": "#d8dde3", "c0": "#0072b2", "c1": "#e69f00",
    "c2": "#009e73", "c3": "#cc79a7", "c4": "#56b4e9", "c5": "#d55e00", "c6": "#a89f1b", "c7": "#9aa3ad",
}  # fmt: skip
DARK = {
    "bg": "#14171b", "fg": "#e6e9ed", "soft": "#9aa5b1", "line": "#333a42", "c0": "#4aa8e0", "c1": "#f0b840",
    "c2": "#35c79a", "c3": "#dd95bf", "c4": "#8accf0", "c5": "#f08a4b", "c6": "#d6cc4a", "c7": "#6b7580",
}  # fmt: skip


def _variables(colours: Mapping[str, str]) -> str:
    return ":root { " + " ".join(f"--{name}: {colour};" for name, colour in colours.items()) + " }"


RULES = """\
svg text { fill: var(--fg); font: 12px system-ui, sans-serif; } svg text.label { fill: var(--soft); }
svg text.ours { font-weight: 700; }
svg text.mark { font-size: 15px; font-weight: 700; paint-order: stroke; stroke: var(--bg); stroke-width: 4px; }
svg text.corner { font-weight: 700; paint-order: stroke; stroke: var(--bg); stroke-width: 3px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .zero { stroke: var(--fg); stroke-width: 1.2; stroke-dasharray: 4 3; }
""" + "".join(
    f".c{k} {{ fill: var(--c{k}); stroke: none; }} .c{k}.bar, .c{k}.line {{ stroke: var(--c{k}); }}\n"
    for k in range(SERIES)
) + """\
svg .bar { stroke-width: 2.5; } svg .line { fill: none; stroke-width: 2; }
svg .band { fill-opacity: .18; } svg .dot { fill-opacity: .65; }
"""  # fmt: skip
ON_PAPER = _variables(LIGHT)  # whatever the screen's scheme
STYLE = f"{_variables(LIGHT)}\n@media (prefers-color-scheme: dark) {{ {_variables(DARK)} }}\n{RULES}"


def standalone(svg: str) -> str:
    """A picture as a file of its own, in light colours: many programs that show SVG know no CSS variables."""
    rules = re.sub(r"var\(--(\w+)\)", lambda name: LIGHT[name[1]], RULES)
    size = r'<svg xmlns="http://www.w3.org/2000/svg" width="\1" height="\2" viewBox="0 0 \1 \2"'
    head, body = re.sub(r'^<svg viewBox="0 0 (\d+) (\d+)"', size, svg).split("</title>", 1)
    paper = f'<rect width="100%" height="100%" fill="{LIGHT["bg"]}"/>'
    return f"{head}</title>\n<style>\n{rules}</style>\n{paper}{body}\n"


def _svg(height: int, title: str, body: Sequence[str]) -> str:
    text = escape(printable(title))
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text}"><title>{text}</title>'
        + "".join(body)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(printable(text))}</text>'


def _cut(text: str, size: int = 22) -> str:
    return shortened(printable(text), size)


class _Axis:
    """A linear map of values to pixels with round ticks."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        if not high > low:
            low, high = low - 0.5, high + 0.5
        pad = 0.03 * (high - low)
        self.low, self.high, self.start, self.stop = low - pad, high + pad, start, stop

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def inside(self, value: float) -> float:
        """The value, or the end of the axis that is nearest to it."""
        return min(max(value, self.low), self.high)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """About `count` round values inside, each with as many decimals as tell them apart."""
        raw = (self.high - self.low) / count
        base = 10 ** np.floor(np.log10(raw))
        step = min((base * k for k in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
        first = np.ceil(self.low / step) * step
        values = [float(round(v, 12)) + 0.0 for v in np.arange(first, self.high, step)]
        decimals = int(max(0, np.ceil(-np.log10(step) - 1e-9))) + (f"{step:.1e}"[0:3] == "2.5")
        plain = max(abs(v) for v in values or [0.0]) < 1e5 and decimals <= 6
        return [(v, f"{v:,.{decimals}f}" if plain else f"{v:.2e}") for v in values]


def _x_axis(axis: _Axis, bottom: float, top: float, label: str) -> list[str]:
    body = []
    for value, shown in axis.ticks():
        x = axis(value)
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        body.append(_text(x, bottom + 14, shown, "middle"))
    body.append(_text((axis.start + axis.stop) / 2, bottom + 30, label, "middle", 'class="label"'))
    return body


def _y_axis(axis: _Axis, left: float, right: float, label: str, count: int = 5) -> list[str]:
    body = []
    for value, shown in axis.ticks(count):
        y = axis(value)
        body.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(_text(left - 6, y + 4, shown, "end"))
    if not label:
        return body
    middle = (axis.start + axis.stop) / 2
    turned = f'transform="rotate(-90 14 {middle:.1f})" class="label"'
    body.append(_text(14, middle, label, "middle", turned))
    return body


def _legend(names: Sequence[str], y: float, left: float = LEFT) -> list[str]:
    body, x = [], left
    for k, name in enumerate(names):
        shown = _cut(name)
        if x + 22 + 7 * len(shown) > WIDTH:
            x, y = left, y + 16
        body.append(f'<rect class="c{k % SERIES}" x="{x}" y="{y - 9}" width="11" height="11"/>')
        body.append(_text(x + 16, y, shown))
        x += 30 + 7 * len(shown)
    return body


def intervals(
    title: str,
    rows: Sequence[tuple[str, float, float | None, float | None, bool]],
    label: str,
    zero: float | None = None,
) -> str:
    """Points with intervals, one line each: (name, value, low, high, highlighted)."""
    bounds = [v for _, value, low, high, _ in rows for v in (value, low, high) if v is not None]
    bounds += [zero] if zero is not None else []
    height = TOP + 24 * len(rows) + BOTTOM
    axis = _Axis(min(bounds), max(bounds), LEFT, WIDTH - RIGHT)
    body = _x_axis(axis, height - BOTTOM, TOP, label)
    if zero is not None:
        body.append(
            f'<line class="zero" x1="{axis(zero):.1f}" x2="{axis(zero):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
    for k, (name, value, low, high, ours) in enumerate(rows):
        y = TOP + 24 * k + 12
        kind = "c0" if ours else "c7"
        body.append(_text(LEFT - 8, y + 4, _cut(name), "end", 'class="ours"' if ours else ""))
        if low is not None and high is not None:
            body.append(f'<line class="{kind} bar" x1="{axis(low):.1f}" x2="{axis(high):.1f}" y1="{y}" y2="{y}"/>')
        shape = "circle" if ours else "rect"
        x = axis(value)
        body.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y}" r="5"/>'
            if shape == "circle"
            else f'<rect class="{kind}" x="{x - 4:.1f}" y="{y - 4}" width="8" height="8"/>'
        )
    return _svg(height, title, body)


def histogram(
    title: str, values: Sequence[float], chosen: Sequence[float], label: str, cut: float | None = None
) -> str:
    """Counts of all values and of the chosen among them, in 40 bins; a line at the cut."""
    every, mine = np.asarray(values, np.float64), np.asarray(chosen, np.float64)
    edges = np.histogram_bin_edges(every, 40)
    counts, ours = np.histogram(every, edges)[0], np.histogram(mine, edges)[0]
    height = 250
    x = _Axis(float(edges[0]), float(edges[-1]), INSIDE, WIDTH - RIGHT)
    y = _Axis(0, float(max(1, counts.max())), height - BOTTOM, TOP + 20)
    body = [*_x_axis(x, height - BOTTOM, TOP + 20, label), *_y_axis(y, INSIDE, WIDTH - RIGHT, "examples")]
    for kind, bars in (("c7", counts), ("c0", ours)):
        for k, count in enumerate(bars):
            if count:
                left, right, top = x(edges[k]), x(edges[k + 1]), y(float(count))
                body.append(
                    f'<rect class="{kind}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(0.5, right - left - 1):.1f}" '
                    f'height="{y(0) - top:.1f}"/>'
                )
    if cut is not None:
        body.append(f'<line class="zero" x1="{x(cut):.1f}" x2="{x(cut):.1f}" y1="{TOP + 20}" y2="{height - BOTTOM}"/>')
    body += _swatches([("c0", "chosen"), ("c7", "all")])[0]
    return _svg(height, title, body)


def _swatches(kinds: Sequence[tuple[str, str]]) -> tuple[list[str], int]:
    """Names of colours above a picture, and by how much more than one line moves it down."""
    body: list[str] = []
    x, y = INSIDE + 6.0, 4
    for kind, name in kinds:
        if x + 16 + 7 * len(name) > WIDTH and body:
            x, y = INSIDE + 6.0, y + 16
        body.append(f'<rect class="{kind}" x="{x}" y="{y}" width="11" height="11"/>')
        body.append(_text(x + 16, y + 10, name))
        x += 40 + 7 * len(name)
    return body, y - 4


@dataclass(frozen=True)
class Cloud:
    """Points of one kind: their colour class and name."""

    colour: str
    name: str
    points: Sequence[Point]
    radius: float = 2.6


def two_clouds(points: Sequence[Point], chosen: int) -> list[Cloud]:
    """Points of which the first few were chosen."""
    return [Cloud("c7", "not chosen", points[chosen:], 2), Cloud("c0", "chosen", points[:chosen])]


@dataclass(frozen=True)
class Cross:
    """Lines through a picture at an x and a y, and a text for each quadrant: counter-clockwise from the upper right."""

    x: float
    y: float
    corners: Sequence[str] = ()


def scatter(
    title: str,
    clouds: Sequence[Cloud],
    x_label: str,
    y_label: str,
    marks: Sequence[tuple[float, float, str]] = (),
    cross: Cross | None = None,
    whole: bool = False,
) -> str:
    """Clouds of points, the last on top, within the 0.5 % and 99.5 % quantiles: points beyond are left out, or drawn at
    the edge to show the `whole`. `marks` are texts at places."""
    points = np.concatenate([np.asarray(cloud.points, np.float64).reshape(-1, 2) for cloud in clouds])
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    legend, more = _swatches([(cloud.colour, cloud.name) for cloud in reversed(clouds)])
    height, top = 430 + more, TOP + 20 + more
    x = _Axis(float(low[0]), float(high[0]), INSIDE, WIDTH - RIGHT)
    y = _Axis(float(low[1]), float(high[1]), height - BOTTOM, top)
    body = [*_x_axis(x, height - BOTTOM, top, x_label), *_y_axis(y, INSIDE, WIDTH - RIGHT, y_label)]
    for cloud in clouds:
        for a, b in cloud.points:
            if whole or (x.low <= a <= x.high and y.low <= b <= y.high):
                place = f'cx="{x(x.inside(a)):.1f}" cy="{y(y.inside(b)):.1f}"'
                body.append(f'<circle class="{cloud.colour} dot" {place} r="{cloud.radius:g}"/>')
    if cross is not None:
        body += _crossed(cross, x, y)
    return _svg(height, title, [*body, *_marked(marks, x, y), *legend])


def _crossed(cross: Cross, x: _Axis, y: _Axis) -> list[str]:
    across, up = x(cross.x), y(cross.y)
    body = [
        f'<line class="zero" x1="{across:.1f}" x2="{across:.1f}" y1="{y.stop}" y2="{y.start}"/>',
        f'<line class="zero" x1="{x.start}" x2="{x.stop}" y1="{up:.1f}" y2="{up:.1f}"/>',
    ]
    left, right, top, bottom = (x.start + 8, "start"), (x.stop - 8, "end"), y.stop + 16, y.start - 7
    places = ((right, top), (left, top), (left, bottom), (right, bottom))
    for text, ((at, anchor), line) in zip(cross.corners, places, strict=False):
        body.append(_text(at, line, text, anchor, 'class="corner"'))
    return body


def _marked(marks: Sequence[tuple[float, float, str]], x: _Axis, y: _Axis) -> list[str]:
    """Texts at places; one that would cover an earlier one is left out."""
    body: list[str] = []
    taken: list[Point] = []
    for a, b, text in marks:
        across, up = min(max(x(a), x.start), x.stop), min(max(y(b), y.stop), y.start)
        if all(abs(across - p) > 12 or abs(up - q) > 14 for p, q in taken):
            taken.append((across, up))
            body.append(_text(across, up + 4, text, "middle", 'class="mark"'))
    return body


def panels(title: str, series: Mapping[str, Sequence[Curve]], x_label: str, y_label: str) -> str:
    """A little picture for each name, with an axis of its own: the mean of its runs, with a band from the lowest to the
    highest. Heights are not to be compared between them."""
    drawn = {name: _band(runs) for name, runs in series.items()}
    drawn = {name: band for name, band in drawn.items() if len(band[0])}
    columns = 2
    across, down = WIDTH // columns, 190
    body: list[str] = []
    for k, (name, band) in enumerate(drawn.items()):
        left, top = across * (k % columns), down * (k // columns)
        body += _panel(name, band, (left + INSIDE, left + across - 14), (top + 24, top + down - BOTTOM), x_label)
    if drawn:
        lines = -(-len(drawn) // columns)
        body.append(
            _text(
                14,
                down * lines / 2,
                y_label,
                "middle",
                f'transform="rotate(-90 14 {down * lines / 2:.1f})" class="label"',
            )
        )
    return _svg(down * max(1, -(-len(drawn) // columns)), title, body)


def _panel(
    name: str, band: tuple[F64, F64, F64, F64], across: tuple[int, int], down: tuple[int, int], x_label: str
) -> list[str]:
    steps, low, mean, high = band
    x = _Axis(0, float(steps.max()), *across)
    y = _Axis(float(low.min()), float(high.max()), down[1], down[0])
    body = [*_x_axis(x, down[1], down[0], x_label), *_y_axis(y, across[0], across[1], "", 4)]
    body.append(_text(across[0], down[0] - 8, _cut(name, 34), "start", 'class="corner"'))
    upper, lower, line = (
        [f"{x(s):.1f},{y(v):.1f}" for s, v in zip(steps, values, strict=True)] for values in (high, low, mean)
    )
    body.append(f'<polygon class="c0 band" points="{" ".join([*upper, *lower[::-1]])}"/>')
    body.append(f'<polyline class="c0 line" points="{" ".join(line)}"/>')
    return body


def _band(runs: Sequence[Curve]) -> tuple[F64, F64, F64, F64]:
    """(steps, lowest, mean, highest) of runs of [step, value], smoothed over a twentieth of the steps."""
    clean = [[(row[0], row[1]) for row in run if row[0] is not None and row[1] is not None] for run in runs]
    clean = [run for run in clean if run]
    if not clean:
        return np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)
    length = min(len(run) for run in clean)
    values = np.array([[v for _, v in run[:length]] for run in clean], np.float64)
    width = max(1, length // 20)
    kernel = np.ones(width) / width
    padded = np.pad(values, ((0, 0), (width - 1, 0)), mode="edge")
    smooth = np.array([np.convolve(row, kernel, "valid") for row in padded])
    return np.array([s for s, _ in clean[0][:length]], np.float64), smooth.min(0), smooth.mean(0), smooth.max(0)


def milestones(runs: Sequence[Curve]) -> dict[str, float | None]:
    """The mean curve in figures: its steps, and its value at the start, a quarter, the middle, and the end."""
    steps, _, mean, _ = _band(runs)
    if not len(steps):
        return {"steps": None, "start": None, "quarter": None, "middle": None, "end": None}
    last = len(steps) - 1
    places = {"start": 0, "quarter": last // 4, "middle": last // 2, "end": last}
    return {"steps": float(steps[-1]), **{name: float(mean[k]) for name, k in places.items()}}


def shares(title: str, rows: Sequence[tuple[str, Mapping[str, int]]]) -> str:
    """Stacked bars of shares, one line for each (name, {source: rows}); sources beyond seven are summed up."""
    most: dict[str, float] = {}  # by its largest share in any line, or a small source that was chosen would be hidden
    for _, counts in rows:
        for source, n in counts.items():
            most[source] = max(most.get(source, 0.0), n / max(1, sum(counts.values())))
    names = sorted(most, key=lambda s: (-most[s], s))
    shown, rest = (names, []) if len(names) <= SERIES else (names[: SERIES - 1], names[SERIES - 1 :])
    height = 26 * len(rows) + 46 + 16 * (1 + len(shown) // 4)
    body = []
    for k, (name, counts) in enumerate(rows):
        y, x, whole = 8 + 26 * k, float(LEFT), max(1, sum(counts.values()))
        body.append(_text(LEFT - 8, y + 14, _cut(name), "end"))
        parts = [(s, counts.get(s, 0)) for s in shown] + (
            [("others", sum(counts.get(s, 0) for s in rest))] if rest else []
        )
        for j, (source, n) in enumerate(parts):
            width = n / whole * (WIDTH - RIGHT - LEFT)
            if width > 0:
                body.append(
                    f'<rect class="c{j % SERIES}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="20">'
                    f"<title>{escape(_cut(source, 60))}: {n} of {whole} ({n / whole:.1%})</title></rect>"
                )
                if width > NUMBERED:  # a number, for paper without colours
                    body.append(_text(x + width / 2, y + 14, str(j + 1), "middle", 'class="corner"'))
            x += width
    legend = [f"{j} {source}" for j, source in enumerate([*shown, *(["others"] if rest else [])], 1)]
    body += _legend(legend, 26 * len(rows) + 34, 20)
    return _svg(height, title, body)


def funnel(title: str, steps: Sequence[tuple[str, int, int]]) -> str:
    """Bars that narrow, one line for each (name, rows left, rows that went here): those left dark, those that went at
    their end."""
    left = 250
    whole = max(1, max(rows + went for _, rows, went in steps))
    scale = (WIDTH - RIGHT - 60 - left) / whole
    body = []
    for k, (name, rows, went) in enumerate(steps):
        y, end = 8 + 24 * k, left + scale * rows
        body.append(_text(left - 8, y + 13, _cut(name, 38), "end", "" if went else 'class="ours"'))
        body.append(f'<rect class="c0" x="{left}" y="{y}" width="{scale * rows:.1f}" height="18"/>')
        if went:
            width = max(1.0, scale * went)
            body.append(f'<rect class="c1" x="{end:.1f}" y="{y}" width="{width:.1f}" height="18"/>')
            end += width
        body.append(_text(end + 6, y + 13, f"−{went:,}" if went else f"{rows:,}"))
    return _svg(24 * len(steps) + 16, title, body)


def heat(title: str, names: Sequence[str], values: Sequence[Sequence[float | None]]) -> str:
    """A square of values from 0 to 1, each written in its cell."""
    size = min(46, (WIDTH - 220) // max(1, len(names)))
    height = 20 + size * len(names) + 24
    body = []
    for i, name in enumerate(names):
        body.append(_text(200, 16 + size * i + size / 2 + 4, f"{_cut(name, 24)}  {i + 1}", "end"))
        body.append(_text(210 + size * i + size / 2, 16 + size * len(names) + 16, str(i + 1), "middle"))
        for j, value in enumerate(values[i]):
            shade = 0.0 if value is None else max(0.0, min(1.0, value))
            x, y = 210 + size * j, 10 + size * i
            body.append(
                f'<rect class="c0" fill-opacity="{0.08 + 0.6 * shade:.2f}" x="{x}" y="{y}" '
                f'width="{size - 2}" height="{size - 2}"/>'
            )
            body.append(_text(x + size / 2 - 1, y + size / 2 + 3, "–" if value is None else f"{value:.2f}", "middle"))
    return _svg(height, title, body)
