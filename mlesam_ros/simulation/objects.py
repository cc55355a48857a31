"""Meshes of buildings, street furniture, people, plants and vehicles, with random shapes and colors."""

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
    mesh,
    rod,
    rough,
    slab,
    swinging,
)
from mlesam_ros.simulation.street_layout import LAMP_HEIGHT
from mlesam_ros.simulation.textures import (
    CARS,
    FACADES,
    FENCES,
    LEAVES,
    POLES,
    ROOFS,
    SIGNALS,
    STATICS,
    TRIMS,
    WALLS,
    linear,
    pick,
    vivid,
)


def building(rng: np.random.Generator, width: float, x: float, y: float, heading: float) -> Instance:
    """A building with the middle of its front at (x, y) on the ground; the front faces -y of its local frame.

    Args:
        rng: draws height, roof and colors.
        width: width of the front, meters.
        x: meters.
        y: meters.
        heading: rotation about z, radians.
    """
    depth = rng.uniform(9.0, 14.0)
    height = float(rng.integers(2, 8)) * 3.2 + 0.9
    parts = [box((width, depth, height), (0, depth / 2, height / 2), Material.FACADE, Label.BUILDING)]
    gabled = height < 14 and rng.uniform() < 0.6
    parts += [_gable(width, depth, height)] if gabled else [_parapet(width, depth, height)]
    if not gabled and rng.uniform() < 0.5:
        place = (rng.uniform(-0.25, 0.25) * width, depth * 0.6, height + 1.1)
        parts.append(box((2.6, 2.2, 2.2), place, Material.CONCRETE, Label.BUILDING))
    parts += _balconies(rng, width, height) if rng.uniform() < 0.35 else []
    first, second = pick(rng, FACADES), pick(rng, TRIMS if not gabled else ROOFS)
    return Instance(join(parts), x, y, 0.0, heading, float(rng.uniform()), first, second)


def _gable(width: float, depth: float, height: float) -> Mesh:
    over, rise = 0.35, depth * 0.32
    x, y0, y1 = width / 2 + 0.1, -over, depth + over
    eaves = [(-x, y0, height), (x, y0, height), (x, y1, height), (-x, y1, height)]
    ridge = [(-x, depth / 2, height + rise), (x, depth / 2, height + rise)]
    return frustum(eaves, [ridge[0], ridge[1], ridge[1], ridge[0]], Material.ROOF, Label.BUILDING)


def _parapet(width: float, depth: float, height: float) -> Mesh:
    return box((width + 0.3, depth + 0.3, 0.5), (0, depth / 2, height + 0.1), Material.CONCRETE, Label.BUILDING)


def _balconies(rng: np.random.Generator, width: float, height: float) -> list[Mesh]:
    across = np.arange(-width / 2 + 2.0, width / 2 - 1.5, rng.uniform(3.5, 5.0))
    where = [(x, -0.5, z) for z in np.arange(4.1, height - 2.5, 3.2) for x in across]
    if not where:
        return []
    rails = [(x, -0.98, z + 0.5) for x, _, z in where]
    return [
        boxes((2.2, 1.0, 0.14), where, Material.CONCRETE, Label.BUILDING),
        boxes((2.2, 0.06, 0.9), rails, Material.METAL, Label.BUILDING),
    ]


def wall(rng: np.random.Generator, length: float, x: float, y: float, heading: float) -> Instance:
    """A garden wall of brick or concrete, `length` meters long, centered at (x, y)."""
    height = rng.uniform(1.1, 2.4)
    material = Material.BRICK if rng.uniform() < 0.6 else Material.CONCRETE
    parts = [
        box((length, 0.28, height), (0, 0, height / 2), material, Label.WALL),
        box((length + 0.05, 0.38, 0.1), (0, 0, height + 0.05), Material.CONCRETE, Label.WALL),
    ]
    return Instance(join(parts), x, y, 0.0, heading, float(rng.uniform()), pick(rng, WALLS))


