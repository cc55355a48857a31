# SPDX-License-Identifier: Apache-2.0
"""Points of a mask's sensors with the class of their pixel, for topics, bags and reports.

A point outside the label camera's image has no class and is in none of the clouds.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import LabelSpace, default_classes
from mlesam_ros.parameter_file import format_value
from mlesam_ros.parameter_groups import NavigationParameters
from mlesam_ros.preprocessing.images import Meters
from mlesam_ros.preprocessing.point_cloud import cloud_intensity
from mlesam_ros.preprocessing.registration import FrameContext, PlacedSweep
from mlesam_ros.types import AUTO, DEPTH, LIDAR, FrameSet, PointCloud, Segmentation

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

POINT = np.dtype(
    {
        "names": ["x", "y", "z", "intensity", "label", "rgb"],
        "formats": ["f4", "f4", "f4", "f4", "u1", "f4"],
        "offsets": [0, 4, 8, 12, 16, 20],
        "itemsize": 24,
    }
)
"""A labeled point: meters in the sensor's frame, the driver's intensity, a class id, and its color as PCL and RViz read
it, the bits of the number 0x00RRGGBB in a float32."""
NAVIGATION_POINT = np.dtype(
    {
        "names": ["x", "y", "z", "label", "confidence"],
        "formats": ["f4", "f4", "f4", "u1", "u1"],
        "offsets": [0, 4, 8, 12, 13],
        "itemsize": 16,
    }
)
"""A point for costmaps: meters in the sensor's frame, a class id, and its probability times 255."""
XYZ = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4")])
"""A point of the aligned cloud, meters in the label camera's optical frame."""

NEITHER, GROUND, OBSTACLE = 0, 1, 2
"""Roles of a class in a costmap."""

_HIDDEN_SHARE, _HIDDEN_M = 0.1, 0.3
"""A point is hidden if it is farther than a neighboring pixel's surface by this share and these meters, and if it is
farther than that surface goes on."""
_REACH = 2.0
"""Pixels along either axis between two points in neighboring pixels, at most."""
_NEIGHBORS = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class MaskGrid:
    """A mask resized to (h, w), with a point for each pixel.

    Attributes:
        labels, confidence: (h, w) uint8.
        depth: (h, w) float32 meters of the depth sensor along the label camera's axis, NaN where unknown; None without.
        points: (h, w, 3) float32 meters in the label camera's optical frame at the time of the mask, of the depth
            sensor, and of the LiDAR where that is unknown; NaN where both are, or where the LiDAR's is hidden.
        farthest: (h, w) float32 meters along the camera's axis, see `farthest_visible`.
    """

    labels: Pixels
    confidence: Pixels
    depth: Meters | None
    points: Floats
    farthest: Floats


@dataclass(frozen=True, eq=False)
class NavigationPoints:
    """Points for costmaps.

    Attributes:
        frame_id: the frame of the points.
        points: (M,) of `NAVIGATION_POINT`, at the time of the mask.
        roles: (M,) uint8, GROUND or OBSTACLE.
    """

    frame_id: str
    points: npt.NDArray[np.void]
    roles: Pixels

    def of_role(self, role: int) -> npt.NDArray[np.void]:
        """Points of one role."""
        return _select(self.points, self.roles == role)


