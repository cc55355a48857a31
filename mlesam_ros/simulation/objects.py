# SPDX-License-Identifier: Apache-2.0
"""Meshes of buildings, barriers, street furniture and plants, with random shapes and colors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

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
    moved,
    rod,
    rods,
    rough,
    slab,
)
from mlesam_ros.simulation.street_layout import LAMP_HEIGHT, StreetLayout
from mlesam_ros.simulation.style import Look, choose, linear

SIGNALS = [linear(*c) for c in ((255, 40, 30), (255, 170, 30), (40, 240, 120))]
_STOREY_M = 3.2


def building(
    rng: np.random.Generator, layout: StreetLayout, width: float, x: float, y: float, heading: float
) -> Instance:
    """A building with the middle of its front at (x, y) on the ground; the front faces -y of its local frame.

    Args:
        rng: draws height, roof and colors.
        layout: shapes and colors of the street.
        width: width of the front, meters.
        x: meters.
        y: meters.
        heading: rotation about z, radians.
    """
    depth = rng.uniform(9.0, 14.0)
    height = float(rng.integers(2, 8)) * _STOREY_M + 0.9
    parts = [box((width, depth, height), (0, depth / 2, height / 2), Material.FACADE, Label.BUILDING)]
    gabled = height < 14 and rng.uniform() < 0.6
    parts += [_gable(width, depth, height)] if gabled else [_parapet(width, depth, height)]
    if not gabled and rng.uniform() < 0.5:
        place = (rng.uniform(-0.25, 0.25) * width, depth * 0.6, height + 1.1)
        parts.append(box((2.6, 2.2, 2.2), place, Material.CONCRETE, Label.BUILDING))
    parts += _balconies(rng, width, height) if rng.uniform() < 0.35 else []
    if layout.shapes.awnings:
        parts += _shop_front(rng, width, height) if rng.uniform() < layout.shapes.awnings else []
    look = layout.look
    first, second = look.facades.draw(rng), (look.roofs if gabled else look.trims).draw(rng)
    return Instance(join(parts), x, y, 0.0, heading, float(rng.uniform()), first, second)


def _shop_front(rng: np.random.Generator, width: float, height: float) -> list[Mesh]:
    """An awning, signs that project from the front, and a bay window or a chimney."""
    label = Label.BUILDING
    reach, low = rng.uniform(0.7, 1.6), rng.uniform(2.3, 2.7)
    span = width * rng.uniform(0.3, 0.8)
    profile = [(-span / 2, -reach, low), (span / 2, -reach, low), (span / 2, 0, low + 0.6), (-span / 2, 0, low + 0.6)]
    parts = [frustum(profile, [(x, y, z + 0.05) for x, y, z in profile], Material.CARGO, label)]
    for _ in range(int(rng.integers(0, 3))):
        size = (0.12, rng.uniform(0.5, 1.1), rng.uniform(0.4, 2.4))
        where = (rng.uniform(-0.45, 0.45) * width, -size[1] / 2, rng.uniform(3.2, 4.2) + size[2] / 2)
        parts.append(box(size, where, Material.CARGO, label))
    if rng.uniform() < 0.5:
        parts.append(box((0.9, 0.9, 2.2), (rng.uniform(-0.4, 0.4) * width, 4.0, height + 1.6), Material.BRICK, label))
    else:
        middle = (rng.uniform(-0.3, 0.3) * width, -0.45, height / 2 + 1.4)
        parts.append(box((2.4, 0.9, max(height - 3.6, 1.0)), middle, Material.FACADE, label))
    return parts


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
    where = [(x, -0.5, z) for z in np.arange(4.1, height - 2.5, _STOREY_M) for x in across]
    if not where:
        return []
    rails = [(x, -0.98, z + 0.5) for x, _, z in where]
    return [
        boxes((2.2, 1.0, 0.14), where, Material.CONCRETE, Label.BUILDING),
        boxes((2.2, 0.06, 0.9), rails, Material.METAL, Label.BUILDING),
    ]


def wall(rng: np.random.Generator, look: Look, length: float, x: float, y: float, heading: float) -> Instance:
    """A garden wall of brick or concrete, `length` meters long, centered at (x, y)."""
    height = rng.uniform(1.1, 2.4)
    material = Material.BRICK if rng.uniform() < 0.6 else Material.CONCRETE
    parts = [
        box((length, 0.28, height), (0, 0, height / 2), material, Label.WALL),
        box((length + 0.05, 0.38, 0.1), (0, 0, height + 0.05), Material.CONCRETE, Label.WALL),
    ]
    return Instance(join(parts), x, y, 0.0, heading, float(rng.uniform()), look.walls.draw(rng))


def fence(rng: np.random.Generator, look: Look, length: float, x: float, y: float, heading: float) -> Instance:
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
    color = look.fences.draw(rng)
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), color, color)


def guard_rail(rng: np.random.Generator, look: Look, length: float, x: float, y: float, heading: float) -> Instance:
    """A crash barrier with one or two beams, or a concrete barrier, `length` meters long, centered at (x, y)."""
    label, kind = Label.GUARD_RAIL, int(rng.integers(3))
    color = look.poles.draw(rng)
    if kind == 2:
        profile = [(-0.3, 0.0), (0.3, 0.0), (0.16, 0.3), (0.09, 0.85), (-0.09, 0.85), (-0.16, 0.3)]
        parts = [moved(slab(profile, length, Material.CONCRETE, label), heading=np.pi / 2)]
    else:
        along = np.arange(-length / 2 + 0.5, length / 2, rng.uniform(1.8, 3.5))
        posts = np.stack([along, np.full_like(along, 0.08), np.full_like(along, 0.36)], 1)
        beams = [(0, 0, 0.6), (0, 0, 0.3)][: kind + 1]
        parts = [
            boxes((0.1, 0.1, 0.72), posts, Material.METAL, label),
            boxes((length, 0.08, 0.2 + 0.1 * (1 - kind)), beams, Material.METAL, label),
        ]
    return Instance(join(parts), x, y, 0.0, heading, float(rng.uniform()), color, color)


def viaduct(rng: np.random.Generator, layout: StreetLayout, x: float, y: float, heading: float) -> Instance:
    """A bridge that crosses over the street at (x, y)."""
    label, clear, deep = Label.BRIDGE, rng.uniform(5.0, 6.6), rng.uniform(0.8, 1.6)
    width = rng.uniform(4.0, 11.0)
    material = (Material.CONCRETE, Material.BRICK, Material.METAL)[int(rng.integers(3))]
    rim = clear + deep
    parts = [
        box((width, 120.0, deep), (0, 0, clear + deep / 2), material, label),
        boxes((0.25, 120.0, 0.9), [(-width / 2, 0, rim + 0.4), (width / 2, 0, rim + 0.4)], material, label),
    ]
    edge = layout.curb + rng.uniform(0.6, 1.4)
    for side in (-1, 1):
        for d in np.arange(edge, 60.0, rng.uniform(9.0, 14.0)):
            if rng.uniform() < 0.5:
                parts.append(box((width * 0.8, 0.9, clear), (0, side * d, clear / 2), material, label))
            else:
                feet = [(-width * 0.3, side * d, clear / 2), (width * 0.3, side * d, clear / 2)]
                parts.append(boxes((0.9, 0.9, clear), feet, material, label))
    return Instance(join(parts), x, y, 0.0, heading, float(rng.uniform()), layout.look.walls.draw(rng))


def lamp(
    rng: np.random.Generator, layout: StreetLayout, x: float, y: float, side: int, heading: float, reach: float
) -> Instance:
    """A street lamp at (x, y) whose head is `reach` meters towards the road; `side` is +1 on the left, else -1."""
    arm, top, label = -side * reach, LAMP_HEIGHT, Label.POLE
    kind = choose(layout.shapes.lamps, rng)
    parts = [rod((0, 0, 0), (0, 0, top), (0.1, 0.06), Material.METAL, label)]
    if kind != "arm":
        thick = rng.uniform(0.05, 0.14)
        parts = [rod((0, 0, 0), (0, 0, top), (thick, 0.7 * thick), Material.METAL, label)]
    if kind == "post":
        parts = [rod((0, 0, 0), (0, 0, 4.4), (0.09, 0.05), Material.METAL, label)]
        parts.append(rod((0, 0, 4.4), (0, 0, 4.9), (0.14, 0.24), Material.STREETLAMP, label, 6))
        parts.append(rod((0, 0, 4.9), (0, 0, 5.1), (0.28, 0.05), Material.METAL, label, 6))
    else:
        bow = [(0.0, -0.9), (0.45, -0.25), (1.0, 0.0)] if kind == "curved" else [(0.0, -0.25), (1.0, 0.0)]
        for way in (1.0, -1.0) if kind == "double" else (1.0,):
            for (a, low), (b, high) in pairwise(bow):
                start, end = (0, way * a * arm, top + 0.15 + low), (0, way * b * arm, top + 0.15 + high)
                parts.append(rod(start, end, (0.05, 0.04), Material.METAL, label, 6))
            parts.append(box((0.28, 0.7, 0.12), (0, way * arm, top + 0.1), Material.STREETLAMP, label))
    color = layout.look.poles.draw(rng)
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), color, color)


def pole(rng: np.random.Generator, layout: StreetLayout, x: float, y: float, heading: float) -> Instance:
    """A bare pole: thin, thick, a mast of tram or utility wires with brackets, or a flagpole."""
    label, kind = Label.POLE, int(rng.integers(4))
    height = (rng.uniform(1.8, 3.5), rng.uniform(4.0, 9.0), rng.uniform(6.5, 9.5), rng.uniform(5.0, 9.0))[kind]
    radius = (0.025, rng.uniform(0.1, 0.22), rng.uniform(0.1, 0.18), 0.045)[kind] * rng.uniform(0.8, 1.5)
    material = Material.BARK if kind == 2 and rng.uniform() < 0.5 else Material.METAL
    parts = [rod((0, 0, 0), (0, 0, height), (radius, radius * rng.uniform(0.5, 1.0)), material, label)]
    if kind == 2:
        parts += [
            box((0.1, rng.uniform(1.2, 2.4), 0.12), (0, 0, height - 0.4 - 0.8 * n), material, label)
            for n in range(int(rng.integers(1, 3)))
        ]
    if kind == 3:
        parts.append(box((0.02, 1.3, 0.9), (0, 0.65, height - 0.6), Material.CARGO, Label.OTHER))
    color = layout.look.poles.draw(rng)
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), color, layout.look.poles.draw(rng))


def gantry(rng: np.random.Generator, layout: StreetLayout, x: float, y: float, heading: float) -> Instance:
    """A beam over the road on two posts, with direction signs that face -x of the local frame."""
    half, top = layout.curb + 0.4, rng.uniform(5.6, 6.6)
    posts = [rod((0, d, 0), (0, d, top + 0.4), (0.16, 0.12), Material.POST, Label.POLE) for d in (-half, half)]
    beams = boxes((0.18, 2 * half, 0.14), [(0, 0, top), (0, 0, top + 0.7)][: int(rng.integers(1, 3))], Material.POST,
                  Label.POLE)  # fmt: skip
    boards = [
        box((0.05, rng.uniform(1.6, 2.8), rng.uniform(1.2, 2.0)), (-0.2, d, top), Material.SIGN, Label.TRAFFIC_SIGN)
        for d in rng.permutation([-0.5, 0.5, 0.0])[: int(rng.integers(1, 3))] * layout.curb
    ]
    return Instance(join([*posts, beams, *boards]), x, y, 0.0, heading, top / 4, *_SIGN_COLORS[int(rng.integers(4))])


def _plate(sides: int, radius: float, z: float, turn: float = 0.0) -> Mesh:
    angle = np.arange(sides) * (2 * np.pi / sides) + turn
    ring = np.stack([np.full(sides, -0.07), radius * np.sin(angle), z + radius * np.cos(angle)], 1)
    fan = np.stack([np.zeros(sides - 2, int), np.arange(1, sides - 1), np.arange(2, sides)], 1)
    return mesh(ring, fan, Material.SIGN, Label.TRAFFIC_SIGN)


_RED, _WHITE, _BLUE, _YELLOW = (linear(*c) for c in ((190, 24, 30), (235, 235, 232), (24, 70, 160), (236, 190, 40)))
_BLACK, _GREEN = linear(20, 20, 20), linear(20, 110, 70)
_SIGN_COLORS = ((_BLUE, _WHITE), (_GREEN, _WHITE), (_WHITE, _BLACK), (_YELLOW, _BLACK))
_SIGNS: dict[str, tuple[Color, Color]] = {
    "round": (_WHITE, _RED), "triangle": (_WHITE, _RED), "octagon": (_RED, _WHITE), "square": (_BLUE, _WHITE),
    "board": (_YELLOW, _BLACK), "arrow": (_BLUE, _WHITE), "pair": (_WHITE, _RED), "diamond": (_YELLOW, _BLACK),
    "tall": (_GREEN, _WHITE), "plate": (_WHITE, _BLACK),
}  # fmt: skip
"""Kind of traffic sign → colors of face and rim."""


def _sign_faces(kind: str, top: float) -> list[Mesh]:
    def board(width: float, height: float, z: float) -> Mesh:
        return box((0.04, width, height), (-0.07, 0, z), Material.SIGN, Label.TRAFFIC_SIGN)

    faces: dict[str, Callable[[], list[Mesh]]] = {
        "round": lambda: [_plate(16, 0.36, top)],
        "triangle": lambda: [_plate(3, 0.5, top)],
        "octagon": lambda: [_plate(8, 0.4, top, np.pi / 8)],
        "square": lambda: [_plate(4, 0.5, top, np.pi / 4)],
        "board": lambda: [board(1.2, 0.5, top)],
        "arrow": lambda: [_plate(16, 0.3, top)],
        "pair": lambda: [_plate(16, 0.32, top), board(0.5, 0.3, top - 0.55)],
        "diamond": lambda: [_plate(4, 0.45, top)],
        "tall": lambda: [board(0.8, 1.6, top - 0.4)],
        "plate": lambda: [board(0.9, 0.22, top), _plate(4, 0.3, top - 0.5, np.pi / 4)],
    }
    return faces[kind]()


def sign(rng: np.random.Generator, layout: StreetLayout, x: float, y: float, heading: float) -> Instance:
    """A traffic sign of one of the kinds of `Shapes.signs`."""
    top = rng.uniform(2.3, 2.8)
    kinds = layout.shapes.signs
    kind = kinds[int(rng.integers(len(kinds)))]
    post = rod((0, 0, 0), (0, 0, top + 0.3), (0.035, 0.035), Material.POST, Label.POLE, 6)
    return Instance(join([post, *_sign_faces(kind, top)]), x, y, 0.1, heading, top / 4, *_SIGNS[kind])


def signals(
    rng: np.random.Generator, layout: StreetLayout, x: float, y: float, heading: float, reach: float, phase: int
) -> Instance:
    """A traffic light with a second head on an arm that reaches `reach` meters over the road (0: none).

    Args:
        rng: draws the tone of the pole.
        layout: kinds of housings, and colors of the street.
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
    kind = choose(layout.shapes.signals, rng)
    size = {"upright": (0.26, 0.36, 1.0), "wide": (0.1, 0.62, 1.3), "small": (0.2, 0.24, 0.7)}[kind]
    parts.append(boxes(size, heads, Material.RUBBER, Label.TRAFFIC_LIGHT))
    pitch, lens, front = (0.2, 0.16, 0.11) if kind == "small" else (0.31, 0.22, 0.06 if kind == "wide" else 0.14)
    for number in range(3):
        lit = Material.SIGNAL if number == phase else Material.GLASS
        lenses = [(hx - front, hy, hz + pitch * (1 - number)) for hx, hy, hz in heads]
        parts.append(boxes((0.06, lens, lens), lenses, lit, Label.TRAFFIC_LIGHT))
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), SIGNALS[phase], layout.look.poles.draw(rng))


