# SPDX-License-Identifier: Apache-2.0
"""`mlesam doctor`: diagnose a bag or a running system, and print the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlesam_ros.cli.common import (
    CalibrationOption,
    JsonOption,
    ParamOption,
    ParamsOption,
    TopicOption,
    configure_ros_env,
    epilog,
    format_help,
    read_parameters,
    write_json,
)
from mlesam_ros.errors import ERROR, NOTE, WARNING, BagError, Finding
from mlesam_ros.types import NODE

if TYPE_CHECKING:
    from mlesam_ros.config import NodeParameters
    from mlesam_ros.doctor.diagnosis import DoctorReport


_EXAMPLES = epilog(
    "mlesam doctor drive/",
    "mlesam doctor drive.mcap --topic camera:=/zed/left/image_raw --calibration rig.yaml",
    "mlesam doctor drive/ --params rig.params.yaml -p lidar.offset:=0.05",
    "mlesam doctor drive/ --json - | jq .findings",
    "mlesam doctor",
    "mlesam doctor --node /robot/mlesam --seconds 10",
)
_HAS_ERRORS = 1
"""Exit code."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(doctor), epilog=_EXAMPLES)(doctor)


def doctor(
    bag: Annotated[
        Path | None, typer.Argument(help="rosbag2 folder, .mcap or .db3 file; the live topics if omitted.")
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    node: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Full name of the node; selects the sections of --params. Live, a running node's settings take "
            "precedence over the file.",
        ),
    ] = NODE,
    topic: TopicOption = None,
    calibration: CalibrationOption = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="Live: how long to listen.")] = 5.0,
    json: JsonOption = None,
) -> None:
    """Diagnose a recording, or the live topics, and recommend changes.

    For a recording it reports rates, gaps, jitter, stamps, lost packets, CameraInfo, transforms, the alignment of LiDAR
    and image, the sets that the node would make of it, and parameters that would improve them. Live it reports
    publishers, types, QoS, rates, stamps, calibration and the node's own status.

    Exit code 0: no errors, at most warnings. 1: errors. 2: the recording cannot be read.
    """
    parameters = read_parameters(params, param, node, topic, calibration_file=calibration)
    if bag is None:
        from mlesam_ros.parameter_file import read_node_parameters

        given = read_node_parameters(params, param or (), node)
        rules = {name: given.values[name] for name in given.overridden}
        known = {name: value for name, value in parameters.values().items() if name in parameters.overridden}
        report = _diagnose_live({**rules, **known}, params, node, seconds)
    else:
        try:
            report = _diagnose_bag(bag, parameters)
        except BagError as error:
            if json is not None:
                write_json(_unreadable(bag, error), json)
            raise
    if json is not None:
        write_json(report.to_dict(), json)
    if json != "-":
        print_report(report)
    if report.verdict == "faulty":
        raise typer.Exit(_HAS_ERRORS)


def _diagnose_bag(bag: Path, parameters: NodeParameters) -> DoctorReport:
    from mlesam_ros.bags.reader import BagReader
    from mlesam_ros.doctor.diagnosis import diagnose_bag
    from mlesam_ros.progress import track

    with BagReader(bag) as reader:
        seconds = max(round((reader.end - reader.start) / 1e9), 1)
    with ExitStack() as stack:
        reading = _whole_seconds(stack.enter_context(track("reading", seconds, "seconds")), seconds)
        bars: list[Callable[[int, int], None]] = []

        def sampling(done: int, total: int) -> None:
            if not bars:
                stack.close()
                bars.append(stack.enter_context(track("checking images and point clouds", total, "samples")))
            bars[0](done, total)

        return diagnose_bag(bag, parameters, reading=reading, sampling=sampling)


def _diagnose_live(settings: dict[str, Any], params: Path | None, node: str, seconds: float) -> DoctorReport:
    configure_ros_env()
    from mlesam_ros.progress import track
    from mlesam_ros.ros.live_doctor import diagnose_live

    with track("listening", round(seconds), "seconds") as show:
        return diagnose_live(node, settings, params, seconds, _whole_seconds(show, round(seconds)))


