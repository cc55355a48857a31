# SPDX-License-Identifier: Apache-2.0
"""`mlesam demo`: segment a simulated street with four sensors, dropping some of them on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlesam_ros.cli.common import JsonOption, OutputOption, epilog, format_help, prepare_own_domain, write_json
from mlesam_ros.extras import require_extra

_EXAMPLES = epilog("mlesam demo", "mlesam demo --quick", "mlesam demo --checkpoint my_experts.safetensors --json -")
_SECONDS, _QUICK_SECONDS = 40.0, 12.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(demo), epilog=_EXAMPLES)(demo)


def demo(
    seconds: Annotated[float, typer.Option(help="Duration of the drive in seconds.")] = _SECONDS,
    quick: Annotated[bool, typer.Option("--quick", help=f"Drive for {_QUICK_SECONDS:g} seconds.")] = False,
    headless: Annotated[bool, typer.Option("--headless", help="Print lines instead of the live view.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Experts to use instead of the shipped ones.")] = None,
    base_weights: Annotated[
        Path | None,
        typer.Option(help="Backbone that the experts were trained on: a file or name."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Cache folder of the rendered streets.")] = None,
    output: OutputOption = Path("runs"),
    image_size: Annotated[
        tuple[int, int], typer.Option("--image-size", metavar="H W", help="Size of the images in pixels.")
    ] = (360, 640),
    json: JsonOption = None,
) -> None:
    """Segment a simulated street with four sensors, and continue while the camera or the LiDAR is lost.

    Renders a street by day and by night (first run only), plays it to the node in another process, drops the camera and
    the LiDAR for some seconds, and compares every mask with the ground truth. Writes a folder with the result bag,
    metrics.json and images.
    """
    require_extra("open3d", "the simulated street")
    prepare_own_domain()
    from mlesam_ros.cli.demo.runner import DemoRunner

    duration = _QUICK_SECONDS if quick else seconds
    runner = DemoRunner(duration, image_size, cache, output, checkpoint, base_weights, live=not headless)
    result = runner.run(quiet=json == "-")
    if json is not None:
        write_json(result, json)