def clutter(rng: np.random.Generator, layout: StreetLayout, x: float, y: float, heading: float) -> Instance:
    """A bin, bench, advertising column or other fixed object of one of the kinds of `Shapes.clutter`."""
    kinds, look = layout.shapes.clutter, layout.look
    make = _CLUTTER[kinds[int(rng.integers(len(kinds)))]]
    first, second = look.statics.draw(rng, 0.3), look.fences.draw(rng, 0.3)
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


def _hydrant() -> Mesh:
    body = rod((0, 0, 0), (0, 0, 0.65), (0.13, 0.11), Material.PAINT, Label.STATIC, 8)
    caps = boxes((0.12, 0.42, 0.12), [(0, 0, 0.45)], Material.PAINT, Label.STATIC)
    return join([body, caps, ball((0.12, 0.12, 0.1), (0, 0, 0.68), Material.PAINT, Label.STATIC)])


def _planter() -> Mesh:
    tub = box((0.8, 1.4, 0.55), (0, 0, 0.28), Material.CONCRETE, Label.STATIC)
    shrubs = [ball((0.35, 0.4, 0.35), (0, d, 0.75), Material.LEAF, Label.VEGETATION, 5) for d in (-0.35, 0.35)]
    return join([tub, *shrubs])


def _mailbox() -> Mesh:
    return join(
        [
            box((0.4, 0.5, 0.75), (0, 0, 1.0), Material.PAINT, Label.STATIC),
            boxes((0.06, 0.06, 0.65), [(0, -0.18, 0.32), (0, 0.18, 0.32)], Material.METAL, Label.STATIC),
        ]
    )


