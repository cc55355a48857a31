# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG text. Colors are CSS variables of the page, for light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 560, 150
_TALL = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 8, 8, 24
_MAX_LINE_POINTS = 300
"""Maximum number of points of a line; longer lines are reduced to the minimum and maximum of each interval."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One quantity over time.

    Attributes:
        name: for the legend.
        color: a CSS color, such as `var(--camera)`.
        values: one per timestamp, NaN where there is none.
    """

    name: str
    color: str
    values: Values


@dataclass(frozen=True)
class Axes:
    """Ranges of a plot's axes.

    Attributes:
        start, end: at the left and right edge: seconds, or of another unit.
        low, high: values at the lower and upper edge.
        unit: of the horizontal axis; `s` for time, over which the page's script moves a cursor.
        height: of the plot in pixels.
    """

    start: float
    end: float
    low: float
    high: float
    unit: str = "s"
    height: int = HEIGHT

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return _LEFT + (value - self.start) / max(self.end - self.start, 1e-9) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        share = (value - self.low) / max(self.high - self.low, 1e-9)
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)


def line_plot(
    times: Values,
    lines: Sequence[Line],
    unit: str,
    low: float | None = None,
    high: float | None = None,
    x_unit: str = "s",
) -> str:
    """Draw lines over time or another quantity, with a legend.

    Args:
        times: (n,) seconds, or of `x_unit`; ascending.
        lines: each with n values.
        unit: of the values.
        low, high: ends of the axis unless a value lies beyond; by default the range of the values and 0.
        x_unit: of the horizontal axis, see `Axes`.
    """
    axes = _axes(times, [line.values for line in lines], low, high, x_unit)
    drawn = [
        f'<path class="line" style="stroke:{escape(line.color)}" d="{_path(axes, times, line.values)}"/>'
        for line in lines
    ]
    return _plot(axes, unit, lines, drawn)


def stacked_plot(times: Values, lines: Sequence[Line], unit: str, high: float | None = None) -> str:
    """Draw stacked areas over time; arguments as for `line_plot`, NaN counts as 0."""
    total = np.zeros(len(times))
    edges = [total := total + np.nan_to_num(line.values) for line in lines]
    axes = _axes(times, edges[-1:], 0.0, high)
    drawn = []
    for number in range(len(lines) - 1, -1, -1):  # each area reaches down to 0 and is partly covered by the next ones
        points = _path(axes, times, edges[number])
        if points:
            first, last, floor = axes.x(times[0]), axes.x(times[-1]), axes.y(0)
            closed = f"{points}L{last:.1f},{floor:.1f}L{first:.1f},{floor:.1f}Z"
            drawn.append(f'<path class="area" style="fill:{escape(lines[number].color)}" d="{closed}"/>')
    return _plot(axes, unit, lines, drawn)


def reliability_diagram(share: Values, confidence: Values, accuracy: Values) -> str:
    """Draw the accuracy of each bin of the confidence as a bar, and the gap to its mean confidence.

    Args:
        share: (n,) parts of the pixels in bins of equal width from 0 to 1; their bars are above the diagram.
        confidence, accuracy: (n,) means of each bin, 0 to 1; NaN for an empty one.
    """
    axes = Axes(0.0, 1.0, 0.0, 1.2, "confidence", _TALL)
    edges = np.linspace(0, 1, len(share) + 1)
    drawn = []
    for left, right, part, sure, correct in zip(edges, edges[1:], share, confidence, accuracy, strict=False):
        if not part > 0:
            continue
        x, width = axes.x(left) + 1, axes.x(right) - axes.x(left) - 2
        title = f"<title>confidence {sure:.3f}, accuracy {correct:.3f}, {100 * part:.1f} % of the pixels</title>"
        bars = [("share", 1.02 + 0.18 * part / share.max(), 1.02), ("accuracy", correct, 0.0)]
        bars.append(("gap", max(sure, correct), min(sure, correct)))
        for kind, top, bottom in bars:
            y, height = axes.y(top), axes.y(bottom) - axes.y(top)
            drawn.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">{title}</rect>'
            )
    drawn.append(f'<path class="ideal" d="M{axes.x(0):.1f},{axes.y(0):.1f}L{axes.x(1):.1f},{axes.y(1):.1f}"/>')
    colors = {"accuracy": "--accent", "gap to the confidence": "--bad", "share of the pixels": "--faint"}
    lines = [Line(name, f"var({color})", share) for name, color in colors.items()]
    return _plot(axes, "accuracy", lines, drawn, np.linspace(0, 1, 6))


def presence_plot(times: Values, lines: Sequence[Line]) -> str:
    """Draw a bar per line while its values are above 0, such as the sensors used over time."""
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    axes = Axes(float(times[0]), float(times[-1]) + gap, 0, 1)
    height, rows = 22, []
    for row, line in enumerate(lines):
        for first, last in _run_bounds(line.values > 0):
            x, end = axes.x(times[first]), axes.x(min(times[last] + gap, axes.end))
            rows.append(
                f'<rect x="{x:.1f}" y="{row * height + 4}" width="{max(end - x, 1):.1f}" height="{height - 8}" rx="3" '
                f'style="fill:{escape(line.color)}"/>'
            )
        rows.append(f'<text x="{_LEFT - 6}" y="{row * height + 15}" class="end">{escape(line.name)}</text>')
    size = height * len(lines) + _BOTTOM
    return _svg(size, rows + _x_ticks(axes, size), axes)


