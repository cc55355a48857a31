# SPDX-License-Identifier: Apache-2.0
"""Encoded samples as arrays on disk: simulated streets and bags are encoded once and read many times.

Files of a folder:

- `manifest.json`: the inputs that determine the content, and the statistics of the preprocessors; a folder with rows of
  another manifest is refused;
- `camera.npy` and so on, one per modality: (N, 3, H, W) float16, the input of the expert;
- `labels.npy`: (N, H, W) uint8 class ids;
- `conditions.json`: per row, condition → value;
- `done.npy`: (N,) bool, the written rows, from which an interrupted encoding resumes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from mlesam_ros.errors import DatasetError, LabelError
from mlesam_ros.files import atomic_write, write_error
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.labels import IGNORE, LabelSpace, load_label_space
from mlesam_ros.preprocessing.base import Normalization, Preprocessor
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, Modality
from mlesam_training.labeled_dataset import Blank, Sample

_MANIFEST, _CONDITIONS, _LABELS, _DONE = "manifest.json", "conditions.json", "labels.npy", "done.npy"
_REMEDY = "Give another folder, or remove this one to make it again."
_DERIVED_KEYS = ("rows", "warnings")
"""Keys of a manifest that follow from the other keys."""
FRAMES = "frames"
"""Key of a manifest: name → SHA-256 of label images in a folder."""
LABEL_SAMPLING = "pixel centers"
"""Sampling of the labels to the network's input size; earlier versions sampled at the upper left pixel corners."""


class EncodedDataset:
    """Encoded samples of a folder; implements `LabeledDataset`.

    Attributes:
        manifest: content of `manifest.json`.
        images: modality → (N, 3, H, W) float16, memory-mapped.
        labels: (N, H, W) uint8.
        space, modalities, preprocessors, normalization, blanks, sparse, square, names, conditions, fingerprint,
            one_size: see `LabeledDataset`.
        warnings: warnings of the encoding, one sentence each.
    """

    one_size = True

    def __init__(self, folder: Path) -> None:
        """Open a folder.

        Raises:
            DatasetError: a file is missing or inconsistent with the others, or the encoding is incomplete.
        """
        self._folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            self.preprocessors: dict[Modality, str] = self.manifest["preprocessors"]
            self.normalization: dict[Modality, Normalization] = {
                m: (tuple(mean), tuple(std)) for m, (mean, std) in self.manifest["normalization"].items()
            }
            self.images = {name: np.load(folder / f"{name}.npy", "r") for name in self.preprocessors}
            self.labels, done = np.load(folder / _LABELS, "r"), np.load(folder / _DONE)
            self.conditions: Sequence[Mapping[str, str]] = json.loads((folder / _CONDITIONS).read_text("utf-8"))
            space = self.manifest.get("space", "deliver")
            self.space = LabelSpace.from_dict(space) if isinstance(space, dict) else load_label_space(space)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{folder} has no encoded samples ({error}).", _REMEDY) from error
        counts = {len(self.labels), len(done), len(self.conditions), *map(len, self.images.values())}
        if len(counts) > 1:
            raise DatasetError(f"the files in {folder} have {sorted(counts)} rows.", _REMEDY)
        if not done.all():
            raise DatasetError(
                f"{folder} has {int(done.sum())} of {len(done)} samples.", "Run the command that made it again."
            )
        self.fingerprint = hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()
        self.names: Sequence[str] = self.manifest.get("rows", [f"{folder.name}/{row:06d}" for row in range(len(done))])
        self.warnings: Sequence[str] = self.manifest.get("warnings", [])
        self.modalities, self.square = tuple(self.preprocessors), False
        black = tuple(-m / s for m, s in zip(*self.normalization.get(CAMERA, ((0.0,) * 3, (1.0,) * 3)), strict=True))
        self.blanks: dict[Modality, Blank] = {
            m: (black[0], black[1], black[2]) if m == CAMERA else (0.0, 0.0, 0.0) for m in self.modalities
        }
        self.sparse = frozenset(self.modalities) & {DEPTH, EVENT, LIDAR}

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Sequence[int], modalities: Sequence[Modality]) -> tuple[dict[Modality, Tensor], Tensor]:
        """Read rows: modality → (B, 3, H, W) float32, and the labels (B, H, W) uint8."""
        order = list(rows)
        images = {name: torch.from_numpy(self.images[name][order].astype(np.float32)) for name in modalities}
        return images, torch.from_numpy(self.labels[order])

    def samples(self, rows: Sequence[int], modalities: Sequence[Modality]) -> list[Sample]:
        """See `LabeledDataset`."""
        images, labels = self.batch(rows, modalities)
        return [({m: image[b : b + 1] for m, image in images.items()}, labels[b : b + 1]) for b in range(len(labels))]

    def class_counts(self, classes: int) -> npt.NDArray[np.int64]:
        """(classes,) labeled pixels per class.

        Raises:
            LabelError: a label outside the label space.
        """
        counts = np.bincount(np.asarray(self.labels).ravel(), minlength=IGNORE + 1)
        if foreign := [int(value) for value in np.flatnonzero(counts[:IGNORE]) if value >= classes]:
            raise LabelError(
                f"the labels in {self._folder} have the ids {foreign}; accepted are 0 to {classes - 1} and {IGNORE}."
            )
        return counts[:classes]


