# SPDX-License-Identifier: Apache-2.0
"""`mlesam export`: write a checkpoint as one file for ONNX Runtime or OpenVINO."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.cli.common import (
    JsonOption,
    ParamOption,
    ParamsOption,
    epilog,
    format_help,
    read_parameters,
    write_json,
)
from mlesam_ros.files import atomic_write, check_writable, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlesam_ros.config import NodeParameters
    from mlesam_ros.model.model_config import MLESAMConfig
    from mlesam_ros.pipeline import Pipeline

_STREET = "street"
_EXAMPLES = epilog(
    "mlesam export street --format onnx",
    "mlesam export street --format openvino --precision int8 --image-size 192 320",
    "mlesam export my_experts.safetensors --format openvino --precision int8 --calibrate drive/",
)
_SETS_PER_SECOND = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(export), epilog=_EXAMPLES)(export)


def export(
    checkpoint: Annotated[str, typer.Argument(help="Path or name of a checkpoint.")],
    format: Annotated[str, typer.Option("--format", help="onnx or openvino.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16 (weights), or int8 (openvino only).")] = "fp32",
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option("--image-size", metavar="H W", help="Image size in pixels; the checkpoint's square by default."),
    ] = None,
    calibrate: Annotated[
        str, typer.Option(metavar="BAG", help="For int8: a bag of the robot, or street to simulate.")
    ] = _STREET,
    sets: Annotated[int, typer.Option(min=1, help="For int8: frame sets to calibrate with.")] = 20,
    base_weights: Annotated[str | None, typer.Option(help="Path or name of the backbone's weights.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file; by default where the node looks for it.", metavar="FILE")
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    json: JsonOption = None,
) -> None:
    """Export the experts of every sensor to one file for ONNX Runtime or OpenVINO.

    The file has one image size and works for every subset of the sensors. A node whose parameter runtime is auto uses
    it where it is faster than PyTorch. Files are kept in the folder MLESAM_EXPORTS, or in mlesam_ros/exports of the
    user's cache folder.
    """
    from mlesam_ros.model.checkpoint import load_checkpoint
    from mlesam_ros.model.exporter import check_export, export_checkpoint
    from mlesam_ros.model.runtimes import export_path, load_exported
    from mlesam_ros.pipeline import Pipeline

    begun = time.perf_counter()
    check_export(format, precision, image_size)
    if output is not None:
        check_writable(output)
    images: list[dict[str, Any]] = []
    if precision == "int8":
        parameters = read_parameters(params, param)
        pipeline = Pipeline(load_checkpoint(checkpoint, base_weights), "cpu", "fp32")
        if calibrate == _STREET:
            images = list(_street_images(pipeline.config, image_size or (pipeline.config.image_size,) * 2, sets))
        else:
            images = _bag_images(pipeline, Path(calibrate), parameters, image_size, sets)
            height, width = next(iter(images[0].values())).shape[1:]
            image_size = height, width
            if missing := [m for m in pipeline.config.modalities if not any(m in found for found in images)]:
                typer.echo(f"{calibrate} has no images of {', '.join(missing)}: their encoders stay in fp32", err=True)
    content, info = export_checkpoint(checkpoint, format, precision, image_size, base_weights, images)
    path = output or export_path(info.checkpoint_sha256, format, precision, info.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content)
    load_exported(path)
    seconds = time.perf_counter() - begun
    if json is not None:
        layers = {name: {"precision": kind, "error": error} for name, (kind, error) in info.layers.items()}
        write_json(
            {
                "path": str(path), "runtime": format, "precision": precision, "size": list(info.size),
                "bytes": len(content), "seconds": round(seconds, 1), "versions": dict(info.versions), "layers": layers,
            },
            json,
        )  # fmt: skip
        return
    for name, (kind, error) in info.layers.items():
        typer.echo(f"{kind:5} {100 * error:6.2f} %  {name}", err=True)
    typer.echo(f"{format_size(len(content))} in {seconds:.0f} s", err=True)
    typer.echo(path)


def _street_images(config: MLESAMConfig, size: tuple[int, int], sets: int) -> Iterator[dict[str, Any]]:
    """Yield images of simulated streets in every weather."""
    from mlesam_ros.progress import track
    from mlesam_ros.simulation.samples import TRAINING_SEED, street_samples

    with track("rendering", sets, "frame sets") as progress:
        for done, (images, _) in enumerate(street_samples(config, size, sets, TRAINING_SEED), 1):
            yield images
            progress(done, sets)


def _bag_images(
    pipeline: Pipeline, bag: Path, parameters: NodeParameters, size: tuple[int, int] | None, sets: int
) -> list[dict[str, Any]]:
    """Images of sets from a whole bag.

    Raises:
        MlesamError: see `evaluate`.
        ConfigError: the images do not have the size.
    """
    from mlesam_ros.errors import ConfigError
    from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions, check_bag, evaluate
    from mlesam_ros.evaluation.scores import MaskListener, MaskRecord
    from mlesam_ros.progress import track

    images: list[dict[str, Any]] = []

    class Collector(MaskListener):
        """Takes the network's images of every set."""

        def on_mask(self, record: MaskRecord) -> None:
            images.append(pipeline.images)

    options = EvaluationOptions(parameters)
    seconds = check_bag(bag, pipeline, options)
    every = max(1, int(seconds * _SETS_PER_SECOND / sets))
    with track("reading", seconds, "s") as progress:
        evaluate(bag, pipeline, replace(options, every=every), [Collector()], lambda done: progress(done, seconds))
    found = next(iter(images[0].values())).shape[1:]
    if size is not None and found != size:
        raise ConfigError(
            f"images of {bag} have {found[0]}x{found[1]}, not {size[0]}x{size[1]}.",
            "Leave out --image-size, or calibrate with a bag of the camera that it is for.",
        )
    return images[:sets]
