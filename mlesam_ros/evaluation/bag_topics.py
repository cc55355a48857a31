"""Find the topic of each sensor and of the ground truth in a bag, by types and names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlesam_ros.config import AUTO, CameraParameters, NodeParameters
from mlesam_ros.errors import BagError
from mlesam_ros.messages import MESSAGE_TYPES, type_problem
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, Modality

CAMERA_INFO, TRANSFORMS = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage"
TRUTH = "truth"
"""Name of ground-truth labels in options that take a modality."""
_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

# Words of topic names: the parts between slashes, underscores, dots and hyphens.
_DEPTH_WORDS = {"depth", "compresseddepth"}
_EVENT_WORDS = {"event", "events", "dvs", "prophesee", "metavision"}
_LABEL_WORDS = {"label", "labels", "semantic", "semantics", "segmentation", "mask", "masks", "annotation", "seg"}
_TRUTH_WORDS = {"truth", "groundtruth", "gt", "annotation", "annotations"}
_MADE_WORDS = {"overlay", "confidence", "debug", "visualization", "mlesam", "detections"}
_LIDAR_PICTURES = {"signal", "reflec", "reflectivity", "nearir", "range", "ambient", "disparity"}
_OTHER_CLOUDS = {"radar", "map", "depth", "zed", "realsense", "oak", "stereo", "disparity"}
_POINTS = (
    ({"front", "forward", "center", "centre"}, 3), ({"color", "colour"}, 2), ({"rgb"}, 2), ({"left"}, 1),
    ({"aligned"}, 2), ({"registered"}, 1), ({"concatenated", "merged", "fused", "combined"}, 2),
    ({"points", "lidar", "velodyne"}, 1), ({"right", "rear", "back", "side"}, -4),
    ({"traffic", "fisheye", "theta", "thumbnail", "resized"}, -3),
    ({"infra", "infra1", "infra2", "ir", "thermal", "mono", "gray", "grey"}, -3), ({"filtered", "obstacle"}, -3),
    ({"downsample", "downsampled", "voxel", "cluster", "clusters", "objects", "ground", "segmentation"}, -3),
)  # fmt: skip
"""Weights for choosing between several topics: a set of words, and the points that a topic with any of them gets."""


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
        truth: topic of ground-truth labels, `sensor_msgs/Image` of integers or a PNG as `CompressedImage`.
        notes: choices between several candidate topics, one sentence each.
    """

    sensors: dict[Modality, TopicSource]
    infos: dict[Modality, str] = field(default_factory=dict)
    truth: str | None = None
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
            topic = _named(f"{modality}.topic", sensor.topic, parameters, topics, accepted, notes)
        else:
            topic = _guess(modality, topics, accepted, notes, f"-p {modality}.topic:=TOPIC")
        if topic is not None:
            sensors[modality] = TopicSource(topic, topics[topic])
        elif sensor.required:
            raise BagError(
                f"{modality} is required, and the bag has no topic of it; its topics are {_listed(topics)}.",
                f"Name it with -p {modality}.topic:=TOPIC, or set {modality}.required to false.",
            )
    if not sensors:
        raise BagError(
            f"none of the bag's topics is a sensor that is read: {_listed(topics)}; "
            f"accepted types are {', '.join(sorted({t for types in MESSAGE_TYPES.values() for t in types}))}."
        )
    seeing = [m for m in sensors if sensors[m].type not in MESSAGE_TYPES[LIDAR]]
    found_infos = {m: _info_topic(m, sensors[m].topic, parameters, topics, notes) for m in seeing}
    if CAMERA not in sensors:  # as in the node, it is the reference camera even if it is not read
        topic = _guess(CAMERA, topics, MESSAGE_TYPES[CAMERA], [], "") or parameters.resolve(parameters.camera.topic)
        found_infos = {CAMERA: _info_topic(CAMERA, topic, parameters, topics, []), **found_infos}
    infos = {m: info for m, info in found_infos.items() if info is not None}
    return Topics(sensors, infos, notes=tuple(notes))


def with_truth(found: Topics, topics: Mapping[str, str], name: str | None, option: str) -> Topics:
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
    truth = _guess(TRUTH, topics, _IMAGES, notes, option) if name is None else _checked(TRUTH, name, topics, _IMAGES)
    return replace(found, truth=truth, notes=tuple(notes))


