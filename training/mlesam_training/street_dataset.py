# SPDX-License-Identifier: Apache-2.0
"""The data set of simulated streets: conditions per street, parallel rendering, and encoded rows."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mlesam_ros.errors import DatasetError
from mlesam_ros.files import end_with_parent, exclusive_folder
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, Settings, encode, make_preprocessors
from mlesam_ros.simulation.weather import NO_FAULT
from mlesam_ros.simulation.world import SimFrame, World
from mlesam_ros.types import CAMERA, MODALITIES, FrameSet, Modality
from mlesam_training.encoded_dataset import (
    LABEL_SAMPLING,
    EncodedDataset,
    Writer,
    allocate,
    find_encoded,
    normalization_of,
)
from mlesam_training.recipe import Split, StreetData


@dataclass(frozen=True)
class Conditions:
    """Weather (one of `WEATHERS`), fault (one of `FAULTS`) and style (one of `STYLES`) of one street."""

    weather: str
    fault: str
    style: str


def street_conditions(split: Split) -> list[Conditions]:
    """Conditions of the streets of a split, in the order of their seeds.

    They depend only on the seed and the shares, so that a larger split keeps its earlier streets. Every range of seeds
    has each condition approximately in proportion to its share. Faults are allocated per weather, styles per weather
    and fault.
    """
    last = split.first_seed + split.streets
    faults = {weather: iter(allocate_by_share(split.faults, last)) for weather in split.weathers}
    styles = {pair: iter(allocate_by_share(split.styles, last)) for pair in product(split.weathers, split.faults)}
    pairs = [(weather, next(faults[weather])) for weather in allocate_by_share(split.weathers, last)]
    return [Conditions(*pair, next(styles[pair])) for pair in pairs][split.first_seed :]


def allocate_by_share(shares: Mapping[str, float], count: int) -> list[str]:
    """Sequence of `count` names in which every prefix has each name in proportion to its share."""
    total = sum(shares.values())
    exact = {name: Fraction(share / total).limit_denominator(1000) for name, share in shares.items()}
    due, dealt = dict.fromkeys(shares, Fraction(0)), []
    for _ in range(count):
        due = {name: owed + exact[name] for name, owed in due.items()}
        name = max(due, key=lambda each: due[each])  # the first among equals
        due[name] -= 1
        dealt.append(name)
    return dealt


_FINGERPRINT_SIZE = (64, 64)


@dataclass(frozen=True)
class Street:
    """Rendering task: a street, and the rows to fill with its samples."""

    folder: str
    seed: int
    conditions: Conditions
    rows: tuple[int, ...]
    moments: int
    size: int
    world_size: int
    preprocessors: tuple[tuple[Modality, str], ...]
    settings: str = "{}"
    """JSON of the image settings of the preprocessors."""


def render_streets(streets: Sequence[Street], processes: int) -> Iterator[int]:
    """Render streets in parallel processes.

    Yields:
        Number of rows of each street, in the order of completion.

    Raises:
        DatasetError: a process died.
    """
    context = multiprocessing.get_context("spawn")
    count, me = min(processes, len(streets)), os.getpid()
    if not streets:
        return
    with ProcessPoolExecutor(count, context, initializer=end_with_parent, initargs=(me,)) as pool:
        waiting = [pool.submit(_render, street) for street in streets]
        try:
            for done in as_completed(waiting):
                yield done.result()
        except BrokenProcessPool as error:
            raise DatasetError(
                "a rendering process died, possibly from too little memory or disk; finished rows are kept.",
                "Lower processes and run the same command again.",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@lru_cache
def fingerprint(
    weathers: tuple[str, ...],
    faults: tuple[str, ...],
    styles: tuple[str, ...],
    preprocessors: tuple[tuple[Modality, str], ...],
    settings: str = "{}",
) -> str:
    """SHA-256 of a small sample per condition; changes with the simulation and the preprocessors."""
    digest, made = hashlib.sha256(), make_preprocessors(dict(preprocessors), json.loads(settings))
    pairs = dict.fromkeys([(w, NO_FAULT) for w in weathers] + [(weathers[0], f) for f in faults])
    for style, (weather, fault) in product(styles, pairs):
        world = World(7, weather, _FINGERPRINT_SIZE, threads=1, fault=fault, style=style)
        frame = world.sample(_sample_index(world.length, 0, 1))
        digest.update(frame.labels.tobytes())
        for image in encode(_frame_set(frame), world.rig, _FINGERPRINT_SIZE, made).values():
            digest.update(image.astype(np.float16).tobytes())
    return digest.hexdigest()


def _render(street: Street) -> int:
    """Render the rows of a street.

    Returns:
        Number of rows.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    size = (street.size, street.size)
    preprocessors = make_preprocessors(dict(street.preprocessors), json.loads(street.settings))
    writer = Writer(Path(street.folder), tuple(preprocessors))
    conditions, shape = street.conditions, (street.world_size, street.world_size)
    world = World(street.seed, conditions.weather, shape, threads=1, fault=conditions.fault, style=conditions.style)
    for row in street.rows:
        frame = world.sample(_sample_index(world.length, row % street.moments, street.moments))
        images = encode(_frame_set(frame), world.rig, size, preprocessors)
        writer.put(row, images, frame.labels)
    return len(street.rows)