def normalization_of(preprocessors: Mapping[Modality, Preprocessor]) -> dict[Modality, list[list[float]]]:
    """Modality → mean and standard deviation of the images of a preprocessor, as JSON types."""
    return {name: [list(part) for part in preprocessor.normalization] for name, preprocessor in preprocessors.items()}


def find_encoded(folder: Path, wanted: Mapping[str, Any]) -> npt.NDArray[np.bool_] | None:
    """Look for complete or partial arrays with the same manifest.

    Args:
        folder: folder of the arrays.
        wanted: keys of the manifest to compare.

    Returns:
        (N,) bool, the written rows; None if the folder has no manifest, another manifest without a written row, or one
        that differs in the label images of its frames only.

    Raises:
        DatasetError: the folder holds rows of another manifest.
    """
    path = folder / _MANIFEST
    if not path.exists():
        return None
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        done = np.array(np.load(folder / _DONE))
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}).", f"Remove {folder} to make it again.") from error
    other = list(_differences(found, wanted))
    never_filled = len(done) and not done.any()
    if (other and never_filled) or other == [FRAMES]:  # labels that were corrected are encoded again
        return None
    if other == ["fingerprint"]:
        raise DatasetError(f"the simulation or a preprocessor has changed since {folder} was made.", _REMEDY)
    if other:
        raise DatasetError(f"{folder} was made with another {' and '.join(other)}.", _REMEDY)
    return done


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Names of the keys, parameters and bags in which two manifests differ."""
    for key, value in wanted.items():
        known = found.get(key)
        if isinstance(known, dict) and key in ("parameters", "content"):
            names = sorted({*known, *value})  # None: a bag that was deleted
            yield from (name for name in names if value.get(name, "?") not in (known.get(name), None))
        elif known != value and key not in _DERIVED_KEYS:
            yield key


def allocate(
    folder: Path, manifest: Mapping[str, Any], conditions: Sequence[Mapping[str, str]], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Create a folder of empty rows and allocate their disk space.

    Args:
        folder: created if missing; arrays of an earlier manifest, which have no written row, are removed.
        manifest: manifest of the rows, with `preprocessors` and `normalization`.
        conditions: conditions of each row.
        size: (height, width) of images and labels.

    Returns:
        (N,) bool, the written rows: all False.

    Raises:
        FileError: the disk has too little space; created files are removed.
    """
    count = len(conditions)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        f"{name}.npy": ((count, 3, *size), np.float16) for name in manifest["preprocessors"]
    }
    shapes[_LABELS] = (count, *size), np.uint8
    room = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    made = [folder / name for name in (*shapes, _DONE, _CONDITIONS)]
    try:
        if (manifest_file := folder / _MANIFEST).exists():
            begun = json.loads(manifest_file.read_text(encoding="utf-8")).get("preprocessors", ())
            for path in (manifest_file, *(folder / f"{name}.npy" for name in begun)):  # the manifest first
                path.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name, (shape, kind) in shapes.items():
            open_memmap(folder / name, "w+", kind, shape).flush()
            with (folder / name).open("r+b") as file:  # else writing to the array on a full disk raises SIGBUS
                os.posix_fallocate(file.fileno(), 0, (folder / name).stat().st_size)
        np.save(folder / _DONE, np.zeros(count, bool))
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        raise write_error(folder, error, room) from error
    atomic_write(folder / _CONDITIONS, json.dumps(list(conditions)))
    atomic_write(folder / _MANIFEST, json.dumps(manifest, indent=1))
    return np.zeros(count, bool)


class Writer:
    """Writes rows of an allocated folder. Several processes may write disjoint rows."""

    def __init__(self, folder: Path, modalities: Sequence[Modality]) -> None:
        """Open the arrays."""
        self._images = {name: np.load(folder / f"{name}.npy", "r+") for name in modalities}
        self._labels, self._done = (np.load(folder / name, "r+") for name in (_LABELS, _DONE))

    def put(self, row: int, images: Mapping[Modality, npt.NDArray[np.float32]], labels: npt.NDArray[np.uint8]) -> None:
        """Write a row and mark it as done after the flush to disk.

        Args:
            row: row number.
            images: modality → (3, h, w).
            labels: (H, W) at any size; resized to (h, w) by `resize_nearest`.
        """
        for name, array in self._images.items():
            array[row] = images[name]
        self._labels[row] = resize_nearest(labels, self._labels.shape[1:])
        for array in (*self._images.values(), self._labels):
            array.flush()
        self._done[row] = True
        self._done.flush()