class MaskPoints:
    """Points of one mask. Each part is computed when it is first asked for, and once. Not thread-safe.

    Args:
        segmentation: the mask.
        frame_set: the frames that it was made from; points have the same placement as in the mask.
        rig: with the label camera's model and the extrinsics of the sensors.
    """

    def __init__(self, segmentation: Segmentation, frame_set: FrameSet, rig: Rig) -> None:
        self._segmentation, self._frame_set, self._rig = segmentation, frame_set, rig
        self._context = FrameContext(frame_set.time, frame_set.frames, segmentation.placements)
        self._grids: dict[tuple[int, int], MaskGrid] = {}

    @cached_property
    def lidar(self) -> PlacedSweep | None:
        """The sweep at the time of the mask; None without a LiDAR.

        Raises:
            CalibrationError: the label camera is unknown.
        """
        frame = self._frame_set.frames.get(LIDAR)
        if frame is None or not isinstance(frame.payload, PointCloud):
            return None
        sweep: PlacedSweep | None = self._segmentation.sweep
        return self._context.sweep(frame, self._rig) if sweep is None else sweep

    def grid(self, width: int) -> MaskGrid:
        """The mask at a width of its own, at most that of the camera, and the camera's aspect ratio.

        Raises:
            CalibrationError: the label camera is unknown.
        """
        camera = self._rig.camera
        width = min(width, camera.width)
        return self._grid_of((max(round(width * camera.height / camera.width), 1), width))

    def labeled(self, label_space: LabelSpace) -> tuple[npt.NDArray[np.void], npt.NDArray[np.floating[Any]]]:
        """LiDAR points in the label camera's view, each with the class of its pixel.

        Of several points on one pixel only the nearest is kept, so that a wall behind a pole does not get the pole's
        class.

        Args:
            label_space: the colors.

        Returns:
            (M,) of `POINT` in the order of the sweep and in the LiDAR's frame, and (M, 3) meters of the same points in
            the label camera's frame at the time of the mask. Both are empty without a LiDAR.
        """
        if self.lidar is None:
            return np.zeros(0, POINT), np.zeros((0, 3), np.float32)
        cloud = self._frame_set.frames[LIDAR].payload
        assert isinstance(cloud, PointCloud)
        seen = self.lidar.visible.nearest(self._segmentation.labels.shape)
        index, labels = seen.index, self._segmentation.labels[seen.rows, seen.cols]
        points = np.zeros(len(index), POINT)
        for axis, column in zip("xyz", self.lidar.xyz[index].T, strict=True):
            points[axis] = column
        points["intensity"] = cloud_intensity(cloud)[index]
        points["label"] = labels
        points["rgb"] = _packed_colors(label_space)[labels]
        return points, self.lidar.placed[index]

    def navigation(self, label_space: LabelSpace, parameters: NavigationParameters) -> NavigationPoints:
        """Points of ground and obstacles, in the frame of the first of the parameters' sensors that the mask has.

        Points are compared on a grid of the network's size, on which those of the depth sensor lie. Left out are points
        that a nearer surface hides from the label camera, whose pixel shows that surface, and ground in pixels that
        touch pixels other than ground, where mask and points disagree most.

        Args:
            label_space: of the mask.
            parameters: classes, limits, and sensors, of which the mask was made from at least one.

        Raises:
            ConfigError: the label space lacks a class, or a class has both roles.
        """
        frames = [self._frame_set.frames[m] for m in parameters.sensors if m in self._frame_set.frames]
        size = self._segmentation.network_size or self._segmentation.labels.shape
        grid = self._grid_of((size[0], size[1]))
        roles = _grid_roles(grid, role_table(label_space, parameters), parameters.min_confidence)
        parts = []
        if DEPTH in parameters.sensors and grid.depth is not None:
            ranges = np.sqrt(np.einsum("ijk,ijk->ij", grid.points, grid.points))
            shown = (roles != NEITHER) & (grid.depth <= grid.farthest) & (ranges <= parameters.max_range)  # not NaN
            parts.append((*np.nonzero(shown), grid.points[shown]))
        if LIDAR in parameters.sensors and self.lidar is not None:
            seen = self.lidar.visible
            pixels = seen.pixels(grid.labels.shape)
            shown = (roles[pixels] != NEITHER) & (seen.depth <= grid.farthest[pixels])
            shown &= seen.range <= parameters.max_range
            parts.append((pixels[0][shown], pixels[1][shown], self.lidar.placed[seen.index[shown]]))
        rows, cols, xyz = (np.concatenate(column) for column in zip(*parts, strict=True))
        camera_from_sensor = self._rig.extrinsic(frames[0].frame_id, self._frame_set.time)
        points = np.zeros(len(xyz), NAVIGATION_POINT)
        for axis, column in zip("xyz", camera_from_sensor.inverse().apply(xyz).T, strict=True):
            points[axis] = column
        points["label"], points["confidence"] = grid.labels[rows, cols], grid.confidence[rows, cols]
        found = roles[rows, cols]
        if parameters.voxel_size:
            first = _first_per_voxel(points, found, parameters.voxel_size)
            points, found = _select(points, first), found[first]
        return NavigationPoints(frames[0].frame_id, points, found)

    def _grid_of(self, size: tuple[int, int]) -> MaskGrid:
        if size not in self._grids:
            self._grids[size] = self._make_grid(size)
        return self._grids[size]

    def _make_grid(self, size: tuple[int, int]) -> MaskGrid:
        mask, depth = self._segmentation, self._depth(size)
        labels, confidence = (resize_nearest(image, size) for image in (mask.labels, mask.confidence))
        points, nearest = np.full((*size, 3), np.nan, np.float32), np.full(size, np.inf, np.float32)
        if depth is not None:
            points = self._rig.camera.scaled(*size).unproject(depth)
            np.copyto(nearest, depth, where=np.isfinite(depth))
        if self.lidar is None:
            return MaskGrid(labels, confidence, depth, points, farthest_visible(nearest))
        seen = self.lidar.visible.nearest(size)
        pixels = seen.rows, seen.cols
        nearest[pixels] = np.minimum(nearest[pixels], seen.depth)
        farthest = farthest_visible(nearest)
        filled = np.isnan(points[(*pixels, 2)]) & (seen.depth <= farthest[pixels])
        points[seen.rows[filled], seen.cols[filled]] = self.lidar.placed[seen.index[filled]]
        return MaskGrid(labels, confidence, depth, points, farthest)

    def _depth(self, size: tuple[int, int]) -> Meters | None:
        frame, known = self._frame_set.frames.get(DEPTH), self._segmentation.depth
        if frame is None:  # the network refused it, although its depth may be known
            return None
        if known is not None and known.shape == size:
            return known
        return self._context.depth_image(frame, self._rig, size)


