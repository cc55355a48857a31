"""The camera and the depth sensor: from light and distance to the bytes that their drivers send."""

from __future__ import annotations

import cv2
import numpy as np

from mlesam_ros.frame import RawImage
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transform import Transform
from mlesam_ros.world.vector import Floats, as_float32
from mlesam_ros.world.weather import Weather

DEPTH_RANGE = 40.0
"""Meters beyond which the depth sensor sees a hole."""
_LEVELS = 4096
_GAMMA = (255.0 * (np.arange(_LEVELS) / (_LEVELS - 1)) ** (1 / 2.2) + 0.5).astype(np.uint8)


def pixel_rays(model: CameraModel, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Unit rays (h * w, 3) of an undistorted camera's pixels at another size, optical frame, and their z (h * w,)."""
    height, width = size
    u, v = np.meshgrid(
        (np.arange(width) + 0.5) * model.width / width, (np.arange(height) + 0.5) * model.height / height
    )
    intrinsics = model.K
    x = (u - 0.5 - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (v - 0.5 - intrinsics[1, 2]) / intrinsics[1, 1]
    rays = np.stack([x, y, np.ones_like(x)], 2).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return rays.astype(np.float32), rays[:, 2].astype(np.float32)


def turned(rays: Floats, pose: Transform) -> Floats:
    """(n, 3) directions turned into the pose's target frame; BLAS does not promise to round alike on every machine."""
    out = np.empty_like(rays)
    x, y, z = rays.T
    for axis, row in enumerate(pose.rotation.astype(np.float32)):
        out[:, axis] = x * row[0] + y * row[1] + z * row[2]
    return out


def expose(light: Floats, weather: Weather, rng: np.random.Generator) -> RawImage:
    """Expose (H, W, 3) linear radiance: lens blur, shot and read noise, saturation, gamma; `rgb8`."""
    height, width = light.shape[:2]
    signal = as_float32(cv2.GaussianBlur(light, (3, 3), 0.45 * max(width / 512, 0.5)))
    signal *= weather.exposure
    np.negative(signal, out=signal)
    np.expm1(signal, out=signal)
    np.negative(signal, out=signal)
    noise: Floats = rng.standard_normal(signal.shape, np.float32)
    noise *= np.sqrt(weather.camera_noise**2 + weather.shot_noise**2 * np.maximum(signal, 0))
    signal += noise
    signal *= _LEVELS - 1
    codes = np.clip(signal, 0, _LEVELS - 1, out=signal).astype(np.uint16)
    return RawImage(height, width, "rgb8", 3 * width, _GAMMA.take(codes).reshape(-1))


def simulate_depth(depth: Floats, gloss: Floats, weather: Weather, rng: np.random.Generator) -> RawImage:
    """A depth picture in millimeters, `16UC1`, 0 where there is no answer.

    Noise grows with the square of the distance, as in stereo. Holes: beyond `DEPTH_RANGE`, at depth edges, in mirrors
    and by chance.

    Args:
        depth: (H, W) true z in meters, inf where nothing is.
        gloss: (H, W) mirrored share.
        weather: how many pixels fail, and how far the sensor sees through fog and rain.
        rng: this frame's chance.
    """
    height, width = depth.shape
    z = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    noise = rng.standard_normal(z.shape, np.float32) * (0.004 + 0.0011 * z * z)
    chance = rng.random(z.shape, np.float32)
    near, far = cv2.erode(z, np.ones((3, 3), np.uint8)), cv2.dilate(z, np.ones((3, 3), np.uint8))
    edge = (far - near > 0.12 * z + 0.15) & (chance < 0.5)
    lost = weather.depth_holes + 2.5 * gloss
    if weather.murk:  # light that fog scatters carries no contrast to match
        lost = lost + (1 - np.exp(-weather.murk * z)) ** 2
    hole = (z <= 0.3) | (z > DEPTH_RANGE) | edge | (chance < lost)
    millimeters = np.where(hole, 0, np.clip(1000 * (z + noise), 1, 65535)).astype("<u2")
    return RawImage(height, width, "16UC1", 2 * width, millimeters.view(np.uint8).reshape(-1))
