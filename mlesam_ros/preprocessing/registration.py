# SPDX-License-Identifier: Apache-2.0
"""Registration of sensor data to the label camera: points, depth images and sweeps, at the reference time of a set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError, CloudError, ImageError, MlesamError, Problem
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import Projection, VisiblePoints, project_points
from mlesam_ros.geometry.rig import ComposedTransform, PiecewiseMotion, PointTransform, Rig, Stamps, sensor_motion
from mlesam_ros.preprocessing.images import DepthSamples, Meters, parse_depth
from mlesam_ros.preprocessing.point_cloud import cloud_times, cloud_xyz, piece_times
from mlesam_ros.types import DEPTH, LIDAR, CompressedImage, Modality, PointCloud, RawImage, SensorFrame

Rasterizer = Callable[[npt.NDArray[np.floating], CameraModel, tuple[int, int], int], Meters]
"""(N, 3) points in the optical frame, camera, size, dilation → (h, w) meters along its axis, NaN where unknown."""
_MAX_UNCOMPENSATED_NS = 1_000_000
"""Largest lag without motion compensation: 3 cm at 30 m/s."""


_MAX_LIDARS = 4  # sweeps in memory; with more LiDARs than that a sweep may be compensated for each camera


class SweepMotions:
    """Motion compensation of the newest sweep of the last few LiDARs, shared by the cameras that see their points.

    The points move to the first camera, each from its own time. From there they follow the others by one transform, so
    that a sweep is compensated once. Not thread-safe.
    """

    def __init__(self) -> None:
        self._newest: dict[str, tuple[object, Rig, int, PointTransform]] = {}

    def placement(self, frame: SensorFrame, rig: Rig, time: int) -> PointTransform | None:
        """Transform from a sweep to a label camera at a time; None if the sweep has to be compensated for it.

        Args:
            frame: frame of the sweep.
            rig: with the label camera.
            time: nanoseconds of the camera's set.
        """
        sweep, first, at, motion = self._newest.get(frame.frame_id, (None, rig, 0, None))
        if sweep is not frame.payload or motion is None or first.tree is not rig.tree:
            return None
        if (first.camera_frame, at) == (rig.camera_frame, time):
            return motion
        try:
            return ComposedTransform(motion, sensor_motion(rig, first.camera_frame, np.array([at]), time))
        except CalibrationError:  # which the whole way reports
            return None

    def add(self, frame: SensorFrame, rig: Rig, time: int, motion: PointTransform) -> None:
        """Store the motion of a sweep, in place of that of the LiDAR's last one; see `placement`."""
        self._newest.pop(frame.frame_id, None)
        if len(self._newest) == _MAX_LIDARS:
            del self._newest[next(iter(self._newest))]
        self._newest[frame.frame_id] = frame.payload, rig, time, motion


@dataclass(frozen=True, eq=False)
class PlacedSweep:
    """A sweep in the view of the label camera.

    Attributes:
        xyz: (N, 3) float32 meters in the LiDAR's frame, each at its own time.
        placed: (N, 3) meters in the label camera's frame at the reference time.
        visible: the points inside the camera's image.
    """

    xyz: npt.NDArray[np.float32]
    placed: npt.NDArray[np.floating[Any]]
    visible: VisiblePoints


