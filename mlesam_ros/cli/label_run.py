# SPDX-License-Identifier: Apache-2.0
"""Choose the frames of bags and write their proposals, for `mlesam label`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from mlesam_ros.cli.evaluate_run import bag_progress, load_model
from mlesam_ros.coco import CocoWriter
from mlesam_ros.errors import BagError, ConfigError
from mlesam_ros.evaluation.bag_evaluator import Evaluation, EvaluationOptions, check_bag, evaluate
from mlesam_ros.evaluation.bag_outputs import find_bags
from mlesam_ros.evaluation.label_folder import write_data
from mlesam_ros.evaluation.proposals import (
    COCO,
    PNG,
    Frame,
    FrameFinder,
    ProposalWriter,
    Translation,
    check_colors,
    check_names,
    check_sizes,
    choose_uncertain,
    require_camera,
    sensor_parameters,
    write_index,
)
from mlesam_ros.files import write_error
from mlesam_ros.labels import load_label_space
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.types import Modality


@dataclass(frozen=True)
class Selection:
    """Frames to write, and how.

    Attributes:
        uncertain: number of frames, of least confidence; 0 for all that the evaluation segments.
        gap: seconds between two of them at least.
        format: one of `FORMATS`.
        space: file of the label space; None for that of the checkpoint.
    """

    uncertain: int
    gap: float
    format: str
    space: Path | None


def label_bags(
    paths: Sequence[Path], folder: Path, options: EvaluationOptions, selection: Selection, quiet: bool
) -> dict[str, Any]:
    """Write the proposals of bags into a new folder, and print what was written.

    Args:
        paths: bags, and folders of bags.
        folder: created if missing; it must be empty.
        options: of the evaluation that makes the masks.
        selection: frames to write.
        quiet: print nothing to standard output.

    Returns:
        The result with the keys documented in `docs/results.md`.

    Raises:
        MlesamError: invalid input, or the disk is full; then the folder is left empty.
        KeyboardInterrupt: before the first frame.
    """
    bags = find_bags(paths)
    check_names(bags)
    is_new = _require_empty(folder)
    pipeline = load_model(options.parameters)
    seconds, sensors = {}, list(pipeline.config.modalities)
    for bag in bags:
        seconds[bag] = check_bag(bag, pipeline, options)
        present = require_camera(bag, pipeline, options)
        sensors = [modality for modality in sensors if modality in present]
    network = pipeline.config.label_space
    translation = Translation.between(network, load_label_space(selection.space) if selection.space else network)
    if selection.format == PNG:
        check_colors(translation.space)
    run = _Run(pipeline, options, seconds, sensors)
    try:
        chosen = run.choose(selection) if selection.uncertain else None
        folder.mkdir(parents=True, exist_ok=True)
        result = run.write(
            folder, translation, CocoWriter(translation.space) if selection.format == COCO else None, chosen
        )
    except BaseException as error:
        _empty(folder, is_new)
        if isinstance(error, OSError):
            raise write_error(folder, error) from error
        raise
    for warning in result["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    ended = " until the interruption" if result["interrupted"] else ""
    typer.echo(f"{len(result['frames'])} frames are in {folder}{ended}", err=quiet)
    return result


def _require_empty(folder: Path) -> bool:
    """Check that a folder is empty or missing.

    Returns:
        Whether it is missing.

    Raises:
        ConfigError: it is not empty, or is a file.
    """
    if not folder.exists():
        return True
    if not folder.is_dir() or any(folder.iterdir()):
        raise ConfigError(
            f"{folder} exists already and {'is not empty' if folder.is_dir() else 'is a file'}.",
            "Give another folder, as frames and labels are never overwritten.",
        )
    return False


def _empty(folder: Path, remove: bool) -> None:
    """Remove what a failed run wrote."""
    for path in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if remove and folder.is_dir():
        folder.rmdir()


class _Run:
    """Segments bags twice at most: to choose frames, and to write them."""

    def __init__(
        self, pipeline: Pipeline, options: EvaluationOptions, seconds: Mapping[Path, float], sensors: Sequence[Modality]
    ) -> None:
        self._pipeline, self._options, self._seconds, self._sensors = pipeline, options, seconds, sensors

    def choose(self, selection: Selection) -> list[Frame]:
        """Segment every set, and choose the most uncertain frames."""
        frames: list[Frame] = []
        for bag in self._seconds:
            finder = FrameFinder(bag)
            if self._segment(bag, self._options, finder).interrupted:
                raise KeyboardInterrupt
            frames += finder.frames
        return choose_uncertain(frames, selection.uncertain, selection.gap)

    def write(
        self, folder: Path, translation: Translation, coco: CocoWriter | None, chosen: Sequence[Frame] | None
    ) -> dict[str, Any]:
        """Write the chosen frames; None for all."""
        writers: dict[Path, ProposalWriter] = {}
        warnings: dict[str, None] = {}
        interrupted = False
        for bag in self._seconds:
            writer = ProposalWriter(folder, bag, translation, coco)
            options = self._options
            if chosen is not None:
                stamps = frozenset(frame.stamp for frame in chosen if frame.bag == writer.bag)
                if not stamps:
                    continue
                options = replace(options, stamps=stamps)
            writers[bag] = writer
            try:
                found = self._segment(bag, options, writer)
            except KeyboardInterrupt:
                if not any(other.frames for other in writers.values()):
                    raise
                interrupted = True
                break
            if writer.failure is not None:
                raise writer.failure
            warnings.update(dict.fromkeys(found.warnings))
            if found.interrupted:
                interrupted = True
                break
        frames = [frame for writer in writers.values() for frame in writer.frames]
        unusable = sum(writer.unusable for writer in writers.values())
        if not frames:
            raise BagError(
                f"none of the {unusable} masks is in the view of a camera image of its time.",
                "Check the camera and its CameraInfo with mlesam doctor.",
            )
        self._finish(folder, translation, coco, frames, writers)
        return {
            "output_dir": str(folder), "format": PNG if coco is None else COCO, "space": translation.space.name,
            "frames": [{"name": frame.name, **frame._asdict()} for frame in frames], "unusable": unusable,
            "warnings": list(warnings), "interrupted": interrupted,
        }  # fmt: skip

    def _finish(
        self,
        folder: Path,
        translation: Translation,
        coco: CocoWriter | None,
        frames: Sequence[Frame],
        writers: Mapping[Path, ProposalWriter],
    ) -> None:
        write_index(folder, translation.space, frames, coco)
        parameters = self._options.parameters
        sensors = {"parameters": sensor_parameters(parameters), "node": parameters.node}
        bags = [bag for bag, writer in writers.items() if writer.frames]
        write_data(folder, bags, check_sizes(writers), translation.space, sensors, self._sensors)

    def _segment(self, bag: Path, options: EvaluationOptions, listener: FrameFinder) -> Evaluation:
        with bag_progress(bag, self._seconds[bag]) as progress:
            return evaluate(bag, self._pipeline, options, [listener], progress)