def _sample_index(length: int, number: int, count: int) -> int:
    """Simulation step of sample `number` of `count`: the middle of one of `count` equal intervals."""
    return int((number + 0.5) * length / count)


def _frame_set(frame: SimFrame) -> FrameSet:
    return FrameSet(frame.stamp, CAMERA, frame.frames, dict.fromkeys(frame.frames, 0))


Report = Callable[[int, int], None]
"""Called with (samples done, samples in total) after each street."""


def prepare(
    data: StreetData,
    part: str,
    preprocessors: Mapping[Modality, str] | None = None,
    report: Report | None = None,
    settings: Settings = MappingProxyType({}),
) -> EncodedDataset:
    """Render the missing rows of a split and open it.

    Args:
        data: streets to render; `data.folder` is created if missing.
        part: `train` or `held_out`.
        preprocessors: modality → preprocessor name; None for the default preprocessors of all four modalities.
        report: progress callback.
        settings: image settings per modality; defaults apply to missing ones.

    Raises:
        DatasetError: the folder holds other data, or a rendering process died.
        FileError: another process renders into the folder, or the disk has too little space.
    """
    split: Split = getattr(data, part)
    names = dict(preprocessors or {modality: DEFAULT_PREPROCESSORS[modality] for modality in MODALITIES})
    folder = Path(data.folder) / part
    own = json.dumps({m: dict(settings[m]) for m in sorted(settings)}, sort_keys=True)
    manifest = _manifest(data, split, names, own)
    done = find_encoded(folder, manifest)
    if done is None or not done.all():
        with exclusive_folder(folder, "rendering"):
            done = find_encoded(folder, manifest)
            if done is None:
                each = [asdict(street) for street in street_conditions(split) for _ in range(split.moments)]
                done = allocate(folder, manifest, each, (data.size, data.size))
            _render_missing(_streets(folder, data, split, names, done, own), data.processes, done, report)
    return EncodedDataset(folder)


def _render_missing(
    streets: Iterator[Street], processes: int, done: npt.NDArray[np.bool_], report: Report | None
) -> None:
    finished = int(done.sum())
    for rows in render_streets(list(streets), processes):
        finished += rows
        if report:
            report(finished, len(done))


def _manifest(data: StreetData, split: Split, preprocessors: dict[Modality, str], settings: str) -> dict[str, Any]:
    """Inputs that determine the rendered rows, as JSON types."""
    normalization = normalization_of(make_preprocessors(preprocessors, json.loads(settings)))
    kinds = tuple(split.weathers), tuple(split.faults), tuple(split.styles), tuple(preprocessors.items())
    return {
        "split": asdict(split), "size": data.size, "world_size": data.world_size, "preprocessors": preprocessors,
        "normalization": normalization, "labels": LABEL_SAMPLING,
        "fingerprint": fingerprint(*kinds, settings),
    }  # fmt: skip


def _streets(
    folder: Path,
    data: StreetData,
    split: Split,
    preprocessors: dict[Modality, str],
    done: npt.NDArray[np.bool_],
    settings: str,
) -> Iterator[Street]:
    """Streets with missing rows."""
    names, sizes = tuple(preprocessors.items()), (data.size, data.world_size)
    for number, conditions in enumerate(street_conditions(split)):
        first = number * split.moments
        rows = tuple(row for row in range(first, first + split.moments) if not done[row])
        if rows:
            seed = split.first_seed + number
            yield Street(str(folder), seed, conditions, rows, split.moments, *sizes, names, settings)
