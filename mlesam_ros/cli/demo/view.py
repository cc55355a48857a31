"""What a person sees while the demo runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlesam_ros.cli.demo.score import PhaseScore, latency_ms
from mlesam_ros.cli.demo.witness import DemoCollector
from mlesam_ros.frame import MODALITIES, NANOSECONDS

_BAR = 10
_WIDTH = 100
_REDRAW = 0.25  # s
_LINE = 1.0  # s between lines where there is no terminal to redraw


class View:
    """A live table on a terminal, a line a second elsewhere."""

    def __init__(self, console: Console, witness: DemoCollector, live: bool) -> None:
        """Show nothing yet.

        Args:
            console: where to.
            witness: what to show.
            live: redraw in place instead of adding lines.
        """
        self._console = console
        self._witness = witness
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None
        self._next = 0.0

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear it away; the figures are printed afterwards."""
        if self._live:
            self._live.stop()

    def show(self) -> None:
        """Bring it up to date, if it is time."""
        if time.monotonic() < self._next or not self._witness.score.start:
            return
        self._next = time.monotonic() + (_REDRAW if self._live else _LINE)
        now = time.time_ns()
        if self._live:
            self._live.update(self._picture(now), refresh=True)
        else:
            self._console.print(self._line(now), highlight=False, soft_wrap=True)

    def _line(self, now: int) -> str:
        witness = self._witness
        score = witness.score.phase_of(now)
        latency = latency_ms(witness.recent_latencies())
        used = [sensor.modality for sensor in _sensors(witness.status(now)) if sensor.used]
        return (
            f"{(now - witness.score.start) / NANOSECONDS:5.1f} s  {score.phase.title if score else 'end':18}"
            f"  {witness.rate(now):4.1f} Hz  p50 {number(latency['p50'])} ms  p95 {number(latency['p95'])} ms"
            f"  mIoU {number(score.miou if score else None)} %  {' '.join(used)}"
        )

    def _picture(self, now: int) -> Group:
        witness, score = self._witness, self._witness.score
        phase = score.phase_of(now)
        latency = latency_ms(witness.recent_latencies())
        head = Table.grid(padding=(0, 3))
        head.add_row(
            Text(phase.phase.title if phase else "end", style="bold"),
            f"{witness.rate(now):4.1f} Hz",
            f"stamp to mask p50 {number(latency['p50'], 0)} ms, p95 {number(latency['p95'], 0)} ms",
            f"mIoU {number(phase.miou if phase else None)} % (so far {number(score.miou)} %)",
        )
        total = score.phases[-1].phase.end
        done = ProgressBar(total=total, completed=min(total, now - score.start), width=_WIDTH - 6)
        return Group(
            Panel(Group(head, done, Text(), self._sensors(now)), title="mlesam demo", width=_WIDTH), self._phases(phase)
        )

    def _sensors(self, now: int) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        sensors = {sensor.modality: sensor for sensor in _sensors(self._witness.status(now))}
        levels = list(dict.fromkeys(w.level for sensor in sensors.values() for w in sensor.weights))
        for title in ("sensor", "", "age", *levels):
            table.add_column(title, justify="right" if title == "age" else "left", no_wrap=True)
        for modality in MODALITIES:
            sensor = sensors.get(modality)
            alive = sensor is not None and sensor.used
            mark = Text("● alive", style="green") if alive else Text("○ silent", style="red")
            age = f"{sensor.age * 1e3:.0f} ms" if sensor is not None and alive else "–"
            weights = {w.level: w.weight for w in sensor.weights} if sensor is not None else {}
            table.add_row(modality, mark, age, *(_bar(weights.get(level)) for level in levels))
        return table

    def _phases(self, current: PhaseScore | None) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="dim", width=_WIDTH)
        for title in ("phase", "masks", "of", "mIoU", "p50", "longest gap"):
            table.add_column(title, justify="left" if title == "phase" else "right")
        score = self._witness.score
        for entry in score.phases:
            if entry.offered:
                style = "bold" if entry is current else ""
                table.add_row(
                    *phase_row(entry, score.longest_gap(entry) if entry is not current else None), style=style
                )
        return table


def phase_row(entry: PhaseScore, gap: float | None) -> Sequence[str]:
    """One phase's figures as text: name, masks, moments offered, mIoU, median latency, longest gap."""
    return (
        entry.phase.title,
        str(len(entry.arrivals)),
        str(entry.offered),
        f"{number(entry.miou)} %",
        f"{number(latency_ms(entry.latencies)['p50'])} ms",
        "–" if gap is None else f"{gap:.2f} s",
    )


def _sensors(status: Any) -> Sequence[Any]:
    return status.sensors if status is not None else ()


def number(value: float | None, digits: int = 1) -> str:
    """A figure with so many decimals; a dash for one that there is not."""
    return "–" if value is None else f"{value:.{digits}f}"


def _bar(weight: float | None) -> Text:
    if weight is None:
        return Text("–", style="dim")
    filled = round(weight * _BAR)
    return (
        Text("█" * filled, style="cyan").append("░" * (_BAR - filled), style="dim").append(f" {weight:.2f}", style="")
    )
