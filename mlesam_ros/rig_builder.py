# SPDX-License-Identifier: Apache-2.0
"""Builder of the rig from CameraInfo and TF messages, live or from a bag, and selection of the TF topics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import CalibrationError, Problem, format_error
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Lens, Rig
from mlesam_ros.messages import transforms
from mlesam_ros.parameter_groups import CameraParameters
from mlesam_ros.types import CAMERA, DEPTH, EventWindow, Modality, RawImage, SensorFrame

_MAX_LENSES = 8
"""Most distinct CameraInfo messages kept per stream; a camera may switch between them."""


class RigBuilder:
    """Updates a rig from messages. Earlier values hold until a message replaces them.

    A CameraInfo describes the stream that it is published for, independently of its frame_id. `bind` adds to each frame
    of a stream the lens that was valid at its arrival.

    Attributes:
        rig: the rig. One thread may read it while another updates it.
        received: topics of the transform messages received so far.
    """

    def __init__(
        self,
        rig: Rig,
        parameters: NodeParameters | None = None,
        report: Callable[[str, Problem], None] = lambda topic, problem: None,
        topics: Mapping[Modality, str] = MappingProxyType({}),
    ) -> None:
        """Start from an existing rig.

        Args:
            rig: the rig to update, from a calibration file or empty.
            parameters: parameters of the sensors; None for the defaults.
            report: called with topic and problem for each new problem.
            topics: modality → full name of its topic.
        """
        self.rig = rig
        self.received: set[str] = set()
        self._parameters = parameters or NodeParameters()
        self._report = report
        self._topics = topics
        self._problems: dict[str, Problem] = {}
        self._outside: dict[str, Problem] = {}  # transform topics outside the sensors' namespace
        self._contents: dict[Modality, dict[tuple[Any, ...], Lens]] = {}  # content of a CameraInfo → its lens
        self._newest: dict[Modality, tuple[Any, ...]] = {}
        self._frames: set[str] = set()

    @property
    def problems(self) -> dict[str, Problem]:
        """Topic → problem: of its newest CameraInfo, its last invalid transform, or a contradiction."""
        return {**self._contradictions(), **self._outside, **self._problems, **self.rig.tree.conflicts(self._frames)}

    def on_camera_info(self, topic: str, modality: Modality, info: Any) -> None:
        """Update the lens of a stream; the camera's frame_id becomes the frame of the masks.

        Args:
            topic: topic of the message.
            modality: the modality of the stream.
            info: a `sensor_msgs/CameraInfo`. A repeated one is cheap and keeps the same model object, since
                preprocessors prepare everything again for a new one.
        """
        content = _content(info)
        if self._newest.get(modality) == content:
            return
        known = self._contents.setdefault(modality, {})
        try:
            lens = known.pop(content, None) or self._lens(modality, info)
        except Exception as error:  # no message content may stop the node
            self._newest[modality] = content
            self.note(topic, format_error(error))
            return
        known[content] = lens  # newest last
        if len(known) > _MAX_LENSES:
            del known[next(iter(known))]
        self._newest[modality] = content
        self._problems.pop(topic, None)
        self.rig.lenses = {**self.rig.lenses, modality: lens}
        if modality == CAMERA:
            self.rig.view, self.rig.camera_frame = CAMERA, lens.frame_id
            self._frames.add(lens.frame_id)

    def on_transforms(self, topic: str, message: Any, static: bool | None = None) -> None:
        """Add the transforms of a `tf2_msgs/TFMessage`; static ones and those with a zero stamp hold at any time.

        Args:
            topic: topic of the message.
            message: a message with any number of transforms.
            static: whether the transforms are static; None to decide by the topic's name.
        """
        self.received.add(topic)
        static = is_static(topic) if static is None else static
        for stamped in message.transforms:  # one by one: an invalid transform must not affect the others
            try:
                for parent, child, transform, stamp in transforms(SimpleNamespace(transforms=[stamped])):
                    self.rig.tree.set(parent, child, transform, None if static else stamp, topic)
            except Exception as error:  # as above
                self.note(topic, format_error(error))

    def choose_topics(self, carried: Iterable[str], sensors: Iterable[str]) -> list[str]:
        """Return `transform_topics`; report a problem while there are such topics but none describes the sensors."""
        carried = list(carried)
        chosen = transform_topics(carried, sensors)
        outside = {}
        if carried and not chosen:
            listed = " and ".join(carried)
            message = (
                f"transforms are published on {listed} only, outside the namespace of the sensors, and are ignored."
            )
            remedy = "Remap /tf and /tf_static to them, or give the transforms in calibration_file."
            outside = {carried[0]: Problem(message, remedy)}
        for topic in outside.keys() - self._outside.keys():
            self._report(topic, outside[topic])
        self._outside = outside
        return chosen

    def bind(self, frame: SensorFrame) -> SensorFrame:
        """Set the frame_id of the sensor's parameters and the current lens of the stream.

        If the stream carries the CameraInfo of several cameras, the one with the frame's frame_id and size is used,
        else the newest. A later change of the lens does not affect the frame.
        """
        frame_id = self._parameters.sensor(frame.modality).frame_id or frame.frame_id
        if frame_id not in self._frames:
            self._frames.add(frame_id)
            for topic, conflict in self.rig.tree.conflicts([frame_id]).items():
                self._report(topic, conflict)
        lens = self._lens_of(frame)
        if lens is None and frame_id == frame.frame_id:
            return frame
        return replace(frame, frame_id=frame_id, lens=lens)

    def note(self, topic: str, problem: Problem) -> None:
        """Store the problem of a topic, and report it if it is new."""
        if self._problems.get(topic) != problem:
            self._report(topic, problem)
        self._problems[topic] = problem

    def _contradictions(self) -> dict[str, Problem]:
        """Image topic → contradiction between `rectified` and the topic's name or the camera's CameraInfo."""
        problems = {}
        contents, rectified = self._newest, self._is_rectified
        for modality in contents.keys() & self.rig.lenses.keys() & self._topics.keys():
            topic, distorted = self._topics[modality], self.rig.lenses[modality].model.D.any()
            remedy = f"Set -p {modality}.rectified:=true if the images are rectified."
            if "rect" in re.split(r"[/_.\-]+", topic.lower()) and not rectified(modality) and distorted:
                message = "by its name it is rectified, but its CameraInfo has a distortion, which is now corrected"
                problems[topic] = Problem(f"{message} again.", remedy)
            elif modality == DEPTH and distorted and rectified(CAMERA) and not rectified(DEPTH):
                same = contents[DEPTH] == contents.get(CAMERA)
                message = "its CameraInfo is the camera's, whose images are rectified, and its distortion is corrected"
                problems.update({topic: Problem(f"{message} of the depth images alone.", remedy)} if same else {})
        return problems

    def _is_rectified(self, modality: Modality) -> bool:
        sensor = self._parameters.sensor(modality)
        return isinstance(sensor, CameraParameters) and sensor.rectified

    def _lens_of(self, frame: SensorFrame) -> Lens | None:
        known = self._contents.get(frame.modality)
        if not known:
            return None
        payload = frame.payload
        size = (payload.height, payload.width) if isinstance(payload, RawImage | EventWindow) else None

        def fits(entry: tuple[tuple[Any, ...], Lens]) -> tuple[bool, bool]:
            content, lens = entry
            return content[0] == frame.frame_id, size in (None, (lens.model.height, lens.model.width))

        return max(reversed(known.items()), key=fits)[1]  # the newest of equal ones

    def _lens(self, modality: Modality, info: Any) -> Lens:
        sensor = self._parameters.sensor(modality)
        assert isinstance(sensor, CameraParameters)
        frame = sensor.frame_id or info.header.frame_id.lstrip("/")
        if modality == CAMERA and not frame:
            raise CalibrationError("CameraInfo has no frame.", "Fill header.frame_id or set camera.frame_id.")
        model = CameraModel.from_info(info, sensor.rectified)
        if sensor.fit:
            width, height = sensor.picture_size
            model = model.adapt_to_size(height, width, sensor.fit)
        return Lens(frame, model)


def _content(info: Any) -> tuple[Any, ...]:
    """All fields of a CameraInfo except its stamp, frame_id first."""
    numbers = (tuple(numbers) for numbers in (info.d, info.k, info.r, info.p))
    frame = info.header.frame_id.lstrip("/")
    roi = info.roi
    region = roi.x_offset, roi.y_offset, roi.height, roi.width, bool(roi.do_rectify)
    size = info.height, info.width, info.distortion_model, info.binning_x, info.binning_y
    return (frame, *size, region, *numbers)


# TF topics


def is_static(topic: str) -> bool:
    """Whether a topic carries static transforms, by its name: `/tf_static`, in any namespace."""
    return "static" in topic.rsplit("/", 1)[-1]


def transform_topics(carried: Iterable[str], sensors: Iterable[str]) -> list[str]:
    """Select the TF topics that describe some sensors.

    For moving and for static transforms, select the topics in the sensors' own namespace or in the nearest one above
    it; /tf is the last choice. Topics in another namespace may belong to another robot.

    Args:
        carried: absolute names of the available TF topics.
        sensors: absolute names of the sensors' topics.

    Returns:
        The selected part of `carried`, in its order.
    """
    carried, sensors = list(carried), list(sensors)
    chosen: set[str] = set()
    for static in (False, True):
        rivals = [topic for topic in carried if is_static(topic) == static]
        nearest: set[str] = set()
        for sensor in sensors:
            above = [_namespace(topic) for topic in rivals if sensor.startswith(_namespace(topic))]
            nearest.update(sorted(above, key=len)[-1:])
        chosen.update(topic for topic in rivals if _namespace(topic) in nearest)
    return [topic for topic in carried if topic in chosen]


def _namespace(topic: str) -> str:
    """Namespace of a topic, with the last slash."""
    return topic.rsplit("/", 1)[0] + "/"
