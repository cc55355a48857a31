"""The data set of rendered streets: conditions, rendering in processes, rows."""

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
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mlesam_ros.errors import DatasetError
from mlesam_ros.files import end_with_parent, owned
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, Settings, encode, make_preprocessors
from mlesam_ros.simulation.weather import NO_FAULT
from mlesam_ros.simulation.world import SimFrame, World
from mlesam_ros.types import CAMERA, MODALITIES, FrameSet, Modality
from mlesam_training.datasets.encoded_dataset import (
    LABEL_SAMPLING,
    EncodedDataset,
    Writer,
    allocate,
    find_made,
    statistics_of,
)
from mlesam_training.recipe import Data, Split


@dataclass(frozen=True)
class Conditions:
    """What one street is like: one of the world's `WEATHERS`, one of its `FAULTS`."""

    weather: str
    fault: str

    def names(self) -> dict[str, str]:
        """Kind of condition → its name, as data sets tell it of every row."""
        return {"weather": self.weather, "fault": self.fault}


def street_conditions(split: Split) -> list[Conditions]:
    """The conditions of a part's streets, in the order of their seeds.

    They follow from a street's seed and the shares alone, so that a part that grows keeps the streets it had. Every
    stretch of seeds has every condition about as often as its share says; every weather deals the faults out by itself.
    """
    last = split.first_seed + split.streets
    dealt = {weather: iter(allocate_by_share(split.faults, last)) for weather in split.weathers}
    every = [Conditions(weather, next(dealt[weather])) for weather in allocate_by_share(split.weathers, last)]
    return every[split.first_seed :]


def allocate_by_share(shares: Mapping[str, float], count: int) -> list[str]:
    """Names in an order in which each is due as often as its share says, after any number of them."""
    total = sum(shares.values())
    exact = {name: Fraction(share / total).limit_denominator(1000) for name, share in shares.items()}
    due, dealt = dict.fromkeys(shares, Fraction(0)), []
    for _ in range(count):
        due = {name: owed + exact[name] for name, owed in due.items()}
        name = max(due, key=lambda each: due[each])  # of equals the first
        due[name] -= 1
        dealt.append(name)
    return dealt


_SMALL = (64, 64)


@dataclass(frozen=True)
class Street:
    """The work of one process at a time: a street, and the rows that its moments fill."""

    folder: str
    seed: int
    conditions: Conditions
    rows: tuple[int, ...]
    moments: int
    size: int
    world_size: int
    encoders: tuple[tuple[Modality, str], ...]
    settings: str = "{}"
    """JSON of the encoders' image settings."""


def render_streets(streets: Sequence[Street], processes: int) -> Iterator[int]:
    """Fill the rows of streets, several processes side by side.

    Yields:
        how many rows a street had, as the streets are done.

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
                "a process that renders the street died, of too little memory or disk perhaps; what is done is kept.",
                "Lower processes and give the same command again.",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@lru_cache
def fingerprint(
    weathers: tuple[str, ...],
    faults: tuple[str, ...],
    encoders: tuple[tuple[Modality, str], ...],
    settings: str = "{}",
) -> str:
    """SHA-256 of a small picture of every condition: what a change of the world or the encoders would change."""
    digest, made = hashlib.sha256(), make_preprocessors(dict(encoders), json.loads(settings))
    for weather, fault in dict.fromkeys([(w, NO_FAULT) for w in weathers] + [(weathers[0], f) for f in faults]):
        world = World(7, weather, _SMALL, threads=1, fault=fault)
        moment = world.moment(_index(world.length, 0, 1))
        digest.update(moment.labels.tobytes())
        for picture in encode(_frame_set(moment), world.rig, _SMALL, made).values():
            digest.update(picture.astype(np.float16).tobytes())
    return digest.hexdigest()


def _render(street: Street) -> int:
    """Fill a street's rows; how many they were."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    size = (street.size, street.size)
    encoders = make_preprocessors(dict(street.encoders), json.loads(street.settings))
    writer = Writer(Path(street.folder), tuple(encoders))
    conditions, shape = street.conditions, (street.world_size, street.world_size)
    world = World(street.seed, conditions.weather, shape, threads=1, fault=conditions.fault)
    for row in street.rows:
        moment = world.moment(_index(world.length, row % street.moments, street.moments))
        pictures = encode(_frame_set(moment), world.rig, size, encoders)
        writer.put(row, pictures, moment.labels)
    return len(street.rows)


def _index(length: int, number: int, count: int) -> int:
    """Which of a street's moments to take as the number-th of count, the middles of equal stretches."""
    return int((number + 0.5) * length / count)


def _frame_set(moment: SimFrame) -> FrameSet:
    return FrameSet(moment.stamp, CAMERA, moment.frames, dict.fromkeys(moment.frames, 0))


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
            _dataset_render(_streets(folder, data, split, names, done, own), data.processes, done, report)
    return EncodedDataset(folder)


def _dataset_render(
    streets: Iterator[Street], processes: int, done: npt.NDArray[np.bool_], report: Report | None
) -> None:
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
