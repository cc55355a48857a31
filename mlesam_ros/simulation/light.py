"""Sky, sunlight, street lamps, headlamps, reflections, and motion blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.simulation.scene import Color, Floats, Hits, Snapshot, as_float32
from mlesam_ros.simulation.street_layout import LAMP_PITCH, StreetLayout
from mlesam_ros.simulation.textures import Surface, cloudy
from mlesam_ros.simulation.weather import Weather

_SODIUM = as_float32([1.0, 0.74, 0.42])[:, None]
_XENON = as_float32([1.0, 0.95, 0.85])[:, None]
_BEAM = np.array([1.9, 0.0, 0.68])
"""Position of the ego vehicle's headlamps in base_link, meters."""
_LAYER = 60.0
"""Thickness in meters of the layer of fog or rain between the street and the sky."""


def sky(directions: Floats, weather: Weather) -> Floats:
    """Radiance (n, 3) of the open sky along (n, 3) unit directions."""
    up = np.clip(directions[:, 2], 0.0, 1.0)
    color = _gradient(up, weather)
    reach = 1 / (up + 0.12)
    billow = cloudy(directions[:, 0] * reach, directions[:, 1] * reach, 26.0)
    cover = np.clip((billow - 1.6 + 3.2 * weather.clouds) * 0.7, 0, 1) * np.clip(up * 6, 0, 1)
    white = _channels(weather.horizon) * (0.75 + 0.15 * np.clip(billow, -2, 2))
    color = color * (1 - 0.85 * cover) + white * (0.85 * cover)
    near = np.clip(directions @ as_float32(weather.sun), 0, 1)
    glow = (0.35 * near**24 + 3.0 * (near > 0.9994)) * (1 - 0.8 * cover)
    color = color + glow * _channels(weather.sunlight)
    if weather.murk:
        clear = np.exp(-weather.murk * _LAYER / (up + 0.05))
        color = color * clear + _channels(weather.horizon) * (1 - clear)
    return color.T.astype(np.float32)


def _channels(color: Color) -> Floats:
    return as_float32(color)[:, None]


def _gradient(up: Floats, weather: Weather) -> Floats:
    """Radiance (3, n) of the clear sky at (n,) sines of the elevation."""
    blend = np.sqrt(up)
    return _channels(weather.horizon) * (1 - blend) + _channels(weather.zenith) * blend


def radiance(
    hits: Hits,
    look: Surface,
    directions: Floats,
    snapshot: Snapshot,
    weather: Weather,
    plan: StreetLayout,
    ego: Transform,
) -> Floats:
    """Radiance (n, 3) along n rays.

    Args:
        hits: nearest hits of the rays.
        look: surface of the hits.
        directions: (n, 3) unit directions of all rays.
        snapshot: the scene, for shadows and reflections.
        weather: the light and the air.
        plan: street layout, for the positions of the street lamps.
        ego: odom_from_base, for the position of the headlamps.
    """
    light = _ambient(hits, weather)
    light += _sun(hits, snapshot, weather)
    if weather.lamps or weather.headlamps:
        light += _street_lamps(hits, plan, weather) + _headlamps(hits, ego, weather)
    albedo = np.ascontiguousarray(look.albedo.T)
    color = albedo * light
    color += albedo * look.emission
    _mirror(color, hits, look, directions, snapshot, weather)
    fog = np.exp(hits.distance[hits.ray] * np.float32(-weather.haze))
    color *= fog
    color += _channels(weather.horizon) * (1 - fog)
    out = np.empty_like(directions)
    out[hits.ray] = color.T
    miss = np.flatnonzero(~np.isfinite(hits.distance))
    out[miss] = sky(directions[miss], weather)
    return out


def _ambient(hits: Hits, weather: Weather) -> Floats:
    """Irradiance (3, k) from the sky above and the ground below, less of both where walls meet the ground."""
    up = 0.5 + 0.5 * hits.normal[:, 2]
    open_air = 1 - 0.45 * (1 - up) * np.exp(-1.2 * np.maximum(hits.point[:, 2], 0))
    bounce = 0.12 * (as_float32(weather.sunlight) * max(weather.sun[2], 0) + as_float32(weather.skylight))
    light = up * _channels(weather.skylight) + (1 - up) * bounce[:, None]
    return light * open_air


def _sun(hits: Hits, snapshot: Snapshot, weather: Weather) -> Floats:
    towards = as_float32(weather.sun)
    facing = hits.normal @ towards
    if not weather.shadows:
        return np.maximum(facing, 0) * _channels(weather.sunlight)
    bright = np.flatnonzero(facing > 0)
    start = hits.point[bright] + 0.015 * hits.normal[bright]
    facing[facing < 0] = 0
    facing[bright[snapshot.occluded(start, towards)]] = 0
    return facing * _channels(weather.sunlight)