class FrameContext:
    """Data shared by the preprocessors of one frame set, each computed at most once. Not thread-safe.

    Attributes:
        time: reference timestamp in nanoseconds, to which every image of the set is motion-compensated.
        sweeps: motion of the sweeps that several sets share.
        depth_images: size → depth image of the set's depth sensor, as far as `depth_image` was called.
    """

    def __init__(
        self,
        time: int,
        frames: Mapping[Modality, SensorFrame] = MappingProxyType({}),
        placements: Mapping[Modality, PointTransform] = MappingProxyType({}),
        sweeps: SweepMotions | None = None,
    ) -> None:
        """Start without notes.

        Args:
            time: reference timestamp in nanoseconds.
            frames: frames of the set, for the depth per pixel; none for a frame that is its own reference.
            placements: known placements of these frames.
            sweeps: shared with the sets of other cameras; None for a set alone.
        """
        self.time = time
        self.sweeps = sweeps or SweepMotions()
        self._frames = frames
        self._notes: dict[Modality, str] = {}
        self._placements = {m: (frames[m], placement) for m, placement in placements.items() if m in frames}
        self._sweep: tuple[SensorFrame, PlacedSweep] | None = None
        self._depths: dict[tuple[int, int], Meters | None] = {}
        self.depth_images: dict[tuple[int, int], Meters] = {}

    @property
    def notes(self) -> Mapping[Modality, str]:
        """Modality → inputs that its preprocessor lacked, in one sentence; the image is made without them."""
        return MappingProxyType(self._notes)

    @property
    def placements(self) -> dict[Modality, PointTransform]:
        """Modality → transform from its frame's points to the label camera."""
        return {modality: placement for modality, (_, placement) in self._placements.items()}

    def note(self, modality: Modality, reason: str) -> None:
        """Add a reason to the notes of a modality; several reasons are joined into one text."""
        known = self._notes.get(modality, "")
        if reason not in known:
            self._notes[modality] = f"{known} {reason}".strip()

    def placement(self, frame: SensorFrame, place: Callable[[], PointTransform]) -> PointTransform:
        """Return the placement of one of the set's frames, computed once per frame.

        Args:
            frame: the frame that holds the points.
            place: computes the placement.
        """
        known = self._placements.get(frame.modality)
        if known is None or known[0] is not frame:
            known = self._placements[frame.modality] = frame, place()
        return known[1]

    @property
    def placed_sweep(self) -> PlacedSweep | None:
        """The sweep of the set's LiDAR; None unless `sweep` was called."""
        return self._sweep and self._sweep[1]

    def sweep(self, frame: SensorFrame, rig: Rig) -> PlacedSweep:
        """Project a sweep into the label camera with motion compensation per point, once per frame.

        Args:
            frame: a frame with a `PointCloud`.
            rig: contains the label camera and the extrinsics of the LiDAR.

        Raises:
            ImageError: the frame has other content.
            CalibrationError: the label camera is unknown, or the rig has no transform to the LiDAR.
        """
        if self._sweep is None or self._sweep[0] is not frame:
            if not isinstance(frame.payload, PointCloud):
                raise wrong_payload(frame, "a PointCloud")
            xyz = cloud_xyz(frame.payload)
            placed = cloud_to_camera(frame, rig, self).apply(xyz)
            self._sweep = frame, PlacedSweep(xyz, placed, VisiblePoints.of(placed, rig.camera))
        return self._sweep[1]

    def depth(self, rig: Rig, size: tuple[int, int]) -> Meters | None:
        """Depth per pixel: from the depth camera, and from the LiDAR in pixels without a depth camera measurement.

        Computed at most once per size. A frame that cannot be read counts as absent; its own preprocessor raises the
        error.

        Args:
            rig: extrinsics of both sensors.
            size: (h, w).

        Returns:
            (h, w) float32 meters along the label camera's axis, NaN where unknown; read-only. None if every pixel is
            unknown.
        """
        if size not in self._depths:
            self._depths[size] = self._merged_depth(rig, size)
        return self._depths[size]

    def depth_image(self, frame: SensorFrame, rig: Rig, size: tuple[int, int]) -> Meters:
        """`depth_from_image`, cached per size and read-only for the set's own depth frame.

        Raises:
            MlesamError: as `depth_from_image`.
        """
        if frame is not self._frames.get(DEPTH):
            return depth_from_image(frame, rig, size, self)
        if size not in self.depth_images:
            meters = depth_from_image(frame, rig, size, self)
            meters.flags.writeable = False
            self.depth_images[size] = meters
        return self.depth_images[size]

    def _merged_depth(self, rig: Rig, size: tuple[int, int]) -> Meters | None:
        by_camera = self._depth_by(DEPTH, rig, size)
        if by_camera is not None and np.isfinite(by_camera).all():
            return by_camera
        by_lidar = self._depth_by(LIDAR, rig, size)
        if by_camera is None or by_lidar is None:
            return by_lidar if by_camera is None else by_camera
        meters = np.where(np.isfinite(by_camera), by_camera, by_lidar)
        meters.flags.writeable = False
        return meters

    def _depth_by(self, modality: Modality, rig: Rig, size: tuple[int, int]) -> Meters | None:
        frame = self._frames.get(modality)
        if frame is None:
            return None
        try:
            if modality == DEPTH:
                meters = self.depth_image(frame, rig, size)
            else:
                meters = depth_from_cloud(frame, rig, size, context=self)
        except MlesamError:
            return None
        meters.flags.writeable = False
        return meters if np.isfinite(meters).any() else None