def fence(rng: np.random.Generator, length: float, x: float, y: float, heading: float) -> Instance:
    """A see-through picket or railing fence, `length` meters long, centered at (x, y)."""
    height, pitch = rng.uniform(0.9, 1.9), rng.uniform(0.16, 0.24)
    wooden = rng.uniform() < 0.5
    material, thick = (Material.WOOD, 0.1) if wooden else (Material.METAL, 0.045)
    along = np.arange(-length / 2 + 0.1, length / 2, pitch)
    pickets = np.stack([along, np.zeros_like(along), np.full_like(along, height / 2)], 1)
    rails = [(0, 0.03, 0.2), (0, 0.03, height - 0.15)]
    parts = [
        boxes((thick, 0.03, height), pickets, material, Label.FENCE),
        boxes((length, 0.05, 0.08), rails, material, Label.FENCE),
    ]
    color = pick(rng, FENCES)
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), color, color)


def lamp(rng: np.random.Generator, x: float, y: float, side: int, heading: float, reach: float) -> Instance:
    """A street lamp at (x, y) with an arm of `reach` meters towards the road; `side` is +1 on the left, else -1."""
    arm = -side * reach
    parts = [
        rod((0, 0, 0), (0, 0, LAMP_HEIGHT), (0.1, 0.06), Material.METAL, Label.POLE),
        rod((0, 0, LAMP_HEIGHT - 0.1), (0, arm, LAMP_HEIGHT + 0.15), (0.05, 0.04), Material.METAL, Label.POLE, 6),
        box((0.28, 0.7, 0.12), (0, arm, LAMP_HEIGHT + 0.1), Material.STREETLAMP, Label.POLE),
    ]
    color = pick(rng, POLES)
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), color, color)


def _plate(sides: int, radius: float, z: float, turn: float = 0.0) -> Mesh:
    angle = np.arange(sides) * (2 * np.pi / sides) + turn
    ring = np.stack([np.full(sides, -0.07), radius * np.sin(angle), z + radius * np.cos(angle)], 1)
    fan = np.stack([np.zeros(sides - 2, int), np.arange(1, sides - 1), np.arange(2, sides)], 1)
    return mesh(ring, fan, Material.SIGN, Label.TRAFFIC_SIGN)


_RED, _WHITE, _BLUE, _YELLOW = (linear(*c) for c in ((190, 24, 30), (235, 235, 232), (24, 70, 160), (236, 190, 40)))


def sign(rng: np.random.Generator, x: float, y: float, heading: float) -> Instance:
    """A traffic sign: round, triangular, octagonal, square or a place-name board."""
    top = rng.uniform(2.3, 2.8)
    kind = int(rng.integers(5))
    face = [
        _plate(16, 0.36, top), _plate(3, 0.5, top), _plate(8, 0.4, top, np.pi / 8), _plate(4, 0.5, top, np.pi / 4),
        box((0.04, 1.2, 0.5), (-0.07, 0, top), Material.SIGN, Label.TRAFFIC_SIGN),
    ][kind]  # fmt: skip
    post = rod((0, 0, 0), (0, 0, top + 0.3), (0.035, 0.035), Material.POST, Label.POLE, 6)
    first = (_WHITE, _WHITE, _RED, _BLUE, _YELLOW)[kind]
    second = (_RED, _RED, _WHITE, _WHITE, linear(20, 20, 20))[kind]
    return Instance(join([post, face]), x, y, 0.1, heading, top / 4, first, second)


