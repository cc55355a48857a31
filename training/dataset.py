"""The street as a data set: rendered once, encoded as the pipeline encodes, kept as arrays on disk.

In the folder of each part:

- `manifest.json`: what was rendered; a folder made for something else is refused;
- `camera.npy` and so on, one per modality: (N, 3, S, S) float16, as the expert reads it;
- `labels.npy`: (N, S, S) uint8 class ids;
- `night.npy`: (N,) bool;
- `done.npy`: (N,) bool, the rows that are written; a killed rendering goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from mlesam_ros.encoding.encoders import DEFAULT_ENCODERS, encode, make_encoders
from mlesam_ros.errors import DatasetError
from mlesam_ros.frame import CAMERA, MODALITIES, FrameSet, Modality
from mlesam_ros.training.recipe import Data, Split
from mlesam_ros.world.world import World

Report = Callable[[int, int], None]
"""Told (moments done, moments in all) after each street."""


class StreetDataset:
    """The moments of one part.

    Attributes:
        images: modality → (N, 3, S, S) float16, read from disk as needed.
        labels: (N, S, S) uint8.
        night: (N,) bool.
    """

    def __init__(self, folder: Path) -> None:
        """Open a rendered part.

        Raises:
            DatasetError: a file is missing, or the rendering was not finished.
        """
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            self.images = {name: np.load(folder / f"{name}.npy", "r") for name in manifest["encoders"]}
            self.labels, self.night = np.load(folder / "labels.npy", "r"), np.load(folder / "night.npy")
            done = np.load(folder / "done.npy")
        except (OSError, ValueError, KeyError) as error:
            raise DatasetError(f"{folder} holds no rendered street ({error}); render it again.") from error
        if not done.all():
            raise DatasetError(f"{folder} has {int(done.sum())} of {len(done)} moments; let the rendering finish.")

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Sequence[int], modalities: Sequence[Modality]) -> tuple[dict[Modality, Tensor], Tensor]:
        """Some moments: modality → (B, 3, S, S) float32, and the labels (B, S, S) uint8."""
        order = list(rows)
        images = {name: torch.from_numpy(self.images[name][order].astype(np.float32)) for name in modalities}
        return images, torch.from_numpy(self.labels[order])

    def class_counts(self, classes: int) -> npt.NDArray[np.int64]:
        """(classes,) labelled pixels per class."""
        return np.bincount(np.asarray(self.labels).ravel(), minlength=256)[:classes]


@dataclass(frozen=True)
class _Street:
    """The work of one process at a time: a street, and the rows that its moments fill."""

    folder: str
    seed: int
    rows: tuple[int, ...]
    moments: int
    size: int
    world_size: int
    encoders: tuple[tuple[Modality, str], ...]


def prepare(
    data: Data, part: str, encoders: Mapping[Modality, str] | None = None, report: Report | None = None
) -> StreetDataset:
    """Render what is missing of a part and open it.

    Args:
        data: what to render; `data.folder` is made where it does not exist.
        part: `train` or `held_out`.
        encoders: modality → encoder name; None for the default encoder of all four.
        report: told about the progress.

    Raises:
        DatasetError: the folder holds something else.
    """
    split: Split = getattr(data, part)
    names = dict(encoders or {modality: DEFAULT_ENCODERS[modality] for modality in MODALITIES})
    folder = Path(data.folder) / part
    done = _allocate(folder, data, split, names)
    streets = list(_streets(folder, data, split, names, done))
    finished = int(done.sum())
    context = multiprocessing.get_context("spawn")
    if streets:
        with context.Pool(min(data.processes, len(streets))) as pool:
            for rows in pool.imap_unordered(_render, streets):
                finished += rows
                if report:
                    report(finished, len(done))
    return StreetDataset(folder)


def _allocate(folder: Path, data: Data, split: Split, encoders: dict[Modality, str]) -> npt.NDArray[np.bool_]:
    """Make the arrays, or check that those on disk are for the same thing; which rows are done."""
    manifest = {"split": asdict(split), "size": data.size, "world_size": data.world_size, "encoders": encoders}
    path = folder / "manifest.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != manifest:
            keys = [key for key in manifest if found.get(key) != manifest[key]]
            raise DatasetError(f"{folder} was rendered with another {' and '.join(keys)}; give another folder.")
        return np.array(np.load(folder / "done.npy"))
    folder.mkdir(parents=True, exist_ok=True)
    count, size = split.streets * split.moments, data.size
    for name in encoders:
        open_memmap(folder / f"{name}.npy", "w+", np.float16, (count, 3, size, size)).flush()
    open_memmap(folder / "labels.npy", "w+", np.uint8, (count, size, size)).flush()
    night = [_is_night(split.first_seed + row // split.moments) for row in range(count)]
    np.save(folder / "night.npy", np.array(night))
    np.save(folder / "done.npy", np.zeros(count, bool))
    path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return np.zeros(count, bool)


def _is_night(seed: int) -> bool:
    return seed % 2 == 1


def _streets(
    folder: Path, data: Data, split: Split, encoders: dict[Modality, str], done: npt.NDArray[np.bool_]
) -> list[_Street]:
    """The streets that still lack rows."""
    out = []
    for number in range(split.streets):
        first = number * split.moments
        rows = tuple(row for row in range(first, first + split.moments) if not done[row])
        if rows:
            names = tuple(encoders.items())
            sizes = (data.size, data.world_size)
            out.append(_Street(str(folder), split.first_seed + number, rows, split.moments, *sizes, names))
    return out


def _render(street: _Street) -> int:
    """Fill a street's rows; how many they were."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    folder, size = Path(street.folder), (street.size, street.size)
    encoders = make_encoders(dict(street.encoders))
    arrays = {name: np.load(folder / f"{name}.npy", "r+") for name, _ in street.encoders}
    labels, done = (np.load(folder / f"{name}.npy", "r+") for name in ("labels", "done"))
    daylight = "night" if _is_night(street.seed) else "day"
    world = World(street.seed, daylight, (street.world_size, street.world_size))
    for row in street.rows:
        moment = world.moment(_index(world.length, row % street.moments, street.moments))
        pictures = encode(_frame_set(moment), world.rig, size, encoders)
        for name, picture in pictures.items():
            arrays[name][row] = picture
        labels[row] = cv2.resize(moment.labels, size[::-1], interpolation=cv2.INTER_NEAREST)
        for array in (*arrays.values(), labels):
            array.flush()
        done[row] = True
        done.flush()
    return len(street.rows)


def _index(length: int, number: int, count: int) -> int:
    """Which of a street's moments to take as the number-th of count, the middles of equal stretches."""
    return int((number + 0.5) * length / count)


def _frame_set(moment: Any) -> FrameSet:
    return FrameSet(moment.stamp, CAMERA, moment.frames, dict.fromkeys(moment.frames, 0))
