# SPDX-License-Identifier: Apache-2.0
"""Find the topics of a bag's sensors and of its ground truth, learn its calibration, choose a reference camera."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import AUTO, NodeParameters, initial_rig
from mlesam_ros.errors import BagError, MlesamError, Problem
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.messages import CAMERA_INFO, TF_MESSAGE, type_problem
from mlesam_ros.parameter_groups import CameraParameters
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.rig_builder import RigBuilder, is_static
from mlesam_ros.types import (
    CAMERA,
    COMPRESSED_IMAGE,
    DEPTH,
    EVENT,
    GROUND_TRUTH,
    IMAGE,
    LIDAR,
    MESSAGE_TYPES,
    MODALITIES,
    CompressedImage,
    EventWindow,
    FrameSet,
    Modality,
    RawImage,
    SensorFrame,
)

_IMAGES = (IMAGE, COMPRESSED_IMAGE)

# Tokens of topic names: the parts between slashes, underscores, dots and hyphens.
_SENSOR_TOKENS = {m: {m} for m in MODALITIES if m not in (CAMERA, LIDAR)} | {
    DEPTH: {"depth", "compresseddepth"},
    EVENT: {"event", "events", "dvs", "prophesee", "metavision"},
}
"""Modality with images → tokens of which one is in its topics, and none in the camera's."""
_LABEL_TOKENS = {"label", "labels", "semantic", "semantics", "segmentation", "mask", "masks", "annotation", "seg"}
_GROUND_TRUTH_TOKENS = {"truth", "groundtruth", "gt", "annotation", "annotations"}
_OUTPUT_TOKENS = {"overlay", "confidence", "debug", "visualization", "mlesam", "detections"}
_LIDAR_IMAGE_TOKENS = {"signal", "reflec", "reflectivity", "nearir", "range", "ambient", "disparity"}
_NOT_LIDAR_TOKENS = {"radar", "map", "depth", "zed", "realsense", "oak", "stereo", "disparity"}
_TOKEN_SCORES = (
    ({"front", "forward", "center", "centre"}, 3), ({"color", "colour"}, 2), ({"rgb"}, 2), ({"left"}, 1),
    ({"aligned"}, 2), ({"registered"}, 1), ({"concatenated", "merged", "fused", "combined"}, 2),
    ({"points", "lidar", "velodyne"}, 1), ({"right", "rear", "back", "side"}, -4),
    ({"traffic", "fisheye", "theta", "thumbnail", "resized"}, -3),
    ({"infra", "infra1", "infra2", "ir", "thermal", "mono", "gray", "grey"}, -3), ({"filtered", "obstacle"}, -3),
    ({"downsample", "downsampled", "voxel", "cluster", "clusters", "objects", "ground", "segmentation"}, -3),
)  # fmt: skip
"""Scores for choosing between several topics: a set of tokens, and the points of a topic with any of them."""


@dataclass(frozen=True)
class TopicSource:
    """One topic: its name and the type of its messages."""

    topic: str
    type: str


@dataclass(frozen=True)
class Topics:
    """Topics of a bag.

    Attributes:
        sensors: modality → its topic.
        infos: modality → topic of its CameraInfo, if any; includes the camera's even if the camera is not read.
        ground_truth: topic of ground-truth labels, `sensor_msgs/Image` of integers or a PNG as `CompressedImage`.
        notes: choices between several candidate topics, one sentence each.
    """

    sensors: dict[Modality, TopicSource]
    infos: dict[Modality, str] = field(default_factory=dict)
    ground_truth: str | None = None
    notes: tuple[str, ...] = ()


def find_topics(
    topics: Mapping[str, str],
    parameters: NodeParameters | None = None,
    modalities: Collection[Modality] = MODALITIES,
) -> Topics:
    """Choose the topic of each modality; guess it if the parameters do not name one.

    Args:
        topics: topic → type, of the whole bag.
        parameters: of the sensors; disabled sensors are skipped.
        modalities: modalities to find.

    Raises:
        BagError: a named topic is missing or has another type, a required sensor is missing, or the bag has no sensor.
    """
    parameters = parameters or NodeParameters()
    notes: list[str] = []
    sensors: dict[Modality, TopicSource] = {}
    for modality in (m for m in modalities if m in parameters.modalities):
        sensor = parameters.sensor(modality)
        accepted = MESSAGE_TYPES[modality] if sensor.type == AUTO else (sensor.type,)
        if f"{modality}.topic" in parameters.given:
            topic = _resolve_named(f"{modality}.topic", sensor.topic, parameters, topics, accepted, notes)
        else:
            topic = _guess_topic(modality, topics, accepted, notes, f"-p {modality}.topic:=TOPIC")
        if topic is not None:
            sensors[modality] = TopicSource(topic, topics[topic])
        elif sensor.required:
            raise BagError(
                f"{modality} is required, but the bag has no topic of it; its topics are {_format_topics(topics)}.",
                f"Name it with -p {modality}.topic:=TOPIC, or set {modality}.required to false.",
            )
    if not sensors:
        raise BagError(
            f"no topic of the bag is a sensor: {_format_topics(topics)}; "
            f"accepted types are {', '.join(sorted({t for types in MESSAGE_TYPES.values() for t in types}))}."
        )
    with_info = [m for m in sensors if sensors[m].type not in MESSAGE_TYPES[LIDAR]]
    found_infos = {m: _info_topic(m, sensors[m].topic, parameters, topics, notes) for m in with_info}
    if CAMERA not in sensors:  # as in the node, it is the reference camera even if it is not read
        topic = _guess_topic(CAMERA, topics, MESSAGE_TYPES[CAMERA], [], "") or parameters.resolve(
            parameters.camera.topic
        )
        found_infos = {CAMERA: _info_topic(CAMERA, topic, parameters, topics, []), **found_infos}
    infos = {m: info for m, info in found_infos.items() if info is not None}
    return Topics(sensors, infos, notes=tuple(notes))


