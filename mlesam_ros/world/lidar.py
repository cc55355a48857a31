"""A spinning LiDAR on the roof: 32 beams, ten turns a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlesam_ros.frame import PointCloud
from mlesam_ros.geometry.transform import Transform
from mlesam_ros.world.materials import REFLECTANCE, Material
from mlesam_ros.world.scene import Hits
from mlesam_ros.world.texture import Surface
from mlesam_ros.world.vector import Floats
from mlesam_ros.world.weather import Weather

POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<u2"), ("time", "<f4")])
"""One return: meters in the sensor's frame, intensity 0 … 255, beam number from below, seconds after the stamp."""


@dataclass(frozen=True)
class SpinningLidar:
    """The sensor's geometry.

    Attributes:
        beams: number of lasers, evenly spread over `lowest` … `highest`.
        steps: firings per turn.
        lowest, highest: elevations in degrees.
        turn: seconds per turn. The front is measured at the stamp, the rear half a turn before and after.
        reach: meters.
    """

    beams: int = 32
    steps: int = 1024
    lowest: float = -25.0
    highest: float = 11.0
    turn: float = 0.1
    reach: float = 100.0

    def rays(self) -> tuple[Floats, Floats]:
        """Unit rays (steps * beams, 3) in the sensor's frame and their times (steps * beams,) in seconds."""
        share = (np.arange(self.steps) + 0.5) / self.steps - 0.5
        azimuth = -2 * np.pi * share[:, None]
        elevation = np.radians(np.linspace(self.lowest, self.highest, self.beams))[None]
        flat = np.cos(elevation)
        up = np.broadcast_to(np.sin(elevation), (self.steps, self.beams))
        rays = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), up], 2).reshape(-1, 3)
        times = np.repeat(share * self.turn, self.beams)
        return rays.astype(np.float32), times.astype(np.float32)


def sweep(
    spinner: SpinningLidar,
    rays: Floats,
    times: Floats,
    world_rays: Floats,
    hits: Hits,
    look: Surface,
    weather: Weather,
    rng: np.random.Generator,
) -> PointCloud:
    """What the receiver makes of a turn.

    The signal is reflectance over squared range; weak ones are lost by chance. Intensity is calibrated for range.

    Args:
        spinner: the sensor.
        rays: of `spinner.rays()`, all firings.
        times: of `spinner.rays()`.
        world_rays: (steps * beams, 3) the same directions in the world.
        hits: what they met.
        look: its surface.
        weather: what the air and wet ground take.
        rng: this turn's chance.
    """
    distance = hits.distance[hits.ray]
    facing = -np.einsum("ij,ij->i", world_rays[hits.ray], hits.normal)
    shade = 0.55 + 0.9 * look.albedo.mean(axis=1)
    reflectance = REFLECTANCE[hits.material] * shade * (0.3 + 0.7 * facing)
    if weather.rain:
        reflectance = reflectance * _wet(hits, weather.rain)
    budget = reflectance * (40.0 / np.maximum(distance, 5.0)) ** 2
    if weather.murk:
        budget = budget * np.exp(-2 * weather.murk * distance)
    kept = (distance < spinner.reach) & (rng.random(len(distance)) > 0.015 + np.exp(-5 * budget))
    kept &= distance > 1.0
    ray = hits.ray[kept]
    measured = distance[kept] + rng.normal(0, 0.018, len(ray))
    speckle = rng.normal(1, 0.06, len(ray))
    strength = np.clip(255 * np.minimum(reflectance[kept] * speckle, 1.0), 1, 255).round()
    if weather.murk:
        ray, measured, strength = _attenuate(ray, measured, strength, hits.distance, weather, rng)
    points = np.zeros(len(ray), POINT)
    xyz = rays[ray] * measured[:, None].astype(np.float32)
    points["x"], points["y"], points["z"] = xyz.T
    points["intensity"] = strength
    points["ring"] = ray % spinner.beams
    points["time"] = times[ray]
    return PointCloud(points[np.argsort(ray, kind="stable")])


def jitter_pose(spread: tuple[float, float], rng: np.random.Generator) -> Transform:
    """A loose mounting's error at one instant: small rotations and translations that nobody knows of.

    Args:
        spread: standard deviations about and along each axis, radians and meters.
        rng: the chance.
    """
    x, y, z = rng.normal(0, spread[0], 3)
    turn = np.array([[1, -z, y], [z, 1, -x], [-y, x, 1]])
    rotation, _ = np.linalg.qr(turn)  # the nearest that is one, up to the signs of its columns
    return Transform(rotation * np.sign(np.diag(rotation)), rng.normal(0, spread[1], 3))


def _wet(hits: Hits, rain: float) -> Floats:
    """Water on flat ground throws the beam forwards: (k,) what is left of the echo."""
    paved = (hits.material == Material.GROUND) | (hits.material == Material.SLAB)
    return 1 - np.float32(0.65 * rain) * (paved & (hits.normal[:, 2] > 0.7))


def _attenuate(
    ray: npt.NDArray[np.int64], measured: Floats, strength: Floats, distance: Floats, weather: Weather,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], Floats, Floats]:  # fmt: skip
    """Drops answer instead of what is behind them: weak echoes within a few meters.

    Args:
        ray, measured, strength: the echoes without drops.
        distance: (n,) of what every ray would meet.
        weather: the denser the air and the harder the rain, the more.
        rng: this turn's chance.

    Returns:
        The echoes with them.
    """
    share = 1 - np.exp(-weather.murk - 0.02 * weather.rain)
    spread = 1.5 + 4.0 / (1 + 40 * weather.murk)
    ghost = np.flatnonzero(rng.random(len(distance)) < share)
    near = 1.0 + rng.exponential(spread, len(ghost))
    ghost, near = ghost[near < distance[ghost]], near[near < distance[ghost]]
    lost = np.zeros(len(distance), bool)
    lost[ghost] = True
    kept = ~lost[ray]
    weak = rng.integers(1, 14, len(ghost)).astype(np.float64)
    return (
        np.concatenate([ray[kept], ghost]), np.concatenate([measured[kept], near]),
        np.concatenate([strength[kept], weak]),
    )  # fmt: skip
