"""The result as a bag with the node's own topics, for RViz, Foxglove and whoever comes next."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags import fields
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.evaluation.clouds import points_of
from mlesam_ros.evaluation.made import Labels, Listener, Made
from mlesam_ros.evaluation.topics import TRANSFORMS
from mlesam_ros.frame import LIDAR, NANOSECONDS, Modality, Picture
from mlesam_ros.labels import LabelSpace
from mlesam_ros.render import overlay, projected_cloud

NODE = "/mlesam"
_IMAGE, _CLOUD = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"
_STATUS, _SPACE, _INFO = "mlesam_ros/msg/Status", "mlesam_ros/msg/LabelSpace", "sensor_msgs/msg/CameraInfo"


class ResultBag(Listener):
    """Writes what the node would publish, every mask, with the truth beside it. To be used in a `with` statement."""

    def __init__(self, path: str | Path, space: LabelSpace, topics: dict[Modality, str], alpha: float = 0.5) -> None:
        """Create the bag.

        Args:
            path: its folder, which must not exist.
            space: what the labels mean.
            topics: modality → topic, for the status.
            alpha: weight of the colours in the overlay.

        Raises:
            BagError: it exists, or cannot be made.
        """
        self._writer = BagWriter(path)
        self._space, self._topics, self._alpha = space, topics, alpha
        self._known: set[str] = set()
        self._frame = ""

    def __enter__(self) -> ResultBag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def take(self, made: Made) -> None:
        """Write one mask in all its forms.

        Raises:
            BagError: the disk is full.
        """
        stamp, self._frame = made.mask.stamp, made.mask.frame_id
        frame = self._frame
        if made.sequence == 1:
            self._writer.add(f"{NODE}/label_info", _SPACE, stamp, label_space(self._space, stamp), latched=True)
        self._add_mounting(made)
        add = self._writer.add
        add(f"{NODE}/camera_info", _INFO, stamp, fields.camera_info(stamp, frame, made.rig.camera))
        add(f"{NODE}/labels", _IMAGE, stamp, fields.image(stamp, frame, _picture(made.mask.labels, "mono8")))
        add(f"{NODE}/confidence", _IMAGE, stamp, fields.image(stamp, frame, _picture(made.mask.confidence, "mono8")))
        shown = overlay(made.picture(), made.mask.labels, self._space, self._alpha)
        add(f"{NODE}/overlay", _IMAGE, stamp, fields.image(stamp, frame, _picture(shown, "rgb8")))
        self._add_cloud(made)
        add(f"{NODE}/status", _STATUS, stamp, status(made, self._topics))

    def compare(self, stamp: int, labels: Labels, truth: Labels) -> None:
        """Write the truth, where the mask has met it.

        Raises:
            BagError: the disk is full.
        """
        self._writer.add(f"{NODE}/truth", _IMAGE, stamp, fields.image(stamp, self._frame, _picture(truth, "mono8")))

    def _add_cloud(self, made: Made) -> None:
        points = points_of(made, self._space)
        if points is not None:
            sweep = made.frame_set.frames[LIDAR]
            cloud = fields.point_cloud(sweep.stamp, sweep.frame_id, points)
            self._writer.add(f"{NODE}/semantic_points", _CLOUD, made.mask.stamp, cloud)
            shown = projected_cloud(made.picture(), sweep, made.rig, made.mask.labels.shape)
            image = fields.image(made.mask.stamp, self._frame, _picture(shown, "rgb8"))
            self._writer.add(f"{NODE}/projected_lidar", _IMAGE, made.mask.stamp, image)

    def _add_mounting(self, made: Made) -> None:
        """Static transforms as they become known; the moving ones are in the bag that was evaluated."""
        new = [entry for entry in made.rig.tree.statics() if entry[1] not in self._known]
        if new:
            self._known.update(child for _, child, _ in new)
            stamp = made.mask.stamp
            self._writer.add("/tf_static", TRANSFORMS, stamp, fields.transforms(new, stamp), latched=True)


def label_space(space: LabelSpace, stamp: int) -> fields.Fields:
    """An mlesam_ros/LabelSpace."""
    classes = [
        {"id": i, "name": name, "red": red, "green": green, "blue": blue}
        for i, (name, (red, green, blue)) in enumerate(zip(space.names, space.colors, strict=True))
    ]
    return {"header": fields.header(stamp, ""), "name": space.name, "ignore": space.ignore, "classes": classes}


def status(made: Made, topics: dict[Modality, str]) -> fields.Fields:
    """An mlesam_ros/Status. Ages are NaN: nothing was published, so nothing has an age."""
    stages = [{"stage": stage, "seconds": seconds} for stage, seconds in made.mask.timings.items()]
    return {
        "header": fields.header(made.mask.stamp, made.mask.frame_id), "primary": made.frame_set.primary,
        "sequence": made.sequence, "sensors": [_sensor(made, *entry) for entry in topics.items()], "latencies": stages,
    }  # fmt: skip


def _sensor(made: Made, modality: Modality, topic: str) -> dict[str, Any]:
    used, counts = modality in made.mask.used, made.counters[modality]
    levels = made.mask.weights.items() if used else ()
    return {
        "modality": modality, "topic": topic, "used": used, "age": math.nan,
        "skew": made.frame_set.skews[modality] / NANOSECONDS if used else math.nan,
        "weights": [{"level": level, "weight": weights[modality]} for level, weights in levels if modality in weights],
        "used_total": counts["used"],
        **{name: counts[name] for name in ("received", "superseded", "late", "unmatched", "refused")},
    }  # fmt: skip


def _picture(pixels: npt.NDArray[np.uint8], encoding: str) -> Picture:
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    return Picture(height, width, encoding, width * channels, np.ascontiguousarray(pixels).reshape(-1))