def _meter() -> Mesh:
    post = rod((0, 0, 0), (0, 0, 1.1), (0.05, 0.05), Material.POST, Label.POLE, 6)
    return join([post, box((0.25, 0.3, 0.5), (0, 0, 1.3), Material.PAINT, Label.STATIC)])


def _rack() -> Mesh:
    sides = boxes((0.05, 0.05, 0.8), [(0, d, 0.4) for d in (-1.2, -0.7, -0.2, 0.3, 0.8, 1.3)], Material.METAL,
                  Label.STATIC)  # fmt: skip
    tops = boxes((0.05, 0.55, 0.05), [(0, d, 0.8) for d in (-0.95, 0.05, 1.05)], Material.METAL, Label.STATIC)
    return join([sides, tops])


_CLUTTER: dict[str, Callable[[], Mesh]] = {
    "bin": _bin, "bench": _bench, "column": _column, "cabinet": _cabinet, "crates": _crates, "hydrant": _hydrant,
    "planter": _planter, "mailbox": _mailbox, "meter": _meter, "rack": _rack,
}  # fmt: skip


def movable(rng: np.random.Generator, look: Look, x: float, y: float, heading: float) -> Instance:
    """Objects that people move: wheeled bins, sacks, cones, chairs at a table, or a trolley."""
    label, kind, count = Label.DYNAMIC, int(rng.integers(5)), int(rng.integers(1, 5))
    at = [0.75 * n for n in range(count)]
    if kind == 0:
        parts = [box((0.6, 0.58, 1.0), (0, d, 0.58), Material.PAINT, label) for d in at]
        parts += [box((0.66, 0.6, 0.08), (0.02, d, 1.1), Material.PAINT, label) for d in at]
        parts.append(boxes((0.2, 0.5, 0.2), [(0.22, d, 0.1) for d in at], Material.RUBBER, label))
    elif kind == 1:
        parts = [rough(ball((0.32, 0.34, 0.34), (0.1 * n, d, 0.28), Material.CARGO, label, 5), 0.05, rng)
                 for n, d in enumerate(at)]  # fmt: skip
    elif kind == 2:
        parts = [rod((0, 1.6 * d, 0.02), (0, 1.6 * d, 0.75), (0.17, 0.03), Material.SIGNAL, label, 8) for d in at]
        parts.append(boxes((0.4, 0.4, 0.04), [(0, 1.6 * d, 0.02) for d in at], Material.RUBBER, label))
    elif kind == 3:
        parts = [
            rod((0, 0, 0.7), (0, 0, 0.75), (0.45, 0.45), Material.WOOD, label, 10),
            rod((0, 0, 0), (0, 0, 0.7), (0.04, 0.04), Material.METAL, label, 6),
            boxes((0.42, 0.42, 0.06), [(0.8, 0, 0.45), (-0.8, 0, 0.45)], Material.PAINT, label),
            boxes((0.05, 0.42, 0.5), [(1.0, 0, 0.7), (-1.0, 0, 0.7)], Material.PAINT, label),
            boxes((0.04, 0.04, 0.45), [(s * 0.8 + a, b, 0.22) for s in (-1, 1) for a in (-0.18, 0.18)
                                       for b in (-0.18, 0.18)], Material.METAL, label),
        ]  # fmt: skip
    else:
        parts = [
            boxes((0.8, 0.03, 0.5), [(0, -0.25, 0.75), (0, 0.25, 0.75)], Material.METAL, label),
            box((0.8, 0.5, 0.04), (0, 0, 0.5), Material.METAL, label),
            boxes((0.12, 0.05, 0.12), [(a, b, 0.06) for a in (-0.35, 0.35) for b in (-0.2, 0.2)], Material.RUBBER,
                  label),
            boxes((0.03, 0.03, 0.5), [(a, b, 0.3) for a in (-0.35, 0.35) for b in (-0.2, 0.2)], Material.METAL, label),
        ]  # fmt: skip
    first, second = look.statics.draw(rng, 0.3), look.fences.draw(rng)
    return Instance(join(parts), x, y, 0.12, heading, float(rng.uniform()), first, second)


