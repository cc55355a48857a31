"""Rain: what it does to surfaces, to the camera's lens and to the event camera's pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.world.materials import Material
from mlesam_ros.world.noise import cloudy
from mlesam_ros.world.scene import Hits
from mlesam_ros.world.texture import Surface
from mlesam_ros.world.vector import Floats, as_float32
from mlesam_ros.world.weather import Weather

_PAVED = (Material.GROUND, Material.SLAB, Material.CONCRETE, Material.ROOF)
_WIND = 0.18
"""Sideways pixels of a falling drop per pixel downwards."""


def wet_surfaces(look: Surface, hits: Hits, rain: float) -> None:
    """Darken what is wet, and let what lies flat and is paved mirror the sky, puddles most; in place.

    Wet porous surfaces reflect about half as much as dry ones (Lekner and Dorf, "Why some things are darker when wet",
    Applied Optics 1988).
    """
    flat = np.clip(hits.normal[:, 2], 0, 1) ** 4
    look.albedo[:] *= (1 - np.float32(rain) * (0.12 + 0.4 * flat))[:, None]
    where = np.flatnonzero(np.isin(hits.material, _PAVED) & (flat > 0.5))
    point = hits.point[where]
    puddle = np.clip(0.7 * cloudy(point[:, 0], point[:, 1], 2.2) - 0.2, 0, 1)
    look.gloss[where] = np.float32(rain) * (0.012 + 0.05 * puddle)
    look.sheen[where] = np.float32(rain) * (0.5 + 0.5 * puddle)


def add_rain_streaks(light: Floats, weather: Weather, rng: np.random.Generator, lens: np.random.Generator) -> Floats:
    """Falling drops as bright streaks, and a few that sit on the lens and blur what is behind them.

    Args:
        light: (H, W, 3) radiance.
        weather: how hard it rains, and the sky's light in the drops.
        rng: chance of this moment, for the streaks.
        lens: chance of a stretch of moments, for the drops on the lens.
    """
    height, width = light.shape[:2]
    cover = _lines((height, width), weather.rain, rng)[..., None]
    glow = as_float32(weather.horizon) * np.float32(0.75)
    out = light * (1 - cover) + glow * cover
    soft = cv2.blur(out, (max(3, width // 14),) * 2)
    drops = _drops((height, width), weather.rain, lens)[..., None]
    return as_float32(out * (1 - drops) + soft * np.float32(0.95) * drops)


def _lines(size: tuple[int, int], rain: float, rng: np.random.Generator) -> Floats:
    """(H, W) how much of each pixel streaks cover: many short thin ones far away, a few long ones near."""
    height, width = size
    cover = np.zeros(size, np.float32)
    for per_row, longest, strength in ((1.5, 0.035, 0.11), (0.5, 0.08, 0.17), (0.1, 0.16, 0.22)):
        count = int(per_row * rain * height)
        length = max(2, round(longest * height))
        y, x = rng.uniform(-length, height, count), rng.uniform(-0.1 * width, 1.1 * width, count)
        steps = np.arange(length)
        reach = rng.uniform(0.5, 1.0, count)[:, None] * length
        rows = (y[:, None] + steps).astype(np.intp)
        columns = (x[:, None] + _WIND * steps).astype(np.intp)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width) & (steps < reach)
        shade = np.broadcast_to(rng.uniform(0.4, 1.0, count)[:, None] * strength, inside.shape)
        np.maximum.at(cover, (rows[inside], columns[inside]), shade[inside].astype(np.float32))
    return as_float32(cv2.GaussianBlur(cover, (3, 3), 0.6 * max(width / 512, 0.5)))


def _drops(size: tuple[int, int], rain: float, rng: np.random.Generator) -> Floats:
    """(H, W) 0 … 1: drops on the lens."""
    height, width = size
    cover = np.zeros(size, np.float32)
    for _ in range(int(14 * rain)):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.008, 0.03) * width
        axes = (max(1, round(radius)), max(1, round(1.25 * radius)))
        cv2.ellipse(cover, (round(x), round(y)), axes, 0, 0, 360, rng.uniform(0.5, 0.9), cv2.FILLED, cv2.LINE_AA)
    return as_float32(cv2.GaussianBlur(cover, (5, 5), max(1.0, 1.6 * width / 512)))


@dataclass(frozen=True, slots=True)
class Splash:
    """n events that drops cause: flat `pixel`, `share` of the segment's time in [0, 1], `polarity`."""

    pixel: npt.NDArray[np.int64]
    share: npt.NDArray[np.float64]
    polarity: npt.NDArray[np.bool_]


def splashes(size: tuple[int, int], rain: float, duration: int, rng: np.random.Generator) -> Splash:
    """Drops fall through the event camera's picture: each pixel on their way brightens, then darkens again.

    Args:
        size: (H, W).
        rain: 0 … 1.
        duration: of the segment, nanoseconds.
        rng: this segment's chance.
    """
    height, width = size
    count = int(rng.poisson(rain * 3e-6 * height * width * duration * 1e-6))
    length = max(2, round(0.1 * height))
    steps = np.arange(length)
    x, y, start = rng.uniform(0, width, count), rng.uniform(-length, height, count), rng.uniform(0, 1, count)
    rows, columns = (y[:, None] + steps).astype(np.int64), (x[:, None] + _WIND * steps).astype(np.int64)
    share = start[:, None] + steps * (10e6 / length / duration)  # a drop takes 10 ms for its way
    inside = (rows >= 0) & (rows < height) & (columns < width) & (share < 1) & (rng.random(rows.shape) < 0.7)
    pixel, time = (rows * width + columns)[inside], share[inside]
    late = np.minimum(time + 1e6 / duration, 1)
    return Splash(
        np.concatenate([pixel, pixel]), np.concatenate([time, late]),
        np.concatenate([np.ones(len(pixel), bool), np.zeros(len(pixel), bool)]),
    )  # fmt: skip
