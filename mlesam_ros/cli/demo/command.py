"""The `demo` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlesam_ros.cli.common import JsonOption, epilog, format_help, prepare_own_domain, write_json

_EXAMPLES = epilog("mlesam demo", "mlesam demo --quick", "mlesam demo --checkpoint my_experts.safetensors --json -")
_SECONDS, _QUICK_SECONDS = 40.0, 12.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(demo), epilog=_EXAMPLES)(demo)


def demo(
    seconds: Annotated[float, typer.Option(help="Length of the drive.")] = _SECONDS,
    quick: Annotated[bool, typer.Option("--quick", help=f"A drive of {_QUICK_SECONDS:g} seconds.")] = False,
    headless: Annotated[bool, typer.Option("--headless", help="Lines instead of the live view.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Experts to use instead of the shipped ones.")] = None,
    base_weights: Annotated[Path | None, typer.Option(help="The backbone that the experts were trained on.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where rendered streets are kept.")] = None,
    output: Annotated[Path, typer.Option(help="Folder in which the result's folder is made.")] = Path("runs"),
    side: Annotated[int, typer.Option(help="Height and width of the pictures in pixels.")] = 512,
    json: JsonOption = None,
) -> None:
    """Segment a simulated street with four sensors and go on while the camera or the LiDAR is lost.

    Renders a street by day and by night (once), plays it to the node in another process, drops the camera and the LiDAR
    on the way, compares every mask with the ground truth, and writes a folder with the result bag, metrics and images.
    """
    prepare_own_domain()
    from mlesam_ros.cli.demo.runner import DemoRunner

    length = _QUICK_SECONDS if quick else seconds
    drive = DemoRunner(length, side, cache, output, checkpoint, base_weights, live=not headless)
    result = drive.run(quiet=json == "-")
    if json is not None:
        write_json(result, json)