def oddity(rng: np.random.Generator, look: Look, x: float, y: float, heading: float) -> Instance:
    """An object that no other class names: a monument, a parasol, a market stall, a scaffold or a tent."""
    label, kind = Label.OTHER, int(rng.integers(5))
    if kind == 0:
        parts = [
            box((1.4, 1.4, 1.5), (0, 0, 0.75), Material.CONCRETE, label),
            rod((0, 0, 1.5), (0, 0, 2.9), (0.34, 0.22), Material.CONCRETE, label, 8),
            ball((0.2, 0.18, 0.24), (0, 0, 3.1), Material.CONCRETE, label),
        ]
    elif kind == 1:
        parts = [
            rod((0, 0, 0), (0, 0, 2.4), (0.03, 0.03), Material.METAL, label, 6),
            rod((0, 0, 2.1), (0, 0, 2.6), (rng.uniform(1.0, 1.7), 0.05), Material.CARGO, label, 8),
        ]
    elif kind == 2:
        posts = [(a, b, 1.1) for a in (-0.9, 0.9) for b in (-1.5, 1.5)]
        roof = [(-1.1, -1.7, 2.2), (1.1, -1.7, 2.2), (1.1, 1.7, 2.2), (-1.1, 1.7, 2.2)]
        parts = [
            boxes((0.06, 0.06, 2.2), posts, Material.METAL, label),
            frustum(roof, [(0, -1.5, 2.9), (0, -1.5, 2.9), (0, 1.5, 2.9), (0, 1.5, 2.9)], Material.CARGO, label),
            box((0.9, 2.9, 0.9), (0, 0, 0.45), Material.CARGO, label),
        ]
    elif kind == 3:
        levels, along = range(1, int(rng.integers(2, 5))), np.arange(-3.0, 3.1, 2.0)
        height = 2.1 * len(levels) + 1.0
        parts = [
            boxes((0.06, 0.06, height), [(a, b, height / 2) for a in (0.0, 0.9) for b in along], Material.METAL, label),
            boxes((0.9, 6.2, 0.06), [(0.45, 0, 2.1 * n) for n in levels], Material.WOOD, label),
            boxes((0.05, 6.2, 0.05), [(0, 0, 2.1 * n + 0.9) for n in levels], Material.METAL, label),
        ]
    else:
        low, high = [(-1.4, -1.4, 0), (1.4, -1.4, 0), (1.4, 1.4, 0), (-1.4, 1.4, 0)], 2.0
        walls = frustum(low, [(a, b, high) for a, b, _ in low], Material.CARGO, label)
        tip = frustum([(a, b, high) for a, b, _ in low], [(0.1 * a, 0.1 * b, 3.0) for a, b, _ in low], Material.CARGO,
                      label)  # fmt: skip
        parts = [walls, tip]
    first, second = look.tops.draw(rng), look.fences.draw(rng)
    return Instance(join(parts), x, y, 0.12, heading, float(rng.uniform()), first, second)


