"""The rig of a bag: calibration file, CameraInfo and TF, the later over the earlier, as in the node."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.errors import CalibrationError, MlesamError
from mlesam_ros.evaluation.topics import TRANSFORMS, Topics, words
from mlesam_ros.frame import CAMERA, Modality
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.messages import transforms


class BagRig:
    """Learns a rig from a bag's messages.

    Attributes:
        rig: what is known by now.
        problems: topic → what is wrong with its newest message.
        topics: those that `hear` wants to be told about.
    """

    def __init__(
        self, reader: BagReader, topics: Topics, rig: Rig | None = None, rectified: Collection[Modality] = ()
    ) -> None:
        """Learn what is latched: static transforms, and each sensor's first CameraInfo.

        Args:
            reader: the open bag.
            topics: of its sensors.
            rig: from a calibration file.
            rectified: modalities whose pictures are rectified, so that P and R count instead of K and D.
        """
        self.rig = rig or Rig("")
        self.problems: dict[str, str] = {}
        self._infos = {topic: modality for modality, topic in topics.infos.items()}
        self._rectified = frozenset(rectified)
        self._sensors = topics.sensors
        carried = [topic for topic, kind in reader.topics.items() if kind == TRANSFORMS]
        self._static = {topic for topic in carried if topic in reader.latched or topic.endswith("tf_static")}
        self.topics = {*self._infos, *carried} - self._static
        if self._static:
            for topic, _, _, message in reader.messages(self._static):
                self.hear(topic, message)
        for topic in self._infos:
            for first in reader.messages([topic]):
                self.hear(topic, first.message)
                break

    def hear(self, topic: str, message: Any) -> None:
        """Learn from one message of one of `topics`; what is wrong with it goes to `problems`."""
        try:
            if topic in self._infos:
                self._learn_camera(self._infos[topic], message)
            else:
                self._learn_transforms(message, topic in self._static)
        except MlesamError as error:
            self.problems[topic] = str(error)

    def _learn_camera(self, modality: Modality, info: Any) -> None:
        frame = info.header.frame_id.lstrip("/")
        if not frame:
            raise CalibrationError("CameraInfo names no frame; its header.frame_id must be the camera's optical frame.")
        known = self.rig.models.get(frame)
        model = CameraModel.from_info(info, modality in self._rectified)
        if known is None or known.to_dict() != model.to_dict():
            self.rig.models[frame] = model  # a new object would make encoders prepare everything anew
        if modality == CAMERA:
            self.rig.camera_frame = frame
        self._doubt(modality, model)

    def _doubt(self, modality: Modality, model: CameraModel) -> None:
        """Pictures that are called rectified while their lens is said to distort: one of the two is not so."""
        topic = self._sensors[modality].topic
        if "rect" in words(topic) and modality not in self._rectified and model.D.any():
            self.problems[topic] = (
                "its name says that it is rectified, but its CameraInfo has a distortion, which is now taken out once "
                f"more; give --rectified {modality} if the name is right."
            )

    def _learn_transforms(self, message: Any, static: bool) -> None:
        for parent, child, transform, stamp in transforms(message):
            self.rig.tree.set(parent, child, transform, None if static else stamp)
