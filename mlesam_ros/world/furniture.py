"""What stands on a pavement: lamps, signs, traffic lights, bins, benches, bollards and shelters.

Everything looks along -x of its own frame, towards traffic that drives along +x.
"""

from __future__ import annotations

import numpy as np

from mlesam_ros.world import classes, paint
from mlesam_ros.world.materials import Material
from mlesam_ros.world.mesh import Mesh, box, boxes, join, mesh, rod
from mlesam_ros.world.plan import LAMP_HEIGHT
from mlesam_ros.world.scene import Instance


def lamp(rng: np.random.Generator, x: float, y: float, side: int, heading: float, reach: float) -> Instance:
    """A street lamp at (x, y) whose arm reaches `reach` meters towards the road; side +1 stands on the left."""
    arm = -side * reach
    parts = [
        rod((0, 0, 0), (0, 0, LAMP_HEIGHT), (0.1, 0.06), Material.METAL, classes.POLE),
        rod((0, 0, LAMP_HEIGHT - 0.1), (0, arm, LAMP_HEIGHT + 0.15), (0.05, 0.04), Material.METAL, classes.POLE, 6),
        box((0.28, 0.7, 0.12), (0, arm, LAMP_HEIGHT + 0.1), Material.STREETLAMP, classes.POLE),
    ]
    color = paint.pick(rng, paint.POLES)
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), color, color)


def _plate(sides: int, radius: float, z: float, turn: float = 0.0) -> Mesh:
    angle = np.arange(sides) * (2 * np.pi / sides) + turn
    ring = np.stack([np.full(sides, -0.07), radius * np.sin(angle), z + radius * np.cos(angle)], 1)
    fan = np.stack([np.zeros(sides - 2, int), np.arange(1, sides - 1), np.arange(2, sides)], 1)
    return mesh(ring, fan, Material.SIGN, classes.TRAFFIC_SIGN)


_RED, _WHITE, _BLUE, _YELLOW = (
    paint.linear(*c) for c in ((190, 24, 30), (235, 235, 232), (24, 70, 160), (236, 190, 40))
)


def sign(rng: np.random.Generator, x: float, y: float, heading: float) -> Instance:
    """A traffic sign: round, triangular, octagonal, square or a place-name board."""
    top = rng.uniform(2.3, 2.8)
    kind = int(rng.integers(5))
    face = [
        _plate(16, 0.36, top), _plate(3, 0.5, top), _plate(8, 0.4, top, np.pi / 8), _plate(4, 0.5, top, np.pi / 4),
        box((0.04, 1.2, 0.5), (-0.07, 0, top), Material.SIGN, classes.TRAFFIC_SIGN),
    ][kind]  # fmt: skip
    post = rod((0, 0, 0), (0, 0, top + 0.3), (0.035, 0.035), Material.POST, classes.POLE, 6)
    first = (_WHITE, _WHITE, _RED, _BLUE, _YELLOW)[kind]
    second = (_RED, _RED, _WHITE, _WHITE, paint.linear(20, 20, 20))[kind]
    return Instance(join([post, face]), x, y, 0.1, heading, top / 4, first, second)


def signals(rng: np.random.Generator, x: float, y: float, heading: float, reach: float, phase: int) -> Instance:
    """A traffic light with a second head on an arm that reaches `reach` meters over the road (0: none).

    Args:
        rng: decides its color.
        x: meters.
        y: meters.
        heading: what it faces away from, radians.
        reach: signed meters along its own y.
        phase: which of red, amber, green is lit.
    """
    heads = [(-0.2, 0.0, 3.0)] + ([(-0.2, reach, 5.6)] if reach else [])
    height = 6.0 if reach else 3.5
    parts = [rod((0, 0, 0), (0, 0, height), (0.09, 0.07), Material.POST, classes.POLE)]
    if reach:
        parts.append(rod((0, 0, 5.8), (0, reach, 5.9), (0.06, 0.05), Material.POST, classes.POLE, 6))
    parts.append(boxes((0.26, 0.36, 1.0), heads, Material.RUBBER, classes.TRAFFIC_LIGHT))
    for number in range(3):
        lit = Material.SIGNAL if number == phase else Material.GLASS
        lenses = [(hx - 0.14, hy, hz + 0.31 * (1 - number)) for hx, hy, hz in heads]
        parts.append(boxes((0.06, 0.22, 0.22), lenses, lit, classes.TRAFFIC_LIGHT))
    return Instance(
        join(parts), x, y, 0.1, heading, float(rng.uniform()), paint.SIGNALS[phase], paint.pick(rng, paint.POLES)
    )