def bollards(rng: np.random.Generator, look: Look, x: float, y: float, heading: float) -> Instance:
    """A row of five bollards along the curb."""
    feet = np.array([(1.6 * n, 0, 0) for n in range(5)])
    posts = rods(feet, feet + np.array([0, 0, 0.9]), (0.09, 0.07), Material.METAL, Label.POLE, 7)
    color = look.poles.draw(rng)
    return Instance(posts, x, y, 0.1, heading, float(rng.uniform()), color, color)


def shelter(rng: np.random.Generator, look: Look, x: float, y: float, heading: float) -> Instance:
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
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), look.tops.draw(rng), look.fences.draw(rng))


def tree(rng: np.random.Generator, layout: StreetLayout, x: float, y: float, size: float | None = None) -> Instance:
    """A tree of one of the kinds of `Shapes.trees`, `size` meters tall, by default 5 to 10."""
    height = size or float(rng.uniform(5.0, 10.0))
    make = {"crown": _crowned, "bare": _bare, "conifer": _conifer}[choose(layout.shapes.trees, rng)]
    parts, look = make(rng, height), layout.look
    leaf = look.leaves.draw(rng, 0.25)
    return Instance(join(parts), x, y, 0.1, float(rng.uniform(0, 6.28)), float(rng.uniform()), leaf, look.bark)