def signals(rng: np.random.Generator, x: float, y: float, heading: float, reach: float, phase: int) -> Instance:
    """A traffic light with a second head on an arm that reaches `reach` meters over the road (0: none).

    Args:
        rng: draws the tone of the pole.
        x: meters.
        y: meters.
        heading: rotation about z, radians; the lenses face -x of the local frame.
        reach: signed meters along y of the local frame.
        phase: index of the lit lens: 0 red, 1 amber, 2 green.
    """
    heads = [(-0.2, 0.0, 3.0)] + ([(-0.2, reach, 5.6)] if reach else [])
    height = 6.0 if reach else 3.5
    parts = [rod((0, 0, 0), (0, 0, height), (0.09, 0.07), Material.POST, Label.POLE)]
    if reach:
        parts.append(rod((0, 0, 5.8), (0, reach, 5.9), (0.06, 0.05), Material.POST, Label.POLE, 6))
    parts.append(boxes((0.26, 0.36, 1.0), heads, Material.RUBBER, Label.TRAFFIC_LIGHT))
    for number in range(3):
        lit = Material.SIGNAL if number == phase else Material.GLASS
        lenses = [(hx - 0.14, hy, hz + 0.31 * (1 - number)) for hx, hy, hz in heads]
        parts.append(boxes((0.06, 0.22, 0.22), lenses, lit, Label.TRAFFIC_LIGHT))
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), SIGNALS[phase], pick(rng, POLES))


def clutter(rng: np.random.Generator, x: float, y: float, heading: float) -> Instance:
    """A bin, bench, advertising column, cabinet or stack of crates."""
    make = (_bin, _bench, _column, _cabinet, _crates)[int(rng.integers(5))]
    first, second = pick(rng, STATICS, 0.3), pick(rng, FENCES, 0.3)
    return Instance(make(), x, y, 0.1, heading, float(rng.uniform()), first, second)


def _bin() -> Mesh:
    parts = [rod((0, 0, 0), (0, 0, 0.95), (0.26, 0.3), Material.PAINT, Label.STATIC, 10)]
    return join([*parts, rod((0, 0, 0.95), (0, 0, 1.05), (0.32, 0.2), Material.RUBBER, Label.STATIC, 10)])


def _bench() -> Mesh:
    seat = boxes((0.13, 1.7, 0.05), [(-0.2, 0, 0.45), (0, 0, 0.45), (0.2, 0, 0.45)], Material.WOOD, Label.STATIC)
    back = boxes((0.05, 1.7, 0.13), [(0.28, 0, 0.65), (0.3, 0, 0.85)], Material.WOOD, Label.STATIC)
    legs = boxes((0.5, 0.07, 0.45), [(0, -0.7, 0.22), (0, 0.7, 0.22)], Material.METAL, Label.STATIC)
    return join([seat, back, legs])


def _column() -> Mesh:
    body = rod((0, 0, 0.2), (0, 0, 2.7), (0.6, 0.6), Material.CARGO, Label.STATIC, 14)
    return join([body, rod((0, 0, 0), (0, 0, 0.2), (0.7, 0.7), Material.CONCRETE, Label.STATIC, 14)])


def _cabinet() -> Mesh:
    return box((0.45, 1.1, 1.3), (0, 0, 0.65), Material.PAINT, Label.STATIC)


def _crates() -> Mesh:
    where = [(0, 0, 0.35), (0.1, 0.8, 0.35), (0, 0.35, 1.0)]
    return boxes((0.8, 0.75, 0.65), where, Material.WOOD, Label.STATIC)


def bollards(rng: np.random.Generator, x: float, y: float, heading: float) -> Instance:
    """A row of five bollards along the curb."""
    posts = [rod((1.6 * n, 0, 0), (1.6 * n, 0, 0.9), (0.09, 0.07), Material.METAL, Label.POLE, 7) for n in range(5)]
    color = pick(rng, POLES)
    return Instance(join(posts), x, y, 0.1, heading, float(rng.uniform()), color, color)


