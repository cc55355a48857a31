"""A spinning LiDAR on the roof: 32 beams, ten turns a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlesam_ros.frame import Cloud
from mlesam_ros.world.materials import REFLECTANCE
from mlesam_ros.world.scene import Hits
from mlesam_ros.world.texture import Surface
from mlesam_ros.world.vector import Floats

POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<u2"), ("time", "<f4")])
"""One return: metres in the sensor's frame, intensity 0 … 255, beam number from below, seconds after the stamp."""


@dataclass(frozen=True)
class Spinner:
    """The sensor's geometry.

    Attributes:
        beams: number of lasers, evenly spread over `lowest` … `highest`.
        steps: firings per turn.
        lowest, highest: elevations in degrees.
        turn: seconds per turn. The front is measured at the stamp, the rear half a turn before and after.
        reach: metres.
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
    spinner: Spinner,
    rays: Floats,
    times: Floats,
    world_rays: Floats,
    hits: Hits,
    look: Surface,
    rng: np.random.Generator,
) -> Cloud:
    """What the receiver makes of a turn.

    The signal is reflectance over squared range; weak ones are lost by chance. Intensity is calibrated for range.

    Args:
        spinner: the sensor.
        rays: of `spinner.rays()`, all firings.
        times: of `spinner.rays()`.
        world_rays: (steps * beams, 3) the same directions in the world.
        hits: what they met.
        look: its surface.
        rng: this turn's chance.
    """
    distance = hits.distance[hits.ray]
    facing = -np.einsum("ij,ij->i", world_rays[hits.ray], hits.normal)
    shade = 0.55 + 0.9 * look.albedo.mean(axis=1)
    reflectance = REFLECTANCE[hits.material] * shade * (0.3 + 0.7 * facing)
    budget = reflectance * (40.0 / np.maximum(distance, 5.0)) ** 2
    kept = (distance < spinner.reach) & (rng.random(len(distance)) > 0.015 + np.exp(-5 * budget))
    kept &= distance > 1.0
    ray = hits.ray[kept]
    measured = distance[kept] + rng.normal(0, 0.018, len(ray))
    points = np.zeros(len(ray), POINT)
    xyz = rays[ray] * measured[:, None].astype(np.float32)
    points["x"], points["y"], points["z"] = xyz.T
    speckle = rng.normal(1, 0.06, len(ray))
    points["intensity"] = np.clip(255 * np.minimum(reflectance[kept] * speckle, 1.0), 1, 255).round()
    points["ring"] = ray % spinner.beams
    points["time"] = times[ray]
    return Cloud(points[np.argsort(ray, kind="stable")])
