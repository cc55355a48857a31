"""The car that carries the sensors: where it is at any time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlesam_ros.geometry.transform import Transform
from mlesam_ros.world.plan import StreetLayout


@dataclass(frozen=True)
class Ego:
    """A car that keeps its lane.

    Attributes:
        plan: the street it drives along.
        start: meters along the street at t = 0.
        speed: meters per second along x.
        lane: d of its lane's middle, meters, negative: right of the center line.
        phases: three phases of its swaying, pitching and rolling, radians.
    """

    plan: StreetLayout
    start: float
    speed: float
    lane: float
    phases: tuple[float, float, float]

    @classmethod
    def draw(cls, plan: StreetLayout, rng: np.random.Generator) -> Ego:
        """A random driver."""
        lane = -(int(rng.integers(plan.lanes)) + 0.5) * plan.lane
        a, b, c = (float(p) for p in rng.uniform(0, 2 * np.pi, 3))
        return cls(plan, float(rng.uniform(0, 2000)), float(rng.uniform(5, 11)), lane, (a, b, c))

    def along(self, t: float) -> float:
        """Meters along the street at t seconds."""
        return self.start + self.speed * t

    def pose(self, t: float) -> Transform:
        """odom_from_base at t seconds: base_link lies on the road, x forward, z up."""
        x, (a, b, c) = self.along(t), self.phases
        y = self.plan.bend(x) + self.lane + 0.18 * np.sin(0.35 * t + a)
        yaw = self.plan.heading(x) + 0.18 * 0.35 / self.speed * np.cos(0.35 * t + a)
        pitch, roll = 0.006 * np.sin(5.1 * t + b), 0.007 * np.sin(3.3 * t + c)
        return Transform(_rotation(float(yaw), float(pitch), float(roll)), np.array([x, y, 0.0]))


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rz(yaw) Ry(pitch) Rx(roll), REP 103."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch, roll))
    return np.array(
        [[cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
         [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
         [-sp, cp * sr, cp * cr]]
    )  # fmt: skip
