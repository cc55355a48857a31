"""Trees, hedges and bushes."""

from __future__ import annotations

import numpy as np

from mlesam_ros.world import classes, paint
from mlesam_ros.world.materials import Material
from mlesam_ros.world.mesh import ball, box, join, rod, rough
from mlesam_ros.world.scene import Instance


def tree(rng: np.random.Generator, x: float, y: float, size: float | None = None) -> Instance:
    """A tree with a crown of several lumps; `size` meters tall, else 5 to 10."""
    height = size or rng.uniform(5.0, 10.0)
    stem = height * rng.uniform(0.3, 0.42)
    girth = 0.018 * height + 0.05
    lean = rng.uniform(-0.25, 0.25, 2)
    parts = [rod((0, 0, 0), (lean[0], lean[1], stem + 0.8), (girth, girth * 0.6), Material.BARK, classes.VEGETATION, 7)]
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
        lump = ball((spread * scale, spread * scale, rise * scale), center, Material.LEAF, classes.VEGETATION, 7)
        parts.append(rough(lump, 0.028 * height, rng))
    leaf = paint.pick(rng, paint.LEAVES, 0.25)
    return Instance(
        join(parts), x, y, 0.1, float(rng.uniform(0, 6.28)), float(rng.uniform()), leaf, paint.linear(96, 82, 68)
    )


def hedge(rng: np.random.Generator, length: float, x: float, y: float, heading: float) -> Instance:
    """A clipped hedge, `length` meters about (x, y)."""
    height, deep = rng.uniform(0.8, 2.0), rng.uniform(0.6, 1.1)
    pieces = max(1, int(length / 1.2))
    along = (np.arange(pieces) + 0.5) * (length / pieces) - length / 2
    parts = [
        rough(box((length / pieces, deep, height), (a, 0, height / 2), Material.LEAF, classes.VEGETATION), 0.08, rng)
        for a in along
    ]
    return Instance(join(parts), x, y, 0.1, heading, float(rng.uniform()), paint.pick(rng, paint.LEAVES, 0.2))


def bush(rng: np.random.Generator, x: float, y: float) -> Instance:
    """A low round bush."""
    radius = rng.uniform(0.5, 1.2)
    lump = ball((radius, radius, radius * 0.8), (0, 0, radius * 0.6), Material.LEAF, classes.VEGETATION, 6)
    return Instance(
        rough(lump, 0.12 * radius, rng), x, y, 0.1, 0.0, float(rng.uniform()), paint.pick(rng, paint.LEAVES, 0.25)
    )