def _named(
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
        return _checked(name, full, topics, accepted)
    notes.append(f"the bag has no topic {full}, which {name} names; nothing is read from it.")
    return None


def _info_topic(
    modality: Modality, topic: str, parameters: NodeParameters, topics: Mapping[str, str], notes: list[str]
) -> str | None:
    sensor, name = parameters.sensor(modality), f"{modality}.info_topic"
    if name not in parameters.given or not isinstance(sensor, CameraParameters):
        beside = _info_of(topic, topics)
        default = parameters.resolve(sensor.info_topic) if isinstance(sensor, CameraParameters) else ""
        named = f"{modality}.topic" in parameters.given  # the node then uses the default
        return default if beside is None and named and topics.get(default) == CAMERA_INFO else beside
    return _named(name, sensor.info_topic, parameters, topics, (CAMERA_INFO,), notes) if sensor.info_topic else None


def _checked(what: str, topic: str, topics: Mapping[str, str], accepted: Sequence[str]) -> str:
    if topic not in topics:
        near = difflib.get_close_matches(topic, topics, 1)
        hint = f"Did you mean {near[0]}?" if near else ""
        raise BagError(f"{what} is {topic}, and the bag has no such topic; its topics are {_listed(topics)}.", hint)
    if topics[topic] not in accepted:
        problem = type_problem(what, [topics[topic]], accepted)
        raise BagError(f"{what} is {topic}: {problem.message}.", problem.remedy)
    return topic


def _guess(what: str, topics: Mapping[str, str], accepted: Sequence[str], notes: list[str], option: str) -> str | None:
    """Best candidate, or None; if there are several, add a note with the option that chooses."""
    candidates = [topic for topic, kind in topics.items() if kind in accepted and _name_matches(what, topic, kind)]
    candidates.sort(key=lambda topic: (*_rank(topic, topics[topic], accepted), len(topic), topic))
    best = candidates[0] if candidates else None
    others = [topic for topic in candidates[1:] if not topic.startswith(f"{best}/")]  # not its compressed variant
    if best is not None and others:
        notes.append(f"{what} is read from {best}; {', '.join(others)} would do as well: choose with {option}.")
    elif best is None and what == LIDAR and (clouds := [topic for topic, kind in topics.items() if kind in accepted]):
        notes.append(f"no LiDAR is read: {', '.join(clouds)} is not one by its name; {option} if it is.")
    return best


def _name_matches(what: str, topic: str, kind: str) -> bool:
    """Whether a topic's name fits a sensor; the names matter mostly for images, other types are specific."""
    found = words(topic)
    if found & _MADE_WORDS:
        return False
    if what == TRUTH:
        return bool(found & _TRUTH_WORDS) or {"ground", "truth"} <= found
    if what == LIDAR:
        return not found & _OTHER_CLOUDS
    if kind not in _IMAGES:
        return True
    if found & (_LABEL_WORDS | _TRUTH_WORDS | _LIDAR_PICTURES):
        return False
    if what == DEPTH:
        return bool(found & _DEPTH_WORDS)
    if what == EVENT:
        return bool(found & _EVENT_WORDS)
    return not found & (_DEPTH_WORDS | _EVENT_WORDS)


def _rank(topic: str, kind: str, accepted: Sequence[str]) -> tuple[int, int, int]:
    """Sort key, lowest first: a sensor's own message type before images, then the name, then raw before compressed."""
    found = words(topic)
    points = sum(value for group, value in _POINTS if found & group)
    if "front" in found and found & {"left", "right"}:
        points -= 3  # the front corner of a camera ring, not its front
    return int(kind in _IMAGES and accepted[0] not in _IMAGES), -points, accepted.index(kind)


def words(topic: str) -> set[str]:
    """Parts of a topic's name, in lower case."""
    return set(re.split(r"[/_.\-]+", topic.lower())) - {""}


def _info_of(topic: str, topics: Mapping[str, str]) -> str | None:
    """CameraInfo topic of an image topic: in the same namespace, as in image_transport, or in the nearest parent."""
    infos = [info for info, kind in topics.items() if kind == CAMERA_INFO]
    beside = [info for info in infos if f"{topic}/".startswith(info.rsplit("/", 1)[0] + "/")]
    return max(beside, key=lambda info: (info.count("/"), info), default=None)


def _listed(topics: Mapping[str, str]) -> str:
    return ", ".join(f"{topic} ({kind})" for topic, kind in topics.items()) or "none"
