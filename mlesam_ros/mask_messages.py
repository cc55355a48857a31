# SPDX-License-Identifier: Apache-2.0
"""Output messages of one mask as fields, published by the node and recorded by `mlesam evaluate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.serialization import Fields, camera_info, compressed_image, header, pixels, point_cloud
from mlesam_ros.config import NodeParameters
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import LabelSpace
from mlesam_ros.messages import CAMERA_INFO
from mlesam_ros.parameter_groups import NavigationParameters
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.semantic_points import GROUND, OBSTACLE, XYZ, MaskPoints, role_table
from mlesam_ros.sync import COUNTERS, USED
from mlesam_ros.types import (
    CAMERA,
    COMPRESSED_IMAGE,
    IMAGE,
    LIDAR,
    NANOSECONDS,
    POINT_CLOUD,
    CompressedImage,
    DetectedProperty,
    FrameSet,
    Modality,
    RawImage,
    Segmentation,
)
from mlesam_ros.visualization import RGBImage, encode_jpeg, overlay, projected_cloud, resize_area

STATUS, LABEL_SPACE = "mlesam_ros/msg/Status", "mlesam_ros/msg/LabelSpace"


@dataclass(frozen=True, slots=True)
class InterfaceSpec:
    """Type of a topic or service of the node, such as `sensor_msgs/msg/Image`, and description of its content."""

    type_name: str
    meaning: str


MASK_TOPICS = {
    "labels": InterfaceSpec(
        IMAGE,
        "mono8: class id per pixel, 255 if unlabeled; size by `labels_resolution`.",
    ),
    "camera_info": InterfaceSpec(CAMERA_INFO, "Intrinsics of `labels`: those of the camera, scaled."),
    "confidence": InterfaceSpec(IMAGE, "mono8: probability of that class times 255."),
    "overlay": InterfaceSpec(IMAGE, "rgb8: colors of the classes on the camera image, `overlay_width` columns."),
    "overlay/compressed": InterfaceSpec(COMPRESSED_IMAGE, "`overlay` as a JPEG, for slow networks."),
    "projected_lidar": InterfaceSpec(
        IMAGE, "rgb8: LiDAR points on the camera image, red near, blue far, to check the calibration."
    ),
    "semantic_points": InterfaceSpec(
        POINT_CLOUD,
        "x y z intensity label rgb: LiDAR points in the camera's view, in the LiDAR's frame.",
    ),
    "obstacle_points": InterfaceSpec(
        POINT_CLOUD,
        "x y z label confidence: points of `navigation.obstacle_classes` in the camera's view, in the frame of the "
        "LiDAR, else of the depth sensor; the stamp is that of `labels` less the `offset` of its sensor.",
    ),
    "ground_points": InterfaceSpec(POINT_CLOUD, "The same of `navigation.ground_classes`."),
    "aligned/labels": InterfaceSpec(
        IMAGE, "`labels` with `aligned.width` columns; the stamp is that of `obstacle_points`."
    ),
    "aligned/confidence": InterfaceSpec(IMAGE, "`confidence` of the same size."),
    "aligned/points": InterfaceSpec(
        POINT_CLOUD,
        "x y z: the point of each pixel of `aligned/labels`, NaN where neither depth nor LiDAR has a visible one.",
    ),
}
"""Topic below the node's name → its description, for the messages of `mask_messages`."""


@dataclass(frozen=True)
class MaskTimes:
    """ROS times of one mask.

    Attributes:
        received, taken, published: nanoseconds at which the primary's message was received, the set was taken from
            the synchronizer and the mask was published; received is None if unknown.
        publishing: seconds of the machine's clock that publishing took.
    """

    received: int | None
    taken: int
    published: int
    publishing: float


