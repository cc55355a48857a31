# SPDX-License-Identifier: Apache-2.0
"""`mlesam label`: write the masks of bags as proposals for annotation, and import the corrected ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlesam_ros.cli import INTERRUPTED
from mlesam_ros.cli.common import (
    BaseWeightsOption,
    CalibrationOption,
    CheckpointOption,
    DeviceOption,
    DurationOption,
    JsonOption,
    NodeOption,
    ParamOption,
    ParamsOption,
    StartOption,
    TopicOption,
    epilog,
    format_help,
    read_parameters,
    write_json,
)
from mlesam_ros.types import NODE

_EVERY = 10
_EXAMPLES = epilog(
    "mlesam label drive/ --out labels/",
    "mlesam label recordings/ --out labels/ --uncertain 200 --format coco",
    "mlesam label drive/ --out labels/ --space my_space.yaml -p confidence_threshold:=0.5",
    "mlesam label --out labels/ --import instances_default.json",
    "mlesam label --out labels/ --import corrected/",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(label), epilog=_EXAMPLES)(label)


def label(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of images, proposals and labels.")],
    bags: Annotated[
        list[Path] | None, typer.Argument(help="rosbag2 folders, .mcap or .db3 files, folders of them.")
    ] = None,
    corrected: Annotated[
        Path | None,
        typer.Option("--import", metavar="FILE", help="Corrected masks: a COCO file, or a folder of PNGs."),
    ] = None,
    every: Annotated[
        int | None, typer.Option(min=1, help=f"Only every n-th set; {_EVERY}, or 1 with --uncertain.")
    ] = None,
    uncertain: Annotated[
        int, typer.Option(min=0, metavar="NUMBER", help="Only so many frames, those of the least confidence.")
    ] = 0,
    gap: Annotated[float, typer.Option(min=0.0, help="With --uncertain: seconds between two frames at least.")] = 1.0,
    format: Annotated[str, typer.Option(help="Format of the proposals: png or coco.")] = "png",
    space: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Label space to annotate in; that of the checkpoint if omitted. Classes match by name."
        ),
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    node: NodeOption = NODE,
    checkpoint: CheckpointOption = None,
    base_weights: BaseWeightsOption = None,
    device: DeviceOption = None,
    topic: TopicOption = None,
    calibration: CalibrationOption = None,
    start: StartOption = 0.0,
    duration: DurationOption = None,
    json: JsonOption = None,
) -> None:
    """Write the masks of bags as proposals for an annotation tool, and import the corrected ones.

    The masks are those of evaluate. --format png writes VOC's layout, coco an annotation file with run-length encoded
    regions, both without loss. --import reads the tool's export into FOLDER/labels, and checks it first.

    Then run mlesam train --data FOLDER/data.yaml, and mlesam evaluate with --labels FOLDER: the sensors are read from
    the bags.
    """
    from mlesam_ros.errors import ConfigError

    if (corrected is None) == (not bags):
        raise ConfigError("label takes either bags or --import.", "Give the bags to label, or --import FILE.")
    if corrected is not None:
        result, interrupted = _import(corrected, out, quiet=json == "-"), False
    else:
        from mlesam_ros.cli.label_run import Selection, label_bags
        from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions
        from mlesam_ros.evaluation.proposals import FORMATS
        from mlesam_ros.strict_yaml import check_choice

        check_choice("format", format, FORMATS)
        parameters = read_parameters(
            params, param, node, topic, checkpoint=checkpoint, base_weights=base_weights, device=device,
            calibration_file=calibration,
        )  # fmt: skip
        options = EvaluationOptions(
            parameters, start=start, duration=duration, every=every or (1 if uncertain else _EVERY)
        )
        selection = Selection(uncertain, gap, format, space)
        result = label_bags(bags or [], out, options, selection, quiet=json == "-")
        interrupted = result["interrupted"]
    if json is not None:
        write_json(result, json)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _import(corrected: Path, out: Path, quiet: bool) -> dict[str, Any]:
    """Import corrected masks and print the numbers of frames."""
    from mlesam_ros.evaluation.label_import import import_labels

    found = import_labels(corrected, out)
    if found.foreign:
        named = f"{found.foreign[0]}{f' and {len(found.foreign) - 1} more are' if found.foreign[1:] else ' is'}"
        typer.echo(f"warning: {named} no frame of {out}.", err=True)
    typer.echo(f"{len(found.names)} frames imported; {found.labeled} of {found.frames} have labels", err=quiet)
    return {
        "output_dir": str(out), "imported": found.names, "frames": found.frames, "labeled": found.labeled,
        "foreign": found.foreign,
    }  # fmt: skip