def wrong_payload(frame: SensorFrame, accepted: str) -> ImageError:
    """The error for a frame with a payload type that its preprocessor cannot read."""
    return ImageError(f"a {frame.modality} frame holds {type(frame.payload).__name__}; it must hold {accepted}.")


def other_camera(frame: SensorFrame, have: tuple[int, int], rig: Rig) -> CameraModel | None:
    """The camera model of an image that is not registered to the label camera.

    An image in the label camera's frame without its own CameraInfo counts as registered. With its own CameraInfo, it is
    the label camera's image at another size, or an image of another lens at the same position.

    Args:
        frame: the frame that holds the image.
        have: (H, W) of the image.
        rig: contains both cameras, unless the frame is the label camera's own.

    Returns:
        None if the image only needs resizing.

    Raises:
        CalibrationError: the image size contradicts its calibration, or the rig has no calibration of its camera.
    """
    if frame.frame_id == rig.camera_frame:
        own = None if frame.modality == rig.view else rig.own_model(frame)
        if own is None or own.shows_as(rig.camera):
            check_aspect(frame, have, rig)
            return None
    model = rig.model_of(frame)
    model.check(*have, what=f"{frame.modality} image")
    return model


def check_aspect(frame: SensorFrame, have: tuple[int, int], rig: Rig) -> None:
    """Reject an image in the label camera's frame with another aspect ratio.

    Raises:
        CalibrationError: the aspect ratios differ by more than 1 %.
    """
    camera = rig.camera
    if abs(have[1] * camera.height / (have[0] * camera.width) - 1) > 0.01:
        raise CalibrationError(
            f"{frame.modality} image of {have[1]}x{have[0]} is in the frame {frame.frame_id!r} of a camera "
            f"with {camera.width}x{camera.height}.",
            "Register it to that camera, or give it its own frame and calibration.",
        )


def sensor_to_camera(frame: SensorFrame, rig: Rig, context: FrameContext | None = None) -> PointTransform:
    """Transform from a frame's points, all measured at its time, to the label camera.

    Without the robot's motion, only the extrinsic transform is applied, and the context receives a note.

    Args:
        frame: the frame that holds the points.
        rig: extrinsics of the sensors and, by odometry, the robot's motion.
        context: context of the set, which caches the result; None to use the frame's own time.

    Raises:
        CalibrationError: the rig has no transform to the sensor.
    """
    given = context or FrameContext(frame.time)
    return given.placement(frame, lambda: _placement(frame, rig, given, None))


def cloud_to_camera(frame: SensorFrame, rig: Rig, context: FrameContext | None = None) -> PointTransform:
    """Transform from a sweep to the label camera, with motion compensation per point.

    Invalid times are ignored, and the context receives a note.

    Args:
        frame: a frame with a `PointCloud`.
        rig: as for `sensor_to_camera`.
        context: as for `sensor_to_camera`.

    Raises:
        CalibrationError: the rig has no transform to the LiDAR.
    """
    given = context or FrameContext(frame.time)
    return given.placement(frame, lambda: _sweep_placement(frame, rig, given))


def _sweep_placement(frame: SensorFrame, rig: Rig, context: FrameContext) -> PointTransform:
    if (shared := context.sweeps.placement(frame, rig, context.time)) is not None:
        return shared
    placement = _placement(frame, rig, context, _point_times(frame, context))
    if isinstance(placement, PiecewiseMotion) and not context.notes.get(frame.modality):
        context.sweeps.add(frame, rig, context.time, placement)
    return placement


def _point_times(frame: SensorFrame, context: FrameContext) -> Stamps | None:
    """(N,) nanoseconds of each point; None if all were measured at the frame's time."""
    assert isinstance(frame.payload, PointCloud)
    try:
        return cloud_times(frame.payload, frame.stamp, frame.offset)
    except CloudError as error:
        reason = f"times of points are ignored: {error.message}"
        context.note(frame.modality, Problem(reason, error.remedy))
        return piece_times(frame.payload, frame.stamp - frame.offset)


