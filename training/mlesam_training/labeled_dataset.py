# SPDX-License-Identifier: Apache-2.0
"""Interface of labeled data sets, and the base class of data sets in files."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlesam_ros.errors import DatasetError, LabelError
from mlesam_ros.label_map import LabelMap
from mlesam_ros.labels import IGNORE, ForeignLabelError, LabelSpace, check_not_palette
from mlesam_ros.preprocessing.base import Normalization
from mlesam_ros.types import Modality
from mlesam_training.image_files import StoredImage, inspect_file

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Blank = tuple[float, float, float]
Sample = tuple[dict[Modality, Tensor], Tensor]
"""Modality → (1, 3, H, W) float32 normalized, and the labels (1, H, W) uint8."""
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in total)."""


class LabeledDataset(Protocol):
    """Interface of all data sets: labeled samples by row."""

    @property
    def space(self) -> LabelSpace:
        """Label space."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities of every row."""

    @property
    def preprocessors(self) -> Mapping[Modality, str]:
        """Modality → equivalent preprocessor of a live sensor. Modalities without one are missing."""

    @property
    def normalization(self) -> Mapping[Modality, Normalization]:
        """Modality → mean and standard deviation of the normalization."""

    @property
    def blanks(self) -> Mapping[Modality, Blank]:
        """Modality → normalized value per channel of an empty pixel."""

    @property
    def sparse(self) -> frozenset[Modality]:
        """Modalities of sparse measurements, which are resampled by nearest neighbor only."""

    @property
    def square(self) -> bool:
        """Whether the network input is the center square of each image, as in the published loader of the data set."""

    @property
    def names(self) -> Sequence[str]:
        """Name per row: path within the data set, without suffix."""

    @property
    def conditions(self) -> Sequence[Mapping[str, str]]:
        """Per row, condition → value, such as weather → fog."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the inputs that determine the rows. A run resumes only with an equal fingerprint."""

    @property
    def one_size(self) -> bool:
        """Whether all rows have the same size, as `batch` requires."""

    def __len__(self) -> int:
        """Number of rows."""

    def samples(self, rows: Sequence[int], modalities: Sequence[Modality]) -> list[Sample]:
        """Read rows, which may differ in size."""

    def batch(self, rows: Sequence[int], modalities: Sequence[Modality]) -> tuple[dict[Modality, Tensor], Tensor]:
        """Read rows: modality → (B, 3, H, W) float32 normalized, and the labels (B, H, W) uint8."""

    def class_counts(self, classes: int) -> npt.NDArray[np.int64]:
        """(classes,) labeled pixels per class."""


@dataclass(frozen=True)
class ModalityFormat:
    """Format of the images of one modality.

    Attributes:
        normalization: mean and standard deviation per channel, in the units of the values.
        preprocessor: equivalent live preprocessor; None if there is none.
        sparse: whether pixels are sparse measurements.
        blank: normalized value per channel of an empty pixel.
    """

    normalization: Normalization
    preprocessor: str | None = None
    sparse: bool = False
    blank: Blank = (0.0, 0.0, 0.0)

    def normalized(self, values: npt.NDArray[np.generic]) -> Image:
        """Normalize (H, W, 3) values to a (3, H, W) float32 image; in a sparse one, NaN becomes 0."""
        mean, std = (np.array(s, np.float32)[:, None, None] for s in self.normalization)
        image = np.ascontiguousarray((values.transpose(2, 0, 1).astype(np.float32) - mean) / std)
        if self.sparse:
            image[:, np.isnan(image).any(axis=0)] = 0
        return image


def published(
    normalization: Normalization = ((0.0,) * 3, (1.0,) * 3), preprocessor: str | None = None
) -> ModalityFormat:
    """Format of an image scaled to 0 … 1 and normalized, as in the published loaders; padding is black."""
    blank = tuple(-m / s for m, s in zip(*normalization, strict=True))
    return ModalityFormat(normalization, preprocessor, blank=(blank[0], blank[1], blank[2]))


@dataclass(frozen=True)
class SampleFiles:
    """Files of one row.

    Attributes:
        name: path within the data set, without suffix.
        files: modality → its file; `labels` → the label image.
        conditions: kind → value, such as weather → fog.
    """

    name: str
    files: Mapping[str, Path]
    conditions: Mapping[str, str] = field(default_factory=dict)


LABELS = "labels"
_PNG_HEAD_BYTES = 26  # bytes of a PNG up to its color type


