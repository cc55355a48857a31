# SPDX-License-Identifier: Apache-2.0
"""Choose the frames of bags and write their proposals, for `mlesam label`."""

from __future__ import annotations

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
from mlesam_ros.evaluation.label_folder import NewFiles, write_data
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
from mlesam_ros.files import LOCK_FILE, exclusive_folder, write_error
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
    """Write the proposals of bags into a new folder, and print a summary.

    Args:
        paths: bags, and folders of bags.
        folder: created if missing; it must be empty.
        options: of the evaluation that makes the masks.
        selection: frames to write.
        quiet: print nothing to standard output.

    Returns:
        The result with the keys documented in `docs/results.md`.

    Raises:
        MlesamError: invalid input, or the disk is full; then the folder is left as it was.
        KeyboardInterrupt: before the first frame.
    """
    bags = find_bags(paths)
    check_names(bags)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file.", "Give another folder.")
    with exclusive_folder(folder, "labeling"):
        if any(path.name != LOCK_FILE for path in folder.iterdir()):
            raise ConfigError(
                f"{folder} exists already and is not empty.",
                "Give another folder, as frames and labels are never overwritten.",
            )
        result = _label(bags, folder, options, selection)
    for warning in result["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    ended = " until the interruption" if result["interrupted"] else ""
    typer.echo(f"{len(result['frames'])} frames are in {folder}{ended}", err=quiet)
    return result


def _label(bags: Sequence[Path], folder: Path, options: EvaluationOptions, selection: Selection) -> dict[str, Any]:
    """Check all bags, and write the frames of each."""
    pipeline = load_model(options.parameters)
    seconds, sizes, sensors = {}, {}, list(pipeline.config.modalities)
    for bag in bags:
        seconds[bag] = check_bag(bag, pipeline, options)
        present, sizes[bag] = require_camera(bag, pipeline, options)
        sensors = [modality for modality in sensors if modality in present]
    size = check_sizes(sizes)
    network = pipeline.config.label_space
    translation = Translation.between(network, load_label_space(selection.space) if selection.space else network)
    if selection.format == PNG:
        check_colors(translation.space)
    run, files = _Run(pipeline, options, seconds, sensors, size), NewFiles(folder)
    coco = CocoWriter(translation.space) if selection.format == COCO else None
    try:
        chosen = run.choose(selection) if selection.uncertain else None
        return run.write(files, translation, coco, chosen)
    except BaseException as error:
        files.remove()
        if isinstance(error, OSError):
            raise write_error(folder, error) from error
        raise


class _Run:
    """Segments bags twice at most: to choose frames, and to write them."""

    def __init__(
        self,
        pipeline: Pipeline,
        options: EvaluationOptions,
        seconds: Mapping[Path, float],
        sensors: Sequence[Modality],
        size: tuple[int, int],
    ) -> None:
        self._pipeline, self._options, self._seconds = pipeline, options, seconds
        self._sensors, self._size = sensors, size

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
        self, files: NewFiles, translation: Translation, coco: CocoWriter | None, chosen: Sequence[Frame] | None
    ) -> dict[str, Any]:
        """Write the chosen frames; None for all."""
        writers: dict[Path, ProposalWriter] = {}
        warnings: dict[str, None] = {}
        interrupted = False
        for bag in self._seconds:
            writer = ProposalWriter(files, bag, translation, coco)
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
        self._finish(files, translation, coco, frames, writers)
        return {
            "output_dir": str(files.folder), "format": PNG if coco is None else COCO, "space": translation.space.name,
            "frames": [{"name": frame.name, **frame._asdict()} for frame in frames], "unusable": unusable,
            "warnings": list(warnings), "interrupted": interrupted,
        }  # fmt: skip

    def _finish(
        self,
        files: NewFiles,
        translation: Translation,
        coco: CocoWriter | None,
        frames: Sequence[Frame],
        writers: Mapping[Path, ProposalWriter],
    ) -> None:
        write_index(files, translation.space, frames, coco)
        parameters = self._options.parameters
        sensors = {"parameters": sensor_parameters(parameters), "node": parameters.node}
        bags = [bag for bag, writer in writers.items() if writer.frames]
        write_data(files, bags, self._size, translation.space, sensors, self._sensors)

    def _segment(self, bag: Path, options: EvaluationOptions, listener: FrameFinder) -> Evaluation:
        with bag_progress(bag, self._seconds[bag]) as progress:
            return evaluate(bag, self._pipeline, options, [listener], progress)
