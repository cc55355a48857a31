"""`mlesam sensors check`: errors and warnings of a calibration file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.cli.common import (
    NODE,
    JsonOption,
    NodeOption,
    ParamOption,
    ParamsOption,
    epilog,
    format_help,
    read_parameters,
    write_json,
)
from mlesam_ros.errors import ConfigError, Problem
from mlesam_ros.files import expand_path
from mlesam_ros.findings import ERROR, WARNING, Finding, worst

if TYPE_CHECKING:
    from mlesam_ros.config import NodeParameters

_EXAMPLES = epilog(
    "mlesam sensors check config/rigs/example.yaml",
    "mlesam sensors check --params rig.params.yaml",
    "mlesam sensors check rig.yaml --image street.jpg",
    "mlesam sensors check rig.yaml --image front_optical_frame=front.png --image rear_optical_frame=rear.png --json -",
)
_VERDICTS = {ERROR: "wrong", WARNING: "doubtful"}
_COLORS = {ERROR: typer.colors.RED, WARNING: typer.colors.YELLOW}
_WRONG = 1


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("check", help=format_help(check), epilog=_EXAMPLES)(check)


def check(
    calibration: Annotated[
        Path | None,
        typer.Argument(help="A calibration file, such as config/rigs/example.yaml; that of --params without it."),
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    node: NodeOption = NODE,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="[FRAME=]FILE", help="A picture that it should fit; of the label camera without FRAME."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Print all errors and warnings of a calibration file.

    Errors make the file unusable: unknown keys, impossible numbers, frames that are not connected. Warnings are
    valid but improbable: a lens that folds over inside the image, a camera with the axes of a body frame, a transform
    that looks inverted. The exit code is 1 if there is an error.
    """
    calibration = _named(calibration, read_parameters(params, param, node))
    findings = _findings(calibration, image or [])
    verdict = _VERDICTS.get(worst(findings) or "", "good")
    if json is None:
        _show(calibration, verdict, findings)
    else:
        write_json({"file": str(calibration), "verdict": verdict, "findings": [f.to_dict() for f in findings]}, json)
    if worst(findings) == ERROR:
        raise typer.Exit(_WRONG)


def _named(calibration: Path | None, parameters: NodeParameters) -> Path:
    if calibration is None and not parameters.calibration_file:
        raise ConfigError(
            "no calibration file is named.", "Give one as argument, or with -p calibration_file:=FILE or --params FILE."
        )
    return calibration or Path(parameters.calibration_file)


def _findings(calibration: Path, images: list[str]) -> list[Finding]:
    from mlesam_ros.geometry.validation import picture_findings, validate_rig
    from mlesam_ros.strict_yaml import read_yaml

    if not calibration.is_file():
        raise ConfigError(f"{calibration} is no file.", "Give a calibration such as config/rigs/example.yaml.")
    sizes = [(frame, path, _size(path)) for frame, path in map(_split, images)]
    try:
        fields: Any = read_yaml(calibration)
    except ConfigError as error:
        return [Finding.from_problem(ERROR, "file", error.problem)]
    findings = validate_rig(fields)
    for frame, path, size in sizes:
        findings += picture_findings(fields, frame, size, path.name)
    return findings


def _split(image: str) -> tuple[str | None, Path]:
    """Parse FRAME=FILE or FILE; an existing file whose name has an equals sign is a FILE."""
    frame, _, path = image.rpartition("=")
    return (frame, expand_path(path)) if frame and not Path(image).exists() else (None, expand_path(image))


def _size(path: Path) -> tuple[int, int]:
    """Return (height, width) without decoding the pixels."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path} is no picture that can be read.", "Give a jpeg or png.") from error


def _show(calibration: Path, verdict: str, findings: list[Finding]) -> None:
    for finding in findings:
        label = typer.style(f"{finding.severity:8}", fg=_COLORS.get(finding.severity), bold=True)
        typer.echo(f"{label} {finding.subject}: {Problem(finding.message, finding.remedy)}")
    typer.echo(f"{calibration}: {verdict}")
