# SPDX-License-Identifier: Apache-2.0
"""Write the masks of a bag's frames as proposals for annotation, and choose the frames."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.coco import CocoWriter
from mlesam_ros.config import NodeParameters, iter_parameters
from mlesam_ros.errors import BagError, CalibrationError, ConfigError, FileError, LabelError
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions, find_evaluation_topics
from mlesam_ros.evaluation.bag_sensors import BagRig
from mlesam_ros.evaluation.label_folder import CONFIDENCE, IMAGES, NewFiles, bag_name, frame_name
from mlesam_ros.evaluation.scores import MaskListener, MaskRecord
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.labels import IGNORE, LabelSpace
from mlesam_ros.mask_messages import camera_rgb
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.types import CAMERA, NANOSECONDS, Modality

PNG, COCO = "png", "coco"
FORMATS = (PNG, COCO)
PROPOSALS = "proposals"
BACKGROUND = "background"
"""Name of unlabeled pixels in the VOC layout."""
LABEL_MAP, CLASS_IMAGES = "labelmap.txt", "SegmentationClass"


class Frame(NamedTuple):
    """A frame that can be annotated.

    Attributes:
        bag: its bag's name.
        stamp: nanoseconds.
        uncertainty: 1 minus the mean confidence of its mask.
    """

    bag: str
    stamp: int
    uncertainty: float

    @property
    def name(self) -> str:
        """Name of its files."""
        return frame_name(self.bag, self.stamp)


def choose_uncertain(frames: Iterable[Frame], count: int, gap: float) -> list[Frame]:
    """Choose the most uncertain frames, none of them close to another one.

    Frames are taken in the order of decreasing uncertainty. One that is close to a frame taken before is left out, as
    consecutive images are nearly equal.

    Args:
        frames: to choose from.
        count: frames to choose at most.
        gap: seconds between two frames of a bag at least.

    Returns:
        The frames by bag and time.
    """
    chosen: list[Frame] = []
    for frame in sorted(frames, key=lambda frame: (-frame.uncertainty, frame.bag, frame.stamp)):
        if len(chosen) == count:
            break
        beside = (other.stamp for other in chosen if other.bag == frame.bag)
        if all(abs(frame.stamp - stamp) >= gap * NANOSECONDS for stamp in beside):
            chosen.append(frame)
    return sorted(chosen)


class FrameFinder(MaskListener):
    """Lists the frames of a bag that can be annotated.

    Attributes:
        bag: name of the bag.
        frames: in the order of time.
        unusable: number of masks without an image to annotate.
    """

    def __init__(self, bag: Path) -> None:
        self.frames: list[Frame] = []
        self.unusable = 0
        self.bag = bag_name(bag)

    def on_mask(self, record: MaskRecord) -> None:
        """Add the frame, if the mask is in the view of its camera image and has its time."""
        image = camera_rgb(record.frame_set)
        if image is None or record.frame_set.primary != CAMERA or record.rig.view != CAMERA:
            self.unusable += 1
            return
        uncertainty = 1.0 - float(record.mask.confidence.mean()) / 255
        self.frames.append(Frame(self.bag, record.mask.stamp, round(uncertainty, 6)))
        self.on_frame(self.frames[-1].name, image, record)

    def on_frame(self, name: str, image: npt.NDArray[np.uint8], record: MaskRecord) -> None:
        """Handle a frame; see `ProposalWriter`."""


@dataclass(frozen=True)
class Translation:
    """Classes of the network in another label space: those of equal names; all others become `IGNORE`.

    Attributes:
        space: the other label space.
        table: (256,) uint8, id of the network → id in `space`.
    """

    space: LabelSpace
    table: npt.NDArray[np.uint8]

    @classmethod
    def between(cls, network: LabelSpace, space: LabelSpace) -> Translation:
        """Match classes by name.

        Raises:
            LabelError: no class has the name of another.
        """
        table = np.full(256, IGNORE, np.uint8)
        ids = {name: label for label, name in enumerate(space.names)}
        for label, name in enumerate(network.names):
            table[label] = ids.get(name, IGNORE)
        if (table == IGNORE).all():
            raise LabelError(
                f"label space {space.name} has none of the classes of the checkpoint: {', '.join(network.names)}.",
                "Give at least one class the name that it has there.",
            )
        return cls(space, table)


class ProposalWriter(FrameFinder):
    """Writes images, proposals and confidence of the frames of a bag.

    Attributes:
        failure: error of the first file that could not be written.
    """

    def __init__(self, files: NewFiles, bag: Path, translation: Translation, coco: CocoWriter | None) -> None:
        """Set the folder and its content.

        Args:
            files: folder of the labels.
            bag: whose frames are written.
            translation: to the label space of the proposals.
            coco: collects the proposals; None to write PNGs.
        """
        super().__init__(bag)
        self._files, self._translation, self._coco = files, translation, coco
        self.failure: FileError | None = None

    def on_frame(self, name: str, image: npt.NDArray[np.uint8], record: MaskRecord) -> None:
        """Write the files of a frame.

        Raises:
            FileError: a file cannot be written.
        """
        mask, shape = record.mask, image.shape[:2]
        labels = self._translation.table[resize_nearest(mask.labels, shape)]
        confidence = resize_nearest(mask.confidence, shape)
        try:
            self._files.write(f"{IMAGES}/{name}.png", encode_png(image))
            self._files.write(f"{CONFIDENCE}/{name}.png", encode_png(confidence))
            if self._coco is not None:
                self._coco.add(f"{name}.png", labels, confidence)
            else:
                colors = self._translation.space.palette[labels]
                self._files.write(f"{PROPOSALS}/{CLASS_IMAGES}/{name}.png", encode_png(colors))
        except FileError as error:
            self.failure = error
            raise


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Encode (H, W) gray values or (H, W, 3) RGB."""
    return cv2.imencode(".png", image if image.ndim == 2 else image[..., ::-1])[1].tobytes()


