"""`mlesam sensors show`: draw LiDAR points over the camera image for a visual check of the calibration."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.cli.common import (
    NODE,
    JsonOption,
    NodeOption,
    ParamOption,
    ParamsOption,
    TopicOption,
    epilog,
    format_help,
    read_parameters,
    write_json,
)
from mlesam_ros.errors import BagError

if TYPE_CHECKING:
    from mlesam_ros.cli.sensors.scenes import Scene

_EXAMPLES = epilog(
    "mlesam sensors show drive/ --out pictures/",
    "mlesam sensors show drive/ --at 12.5 --encodings --out pictures/",
    "mlesam sensors show frame_1/ frame_2/ --yaw 1 --out turned/",
    "mlesam sensors show drive/ --calibration rig.yaml --topic lidar:=/top/points --out pictures/",
)


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("show", help=format_help(show), epilog=_EXAMPLES)(show)


def show(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="FRAME_OR_BAG...", help="Folders with a picture, a .pcd and a calibration; or bags."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made if need be.")],
    yaw: Annotated[float, typer.Option(help="Degrees added about the camera's vertical axis, to the right.")] = 0.0,
    pitch: Annotated[float, typer.Option(help="Degrees added about the camera's horizontal axis.")] = 0.0,
    roll: Annotated[float, typer.Option(help="Degrees added about the camera's line of sight.")] = 0.0,
    fit: Annotated[
        str | None,
        typer.Option(
            help="Where a picture's size is not its calibration's: rescale, crop_top, crop_centre or crop_bottom."
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration file that counts before what a bag itself says.")
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    node: NodeOption = NODE,
    topic: TopicOption = None,
    at: Annotated[float, typer.Option(help="Seconds into a bag.", min=0.0)] = 0.0,
    encodings: Annotated[bool, typer.Option("--encodings", help="Also what each expert reads.")] = False,
    json: JsonOption = None,
) -> None:
    """Draw the LiDAR's points over the camera's image, colored by distance, and score how well the two agree.

    With a correct calibration, colors change at the edges of objects. The score is the spread of depth inside segments
    (the inter-quartile range of its logarithm): lower is better, and it should be lowest with no yaw added. The
    segments are the masks in a frame's folder `masks/`; without them the image's own outlines, whose score is only a
    hint.
    """
    from mlesam_ros.cli.sensors.scenes import open_scene
    from mlesam_ros.cli.sensors.sheet import encoding_sheets, projection_sheet

    turn = {"yaw": yaw, "pitch": pitch, "roll": roll}
    parameters = read_parameters(params, param, node, topic)
    results: list[dict[str, Any]] = []
    for source in sources:
        scene = open_scene(source, fit, calibration, parameters, at)
        shown = scene.turned(**turn)
        stem = _stem(scene.name, results)
        files = [_save(out / f"{stem}.png", projection_sheet(shown))]
        if encodings:
            files += [_save(out / f"{stem}_{name}.png", sheet) for name, sheet in encoding_sheets(shown).items()]
        results.append(_result(shown, turn, files))
        if json is None:
            _print(results[-1])
    if json is not None:
        write_json({"frames": results}, json)


def _stem(name: str, results: list[dict[str, Any]]) -> str:
    taken = {Path(result["files"][0]).stem for result in results}
    return next(stem for n in range(len(taken) + 1) if (stem := name if not n else f"{name}_{n + 1}") not in taken)


def _save(path: Path, picture: Any) -> str:
    from PIL import Image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise BagError(f"{path} cannot be written: {error.strerror or error}.", "Give another --out.") from error
    return str(path)


def _result(scene: Scene, turn: dict[str, float], files: list[str]) -> dict[str, Any]:
    scores = scene.scores
    return {
        "name": scene.name,
        "points": len(scene.points),
        "landed": scene.landed,
        "turned_degrees": turn,
        "score_from": scene.segments_from,
        "segments": len(scene.segments),
        "scores": [
            {"added_yaw_degrees": yaw, "score": _number(c.score), "segments": c.segments} for yaw, c in scores.items()
        ],
        "best_added_yaw_degrees": scene.best_yaw,
        "files": files,
    }


def _number(score: float) -> float | None:
    return None if math.isnan(score) else round(score, 4)


def _print(result: dict[str, Any]) -> None:
    typer.echo(f"{result['name']}: {result['landed']:,} of {result['points']:,} points land → {result['files'][0]}")
    scores = "  ".join(
        f"{entry['added_yaw_degrees']:+g}° {'none' if entry['score'] is None else format(entry['score'], '.3f')}"
        for entry in result["scores"]
    )
    typer.echo(f"  spread of depth inside {result['score_from']}, by added yaw: {scores}")
    best = result["best_added_yaw_degrees"]
    if best is None:
        typer.echo("  too few points on any segment to say more")
    elif best == 0:
        typer.echo("  lowest as it is")
    else:
        side = "right" if best > 0 else "left"
        typer.echo(f"  lowest turned {abs(best):g}° to the {side}: the calibration may be off; look at the picture")
    for file in result["files"][1:]:
        typer.echo(f"  {file}")
