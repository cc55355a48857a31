"""`mlesam doctor`: what is wrong with a recording or a robot's topics, and what to change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlesam_ros.cli.help import epilog, prose
from mlesam_ros.cli.progress import track
from mlesam_ros.cli.results import JsonOption, write_json
from mlesam_ros.errors import BagError, ConfigError

if TYPE_CHECKING:
    from mlesam_ros.doctor.checkup import Checkup

_EXAMPLES = epilog(
    "mlesam doctor drive/",
    "mlesam doctor drive.mcap --topic camera:=/zed/left/image_raw --calibration rig.yaml",
    "mlesam doctor drive/ --json - | jq .findings",
    "mlesam doctor",
    "mlesam doctor --node /robot/mlesam --seconds 10",
)
_FAULTY = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=prose(doctor), epilog=_EXAMPLES)(doctor)


def doctor(
    bag: Annotated[
        Path | None, typer.Argument(help="A rosbag2 folder, or an .mcap or .db3 file; the live topics without it.")
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option(metavar="MODALITY:=TOPIC", help="Read a modality from this topic; repeatable.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="Rig file for what CameraInfo and TF do not say.")] = None,
    node: Annotated[str, typer.Option(help="Live: the perception node whose settings count.")] = "/mlesam",
    params_file: Annotated[
        Path | None, typer.Option(help="Live: settings that count where that node does not run.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="Live: how long to listen.")] = 5.0,
    json: JsonOption = None,
) -> None:
    """Examine a recording, or the topics that are live, and say what to change.

    Of a recording it tells rates, gaps, jitter, stamps, lost packets, lenses, transforms, whether LiDAR and picture
    fit each other, what the node would make of it and which parameters would help. Live it tells publishers, types,
    QoS, rates, stamps, calibration and what the node itself reports.

    Exit code 0: nothing is wrong, or warnings only. 1: something is. 2: it cannot be read.
    """
    chosen = _chosen(topic or [])
    if bag is None:
        checkup = _live(chosen, calibration, node, params_file, seconds)
    else:
        try:
            checkup = _recorded(bag, chosen, calibration)
        except BagError as error:
            if json is not None:
                write_json(_unreadable(bag, error), json)
            raise
    if json is not None:
        write_json(checkup.to_dict(), json)
    if json != "-":
        from mlesam_ros.cli.checkup import show

        show(checkup)
    if checkup.verdict == "faulty":
        raise typer.Exit(_FAULTY)


def _recorded(bag: Path, chosen: dict[str, str], calibration: Path | None) -> Checkup:
    from mlesam_ros.bags.reader import BagReader
    from mlesam_ros.doctor.examine import examine
    from mlesam_ros.geometry.rig import load_rig

    rig = load_rig(calibration) if calibration else None
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

        return examine(bag, chosen, rig, reading=read, looking=looking)


def _live(
    chosen: dict[str, str], calibration: Path | None, node: str, params_file: Path | None, seconds: float
) -> Checkup:
    from mlesam_ros.cli.environment import prepare_ros

    prepare_ros()
    from mlesam_ros.ros.checkup import examine_live

    with track("listening", round(seconds), "seconds") as show:
        settings = {f"{modality}.topic": name for modality, name in chosen.items()}
        if calibration is not None:
            settings["calibration_file"] = str(calibration)
        return examine_live(node, settings, params_file, seconds, _whole(show, round(seconds)))


def _whole(show: Callable[[int, int], None], of: int) -> Callable[[float], None]:
    """Tell whole seconds, each once."""
    told = -1

    def tell(seconds: float) -> None:
        nonlocal told
        if min(int(seconds), of) > told:
            told = min(int(seconds), of)
            show(told, of)

    return tell


def _chosen(given: list[str]) -> dict[str, str]:
    pairs = [entry.partition(":=") for entry in given]
    for entry, (modality, _, name) in zip(given, pairs, strict=True):
        if not (modality and name):
            raise ConfigError(
                f"topic {entry!r} cannot be read.", "Write a modality and a topic, such as camera:=/image."
            )
    return {modality: name for modality, _, name in pairs}


def _unreadable(bag: Path, error: BagError) -> dict[str, object]:
    from mlesam_ros.findings import ERROR, Finding

    found = Finding.from_problem(ERROR, "recording", error.problem)
    return {"verdict": "unreadable", "findings": [found.to_dict()], "name": str(bag)}
