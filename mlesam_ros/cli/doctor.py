"""`mlesam doctor`: diagnose a bag or a running system, and print the report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlesam_ros.cli.common import (
    NODE,
    JsonOption,
    ParamOption,
    ParamsOption,
    TopicOption,
    epilog,
    format_help,
    read_parameters,
    write_json,
)
from mlesam_ros.doctor.diagnosis import FAULTY, HEALTHY, USABLE, DoctorReport, words_of
from mlesam_ros.errors import BagError
from mlesam_ros.findings import ERROR, NOTE, WARNING
from mlesam_ros.parameter_file import read_node_parameters
from mlesam_ros.progress import track

if TYPE_CHECKING:
    from mlesam_ros.config import NodeParameters
    from mlesam_ros.doctor.diagnosis import DoctorReport


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


_EXAMPLES = epilog(
    "mlesam doctor drive/",
    "mlesam doctor drive.mcap --topic camera:=/zed/left/image_raw --calibration rig.yaml",
    "mlesam doctor drive/ --params rig.params.yaml -p lidar.offset:=0.05",
    "mlesam doctor drive/ --json - | jq .findings",
    "mlesam doctor",
    "mlesam doctor --node /robot/mlesam --seconds 10",
)
_FAULTY = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(doctor), epilog=_EXAMPLES)(doctor)


def doctor(
    bag: Annotated[
        Path | None, typer.Argument(help="A rosbag2 folder, or an .mcap or .db3 file; the live topics without it.")
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    node: Annotated[
        str, typer.Option(help="Full name of the node: its sections of the file count, live its settings over them.")
    ] = NODE,
    topic: TopicOption = None,
    calibration: Annotated[Path | None, typer.Option(help="Short for -p calibration_file:=FILE.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="Live: how long to listen.")] = 5.0,
    json: JsonOption = None,
) -> None:
    """Examine a recording, or the topics that are live, and recommend changes.

    For a recording it reports rates, gaps, jitter, stamps, lost packets, lenses, transforms, whether LiDAR and image
    fit each other, the sets that the node would make of it and which parameters would help. Live it reports publishers,
    types, QoS, rates, stamps, calibration and the node's own status.

    Exit code 0: no errors, warnings at most. 1: there are errors. 2: it cannot be read.
    """
    parameters = read_parameters(params, param, node, topic, calibration_file=calibration)
    if bag is None:
        given = read_node_parameters(params, param or (), node)
        rules = {name: given.values[name] for name in given.overridden}
        known = {name: value for name, value in parameters.values().items() if name in parameters.overridden}
        checkup = _live({**rules, **known}, params, node, seconds)
    else:
        try:
            checkup = _recorded(bag, parameters)
        except BagError as error:
            if json is not None:
                write_json(_unreadable(bag, error), json)
            raise
    if json is not None:
        write_json(checkup.to_dict(), json)
    if json != "-":
        from mlesam_ros.cli.doctor import show

        show(checkup)
    if checkup.verdict == "faulty":
        raise typer.Exit(_FAULTY)


def _recorded(bag: Path, parameters: NodeParameters) -> DoctorReport:
    from mlesam_ros.bags.reader import BagReader
    from mlesam_ros.doctor.diagnosis import diagnose_bag

    with BagReader(bag) as reader:
        seconds = max(round((reader.end - reader.start) / 1e9), 1)
    with ExitStack() as shown:
        read = _whole(shown.enter_context(track("reading", seconds, "seconds")), seconds)
        bars: list[Callable[[int, int], None]] = []

        def looking(done: int, of: int) -> None:
            if not bars:
                shown.close()
                bars.append(shown.enter_context(track("looking closer", of, "moments")))
            bars[0](done, of)

        return diagnose_bag(bag, parameters, reading=read, looking=looking)


def _live(settings: dict[str, Any], params: Path | None, node: str, seconds: float) -> DoctorReport:
    from mlesam_ros.cli.common import configure_ros_env

    configure_ros_env()
    from mlesam_ros.ros.live_doctor import diagnose_live

    with track("listening", round(seconds), "seconds") as show:
        return diagnose_live(node, settings, params, seconds, _whole(show, round(seconds)))


def _whole(show: Callable[[int, int], None], of: int) -> Callable[[float], None]:
    """Wrap a progress callback: report each whole second once."""
    told = -1

    def tell(seconds: float) -> None:
        nonlocal told
        if min(int(seconds), of) > told:
            told = min(int(seconds), of)
            show(told, of)

    return tell


def _unreadable(bag: Path, error: BagError) -> dict[str, object]:
    from mlesam_ros.findings import ERROR, Finding

    found = Finding.from_problem(ERROR, "recording", error.problem)
    return {"verdict": "unreadable", "findings": [found.to_dict()], "name": str(bag)}
