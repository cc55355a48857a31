"""Learn the calibration of a bag, and choose the reference camera of the masks."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import numpy as np

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import NodeParameters, initial_rig
from mlesam_ros.errors import MlesamError, Problem
from mlesam_ros.evaluation.bag_topics import TRANSFORMS, Topics
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.rig_learner import RigBuilder, is_static
from mlesam_ros.types import CAMERA, EVENT, CompressedImage, EventWindow, FrameSet, Modality, RawImage, SensorFrame


class BagRig:
    """Learns a rig from a bag's messages.

    Attributes:
        topics: topics whose messages `hear` reads.
    """

    def __init__(self, reader: BagReader, topics: Topics, parameters: NodeParameters | None = None) -> None:
        """Learn the calibration at the bag's beginning: each first static transform, each sensor's first CameraInfo.

        Args:
            reader: the open bag.
            topics: of its sensors.
            parameters: the description of the sensors; None for the defaults.

        Raises:
            MlesamError: the calibration file is not usable.
        """
        parameters = parameters or NodeParameters()
        images = {modality: source.topic for modality, source in topics.sensors.items()}
        self._learner = RigBuilder(initial_rig(parameters), parameters, topics=images)
        self._infos: dict[str, list[Modality]] = {}  # aligned streams share a CameraInfo
        for modality, topic in topics.infos.items():
            self._infos.setdefault(topic, []).append(modality)
        carried = [topic for topic, kind in reader.topics.items() if kind == TRANSFORMS]
        described = self._learner.choose_topics(carried, images.values())
        self._reader, self._static = reader, {topic for topic in described if is_static(topic)}
        self.topics = {*self._infos, *described}
        self._learn_first_statics()
        for topic in self._infos:
            for first in reader.messages([topic]):
                self.hear(topic, first.message)
                break

    def _learn_first_statics(self) -> None:
        """Learn the first static transform of each frame; later ones are learned at their time of recording."""
        known: set[str] = set()
        for topic, _, _, message in self._reader.messages(self._static) if self._static else ():
            new = [s for s in message.transforms if s.child_frame_id.lstrip("/") not in known]
            known.update(stamped.child_frame_id.lstrip("/") for stamped in new)
            self._learner.on_transforms(topic, SimpleNamespace(transforms=new))

    def catch_up(self, until: int) -> None:
        """Learn the CameraInfo and static transforms recorded before `until`, in nanoseconds."""
        lasting = {*self._infos, *self._static}
        for topic, _, _, message in self._reader.messages(lasting, stop=until) if lasting else ():
            self.hear(topic, message)

    @property
    def rig(self) -> Rig:
        """The rig learned so far."""
        return self._learner.rig

    @property
    def problems(self) -> dict[str, Problem]:
        """Topic → error or doubt about one of its messages."""
        return self._learner.problems

    def hear(self, topic: str, message: Any) -> None:
        """Learn from one message on one of `topics`; its errors go to `problems`."""
        for modality in self._infos.get(topic, ()):
            self._learner.on_camera_info(topic, modality, message)
        if topic not in self._infos:
            self._learner.on_transforms(topic, message)

    def bind(self, frame: SensorFrame) -> SensorFrame:
        """See `RigBuilder.bind`."""
        return self._learner.bind(frame)


_ASSUMED = 70.0
"""Assumed horizontal field of view, in degrees, of a camera without any calibration."""


def choose_reference_camera(rig: Rig, frame_set: FrameSet, calibrated: Collection[Modality]) -> str | None:
    """Choose a reference camera for a rig without one: a calibrated sensor, else an assumed pinhole camera.

    Args:
        rig: modified if it has no camera.
        frame_set: the sensors to choose from.
        calibrated: modalities with a CameraInfo in the bag.

    Returns:
        The assumption in a sentence; None if the rig is unchanged.
    """
    if rig.has_camera or CAMERA in calibrated:
        return None  # the pipeline reports a refused or missing CameraInfo, as in the node
    frames = frame_set.frames
    for modality in calibrated:
        if modality in frames and modality in rig.lenses:
            rig.view, rig.camera_frame = modality, frames[modality].frame_id
            return f"no calibrated camera; masks are made in the view of {modality}."
    for modality in (CAMERA, EVENT):
        if modality in frames and (size := _size(frames[modality])) is not None:
            rig.view, rig.camera_frame = modality, frames[modality].frame_id
            rig.models[rig.camera_frame] = _assumed(*size)
            return (
                f"no CameraInfo: masks are made in the view of {modality}, its lens taken to see {_ASSUMED:g} degrees "
                "without distortion; give --calibration for anything that must be right."
            )
    return None


def _size(frame: SensorFrame) -> tuple[int, int] | None:
    """(width, height) of an image or event window; None for other payloads and undecodable images."""
    payload = frame.payload
    if isinstance(payload, RawImage | EventWindow):
        return payload.width, payload.height
    if not isinstance(payload, CompressedImage):
        return None
    try:
        height, width = to_rgb(payload).shape[:2]
    except MlesamError:
        return None
    return width, height


def _assumed(width: int, height: int) -> CameraModel:
    focal = width / 2 / np.tan(np.radians(_ASSUMED / 2))
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return CameraModel(width, height, intrinsics, np.zeros(0), "pinhole")
