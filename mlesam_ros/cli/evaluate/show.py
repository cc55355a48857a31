"""An evaluation's figures on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_FATES = ("received", "used", "superseded", "late", "unmatched", "refused")
Figures = Mapping[str, Any]


def show_bag(figures: Figures, console: Console) -> None:
    """One bag: its warnings, its sensors, its masks, and where the rest lies."""
    _warn(figures["warnings"])
    table = Table(title=Path(figures["bag"]).name, title_justify="left")
    fates = [fate for fate in _FATES if fate in _FATES[:2] or figures["counters"][fate]]
    for heading in ("sensor", "topic", *fates):
        table.add_column(heading, justify="right" if heading in fates else "left", no_wrap=heading in fates)
    for modality, entry in figures["sensors"].items():
        counts = (entry[fate] for fate in fates)
        table.add_row(modality, entry["topic"], *map(str, counts))
    console.print(table)
    _print_figures(figures, console)


def show_bags(figures: Figures, console: Console) -> None:
    """Several bags: a line each, then all of them as one."""
    _warn(figures["warnings"])
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
    for row in figures["bags"]:
        if "error" in row:
            console.print(f"{row['bag']}: {row['error']}", markup=False, highlight=False, soft_wrap=True)
    _print_figures(figures, console)


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
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        Console(stderr=True).print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.1f}{unit}"
