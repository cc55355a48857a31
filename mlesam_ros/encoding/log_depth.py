"""Depth as the logarithm of metres: near things keep their relief, far ones do not run away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.encoder import Image, Statistics, check_aspect, place, wrong_payload
from mlesam_ros.encoding.picture import MILLIMETRE, DepthSamples, open_depth
from mlesam_ros.frame import DEPTH, CompressedPicture, Modality, Picture, SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import project
from mlesam_ros.geometry.rig import Rig


@dataclass(frozen=True)
class LogDepth:
    """ln(metres along the camera's axis) in all three channels.

    A picture in the label camera's frame is taken as registered; any other is re-projected from its own camera with a
    z-buffer.

    Attributes:
        unit: metres per count of 16-bit pictures.
        nearest, farthest: metres that values are clipped to.
    """

    modality: ClassVar[Modality] = DEPTH
    name: ClassVar[str] = "log_depth"
    statistics: ClassVar[Statistics] = ((2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    """Ours: 7.4 m, and a factor of e. A street's measured pixels have about mean 1.6 to 2.3 and deviation 0.9."""

    unit: float = MILLIMETRE
    nearest: float = 0.1
    farthest: float = 200.0

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int]) -> Image:
        """Encode a `Picture` or `CompressedPicture`; see `Encoder`. Holes are 0."""
        if not isinstance(frame.payload, Picture | CompressedPicture):
            raise wrong_payload(frame, "a Picture or CompressedPicture")
        samples = open_depth(frame.payload, self.unit)
        if frame.frame_id == rig.camera_frame:
            check_aspect(frame, samples.size, rig)
            metres = samples.metres(size)
            pixels = np.nonzero(metres > 0)
            metres = metres[pixels]
        else:
            pixels, metres = _reprojected(samples, frame, rig, size)
        logs = np.log(np.clip(metres, self.nearest, self.farthest))
        return place(np.broadcast_to(logs, (3, len(logs))), pixels, size, self.statistics)


def _reprojected(
    samples: DepthSamples, frame: SensorFrame, rig: Rig, size: tuple[int, int]
) -> tuple[tuple[npt.NDArray[np.intp], ...], npt.NDArray[np.float32]]:
    """Pixels of the label camera that a depth camera elsewhere sees, and the label camera's depth there."""
    model = rig.model(frame.frame_id)
    model.check(*samples.size, "depth picture")
    model = _thinned(model, size)
    points = model.unproject(samples.metres((model.height, model.width))).reshape(-1, 3)
    camera = rig.camera.scaled(*size)
    spread = max(camera.K[0, 0] / model.K[0, 0], camera.K[1, 1] / model.K[1, 1])
    dilation = max(math.ceil((spread - 1) / 2), 0)
    seen = project(points, rig.extrinsic(frame.frame_id, frame.stamp), camera, size, dilation=dilation)
    return (seen.rows, seen.cols), seen.depth


def _thinned(model: CameraModel, size: tuple[int, int]) -> CameraModel:
    """The depth camera with no more than 1.5 times the network's pixels to a side: more would only hide each other."""
    factor = max(min(model.height / (1.5 * size[0]), model.width / (1.5 * size[1])), 1)
    return model.scaled(round(model.height / factor), round(model.width / factor))
