"""Buildings, garden walls and fences: what lines the street."""

from __future__ import annotations

import numpy as np

from mlesam_ros.world import classes, paint
from mlesam_ros.world.materials import Material
from mlesam_ros.world.mesh import Mesh, box, boxes, frustum, join
from mlesam_ros.world.scene import Instance


def building(rng: np.random.Generator, width: float, x: float, y: float, heading: float) -> Instance:
    """A house whose front's middle stands at (x, y) on the ground and looks along -y of its own frame.

    Args:
        rng: decides height, roof and colors.
        width: meters of street front.
        x: meters.
        y: meters.
        heading: turns its front, radians.
    """
    depth = rng.uniform(9.0, 14.0)
    height = float(rng.integers(2, 8)) * 3.2 + 0.9
    parts = [box((width, depth, height), (0, depth / 2, height / 2), Material.FACADE, classes.BUILDING)]
    gabled = height < 14 and rng.uniform() < 0.6
    parts += [_gable(width, depth, height)] if gabled else [_parapet(width, depth, height)]
    if not gabled and rng.uniform() < 0.5:
        place = (rng.uniform(-0.25, 0.25) * width, depth * 0.6, height + 1.1)
        parts.append(box((2.6, 2.2, 2.2), place, Material.CONCRETE, classes.BUILDING))
    parts += _balconies(rng, width, height) if rng.uniform() < 0.35 else []
    first, second = paint.pick(rng, paint.FACADES), paint.pick(rng, paint.TRIMS if not gabled else paint.ROOFS)
    return Instance(join(parts), x, y, 0.0, heading, float(rng.uniform()), first, second)


def _gable(width: float, depth: float, height: float) -> Mesh:
    over, rise = 0.35, depth * 0.32
    x, y0, y1 = width / 2 + 0.1, -over, depth + over
    eaves = [(-x, y0, height), (x, y0, height), (x, y1, height), (-x, y1, height)]
    ridge = [(-x, depth / 2, height + rise), (x, depth / 2, height + rise)]
    return frustum(eaves, [ridge[0], ridge[1], ridge[1], ridge[0]], Material.ROOF, classes.BUILDING)


def _parapet(width: float, depth: float, height: float) -> Mesh:
    return box((width + 0.3, depth + 0.3, 0.5), (0, depth / 2, height + 0.1), Material.CONCRETE, classes.BUILDING)


def _balconies(rng: np.random.Generator, width: float, height: float) -> list[Mesh]:
    across = np.arange(-width / 2 + 2.0, width / 2 - 1.5, rng.uniform(3.5, 5.0))
    where = [(x, -0.5, z) for z in np.arange(4.1, height - 2.5, 3.2) for x in across]
    if not where:
        return []
    rails = [(x, -0.98, z + 0.5) for x, _, z in where]
    return [
        boxes((2.2, 1.0, 0.14), where, Material.CONCRETE, classes.BUILDING),
        boxes((2.2, 0.06, 0.9), rails, Material.METAL, classes.BUILDING),
    ]


def wall(rng: np.random.Generator, length: float, x: float, y: float, heading: float) -> Instance:
    """A garden wall of brick or concrete, `length` meters about (x, y)."""
    height = rng.uniform(1.1, 2.4)
    material = Material.BRICK if rng.uniform() < 0.6 else Material.CONCRETE
    parts = [
        box((length, 0.28, height), (0, 0, height / 2), material, classes.WALL),
        box((length + 0.05, 0.38, 0.1), (0, 0, height + 0.05), Material.CONCRETE, classes.WALL),
    ]
    return Instance(join(parts), x, y, 0.0, heading, float(rng.uniform()), paint.pick(rng, paint.WALLS))


def fence(rng: np.random.Generator, length: float, x: float, y: float, heading: float) -> Instance:
    """A picket or railing fence that one can look through, `length` meters about (x, y)."""
    height, pitch = rng.uniform(0.9, 1.9), rng.uniform(0.16, 0.24)
    wooden = rng.uniform() < 0.5
    material, thick = (Material.WOOD, 0.1) if wooden else (Material.METAL, 0.045)
    along = np.arange(-length / 2 + 0.1, length / 2, pitch)
    pickets = np.stack([along, np.zeros_like(along), np.full_like(along, height / 2)], 1)
    rails = [(0, 0.03, 0.2), (0, 0.03, height - 0.15)]
    parts = [
        boxes((thick, 0.03, height), pickets, material, classes.FENCE),
        boxes((length, 0.05, 0.08), rails, material, classes.FENCE),
    ]
    color = paint.pick(rng, paint.FENCES)
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), color, color)
