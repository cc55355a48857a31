"""Encoded frames as arrays on disk: what is rendered, or read from a bag, is encoded once and read many times.

In a folder:

- `manifest.json`: what was encoded, and with which encoders;
- `camera.npy` and so on, one per modality: (N, 3, H, W) float16, as the expert reads it;
- `labels.npy`: (N, H, W) uint8 class ids;
- `done.npy`: (N,) bool, the rows that are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from mlesam_ros.encoding.encoder import Statistics
from mlesam_ros.encoding.encoders import make_encoders
from mlesam_ros.errors import ConfigError, DatasetError
from mlesam_ros.frame import CAMERA, EVENT, LIDAR, Modality
from mlesam_ros.labels import LabelSpace, load_label_space
from mlesam_ros.training.datasets.frames import Blank

MANIFEST = "manifest.json"


class EncodedFrames:
    """Frames that are encoded already; satisfies `LabelledFrames`.

    Attributes:
        manifest: what was encoded.
        images: modality → (N, 3, H, W) float16, read from disk as needed.
        labels: (N, H, W) uint8.
        space, modalities, encoders, statistics, blanks, sparse, square, names, conditions, fingerprint: see
            `LabelledFrames`.
    """

    names: Sequence[str]
    conditions: Sequence[Mapping[str, str]]

    def __init__(self, folder: Path, what: str) -> None:
        """Open a folder.

        Args:
            folder: as above.
            what: what it should hold, for the message.

        Raises:
            DatasetError: a file is missing, or the encoding was not finished.
        """
        try:
            self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.encoders: dict[Modality, str] = self.manifest["encoders"]
            self.images = {name: np.load(folder / f"{name}.npy", "r") for name in self.encoders}
            self.labels, done = np.load(folder / "labels.npy", "r"), np.load(folder / "done.npy")
            self.statistics: dict[Modality, Statistics] = {
                m: encoder.statistics for m, encoder in make_encoders(self.encoders).items()
            }
        except (OSError, ValueError, KeyError, ConfigError) as error:
            raise DatasetError(f"{folder} holds no {what} ({error}); render it again.") from error
        if not done.all():
            raise DatasetError(f"{folder} has {int(done.sum())} of {len(done)} moments; let the rendering finish.")
        self.space: LabelSpace = load_label_space(self.manifest.get("space", "deliver"))
        self.fingerprint = hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()
        self.modalities, self.square = tuple(self.encoders), False
        black = tuple(-m / s for m, s in zip(*self.statistics.get(CAMERA, ((0.0,) * 3, (1.0,) * 3)), strict=True))
        self.blanks: dict[Modality, Blank] = {
            m: (black[0], black[1], black[2]) if m == CAMERA else (0.0, 0.0, 0.0) for m in self.modalities
        }
        self.sparse = frozenset(self.modalities) & {LIDAR, EVENT}

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Sequence[int], modalities: Sequence[Modality]) -> tuple[dict[Modality, Tensor], Tensor]:
        """Some moments: modality → (B, 3, H, W) float32, and the labels (B, H, W) uint8."""
        order = list(rows)
        images = {name: torch.from_numpy(self.images[name][order].astype(np.float32)) for name in modalities}
        return images, torch.from_numpy(self.labels[order])

    def class_counts(self, classes: int) -> npt.NDArray[np.int64]:
        """(classes,) labelled pixels per class."""
        return np.bincount(np.asarray(self.labels).ravel(), minlength=256)[:classes]


def allocate(folder: Path, manifest: Mapping[str, Any], count: int, size: tuple[int, int]) -> None:
    """Make a folder of `count` empty rows of (height, width) pictures for the manifest's encoders."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in manifest["encoders"]:
        open_memmap(folder / f"{name}.npy", "w+", np.float16, (count, 3, *size)).flush()
    open_memmap(folder / "labels.npy", "w+", np.uint8, (count, *size)).flush()
    np.save(folder / "done.npy", np.zeros(count, bool))
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


class Writer:
    """Fills rows of an allocated folder; several processes may fill rows of their own."""

    def __init__(self, folder: Path, modalities: Sequence[Modality]) -> None:
        """Open the arrays."""
        self._images = {name: np.load(folder / f"{name}.npy", "r+") for name in modalities}
        self._labels, self._done = (np.load(folder / f"{name}.npy", "r+") for name in ("labels", "done"))

    def put(self, row: int, images: Mapping[Modality, npt.NDArray[np.float32]], labels: npt.NDArray[np.uint8]) -> None:
        """Write a row; it counts as done once it is on disk."""
        for name, array in self._images.items():
            array[row] = images[name]
        self._labels[row] = labels
        for array in (*self._images.values(), self._labels):
            array.flush()
        self._done[row] = True
        self._done.flush()
