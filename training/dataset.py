"""The street as a data set: rendered once, encoded as the pipeline encodes, kept as arrays on disk.

In the folder of each part:

- `manifest.json`: what was rendered, with the encoders' statistics and a fingerprint of what the street looked like; a
  folder made for something else, or with a street that has changed since, is refused;
- `camera.npy` and so on, one per modality: (N, 3, S, S) float16, as the expert reads it;
- `labels.npy`: (N, S, S) uint8 class ids;
- `conditions.json`: weather and fault of every row;
- `done.npy`: (N,) bool, the rows that are written; a killed rendering goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from mlesam_ros.encoding.encoder import Statistics
from mlesam_ros.encoding.encoders import DEFAULT_ENCODERS, encode, make_encoders
from mlesam_ros.errors import DatasetError, LabelError
from mlesam_ros.frame import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, FrameSet, Modality
from mlesam_ros.labels import IGNORE, load_label_space
from mlesam_ros.training.conditions import Conditions, street_conditions
from mlesam_ros.training.recipe import Data, Split
from mlesam_ros.world.faults import NO_FAULT
from mlesam_ros.world.world import World

_SMALL = (64, 64)

Report = Callable[[int, int], None]
"""Told (moments done, moments in all) after each street."""


class StreetDataset:
    """The moments of one part; satisfies `datasets.frames.LabelledFrames`.

    Attributes:
        pictures: modality → (N, 3, S, S) float16, read from disk as needed.
        labels: (N, S, S) uint8.
        space, modalities, encoders, statistics, blanks, sparse, names, conditions: see `LabelledFrames`.
        fingerprint: SHA-256 of the manifest: of everything that decides what is in here.
    """

    def __init__(self, folder: Path) -> None:
        """Open a rendered part.

        Raises:
            DatasetError: a file is missing, or the rendering was not finished.
        """
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            self.encoders: dict[Modality, str] = manifest["encoders"]
            self.statistics: dict[Modality, Statistics] = {
                m: (tuple(mean), tuple(std)) for m, (mean, std) in manifest["statistics"].items()
            }
            self.pictures = {name: np.load(folder / f"{name}.npy", "r") for name in self.encoders}
            self.labels, done = np.load(folder / "labels.npy", "r"), np.load(folder / "done.npy")
            self.conditions: list[dict[str, str]] = json.loads((folder / "conditions.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{folder} holds no rendered street ({error}); render it again.") from error
        counts = {len(self.labels), len(done), len(self.conditions), *map(len, self.pictures.values())}
        if len(counts) > 1:
            raise DatasetError(f"the files in {folder} have {sorted(counts)} moments; render it again.")
        if not done.all():
            raise DatasetError(f"{folder} has {int(done.sum())} of {len(done)} moments; let the rendering finish.")
        self.space, self.modalities = load_label_space("deliver"), tuple(self.encoders)
        self.blanks = dict.fromkeys(self.modalities, (0.0, 0.0, 0.0))
        self.sparse = frozenset(self.modalities) & {DEPTH, EVENT, LIDAR}
        self.names = [f"{folder.name}/{row:06d}" for row in range(len(done))]
        self.fingerprint = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Sequence[int], modalities: Sequence[Modality]) -> tuple[dict[Modality, Tensor], Tensor]:
        """Some moments: modality → (B, 3, S, S) float32, and the labels (B, S, S) uint8."""
        order = list(rows)
        images = {name: torch.from_numpy(self.pictures[name][order].astype(np.float32)) for name in modalities}
        return images, torch.from_numpy(self.labels[order])

    def class_counts(self, classes: int) -> npt.NDArray[np.int64]:
        """(classes,) labelled pixels per class.

        Raises:
            LabelError: a label outside the space.
        """
        counts = np.bincount(np.asarray(self.labels).ravel(), minlength=IGNORE + 1)
        if foreign := [int(value) for value in np.flatnonzero(counts[:IGNORE]) if value >= classes]:
            raise LabelError(f"the street's labels hold {foreign}; accepted are 0 to {classes - 1} and {IGNORE}.")
        return counts[:classes]


@dataclass(frozen=True)
class _Street:
    """The work of one process at a time: a street, and the rows that its moments fill."""

    folder: str
    seed: int
    conditions: Conditions
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
    path, wanted = folder / "manifest.json", _manifest(data, split, encoders)
    if path.exists():
        _refuse_another(path, wanted)
        return np.array(np.load(folder / "done.npy"))
    folder.mkdir(parents=True, exist_ok=True)
    count, size = split.streets * split.moments, data.size
    for name in encoders:
        open_memmap(folder / f"{name}.npy", "w+", np.float16, (count, 3, size, size)).flush()
    open_memmap(folder / "labels.npy", "w+", np.uint8, (count, size, size)).flush()
    each = [street.names() for street in street_conditions(split) for _ in range(split.moments)]
    (folder / "conditions.json").write_text(json.dumps(each), encoding="utf-8")
    np.save(folder / "done.npy", np.zeros(count, bool))
    path.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    return np.zeros(count, bool)


def _manifest(data: Data, split: Split, encoders: dict[Modality, str]) -> dict[str, Any]:
    """Everything that decides what is rendered, as JSON types."""
    statistics = {name: [list(part) for part in e.statistics] for name, e in make_encoders(encoders).items()}
    return {
        "split": asdict(split), "size": data.size, "world_size": data.world_size, "encoders": encoders,
        "statistics": statistics,
        "fingerprint": _fingerprint(tuple(split.weathers), tuple(split.faults), tuple(encoders.items())),
    }  # fmt: skip


def _refuse_another(path: Path, wanted: dict[str, Any]) -> None:
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); delete {path.parent} to render it again.") from error
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    if keys == ["fingerprint"]:
        raise DatasetError(
            f"the street, or what the encoders make of it, has changed since {path.parent} was rendered; give another "
            "folder, or delete this one to render it again."
        )
    if keys:
        raise DatasetError(f"{path.parent} was rendered with another {' and '.join(keys)}; give another folder.")


@lru_cache
def _fingerprint(weathers: tuple[str, ...], faults: tuple[str, ...], encoders: tuple[tuple[Modality, str], ...]) -> str:
    """SHA-256 of a small picture of every condition: what a change of the world or the encoders would change."""
    digest, made = hashlib.sha256(), make_encoders(dict(encoders))
    for weather, fault in dict.fromkeys([(w, NO_FAULT) for w in weathers] + [(weathers[0], f) for f in faults]):
        world = World(7, weather, _SMALL, threads=1, fault=fault)
        moment = world.moment(_index(world.length, 0, 1))
        digest.update(moment.labels.tobytes())
        for picture in encode(_frame_set(moment), world.rig, _SMALL, made).values():
            digest.update(picture.astype(np.float16).tobytes())
    return digest.hexdigest()


def _streets(
    folder: Path, data: Data, split: Split, encoders: dict[Modality, str], done: npt.NDArray[np.bool_]
) -> list[_Street]:
    """The streets that still lack rows."""
    out, names, sizes = [], tuple(encoders.items()), (data.size, data.world_size)
    for number, conditions in enumerate(street_conditions(split)):
        first = number * split.moments
        rows = tuple(row for row in range(first, first + split.moments) if not done[row])
        if rows:
            seed = split.first_seed + number
            out.append(_Street(str(folder), seed, conditions, rows, split.moments, *sizes, names))
    return out


def _render(street: _Street) -> int:
    """Fill a street's rows; how many they were."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    folder, size = Path(street.folder), (street.size, street.size)
    encoders = make_encoders(dict(street.encoders))
    arrays = {name: np.load(folder / f"{name}.npy", "r+") for name, _ in street.encoders}
    labels, done = (np.load(folder / f"{name}.npy", "r+") for name in ("labels", "done"))
    conditions, shape = street.conditions, (street.world_size, street.world_size)
    world = World(street.seed, conditions.weather, shape, threads=1, fault=conditions.fault)
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