@dataclass(frozen=True)
class MaskReport:
    """One mask with its input frames and times.

    Attributes:
        segmentation: the mask.
        frame_set: the frames that contributed to it, without the refused ones.
        sequence: number of masks since activation, this one included.
        times: None for a mask that is not published live.
    """

    segmentation: Segmentation
    frame_set: FrameSet
    sequence: int
    times: MaskTimes | None = None

    @property
    def latencies(self) -> dict[str, float]:
        """Stage → seconds: the pipeline's stages; live also the stages before and after them, and `stamp_to_mask`.

        The stages before the pipeline and `stamp_to_mask`, the total, are differences of ROS time; the others are
        measured by the machine's clock.
        """
        measured, times = self.frame_set.time, self.times
        if times is None:
            return self.segmentation.timings
        received = measured if times.received is None else times.received
        return {
            "receive": _seconds(received - measured),
            "synchronize": _seconds(times.taken - received),
            **self.segmentation.timings,
            "publish": times.publishing,
            "stamp_to_mask": _seconds(times.published - measured),
        }

    def age(self, modality: Modality) -> float:
        """Seconds from the time of a used sensor's frame to the publication of the mask; NaN if not published."""
        published = None if self.times is None else self.times.published
        return math.nan if published is None else _seconds(published - self.frame_set.frames[modality].time)


def mask_messages(
    segmentation: Segmentation, frame_set: FrameSet, rig: Rig, space: LabelSpace, parameters: NodeParameters
) -> dict[str, Callable[[], Fields]]:
    """Prepare the messages of one mask; each is computed when its function is called, and shared parts once.

    All images have the size of the mask, since image_transport and RViz take `camera_info` for that of every image
    topic beside it; those for display are smaller on request. Messages for costmaps have the set's time as their stamp,
    since transforms are looked up at the stamp; the others have the driver's, to match the images that it published.

    Args:
        segmentation: the mask.
        frame_set: the frames that contributed to it.
        rig: lenses and mounting of the sensors.
        space: names and colors of the labels.
        parameters: size and colors of the overlay, `navigation` and `aligned`.

    Returns:
        Topic below the node's name → function that returns its fields. `projected_lidar` and `semantic_points` are
        absent without a LiDAR frame; `obstacle_points` and `ground_points` without a frame of `navigation.sensors`, and
        if the label space has no class of that role.

    Raises:
        ConfigError: the label space lacks a class of `navigation`.
    """
    stamp, time = segmentation.stamp, frame_set.time
    frame_id, labels = segmentation.frame_id, segmentation.labels
    points = MaskPoints(segmentation, frame_set, rig)
    size = _display_size(labels, parameters.overlay_width)
    rgb = cache(lambda: _camera_image(frame_set, size))
    blended = cache(lambda: overlay(rgb(), resize_nearest(labels, size), space, parameters.overlay_alpha))
    grid = cache(lambda: points.grid(parameters.aligned.width))
    makers: dict[str, Callable[[], Fields]] = {
        "labels": lambda: pixels(stamp, frame_id, labels, "mono8"),
        "camera_info": lambda: camera_info(stamp, frame_id, rig.camera.scaled(*labels.shape)),
        "confidence": lambda: pixels(stamp, frame_id, segmentation.confidence, "mono8"),
        "overlay": lambda: pixels(stamp, frame_id, blended(), "rgb8"),
        "overlay/compressed": lambda: compressed_image(stamp, frame_id, *encode_jpeg(blended())),
        "aligned/labels": lambda: pixels(time, frame_id, grid().labels, "mono8"),
        "aligned/confidence": lambda: pixels(time, frame_id, grid().confidence, "mono8"),
        "aligned/points": lambda: point_cloud(time, frame_id, grid().points.view(XYZ)[..., 0]),
    }

    def drawn() -> Fields:
        assert points.lidar is not None
        return pixels(stamp, frame_id, projected_cloud(rgb(), points.lidar.visible, size), "rgb8")

    sweep = frame_set.frames.get(LIDAR)
    if sweep is not None:
        makers["projected_lidar"] = drawn
        makers["semantic_points"] = lambda: point_cloud(sweep.stamp, sweep.frame_id, points.labeled(space)[0])
    makers |= _navigation_clouds(points, frame_set, space, parameters.navigation)
    return makers


