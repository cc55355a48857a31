# SPDX-License-Identifier: Apache-2.0
"""Weather, light, sensor faults, and their effects on surfaces, images and events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.simulation.scene import Color, Floats, Hits, Material, Snapshot, as_float32
from mlesam_ros.simulation.street_layout import LAMP_PITCH, StreetLayout
from mlesam_ros.simulation.textures import Surface, cloudy

WEATHERS = ("cloud", "fog", "night", "rain", "sun")
"""The five weather conditions of DELIVER, in its order."""
_SYNONYMS = {"day": "sun"}


@dataclass(frozen=True)
class Weather:
    """Light, air and noise; in its linear units a white wall in the noon sun has a radiance of about 3.

    Attributes:
        name: one of `WEATHERS`.
        sun: unit vector towards the sun (or moon).
        sunlight: linear RGB irradiance of a surface facing the sun.
        skylight: linear RGB irradiance from the open sky.
        zenith, horizon: linear RGB of the sky.
        clouds: share of the sky covered by clouds.
        haze: extinction of the air for visible light, 1/m.
        lamps: strength of street lamps; 0 by day.
        headlamps: strength of the ego vehicle's headlamps; 0 by day.
        exposure: factor from radiance to the camera's full well.
        camera_noise: read noise, as a share of the full well.
        shot_noise: noise per root of the signal, both as shares of the full well.
        event_floor: radiance added to the luminance before the logarithm; masks changes of darker light.
        event_noise: spurious events per pixel and second.
        depth_holes: share of the depth sensor's pixels that fail at random.
        murk: extinction of the air for depth sensor, LiDAR and the view of the sky, 1/m; 0 for ordinary haze.
        rain: strength of the rain, 0 … 1.
        shadows: whether the sun casts shadows; false where clouds or fog diffuse its light.
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
    """Name of the weather in `WEATHERS`; `day` is a synonym of `sun`.

    Raises:
        ConfigError: the weather does not exist.
    """
    return _check_name("weather", _SYNONYMS.get(name, name), WEATHERS)


def draw_weather(name: str, rng: np.random.Generator) -> Weather:
    """Random weather of one kind.

    Raises:
        ConfigError: the weather does not exist.
    """
    return _DRAW[weather_name(name)](rng)


def _unit_vector(elevation: float, azimuth: float) -> tuple[float, float, float]:
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
        name="sun", sun=_unit_vector(height, float(rng.uniform(0, 2 * np.pi))),
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
        name="night", sun=_unit_vector(float(rng.uniform(0.5, 1.2)), float(rng.uniform(0, 2 * np.pi))),
        sunlight=_tint((0.7, 0.85, 1.0), 0.0012), skylight=_tint((0.8, 0.85, 1.0), 0.0018 * glow),
        zenith=_tint((0.3, 0.42, 0.8), 0.0006 * glow), horizon=_tint((1.0, 0.72, 0.45), 0.0022 * glow),
        clouds=float(rng.uniform(0, 1)), haze=float(rng.uniform(0.0008, 0.004)), lamps=float(rng.uniform(0.1, 1.0)),
        headlamps=1.0, exposure=float(rng.uniform(9, 15)), camera_noise=0.013, shot_noise=0.05,
        event_floor=0.0003, event_noise=2.5, depth_holes=0.03,
    )  # fmt: skip


def _cloud(rng: np.random.Generator) -> Weather:
    """Overcast sky: little sun, diffuse light."""
    dim = float(rng.uniform(0.45, 0.8))
    return Weather(
        name="cloud", sun=_unit_vector(float(rng.uniform(0.4, 1.1)), float(rng.uniform(0, 2 * np.pi))),
        sunlight=_tint((1.0, 0.93, 0.84), 0.1 * dim), skylight=_tint((0.84, 0.9, 1.0), dim),
        zenith=_tint((0.52, 0.58, 0.66), dim), horizon=_tint((0.8, 0.84, 0.9), dim),
        clouds=float(rng.uniform(0.8, 1.0)), haze=float(rng.uniform(0.002, 0.006)), lamps=0.0, headlamps=0.0,
        exposure=float(rng.uniform(1.0, 1.5)), camera_noise=0.005, shot_noise=0.015,
        event_floor=0.01, event_noise=0.4, depth_holes=0.01, shadows=False,
    )  # fmt: skip


