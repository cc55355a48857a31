"""Cars, vans, lorries, buses and two-wheelers. They look along +x of their own frame; wheels stand on z = 0.

Riders belong to their two-wheeler, as in CARLA, on which DELIVER was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from mlesam_ros.world import classes, paint
from mlesam_ros.world.materials import Material
from mlesam_ros.world.mesh import Mesh, ball, box, boxes, frustum, join, rod, slab
from mlesam_ros.world.scene import Color

# Side views as (nose, tail, bonnet height, sill, glass from, glass to, roof from, roof to, roof height, width), meters.
_BODIES = {
    "hatchback": (2.0, -1.95, 0.92, 0.28, 1.0, -1.85, 0.25, -1.45, 1.48, 1.74),
    "saloon": (2.3, -2.25, 0.9, 0.28, 1.05, -1.65, 0.3, -0.95, 1.45, 1.8),
    "estate": (2.3, -2.3, 0.92, 0.28, 1.1, -2.2, 0.35, -1.95, 1.5, 1.82),
    "suv": (2.25, -2.2, 1.08, 0.38, 1.15, -2.1, 0.45, -1.85, 1.74, 1.9),
    "van": (2.4, -2.5, 1.2, 0.36, 1.75, -2.48, 1.05, -2.42, 2.15, 1.95),
}
CAR_KINDS = tuple(_BODIES)


def _wheels(label: int, axles: tuple[float, ...], width: float, radius: float) -> list[Mesh]:
    parts = []
    for x in axles:
        for side in (-1.0, 1.0):
            y = side * width / 2
            inner, outer, hub = (x, y - side * 0.22, radius), (x, y + side * 0.01, radius), (x, y + side * 0.03, radius)
            parts.append(rod(inner, outer, (radius, radius), Material.RUBBER, label, 12))
            parts.append(rod(outer, hub, (radius * 0.58, radius * 0.5), Material.POST, label, 8))
    return parts


def _lamps(label: int, nose: float, tail: float, width: float, height: float) -> list[Mesh]:
    y = width / 2 - 0.22
    front = [(nose - 0.02, -y, height), (nose - 0.02, y, height)]
    back = [(tail + 0.02, -y, height + 0.06), (tail + 0.02, y, height + 0.06)]
    plate = box((0.03, 0.5, 0.12), (tail - 0.01, 0, height - 0.18), Material.SIGN, label)
    return [
        boxes((0.08, 0.3, 0.15), front, Material.HEADLAMP, label),
        boxes((0.08, 0.26, 0.2), back, Material.TAILLAMP, label),
        plate,
    ]


def _ring(x0: float, x1: float, half: float, z: float) -> list[tuple[float, float, float]]:
    return [(x0, -half, z), (x0, half, z), (x1, half, z), (x1, -half, z)]


@cache
def car(kind: str) -> Mesh:
    """A car or van of one of `CAR_KINDS`."""
    nose, tail, belt, sill, glass0, glass1, roof0, roof1, roof, width = _BODIES[kind]
    label, half = classes.CARS, width / 2
    side = [
        (nose - 0.12, sill), (nose, sill + 0.2), (nose - 0.1, belt - 0.2), (nose - 0.55, belt - 0.06), (glass0, belt),
        (glass1, belt), (tail + 0.05, belt - 0.08), (tail, sill + 0.25), (tail + 0.1, sill),
    ]  # fmt: skip
    cabin = frustum(
        _ring(glass0, glass1, half - 0.04, belt), _ring(roof0, roof1, half - 0.2, roof), Material.GLASS, label
    )
    lid = frustum(
        _ring(roof0 + 0.04, roof1 - 0.04, half - 0.2, roof), _ring(roof0 - 0.1, roof1 + 0.1, half - 0.27, roof + 0.05),
        Material.PAINT, label,
    )  # fmt: skip
    middle = (roof0 + roof1) / 2 - 0.1
    pillars = [
        frustum(
            _ring(x0 + 0.05, x0 - 0.05, half - 0.03, belt),
            _ring(x1 + 0.04, x1 - 0.04, half - 0.19, roof),
            Material.PAINT,
            label,
        )
        for x0, x1 in ((glass0, roof0), (middle, middle), (glass1, roof1))
    ]
    mirrors = boxes((0.12, 0.2, 0.14), [(glass0 - 0.25, y, belt + 0.08) for y in (-half - 0.08, half + 0.08)],
                    Material.PAINT, label)  # fmt: skip
    under = box((nose - tail - 0.5, width - 0.2, 0.2), ((nose + tail) / 2, 0, sill), Material.RUBBER, label)
    axles = (nose - 0.8, tail + 0.75)
    body = slab(side, width, Material.PAINT, label)
    return join(
        [
            body,
            cabin,
            lid,
            *pillars,
            mirrors,
            under,
            *_wheels(label, axles, width, 0.33),
            *_lamps(label, nose, tail, width, belt - 0.24),
        ]
    )


@cache
def bus(kind: str) -> Mesh:
    """A city bus; `kind` "long" or "short"."""
    length = 11.8 if kind == "long" else 8.6
    half, label = length / 2, classes.BUS
    parts = [
        box((length, 2.5, 2.6), (0, 0, 1.65), Material.COACH, label),
        box((length - 0.6, 2.2, 0.22), (0, 0, 3.05), Material.PAINT, label),
        box((0.06, 2.2, 1.3), (half, 0, 1.95), Material.GLASS, label),
        box((0.05, 1.6, 0.35), (half, 0, 2.8), Material.SIGN, label),
    ]
    return join([*parts, *_wheels(label, (half - 2.4, -half + 2.2), 2.5, 0.48), *_lamps(label, half, -half, 2.5, 0.75)])


@cache
def truck(kind: str) -> Mesh:
    """A lorry; `kind` "box" carries a body, "flat" a low load."""
    label = classes.TRUCK
    cab = [(3.9, 0.5), (4.0, 1.5), (3.8, 2.7), (2.2, 2.9), (2.2, 0.5)]
    parts = [
        slab(cab, 2.35, Material.PAINT, label),
        box((0.06, 2.0, 0.85), (3.93, 0, 2.1), Material.GLASS, label),
        box((0.9, 2.37, 0.7), (3.1, 0, 2.15), Material.GLASS, label),
        box((6.2, 1.0, 0.3), (-1.0, 0, 0.75), Material.RUBBER, label),
    ]
    if kind == "box":
        parts.append(box((6.0, 2.45, 2.5), (-0.95, 0, 2.2), Material.CARGO, label))
    else:
        parts.append(box((6.0, 2.4, 0.5), (-0.95, 0, 1.15), Material.WOOD, label))
        parts.append(boxes((1.4, 1.8, 0.9), [(-2.6, 0, 1.85), (-0.8, 0, 1.85), (0.9, 0, 1.85)], Material.CARGO, label))
    return join([*parts, *_wheels(label, (2.9, -1.9, -3.1), 2.4, 0.46), *_lamps(label, 4.0, -4.0, 2.3, 0.85)])


@cache
def two_wheeler(kind: str) -> Mesh:
    """A "bicycle" or "motorbike"; "rider" appended to the kind puts someone on it."""
    label = classes.TWO_WHEELER
    heavy = kind.startswith("motorbike")
    radius, thick = (0.31, 0.13) if heavy else (0.34, 0.05)
    parts = [
        rod((x, -thick / 2, radius), (x, thick / 2, radius), (radius, radius), Material.RUBBER, label, 14)
        for x in (-0.55, 0.58)
    ]
    tube = 0.09 if heavy else 0.03
    frame = [
        ((-0.55, 0, radius), (0.05, 0, 0.42)), ((0.05, 0, 0.42), (0.42, 0, 0.85)), ((-0.2, 0, 0.85), (0.42, 0, 0.82)),
        ((-0.2, 0, 0.85), (0.05, 0, 0.42)), ((0.58, 0, radius), (0.4, 0, 1.0)),
        ((0.36, -0.28, 1.02), (0.36, 0.28, 1.02)),
    ]  # fmt: skip
    parts += [rod(a, b, (tube, tube), Material.PAINT, label, 6) for a, b in frame]
    parts.append(box((0.3, 0.16, 0.08), (-0.22, 0, 0.92), Material.RUBBER, label))
    if heavy:
        parts.append(ball((0.42, 0.17, 0.2), (0.08, 0, 0.72), Material.PAINT, label))
        parts.append(box((0.08, 0.18, 0.14), (0.5, 0, 0.9), Material.HEADLAMP, label))
    return join(parts + (_rider() if kind.endswith("rider") else []))


def _rider() -> list[Mesh]:
    label = classes.TWO_WHEELER
    limbs = [((-0.18, 0.1, 0.95), (0.18, 0.13, 0.7)), ((0.18, 0.13, 0.7), (0.08, 0.13, 0.3)),
             ((-0.18, -0.1, 0.95), (0.2, -0.13, 0.78)), ((0.2, -0.13, 0.78), (0.12, -0.13, 0.45))]  # fmt: skip
    parts = [rod(a, b, (0.09, 0.07), Material.TROUSERS, label, 7) for a, b in limbs]
    parts.append(rod((-0.2, 0, 0.92), (0.08, 0, 1.48), (0.17, 0.2), Material.TOP, label, 8))
    parts += [rod((0.06, y, 1.42), (0.36, y * 1.1, 1.04), (0.06, 0.05), Material.TOP, label, 6) for y in (-0.2, 0.2)]
    return [*parts, ball((0.12, 0.1, 0.14), (0.14, 0, 1.66), Material.SKIN, label)]


Maker = Callable[[str], Mesh]
# What drives and parks: (share, maker, kinds, length in meters).
_FLEET: tuple[tuple[float, Maker, tuple[str, ...], float], ...] = (
    (0.86, car, CAR_KINDS, 4.8), (0.08, truck, ("box", "flat"), 8.2), (0.06, bus, ("long", "short"), 12.0)
)  # fmt: skip


def draw_vehicle(rng: np.random.Generator, longest: float = 99.0) -> tuple[Mesh, float, Color, Color]:
    """A random vehicle no longer than `longest` meters: its mesh, length and two colors."""
    choices = [entry for entry in _FLEET if entry[3] <= longest]
    weights = np.array([entry[0] for entry in choices])
    _, make, kinds, length = choices[int(rng.choice(len(choices), p=weights / weights.sum()))]
    first = paint.pick(rng, paint.CARS) if make is car else paint.vivid(rng)
    return make(kinds[int(rng.integers(len(kinds)))]), length, first, paint.vivid(rng)
