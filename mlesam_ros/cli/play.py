# SPDX-License-Identifier: Apache-2.0
"""`mlesam play`: publish recordings in real time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlesam_ros.cli.common import (
    DropOption,
    JsonOption,
    NodeOption,
    ParamOption,
    ParamsOption,
    configure_ros_env,
    epilog,
    format_help,
    read_parameters,
    write_json,
)
from mlesam_ros.types import NANOSECONDS, NODE

if TYPE_CHECKING:
    from mlesam_ros.bags.reader import Outage
    from mlesam_ros.config import NodeParameters
    from mlesam_ros.ros.player import PlayReport

_EXAMPLES = epilog(
    "mlesam play drive/",
    "mlesam play day/ night/ --loop",
    "mlesam play drive/ --drop camera@10..16 --drop lidar@20..",
    "mlesam play drive/ --clock --rate 0.5",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(play), epilog=_EXAMPLES)(play)


def play(
    bags: Annotated[list[Path], typer.Argument(help="rosbag2 folders or files, played in this order.")],
    rate: Annotated[float, typer.Option(help="Speed factor; 1 is real time.")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Repeat until Ctrl-C.")] = False,
    drop: DropOption = None,
    clock: Annotated[
        bool, typer.Option("--clock", help="Keep the recorded stamps and publish /clock, for use_sim_time.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Maximum seconds to wait for subscribers.")] = 5.0,
    listener: Annotated[
        list[str] | None, typer.Option(metavar="TOPIC", help="Wait for a subscriber on this topic; repeatable.")
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    node: NodeOption = NODE,
    json: JsonOption = None,
) -> None:
    """Play recordings on their topics in real time, stamped with the current time.

    --drop SENSOR applies to the topic that --params or -p set for the sensor, if they set one.

    The --json file is written when the first message is published, and again at the end.
    """
    configure_ros_env()
    from mlesam_ros.bags.reader import parse_outage
    from mlesam_ros.progress import track
    from mlesam_ros.ros.player import Playlist, PlayOptions
    from mlesam_ros.ros.player import play as play_bags

    parameters = read_parameters(params, param, node)
    outages = tuple(_on_topic(parse_outage(text), parameters) for text in drop or ())
    options = PlayOptions(rate, loop, clock, outages, wait, tuple(listener or ()))
    playlist = Playlist(bags, parameters)

    def on_start(report: PlayReport) -> None:
        typer.echo(f"playing {', '.join(str(bag) for bag in bags)}", err=True)
        if json not in (None, "-"):
            write_json(report.to_dict(), json)

    seconds = playlist.duration / NANOSECONDS
    with track("playing", None if loop else seconds, "s", lines=False, transient=True) as show:
        report = play_bags(playlist, options, on_start, lambda done: show(done, seconds))
    if json is not None:
        write_json(report.to_dict(), json)
    _summarize(report)


def _on_topic(drop: Outage, parameters: NodeParameters) -> Outage:
    """Replace a sensor as the target of a drop by its topic, if the parameters set one."""
    if f"{drop.target}.topic" not in parameters.given:
        return drop
    return replace(drop, target=parameters.resolve(parameters.sensor(drop.target).topic))


def _summarize(report: PlayReport) -> None:
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for name in report.skipped:
        typer.echo(f"warning: {name} is not played: the package of its type is not installed", err=True)
    dropped = f", {report.dropped.total()} dropped" if report.dropped else ""
    published = f"{report.published.total()} messages on {len(report.published)} topics"
    typer.echo(f"published {published} in {report.seconds:.1f} s{dropped}", err=True)