def shelter(rng: np.random.Generator, x: float, y: float, heading: float) -> Instance:
    """A bus shelter, open towards -y of its local frame."""
    parts = [
        box((4.0, 1.5, 0.1), (0, 0.2, 2.45), Material.METAL, Label.STATIC),
        box((4.0, 0.05, 1.9), (0, 0.85, 1.3), Material.GLASS, Label.STATIC),
        boxes(
            (0.09, 0.09, 2.4),
            [(-1.95, 0.85, 1.2), (1.95, 0.85, 1.2), (0, 0.85, 1.2)],
            Material.METAL,
            Label.STATIC,
        ),
        box((0.1, 1.3, 1.7), (1.95, 0.15, 1.3), Material.CARGO, Label.STATIC),
        box((2.4, 0.4, 0.08), (-0.4, 0.55, 0.5), Material.WOOD, Label.STATIC),
    ]
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), vivid(rng), pick(rng, FENCES))


BUILDS = ("adult", "tall", "child", "coat", "bag")


@cache
def person(build: str) -> Mesh:
    """A pedestrian of one of `BUILDS`, about 1.75 m tall, with swinging legs and arms."""
    label = Label.PEDESTRIAN
    legs = [
        swinging(rod((0, y, 0.0), (0, y, 0.86), (0.075, 0.1), Material.TROUSERS, label, 7), 0.86, sign)
        for y, sign in ((-0.1, 1.0), (0.1, -1.0))
    ]
    arms = [
        swinging(rod((0, y, 0.78), (0, y * 0.85, 1.4), (0.045, 0.06), Material.TOP, label, 6), 1.4, sign)
        for y, sign in ((-0.28, -0.8), (0.28, 0.8))
    ]
    hem = 0.55 if build == "coat" else 0.84
    trunk = rod((0, 0, hem), (0, 0, 1.46), (0.2, 0.2), Material.TOP, label, 9)
    parts = [*legs, *arms, trunk, ball((0.11, 0.1, 0.14), (0.02, 0, 1.62), Material.SKIN, label)]
    parts.append(ball((0.12, 0.11, 0.1), (-0.02, 0, 1.69), Material.RUBBER, label))
    if build == "bag":
        parts.append(box((0.18, 0.3, 0.42), (-0.24, 0, 1.2), Material.TROUSERS, label))
    scale = {"tall": 1.08, "child": 0.68}.get(build, 1.0)
    whole = join(parts)
    return Mesh(
        whole.vertices * np.float32(scale),
        whole.triangles,
        whole.material,
        whole.classes,
        whole.swing * np.float32(scale),
    )


def draw_person(
    rng: np.random.Generator, x: float, y: float, z: float, heading: float, stride: float = 0.0
) -> Instance:
    """A random pedestrian at (x, y, z) meters, facing `heading` radians; `stride` as in `Instance`."""
    build = person(BUILDS[int(rng.integers(len(BUILDS)))])
    top, trousers = vivid(rng), pick(rng, STATICS + CARS[2:8], 0.3)
    return Instance(build, x, y, z, heading, float(rng.uniform()), top, trousers, stride)


def tree(rng: np.random.Generator, x: float, y: float, size: float | None = None) -> Instance:
    """A tree with a crown of several ellipsoids, `size` meters tall, by default 5 to 10."""
    height = size or rng.uniform(5.0, 10.0)
    stem = height * rng.uniform(0.3, 0.42)
    girth = 0.018 * height + 0.05
    lean = rng.uniform(-0.25, 0.25, 2)
    parts = [rod((0, 0, 0), (lean[0], lean[1], stem + 0.8), (girth, girth * 0.6), Material.BARK, Label.VEGETATION, 7)]
    slim = rng.uniform() < 0.25
    spread, rise = (0.14, 0.36) if slim else (rng.uniform(0.2, 0.27), 0.26)
    for number in range(2 if slim else int(rng.integers(5, 9))):
        angle, off = rng.uniform(0, 2 * np.pi), (0.0 if number == 0 else rng.uniform(0.5, 1.0) * spread * height)
        center = (
            float(lean[0] + np.cos(angle) * off * (not slim)),
            float(lean[1] + np.sin(angle) * off * (not slim)),
            stem + height * (rise + (0.0 if number == 0 else rng.uniform(-0.14, 0.2))),
        )
        scale = height * (1.0 if number == 0 else rng.uniform(0.55, 0.8))
        lump = ball((spread * scale, spread * scale, rise * scale), center, Material.LEAF, Label.VEGETATION, 7)
        parts.append(rough(lump, 0.028 * height, rng))
    leaf = pick(rng, LEAVES, 0.25)
    return Instance(join(parts), x, y, 0.1, float(rng.uniform(0, 6.28)), float(rng.uniform()), leaf, linear(96, 82, 68))