class FileDataset(ABC):
    """Base class of a data set in files; implements `LabeledDataset`.

    A data set is one module with a subclass, registered as its `DATASET`; see `mlesam_training.datasets`.

    Attributes:
        square: see `LabeledDataset`.
        indexed_labels: whether label images may be palette images.
        notes: doubts about the files, one sentence each.
    """

    square: ClassVar[bool] = False
    indexed_labels: ClassVar[bool] = False
    notes: Sequence[str] = ()

    def __init__(
        self,
        space: LabelSpace,
        formats: Mapping[Modality, ModalityFormat],
        entries: Sequence[SampleFiles],
        workers: int = 2,
    ) -> None:
        """Set the rows and check that every file exists.

        Args:
            space: label space.
            formats: modality → format.
            entries: files per row.
            workers: threads that decode files in parallel; no effect on the result.

        Raises:
            DatasetError: a file is missing.
        """
        self.space, self.formats, self.entries, self.workers = space, dict(formats), tuple(entries), workers
        self.modalities = tuple(formats)
        self.preprocessors = {m: r.preprocessor for m, r in formats.items() if r.preprocessor}
        self.normalization = {m: r.normalization for m, r in formats.items()}
        self.blanks = {m: r.blank for m, r in formats.items()}
        self.sparse = frozenset(m for m, r in formats.items() if r.sparse)
        self.names = [entry.name for entry in self.entries]
        self.conditions = [entry.conditions for entry in self.entries]
        self._counts: npt.NDArray[np.int64] | None = None
        self._content, self._sizes = "", 0
        self._relabel: LabelMap | None = None
        _check_present(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the formats, the names of the rows, their labels, and the sizes of their files in bytes.

        The first call reads every label; see `survey`.
        """
        self.survey()
        rules = [type(self).__name__, self.space.to_dict(), sorted(map(repr, self.formats.items())), self.names]
        return hashlib.sha256(json.dumps([*rules, self._content]).encode()).hexdigest()

    @classmethod
    def may_recolor(cls, options: Mapping[str, Any]) -> bool:
        """Whether images may be blurred and change their colors in training."""
        return True

    @classmethod
    def available(cls, options: Mapping[str, Any]) -> tuple[Modality, ...] | None:
        """Modalities that the data set has with some options; None for those that the class checks itself."""
        return None

    @abstractmethod
    def images(self, entry: SampleFiles, modalities: Sequence[Modality]) -> dict[Modality, Image]:
        """Read the images of a row: modality → (3, H, W) float32 normalized."""

    @abstractmethod
    def labels(self, entry: SampleFiles) -> Labels:
        """Read the labels of a row: (H, W) uint8 class ids, 255 where unlabeled."""

    def sample(self, row: int, modalities: Sequence[Modality]) -> tuple[dict[Modality, Image], Labels]:
        """Read one row: modality → (3, H, W) float32 normalized, and the labels (H, W) uint8.

        Raises:
            DatasetError: a file cannot be read, or its image differs in size from the labels.
            LabelError: a label outside the label space.
        """
        entry = self.entries[row]
        labels, images = self.checked_labels(entry), self.images(entry, modalities)
        for modality, image in images.items():
            if image.shape[1:] != labels.shape:
                raise DatasetError(_unequal(entry.files[modality], image.shape[1:], entry, labels.shape))
        return images, labels

    def same_size(self, entry: SampleFiles) -> Iterable[Path]:
        """Files of a row whose images must have the size of its labels."""
        return entry.files.values()

    def check_content(self, modality: Modality, path: Path, stored: StoredImage) -> None:  # noqa: B027  # may be overridden
        """Check that a file has what its modality needs, by its shape and type alone.

        Raises:
            DatasetError: it has not; names the file.
        """

    def checked_labels(self, entry: SampleFiles) -> Labels:
        """Read the labels of a row and check them against the label space.

        Raises:
            LabelError: a label outside the label space; names the file and the values.
        """
        source = str(entry.files[LABELS])
        if not self.indexed_labels:
            with entry.files[LABELS].open("rb") as file:
                check_not_palette(file.read(_PNG_HEAD_BYTES), source)
        labels = self.labels(entry)
        if self._relabel is not None:
            return self._relabel.of_ids(labels, source)
        self.space.check(labels, source)
        return labels

    def relabel(self, label_map: LabelMap) -> None:
        """Map the labels to another label space from now on."""
        self._relabel, self.space = label_map, label_map.space
        self._counts = None

    @property
    def one_size(self) -> bool:
        """See `LabeledDataset`. The first call reads every label."""
        self.survey()
        return self._sizes == 1

    def samples(self, rows: Sequence[int], modalities: Sequence[Modality]) -> list[Sample]:
        """See `LabeledDataset`.

        Raises:
            DatasetError, LabelError: see `sample`.
        """
        read = self._pool.map(lambda row: self.sample(row, modalities), rows)
        return [
            ({m: torch.from_numpy(image)[None] for m, image in images.items()}, torch.from_numpy(labels)[None])
            for images, labels in read
        ]

    def batch(self, rows: Sequence[int], modalities: Sequence[Modality]) -> tuple[dict[Modality, Tensor], Tensor]:
        """Read rows: modality → (B, 3, H, W) float32 normalized, and the labels (B, H, W) uint8.

        Raises:
            DatasetError: see `sample`; or the rows differ in size.
        """
        samples = self.samples(rows, modalities)
        paths = dict[Any, list[Path]]()
        for row, (_, labels) in zip(rows, samples, strict=True):
            paths.setdefault(tuple(labels.shape[1:]), []).append(self.entries[row].files[LABELS])
        if len(paths) > 1:
            raise _other_size(paths)
        images = {m: torch.cat([found[m] for found, _ in samples]) for m in modalities}
        return images, torch.cat([labels for _, labels in samples])

    def survey(self, report: Progress | None = None) -> npt.NDArray[np.int64]:
        """Check all files of the data set. The result is cached.

        Labels are decoded completely, other files checked by `inspect_file` and `check_content`: damage that these do
        not detect is named when the row is read.

        Args:
            report: progress callback.

        Returns:
            (classes,) labeled pixels per class.

        Raises:
            DatasetError: a file cannot be read, is damaged or has not what its modality needs, or an image differs in
                size from its labels.
            ForeignLabelError: labels outside the label space, of all files.
            LabelError: no labeled pixel in the data set.
        """
        if self._counts is not None:
            return self._counts
        counts, sizes, content = np.zeros(IGNORE + 1, np.int64), set[Any](), hashlib.sha256()
        foreign: list[ForeignLabelError] = []
        for done, found in enumerate(self._pool.map(self._surveyed, self.entries)):
            if isinstance(found, ForeignLabelError):
                foreign.append(found)
            else:
                counts += found[0]
                sizes.add(found[1])
                content.update(found[2])
            if report:
                report(done + 1, len(self))
        if foreign:
            raise foreign[0].merged(foreign[1:])
        if not counts[: len(self.space)].any():
            raise LabelError(
                f"all {len(self)} label images have no labeled pixel, such as {self.entries[0].files[LABELS]}."
            )
        self._counts, self._content, self._sizes = counts[: len(self.space)], content.hexdigest(), len(sizes)
        return self._counts

    def _surveyed(self, entry: SampleFiles) -> tuple[npt.NDArray[np.int64], Any, bytes] | ForeignLabelError:
        """Check the files of a row.

        Returns:
            (256,) pixels per label, (height, width) of the labels, and the SHA-256 of the labels and of the sizes in
            bytes of the other files; or the error about labels outside the label space.
        """
        stored = {name: found for name, path in entry.files.items() if (found := inspect_file(path)) is not None}
        wanted = stored[LABELS].shape[:2] if LABELS in stored else None
        equal = set(self.same_size(entry))
        for name, found in stored.items():
            path = entry.files[name]
            if name != LABELS:
                self.check_content(name, path, found)
            if path in equal and wanted not in (None, found.shape[:2]):
                raise DatasetError(_unequal(path, found.shape[:2], entry, wanted))
        try:
            labels = self.checked_labels(entry)
        except ForeignLabelError as error:
            return error
        sizes = [entry.files[name].stat().st_size for name in sorted(entry.files) if name != LABELS]
        digest = hashlib.sha256(json.dumps([labels.shape, sizes]).encode() + labels.tobytes()).digest()
        return np.bincount(labels.ravel(), minlength=IGNORE + 1), labels.shape, digest

    def class_counts(self, classes: int) -> npt.NDArray[np.int64]:
        """(classes,) labeled pixels per class. The first call reads every label."""
        return self.survey()[:classes]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers)


def _other_size(paths: Mapping[Any, Sequence[Path]]) -> DatasetError:
    """Error that names the first row of the rarest size and of the most common size."""
    by_number = sorted(paths, key=lambda size: len(paths[size]))
    rare, common = (
        f"{paths[size][0]}{f' and {len(paths[size]) - 1} more are' if len(paths[size]) > 1 else ' is'} "
        f"{size[1]}x{size[0]}"
        for size in (by_number[0], by_number[-1])
    )
    return DatasetError(
        f"{rare}, {common}; a batch needs images of one size.",
        "Read them by samples, or one by one.",
    )


def _unequal(path: Path, shape: Any, entry: SampleFiles, labels: Any) -> str:
    """Error message for an image that differs in size from its labels."""
    sizes = [f"{width}x{height}" for height, width in (shape, labels)]
    return f"{path} is {sizes[0]}; the labels {entry.files[LABELS]} are {sizes[1]}; both must show the same pixels."


def _check_present(entries: Sequence[SampleFiles]) -> None:
    """Check that all files exist.

    Raises:
        DatasetError: names the first missing file and the number of missing files.
    """
    wanted = [path for entry in entries for path in entry.files.values()]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        first, folder = missing[0], missing[0].parent
        near = sorted(path.name for path in folder.iterdir() if first.stem in path.name) if folder.is_dir() else []
        raise DatasetError(
            f"{first} is missing, as are {len(missing) - 1} more of {len(wanted)} files.",
            f"{folder} has {near[0]}." if near else "",
        )
