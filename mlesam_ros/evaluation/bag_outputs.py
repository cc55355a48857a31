# SPDX-License-Identifier: Apache-2.0
"""Find bags, distribute them over the processes of `torchrun`, and evaluate each into an output folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.recovery import is_storage, refuse_ros1_folder
from mlesam_ros.errors import BagError, ConfigError
from mlesam_ros.evaluation.bag_evaluator import Evaluation, EvaluationOptions, evaluate, find_evaluation_topics
from mlesam_ros.evaluation.label_folder import bag_name
from mlesam_ros.evaluation.report import SampleCollector, write_report
from mlesam_ros.evaluation.results import CLOUD_FORMATS, CloudWriter, ResultBag, bag_metrics
from mlesam_ros.evaluation.scores import MaskListener
from mlesam_ros.extras import require_extra
from mlesam_ros.files import end_with_torchrun
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.types import CAMERA

_COLLECTIVE_TIMEOUT = timedelta(days=7)
"""Timeout of collective operations: a process that has finished its bags waits for the slowest one."""


class ProcessGroup:
    """The processes started by `torchrun`; a single one without it.

    Attributes:
        rank: index of this process.
        size: number of processes.
    """

    def __init__(self) -> None:
        """Join the process group if `torchrun` started several processes."""
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1:
            end_with_torchrun()
            distributed.init_process_group("gloo", timeout=_COLLECTIVE_TIMEOUT)

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1:
            distributed.destroy_process_group()

    @property
    def device(self) -> str | None:
        """This process's GPU if its local rank has one; None leaves the choice to the pipeline."""
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return f"cuda:{local}" if self.size > 1 and torch.cuda.device_count() > local else None

    def broadcast(self, value: Any) -> Any:
        """Broadcast the value of rank 0."""
        box = [value]
        if self.size > 1:
            distributed.broadcast_object_list(box)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Gather the values of all processes, in the order of their ranks."""
        everything = [value]
        if self.size > 1:
            everything = [None] * self.size
            distributed.all_gather_object(everything, value)
        return everything


_SPLIT = re.compile(r"(?P<stem>.*)_\d+")


def find_bags(paths: Iterable[Path]) -> list[Path]:
    """List the bags among the paths, and in folders among the paths.

    A folder with `metadata.yaml` is a bag. A folder without it is a bag if its files are the parts of one recording
    (`drive_0.mcap`, `drive_1.mcap`); otherwise each of its files is a bag, and its subfolders are searched.

    Returns:
        Each bag once, in the order given, those of a folder by name.

    Raises:
        BagError: a path does not exist or contains no bag.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise BagError(
                f"{path} does not exist.", "Give a rosbag2 folder, a .mcap or .db3 file, or a folder of bags."
            )
        bags = [path] if path.is_file() else _bags_in_folder(path)
        if not bags:
            refuse_ros1_folder(path)
            raise BagError(f"{path} contains no bag, nor does any folder in it; bags are *.mcap and *.db3.")
        for bag in bags:
            found.setdefault(os.path.realpath(bag), bag)
    return list(found.values())


def _bags_in_folder(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if is_storage(file) and file.is_file())
    if (folder / "metadata.yaml").exists() or (files and _is_one_recording(files)):
        return [folder]
    deeper = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [*files, *(bag for entry in deeper if not entry.is_symlink() for bag in _bags_in_folder(entry))]


def _is_one_recording(files: Sequence[Path]) -> bool:
    if len(files) == 1:
        return True
    names = [bag_name(file) for file in files]
    parts = [_SPLIT.fullmatch(name) for name in names]
    return len({part["stem"] if part else name for part, name in zip(parts, names, strict=True)}) == 1


def unique_names(bags: Sequence[Path]) -> dict[str, Path]:
    """Name each bag for its output folder: the bag's own name, with a number if two names are equal."""
    names: dict[str, Path] = {}
    for bag in bags:
        stem, number = bag_name(bag), 1
        name = stem
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names[name] = bag
    return names


RESULT_BAG, REPORT, METRICS, CLOUDS = "result", "report.html", "metrics.json", "clouds"


@dataclass(frozen=True)
class Outputs:
    """Output files to write besides `metrics.json`.

    Attributes:
        bag: whether to write the result bag.
        report: whether to write `report.html`.
        clouds: file format of the labeled point clouds, `ply` or `pcd`; empty for none.
    """

    bag: bool = True
    report: bool = True
    clouds: str = ""

    def __post_init__(self) -> None:
        """Validate the file format.

        Raises:
            ConfigError: the format of the point clouds is not one of `CLOUD_FORMATS`.
            PackageError: a report is wanted and Jinja2 is not installed.
        """
        if self.report:
            require_extra("jinja2", "report.html")
        if self.clouds and self.clouds not in CLOUD_FORMATS:
            raise ConfigError(f"clouds is {self.clouds!r}; accepted are {' and '.join(CLOUD_FORMATS)}.")


def evaluate_to_folder(
    folder: Path,
    bag: Path,
    pipeline: Pipeline,
    options: EvaluationOptions,
    outputs: Outputs,
    progress: Callable[[float], None] | None = None,
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate a bag and write its output files, except `metrics.json`, to a folder.

    Args:
        folder: exists and is empty.
        bag, pipeline, options, progress: as for `evaluate`, which also raises the same errors.
        outputs: files to write.

    Returns:
        The evaluation, and its figures as `bag_metrics` returns them.

    Raises:
        BagError: the disk is full; files written before are complete.
    """
    config = pipeline.config
    collector = SampleCollector(config.label_space, config.normalization.get(CAMERA))
    listeners: list[MaskListener] = [collector] if outputs.report else []
    if outputs.clouds:
        listeners.append(CloudWriter(folder / CLOUDS, config.label_space, outputs.clouds))
    with ExitStack() as stack:
        if outputs.bag:
            with BagReader(bag) as reader:
                sensors = find_evaluation_topics(reader, pipeline, options).sensors
            parameters = options.parameters
            configured = parameters.sensors(config.modalities)
            names = {m: parameters.resolve(parameters.sensor(m).topic) for m in configured}
            names |= {modality: source.topic for modality, source in sensors.items()}
            listeners.append(stack.enter_context(ResultBag(folder / RESULT_BAG, config.label_space, names, parameters)))
        evaluation = evaluate(bag, pipeline, options, listeners, progress)
    figures = bag_metrics(evaluation, options, pipeline)
    if outputs.report:
        write_report(folder / REPORT, figures, evaluation.scores.masks, collector.samples, config.label_space)
    return evaluation, figures
