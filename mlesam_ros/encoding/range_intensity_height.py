"""LiDAR sweeps as MUSES draws them: range, intensity and height of the point that each pixel shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mlesam_ros.encoding.checks import wrong_payload
from mlesam_ros.encoding.cloud import cloud_xyz, echo_strength
from mlesam_ros.encoding.context import Context
from mlesam_ros.encoding.encoder import Image, Normalization, scatter_to_image
from mlesam_ros.encoding.placement import cloud_to_camera
from mlesam_ros.frame import LIDAR, Modality, PointCloud, SensorFrame
from mlesam_ros.geometry.projection import project
from mlesam_ros.geometry.rig import Rig


@dataclass(frozen=True)
class RangeIntensityHeight:
    """Meters from the camera's center, strength of the echo from 0 to 255, meters above the LiDAR.

    The nearest point of a pixel wins. Height is z in the LiDAR's own frame, which points up on a level sensor
    (REP 103): the ground lies at minus the mounting height.

    The channels are those of the SDK of MUSES (https://github.com/timbroed/MUSES, processing/utils.py) but for details:
    its range counts from the LiDAR and begins at 1 m, where several points meet the last one wins, and a 2x2 dilation
    takes the largest number of each channel by itself. Its pictures are float32, or uint16 as (value + 100) · 150.

    Attributes:
        dilation: pixels to every side that a point covers as well; 1 (3x3) closes much of the gap between the rings of
            32 beams, at the cost of one pixel at silhouettes.
        near: meters along the camera's axis; nearer points are the robot itself.
    """

    modality: ClassVar[Modality] = LIDAR
    name: ClassVar[str] = "range_intensity_height"
    statistics: ClassVar[Normalization] = ((20.0, 45.0, -0.7), (16.0, 32.0, 2.0))
    """Ours, of pixels with a point, from real and simulated streets. CAFuser's for MUSES count empty pixels too."""

    dilation: int = 1
    near: float = 0.5
    farthest: ClassVar[float] = 120.0
    highest: ClassVar[float] = 20.0

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None) -> Image:
        """Encode a `PointCloud`; see `Encoder`. Pixels without a point are 0."""
        cloud = frame.payload
        if not isinstance(cloud, PointCloud):
            raise wrong_payload(frame, "a PointCloud")
        xyz = cloud_xyz(cloud)
        camera_from_lidar = cloud_to_camera(frame, rig, context)
        seen = project(xyz, camera_from_lidar, rig.camera, size, self.near, self.dilation)
        values = self.channels(seen.range, echo_strength(cloud, context)[seen.index], xyz[seen.index, 2])
        return scatter_to_image(np.stack(values), (seen.rows, seen.cols), size, self.statistics)

    def channels(self, range: Any, intensity: Any, height: Any) -> tuple[Any, Any, Any]:
        """The three channels of points, before they are normalized; NumPy arrays and torch tensors alike.

        Args:
            range: (n,) float32 meters.
            intensity: (n,) float32 strength of the echo, 255 at full strength.
            height: (n,) float32 meters.
        """
        return range.clip(None, self.farthest), intensity.clip(0, 255), height.clip(-self.highest, self.highest)