def check_colors(space: LabelSpace) -> None:
    """Check that classes and unlabeled pixels have different colors.

    Raises:
        LabelError: two classes share a color, or one is black.
    """
    known = {(0, 0, 0): BACKGROUND}
    for name, color in zip(space.names, space.colors, strict=True):
        if (other := known.setdefault(color, name)) != name:
            raise LabelError(
                f"the classes {other} and {name} of label space {space.name} have the color {list(color)}, which PNG "
                "proposals are told apart by.",
                "Change it, or give --format coco.",
            )


def write_index(files: NewFiles, space: LabelSpace, frames: Sequence[Frame], coco: CocoWriter | None) -> None:
    """Write the files for all frames: COCO's file, or the lists of the VOC layout.

    Raises:
        FileError: a file cannot be written.
    """
    if coco is not None:
        files.write(f"{PROPOSALS}.json", json.dumps(coco.document()))
        return
    colors = {BACKGROUND: (0, 0, 0), **dict(zip(space.names, space.colors, strict=True))}
    rows = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in colors.items()]
    files.write(f"{PROPOSALS}/{LABEL_MAP}", "# label:color_rgb:parts:actions\n" + "".join(rows))
    listed = f"{PROPOSALS}/ImageSets/Segmentation/default.txt"
    files.write(listed, "".join(f"{frame.name}\n" for frame in frames))


def sensor_parameters(parameters: NodeParameters) -> dict[str, Any]:
    """Name → value of the given parameters that training images depend on, with absolute paths."""
    values, found = parameters.values(), {}
    for name, entry, _ in iter_parameters():
        if name in values and entry.metadata["encoding"]:
            is_path = entry.metadata["path"] and values[name]
            found[name] = os.path.abspath(values[name]) if is_path else values[name]
    return found


def require_camera(
    bag: Path, pipeline: Pipeline, options: EvaluationOptions
) -> tuple[tuple[Modality, ...], tuple[int, int]]:
    """Check that a bag has camera images and their calibration, without which nothing is trained on its labels.

    Returns:
        The sensors of the bag that the network reads, and (height, width) of the network's images.

    Raises:
        BagError: it has no topic of camera images, or the network reads no camera.
        CalibrationError: neither the bag nor the calibration file has the camera's model.
    """
    with BagReader(bag) as reader:
        topics = find_evaluation_topics(reader, pipeline, options)
        if CAMERA not in topics.sensors:
            raise BagError(
                f"{bag} has no camera, whose images are annotated; its topics are {', '.join(reader.topics)}.",
                "Name the topic of the images with -p camera.topic:=TOPIC.",
            )
        rig = BagRig(reader, topics, options.parameters).rig
        if not rig.has_camera:
            raise CalibrationError(
                f"{bag} has no CameraInfo of {topics.sensors[CAMERA].topic}, which training and the node need.",
                "Give a calibration file with --calibration, or the topic with -p camera.info_topic:=TOPIC.",
            )
        return tuple(topics.sensors), pipeline.network_size(rig)


def check_names(bags: Sequence[Path]) -> None:
    """Check that no two bags have one name, which the names of their frames begin with.

    Raises:
        BagError: names the two bags.
    """
    known: dict[str, Path] = {}
    for bag in bags:
        if (other := known.setdefault(bag_name(bag), bag)) is not bag:
            raise BagError(
                f"{other} and {bag} are both called {bag_name(bag)}.", "Rename one, or label them into two folders."
            )


def check_sizes(sizes: Mapping[Path, tuple[int, int]]) -> tuple[int, int]:
    """Size that the network's images of all bags have.

    Args:
        sizes: bag → (height, width).

    Raises:
        ConfigError: two bags differ.
    """
    (first, one), *others = sizes.items()
    for second, two in others:
        if two != one:
            raise ConfigError(
                f"the network's images of {first} are {one[1]}x{one[0]}, those of {second} {two[1]}x{two[0]}; arrays "
                "for training have one size.",
                "Label the bags of each camera into a folder of their own.",
            )
    return one