def _whole_seconds(show: Callable[[int, int], None], total: int) -> Callable[[float], None]:
    """Wrap a progress callback: report each whole second once."""
    last = -1

    def report(seconds: float) -> None:
        nonlocal last
        if min(int(seconds), total) > last:
            last = min(int(seconds), total)
            show(last, total)

    return report


def _unreadable(bag: Path, error: BagError) -> dict[str, object]:
    finding = Finding.from_problem(ERROR, "recording", error.problem)
    return {"verdict": "unreadable", "findings": [finding.to_dict()], "name": str(bag)}


_COLORS = {ERROR: "bold red", WARNING: "yellow", NOTE: "dim"}
_VERDICTS = {
    "healthy": ("bold green", "healthy: nothing to change"),
    "usable": ("bold yellow", "usable: masks are made; check the warnings"),
    "faulty": ("bold red", "faulty: a sensor does not work, or masks are wrong"),
}
_COLUMNS = (
    ("messages", "messages"), ("Hz", "rate_hz"), ("jitter ms", "jitter_ms"), ("delay ms", "delay_ms"),
    ("longest gap s", "longest_gap_s"), ("size", "size"), ("used", "used"), ("superseded", "superseded"),
    ("late", "late"), ("unmatched", "unmatched"), ("refused", "refused"),
)  # fmt: skip
"""(heading, key of `DoctorReport.sensors`)."""


def print_report(report: DoctorReport, console: Console | None = None) -> None:
    """Print a report: figures, findings, verdict and recommended parameters.

    Args:
        report: the report.
        console: output console; standard output by default.
    """
    console = console or Console(highlight=False)
    console.print(f"{report.name}, {report.seconds:.1f} s", markup=False)
    (_print_table if console.is_terminal else _print_lines)(report, console)
    if report.sets:
        console.print(_format_sets(report.sets), markup=False, soft_wrap=not console.is_terminal)
    for finding in report.findings:
        head = Text(f"{finding.severity} {finding.subject}: ", style=_COLORS[finding.severity])
        console.print(head.append(finding.message, style="default"), soft_wrap=not console.is_terminal)
        if finding.remedy:
            console.print(Text(f"    {finding.remedy}"), soft_wrap=not console.is_terminal)
    color, sentence = _VERDICTS[report.verdict]
    console.print(Text(sentence, style=color))
    if report.parameters:
        console.print("Recommended node parameters:")
        for line in _format_parameters(report.parameters):
            console.print(f"    {line}", markup=False)


def _print_table(report: DoctorReport, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sensor")
    for title, key in _COLUMNS:
        table.add_column(title, justify="left" if key == "size" else "right", overflow="fold")
    for modality, row in report.sensors.items():
        table.add_row(f"{modality} [dim]{row['topic']}[/dim]", *(_format_cell(row.get(key)) for _, key in _COLUMNS))
    console.print(table)


def _print_lines(report: DoctorReport, console: Console) -> None:
    for modality, row in report.sensors.items():
        cells = [f"{title} {_format_cell(row[key])}" for title, key in _COLUMNS if row.get(key) is not None]
        console.print(f"{modality} {row['topic']}: {', '.join(cells)}", markup=False, soft_wrap=True)


def _format_sets(sets: Mapping[str, Any]) -> str:
    shares = [f"{m} in {100 * count / sets['sets']:.0f} %" for m, count in sets["parts"].items() if sets["sets"]]
    return (
        f"The node would make {sets['sets']} sets of it at {sets['rate_hz'] or 0:g} Hz, {sets['complete']} of them "
        f"complete: {', '.join(shares) or 'none'}."
    )


def _format_cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _format_parameters(values: Mapping[str, float | list[str]]) -> list[str]:
    """Format parameters as lines of YAML."""
    return [f"{k}: [{', '.join(v)}]" if isinstance(v, list) else f"{k}: {v:g}" for k, v in values.items()]
