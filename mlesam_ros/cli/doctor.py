"""`mlesam doctor`: diagnose a bag or a running system, and print the report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from mlesam_ros.errors import BagError
from mlesam_ros.parameter_file import read_node_parameters
from mlesam_ros.progress import track

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
        from mlesam_ros.cli.doctor_report import show

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
