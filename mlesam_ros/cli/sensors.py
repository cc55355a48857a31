# SPDX-License-Identifier: Apache-2.0
"""`mlesam sensors check|show`: check a calibration file, and draw LiDAR points over the camera image with it."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.cli.common import (
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
from mlesam_ros.errors import ERROR, WARNING, BagError, ConfigError, Finding, Problem, worst
from mlesam_ros.files import expand_path
from mlesam_ros.types import NODE

if TYPE_CHECKING:
    from mlesam_ros.cli.sensors_scene import Scene
    from mlesam_ros.config import NodeParameters

_EXAMPLES = epilog("mlesam sensors check config/rigs/example.yaml", "mlesam sensors show drive/ --out images/")
_CHECK_EXAMPLES = epilog(
    "mlesam sensors check config/rigs/example.yaml",
    "mlesam sensors check --params rig.params.yaml",
    "mlesam sensors check rig.yaml --image street.jpg",
    "mlesam sensors check rig.yaml --image front_optical_frame=front.png --image rear_optical_frame=rear.png --json -",
)
_SHOW_EXAMPLES = epilog(
    "mlesam sensors show drive/ --out images/",
    "mlesam sensors show drive/ --at 12.5 --encodings --out images/",
    "mlesam sensors show frame_1/ frame_2/ --yaw 1 --out rotated/",
    "mlesam sensors show drive/ --calibration rig.yaml --topic lidar:=/top/points --out images/",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Check a calibration, and draw the sensors' data with it.", epilog=_EXAMPLES)
    group.command("check", help=format_help(check), epilog=_CHECK_EXAMPLES)(check)
    group.command("show", help=format_help(show), epilog=_SHOW_EXAMPLES)(show)
    app.add_typer(group, name="sensors", no_args_is_help=True)


_VERDICTS = {ERROR: "wrong", WARNING: "doubtful"}
_COLORS = {ERROR: typer.colors.RED, WARNING: typer.colors.YELLOW}
_HAS_ERRORS = 1
"""Exit code."""


def check(
    calibration: Annotated[
        Path | None,
        typer.Argument(help="Calibration file, such as config/rigs/example.yaml; that of --params if omitted."),
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    node: NodeOption = NODE,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FRAME=]FILE",
            help="Image whose size must fit the calibration of FRAME, by default of the label camera; repeatable.",
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Print all errors and warnings of a calibration file.

    Errors make the file unusable: unknown keys, invalid numbers, frames that are not connected. Warnings are valid but
    implausible: a distortion that folds over inside the image, a camera with the axes of a body frame, a transform that
    looks inverted. The exit code is 1 if there is an error.
    """
    calibration = _calibration_file(calibration, read_parameters(params, param, node))
    findings = _findings(calibration, image or [])
    verdict = _VERDICTS.get(worst(findings) or "", "good")
    if json is None:
        for finding in findings:
            label = typer.style(f"{finding.severity:8}", fg=_COLORS.get(finding.severity), bold=True)
            typer.echo(f"{label} {finding.subject}: {Problem(finding.message, finding.remedy)}")
        typer.echo(f"{calibration}: {verdict}")
    else:
        write_json({"file": str(calibration), "verdict": verdict, "findings": [f.to_dict() for f in findings]}, json)
    if worst(findings) == ERROR:
        raise typer.Exit(_HAS_ERRORS)


def _calibration_file(calibration: Path | None, parameters: NodeParameters) -> Path:
    if calibration is None and not parameters.calibration_file:
        raise ConfigError(
            "no calibration file is given.", "Give one as argument, or with -p calibration_file:=FILE or --params FILE."
        )
    return calibration or Path(parameters.calibration_file)


def _findings(calibration: Path, images: list[str]) -> list[Finding]:
    from mlesam_ros.geometry.validation import image_findings, validate_rig
    from mlesam_ros.strict_yaml import read_yaml

    if not calibration.is_file():
        raise ConfigError(f"{calibration} is not a file.", "Give a calibration such as config/rigs/example.yaml.")
    sizes = [(frame, path, _image_size(path)) for frame, path in map(_split, images)]
    try:
        fields: Any = read_yaml(calibration)
    except ConfigError as error:
        return [Finding.from_problem(ERROR, "file", error.problem)]
    findings = validate_rig(fields)
    for frame, path, size in sizes:
        findings += image_findings(fields, frame, size, path.name)
    return findings