def _navigation_clouds(
    points: MaskPoints, frame_set: FrameSet, space: LabelSpace, parameters: NavigationParameters
) -> dict[str, Callable[[], Fields]]:
    """Return the functions for `obstacle_points` and `ground_points`; see `mask_messages`."""
    chosen = cache(lambda: points.navigation(space, parameters))

    def cloud_of(role: int) -> Fields:
        found = chosen()
        return point_cloud(frame_set.time, found.frame_id, found.of_role(role))

    if not any(modality in frame_set.frames for modality in parameters.sensors):
        return {}
    roles = role_table(space, parameters)
    named = {"obstacle_points": OBSTACLE, "ground_points": GROUND}
    return {name: partial(cloud_of, role) for name, role in named.items() if (roles == role).any()}


def _display_size(labels: npt.NDArray[np.uint8], width: int) -> tuple[int, int]:
    """(height, width) of the images for display, see `overlay_width`."""
    rows, columns = labels.shape
    return (max(round(width * rows / columns), 1), width) if 0 < width < columns else (rows, columns)


def _camera_image(frame_set: FrameSet, size: tuple[int, int]) -> RGBImage | None:
    rgb = camera_rgb(frame_set)
    return rgb if rgb is None else resize_area(rgb, size)


def camera_rgb(frame_set: FrameSet) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) RGB of the camera's frame; None without a camera frame."""
    frame = frame_set.frames.get(CAMERA)
    if frame is None or not isinstance(frame.payload, RawImage | CompressedImage):
        return None
    return to_rgb(frame.payload)


def label_space(space: LabelSpace, stamp: int) -> Fields:
    """Fields of an mlesam_ros/LabelSpace message."""
    classes = [
        {"id": index, "name": name, "red": red, "green": green, "blue": blue}
        for index, (name, (red, green, blue)) in enumerate(zip(space.names, space.colors, strict=True))
    ]
    return {"header": header(stamp, ""), "name": space.name, "ignore": space.ignore, "classes": classes}


def status(
    mask: MaskReport,
    topics: Mapping[Modality, str],
    counters: Mapping[Modality, Mapping[str, int]],
    found: Mapping[Modality, Mapping[str, DetectedProperty]] = MappingProxyType({}),
) -> Fields:
    """Fields of an mlesam_ros/Status message.

    Args:
        mask: the mask.
        topics: the resolved topic of every configured sensor.
        counters: modality → counters of its messages, see `Account.counters`; zeros if absent.
        found: modality → detected properties of its data; see `FrameReader.found`.
    """
    return {
        "header": header(mask.segmentation.stamp, mask.segmentation.frame_id),
        "primary": mask.frame_set.primary,
        "sequence": mask.sequence,
        "sensors": [_sensor(mask, m, topic, counters.get(m, {}), found.get(m, {})) for m, topic in topics.items()],
        "latencies": [{"stage": stage, "seconds": seconds} for stage, seconds in mask.latencies.items()],
    }


def _sensor(
    mask: MaskReport, modality: Modality, topic: str, counts: Mapping[str, int], found: Mapping[str, DetectedProperty]
) -> dict[str, Any]:
    used = modality in mask.segmentation.used
    levels = mask.segmentation.weights.items() if used else ()
    return {
        "modality": modality,
        "topic": topic,
        "used": used,
        "skew": _seconds(mask.frame_set.skews[modality]) if used else math.nan,
        "age": mask.age(modality) if used else math.nan,
        "weights": [
            {"level": level, "weight": float(weight[modality])} for level, weight in levels if modality in weight
        ],
        "data": "; ".join(f"{name.replace('_', ' ')}: {fact.text}" for name, fact in found.items()),
        "used_total": counts.get(USED, 0),
        **{name: counts.get(name, 0) for name in COUNTERS if name != USED},
    }


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / NANOSECONDS
