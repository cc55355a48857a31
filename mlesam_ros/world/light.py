"""From surfaces to light: sun and shadow, sky, street lamps, headlamps, mirrors and haze."""

from __future__ import annotations

import numpy as np

from mlesam_ros.geometry.transform import Transform
from mlesam_ros.world.noise import cloudy
from mlesam_ros.world.plan import LAMP_PITCH, Plan
from mlesam_ros.world.scene import Hits, Snapshot
from mlesam_ros.world.texture import Surface
from mlesam_ros.world.vector import Floats, vector
from mlesam_ros.world.weather import Weather

_SODIUM = vector([1.0, 0.74, 0.42])
_XENON = vector([1.0, 0.95, 0.85])
_BEAM = np.array([1.9, 0.0, 0.68])
"""Where the ego car's headlamps are, metres in base_link."""


def sky(directions: Floats, weather: Weather) -> Floats:
    """Radiance (n, 3) of the open sky along (n, 3) unit directions."""
    up = np.clip(directions[:, 2], 0.0, 1.0)
    blend = np.sqrt(up)[:, None]
    colour = vector(weather.horizon) * (1 - blend) + vector(weather.zenith) * blend
    reach = 1 / (up + 0.12)
    billow = cloudy(directions[:, 0] * reach, directions[:, 1] * reach, 26.0)
    cover = np.clip((billow - 1.6 + 3.2 * weather.clouds) * 0.7, 0, 1)[:, None] * np.clip(up * 6, 0, 1)[:, None]
    white = vector(weather.horizon) * (0.75 + 0.15 * np.clip(billow, -2, 2)[:, None])
    colour = colour * (1 - 0.85 * cover) + white * (0.85 * cover)
    near = np.clip(directions @ vector(weather.sun), 0, 1)
    glow = (0.35 * near**24 + 3.0 * (near > 0.9994)) * (1 - 0.8 * cover[:, 0])
    return (colour + glow[:, None] * vector(weather.sunlight)).astype(np.float32)


def radiance(
    hits: Hits, look: Surface, directions: Floats, snapshot: Snapshot, weather: Weather, plan: Plan, ego: Transform
) -> Floats:
    """Light (n, 3) that comes back along n rays.

    Args:
        hits: what the rays met.
        look: its surface.
        directions: (n, 3) unit directions of all rays.
        snapshot: what throws shadows.
        weather: the light.
        plan: where the street lamps stand.
        ego: odom_from_base, where the headlamps are.
    """
    light = _ambient(hits, weather)
    light += _sun(hits, snapshot, weather)
    if weather.lamps or weather.headlamps:
        light += _street_lamps(hits, plan, weather) + _headlamps(hits, ego, weather)
    colour = look.albedo * light
    colour += look.albedo * look.emission[:, None]
    _mirror(colour, hits, look, directions, weather)
    fog = np.exp(hits.distance[hits.ray] * np.float32(-weather.haze))[:, None]
    colour *= fog
    colour += vector(weather.horizon) * (1 - fog)
    out = np.empty_like(directions)
    out[hits.ray] = colour
    miss = np.flatnonzero(~np.isfinite(hits.distance))
    out[miss] = sky(directions[miss], weather)
    return out


def _ambient(hits: Hits, weather: Weather) -> Floats:
    """Sky from above, a little of the ground's light from below, less of both where walls meet the ground."""
    up = 0.5 + 0.5 * hits.normal[:, 2]
    open_air = 1 - 0.45 * (1 - up) * np.exp(-1.2 * np.maximum(hits.point[:, 2], 0))
    bounce = 0.12 * (vector(weather.sunlight) * max(weather.sun[2], 0) + vector(weather.skylight))
    light = up[:, None] * vector(weather.skylight) + (1 - up)[:, None] * bounce
    return light * open_air[:, None]


def _sun(hits: Hits, snapshot: Snapshot, weather: Weather) -> Floats:
    towards = vector(weather.sun)
    facing = hits.normal @ towards
    bright = np.flatnonzero(facing > 0)
    start = hits.point[bright] + 0.015 * hits.normal[bright]
    facing[facing < 0] = 0
    facing[bright[snapshot.occluded(start, towards)]] = 0
    return facing[:, None] * vector(weather.sunlight)


def _street_lamps(hits: Hits, plan: Plan, weather: Weather) -> Floats:
    """The two nearest lamps along the street, each a downward lamp with inverse-square fall-off."""
    total = np.zeros(len(hits.point), np.float32)
    nearest = np.floor((hits.point[:, 0] - 17.0) / LAMP_PITCH)
    for number in (nearest, nearest + 1):
        x, y, z = plan.lamp(number)
        way = np.stack([x, y, z], 1).astype(np.float32) - hits.point
        square = np.einsum("ij,ij->i", way, way)
        inverse = 1 / np.sqrt(square)
        facing = np.clip(np.einsum("ij,ij->i", way, hits.normal) * inverse, 0, 1)
        down = np.clip(way[:, 2] * inverse, 0, 1)
        working = np.mod(number * 0.618, 1.0) < 0.75
        total += working * facing * down**2 * (13.0 * weather.lamps) / square
    return total[:, None] * _SODIUM


def _headlamps(hits: Hits, ego: Transform, weather: Weather) -> Floats:
    """A dipped beam: wide to the sides, cut off above the horizon."""
    lamp = ego.apply(_BEAM[None])[0].astype(np.float32)
    way = hits.point - lamp
    square = np.einsum("ij,ij->i", way, way) + 0.3
    inverse = 1 / np.sqrt(square)
    x, y, z = ((way @ ego.rotation[:, axis].astype(np.float32)) * inverse for axis in range(3))
    beam = np.exp(12 * np.minimum(z, 0) - (y / 0.42) ** 2) * (x > 0) / (1 + np.exp(np.clip(60 * (z - 0.01), -30, 30)))
    facing = np.clip(-np.einsum("ij,ij->i", way, hits.normal) * inverse, 0, 1)
    return ((28.0 * weather.headlamps) * beam * facing / square)[:, None] * _XENON


def _mirror(colour: Floats, hits: Hits, look: Surface, directions: Floats, weather: Weather) -> None:
    """Glossy surfaces show the sky (Schlick's approximation, without what stands in front of the sky)."""
    shiny = np.flatnonzero(look.gloss > 0)
    ray, normal, gloss = directions[hits.ray[shiny]], hits.normal[shiny], look.gloss[shiny]
    cosine = -np.einsum("ij,ij->i", ray, normal)
    bounced = ray + 2 * cosine[:, None] * normal
    share = (gloss + (1 - gloss) * np.clip(1 - cosine, 0, 1) ** 5)[:, None]
    blend = np.sqrt(np.clip(bounced[:, 2], 0.0, 1.0))[:, None]
    above = vector(weather.horizon) * (1 - blend) + vector(weather.zenith) * blend
    below = np.clip(0.25 + 2.5 * bounced[:, 2:], 0.25, 1.0)
    colour[shiny] = colour[shiny] * (1 - share) + share * above * below
