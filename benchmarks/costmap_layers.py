# SPDX-License-Identifier: Apache-2.0
"""The rules by which nav2's costmap layers read clouds, in NumPy: an oracle for what the node publishes for them.

`ObstacleLayer` follows nav2_costmap_2d (`observation_buffer.cpp`, `obstacle_layer.cpp`, and `raytraceLine` of
`raytrace_line_2d.hpp`), https://github.com/ros-navigation/navigation2. `semantic_layer_refusal` follows
`semantic_segmentation_layer.cpp` of https://github.com/kiwicampus/semantic_segmentation_layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

FREE, LETHAL, UNKNOWN = 0, 254, 255
_FLOAT32 = 7  # sensor_msgs/PointField

Points = npt.NDArray[np.floating[Any]]


def read_xyz(cloud: Any) -> Points:
    """(n, 3) points of a PointCloud2 by fields x, y and z, as `PointCloud2Iterator<float>` reads them.

    Raises:
        ValueError: a field is absent or no little-endian FLOAT32, or the data are shorter than the cloud.
    """
    fields = {field.name: field for field in cloud.fields}
    count = cloud.width * cloud.height
    if cloud.is_bigendian or any(axis not in fields or fields[axis].datatype != _FLOAT32 for axis in "xyz"):
        raise ValueError(f"x, y, z are not all among {list(fields)} as little-endian FLOAT32")
    if len(cloud.data) < count * cloud.point_step or cloud.row_step != cloud.width * cloud.point_step:
        raise ValueError(f"{len(cloud.data)} bytes for {count} points of {cloud.point_step}")
    rows = np.frombuffer(cloud.data, np.uint8)[: count * cloud.point_step].reshape(count, cloud.point_step)
    columns = [rows[:, fields[axis].offset :][:, :4].copy().view("<f4")[:, 0] for axis in "xyz"]
    return np.column_stack(columns)


class ObstacleLayer:
    """A layer around the origin of its global frame, in which the caller gives all points.

    Args:
        costmap: parameters of the costmap: `width`, `height`, `resolution`.
        layer: parameters of the layer, with its observation sources.
    """

    def __init__(self, costmap: Mapping[str, Any], layer: Mapping[str, Any]) -> None:
        self.resolution = float(costmap["resolution"])
        self.size = np.array([costmap["width"], costmap["height"]]) / self.resolution
        self.origin = -np.array([costmap["width"], costmap["height"]]) / 2
        self._layer = layer
        self.costs = np.full(self.size.astype(int), UNKNOWN if costmap["track_unknown_space"] else FREE, np.uint8)

    def cells(self, points: Points) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """(n, 2) column and row of points, and whether they are on the map, as `worldToMap`."""
        cells = np.floor((points[:, :2] - self.origin) / self.resolution).astype(np.intp)
        return cells, ((cells >= 0) & (cells < self.size)).all(1)

    def update(self, clouds: Mapping[str, tuple[Points, Points]]) -> None:
        """Clear along the rays of the clearing sources, then mark the points of the marking ones.

        Args:
            clouds: source → its sensor's origin (3,), and its points (n, 3), in the global frame.
        """
        sources = {name: self._layer[name] for name in self._layer["observation_sources"].split() if name in clouds}
        for name, source in sources.items():
            if source.get("clearing", False):
                self._clear(*self._within_heights(source, *clouds[name]), source)
        for name, source in sources.items():
            if source.get("marking", True):
                self._mark(*self._within_heights(source, *clouds[name]), source)

    def _within_heights(self, source: Mapping[str, Any], origin: Points, points: Points) -> tuple[Points, Points]:
        low, high = (source.get(f"{word}_obstacle_height", 0.0) for word in ("min", "max"))
        return origin, points[(points[:, 2] >= low) & (points[:, 2] <= high)]  # false for NaN

    def _clear(self, origin: Points, points: Points, source: Mapping[str, Any]) -> None:
        (start,), inside = self.cells(origin[None])
        ends, on_map = self.cells(points)
        if not inside.all() or not on_map.any():
            return
        farthest = source.get("raytrace_max_range", 3.0) / self.resolution
        for end in np.unique(ends[on_map], axis=0):
            delta = end - start
            steps = np.abs(delta)
            long = int(steps.argmax())
            length = float(np.hypot(*delta))
            scale = min(1.0, farthest / length) if length else 1.0
            along = np.arange(int(scale * steps[long]) + 1)
            across = (steps[long] // 2 + along * steps[1 - long]) // max(int(steps[long]), 1)
            line = np.empty((len(along), 2), np.intp)
            line[:, long] = start[long] + np.sign(delta[long]) * along
            line[:, 1 - long] = start[1 - long] + np.sign(delta[1 - long]) * across
            self.costs[line[:, 0], line[:, 1]] = FREE

    def _mark(self, origin: Points, points: Points, source: Mapping[str, Any]) -> None:
        low, high = (self._layer.get(f"{word}_obstacle_height", d) for word, d in (("min", 0.0), ("max", 2.0)))
        points = points[(points[:, 2] >= low) & (points[:, 2] <= high)]
        distance = np.hypot(*(points[:, :2] - origin[:2]).T)
        near, far = source.get("obstacle_min_range", 0.0), source.get("obstacle_max_range", 2.5)
        cells, on_map = self.cells(points)
        marked = cells[on_map & (distance >= near) & (distance <= far)]
        self.costs[marked[:, 0], marked[:, 1]] = LETHAL


def semantic_layer_refusal(labels: Any, confidence: Any, cloud: Any, class_map: Mapping[int, str]) -> str:
    """Reason for which the semantic segmentation layer would not use three messages; empty if it uses them.

    Args:
        labels, confidence: `sensor_msgs/Image`.
        cloud: `sensor_msgs/PointCloud2`.
        class_map: class id → name, of the `vision_msgs/LabelInfo` received before; empty without one.
    """
    stamps = {(m.header.stamp.sec, m.header.stamp.nanosec) for m in (labels, confidence, cloud)}
    if len(stamps) > 1:
        return "exact synchronization: the stamps differ"
    pixels = labels.width * labels.height
    if pixels != cloud.width * cloud.height:
        return "pointcloud and segmentation sizes are different"
    if len(labels.data) < pixels or len(confidence.data) < pixels:
        return "arrays have wrong sizes"
    if labels.step != labels.width or confidence.step != confidence.width:
        return "rows are read without padding"
    if not class_map:
        return "class map is empty"
    return ""
