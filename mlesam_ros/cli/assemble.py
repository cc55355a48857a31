"""`mlesam assemble`: combine a real camera and LiDAR frame and an event recording in one bag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlesam_ros.cli.common import JsonOption, epilog, format_help, write_json
from mlesam_ros.progress import track

_EXAMPLES = epilog("mlesam assemble camera_lidar/opencalib_ours_1 events/test_events_1 real/")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(assemble), epilog=_EXAMPLES)(assemble)


def assemble(
    frame: Annotated[Path, typer.Argument(help="Folder with a picture, a .pcd sweep and their calibration.")],
    events: Annotated[Path, typer.Argument(help="Bag with event_camera_msgs/EventPacket.")],
    out: Annotated[Path, typer.Argument(help="The bag to write, a folder that does not exist yet.")],
    json: JsonOption = None,
) -> None:
    """Put a calibrated camera and LiDAR frame and an event recording into one bag with real message types.

    The same frame is repeated at 10 Hz over the duration of the events; the bag's metadata notes this.
    """
    from mlesam_ros.bags.recording import assemble_real_bag

    with track("copying", 1, "event packets") as progress:
        made = assemble_real_bag(frame, events, out, progress=progress)
    for warning in made.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if json is not None:
        result = {"bag": str(made.path), "frames": made.frames, "packets": made.packets}
        write_json({**result, "warnings": list(made.warnings)}, json)
    if json == "-":
        return
    holds = f"{made.frames} frames and {made.packets} event packets"
    typer.echo(f"{made.path} has {holds}; mlesam play {made.path} plays it")