def _split(image: str) -> tuple[str | None, Path]:
    """Parse FRAME=FILE or FILE; an existing file whose name has an equals sign is a FILE."""
    frame, _, path = image.rpartition("=")
    return (frame, expand_path(path)) if frame and not Path(image).exists() else (None, expand_path(image))


def _image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) without decoding the pixels."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path} is not a readable image.", "Give a JPEG or PNG file.") from error


def show(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="FRAME_OR_BAG...", help="Folders with an image, a .pcd and a calibration; or bags."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the drawn images; created if missing.")],
    yaw: Annotated[float, typer.Option(help="Degrees added about the camera's vertical axis, to the right.")] = 0.0,
    pitch: Annotated[float, typer.Option(help="Degrees added about the camera's horizontal axis.")] = 0.0,
    roll: Annotated[float, typer.Option(help="Degrees added about the camera's optical axis.")] = 0.0,
    fit: Annotated[
        str | None,
        typer.Option(help="Fit images to a calibration of another size: rescale, crop_top, crop_center, crop_bottom."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration file that takes precedence over the bag's own calibration.")
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    node: NodeOption = NODE,
    topic: TopicOption = None,
    at: Annotated[float, typer.Option(help="Seconds from the beginning of a bag.", min=0.0)] = 0.0,
    encodings: Annotated[bool, typer.Option("--encodings", help="Also draw the input of each expert.")] = False,
    json: JsonOption = None,
) -> None:
    """Draw the LiDAR points over the camera image, colored by distance, and score their alignment.

    With a correct calibration, colors change at the edges of objects. The score is the spread of depth inside image
    segments (the inter-quartile range of its logarithm): lower is better, and lowest with no added yaw if the
    calibration is correct. The segments are the masks in a frame's folder `masks/`; without them regions between image
    edges, whose score is less reliable.
    """
    from mlesam_ros.cli.sensors_scene import draw_inputs, draw_projection, open_scene

    rotation = {"yaw": yaw, "pitch": pitch, "roll": roll}
    parameters = read_parameters(params, param, node, topic)
    results: list[dict[str, Any]] = []
    for source in sources:
        scene = open_scene(source, fit, calibration, parameters, at).rotated(**rotation)
        name = _unique_name(scene.name, {Path(result["files"][0]).stem for result in results})
        files = [_save(out / f"{name}.png", draw_projection(scene))]
        if encodings:
            files += [_save(out / f"{name}_{key}.png", image) for key, image in draw_inputs(scene).items()]
        results.append(_result(scene, rotation, files))
        if json is None:
            _print_result(results[-1])
    if json is not None:
        write_json({"frames": results}, json)


def _unique_name(name: str, taken: Collection[str]) -> str:
    candidates = (name if not n else f"{name}_{n + 1}" for n in range(len(taken) + 1))
    return next(candidate for candidate in candidates if candidate not in taken)


def _save(path: Path, image: Any) -> str:
    from PIL import Image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    except OSError as error:
        raise BagError(f"{path} is not writable: {error.strerror or error}.", "Choose another --out.") from error
    return str(path)


def _result(scene: Scene, rotation: dict[str, float], files: list[str]) -> dict[str, Any]:
    scores = [
        {
            "added_yaw_degrees": yaw,
            "score": None if math.isnan(spread.score) else round(spread.score, 4),
            "segments": spread.segments,
        }
        for yaw, spread in scene.scores.items()
    ]
    return {
        "name": scene.name,
        "points": len(scene.points),
        "landed": scene.landed,
        "turned_degrees": rotation,
        "score_from": scene.segments_from,
        "segments": len(scene.segments),
        "scores": scores,
        "best_added_yaw_degrees": scene.best_yaw,
        "files": files,
    }


def _print_result(result: dict[str, Any]) -> None:
    points = f"{result['landed']:,} of {result['points']:,} points are inside the image"
    typer.echo(f"{result['name']}: {points} → {result['files'][0]}")
    scores = "  ".join(
        f"{entry['added_yaw_degrees']:+g}° {'none' if entry['score'] is None else format(entry['score'], '.3f')}"
        for entry in result["scores"]
    )
    typer.echo(f"  spread of depth inside {result['score_from']}, by added yaw: {scores}")
    best = result["best_added_yaw_degrees"]
    if best is None:
        typer.echo("  no result: too few points in every segment")
    elif best == 0:
        typer.echo("  lowest with no added yaw")
    else:
        side = "right" if best > 0 else "left"
        typer.echo(f"  lowest with {abs(best):g}° to the {side}: the calibration may be off; check the image")
    for file in result["files"][1:]:
        typer.echo(f"  {file}")
