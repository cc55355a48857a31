"""The rig of a bag: calibration file, CameraInfo and TF, the later over the earlier, as in the node."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.evaluation.topics import TRANSFORMS, Topics, words
from mlesam_ros.frame import Modality
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.rig_learner import LensOptions, RigLearner


class BagRig:
    """Learns a rig from a bag's messages.

    Attributes:
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
        self._learner = RigLearner(rig or Rig(""))
        self._doubts: dict[str, str] = {}
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

    @property
    def rig(self) -> Rig:
        """What is known by now."""
        return self._learner.rig

    @property
    def problems(self) -> dict[str, str]:
        """Topic → what is wrong with one of its messages, or looks wrong."""
        return {**self._doubts, **self._learner.problems}

    def hear(self, topic: str, message: Any) -> None:
        """Learn from one message of one of `topics`; what is wrong with it goes to `problems`."""
        modality = self._infos.get(topic)
        if modality is None:
            self._learner.hear_transforms(topic, message, topic in self._static)
            return
        options = LensOptions(rectified=modality in self._rectified)
        self._learner.hear_info(topic, modality, message, options)
        model = self.rig.models.get(message.header.frame_id.lstrip("/"))
        if model is not None:
            self._doubt(modality, model)

    def _doubt(self, modality: Modality, model: CameraModel) -> None:
        """Pictures that are called rectified while their lens is said to distort: one of the two is not so."""
        topic = self._sensors[modality].topic
        if "rect" in words(topic) and modality not in self._rectified and model.D.any():
            self._doubts[topic] = (
                "its name says that it is rectified, but its CameraInfo has a distortion, which is now taken out once "
                f"more; give --rectified {modality} if the name is right."
            )
