"""The plan of a street: how it bends and how wide its strips are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlesam_ros.world.vector import Floats

TILE = 48.0
"""Length in meters of the pieces that the street is furnished in."""
LAMP_PITCH = 24.0
"""Meters along the street from one lamp to the next; they alternate between the sides."""
LAMP_HEIGHT = 6.6
"""Meters above the road."""
SIDE_STREET = 9.0
"""Width in meters of a side street, which opens at the start of a tile."""
ZEBRA = (11.0, 14.0)
"""Where in a tile a pedestrian crossing lies, meters from its start."""
CURB = 0.13
"""Height of the pavement above the road, meters."""


@dataclass(frozen=True)
class StreetLayout:
    """Street coordinates are s along x and d to the left of the center line; the line is y = bend(x).

    Attributes:
        lanes: per direction, 1 or 2; traffic keeps right.
        lane: width of a lane, meters.
        parking: width of the strip between lanes and curb on either side, meters; cars park where it is wide enough.
        pavement: width of the pavements, meters.
        sway: ((amplitude m, meters per radian, phase), …) of the sines that bend the center line.
        wear: 0 … 1, how patched the asphalt and how faded the paint is.
        brightness: albedo of the asphalt.
        urban: 0 … 1, share of plots with buildings.
    """

    lanes: int
    lane: float
    parking: float
    pavement: float
    sway: tuple[tuple[float, float, float], ...]
    wear: float
    brightness: float
    urban: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> StreetLayout:
        """A random street."""
        sway = tuple(
            (float(rng.uniform(0, 0.11) * scale), float(scale), float(rng.uniform(0, 2 * np.pi)))
            for scale in rng.uniform((35, 80), (60, 140))
        )
        lanes, lane = int(rng.choice([1, 1, 2])), float(rng.uniform(3.1, 3.7))
        parking = float(rng.uniform(2.1, 2.5)) if rng.uniform() < 0.65 else 0.35
        return cls(
            lanes=lanes, lane=lane, parking=parking,
            pavement=float(rng.uniform(2.2, 5.0)), sway=sway, wear=float(rng.uniform(0.1, 1.0)),
            brightness=float(rng.uniform(0.07, 0.15)), urban=float(rng.uniform(0.25, 0.9)),
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
        """The center line's y in meters at x meters, a number or an array."""
        return sum(amplitude * np.sin(x / scale + phase) for amplitude, scale, phase in self.sway)

    def heading(self, x: float) -> float:
        """Direction of the street at x, radians."""
        return float(np.arctan(sum(a / scale * np.cos(x / scale + phase) for a, scale, phase in self.sway)))

    def lateral(self, point: Floats) -> Floats:
        """D in meters of (n, 3) world points."""
        return (point[:, 1] - self.bend(point[:, 0])).astype(np.float32)

    def lamp(self, number: Any) -> tuple[Any, Any, Any]:
        """World position in meters of the heads of the street lamps with these numbers."""
        x = number * LAMP_PITCH + 17.0
        side = 1 - 2 * (number % 2)
        return x, self.bend(x) + side * (self.curb - 0.7), np.full_like(x, LAMP_HEIGHT)