def hedge(rng: np.random.Generator, length: float, x: float, y: float, heading: float) -> Instance:
    """A clipped hedge, `length` meters long, centered at (x, y)."""
    height, deep = rng.uniform(0.8, 2.0), rng.uniform(0.6, 1.1)
    pieces = max(1, int(length / 1.2))
    along = (np.arange(pieces) + 0.5) * (length / pieces) - length / 2
    parts = [
        rough(box((length / pieces, deep, height), (a, 0, height / 2), Material.LEAF, Label.VEGETATION), 0.08, rng)
        for a in along
    ]
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), pick(rng, LEAVES, 0.2))


def bush(rng: np.random.Generator, x: float, y: float) -> Instance:
    """A low round bush."""
    radius = rng.uniform(0.5, 1.2)
    lump = ball((radius, radius, radius * 0.8), (0, 0, radius * 0.6), Material.LEAF, Label.VEGETATION, 6)
    return Instance(rough(lump, 0.12 * radius, rng), x, y, 0.1, 0.0, float(rng.uniform()), pick(rng, LEAVES, 0.25))


# Side views as (nose, tail, hood height, sill, glass from, glass to, roof from, roof to, roof height, width), meters.
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
    """A city bus; `kind` "long" or "short"."""
    length = 11.8 if kind == "long" else 8.6
    half, label = length / 2, Label.BUS
    parts = [
        box((length, 2.5, 2.6), (0, 0, 1.65), Material.COACH, label),
        box((length - 0.6, 2.2, 0.22), (0, 0, 3.05), Material.PAINT, label),
        box((0.06, 2.2, 1.3), (half, 0, 1.95), Material.GLASS, label),
        box((0.05, 1.6, 0.35), (half, 0, 2.8), Material.SIGN, label),
    ]
    return join([*parts, *_wheels(label, (half - 2.4, -half + 2.2), 2.5, 0.48), *_lamps(label, half, -half, 2.5, 0.75)])


@cache
def truck(kind: str) -> Mesh:
    """A truck; `kind` "box" has a box body, "flat" a flatbed with crates."""
    label = Label.TRUCK
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
    """A "bicycle" or "motorbike"; `kind` "bicycle rider" or "motorbike rider" adds a rider."""
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
# Vehicles that drive and park: (share, maker, kinds, length in meters).
_FLEET: tuple[tuple[float, Maker, tuple[str, ...], float], ...] = (
    (0.86, car, CAR_KINDS, 4.8), (0.08, truck, ("box", "flat"), 8.2), (0.06, bus, ("long", "short"), 12.0)
)  # fmt: skip


def draw_vehicle(rng: np.random.Generator, longest: float = 99.0) -> tuple[Mesh, float, Color, Color]:
    """A random vehicle of at most `longest` meters: its mesh, length in meters and two colors."""
    choices = [entry for entry in _FLEET if entry[3] <= longest]
    weights = np.array([entry[0] for entry in choices])
    _, make, kinds, length = choices[int(rng.choice(len(choices), p=weights / weights.sum()))]
    first = pick(rng, CARS) if make is car else vivid(rng)
    return make(kinds[int(rng.integers(len(kinds)))]), length, first, vivid(rng)
