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
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from mlesam_ros.encoding.encoder import Statistics
from mlesam_ros.encoding.encoders import DEFAULT_ENCODERS, Settings, make_encoders
from mlesam_ros.errors import DatasetError, LabelError
from mlesam_ros.frame import DEPTH, EVENT, LIDAR, MODALITIES, Modality
from mlesam_ros.labels import IGNORE, load_label_space
from mlesam_ros.training.conditions import street_conditions
from mlesam_ros.training.recipe import Data, Split
from mlesam_ros.training.rendering import Street, fingerprint, render_streets

Report = Callable[[int, int], None]
"""Told (moments done, moments in all) after each street."""


class StreetDataset:
    """The moments of one part; satisfies `datasets.frames.LabelledFrames`.

    Attributes:
        pictures: modality → (N, 3, S, S) float16, read from disk as needed.
        labels: (N, S, S) uint8.
        space, modalities, encoders, statistics, blanks, sparse, square, names, conditions: see `LabelledFrames`.
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
        self.square = False
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


def prepare(
    data: Data,
    part: str,
    encoders: Mapping[Modality, str] | None = None,
    report: Report | None = None,
    settings: Settings = MappingProxyType({}),
) -> StreetDataset:
    """Render what is missing of a part and open it.

    Args:
        data: what to render; `data.folder` is made where it does not exist.
        part: `train` or `held_out`.
        encoders: modality → encoder name; None for the default encoder of all four.
        report: told about the progress.
        settings: of the encoders' images; their defaults where it says nothing.

    Raises:
        DatasetError: the folder holds something else, or a process that renders died.
    """
    split: Split = getattr(data, part)
    names = dict(encoders or {modality: DEFAULT_ENCODERS[modality] for modality in MODALITIES})
    folder = Path(data.folder) / part
    own = json.dumps({m: dict(settings[m]) for m in sorted(settings)}, sort_keys=True)
    done = _allocate(folder, data, split, names, own)
    streets = list(_streets(folder, data, split, names, done, own))
    finished = int(done.sum())
    if streets:
        for rows in render_streets(streets, data.processes):
            finished += rows
            if report:
                report(finished, len(done))
    return StreetDataset(folder)


def _allocate(
    folder: Path, data: Data, split: Split, encoders: dict[Modality, str], settings: str
) -> npt.NDArray[np.bool_]:
    """Make the arrays, or check that those on disk are for the same thing; which rows are done."""
    path, wanted = folder / "manifest.json", _manifest(data, split, encoders, settings)
    if path.exists():
        _refuse_another(path, wanted)
        return np.array(np.load(folder / "done.npy"))
    folder.mkdir(parents=True, exist_ok=True)
    count, size = split.streets * split.moments, data.size
    _refuse_too_little_room(folder, count * size**2 * (len(encoders) * 3 * 2 + 1))
    for name in encoders:
        open_memmap(folder / f"{name}.npy", "w+", np.float16, (count, 3, size, size)).flush()
    open_memmap(folder / "labels.npy", "w+", np.uint8, (count, size, size)).flush()
    each = [street.names() for street in street_conditions(split) for _ in range(split.moments)]
    (folder / "conditions.json").write_text(json.dumps(each), encoding="utf-8")
    np.save(folder / "done.npy", np.zeros(count, bool))
    path.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    return np.zeros(count, bool)


def _refuse_too_little_room(folder: Path, size: int) -> None:
    """The arrays take their room as they fill, and a disk that is full by then ends a process without a word."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DatasetError(
            f"the street takes {size / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} GB are free; make room, or give "
            "another folder."
        )


def _manifest(data: Data, split: Split, encoders: dict[Modality, str], settings: str) -> dict[str, Any]:
    """Everything that decides what is rendered, as JSON types."""
    statistics = {name: [list(part) for part in e.statistics] for name, e in make_encoders(encoders).items()}
    return {
        "split": asdict(split), "size": data.size, "world_size": data.world_size, "encoders": encoders,
        "statistics": statistics,
        "fingerprint": fingerprint(tuple(split.weathers), tuple(split.faults), tuple(encoders.items()), settings),
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


def _streets(
    folder: Path, data: Data, split: Split, encoders: dict[Modality, str], done: npt.NDArray[np.bool_], settings: str
) -> list[Street]:
    """The streets that still lack rows."""
    out, names, sizes = [], tuple(encoders.items()), (data.size, data.world_size)
    for number, conditions in enumerate(street_conditions(split)):
        first = number * split.moments
        rows = tuple(row for row in range(first, first + split.moments) if not done[row])
        if rows:
            seed = split.first_seed + number
            out.append(Street(str(folder), seed, conditions, rows, split.moments, *sizes, names, settings))
    return out
