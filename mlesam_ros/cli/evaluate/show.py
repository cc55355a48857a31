"""An evaluation's figures on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlesam_ros.sync import COUNTERS

Figures = Mapping[str, Any]


def show_bag(figures: Figures, console: Console) -> None:
    """One bag: its warnings, its sensors, its masks, and where the rest lies."""
    _warn(figures["warnings"])
    fates = [fate for fate in COUNTERS if fate in COUNTERS[:2] or any(e[fate] for e in figures["sensors"].values())]
    (_sensor_table if console.is_terminal else _sensor_lines)(figures, fates, console)
    _print_figures(figures, console)


def _sensor_lines(figures: Figures, fates: list[str], console: Console) -> None:
    """For files and pipes: a line each, whole whatever its length."""
    for modality, entry in figures["sensors"].items():
        counts = ", ".join(f"{fate} {entry[fate]}" for fate in fates)
        _say(f"{modality} {entry['topic']}: {counts}", console)


def _sensor_table(figures: Figures, fates: list[str], console: Console) -> None:
    table = Table(title=Path(figures["bag"]).name, title_justify="left")
    for heading in ("sensor", "topic", *fates):
        table.add_column(heading, justify="right" if heading in fates else "left", no_wrap=heading in fates)
    for modality, entry in figures["sensors"].items():
        counts = (entry[fate] for fate in fates)
        table.add_row(modality, entry["topic"], *map(str, counts))
    console.print(table)


def show_bags(figures: Figures, console: Console) -> None:
    """Several bags: a line each, then all of them as one."""
    _warn(figures["warnings"])
    (_bag_table if console.is_terminal else _bag_lines)(figures, console)
    for row in figures["bags"]:
        if "error" in row:
            _say(f"{row['bag']}: {row['error']}", console)
    _print_figures(figures, console)


def _bag_lines(figures: Figures, console: Console) -> None:
    for row in figures["bags"]:
        if "error" not in row:
            found = f"{row['masks']} masks, mIoU {_number(row['miou'], ' %')}"
            _say(f"{row['bag']}: {found}, {_number(row['latency_ms']['p50'], ' ms')} each in the median", console)


def _bag_table(figures: Figures, console: Console) -> None:
    table = Table(title=f"{len(figures['bags'])} bags", title_justify="left")
    for heading in ("bag", "masks", "mIoU", "p50 latency", "warnings"):
        table.add_column(heading, justify="left" if heading == "bag" else "right")
    for row in figures["bags"]:
        if "error" in row:
            table.add_row(row["bag"], "failed", "–", "–", "–")
        else:
            latency = _number(row["latency_ms"]["p50"], " ms")
            table.add_row(row["bag"], str(row["masks"]), _number(row["miou"], " %"), latency, str(row["warnings"]))
    console.print(table)


def _print_figures(figures: Figures, console: Console) -> None:
    latency = figures["latency_ms"]
    lines = [
        f"{figures['masks']} masks, {_number(latency['p50'], ' ms')} each in the median, "
        f"{_number(latency['p95'], ' ms')} at the 95th percentile",
        f"consistency {_number(figures['consistency'], ' %')}, confidence {_number(figures['confidence'], ' %')}",
    ]
    if figures["compared"]:
        lines.insert(0, f"mIoU {_number(figures['miou'], ' %')} over {figures['compared']} masks with a truth")
    if figures["any_modal"]:
        lines.append(f"average over every subset of the sensors: mIoU {_number(figures['any_modal']['average'], ' %')}")
    if figures["interrupted"]:
        lines.append("interrupted: what was done until then is kept")
    lines.append(f"results are in {figures['output_dir']}")
    for line in lines:
        _say(line, console)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        _say(f"warning: {warning}", Console(stderr=True))


def _say(line: str, console: Console) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.1f}{unit}"
