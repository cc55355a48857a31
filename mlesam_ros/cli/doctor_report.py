"""Print a doctor's report on a terminal, for `mlesam doctor`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlesam_ros.doctor.diagnosis import FAULTY, HEALTHY, USABLE, DoctorReport, words_of
from mlesam_ros.findings import ERROR, NOTE, WARNING

_COLORS = {ERROR: "bold red", WARNING: "yellow", NOTE: "dim"}
_VERDICTS = {
    HEALTHY: ("bold green", "healthy: nothing to change"),
    USABLE: ("bold yellow", "usable: it works, but look at the warnings"),
    FAULTY: ("bold red", "faulty: something does not work, or the result is wrong"),
}
_COLUMNS = (
    ("messages", "messages"), ("Hz", "rate_hz"), ("jitter ms", "jitter_ms"), ("delay ms", "delay_ms"),
    ("longest gap s", "longest_gap_s"), ("size", "size"), ("used", "used"), ("superseded", "superseded"),
    ("late", "late"), ("unmatched", "unmatched"), ("refused", "refused"),
)  # fmt: skip


def show(checkup: DoctorReport, console: Console | None = None) -> None:
    """Print a report: figures, findings, verdict and recommended parameters.

    Args:
        checkup: the report.
        console: output console; standard output by default.
    """
    console = console or Console(highlight=False)
    console.print(f"{checkup.name}, {checkup.seconds:.1f} s", markup=False)
    (_table if console.is_terminal else _lines)(checkup, console)
    if checkup.sets:
        console.print(_sets(checkup.sets), markup=False, soft_wrap=not console.is_terminal)
    for finding in checkup.findings:
        head = Text(f"{finding.severity} {finding.subject}: ", style=_COLORS[finding.severity])
        console.print(head.append(finding.message, style="default"), soft_wrap=not console.is_terminal)
        if finding.remedy:
            console.print(Text(f"    {finding.remedy}"), soft_wrap=not console.is_terminal)
    color, words = _VERDICTS[checkup.verdict]
    console.print(Text(words, style=color))
    if checkup.parameters:
        console.print("These parameters of the node would help:")
        for line in words_of(checkup.parameters):
            console.print(f"    {line}", markup=False)


def _table(checkup: DoctorReport, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sensor")
    for title, key in _COLUMNS:
        table.add_column(title, justify="left" if key == "size" else "right", overflow="fold")
    for modality, row in checkup.sensors.items():
        table.add_row(f"{modality} [dim]{row['topic']}[/dim]", *(_cell(row.get(key)) for _, key in _COLUMNS))
    console.print(table)


def _lines(checkup: DoctorReport, console: Console) -> None:
    for modality, row in checkup.sensors.items():
        told = [f"{title} {_cell(row[key])}" for title, key in _COLUMNS if row.get(key) is not None]
        console.print(f"{modality} {row['topic']}: {', '.join(told)}", markup=False, soft_wrap=True)


def _sets(sets: dict[str, Any]) -> str:
    parts = [f"{m} in {100 * count / sets['sets']:.0f} %" for m, count in sets["parts"].items() if sets["sets"]]
    return (
        f"The node would make {sets['sets']} sets of it, {sets['rate_hz'] or 0:g} a second, {sets['complete']} of them "
        f"complete: {', '.join(parts) or 'none'}."
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
