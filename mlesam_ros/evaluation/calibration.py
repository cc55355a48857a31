"""The rig of a bag: calibration file, CameraInfo and TF, the later over the earlier, as in the node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import NodeParameters, initial_rig
from mlesam_ros.errors import Problem
from mlesam_ros.evaluation.topics import TRANSFORMS, Topics
from mlesam_ros.frame import Modality, SensorFrame
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.rig_learner import RigBuilder, is_static


class BagRig:
    """Learns a rig from a bag's messages.

    Attributes:
        topics: those that `hear` wants to be told about.
    """

    def __init__(self, reader: BagReader, topics: Topics, parameters: NodeParameters | None = None) -> None:
        """Learn what holds from the beginning: each first static transform, and each sensor's first CameraInfo.

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
        self._infos: dict[str, list[Modality]] = {}  # streams of one sensor, or of aligned ones, share a CameraInfo
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
        """Learn the first static transform of each frame; a later one holds from its time on."""
        known: set[str] = set()
        for topic, _, _, message in self._reader.messages(self._static) if self._static else ():
            new = [s for s in message.transforms if s.child_frame_id.lstrip("/") not in known]
            known.update(stamped.child_frame_id.lstrip("/") for stamped in new)
            self._learner.on_transforms(topic, SimpleNamespace(transforms=new))

    def catch_up(self, until: int) -> None:
        """Learn the CameraInfo and static transforms that were recorded before a time, in nanoseconds."""
        lasting = {*self._infos, *self._static}
        for topic, _, _, message in self._reader.messages(lasting, stop=until) if lasting else ():
            self.hear(topic, message)

    @property
    def rig(self) -> Rig:
        """What is known by now."""
        return self._learner.rig

    @property
    def problems(self) -> dict[str, Problem]:
        """Topic → what is wrong with one of its messages, or looks wrong."""
        return self._learner.problems

    def hear(self, topic: str, message: Any) -> None:
        """Learn from one message of one of `topics`; what is wrong with it goes to `problems`."""
        for modality in self._infos.get(topic, ()):
            self._learner.on_camera_info(topic, modality, message)
        if topic not in self._infos:
            self._learner.on_transforms(topic, message)

    def bind(self, frame: SensorFrame) -> SensorFrame:
        """See `RigBuilder.bind`."""
        return self._learner.bind(frame)
