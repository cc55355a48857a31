"""Bags with a topic of true labels, as the live node would have heard them.

Reading a bag is sequential and encoding costs time, so every labeled set is encoded once into a folder of arrays.
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
from mlesam_ros.evaluation.bag_rig import BagRig
from mlesam_ros.evaluation.bag_topics import find_topics, with_truth
from mlesam_ros.evaluation.ground_truth import Truth, check_aspect
from mlesam_ros.evaluation.replay import Replay
from mlesam_ros.files import owned
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
from mlesam_training.datasets.encoded_dataset import (
    LABEL_SAMPLING,
    EncodedDataset,
    Writer,
    allocate,
    find_made,
    statistics_of,
)
from mlesam_training.datasets.labelled_dataset import Image, Labels, Progress

_END = 1 << 16  # bytes
_SLACK = NANOSECONDS // 100
"""A label picture belongs to the set whose reference lies this near; its stamp should be the very camera picture's."""


@dataclass(frozen=True)
class BagOptions:
    """What to read, and how.

    Attributes:
        bags: folders or files.
        folder: where the encoded arrays are kept.
        size: (height, width) of the encoded pictures and labels.
        space: name or file of the label space of the labels.
        modalities: that every row must have; sets that lack one are left out.
        encoders: modality → encoder; the default ones where it says nothing.
        settings: of the encoders' images; their defaults where it says nothing.
        truth: topic of the labels, where the bag's names do not say enough.
        parameters: of the sensors, as the node is told them.
    """

    bags: tuple[str, ...]
    folder: str
    size: tuple[int, int]
    space: str = "deliver"
    modalities: tuple[Modality, ...] = MODALITIES
    encoders: Mapping[Modality, str] = field(default_factory=dict)
    truth: str | None = None
    parameters: NodeParameters = field(default_factory=NodeParameters)
    settings: Settings = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """What decides over the arrays' content."""
        made = self.made()
        return {
            "bags": list(self.bags), "content": {bag: _content(Path(bag)) for bag in self.bags},
            "size": list(self.size), "space": load_label_space(self.space).to_dict(), "labels": LABEL_SAMPLING,
            "encoders": {m: encoder.name for m, encoder in made.items()}, "statistics": statistics_of(made),
            "truth": self.truth, "parameters": self._parameters(),
            "settings": image_settings(made),
        }  # fmt: skip

    def made(self) -> dict[Modality, Preprocessor]:
        """Modality → its encoder, in the order of the modalities."""
        encoders = {m: self.encoders.get(m, DEFAULT_PREPROCESSORS[m]) for m in self.modalities}
        return make_preprocessors(encoders, self.settings, preprocessing(self.parameters))

    def _parameters(self) -> dict[str, Any]:
        """The parameters that encoded images depend on: topics where they are named, a file by its content."""
        found: dict[str, Any] = {}
        for name, entry, value in iter_parameters(self.parameters):
            if not entry.metadata["encoding"] or (name.endswith("topic") and name not in self.parameters.given):
                continue
            if name == "calibration_file" and value:
                found[name] = _sha256(Path(value))
            else:
                found[name] = list(value) if isinstance(value, tuple) else value
        return found


def prepare_bags(options: BagOptions, report: Progress | None = None) -> EncodedDataset:
    """Encode the labeled sets, unless that has been done, and open them.

    Args:
        options: what to read.
        report: told about the progress, in label pictures.

    Raises:
        BagError: a bag that cannot be read.
        DatasetError: a bag without labels, or none of them meets a complete set; or the folder holds something else.
        FileError: another process encodes there, or there is too little room.
        LabelError: a label outside the space, or labels of another aspect ratio than the camera's.
    """
    folder, manifest = Path(options.folder), options.manifest()
    done = find_made(folder, manifest)
    if done is None or not done.all():
        with owned(folder, "encoding"):
            _encode(options, manifest, folder, report)
    return EncodedDataset(folder)


def _encode(options: BagOptions, manifest: dict[str, Any], folder: Path, report: Progress | None) -> None:
    """Count first, so that the arrays have their final length; then encode."""
    space = load_label_space(options.space)
    warnings: dict[str, None] = {}
    rows = [(bag, stamp) for bag in options.bags for stamp in _stamps(bag, options, space, warnings)]
    done = find_made(folder, manifest)
    if done is None:
        names = [f"{Path(bag).name}/{stamp}" for bag, stamp in rows]
        conditions = [{"bag": Path(bag).name} for bag, _ in rows]
        made = {**manifest, "rows": names, "warnings": list(warnings)}
        done = allocate(folder, made, conditions, options.size)
    writer, encoders = Writer(folder, options.modalities), options.made()
    row = 0
    for bag in options.bags:
        for frame_set, labels, rig in _labeled(bag, options, space, {}):
            if not done[row]:
                images: dict[Modality, Image] = encode(frame_set, rig, options.size, encoders)
                writer.put(row, images, labels)
            row += 1
            if report:
                report(row, len(rows))


