# SPDX-License-Identifier: Apache-2.0
"""LiDAR preprocessors: range, intensity and height, and the projection of the DELIVER data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, Problem
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.base import Image, Normalization, scatter_to_image
from mlesam_ros.preprocessing.point_cloud import (
    FULL_STRENGTH,
    NO_INTENSITY,
    cloud_intensity,
    find_intensity_field,
    find_intensity_scale,
    no_intensity,
)
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import LIDAR, Modality, PointCloud, SensorFrame


@dataclass(frozen=True)
class RangeIntensityHeight:
    """Range in meters from the camera's center, intensity from 0 to 255, height in meters above the LiDAR.

    The nearest point of a pixel wins. Height is z in the LiDAR's own frame, which points up on a level sensor
    (REP 103): the ground lies at minus the mounting height.

    The channels follow the SDK of MUSES (https://github.com/timbroed/MUSES, processing/utils.py). There, range is
    measured from the LiDAR and starts at 1 m, the last point of a pixel wins, and a 2x2 dilation takes the maximum of
    each channel separately. Its images are float32, or uint16 as (value + 100) · 150.

    Attributes:
        dilation: additional pixels to every side that a point covers; 1 (3x3) closes much of the gap between the rings
            of 32 beams, at the cost of one pixel at silhouettes.
        near: meters along the camera's axis; nearer points belong to the robot.
    """

    modality: ClassVar[Modality] = LIDAR
    name: ClassVar[str] = "range_intensity_height"
    normalization: ClassVar[Normalization] = ((20.0, 45.0, -0.7), (16.0, 32.0, 2.0))
    """Of pixels with a point, from real and simulated streets. CAFuser's for MUSES include empty pixels."""

    dilation: int = 1
    near: float = 0.5
    farthest: ClassVar[float] = 120.0
    highest: ClassVar[float] = 20.0

    def __call__(
        self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: FrameContext | None = None
    ) -> Image:
        """Convert a `PointCloud`; see `Preprocessor`. Pixels without a point are 0."""
        context = context or FrameContext(frame.time)
        sweep, cloud = context.sweep(frame, rig), frame.payload
        assert isinstance(cloud, PointCloud)
        seen = sweep.visible.nearest(size, self.near, self.dilation)
        values = self.channels(seen.range, echo_strength(cloud, context)[seen.index], sweep.xyz[seen.index, 2])
        return scatter_to_image(np.stack(values), (seen.rows, seen.cols), size, self.normalization)

    def channels(self, range: Any, intensity: Any, height: Any) -> tuple[Any, Any, Any]:
        """The three channels of points before normalization, as NumPy arrays or torch tensors.

        Args:
            range: (n,) float32 meters.
            intensity: (n,) float32, 255 at full strength.
            height: (n,) float32 meters.
        """
        return range.clip(None, self.farthest), intensity.clip(0, 255), height.clip(-self.highest, self.highest)


def echo_strength(cloud: PointCloud, context: FrameContext | None = None) -> npt.NDArray[np.float32]:
    """Intensities normalized to 255 at full strength, in the order of `cloud_xyz`.

    Args:
        cloud: the sweep.
        context: receives a note if the point cloud has no intensity.

    Returns:
        (N,) float32; 255 at full strength, 0 without intensity.
    """
    points = cloud.points
    name = find_intensity_field(points, cloud.intensity_field)
    if name is None and context is not None:
        reason = no_intensity(points, cloud.intensity_field)
        context.note(LIDAR, Problem(f"intensity is taken as 0: {reason}.", NO_INTENSITY))
    strength = cloud_intensity(cloud)
    scale = cloud.intensity_scale or (find_intensity_scale(points[name]) if name else 0.0) or FULL_STRENGTH
    return strength if scale == FULL_STRENGTH else strength * np.float32(FULL_STRENGTH / scale)


SHOWN = ("attenuation", "range", "intensity")


@dataclass(frozen=True)
class DeliverLidar:
    """Gray points on black, the same value in all three channels, divided by 255.

    Unconfirmed: DELIVER publishes no code that generates its `*_lidar_front.png`. Known facts: 8 bits, in one channel
    or in three that are used unchanged (DELIVER's loader). Black without a point, and brighter for the points that
    take precedence, since CAFuser's loader dilates them by a maximum and rejects the colored variant. Rendered in
    CARLA; its LiDAR reports exp(-0.004 · range) as intensity (https://carla.readthedocs.io/en/latest/ref_sensors/).
    The default is therefore chosen here: CARLA's intensity, computed from the range, which any LiDAR measures. Compare
    an image of your copy with one of these before using experts trained on it, and set `shows` if they differ.

    Attributes:
        shows: `attenuation` (255 · exp(-rate · range), CARLA's intensity), `range` (255 at `farthest`) or `intensity`
            (the driver's own).
        rate: per meter; CARLA's default.
        farthest: meters; farther points are omitted. CARLA's examples set 100.
        dilation: additional pixels to every side that a point covers; 0 in the files, 1 is CAFuser's kernel of 3.
    """

    modality: ClassVar[Modality] = LIDAR
    name: ClassVar[str] = "deliver_lidar"
    normalization: ClassVar[Normalization] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """As CMNeXt for DELIVER: counts divided by 255, without further normalization."""

    shows: str = "attenuation"
    rate: float = 0.004
    farthest: float = 100.0
    dilation: int = 0

    def __post_init__(self) -> None:
        """Check `shows`.

        Raises:
            ConfigError: the name is not accepted.
        """
        if self.shows not in SHOWN:
            raise ConfigError(f"shows is {self.shows!r}; accepted are {', '.join(SHOWN)}.")

    def __call__(
        self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: FrameContext | None = None
    ) -> Image:
        """Convert a `PointCloud`; see `Preprocessor`. Pixels without a point are 0."""
        context = context or FrameContext(frame.time)
        seen, cloud = context.sweep(frame, rig).visible.nearest(size, dilation=self.dilation), frame.payload
        assert isinstance(cloud, PointCloud)
        strength = echo_strength(cloud, context)[seen.index] if self.shows == "intensity" else None
        gray = self.gray(seen.range, strength)
        return scatter_to_image(np.broadcast_to(gray, (3, len(gray))), (seen.rows, seen.cols), size, self.normalization)

    def gray(self, range: Any, intensity: Any = None) -> Any:
        """Integer counts of points, divided by 255; 0 beyond `farthest`.

        Args:
            range: (n,) float32 meters.
            intensity: (n,) float32, 255 at full strength; used only if `shows` is `intensity`.
        """
        if self.shows == "attenuation":
            count = 255 * np.exp(-self.rate * range)
        else:
            count = 255 * (range / self.farthest) if self.shows == "range" else intensity
        return np.rint(count.clip(0, 255)) * (range <= self.farthest) / np.float32(255)