def _fog(rng: np.random.Generator) -> Weather:
    """Fog with a visual range of 40 to 85 m: 5 % contrast at 3 / extinction (Koschmieder)."""
    murk, dim = float(rng.uniform(0.035, 0.08)), float(rng.uniform(0.5, 0.8))
    white = _tint((0.86, 0.89, 0.92), dim)
    return Weather(
        name="fog", sun=_unit_vector(float(rng.uniform(0.4, 1.1)), float(rng.uniform(0, 2 * np.pi))),
        sunlight=_tint((1.0, 0.95, 0.9), 0.04 * dim), skylight=_tint((0.92, 0.95, 1.0), 0.85 * dim),
        zenith=_tint((0.9, 0.93, 0.98), 1.1 * dim), horizon=white, clouds=0.0, haze=murk, lamps=0.0, headlamps=0.0,
        exposure=float(rng.uniform(0.9, 1.2)), camera_noise=0.005, shot_noise=0.015,
        event_floor=0.01, event_noise=0.4, depth_holes=0.015, murk=murk, shadows=False,
    )  # fmt: skip


def _rain(rng: np.random.Generator) -> Weather:
    """Rain: dark sky, wet streets, drops in front of every sensor."""
    rain, dim = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.3, 0.55))
    return Weather(
        name="rain", sun=_unit_vector(float(rng.uniform(0.4, 1.1)), float(rng.uniform(0, 2 * np.pi))),
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


NO_FAULT = "none"
FAULTS = (
    NO_FAULT, "motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres",
    "lidarsectors", "lidarclutter", "lidarcrosstalk",
)  # fmt: skip
"""No fault, the five faults of DELIVER, named as its folders, and three more of the LiDAR."""
_LOW_EVENT_SHARE = 512 / 1042
"""Ratio of the low event resolution to the image resolution of DELIVER: 512 to 1042 pixels."""


@dataclass(frozen=True)
class Fault:
    """A sensor fault.

    Attributes:
        name: one of `FAULTS`.
        exposure: factor on the camera's exposure.
        gain_noise: factor on the camera's read noise.
        shutter: exposure time of the camera in seconds, 0 for no motion blur.
        shake: standard deviation of the LiDAR's rotation, radians, and of its translation, meters, about each axis.
        event_share: ratio of the event camera's resolution per side to the camera's.
        sectors: ((first, last), …) shares of a turn, clockwise from the rear, that the LiDAR does not see.
        clutter: share of the LiDAR's beams that meet drops or spray.
        crosstalk: bursts of pulses of other LiDARs per turn.
    """

    name: str = NO_FAULT
    exposure: float = 1.0
    gain_noise: float = 1.0
    shutter: float = 0.0
    shake: tuple[float, float] = (0.0, 0.0)
    event_share: float = 1.0
    sectors: tuple[tuple[float, float], ...] = ()
    clutter: float = 0.0
    crosstalk: int = 0


def fault_name(name: str) -> str:
    """Check and return the name of a fault.

    Raises:
        ConfigError: the fault does not exist.
    """
    return _check_name("fault", name, FAULTS)


def _check_name(kind: str, name: str, known: Sequence[str]) -> str:
    if name not in known:
        raise ConfigError(f"{kind} {name!r} is not known; the street has {', '.join(known)}.")
    return name


def draw_fault(name: str, rng: np.random.Generator) -> Fault:
    """A fault of random severity.

    Raises:
        ConfigError: the fault does not exist.
    """
    fault_name(name)
    if name == "motionblur":
        return Fault(name, shutter=float(rng.uniform(0.09, 0.16)))
    if name == "overexposure":
        return Fault(name, exposure=float(rng.uniform(7, 14)))
    if name == "underexposure":
        return Fault(name, exposure=float(rng.uniform(0.03, 0.07)), gain_noise=1.5)
    if name == "lidarjitter":
        return Fault(name, shake=(float(np.radians(rng.uniform(0.6, 1.2))), 0.02))
    if name == "lidarsectors":
        starts = rng.uniform(0, 1, int(rng.integers(1, 4)))
        return Fault(name, sectors=tuple((float(a), float(a + rng.uniform(0.04, 0.3))) for a in starts))
    if name == "lidarclutter":
        return Fault(name, clutter=float(rng.uniform(0.08, 0.4)))
    if name == "lidarcrosstalk":
        return Fault(name, crosstalk=int(rng.integers(3, 15)))
    return Fault(name, event_share=_LOW_EVENT_SHARE) if name == "eventlowres" else Fault()


_PAVED = (Material.GROUND, Material.SLAB, Material.CONCRETE, Material.ROOF, Material.PAVING)
_WIND = 0.18
"""Horizontal motion of a falling drop in pixels per pixel downwards."""


def wet_surfaces(shading: Surface, hits: Hits, rain: float) -> None:
    """Darken wet surfaces, and make flat paved surfaces reflect the sky, most in puddles; changes `shading` in place.

    Wet porous surfaces reflect about half as much as dry ones (Lekner and Dorf, "Why some things are darker when wet",
    Applied Optics 1988).
    """
    flat = np.clip(hits.normal[:, 2], 0, 1) ** 4
    shading.albedo[:] *= (1 - np.float32(rain) * (0.12 + 0.4 * flat))[:, None]
    where = np.flatnonzero(np.isin(hits.material, _PAVED) & (flat > 0.5))
    point = hits.point[where]
    puddle = np.clip(0.7 * cloudy(point[:, 0], point[:, 1], 2.2) - 0.2, 0, 1)
    shading.gloss[where] = np.float32(rain) * (0.012 + 0.05 * puddle)
    shading.sheen[where] = np.float32(rain) * (0.5 + 0.5 * puddle)


def add_rain_streaks(light: Floats, weather: Weather, rng: np.random.Generator, lens: np.random.Generator) -> Floats:
    """Add falling drops as bright streaks, and drops on the lens, which blur the image behind them.

    Args:
        light: (H, W, 3) radiance.
        weather: strength of the rain, and color of the horizon, which the drops show.
        rng: random generator of this simulation step, for the streaks.
        lens: random generator of several consecutive steps, for the drops on the lens.
    """
    height, width = light.shape[:2]
    cover = _streaks((height, width), weather.rain, rng)[..., None]
    glow = as_float32(weather.horizon) * np.float32(0.75)
    out = light * (1 - cover) + glow * cover
    soft = cv2.blur(out, (max(3, width // 14),) * 2)
    drops = _lens_drops((height, width), weather.rain, lens)[..., None]
    return as_float32(out * (1 - drops) + soft * np.float32(0.95) * drops)


def _streaks(size: tuple[int, int], rain: float, rng: np.random.Generator) -> Floats:
    """(H, W) share of each pixel covered by streaks: many short faint ones far away, a few long ones near."""
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


def _lens_drops(size: tuple[int, int], rain: float, rng: np.random.Generator) -> Floats:
    """(H, W) share of each pixel covered by drops on the lens, 0 … 1."""
    height, width = size
    cover = np.zeros(size, np.float32)
    for _ in range(int(14 * rain)):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.008, 0.03) * width
        axes = (max(1, round(radius)), max(1, round(1.25 * radius)))
        cv2.ellipse(cover, (round(x), round(y)), axes, 0, 0, 360, rng.uniform(0.5, 0.9), cv2.FILLED, cv2.LINE_AA)
    return as_float32(cv2.GaussianBlur(cover, (5, 5), max(1.0, 1.6 * width / 512)))


@dataclass(frozen=True, slots=True)
class SplashEvents:
    """n events caused by drops: flat `pixel` index, `share` of the segment's duration in [0, 1], `polarity`."""

    pixel: npt.NDArray[np.int64]
    share: npt.NDArray[np.float64]
    polarity: npt.NDArray[np.bool_]


def splash_events(size: tuple[int, int], rain: float, duration: int, rng: np.random.Generator) -> SplashEvents:
    """Events of drops falling through the view of the event camera: each pixel on their path brightens, then darkens.

    Args:
        size: (H, W).
        rain: strength of the rain, 0 … 1.
        duration: duration of the segment in nanoseconds.
        rng: random generator of this segment.
    """
    height, width = size
    count = int(rng.poisson(rain * 3e-6 * height * width * duration * 1e-6))
    length = max(2, round(0.1 * height))
    steps = np.arange(length)
    x, y, start = rng.uniform(0, width, count), rng.uniform(-length, height, count), rng.uniform(0, 1, count)
    rows, columns = (y[:, None] + steps).astype(np.int64), (x[:, None] + _WIND * steps).astype(np.int64)
    share = start[:, None] + steps * (10e6 / length / duration)  # a drop takes 10 ms for its path
    inside = (rows >= 0) & (rows < height) & (columns < width) & (share < 1) & (rng.random(rows.shape) < 0.7)
    pixel, time = (rows * width + columns)[inside], share[inside]
    late = np.minimum(time + 1e6 / duration, 1)
    return SplashEvents(
        np.concatenate([pixel, pixel]), np.concatenate([time, late]),
        np.concatenate([np.ones(len(pixel), bool), np.zeros(len(pixel), bool)]),
    )  # fmt: skip


_SODIUM = as_float32([1.0, 0.74, 0.42])[:, None]
_XENON = as_float32([1.0, 0.95, 0.85])[:, None]
_HEADLAMP_POSITION = np.array([1.9, 0.0, 0.68])
"""Position of the ego vehicle's headlamps in base_link, meters."""
_FOG_LAYER_M = 60.0
"""Thickness in meters of the layer of fog or rain between the street and the sky."""


def sky_radiance(directions: Floats, weather: Weather) -> Floats:
    """Radiance (n, 3) of the open sky along (n, 3) unit directions."""
    up = np.clip(directions[:, 2], 0.0, 1.0)
    color = _gradient(up, weather)
    reach = 1 / (up + 0.12)
    billow = cloudy(directions[:, 0] * reach, directions[:, 1] * reach, 26.0)
    cover = np.clip((billow - 1.6 + 3.2 * weather.clouds) * 0.7, 0, 1) * np.clip(up * 6, 0, 1)
    white = _channels(weather.horizon) * (0.75 + 0.15 * np.clip(billow, -2, 2))
    color = color * (1 - 0.85 * cover) + white * (0.85 * cover)
    near = np.clip(_dot(directions.T, as_float32(weather.sun)), 0, 1)
    glow = (0.35 * near**24 + 3.0 * (near > 0.9994)) * (1 - 0.8 * cover)
    color = color + glow * _channels(weather.sunlight)
    if weather.murk:
        clear = np.exp(-weather.murk * _FOG_LAYER_M / (up + 0.05))
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
    shading: Surface,
    directions: Floats,
    snapshot: Snapshot,
    weather: Weather,
    layout: StreetLayout,
    ego: Transform,
) -> Floats:
    """Radiance (n, 3) along n rays.

    Args:
        hits: nearest hits of the rays.
        shading: surface of the hits.
        directions: (n, 3) unit directions of all rays.
        snapshot: the scene, for shadows and reflections.
        weather: the light and the air.
        layout: street layout, for the positions of the street lamps.
        ego: odom_from_base, for the position of the headlamps.
    """
    light = _ambient(hits, weather)
    light += _sunlight(hits, snapshot, weather)
    if weather.lamps or weather.headlamps:
        light += _street_lamps(hits, layout, weather) + _headlamps(hits, ego, weather)
    albedo = np.ascontiguousarray(shading.albedo.T)
    color = albedo * light
    color += albedo * shading.emission
    _add_reflections(color, hits, shading, directions, snapshot, weather)
    fog = np.exp(hits.distance[hits.ray] * np.float32(-weather.haze))
    color *= fog
    color += _channels(weather.horizon) * (1 - fog)
    out = np.empty_like(directions)
    for axis in range(3):
        out[:, axis][hits.ray] = color[axis]
    miss = np.flatnonzero(~np.isfinite(hits.distance))
    out[miss] = sky_radiance(directions[miss], weather)
    return out


def _ambient(hits: Hits, weather: Weather) -> Floats:
    """Irradiance (3, k) from the sky above and the ground below, less of both where walls meet the ground."""
    up = 0.5 + 0.5 * hits.normal[:, 2]
    open_air = 1 - 0.45 * (1 - up) * np.exp(-1.2 * np.maximum(hits.point[:, 2], 0))
    bounce = 0.12 * (as_float32(weather.sunlight) * max(weather.sun[2], 0) + as_float32(weather.skylight))
    light = up * _channels(weather.skylight) + (1 - up) * bounce[:, None]
    return light * open_air


def _sunlight(hits: Hits, snapshot: Snapshot, weather: Weather) -> Floats:
    towards = as_float32(weather.sun)
    facing = _dot(hits.normal.T, towards)
    if not weather.shadows:
        return np.maximum(facing, 0) * _channels(weather.sunlight)
    bright = np.flatnonzero(facing > 0)
    start = hits.normal.take(bright, axis=0)
    start *= 0.015
    start += hits.point.take(bright, axis=0)
    facing[facing < 0] = 0
    facing[bright[snapshot.occluded(start, towards)]] = 0
    return facing * _channels(weather.sunlight)


def _dot(a: Sequence[Any] | Floats, b: Sequence[Any] | Floats) -> Floats:
    """Scalar product of vectors given as x, y and z."""
    return as_float32(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _street_lamps(hits: Hits, layout: StreetLayout, weather: Weather) -> Floats:
    """Irradiance (3, k) of the two nearest lamps along the street, directed downwards, with inverse-square falloff."""
    total = np.zeros(len(hits.point), np.float32)
    nearest = np.floor((hits.point[:, 0] - 17.0) / LAMP_PITCH)
    for number in (nearest, nearest + 1):
        way = [(lamp - here).astype(np.float32) for lamp, here in zip(layout.lamp(number), hits.point.T, strict=True)]
        square = _dot(way, way)
        inverse = 1 / np.sqrt(square)
        facing = np.clip(_dot(way, hits.normal.T) * inverse, 0, 1)
        down = np.clip(way[2] * inverse, 0, 1)
        working = np.mod(number * 0.618, 1.0) < 0.75
        total += working * facing * down**2 * (13.0 * weather.lamps) / square
    return total * _SODIUM


def _headlamps(hits: Hits, ego: Transform, weather: Weather) -> Floats:
    """Irradiance (3, k) of the low beam: wide to the sides, cut off above the horizon."""
    lamp = ego.apply(_HEADLAMP_POSITION[None])[0].astype(np.float32)
    way = [here - there for here, there in zip(hits.point.T, lamp, strict=True)]
    square = _dot(way, way) + 0.3
    inverse = 1 / np.sqrt(square)
    x, y, z = (_dot(way, axis) * inverse for axis in ego.rotation.T.astype(np.float32))
    beam = np.exp(12 * np.minimum(z, 0) - (y / 0.42) ** 2) * (x > 0) / (1 + np.exp(np.clip(60 * (z - 0.01), -30, 30)))
    facing = np.clip(-_dot(way, hits.normal.T) * inverse, 0, 1)
    return ((28.0 * weather.headlamps) * beam * facing / square) * _XENON


def _add_reflections(
    color: Floats, hits: Hits, shading: Surface, directions: Floats, snapshot: Snapshot, weather: Weather
) -> None:
    """Add the reflection of the sky on glossy surfaces (Schlick's approximation), in rain darkened where occluded."""
    shiny = np.flatnonzero(shading.gloss > 0)
    ray, normal = directions.take(hits.ray.take(shiny), axis=0), hits.normal.take(shiny, axis=0)
    gloss = shading.gloss.take(shiny)
    cosine = -np.einsum("ij,ij->i", ray, normal)
    bounced = ray + 2 * cosine[:, None] * normal
    share = gloss + (1 - gloss) * np.clip(1 - cosine, 0, 1) ** 5
    above = _gradient(np.clip(bounced[:, 2], 0.0, 1.0), weather)
    below = np.clip(0.25 + 2.5 * bounced[:, 2], 0.25, 1.0)
    if weather.rain:
        share *= shading.sheen[shiny]
        hidden = snapshot.occluded(hits.point[shiny] + 0.02 * normal, bounced)
        below = np.where(hidden, np.float32(0.16), np.float32(1.0))
    color[:, shiny] = color[:, shiny] * (1 - share) + share * above * below


_BLUR_SAMPLES = 5
"""Samples of each of two passes; the second pass subdivides the steps of the first: 25 in total."""
_MAX_MOTION_SHARE = 0.2
"""Maximum length of a motion vector as a share of the image width."""
_SKY_DISTANCE_M = 1e4
_MIN_DEPTH_M = 0.3


def flow(
    hits: Hits, directions: Floats, model: CameraModel, odom_from_camera: tuple[Transform, Transform], shutter: float
) -> Floats:
    """Motion of each pixel's content during the exposure.

    Args:
        hits: nearest hits of the pixels' rays at mid-exposure.
        directions: (h * w, 3) directions of all rays.
        model: the camera; its distortion is neglected.
        odom_from_camera: camera poses at shutter opening and closing.
        shutter: exposure time in seconds.

    Returns:
        (h, w, 2) motion vectors in pixels, x and y.
    """
    middle = (odom_from_camera[0].translation + odom_from_camera[1].translation) / 2
    points = as_float32(middle + _SKY_DISTANCE_M * directions)
    points[hits.ray] = hits.point
    step = np.zeros((len(points), 2), np.float32)
    step[hits.ray] = hits.rows[:, 3:5] * (hits.rows[:, 13:14] * np.float32(shutter / 2))
    ends = []
    for camera, sign in zip(odom_from_camera, (-1, 1), strict=True):
        moved = points.astype(np.float64)
        moved[:, :2] += sign * step
        ends.append(_pixels(camera.inverse().apply(moved), model))
    way = as_float32(ends[1] - ends[0])
    longest = np.float32(_MAX_MOTION_SHARE * model.width)
    way *= np.minimum(1, longest / np.maximum(np.hypot(way[:, 0], way[:, 1]), 1e-6))[:, None]
    return way.reshape(model.height, model.width, 2)


def _pixels(points: np.ndarray, model: CameraModel) -> np.ndarray:
    """(n, 2) pixels from the principal point of (n, 3) points in the camera frame; z is clamped to `_MIN_DEPTH_M`."""
    return points[:, :2] / np.maximum(points[:, 2:], _MIN_DEPTH_M) * [model.K[0, 0], model.K[1, 1]]


def motion_blur(light: Floats, way: Floats) -> Floats:
    """(H, W, 3) radiance averaged along the (H, W, 2) motion vectors of `flow`."""
    way = as_float32(cv2.blur(way, (5, 5)))
    for scale in (1.0, 1.0 / _BLUR_SAMPLES):
        light = _average_along(light, way * np.float32(scale))
    return light


def _average_along(light: Floats, way: Floats) -> Floats:
    height, width = light.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    total = np.zeros_like(light)
    for share in (np.arange(_BLUR_SAMPLES, dtype=np.float32) + np.float32(0.5)) / np.float32(
        _BLUR_SAMPLES
    ) - np.float32(0.5):
        there = (x + way[..., 0] * share, y + way[..., 1] * share)
        total += cv2.remap(light, *there, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return total / np.float32(_BLUR_SAMPLES)
