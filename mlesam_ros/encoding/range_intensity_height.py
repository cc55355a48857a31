"""LiDAR sweeps as MUSES draws them: range, intensity and height of the point that each pixel shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlesam_ros.encoding.checks import wrong_payload
from mlesam_ros.encoding.cloud import cloud_intensity, cloud_xyz
from mlesam_ros.encoding.context import Context
from mlesam_ros.encoding.encoder import Image, Statistics, place
from mlesam_ros.encoding.placement import place_cloud
from mlesam_ros.frame import LIDAR, Cloud, Modality, SensorFrame
from mlesam_ros.geometry.projection import project
from mlesam_ros.geometry.rig import Rig


@dataclass(frozen=True)
class RangeIntensityHeight:
    """Metres from the camera's centre, strength of the echo from 0 to 255, metres above the LiDAR.

    The nearest point of a pixel wins. Height is z in the LiDAR's own frame, which points up on a level sensor
    (REP 103): the ground lies at minus the mounting height.

    Attributes:
        dilation: pixels to every side that a point covers as well; 1 (3x3) closes much of the gap between the rings of
            32 beams, at the cost of one pixel at silhouettes.
        near: metres along the camera's axis; nearer points are the robot itself.
        full_intensity: the driver's number for full strength, 255 for most, 1 or 65535 for some.
    """

    modality: ClassVar[Modality] = LIDAR
    name: ClassVar[str] = "range_intensity_height"
    statistics: ClassVar[Statistics] = ((20.0, 45.0, -0.7), (16.0, 32.0, 2.0))
    """Ours, of pixels with a point, from real and simulated streets. CAFuser's for MUSES count empty pixels too."""

    dilation: int = 1
    near: float = 0.5
    full_intensity: float = 255.0
    farthest: ClassVar[float] = 120.0
    highest: ClassVar[float] = 20.0

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None) -> Image:
        """Encode a `Cloud`; see `Encoder`. Pixels without a point are 0."""
        cloud = frame.payload
        if not isinstance(cloud, Cloud):
            raise wrong_payload(frame, "a Cloud")
        xyz = cloud_xyz(cloud)
        camera_from_lidar = place_cloud(frame, rig, context)
        seen = project(xyz, camera_from_lidar, rig.camera, size, self.near, self.dilation)
        intensity = cloud_intensity(cloud)[seen.index] * np.float32(255 / self.full_intensity)
        values = np.stack(
            [
                np.minimum(seen.range, self.farthest),
                np.clip(intensity, 0, 255),
                np.clip(xyz[seen.index, 2], -self.highest, self.highest),
            ]
        )
        return place(values, (seen.rows, seen.cols), size, self.statistics)