def with_ground_truth(found: Topics, topics: Mapping[str, str], name: str | None, option: str) -> Topics:
    """Add the topic of ground-truth labels.

    Args:
        found: the sensors' topics.
        topics: topic → type, of the whole bag.
        name: of the topic; None to guess it from types and names.
        option: command-line option that names the topic, for the note about several candidates.

    Raises:
        BagError: the named topic is missing, or has another type.
    """
    notes = list(found.notes)
    if name is None:
        topic = _guess_topic(GROUND_TRUTH, topics, _IMAGES, notes, option)
    else:
        topic = _check_topic(GROUND_TRUTH, name, topics, _IMAGES)
    return replace(found, ground_truth=topic, notes=tuple(notes))


def _resolve_named(
    name: str,
    topic: str,
    parameters: NodeParameters,
    topics: Mapping[str, str],
    accepted: Sequence[str],
    notes: list[str],
) -> str | None:
    """Resolve a topic named by a parameter; None, and a note, if a file names one that the bag does not have."""
    full = topic if topic in topics else parameters.resolve(topic)
    if full in topics or name in parameters.overridden:
        return _check_topic(name, full, topics, accepted)
    notes.append(f"the bag has no topic {full}, which {name} names; it is ignored.")
    return None


def _info_topic(
    modality: Modality, topic: str, parameters: NodeParameters, topics: Mapping[str, str], notes: list[str]
) -> str | None:
    sensor, name = parameters.sensor(modality), f"{modality}.info_topic"
    if name not in parameters.given or not isinstance(sensor, CameraParameters):
        beside = _nearest_info_topic(topic, topics)
        default = parameters.resolve(sensor.info_topic) if isinstance(sensor, CameraParameters) else ""
        named = f"{modality}.topic" in parameters.given  # the node then uses the default
        return default if beside is None and named and topics.get(default) == CAMERA_INFO else beside
    return (
        _resolve_named(name, sensor.info_topic, parameters, topics, (CAMERA_INFO,), notes)
        if sensor.info_topic
        else None
    )


def _check_topic(what: str, topic: str, topics: Mapping[str, str], accepted: Sequence[str]) -> str:
    if topic not in topics:
        near = difflib.get_close_matches(topic, topics, 1)
        hint = f"Did you mean {near[0]}?" if near else ""
        raise BagError(
            f"{what} is {topic}, but the bag has no such topic; its topics are {_format_topics(topics)}.", hint
        )
    if topics[topic] not in accepted:
        problem = type_problem(what, [topics[topic]], accepted)
        raise BagError(f"{what} is {topic}: {problem.message}.", problem.remedy)
    return topic


def _guess_topic(
    what: str, topics: Mapping[str, str], accepted: Sequence[str], notes: list[str], option: str
) -> str | None:
    """Best candidate, or None; if there are several, add a note with the option that chooses."""
    candidates = [topic for topic, kind in topics.items() if kind in accepted and _name_matches(what, topic, kind)]
    candidates.sort(key=lambda topic: (*_rank(topic, topics[topic], accepted), len(topic), topic))
    best = candidates[0] if candidates else None
    others = [topic for topic in candidates[1:] if not topic.startswith(f"{best}/")]  # not its compressed variant
    if best is not None and others:
        notes.append(f"{what} is read from {best}; other candidates: {', '.join(others)}. Choose with {option}.")
    elif best is None and what == LIDAR and (clouds := [topic for topic, kind in topics.items() if kind in accepted]):
        notes.append(f"no LiDAR is read: {', '.join(clouds)} is no LiDAR by its name; set {option} if it is.")
    return best