def _placement(frame: SensorFrame, rig: Rig, context: FrameContext, times: Stamps | None) -> PointTransform:
    if times is None or not len(times):
        times = np.array([frame.time])
    lag = max(int(times.max()) - context.time, context.time - int(times.min()))
    if lag > _MAX_UNCOMPENSATED_NS:
        try:
            return sensor_motion(rig, frame.frame_id, times, context.time)
        except CalibrationError as error:
            mounting = rig.extrinsic(frame.frame_id, frame.time)  # raises if the transform is unknown as well
            reason = f"motion over {lag / 1e6:.0f} ms is not compensated: {error.message}"
            context.note(frame.modality, Problem(reason, error.remedy))
            return mounting
    return rig.extrinsic(frame.frame_id, frame.time)


def depth_from_image(
    frame: SensorFrame,
    rig: Rig,
    size: tuple[int, int],
    context: FrameContext | None = None,
    rasterize: Rasterizer | None = None,
) -> Meters:
    """Register a depth image to the label camera.

    A depth image that is registered already is resized. Any other is re-projected from its own camera with a z-buffer.

    Args:
        frame: a frame with a depth `RawImage` or `CompressedImage`.
        rig: contains both cameras.
        size: (h, w) of the result.
        context: context of the set, for motion compensation; None to use the frame's own time.
        rasterize: projects points on another device; None for NumPy.

    Returns:
        (h, w) float32 meters along the label camera's axis, NaN where unknown; the rasterizer's own array type for a
        re-projected image.

    Raises:
        ImageError: the image cannot be read.
        CalibrationError: the image size contradicts its calibration, or the rig has no transform to its camera.
    """
    if not isinstance(frame.payload, RawImage | CompressedImage):
        raise wrong_payload(frame, "a RawImage or CompressedImage")
    samples = parse_depth(frame.payload)
    model = other_camera(frame, samples.size, rig)
    if model is None:
        return samples.meters(size)
    points, dilation = _source_points(samples, model, rig, size)
    points = sensor_to_camera(frame, rig, context).apply(points)
    return (rasterize or _rasterize)(points, rig.camera, size, dilation)


def depth_from_cloud(
    frame: SensorFrame, rig: Rig, size: tuple[int, int], dilation: int = 1, context: FrameContext | None = None
) -> Meters:
    """Project a LiDAR sweep to a depth image of the label camera.

    Args:
        frame: a frame with a `PointCloud`.
        rig: contains the label camera and the extrinsics of the LiDAR.
        size: (h, w) of the result.
        dilation: additional pixels to every side that a point covers.
        context: context of the set, for motion compensation; None to use the frame's own time.

    Returns:
        (h, w) float32 meters along the label camera's axis; NaN where unknown.

    Raises:
        MlesamError: as `FrameContext.sweep`.
    """
    sweep = (context or FrameContext(frame.time)).sweep(frame, rig)
    return _depth_image(sweep.visible.nearest(size, dilation=dilation), size)


def _rasterize(
    points: npt.NDArray[np.floating[Any]], camera: CameraModel, size: tuple[int, int], dilation: int
) -> Meters:
    return _depth_image(project_points(points, camera, size, dilation=dilation), size)


def _depth_image(seen: Projection, size: tuple[int, int]) -> Meters:
    meters = np.full(size, np.nan, np.float32)
    meters[seen.rows, seen.cols] = seen.depth
    return meters


def _source_points(
    samples: DepthSamples, model: CameraModel, rig: Rig, size: tuple[int, int]
) -> tuple[npt.NDArray[np.floating[Any]], int]:
    """Points of an unregistered depth image, (N, 3) meters in its own frame, and the dilation that closes the gaps."""
    model = _reduced(model, size)
    points = model.unproject(samples.meters((model.height, model.width))).reshape(-1, 3)
    camera = rig.camera.scaled(*size)
    magnification = max(camera.K[0, 0] / model.K[0, 0], camera.K[1, 1] / model.K[1, 1])
    return points, max(math.ceil((magnification - 1) / 2), 0)


def _reduced(model: CameraModel, size: tuple[int, int]) -> CameraModel:
    """The depth camera, scaled down until a side has 1.5 times the network's pixels; more only occlude each other."""
    factor = max(min(model.height / (1.5 * size[0]), model.width / (1.5 * size[1])), 1)
    return model.scaled(round(model.height / factor), round(model.width / factor))
