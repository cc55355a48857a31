"""Camera pictures as SAM reads them."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.checks import wrong_payload
from mlesam_ros.encoding.context import Context
from mlesam_ros.encoding.encoder import Image, Normalization
from mlesam_ros.encoding.picture import to_rgb
from mlesam_ros.frame import CAMERA, CompressedImage, Modality, RawImage, SensorFrame
from mlesam_ros.geometry.rig import Rig


class RGB:
    """Red, green, blue from 0 to 1, normalized with ImageNet's statistics as in SAM 2's own transforms."""

    modality: ClassVar[Modality] = CAMERA
    name: ClassVar[str] = "rgb"
    statistics: ClassVar[Normalization] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None) -> Image:
        """Encode a `RawImage` or `CompressedImage` of the label camera; see `Encoder`.

        Shrinking averages over areas, so that thin things fade instead of flickering.
        """
        rgb = decode_full(frame, rig)
        if rgb.shape[:2] != size:
            how = cv2.INTER_AREA if is_downscale(rgb.shape, size) else cv2.INTER_LINEAR
            rgb = np.asarray(cv2.resize(rgb, size[::-1], interpolation=how), np.uint8)
        mean, std = (np.array(s, np.float32)[:, None, None] for s in self.statistics)
        image = np.empty((3, *size), np.float32)
        np.multiply(rgb.transpose(2, 0, 1), 1 / (255 * std), out=image)
        image -= mean / std
        return image


def decode_full(frame: SensorFrame, rig: Rig) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8, the label camera's picture as it came.

    Raises:
        ImageError: it cannot be read.
        CalibrationError: its size contradicts its calibration.
    """
    if not isinstance(frame.payload, RawImage | CompressedImage):
        raise wrong_payload(frame, "a RawImage or CompressedImage")
    rgb = to_rgb(frame.payload)
    rig.camera.check(rgb.shape[0], rgb.shape[1], "camera picture")
    return rgb


def is_downscale(have: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a picture of (H, W, …) becomes smaller to both sides, or stays."""
    return size[0] <= have[0] and size[1] <= have[1]
