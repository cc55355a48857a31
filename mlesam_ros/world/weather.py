"""Light and air: what the sun, the sky and the lamps do to a picture, and what the dark does to the sensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlesam_ros.errors import ConfigError
from mlesam_ros.world.scene import Colour

DAYLIGHT = ("day", "night")
"""The states of light that there are so far."""


@dataclass(frozen=True)
class Weather:
    """Light in linear units in which a white wall in the noon sun sends out about 3.

    Attributes:
        daylight: one of `DAYLIGHT`.
        sun: unit vector towards the sun (or moon).
        sunlight: linear RGB irradiance of a surface that faces it.
        skylight: linear RGB irradiance from the open sky.
        zenith, horizon: linear RGB of the sky.
        clouds: share of the sky that clouds cover.
        haze: extinction of the air, 1/m.
        lamps: strength of street lamps; 0 by day.
        headlamps: strength of the ego car's headlamps; 0 by day.
        exposure: factor from radiance to the camera's full well.
        camera_noise: read noise, as a share of the full well.
        shot_noise: noise per root of the signal, both as shares of the full well.
        event_floor: radiance below which the event camera's pixels see nothing.
        event_noise: spurious events per pixel and second.
        depth_holes: share of the depth camera's pixels that fail for no visible reason.
    """

    daylight: str
    sun: tuple[float, float, float]
    sunlight: Colour
    skylight: Colour
    zenith: Colour
    horizon: Colour
    clouds: float
    haze: float
    lamps: float
    headlamps: float
    exposure: float
    camera_noise: float
    shot_noise: float
    event_floor: float
    event_noise: float
    depth_holes: float


def draw_weather(daylight: str, rng: np.random.Generator) -> Weather:
    """Random weather of one state of daylight.

    Raises:
        ConfigError: no such state.
    """
    if daylight not in DAYLIGHT:
        raise ConfigError(f"daylight {daylight!r} is not known; the street has {' and '.join(DAYLIGHT)}.")
    return _day(rng) if daylight == "day" else _night(rng)


def _towards(elevation: float, azimuth: float) -> tuple[float, float, float]:
    flat = np.cos(elevation)
    return float(flat * np.cos(azimuth)), float(flat * np.sin(azimuth)), float(np.sin(elevation))


def _tint(colour: Colour, scale: float) -> Colour:
    return (colour[0] * scale, colour[1] * scale, colour[2] * scale)


def _day(rng: np.random.Generator) -> Weather:
    clouds, height = float(rng.uniform(0, 1)), float(rng.uniform(0.3, 1.15))
    overcast = np.clip(clouds * 1.6 - 0.6, 0, 1)
    warm = 0.35 * np.exp(-3 * (height - 0.3))
    blue, grey = np.array([0.16, 0.32, 0.72]), np.array([0.62, 0.66, 0.72])
    sun = float(2.6 * (1 - 0.93 * overcast))
    sky = blue * (1 - overcast) + grey * overcast
    return Weather(
        daylight="day", sun=_towards(height, float(rng.uniform(0, 2 * np.pi))),
        sunlight=_tint((1.0, float(0.95 - 0.2 * warm), float(0.86 - 0.5 * warm)), sun),
        skylight=_tint((0.74, 0.86, 1.0), float(0.55 + 0.45 * overcast)),
        zenith=(float(sky[0]), float(sky[1]), float(sky[2])),
        horizon=_tint((0.82, 0.88, 0.95), float(rng.uniform(0.85, 1.1))),
        clouds=clouds, haze=float(rng.uniform(0.0008, 0.004)), lamps=0.0, headlamps=0.0,
        exposure=float(rng.uniform(0.8, 1.35)), camera_noise=0.004, shot_noise=0.012,
        event_floor=0.01, event_noise=0.4, depth_holes=0.01,
    )  # fmt: skip


def _night(rng: np.random.Generator) -> Weather:
    glow = float(rng.uniform(0.4, 1.2))
    return Weather(
        daylight="night", sun=_towards(float(rng.uniform(0.5, 1.2)), float(rng.uniform(0, 2 * np.pi))),
        sunlight=_tint((0.7, 0.85, 1.0), 0.0012), skylight=_tint((0.8, 0.85, 1.0), 0.0018 * glow),
        zenith=_tint((0.3, 0.42, 0.8), 0.0006 * glow), horizon=_tint((1.0, 0.72, 0.45), 0.0022 * glow),
        clouds=float(rng.uniform(0, 1)), haze=float(rng.uniform(0.0008, 0.004)), lamps=float(rng.uniform(0.1, 1.0)),
        headlamps=1.0, exposure=float(rng.uniform(9, 15)), camera_noise=0.013, shot_noise=0.05,
        event_floor=0.0003, event_noise=2.5, depth_holes=0.03,
    )  # fmt: skip
