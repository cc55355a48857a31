"""Data shared by the preprocessors of one frame set: the reference timestamp and the depth per pixel."""

from __future__ import annotations

import numpy as np

from mlesam_ros.errors import MlesamError
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.images import Meters
from mlesam_ros.preprocessing.reference import Reference
from mlesam_ros.preprocessing.registration import depth_from_cloud, depth_from_picture
from mlesam_ros.types import DEPTH, LIDAR, FrameSet, Modality, SensorFrame


class Context(Reference):
    """Reference timestamp and depth images of one frame set, computed at most once. Not thread-safe."""

    def __init__(self, frame_set: FrameSet) -> None:
        """Keep a frame set; depth is computed on demand."""
        super().__init__(frame_set.time)
        self._frames = frame_set.frames
        self._depths: dict[tuple[int, int], Meters | None] = {}
        self._pictures: dict[tuple[int, int], Meters] = {}

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
            self._depths[size] = self._merged(rig, size)
        return self._depths[size]

    def _merged(self, rig: Rig, size: tuple[int, int]) -> Meters | None:
        by_camera = self._read(DEPTH, rig, size)
        if by_camera is not None and np.isfinite(by_camera).all():
            return by_camera
        by_lidar = self._read(LIDAR, rig, size)
        if by_camera is None or by_lidar is None:
            return by_lidar if by_camera is None else by_camera
        meters = np.where(np.isfinite(by_camera), by_camera, by_lidar)
        meters.flags.writeable = False
        return meters

    def depth_picture(self, frame: SensorFrame, rig: Rig, size: tuple[int, int]) -> Meters:
        """`depth_from_picture`, cached per size and read-only for the set's own depth frame.

        Raises:
            MlesamError: as `depth_from_picture`.
        """
        if frame is not self._frames.get(DEPTH):
            return depth_from_picture(frame, rig, size, self)
        if size not in self._pictures:
            meters = depth_from_picture(frame, rig, size, self)
            meters.flags.writeable = False
            self._pictures[size] = meters
        return self._pictures[size]

    def _read(self, modality: Modality, rig: Rig, size: tuple[int, int]) -> Meters | None:
        frame = self._frames.get(modality)
        if frame is None:
            return None
        try:
            if modality == DEPTH:
                meters = self.depth_picture(frame, rig, size)
            else:
                meters = depth_from_cloud(frame, rig, size, reference=self)
        except MlesamError:
            return None
        meters.flags.writeable = False
        return meters if np.isfinite(meters).any() else None


def depth_of(frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None) -> Meters:
    """`depth_from_picture`, or the cached, read-only result of the context if there is one."""
    if context is None:
        return depth_from_picture(frame, rig, size)
    return context.depth_picture(frame, rig, size)
