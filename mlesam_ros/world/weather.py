"""Light and air: what the sun, the sky, the lamps, fog and rain do, and what the dark does to the sensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlesam_ros.errors import ConfigError
from mlesam_ros.world.scene import Color

WEATHERS = ("cloud", "fog", "night", "rain", "sun")
"""DELIVER's five, in its order."""
_SYNONYMS = {"day": "sun"}


@dataclass(frozen=True)
class Weather:
    """Light in linear units in which a white wall in the noon sun sends out about 3.

    Attributes:
        name: one of `WEATHERS`.
        sun: unit vector towards the sun (or moon).
        sunlight: linear RGB irradiance of a surface that faces it.
        skylight: linear RGB irradiance from the open sky.
        zenith, horizon: linear RGB of the sky.
        clouds: share of the sky that clouds cover.
        haze: extinction of the air for visible light, 1/m.
        lamps: strength of street lamps; 0 by day.
        headlamps: strength of the ego car's headlamps; 0 by day.
        exposure: factor from radiance to the camera's full well.
        camera_noise: read noise, as a share of the full well.
        shot_noise: noise per root of the signal, both as shares of the full well.
        event_floor: radiance below which the event camera's pixels see nothing.
        event_noise: spurious events per pixel and second.
        depth_holes: share of the depth camera's pixels that fail for no visible reason.
        murk: extinction of the air for active sensors, 1/m; 0 where only the eye would notice any.
        rain: 0 … 1, how hard it rains.
        shadows: whether the sun throws any; where clouds spread its light it does not.
    """

    name: str
    sun: tuple[float, float, float]
    sunlight: Color
    skylight: Color
    zenith: Color
    horizon: Color
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
    murk: float = 0.0
    rain: float = 0.0
    shadows: bool = True


def weather_name(name: str) -> str:
    """The weather's own name; `day` is a synonym of `sun`.

    Raises:
        ConfigError: no such weather.
    """
    own = _SYNONYMS.get(name, name)
    if own not in WEATHERS:
        raise ConfigError(f"weather {name!r} is not known; the street has {', '.join(WEATHERS)}.")
    return own


def draw_weather(name: str, rng: np.random.Generator) -> Weather:
    """Random weather of one kind.

    Raises:
        ConfigError: no such weather.
    """
    return _DRAW[weather_name(name)](rng)


def _towards(elevation: float, azimuth: float) -> tuple[float, float, float]:
    flat = np.cos(elevation)
    return float(flat * np.cos(azimuth)), float(flat * np.sin(azimuth)), float(np.sin(elevation))


def _tint(color: Color, scale: float) -> Color:
    return (color[0] * scale, color[1] * scale, color[2] * scale)


def _sun(rng: np.random.Generator) -> Weather:
    clouds, height = float(rng.uniform(0, 1)), float(rng.uniform(0.3, 1.15))
    overcast = np.clip(clouds * 1.6 - 0.6, 0, 1)
    warm = 0.35 * np.exp(-3 * (height - 0.3))
    blue, gray = np.array([0.16, 0.32, 0.72]), np.array([0.62, 0.66, 0.72])
    sun = float(2.6 * (1 - 0.93 * overcast))
    sky = blue * (1 - overcast) + gray * overcast
    return Weather(
        name="sun", sun=_towards(height, float(rng.uniform(0, 2 * np.pi))),
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
        name="night", sun=_towards(float(rng.uniform(0.5, 1.2)), float(rng.uniform(0, 2 * np.pi))),
        sunlight=_tint((0.7, 0.85, 1.0), 0.0012), skylight=_tint((0.8, 0.85, 1.0), 0.0018 * glow),
        zenith=_tint((0.3, 0.42, 0.8), 0.0006 * glow), horizon=_tint((1.0, 0.72, 0.45), 0.0022 * glow),
        clouds=float(rng.uniform(0, 1)), haze=float(rng.uniform(0.0008, 0.004)), lamps=float(rng.uniform(0.1, 1.0)),
        headlamps=1.0, exposure=float(rng.uniform(9, 15)), camera_noise=0.013, shot_noise=0.05,
        event_floor=0.0003, event_noise=2.5, depth_holes=0.03,
    )  # fmt: skip


def _cloud(rng: np.random.Generator) -> Weather:
    """Heavy clouds from horizon to horizon: little sun, flat light."""
    dim = float(rng.uniform(0.45, 0.8))
    return Weather(
        name="cloud", sun=_towards(float(rng.uniform(0.4, 1.1)), float(rng.uniform(0, 2 * np.pi))),
        sunlight=_tint((1.0, 0.93, 0.84), 0.1 * dim), skylight=_tint((0.84, 0.9, 1.0), dim),
        zenith=_tint((0.52, 0.58, 0.66), dim), horizon=_tint((0.8, 0.84, 0.9), dim),
        clouds=float(rng.uniform(0.8, 1.0)), haze=float(rng.uniform(0.002, 0.006)), lamps=0.0, headlamps=0.0,
        exposure=float(rng.uniform(1.0, 1.5)), camera_noise=0.005, shot_noise=0.015,
        event_floor=0.01, event_noise=0.4, depth_holes=0.01, shadows=False,
    )  # fmt: skip


def _fog(rng: np.random.Generator) -> Weather:
    """Fog in which things keep 5 % of their contrast at 40 to 85 m (Koschmieder: 3 over the extinction)."""
    murk, dim = float(rng.uniform(0.035, 0.08)), float(rng.uniform(0.5, 0.8))
    white = _tint((0.86, 0.89, 0.92), dim)
    return Weather(
        name="fog", sun=_towards(float(rng.uniform(0.4, 1.1)), float(rng.uniform(0, 2 * np.pi))),
        sunlight=_tint((1.0, 0.95, 0.9), 0.04 * dim), skylight=_tint((0.92, 0.95, 1.0), 0.85 * dim),
        zenith=_tint((0.9, 0.93, 0.98), 1.1 * dim), horizon=white, clouds=0.0, haze=murk, lamps=0.0, headlamps=0.0,
        exposure=float(rng.uniform(0.9, 1.2)), camera_noise=0.005, shot_noise=0.015,
        event_floor=0.01, event_noise=0.4, depth_holes=0.015, murk=murk, shadows=False,
    )  # fmt: skip


def _rain(rng: np.random.Generator) -> Weather:
    """A dark sky, wet streets, drops in front of every lens."""
    rain, dim = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.3, 0.55))
    return Weather(
        name="rain", sun=_towards(float(rng.uniform(0.4, 1.1)), float(rng.uniform(0, 2 * np.pi))),
        sunlight=_tint((1.0, 0.95, 0.9), 0.02 * dim), skylight=_tint((0.86, 0.92, 1.0), dim),
        zenith=_tint((0.5, 0.55, 0.62), dim), horizon=_tint((0.8, 0.85, 0.92), dim),
        clouds=float(rng.uniform(0.8, 1.0)), haze=0.004 + 0.008 * rain, lamps=0.0, headlamps=0.0,
        exposure=float(rng.uniform(1.1, 1.6)), camera_noise=0.007, shot_noise=0.02,
        event_floor=0.01, event_noise=0.6, depth_holes=0.02 + 0.05 * rain, murk=0.003 + 0.006 * rain, rain=rain,
        shadows=False,
    )  # fmt: skip


_DRAW: dict[str, Callable[[np.random.Generator], Weather]] = {
    "cloud": _cloud, "fog": _fog, "night": _night, "rain": _rain, "sun": _sun
}  # fmt: skip
