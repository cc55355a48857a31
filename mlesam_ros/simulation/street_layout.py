# SPDX-License-Identifier: Apache-2.0
"""Random layout of a street, and the motion of the ego vehicle along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.simulation.scene import Floats
from mlesam_ros.simulation.style import Look, Shapes

TILE = 48.0
"""Length in meters of a tile, the piece in which the street is furnished."""
LAMP_PITCH = 24.0
"""Distance in meters along the street between lamps, which alternate between the sides."""
LAMP_HEIGHT = 6.6
"""Height of the lamp heads above the road, meters."""
SIDE_STREET = 9.0
"""Width in meters of a side street, which opens at the start of a tile."""
ZEBRA = (11.0, 14.0)
"""Start and end of a pedestrian crossing in a tile, meters from the start of the tile."""
CURB = 0.13
"""Height of the sidewalk above the road, meters."""


@dataclass(frozen=True, eq=False)
class StreetLayout:
    """Layout of a street. Street coordinates: s along x, d to the left of the center line y = bend(x).

    Attributes:
        lanes: lanes per direction, 1 or 2; traffic keeps right.
        lane: width of a lane, meters.
        parking: width of the strip between lanes and curb on either side, meters; cars park where it is wide enough.
        pavement: width of the sidewalks, meters.
        sway: ((amplitude m, meters per radian, phase), …) of the sines that bend the center line.
        wear: 0 … 1, share of patches in the asphalt and fading of the markings.
        brightness: albedo of the asphalt.
        urban: 0 … 1, share of plots with buildings.
        shapes: kinds of objects.
        look: colors.
    """

    lanes: int
    lane: float
    parking: float
    pavement: float
    sway: tuple[tuple[float, float, float], ...]
    wear: float
    brightness: float
    urban: float
    shapes: Shapes
    look: Look

    @classmethod
    def draw(cls, rng: np.random.Generator, shapes: Shapes | None = None, look: Look | None = None) -> StreetLayout:
        """A random street with these shapes and colors, by default those of the style `plain`."""
        shapes, look = shapes or Shapes(), look or Look()
        sway = tuple(
            (float(rng.uniform(0, 0.11) * scale), float(scale), float(rng.uniform(0, 2 * np.pi)))
            for scale in rng.uniform((35, 80), (60, 140))
        )
        lanes, lane = int(rng.choice(shapes.lanes)), float(rng.uniform(*shapes.lane))
        parking = float(rng.uniform(2.1, 2.5)) if rng.uniform() < shapes.parking else 0.35
        return cls(
            lanes=lanes, lane=lane, parking=parking,
            pavement=float(rng.uniform(*shapes.pavement)), sway=sway, wear=float(rng.uniform(0.1, 1.0)),
            brightness=float(rng.uniform(*look.asphalt)), urban=float(rng.uniform(*shapes.urban)),
            shapes=shapes, look=look,
        )  # fmt: skip

    @property
    def carriageway(self) -> float:
        """Half the width of the driven lanes, meters."""
        return self.lanes * self.lane

    @property
    def curb(self) -> float:
        """|d| of the curbs, meters."""
        return self.carriageway + self.parking

    @property
    def parks(self) -> bool:
        """Whether cars park along the curbs."""
        return self.parking > 1.0

    @property
    def frontage(self) -> float:
        """|d| at which the plots begin, meters."""
        return self.curb + self.pavement

    def bend(self, x: Any) -> Any:
        """Center line y in meters at x meters, a number or an array."""
        return sum(amplitude * np.sin(x / scale + phase) for amplitude, scale, phase in self.sway)

    def heading(self, x: Any) -> Any:
        """Direction of the street in radians at x meters, a number or an array."""
        return np.arctan(sum(a / scale * np.cos(x / scale + phase) for a, scale, phase in self.sway))

    def lateral(self, point: Floats) -> Floats:
        """Coordinate d in meters of (n, 3) world points."""
        return (point[:, 1] - self.bend(point[:, 0])).astype(np.float32)

    def lamp(self, number: Any) -> tuple[Any, Any, Any]:
        """World position in meters of the street lamp heads with these numbers."""
        x = number * LAMP_PITCH + 17.0
        side = 1 - 2 * (number % 2)
        return x, self.bend(x) + side * (self.curb - 0.7), np.full_like(x, LAMP_HEIGHT)


@dataclass(frozen=True)
class Ego:
    """Motion of the ego vehicle, which keeps its lane.

    Attributes:
        layout: layout of the street.
        start: meters along the street at t = 0.
        speed: meters per second along x.
        lane: d of the lane center, meters; negative, right of the center line.
        phases: phases of sway, pitch and roll, radians.
    """

    layout: StreetLayout
    start: float
    speed: float
    lane: float
    phases: tuple[float, float, float]

    @classmethod
    def draw(cls, layout: StreetLayout, rng: np.random.Generator) -> Ego:
        """A random start, speed, lane and phases."""
        lane = -(int(rng.integers(layout.lanes)) + 0.5) * layout.lane
        a, b, c = (float(p) for p in rng.uniform(0, 2 * np.pi, 3))
        return cls(layout, float(rng.uniform(0, 2000)), float(rng.uniform(5, 11)), lane, (a, b, c))

    def along(self, t: Any) -> Any:
        """Meters along the street at t seconds, a number or an array."""
        return self.start + self.speed * t

    def pose(self, t: float) -> Transform:
        """odom_from_base at t seconds; base_link lies on the road, x forward, z up."""
        turn, position = self.poses(t)
        return Transform(turn, position)

    def poses(self, t: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rotations (..., 3, 3) and translations (..., 3) of `pose` at seconds t, a number or an array."""
        x, (a, b, c) = self.along(t), self.phases
        y = self.layout.bend(x) + self.lane + 0.18 * np.sin(0.35 * t + a)
        yaw = self.layout.heading(x) + 0.18 * 0.35 / self.speed * np.cos(0.35 * t + a)
        pitch, roll = 0.006 * np.sin(5.1 * t + b), 0.007 * np.sin(3.3 * t + c)
        return rotation(yaw, pitch, roll), np.stack([x, y, np.zeros_like(y)], -1)


def rotation(yaw: Any, pitch: Any, roll: Any) -> np.ndarray:
    """Rz(yaw) Ry(pitch) Rx(roll) in radians, REP 103; (..., 3, 3) for numbers or arrays."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch, roll))
    rows = np.array(
        [[cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
         [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
         [-sp, cp * sr, cp * cr]]
    )  # fmt: skip
    return np.moveaxis(rows, (0, 1), (-2, -1))