def farthest_visible(nearest: Floats) -> Floats:
    """Depth up to which points belong to the surfaces that the camera sees; farther ones are hidden behind these.

    A point is compared with the surface of its pixel and of the eight neighbors. The inverse depth of a plane is linear
    in the pixel's coordinates, so a surface goes on with its slope: ground seen at a small angle does not hide itself.

    Args:
        nearest: (h, w) float32 meters along the camera's axis to the nearest surface; infinite where unknown.

    Returns:
        (h, w) float32 meters; infinite where no surface is known.
    """
    inverse = np.float32(1) / nearest
    beyond = np.maximum(inverse - _REACH * (_slope(inverse, 0) + _slope(inverse, 1)), 0)
    with np.errstate(divide="ignore"):
        limit = np.maximum(nearest * np.float32(1 + _HIDDEN_SHARE) + np.float32(_HIDDEN_M), 1 / beyond)
    return np.asarray(cv2.erode(limit, _NEIGHBORS, borderType=cv2.BORDER_REPLICATE), np.float32)


def _slope(inverse: Floats, axis: int) -> Floats:
    """(h, w) change of a surface's inverse depth per pixel along an axis, without sign.

    It is the smaller one of two successive differences of the same sign, so that it is 0 at the edge of a surface. Each
    pixel takes the largest of those that it is part of.
    """
    known = np.where(inverse > 0, inverse, np.nan)
    rows = known if axis == 0 else known.T
    steps = np.diff(rows, axis=0)
    first, second = steps[:-1], steps[1:]
    slope = np.zeros_like(rows)
    slope[1:-1] = np.where(first * second > 0, np.minimum(np.abs(first), np.abs(second)), 0)
    slope = np.asarray(cv2.dilate(slope, np.ones((3, 1), np.uint8)), np.float32)
    return slope if axis == 0 else slope.T


def role_table(label_space: LabelSpace, parameters: NavigationParameters) -> Pixels:
    """(256,) uint8: NEITHER, GROUND or OBSTACLE of each class id; read-only.

    Raises:
        ConfigError: the label space lacks a class, or a class has both roles.
    """
    return _role_table(label_space, parameters.obstacle_classes, parameters.ground_classes)


@lru_cache(maxsize=8)
def _role_table(label_space: LabelSpace, obstacles: tuple[str, ...], ground: tuple[str, ...]) -> Pixels:
    table = np.zeros(256, np.uint8)
    defaults = default_classes(label_space)
    listed = {
        GROUND: _class_ids(label_space, "navigation.ground_classes", ground, defaults.ground),
        OBSTACLE: _class_ids(label_space, "navigation.obstacle_classes", obstacles, defaults.obstacles),
    }
    both = set(listed[GROUND]) & set(listed[OBSTACLE])
    if both:
        names = ", ".join(label_space.names[index] for index in sorted(both))
        raise ConfigError(
            f"navigation.ground_classes and navigation.obstacle_classes both have {names}; a class is in one of them.",
            "Set both lists.",
        )
    for role, ids in listed.items():
        table[ids] = role
    table.flags.writeable = False
    return table


def _class_ids(
    label_space: LabelSpace, parameter: str, given: tuple[str, ...], default: Sequence[str]
) -> npt.NDArray[np.intp]:
    names = default if given == (AUTO,) else given
    for name in names:
        if name not in label_space.names:
            folded = {known.casefold(): known for known in label_space.names}
            near = difflib.get_close_matches(name.casefold(), folded, 1)
            raise ConfigError(
                f"{parameter} is {format_value(names)}; accepted are [{AUTO}] and lists of the classes of label space "
                f"{label_space.name}: {', '.join(label_space.names)}.",
                f"Did you mean {folded[near[0]]}?" if near else "",
            )
    return np.array([label_space.names.index(name) for name in names], np.intp)


def _grid_roles(grid: MaskGrid, table: Pixels, min_confidence: float) -> Pixels:
    """(h, w) uint8 roles of the pixels: NEITHER if unsure, or if ground touches pixels other than ground."""
    roles = table[grid.labels]
    if min_confidence:
        roles[grid.confidence < round(255 * min_confidence)] = NEITHER
    inside = cv2.erode((roles == GROUND).astype(np.uint8), _NEIGHBORS)
    roles[(roles == GROUND) & (inside == 0)] = NEITHER
    return roles


def _select(points: npt.NDArray[np.void], chosen: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """Structured points by index or mask, padding included, which indexing with fields leaves uninitialized."""
    return points.view(f"V{points.itemsize}")[chosen].view(points.dtype)


def _first_per_voxel(points: npt.NDArray[np.void], roles: Pixels, side: float) -> npt.NDArray[np.intp]:
    """Ascending indices of the first point of each role in each cube of `side` meters."""
    cells = [np.floor(points[axis] / side).astype(np.int64) & 0xFFFFF for axis in "xyz"]
    keys = cells[0] << 42 | cells[1] << 22 | cells[2] << 2 | roles
    return np.sort(np.unique(keys, return_index=True)[1])


@lru_cache(maxsize=8)
def _packed_colors(label_space: LabelSpace) -> Floats:
    """(256,) float32: the color of each id, packed as in `POINT`."""
    red, green, blue = label_space.palette.astype(np.uint32).T
    return (red << 16 | green << 8 | blue).view(np.float32)
