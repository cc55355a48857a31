"""The street as a data set: rendered once, encoded as the pipeline encodes, kept as `datasets.arrays` has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.encoders import DEFAULT_PREPROCESSORS, Settings, make_preprocessors
from mlesam_ros.frame import MODALITIES, Modality
from mlesam_ros.ownership import owned
from mlesam_ros.training.conditions import street_conditions
from mlesam_ros.training.datasets.arrays import LABEL_SAMPLING, EncodedDataset, allocate, find_made, statistics_of
from mlesam_ros.training.recipe import Data, Split
from mlesam_ros.training.rendering import Street, fingerprint, render_streets

Report = Callable[[int, int], None]
"""Told (moments done, moments in all) after each street."""


def prepare(
    data: Data,
    part: str,
    encoders: Mapping[Modality, str] | None = None,
    report: Report | None = None,
    settings: Settings = MappingProxyType({}),
) -> EncodedDataset:
    """Render what is missing of a part and open it.

    Args:
        data: what to render; `data.folder` is made where it does not exist.
        part: `train` or `held_out`.
        encoders: modality → encoder name; None for the default encoder of all four.
        report: told about the progress.
        settings: of the encoders' images; their defaults where it says nothing.

    Raises:
        DatasetError: the folder holds something else, or a process that renders died.
        FileError: another process renders there, or there is too little room.
    """
    split: Split = getattr(data, part)
    names = dict(encoders or {modality: DEFAULT_PREPROCESSORS[modality] for modality in MODALITIES})
    folder = Path(data.folder) / part
    own = json.dumps({m: dict(settings[m]) for m in sorted(settings)}, sort_keys=True)
    manifest = _manifest(data, split, names, own)
    done = find_made(folder, manifest)
    if done is None or not done.all():
        with owned(folder, "rendering"):
            done = find_made(folder, manifest)
            if done is None:
                each = [street.names() for street in street_conditions(split) for _ in range(split.moments)]
                done = allocate(folder, manifest, each, (data.size, data.size))
            _render(_streets(folder, data, split, names, done, own), data.processes, done, report)
    return EncodedDataset(folder)


def _render(streets: Iterator[Street], processes: int, done: npt.NDArray[np.bool_], report: Report | None) -> None:
    finished = int(done.sum())
    for rows in render_streets(list(streets), processes):
        finished += rows
        if report:
            report(finished, len(done))


def _manifest(data: Data, split: Split, encoders: dict[Modality, str], settings: str) -> dict[str, Any]:
    """Everything that decides what is rendered, as JSON types."""
    statistics = statistics_of(make_preprocessors(encoders, json.loads(settings)))
    return {
        "split": asdict(split), "size": data.size, "world_size": data.world_size, "encoders": encoders,
        "statistics": statistics, "labels": LABEL_SAMPLING,
        "fingerprint": fingerprint(tuple(split.weathers), tuple(split.faults), tuple(encoders.items()), settings),
    }  # fmt: skip


def _streets(
    folder: Path, data: Data, split: Split, encoders: dict[Modality, str], done: npt.NDArray[np.bool_], settings: str
) -> Iterator[Street]:
    """The streets that still lack rows."""
    names, sizes = tuple(encoders.items()), (data.size, data.world_size)
    for number, conditions in enumerate(street_conditions(split)):
        first = number * split.moments
        rows = tuple(row for row in range(first, first + split.moments) if not done[row])
        if rows:
            seed = split.first_seed + number
            yield Street(str(folder), seed, conditions, rows, split.moments, *sizes, names, settings)