def _crowned(rng: np.random.Generator, height: float) -> list[Mesh]:
    """A crown of several ellipsoids."""
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
    return parts


def _bare(rng: np.random.Generator, height: float) -> list[Mesh]:
    """A tree without leaves: limbs that fork twice, in an incomplete crown of twigs."""
    label, material = Label.VEGETATION, Material.BARK
    stem, girth, limbs = height * rng.uniform(0.22, 0.4), 0.016 * height + 0.05, int(rng.integers(4, 7))
    angle, lean = 2.4 * np.arange(limbs) + rng.uniform(-0.4, 0.4, limbs), rng.uniform(0.25, 0.75, limbs)
    start = np.stack([0 * angle, 0 * angle, stem * rng.uniform(0.8, 1.0, limbs)], 1)
    way = np.stack([np.cos(angle) * lean, np.sin(angle) * lean, np.ones(limbs)], 1)
    fork = start + way * height * rng.uniform(0.22, 0.32, (limbs, 1))
    bent = np.repeat(way, 4, 0) + rng.uniform(-0.7, 0.7, (4 * limbs, 3)) * [1, 1, 0.3]
    root = np.repeat(fork, 4, 0)
    tip = root + bent * height * rng.uniform(0.12, 0.26, (4 * limbs, 1))
    middle = np.repeat(root, 3, 0) + np.repeat(tip - root, 3, 0) * rng.uniform(0.4, 1.0, (12 * limbs, 1))
    end = np.repeat(tip, 3, 0) + (np.repeat(bent, 3, 0) + rng.uniform(-1, 1, (12 * limbs, 3))) * height * 0.1
    parts = [
        rod((0, 0, 0), (0, 0, stem), (girth, girth * 0.8), material, label, 7),
        rods(start, fork, (girth * 0.55, girth * 0.35), material, label, 5),
        rods(root, tip, (girth * 0.3, girth * 0.12), material, label, 4),
        rods(middle, end, (girth * 0.14, girth * 0.06), material, label, 3),
    ]
    for _ in range(int(rng.integers(0, 4))):
        where = rng.uniform([-0.16, -0.16, 0.55], [0.16, 0.16, 0.85]) * height
        size = rng.uniform(0.08, 0.16, 3) * height
        parts.append(rough(ball(tuple(size), tuple(where), Material.LEAF, label, 6), 0.04 * height, rng))
    return parts


