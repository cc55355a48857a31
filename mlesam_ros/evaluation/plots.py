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
        start, end: seconds at the left and right edge.
        low, high: values at the lower and upper edge.
    """

    start: float
    end: float
    low: float
    high: float

    def x(self, seconds: float) -> float:
        """Pixels from the left."""
        return _LEFT + (seconds - self.start) / max(self.end - self.start, 1e-9) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        share = (value - self.low) / max(self.high - self.low, 1e-9)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def line_plot(
    times: Values, lines: Sequence[Line], unit: str, low: float | None = None, high: float | None = None
) -> str:
    """Draw lines over time, with a legend and a cursor that the page's script moves.

    Args:
        times: (n,) seconds, ascending.
        lines: each with n values.
        unit: of the values.
        low, high: ends of the axis unless a value lies beyond; by default the range of the values and 0.
    """
    axes = _axes(times, [line.values for line in lines], low, high)
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
    return _svg(size, rows + _seconds(axes, size), axes)


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


def _plot(axes: Axes, unit: str, lines: Sequence[Line], drawn: Sequence[str]) -> str:
    grid = []
    for tick in _ticks(axes.low, axes.high):
        y = axes.y(tick)
        grid.append(f'<path class="grid" d="M{_LEFT},{y:.1f}H{WIDTH - _RIGHT}"/>')
        grid.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{tick:g}</text>')
    names = "".join(
        f'<span><i style="background:{escape(line.color)}"></i>{escape(line.name)}</span>'
        for line in lines
        if line.name
    )
    legend = f'<div class="legend">{names}<em>{escape(unit)}</em></div>'
    return _svg(HEIGHT, [*grid, *drawn, *_seconds(axes, HEIGHT)], axes) + legend


def _svg(height: int, parts: Sequence[str], axes: Axes) -> str:
    cursor = f'<path class="cursor" d="M{_LEFT},0V{height - _BOTTOM + 4}"/>'
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" data-start="{axes.start:.3f}" '
        f'data-end="{axes.end:.3f}" data-left="{_LEFT}" data-right="{WIDTH - _RIGHT}">{"".join(parts)}{cursor}</svg>'
    )


def _seconds(axes: Axes, height: int) -> list[str]:
    ticks = [tick for tick in _ticks(axes.start, axes.end, 6) if axes.start <= tick <= axes.end]
    return [f'<text x="{axes.x(t):.1f}" y="{height - 6}" class="middle">{t:g} s</text>' for t in ticks]


def _axes(times: Values, rows: Sequence[Values], low: float | None, high: float | None) -> Axes:
    values = np.concatenate(rows) if rows else np.zeros(0)
    values = values[np.isfinite(values)]
    least = min(0.0, float(values.min(initial=0.0)) * 1.05) if low is None else min(low, float(values.min(initial=low)))
    most = float(values.max(initial=1e-3)) * 1.05 if high is None else max(high, float(values.max(initial=high)))
    return Axes(float(times[0]), float(times[-1]), least, most)


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
