# SPDX-License-Identifier: Apache-2.0
"""Meshes of vehicles, cyclists and pedestrians, with random kinds and colors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from mlesam_ros.simulation.scene import (
    Color,
    Instance,
    Label,
    Material,
    Mesh,
    ball,
    box,
    boxes,
    frustum,
    join,
    rod,
    scaled,
    slab,
    swinging,
)
from mlesam_ros.simulation.style import Look, Shapes

# Side views as (nose, tail, hood height, sill, glass from, glass to, roof from, roof to, roof height, width), meters.
_BODIES = {
    "hatchback": (2.0, -1.95, 0.92, 0.28, 1.0, -1.85, 0.25, -1.45, 1.48, 1.74),
    "saloon": (2.3, -2.25, 0.9, 0.28, 1.05, -1.65, 0.3, -0.95, 1.45, 1.8),
    "estate": (2.3, -2.3, 0.92, 0.28, 1.1, -2.2, 0.35, -1.95, 1.5, 1.82),
    "suv": (2.25, -2.2, 1.08, 0.38, 1.15, -2.1, 0.45, -1.85, 1.74, 1.9),
    "van": (2.4, -2.5, 1.2, 0.36, 1.75, -2.48, 1.05, -2.42, 2.15, 1.95),
    "compact": (1.75, -1.7, 0.95, 0.28, 0.95, -1.64, 0.35, -1.35, 1.54, 1.64),
    "coupe": (2.2, -2.1, 0.84, 0.24, 0.9, -1.75, 0.1, -0.7, 1.3, 1.82),
    "pickup": (2.65, -2.65, 1.08, 0.42, 1.2, -0.65, 0.55, -0.5, 1.8, 1.9),
    "minivan": (2.35, -2.4, 1.04, 0.3, 1.6, -2.3, 0.85, -2.1, 1.78, 1.86),
    "offroader": (2.1, -2.15, 1.16, 0.48, 0.9, -2.1, 0.72, -2.04, 1.92, 1.88),
}


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
    """A car or van of one of the kinds of `Shapes.cars`."""
    nose, tail, belt, sill, glass0, glass1, roof0, roof1, roof, width = _BODIES[kind]
    label, half = Label.CARS, width / 2
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
    """A bus; `kind` "long", "short", "double" with two decks or "coach"."""
    length = {"long": 11.8, "short": 8.6, "double": 10.6, "coach": 12.4}[kind]
    half, label = length / 2, Label.BUS
    top = {"double": 4.2, "coach": 3.4}.get(kind, 2.95)
    parts = [
        box((length, 2.5, top - 0.35), (0, 0, (top + 0.35) / 2), Material.COACH, label),
        box((length - 0.6, 2.2, 0.22), (0, 0, top + 0.1), Material.PAINT, label),
        box((0.06, 2.2, 1.3), (half, 0, 1.95), Material.GLASS, label),
        box((0.05, 1.6, 0.35), (half, 0, 2.8), Material.SIGN, label),
    ]
    if kind == "double":
        parts.append(box((0.06, 2.2, 0.9), (half, 0, 3.5), Material.GLASS, label))
    return join([*parts, *_wheels(label, (half - 2.4, -half + 2.2), 2.5, 0.48), *_lamps(label, half, -half, 2.5, 0.75)])


@cache
def truck(kind: str) -> Mesh:
    """A truck; `kind` "box" or "small" with a box body, "flat" with crates, "tipper" or "tank"."""
    label = Label.TRUCK
    cab = [(3.9, 0.5), (4.0, 1.5), (3.8, 2.7), (2.2, 2.9), (2.2, 0.5)]
    parts = [
        slab(cab, 2.35, Material.PAINT, label),
        box((0.06, 2.0, 0.85), (3.93, 0, 2.1), Material.GLASS, label),
        box((0.9, 2.37, 0.7), (3.1, 0, 2.15), Material.GLASS, label),
        box((6.2, 1.0, 0.3), (-1.0, 0, 0.75), Material.RUBBER, label),
    ]
    if kind in ("box", "small"):
        parts.append(box((6.0, 2.45, 2.5), (-0.95, 0, 2.2), Material.CARGO, label))
    elif kind == "flat":
        parts.append(box((6.0, 2.4, 0.5), (-0.95, 0, 1.15), Material.WOOD, label))
        parts.append(boxes((1.4, 1.8, 0.9), [(-2.6, 0, 1.85), (-0.8, 0, 1.85), (0.9, 0, 1.85)], Material.CARGO, label))
    elif kind == "tipper":
        bed = [(1.9, 1.0), (2.0, 2.5), (-4.0, 2.3), (-3.7, 1.0)]
        parts.append(slab(bed, 2.4, Material.METAL, label))
    else:
        parts.append(rod((2.0, 0, 2.05), (-4.0, 0, 2.05), (1.15, 1.15), Material.CARGO, label, 12))
    whole = [*parts, *_wheels(label, (2.9, -1.9, -3.1), 2.4, 0.46), *_lamps(label, 4.0, -4.0, 2.3, 0.85)]
    return scaled(join(whole), 0.78 if kind == "small" else 1.0)


@cache
def two_wheeler(kind: str) -> Mesh:
    """A "bicycle", "cargo bicycle" or "motorbike"; a `kind` that ends in "rider" adds a rider."""
    label = Label.TWO_WHEELER
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
    if kind.startswith("cargo"):
        parts.append(box((0.55, 0.5, 0.45), (0.75, 0, 0.6), Material.PAINT, label))
    return join(parts + (_rider() if kind.endswith("rider") else []))


def _rider() -> list[Mesh]:
    label = Label.TWO_WHEELER
    limbs = [((-0.18, 0.1, 0.95), (0.18, 0.13, 0.7)), ((0.18, 0.13, 0.7), (0.08, 0.13, 0.3)),
             ((-0.18, -0.1, 0.95), (0.2, -0.13, 0.78)), ((0.2, -0.13, 0.78), (0.12, -0.13, 0.45))]  # fmt: skip
    parts = [rod(a, b, (0.09, 0.07), Material.TROUSERS, label, 7) for a, b in limbs]
    parts.append(rod((-0.2, 0, 0.92), (0.08, 0, 1.48), (0.17, 0.2), Material.TOP, label, 8))
    parts += [rod((0.06, y, 1.42), (0.36, y * 1.1, 1.04), (0.06, 0.05), Material.TOP, label, 6) for y in (-0.2, 0.2)]
    return [*parts, ball((0.12, 0.1, 0.14), (0.14, 0, 1.66), Material.SKIN, label)]


Maker = Callable[[str], Mesh]
_LENGTHS = ((car, 4.8), (truck, 8.2), (bus, 12.0))
"""Length in meters that each kind of vehicle takes along the curb."""


def draw_vehicle(
    rng: np.random.Generator, shapes: Shapes, look: Look, longest: float = 99.0
) -> tuple[Mesh, float, Color, Color]:
    """A random vehicle of at most `longest` meters: its mesh, length in meters and two colors."""
    fleet = zip(shapes.fleet, (shapes.cars, shapes.trucks, shapes.buses), _LENGTHS, strict=True)
    choices = [(share, kinds, make, length) for share, kinds, (make, length) in fleet if length <= longest]
    weights = np.array([entry[0] for entry in choices])
    _, kinds, make, length = choices[int(rng.choice(len(choices), p=weights / weights.sum()))]
    first = look.cars.draw(rng) if make is car else look.coaches.draw(rng)
    return make(kinds[int(rng.integers(len(kinds)))]), length, first, look.coaches.draw(rng)


@cache
def person(build: str, height: float = 1.0, girth: float = 1.0) -> Mesh:
    """A pedestrian of one of the kinds of `Shapes.builds`, with swinging legs and arms.

    Suitcases, prams and dogs of pedestrians are `Label.DYNAMIC`; bags and umbrellas belong to the pedestrian.

    Args:
        build: kind.
        height: factor on the height of 1.75 m.
        girth: factor on the horizontal extent.
    """
    label = Label.PEDESTRIAN
    legs = [
        swinging(rod((0, y, 0.0), (0, y, 0.86), (0.075, 0.1), Material.TROUSERS, label, 7), 0.86, sign)
        for y, sign in ((-0.1, 1.0), (0.1, -1.0))
    ]
    arms = [
        swinging(rod((0, y, 0.78), (0, y * 0.85, 1.4), (0.045, 0.06), Material.TOP, label, 6), 1.4, sign)
        for y, sign in ((-0.28, -0.8), (0.28, 0.8))
    ]
    if build in ("phone", "umbrella", "pram"):
        hand = {"phone": (0.22, -0.12, 1.5), "umbrella": (0.24, -0.16, 1.3), "pram": (0.42, -0.24, 1.05)}[build]
        arms[0] = join(
            [
                rod((0, -0.24, 1.4), (0.06, -0.27, 1.1), (0.06, 0.05), Material.TOP, label, 6),
                rod((0.06, -0.27, 1.1), hand, (0.05, 0.045), Material.TOP, label, 6),
            ]
        )
    hem = {"coat": 0.55, "skirt": 0.8}.get(build, 0.84)
    trunk = rod((0, 0, hem), (0, 0, 1.46), (0.2, 0.2), Material.TOP, label, 9)
    parts = [*legs, *arms, trunk, ball((0.11, 0.1, 0.14), (0.02, 0, 1.62), Material.SKIN, label)]
    if build == "hood":
        parts.append(ball((0.14, 0.14, 0.17), (-0.04, 0, 1.64), Material.TOP, label))
    else:
        parts.append(ball((0.12, 0.11, 0.1), (-0.02, 0, 1.69), Material.RUBBER, label))
    parts += _belongings(build)
    scale = {"tall": 1.08, "child": 0.68}.get(build, 1.0) * height
    return scaled(join(parts), scale, scale * girth)


def _belongings(build: str) -> list[Mesh]:
    label, dynamic = Label.PEDESTRIAN, Label.DYNAMIC
    if build == "bag":
        return [box((0.18, 0.3, 0.42), (-0.24, 0, 1.2), Material.TROUSERS, label)]
    if build == "skirt":
        hips = rod((0, 0, 0.45), (0, 0, 0.98), (0.3, 0.17), Material.TROUSERS, label, 9)
        return [hips, box((0.3, 0.1, 0.22), (0, 0.34, 0.75), Material.RUBBER, label)]
    if build == "umbrella":
        canopy = rod((0.22, -0.1, 1.9), (0.22, -0.1, 2.15), (0.55, 0.04), Material.TOP, label, 9)
        return [canopy, rod((0.24, -0.14, 1.2), (0.22, -0.1, 2.1), (0.015, 0.015), Material.METAL, label, 4)]
    if build == "case":
        handle = rod((-0.5, 0.3, 0.6), (-0.1, 0.3, 0.8), (0.015, 0.015), Material.POST, dynamic, 4)
        return [box((0.26, 0.42, 0.6), (-0.55, 0.3, 0.34), Material.CARGO, dynamic), handle]
    if build == "pram":
        return [
            box((0.75, 0.42, 0.32), (0.95, 0, 0.72), Material.TROUSERS, dynamic),
            rod((0.6, 0, 0.9), (0.95, 0, 1.1), (0.05, 0.24), Material.TROUSERS, dynamic, 8),
            boxes((0.2, 0.06, 0.2), [(x, y, 0.12) for x in (0.65, 1.25) for y in (-0.24, 0.24)], Material.RUBBER,
                  dynamic),
            boxes((0.5, 0.03, 0.03), [(0.65, -0.2, 0.98), (0.65, 0.2, 0.98)], Material.POST, dynamic),
        ]  # fmt: skip
    return _dog() if build == "dog" else []


def _dog() -> list[Mesh]:
    label, y = Label.DYNAMIC, 0.55
    legs = [(0.35 + x, y + side, 0.16) for x in (-0.22, 0.22) for side in (-0.08, 0.08)]
    return [
        ball((0.36, 0.14, 0.15), (0.35, y, 0.42), Material.BARK, label),
        ball((0.15, 0.09, 0.1), (0.75, y, 0.58), Material.BARK, label),
        boxes((0.07, 0.06, 0.34), legs, Material.BARK, label),
    ]


_SIZES = 2
"""Steps of people's heights and girths to either side of the mean; equal meshes are shared."""


def draw_person(
    rng: np.random.Generator, shapes: Shapes, look: Look, pose: tuple[float, float, float], heading: float,
    stride: float = 0.0,
) -> Instance:  # fmt: skip
    """A random pedestrian at a position in meters, facing `heading` radians; `stride` as in `Instance`."""
    build = shapes.builds[int(rng.integers(len(shapes.builds)))]
    height = girth = 1.0
    if shapes.grown:
        steps = rng.integers(-_SIZES, _SIZES + 1, 2) / _SIZES
        height, girth = round(1 + shapes.grown * float(steps[0]), 3), 1 + 0.25 * float(steps[1])
    top, trousers = look.tops.draw(rng), look.trousers.draw(rng, 0.3)
    mesh = person(build, height, girth)
    return Instance(mesh, *pose, heading, float(rng.uniform()), top, trousers, stride)