def _conifer(rng: np.random.Generator, height: float) -> list[Mesh]:
    """Cones on a short stem."""
    label, wide, tiers = Label.VEGETATION, height * rng.uniform(0.14, 0.24), int(rng.integers(2, 5))
    parts = [rod((0, 0, 0), (0, 0, height * 0.3), (0.12, 0.1), Material.BARK, label, 6)]
    for n in range(tiers):
        low, high = height * (0.12 + 0.8 * n / tiers), height * min(1.0, 0.34 + 0.86 * (n + 1) / tiers)
        radius = wide * (1 - 0.8 * n / tiers)
        parts.append(
            rough(rod((0, 0, low), (0, 0, high), (radius, 0.03), Material.LEAF, label, 10), 0.02 * height, rng)
        )
    return parts


def hedge(rng: np.random.Generator, look: Look, length: float, x: float, y: float, heading: float) -> Instance:
    """A clipped hedge, `length` meters long, centered at (x, y)."""
    height, deep = rng.uniform(0.8, 2.0), rng.uniform(0.6, 1.1)
    pieces = max(1, int(length / 1.2))
    along = (np.arange(pieces) + 0.5) * (length / pieces) - length / 2
    parts = [
        rough(box((length / pieces, deep, height), (a, 0, height / 2), Material.LEAF, Label.VEGETATION), 0.08, rng)
        for a in along
    ]
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), look.leaves.draw(rng, 0.2))


def bush(rng: np.random.Generator, look: Look, x: float, y: float) -> Instance:
    """A low round bush."""
    radius = rng.uniform(0.5, 1.2)
    lump = ball((radius, radius, radius * 0.8), (0, 0, radius * 0.6), Material.LEAF, Label.VEGETATION, 6)
    return Instance(rough(lump, 0.12 * radius, rng), x, y, 0.1, 0.0, float(rng.uniform()), look.leaves.draw(rng, 0.25))
