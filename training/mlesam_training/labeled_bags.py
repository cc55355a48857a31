# SPDX-License-Identifier: Apache-2.0
"""Encoding of bags with ground-truth labels, on a topic or in a folder, into an `EncodedDataset`.

A replay forms the same frame sets as the live node. Each labeled frame set is encoded once into a folder of arrays, as
reading a bag is sequential and encoding is slow.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.recovery import is_storage
from mlesam_ros.config import NodeParameters, iter_parameters, preprocessing
from mlesam_ros.errors import ConfigError, DatasetError
from mlesam_ros.evaluation.bag_sensors import BagRig, find_topics, with_ground_truth
from mlesam_ros.evaluation.ground_truth import GroundTruth, LabelFolder, check_aspect
from mlesam_ros.evaluation.label_folder import LabelFile, find_labels
from mlesam_ros.evaluation.replay import Replay
from mlesam_ros.files import exclusive_folder
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import LabelSpace, load_label_space
from mlesam_ros.model.model_config import network_size
from mlesam_ros.preprocessing.base import Preprocessor
from mlesam_ros.preprocessing.preprocessors import (
    DEFAULT_PREPROCESSORS,
    Settings,
    encode,
    image_settings,
    make_preprocessors,
)
from mlesam_ros.types import EVENT, MODALITIES, NANOSECONDS, FrameSet, Modality
from mlesam_training.encoded_dataset import (
    FRAMES,
    LABEL_SAMPLING,
    EncodedDataset,
    Writer,
    allocate,
    find_encoded,
    normalization_of,
)
from mlesam_training.labeled_dataset import Image, Labels, Progress

_DIGEST_BYTES = 1 << 16  # bytes
_MAX_LABEL_OFFSET_NS = NANOSECONDS // 100
"""Largest time difference (ns) of a label image and the reference stamp of its frame set; normally 0."""


@dataclass(frozen=True)
class BagOptions:
    """Bags to encode, and options of the encoding.

    Attributes:
        bags: folders or files.
        folder: folder of the encoded arrays.
        size: (height, width) of the encoded images and labels.
        space: name or file of the label space.
        modalities: modalities of every row; frame sets that lack one are left out.
        preprocessors: modality → preprocessor; defaults apply to missing ones.
        settings: image settings per modality; defaults apply to missing ones.
        truth: topic of the labels, if it does not follow from the topic names of the bag.
        parameters: sensor parameters, as of the node.
        labels: folder of labels, see `label_folder`; None for a topic.
        split: split of that folder.
    """

    bags: tuple[str, ...]
    folder: str
    size: tuple[int, int]
    space: str = "deliver"
    modalities: tuple[Modality, ...] = MODALITIES
    preprocessors: Mapping[Modality, str] = field(default_factory=dict)
    truth: str | None = None
    parameters: NodeParameters = field(default_factory=NodeParameters)
    settings: Settings = field(default_factory=dict)
    labels: str | None = None
    split: str = ""

    def manifest(self) -> dict[str, Any]:
        """Inputs that determine the content of the arrays, as JSON types."""
        made = self.made()
        return {
            "bags": list(self.bags), "content": {bag: _content(Path(bag)) for bag in self.bags},
            "size": list(self.size), "space": load_label_space(self.space).to_dict(), "labels": LABEL_SAMPLING,
            "preprocessors": {m: p.name for m, p in made.items()}, "normalization": normalization_of(made),
            "truth": self.truth, "parameters": self._parameters(),
            "settings": image_settings(made), FRAMES: self._frames(),
        }  # fmt: skip

    def _frames(self) -> dict[str, str] | None:
        """Name → SHA-256 of each label image of the folder; None without a folder."""
        if self.labels is None:
            return None
        found = find_labels(Path(self.labels), load_label_space(self.space), split=self.split)
        return {label.name: _sha256(label.path, "label image") for label in found}

    def made(self) -> dict[Modality, Preprocessor]:
        """Modality → preprocessor, in the order of `modalities`."""
        preprocessors = {m: self.preprocessors.get(m, DEFAULT_PREPROCESSORS[m]) for m in self.modalities}
        return make_preprocessors(preprocessors, self.settings, preprocessing(self.parameters))

    def _parameters(self) -> dict[str, Any]:
        """Parameters that affect encoded images: topics only if set explicitly, the calibration file by its SHA-256."""
        found: dict[str, Any] = {}
        for name, entry, value in iter_parameters(self.parameters):
            if not entry.metadata["encoding"] or (name.endswith("topic") and name not in self.parameters.given):
                continue
            if name == "calibration_file" and value:
                found[name] = _sha256(Path(value), name)
            else:
                found[name] = list(value) if isinstance(value, tuple) else value
        return found


def prepare_bags(options: BagOptions, report: Progress | None = None) -> EncodedDataset:
    """Encode the labeled frame sets that are missing, and open the folder.

    Args:
        options: bags and options.
        report: progress callback, called per row.

    Raises:
        BagError: a bag cannot be read.
        ConfigError: the size does not match the camera of a bag, or the calibration file cannot be read.
        DatasetError: a bag has no labels, or no label matches a complete frame set; or the folder holds other data.
        FileError: another process encodes into the folder, or the disk has too little space.
        LabelError: a label outside the label space, or labels with an aspect ratio other than the camera's.
    """
    folder, manifest = Path(options.folder), options.manifest()
    done = find_encoded(folder, manifest)
    if done is None or not done.all():
        with exclusive_folder(folder, "encoding"):
            _encode(options, manifest, folder, report)
    return EncodedDataset(folder)


def _encode(options: BagOptions, manifest: dict[str, Any], folder: Path, report: Progress | None) -> None:
    """Replay twice: count the rows to allocate the arrays, then encode."""
    space = load_label_space(options.space)
    warnings: dict[str, None] = {}
    rows = [(bag, stamp) for bag in options.bags for stamp in _stamps(bag, options, space, warnings)]
    if not rows:
        raise DatasetError(
            f"{options.labels} has no labels of {', '.join(options.bags)} in {options.split}.txt.",
            "Import more corrected frames, or list other ones there.",
        )
    labeled = {bag for bag, _ in rows}
    done = find_encoded(folder, manifest)
    if done is None:
        names = [f"{Path(bag).name}/{stamp}" for bag, stamp in rows]
        conditions = [{"bag": Path(bag).name} for bag, _ in rows]
        made = {**manifest, "rows": names, "warnings": list(warnings)}
        done = allocate(folder, made, conditions, options.size)
    writer, preprocessors = Writer(folder, options.modalities), options.made()
    row = 0
    for bag in filter(labeled.__contains__, options.bags):
        for frame_set, labels, rig in _labeled(bag, options, space, {}):
            if not done[row]:
                images: dict[Modality, Image] = encode(frame_set, rig, options.size, preprocessors)
                writer.put(row, images, labels)
            row += 1
            if report:
                report(row, len(rows))


def _check_size(bag: str, size: tuple[int, int], rig: Rig) -> None:
    """Check that the node would encode this camera at the same size.

    Raises:
        ConfigError: names both sizes.
    """
    camera = rig.camera
    if size != (runs := network_size((camera.height, camera.width), max(size))):
        raise ConfigError(
            f"size is {list(size)}, but of the {camera.width}x{camera.height} camera of {bag} the node at image_size "
            f"{max(size)} makes images of {list(runs)} (height, width).",
            f"Set size to {list(runs)}.",
        )


def _stamps(bag: str, options: BagOptions, space: LabelSpace, warnings: dict[str, None]) -> list[int]:
    """Timestamps of the labeled frame sets of a bag, with `_check_size` for each."""
    stamps: list[int] = []
    if options.labels is not None and not _labels_of(bag, options, space):
        return stamps
    for frame_set, _, rig in _labeled(bag, options, space, warnings):
        _check_size(bag, options.size, rig)
        stamps.append(frame_set.stamp)
    if not stamps:
        wanted = ", ".join(options.modalities)
        raise DatasetError(
            f"{bag} has no label within {_MAX_LABEL_OFFSET_NS / 1e6:.0f} ms of a set with {wanted}.",
            "Give the labels the timestamps of the images that they are of.",
        )
    if options.labels is not None and (lost := len(_labels_of(bag, options, space)) - len(stamps)) > 0:
        wanted = ", ".join(options.modalities)
        warnings.setdefault(f"{bag}: {lost} labeled frames are left out, as their sets lack one of {wanted}.")
    return stamps


def _labels_of(bag: str, options: BagOptions, space: LabelSpace) -> list[LabelFile]:
    """Label images of a bag in the folder of labels."""
    return find_labels(Path(options.labels or ""), space, Path(bag), options.split)


def _content(bag: Path) -> str | None:
    """SHA-256 over names, sizes, and first and last 64 KiB of the storage files of a bag, to detect another recording.

    None for a missing bag, whose arrays remain valid.
    """
    if not bag.exists():
        return None
    digest = hashlib.sha256()
    for path in sorted(bag.iterdir()) if bag.is_dir() else [bag]:
        if is_storage(path) and path.is_file():
            size = path.stat().st_size
            digest.update(f"{os.fsencode(path.name)!r} {size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(_DIGEST_BYTES))
                file.seek(max(size - _DIGEST_BYTES, 0))
                digest.update(file.read(_DIGEST_BYTES))
    return digest.hexdigest()


def _sha256(path: Path, what: str) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}.") from error


def _labeled(
    bag: str, options: BagOptions, space: LabelSpace, warnings: dict[str, None]
) -> Iterator[tuple[FrameSet, Labels, Rig]]:
    """Yield the complete labeled frame sets of a bag, with the labels and the rig at that time."""
    with BagReader(bag) as reader:
        topics = find_topics(reader.topics, options.parameters, options.modalities)
        if options.labels is None:
            topics = with_ground_truth(topics, reader.topics, options.truth, "truth: TOPIC in the recipe's data")
            if topics.ground_truth is None:
                raise DatasetError(f"{bag} has no topic of labels.", "Name one in the recipe's data, as truth: /topic.")
        silent = [m for m in options.modalities if m not in topics.sensors]
        if silent:
            raise _missing(bag, silent, options.parameters)
        calibration = BagRig(reader, topics, options.parameters)
        window = getattr(options.made().get(EVENT), "window", 0.0)
        replay = Replay(reader, topics, calibration, space, options.parameters, event_window=window)
        pairs = (
            _pairs(replay.steps(), options.modalities)
            if options.labels is None
            else _from_folder(replay, LabelFolder(options.labels, space, Path(bag), options.split), options.modalities)
        )
        for frame_set, truth in pairs:
            rig = calibration.rig
            check_aspect(truth.labels.shape, (rig.camera.height, rig.camera.width))
            yield frame_set, truth.labels, rig
        for topic, problem in replay.problems.items():
            raise DatasetError(f"{bag}: {topic}: {problem}")
        warnings_of_rig = (f"{topic}: {doubt}" for topic, doubt in calibration.problems.items())
        warnings.update(
            dict.fromkeys(f"{bag}: {words}" for words in (*topics.notes, *replay.warnings, *warnings_of_rig))
        )


def _missing(bag: str, silent: Sequence[Modality], parameters: NodeParameters) -> DatasetError:
    listed = " and ".join(silent)
    without = f"Take {listed} out of the model's modalities, or"
    if disabled := [m for m in silent if m not in parameters.modalities]:
        return DatasetError(
            f"the parameter modalities is {list(parameters.modalities)}, and the model has {listed}.",
            f"{without} add {' and '.join(disabled)} to the parameter modalities.",
        )
    return DatasetError(f"{bag} has no topic for {listed}.", f"{without} set {silent[0]}.topic to one that {bag} has.")


def _from_folder(
    replay: Replay, folder: LabelFolder, modalities: Sequence[Modality]
) -> Iterator[tuple[FrameSet, GroundTruth]]:
    """Pair frame sets and the labels of a folder by time."""
    for step in replay.steps():
        if isinstance(step, FrameSet) and all(m in step.frames for m in modalities):
            truth = folder.nearest(step.time, _MAX_LABEL_OFFSET_NS, replay.label_offset)
            if truth is not None:
                yield step, truth


def _pairs(
    steps: Iterator[FrameSet | GroundTruth], modalities: Sequence[Modality]
) -> Iterator[tuple[FrameSet, GroundTruth]]:
    """Pair frame sets and labels by time, in any order of arrival. Each is used once."""
    sets: dict[int, FrameSet] = {}
    truths: dict[int, GroundTruth] = {}
    for step in steps:
        if isinstance(step, GroundTruth):
            truths[step.time] = step
        elif all(m in step.frames for m in modalities):
            sets[step.time] = step
        else:
            continue
        others: Mapping[int, Any] = sets if isinstance(step, GroundTruth) else truths
        near = min(others, key=lambda time: abs(time - step.time), default=None)
        if near is not None and abs(near - step.time) <= _MAX_LABEL_OFFSET_NS:
            first, second = (near, step.time) if isinstance(step, GroundTruth) else (step.time, near)
            yield sets.pop(first), truths.pop(second)
        for old in [time for time in (*sets, *truths) if time < step.time - NANOSECONDS]:
            sets.pop(old, None)
            truths.pop(old, None)