def _name_matches(what: str, topic: str, kind: str) -> bool:
    """Whether a topic's name fits a sensor. Names matter mostly for images; other message types are specific."""
    found = _tokens(topic)
    if found & _OUTPUT_TOKENS:
        return False
    if what == GROUND_TRUTH:
        return bool(found & _GROUND_TRUTH_TOKENS) or {"ground", "truth"} <= found
    if what == LIDAR:
        return not found & _NOT_LIDAR_TOKENS
    if kind not in _IMAGES:
        return True
    if found & (_LABEL_TOKENS | _GROUND_TRUTH_TOKENS | _LIDAR_IMAGE_TOKENS):
        return False
    if what in _SENSOR_TOKENS:
        return bool(found & _SENSOR_TOKENS[what])
    return not found & set().union(*_SENSOR_TOKENS.values())


def _rank(topic: str, kind: str, accepted: Sequence[str]) -> tuple[int, int, int]:
    """Sort key, lowest first: a sensor's own message type before images, then the name, then raw before compressed."""
    found = _tokens(topic)
    points = sum(value for group, value in _TOKEN_SCORES if found & group)
    if "front" in found and found & {"left", "right"}:
        points -= 3  # the front corner of a camera ring, not its front
    return int(kind in _IMAGES and accepted[0] not in _IMAGES), -points, accepted.index(kind)


def _tokens(topic: str) -> set[str]:
    """Parts of a topic's name, in lower case."""
    return set(re.split(r"[/_.\-]+", topic.lower())) - {""}


def _nearest_info_topic(topic: str, topics: Mapping[str, str]) -> str | None:
    """CameraInfo topic of an image topic: in the same namespace, as in image_transport, or in the nearest parent."""
    infos = [info for info, kind in topics.items() if kind == CAMERA_INFO]
    beside = [info for info in infos if f"{topic}/".startswith(info.rsplit("/", 1)[0] + "/")]
    return max(beside, key=lambda info: (info.count("/"), info), default=None)


def _format_topics(topics: Mapping[str, str]) -> str:
    return ", ".join(f"{topic} ({kind})" for topic, kind in topics.items()) or "none"


class BagRig:
    """Learns a rig from a bag's messages.

    Attributes:
        topics: topics whose messages `on_message` reads.
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
        self._builder = RigBuilder(initial_rig(parameters), parameters, topics=images)
        self._infos: dict[str, list[Modality]] = {}  # aligned streams share a CameraInfo
        for modality, topic in topics.infos.items():
            self._infos.setdefault(topic, []).append(modality)
        published = [topic for topic, kind in reader.topics.items() if kind == TF_MESSAGE]
        used = self._builder.choose_topics(published, images.values())
        self._reader, self._static = reader, {topic for topic in used if is_static(topic)}
        self.topics = {*self._infos, *used}
        self._learn_initial_transforms()
        for topic in self._infos:
            for first in reader.messages([topic]):
                self.on_message(topic, first.message)
                break

    def _learn_initial_transforms(self) -> None:
        """Learn the first static transform of each frame; later ones are learned at their time of recording."""
        known: set[str] = set()
        for topic, _, _, message in self._reader.messages(self._static) if self._static else ():
            new = [s for s in message.transforms if s.child_frame_id.lstrip("/") not in known]
            known.update(stamped.child_frame_id.lstrip("/") for stamped in new)
            self._builder.on_transforms(topic, SimpleNamespace(transforms=new))

    def learn_until(self, until: int) -> None:
        """Learn the CameraInfo and static transforms recorded before `until`, in nanoseconds."""
        topics = {*self._infos, *self._static}
        for topic, _, _, message in self._reader.messages(topics, stop=until) if topics else ():
            self.on_message(topic, message)

    @property
    def rig(self) -> Rig:
        """The rig learned so far."""
        return self._builder.rig

    @property
    def problems(self) -> dict[str, Problem]:
        """Topic → error or warning about one of its messages."""
        return self._builder.problems

    def on_message(self, topic: str, message: Any) -> None:
        """Learn from one message on one of `topics`; its errors go to `problems`."""
        for modality in self._infos.get(topic, ()):
            self._builder.on_camera_info(topic, modality, message)
        if topic not in self._infos:
            self._builder.on_transforms(topic, message)

    def bind(self, frame: SensorFrame) -> SensorFrame:
        """See `RigBuilder.bind`."""
        return self._builder.bind(frame)


_ASSUMED_FOV_DEG = 70.0
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
            return f"no calibrated camera: masks are in the view of {modality}."
    for modality in (CAMERA, EVENT):
        if modality in frames and (size := _image_size(frames[modality])) is not None:
            rig.view, rig.camera_frame = modality, frames[modality].frame_id
            rig.models[rig.camera_frame] = _assumed_camera(*size)
            return (
                f"no CameraInfo: masks are in the view of {modality}, with an assumed field of view of "
                f"{_ASSUMED_FOV_DEG:g} degrees without distortion; give --calibration for accurate masks."
            )
    return None


def _image_size(frame: SensorFrame) -> tuple[int, int] | None:
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


def _assumed_camera(width: int, height: int) -> CameraModel:
    focal = width / 2 / np.tan(np.radians(_ASSUMED_FOV_DEG / 2))
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return CameraModel(width, height, intrinsics, np.zeros(0), "pinhole")