def clutter(rng: np.random.Generator, x: float, y: float, heading: float) -> Instance:
    """A bin, bench, kiosk column, crate or cabinet."""
    make = (_bin, _bench, _column, _cabinet, _crates)[int(rng.integers(5))]
    first, second = paint.pick(rng, paint.STATICS, 0.3), paint.pick(rng, paint.FENCES, 0.3)
    return Instance(make(), x, y, 0.1, heading, float(rng.uniform()), first, second)


def _bin() -> Mesh:
    parts = [rod((0, 0, 0), (0, 0, 0.95), (0.26, 0.3), Material.PAINT, classes.STATIC, 10)]
    return join([*parts, rod((0, 0, 0.95), (0, 0, 1.05), (0.32, 0.2), Material.RUBBER, classes.STATIC, 10)])


def _bench() -> Mesh:
    seat = boxes((0.13, 1.7, 0.05), [(-0.2, 0, 0.45), (0, 0, 0.45), (0.2, 0, 0.45)], Material.WOOD, classes.STATIC)
    back = boxes((0.05, 1.7, 0.13), [(0.28, 0, 0.65), (0.3, 0, 0.85)], Material.WOOD, classes.STATIC)
    legs = boxes((0.5, 0.07, 0.45), [(0, -0.7, 0.22), (0, 0.7, 0.22)], Material.METAL, classes.STATIC)
    return join([seat, back, legs])


def _column() -> Mesh:
    body = rod((0, 0, 0.2), (0, 0, 2.7), (0.6, 0.6), Material.CARGO, classes.STATIC, 14)
    return join([body, rod((0, 0, 0), (0, 0, 0.2), (0.7, 0.7), Material.CONCRETE, classes.STATIC, 14)])


def _cabinet() -> Mesh:
    return box((0.45, 1.1, 1.3), (0, 0, 0.65), Material.PAINT, classes.STATIC)


def _crates() -> Mesh:
    where = [(0, 0, 0.35), (0.1, 0.8, 0.35), (0, 0.35, 1.0)]
    return boxes((0.8, 0.75, 0.65), where, Material.WOOD, classes.STATIC)


def bollards(rng: np.random.Generator, x: float, y: float, heading: float) -> Instance:
    """Five bollards in a row along the curb."""
    posts = [rod((1.6 * n, 0, 0), (1.6 * n, 0, 0.9), (0.09, 0.07), Material.METAL, classes.POLE, 7) for n in range(5)]
    color = paint.pick(rng, paint.POLES)
    return Instance(join(posts), x, y, 0.1, heading, float(rng.uniform()), color, color)


def shelter(rng: np.random.Generator, x: float, y: float, heading: float) -> Instance:
    """A bus shelter, open towards -y of its own frame."""
    parts = [
        box((4.0, 1.5, 0.1), (0, 0.2, 2.45), Material.METAL, classes.STATIC),
        box((4.0, 0.05, 1.9), (0, 0.85, 1.3), Material.GLASS, classes.STATIC),
        boxes(
            (0.09, 0.09, 2.4), [(-1.95, 0.85, 1.2), (1.95, 0.85, 1.2), (0, 0.85, 1.2)], Material.METAL, classes.STATIC
        ),
        box((0.1, 1.3, 1.7), (1.95, 0.15, 1.3), Material.CARGO, classes.STATIC),
        box((2.4, 0.4, 0.08), (-0.4, 0.55, 0.5), Material.WOOD, classes.STATIC),
    ]
    return Instance(
        join(parts), x, y, 0.1, heading, float(rng.uniform()), paint.vivid(rng), paint.pick(rng, paint.FENCES)
    )