def heat_map(cells: Values, rows: Sequence[str], columns: Sequence[str], titles: Sequence[Sequence[str]]) -> str:
    """Draw a matrix of shaded cells.

    Args:
        cells: (r, c) in 0 … 1.
        rows, columns: their names.
        titles: r times c tooltips of the cells.
    """
    side, left, top = 26, 110, 96
    width, height = left + side * len(columns) + 4, top + side * len(rows) + 4
    parts = [
        f'<text x="{left - 6}" y="{top + side * r + 17}" class="end">{escape(name)}</text>'
        for r, name in enumerate(rows)
    ]
    parts += [
        f'<text transform="translate({left + side * c + 17},{top - 6}) rotate(-60)">{escape(name)}</text>'
        for c, name in enumerate(columns)
    ]
    for r, c in np.ndindex(*cells.shape):
        x, y, share = left + side * c, top + side * r, float(cells[r, c])
        kind = "hit" if rows[r] == columns[c] else "miss"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{side - 2}" height="{side - 2}" rx="3" class="cell"/>'
            f'<rect x="{x}" y="{y}" width="{side - 2}" height="{side - 2}" rx="3" class="{kind}" '
            f'fill-opacity="{share:.3f}"><title>{escape(titles[r][c])}</title></rect>'
        )
        if share >= 0.005:
            parts.append(
                f'<text x="{x + side / 2 - 1}" y="{y + 16}" class="{"over" if share > 0.55 else "value"}">'
                f"{100 * share:.0f}</text>"
            )
    return (
        f'<svg class="map" viewBox="0 0 {width} {height}" style="min-width:{width}px;max-width:{round(1.3 * width)}px" '
        f'role="img">{"".join(parts)}</svg>'
    )


def _plot(
    axes: Axes, unit: str, lines: Sequence[Line], drawn: Sequence[str], ticks: Sequence[float] | Values = ()
) -> str:
    grid = []
    for tick in ticks if len(ticks) else _ticks(axes.low, axes.high):
        y = axes.y(tick)
        grid.append(f'<path class="grid" d="M{_LEFT},{y:.1f}H{WIDTH - _RIGHT}"/>')
        grid.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{tick:g}</text>')
    names = "".join(
        f'<span><i style="background:{escape(line.color)}"></i>{escape(line.name)}</span>'
        for line in lines
        if line.name
    )
    words = unit if axes.unit == "s" else f"{unit} over {axes.unit}"
    legend = f'<div class="legend">{names}<em>{escape(words)}</em></div>'
    return _svg(axes.height, [*grid, *drawn, *_x_ticks(axes, axes.height)], axes) + legend


def _svg(height: int, parts: Sequence[str], axes: Axes) -> str:
    if axes.unit != "s":
        return f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'
    cursor = f'<path class="cursor" d="M{_LEFT},0V{height - _BOTTOM + 4}"/>'
    return (
        f'<svg class="plot time" viewBox="0 0 {WIDTH} {height}" role="img" data-start="{axes.start:.3f}" '
        f'data-end="{axes.end:.3f}" data-left="{_LEFT}" data-right="{WIDTH - _RIGHT}">{"".join(parts)}{cursor}</svg>'
    )


def _x_ticks(axes: Axes, height: int) -> list[str]:
    """Labels of the horizontal axis; a unit other than seconds is in the legend."""
    ticks = [tick for tick in _ticks(axes.start, axes.end, 6) if axes.start <= tick <= axes.end]
    unit = " s" if axes.unit == "s" else ""
    return [f'<text x="{axes.x(t):.1f}" y="{height - 6}" class="middle">{t:g}{unit}</text>' for t in ticks]


def _axes(times: Values, rows: Sequence[Values], low: float | None, high: float | None, unit: str = "s") -> Axes:
    values = np.concatenate(rows) if rows else np.zeros(0)
    values = values[np.isfinite(values)]
    least = min(0.0, float(values.min(initial=0.0)) * 1.05) if low is None else min(low, float(values.min(initial=low)))
    most = float(values.max(initial=1e-3)) * 1.05 if high is None else max(high, float(values.max(initial=high)))
    return Axes(float(times[0]), float(times[-1]), least, most, unit)


def _path(axes: Axes, times: Values, values: Values) -> str:
    """Path data of a line, interrupted at NaN values."""
    parts = []
    for first, last in _run_bounds(np.isfinite(values)):
        xs, ys = _thin(times[first : last + 1], values[first : last + 1])
        points = [f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in zip(xs, ys, strict=True)]
        parts.append("M" + "L".join(points if len(points) > 1 else points * 2))
    return "".join(parts)


def _thin(times: Values, values: Values) -> tuple[Values, Values]:
    if len(times) <= _MAX_LINE_POINTS:
        return times, values
    keep: set[int] = {0, len(times) - 1}
    for part in np.array_split(np.arange(len(times)), _MAX_LINE_POINTS // 2):
        keep.update((int(part[values[part].argmin()]), int(part[values[part].argmax()])))
    chosen = sorted(keep)
    return times[chosen], values[chosen]


def _run_bounds(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, last) index of every run of set flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round tick values between two limits."""
    raw = max(high - low, 1e-9) / count
    step = 10 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]