def _dot(a: Sequence[Any] | Floats, b: Sequence[Any] | Floats) -> Floats:
    """Scalar product of vectors given as x, y and z."""
    return as_float32(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _street_lamps(hits: Hits, plan: StreetLayout, weather: Weather) -> Floats:
    """Irradiance (3, k) of the two nearest lamps along the street, directed downwards, with inverse-square falloff."""
    total = np.zeros(len(hits.point), np.float32)
    nearest = np.floor((hits.point[:, 0] - 17.0) / LAMP_PITCH)
    for number in (nearest, nearest + 1):
        way = [(lamp - here).astype(np.float32) for lamp, here in zip(plan.lamp(number), hits.point.T, strict=True)]
        square = _dot(way, way)
        inverse = 1 / np.sqrt(square)
        facing = np.clip(_dot(way, hits.normal.T) * inverse, 0, 1)
        down = np.clip(way[2] * inverse, 0, 1)
        working = np.mod(number * 0.618, 1.0) < 0.75
        total += working * facing * down**2 * (13.0 * weather.lamps) / square
    return total * _SODIUM


def _headlamps(hits: Hits, ego: Transform, weather: Weather) -> Floats:
    """Irradiance (3, k) of the low beam: wide to the sides, cut off above the horizon."""
    lamp = ego.apply(_BEAM[None])[0].astype(np.float32)
    way = [here - there for here, there in zip(hits.point.T, lamp, strict=True)]
    square = _dot(way, way) + 0.3
    inverse = 1 / np.sqrt(square)
    x, y, z = (_dot(way, axis) * inverse for axis in ego.rotation.T.astype(np.float32))
    beam = np.exp(12 * np.minimum(z, 0) - (y / 0.42) ** 2) * (x > 0) / (1 + np.exp(np.clip(60 * (z - 0.01), -30, 30)))
    facing = np.clip(-_dot(way, hits.normal.T) * inverse, 0, 1)
    return ((28.0 * weather.headlamps) * beam * facing / square) * _XENON


def _mirror(color: Floats, hits: Hits, look: Surface, directions: Floats, snapshot: Snapshot, weather: Weather) -> None:
    """Add the reflection of the sky on glossy surfaces (Schlick's approximation), in rain darkened where occluded."""
    shiny = np.flatnonzero(look.gloss > 0)
    ray, normal, gloss = directions[hits.ray[shiny]], hits.normal[shiny], look.gloss[shiny]
    cosine = -np.einsum("ij,ij->i", ray, normal)
    bounced = ray + 2 * cosine[:, None] * normal
    share = gloss + (1 - gloss) * np.clip(1 - cosine, 0, 1) ** 5
    above = _gradient(np.clip(bounced[:, 2], 0.0, 1.0), weather)
    below = np.clip(0.25 + 2.5 * bounced[:, 2], 0.25, 1.0)
    if weather.rain:
        share *= look.sheen[shiny]
        hidden = snapshot.occluded(hits.point[shiny] + 0.02 * normal, bounced)
        below = np.where(hidden, np.float32(0.16), np.float32(1.0))
    color[:, shiny] = color[:, shiny] * (1 - share) + share * above * below


_TAPS = 5
"""Samples of each of two passes; the second pass subdivides the steps of the first: 25 in total."""
_LONGEST = 0.2
"""Maximum length of a motion vector as a share of the image width."""
_FAR = 1e4
_NEAREST = 0.3


def flow(
    hits: Hits, directions: Floats, model: CameraModel, odom_from_camera: tuple[Transform, Transform], shutter: float
) -> Floats:
    """Motion of each pixel's content during the exposure.

    Args:
        hits: nearest hits of the pixels' rays at mid-exposure.
        directions: (h * w, 3) directions of all rays.
        model: the camera; undistorted.
        odom_from_camera: camera poses at shutter opening and closing.
        shutter: exposure time in seconds.

    Returns:
        (h, w, 2) motion vectors in pixels, x and y.
    """
    middle = (odom_from_camera[0].translation + odom_from_camera[1].translation) / 2
    points = as_float32(middle + _FAR * directions)
    points[hits.ray] = hits.point
    step = np.zeros((len(points), 2), np.float32)
    step[hits.ray] = hits.rows[:, 3:5] * (hits.rows[:, 13:14] * np.float32(shutter / 2))
    ends = []
    for camera, sign in zip(odom_from_camera, (-1, 1), strict=True):
        moved = points.astype(np.float64)
        moved[:, :2] += sign * step
        ends.append(_pixels(camera.inverse().apply(moved), model))
    way = as_float32(ends[1] - ends[0])
    longest = np.float32(_LONGEST * model.width)
    way *= np.minimum(1, longest / np.maximum(np.hypot(way[:, 0], way[:, 1]), 1e-6))[:, None]
    return way.reshape(model.height, model.width, 2)


def _pixels(points: np.ndarray, model: CameraModel) -> np.ndarray:
    """(n, 2) pixels from the principal point of (n, 3) points in the camera frame; z is clamped to `_NEAREST`."""
    return points[:, :2] / np.maximum(points[:, 2:], _NEAREST) * [model.K[0, 0], model.K[1, 1]]


def motion_blur(light: Floats, way: Floats) -> Floats:
    """(H, W, 3) radiance averaged along the (H, W, 2) motion vectors of `flow`."""
    way = as_float32(cv2.blur(way, (5, 5)))
    for scale in (1.0, 1.0 / _TAPS):
        light = _along(light, way * np.float32(scale))
    return light


def _along(light: Floats, way: Floats) -> Floats:
    height, width = light.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    total = np.zeros_like(light)
    for share in (np.arange(_TAPS, dtype=np.float32) + np.float32(0.5)) / np.float32(_TAPS) - np.float32(0.5):
        there = (x + way[..., 0] * share, y + way[..., 1] * share)
        total += cv2.remap(light, *there, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return total / np.float32(_TAPS)
