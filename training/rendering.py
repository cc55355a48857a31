"""Streets become the arrays of a data set, several processes side by side."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from mlesam_ros.encoding.encoders import encode, make_preprocessors
from mlesam_ros.errors import DatasetError
from mlesam_ros.frame import CAMERA, FrameSet, Modality
from mlesam_ros.ownership import end_with_parent
from mlesam_ros.training.conditions import Conditions
from mlesam_ros.training.datasets.arrays import Writer
from mlesam_ros.world.faults import NO_FAULT
from mlesam_ros.world.moment import SimFrame
from mlesam_ros.world.world import World

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