def _check_size(bag: str, size: tuple[int, int], rig: Rig) -> None:
    """Refuse a size at which the node will never run.

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
    """Timestamps of the labeled sets of a bag, all of which can be encoded at the size that is wanted."""
    stamps = []
    for frame_set, _, rig in _labeled(bag, options, space, warnings):
        _check_size(bag, options.size, rig)
        stamps.append(frame_set.stamp)
    if not stamps:
        wanted = ", ".join(options.modalities)
        raise DatasetError(
            f"{bag} has no label within {_SLACK / 1e6:.0f} ms of a set with {wanted}.",
            "Give the labels the timestamps of the images that they are of.",
        )
    return stamps


def _content(bag: Path) -> str | None:
    """SHA-256 over names, sizes, and both ends of a bag's files: another recording of the same name has another.

    None for a bag that is not there: its arrays are as good as they were.
    """
    if not bag.exists():
        return None
    digest = hashlib.sha256()
    for path in sorted(bag.iterdir()) if bag.is_dir() else [bag]:
        if is_storage(path) and path.is_file():
            size = path.stat().st_size
            digest.update(f"{os.fsencode(path.name)!r} {size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(_END))
                file.seek(max(size - _END, 0))
                digest.update(file.read(_END))
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"calibration_file {path} cannot be read: {error.strerror}.") from error


def _labeled(
    bag: str, options: BagOptions, space: LabelSpace, warnings: dict[str, None]
) -> Iterator[tuple[FrameSet, Labels, Rig]]:
    """The complete sets of a bag that have labels, with the mounting as it is known at that time."""
    with BagReader(bag) as reader:
        topics = find_topics(reader.topics, options.parameters, options.modalities)
        topics = with_truth(topics, reader.topics, options.truth, "truth: TOPIC in the recipe's data")
        if topics.truth is None:
            raise DatasetError(f"{bag} has no topic of labels.", "Name one in the recipe's data, as truth: /topic.")
        silent = [m for m in options.modalities if m not in topics.sensors]
        if silent:
            raise _missing(bag, silent, options.parameters)
        calibration = BagRig(reader, topics, options.parameters)
        window = getattr(options.made().get(EVENT), "window", 0.0)
        replay = Replay(reader, topics, calibration, space, options.parameters, event_window=window)
        for frame_set, truth in _pairs(replay.steps(), options.modalities):
            rig = calibration.rig
            check_aspect(truth.labels.shape, (rig.camera.height, rig.camera.width))
            yield frame_set, truth.labels, rig
        for topic, problem in replay.problems.items():
            raise DatasetError(f"{bag}: {topic}: {problem}")
        doubts = (f"{topic}: {doubt}" for topic, doubt in calibration.problems.items())
        warnings.update(dict.fromkeys(f"{bag}: {words}" for words in (*topics.notes, *replay.warnings, *doubts)))


def _missing(bag: str, silent: Sequence[Modality], parameters: NodeParameters) -> DatasetError:
    listed = " and ".join(silent)
    without = f"Take {listed} out of the model's modalities, or"
    if disabled := [m for m in silent if m not in parameters.modalities]:
        return DatasetError(
            f"the parameter modalities is {list(parameters.modalities)}, and the model has {listed}.",
            f"{without} add {' and '.join(disabled)} to the parameter modalities.",
        )
    return DatasetError(f"{bag} has no topic for {listed}.", f"{without} set {silent[0]}.topic to one that {bag} has.")


def _pairs(steps: Iterator[FrameSet | Truth], modalities: Sequence[Modality]) -> Iterator[tuple[FrameSet, Truth]]:
    """Sets and labels of the same moment, whichever of the two comes first; each is used once."""
    sets: dict[int, FrameSet] = {}
    truths: dict[int, Truth] = {}
    for step in steps:
        if isinstance(step, Truth):
            truths[step.time] = step
        elif all(m in step.frames for m in modalities):
            sets[step.time] = step
        else:
            continue
        others: Mapping[int, Any] = sets if isinstance(step, Truth) else truths
        near = min(others, key=lambda time: abs(time - step.time), default=None)
        if near is not None and abs(near - step.time) <= _SLACK:
            first, second = (near, step.time) if isinstance(step, Truth) else (step.time, near)
            yield sets.pop(first), truths.pop(second)
        for old in [time for time in (*sets, *truths) if time < step.time - NANOSECONDS]:
            sets.pop(old, None)
            truths.pop(old, None)
