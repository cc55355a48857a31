"""The rig as CameraInfo and TF describe it, live and from a bag alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

from mlesam_ros.config import CameraParameters, NodeParameters
from mlesam_ros.errors import CalibrationError, Problem, format_error
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Lens, Rig
from mlesam_ros.messages import transforms
from mlesam_ros.types import CAMERA, DEPTH, EventWindow, Modality, RawImage, SensorFrame

_MOST_LENSES = 8
"""Different CameraInfo messages that are remembered per stream: a camera may switch, and come back."""


class RigBuilder:
    """Fills a rig from messages. What it knew before holds until a message says otherwise.

    A CameraInfo describes the stream that it is published for, whatever its frame is called; `bind` gives each frame of
    a stream the lens that was valid when it came.

    Attributes:
        rig: what is known by now. One thread may read it while another writes it here.
        heard: topics with transforms that a message came on.
    """

    def __init__(
        self,
        rig: Rig,
        parameters: NodeParameters | None = None,
        report: Callable[[str, Problem], None] = lambda topic, problem: None,
        topics: Mapping[Modality, str] = MappingProxyType({}),
    ) -> None:
        """Start from a rig.

        Args:
            rig: to be filled, from a calibration file or empty.
            parameters: the description of the sensors; None for the defaults.
            report: called with topic and problem when a problem is new.
            topics: modality → full name of its topic.
        """
        self.rig = rig
        self.heard: set[str] = set()
        self._parameters = parameters or NodeParameters()
        self._report = report
        self._topics = topics
        self._problems: dict[str, Problem] = {}
        self._outside: dict[str, Problem] = {}  # transforms that are there, but in another namespace
        self._contents: dict[Modality, dict[tuple[Any, ...], Lens]] = {}  # content of a CameraInfo → its lens
        self._newest: dict[Modality, tuple[Any, ...]] = {}
        self._frames: set[str] = set()

    @property
    def problems(self) -> dict[str, Problem]:
        """Topic → fault of a message of it: its newest CameraInfo, its last bad transform, a contradiction."""
        return {**self._doubts(), **self._outside, **self._problems, **self.rig.tree.conflicts(self._frames)}

    def on_camera_info(self, topic: str, modality: Modality, info: Any) -> None:
        """Learn the lens of a stream; the camera's names the frame that masks are expressed in.

        Args:
            topic: where it was published.
            modality: the sensor whose stream it describes.
            info: a `sensor_msgs/CameraInfo`. One with the content of an earlier one costs nothing, and leaves the model
                as it is: encoders prepare everything anew for another.
        """
        content = _content(info)
        if self._newest.get(modality) == content:
            return
        known = self._contents.setdefault(modality, {})
        try:
            lens = known.pop(content, None) or self._lens(modality, info)
        except Exception as error:  # whatever is in a message, a node lives on
            self._newest[modality] = content
            self.note(topic, format_error(error))
            return
        known[content] = lens  # the newest last
        if len(known) > _MOST_LENSES:
            del known[next(iter(known))]
        self._newest[modality] = content
        self._problems.pop(topic, None)
        self.rig.lenses = {**self.rig.lenses, modality: lens}
        if modality == CAMERA:
            self.rig.view, self.rig.camera_frame = CAMERA, lens.frame_id
            self._frames.add(lens.frame_id)

    def on_transforms(self, topic: str, message: Any, static: bool | None = None) -> None:
        """Learn from a `tf2_msgs/TFMessage`; static transforms, and those with a zero stamp, hold for ever.

        Args:
            topic: where it was published.
            message: with any number of transforms.
            static: whether they hold for ever; None to tell by the topic's name.
        """
        self.heard.add(topic)
        static = is_static(topic) if static is None else static
        for stamped in message.transforms:  # one by one, so that a bad one does not take the others with it
            try:
                for parent, child, transform, stamp in transforms(SimpleNamespace(transforms=[stamped])):
                    self.rig.tree.set(parent, child, transform, None if static else stamp, topic)
            except Exception as error:  # as above
                self.note(topic, format_error(error))

    def choose_topics(self, carried: Iterable[str], sensors: Iterable[str]) -> list[str]:
        """`transform_topics`, and a problem for as long as there are some but none describes the sensors."""
        carried = list(carried)
        chosen = transform_topics(carried, sensors)
        outside = {}
        if carried and not chosen:
            listed = " and ".join(carried)
            message = f"transforms are published on {listed} only, outside the namespace of the sensors: not read."
            remedy = "Remap /tf and /tf_static to them, or give the mountings in calibration_file."
            outside = {carried[0]: Problem(message, remedy)}
        for topic in outside.keys() - self._outside.keys():
            self._report(topic, outside[topic])
        self._outside = outside
        return chosen

    def bind(self, frame: SensorFrame) -> SensorFrame:
        """A frame with the frame_id that its parameters state, and with its stream's lens of this moment.

        Where the stream carries the CameraInfo of several cameras, the one with the frame's own frame_id and size is
        taken, else the newest. A lens that changes later does not reinterpret the frame.
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
        """Keep the fault of a message of a topic, and report it when it is new."""
        if self._problems.get(topic) != problem:
            self._report(topic, problem)
        self._problems[topic] = problem

    def _doubts(self) -> dict[str, Problem]:
        """Topic of images → contradiction between `rectified` and what its name or the camera's CameraInfo says."""
        doubts = {}
        contents, rectified = self._newest, self._is_rectified
        for modality in contents.keys() & self.rig.lenses.keys() & self._topics.keys():
            topic, distorted = self._topics[modality], self.rig.lenses[modality].model.D.any()
            remedy = f"Set -p {modality}.rectified:=true if the images are rectified."
            if "rect" in re.split(r"[/_.\-]+", topic.lower()) and not rectified(modality) and distorted:
                message = (
                    "its name says that it is rectified, but its CameraInfo has a distortion, which is now taken out"
                )
                doubts[topic] = Problem(f"{message} once more.", remedy)
            elif modality == DEPTH and distorted and rectified(CAMERA) and not rectified(DEPTH):
                same = contents[DEPTH] == contents.get(CAMERA)
                message = "its CameraInfo is the camera's, whose images are rectified, and its distortion is taken out"
                doubts.update({topic: Problem(f"{message} of the depth images alone.", remedy)} if same else {})
        return doubts

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

        return max(reversed(known.items()), key=fits)[1]  # of equals the newest

    def _lens(self, modality: Modality, info: Any) -> Lens:
        sensor = self._parameters.sensor(modality)
        assert isinstance(sensor, CameraParameters)
        frame = sensor.frame_id or info.header.frame_id.lstrip("/")
        if modality == CAMERA and not frame:
            raise CalibrationError("CameraInfo names no frame.", "Fill header.frame_id or set camera.frame_id.")
        model = CameraModel.from_info(info, sensor.rectified)
        if sensor.fit:
            width, height = sensor.picture_size
            model = model.adapt_to_size(height, width, sensor.fit)
        return Lens(frame, model)


def _content(info: Any) -> tuple[Any, ...]:
    """Everything in a CameraInfo but its stamp, its frame first."""
    numbers = (tuple(numbers) for numbers in (info.d, info.k, info.r, info.p))
    frame = info.header.frame_id.lstrip("/")
    roi = info.roi
    region = roi.x_offset, roi.y_offset, roi.height, roi.width, bool(roi.do_rectify)
    size = info.height, info.width, info.distortion_model, info.binning_x, info.binning_y
    return (frame, *size, region, *numbers)


# Topics of transforms


def is_static(topic: str) -> bool:
    """Whether the transforms of a topic hold for ever, by its name: `/tf_static`, in any namespace."""
    return "static" in topic.rsplit("/", 1)[-1]


def transform_topics(carried: Iterable[str], sensors: Iterable[str]) -> list[str]:
    """The topics of transforms that describe some sensors.

    For moving and static transforms alike: those of the sensors' own namespace or the nearest above it, so that /tf is
    the last. Those of another namespace may be another robot's.

    Args:
        carried: absolute names of the topics with transforms that are there.
        sensors: absolute names of the sensors' topics.

    Returns:
        a part of `carried`, in its order.
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
    """With its last slash."""
    return topic.rsplit("/", 1)[0] + "/"
