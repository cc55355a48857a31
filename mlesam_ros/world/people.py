"""People on foot. They look along +x of their own frame."""

from __future__ import annotations

from functools import cache

import numpy as np

from mlesam_ros.world import classes, paint
from mlesam_ros.world.materials import Material
from mlesam_ros.world.mesh import Mesh, ball, box, join, rod, swinging
from mlesam_ros.world.scene import Instance

BUILDS = ("adult", "tall", "child", "coat", "bag")


@cache
def person(build: str) -> Mesh:
    """A walker of one of `BUILDS`, about 1.75 m tall, legs and arms ready to swing."""
    label = classes.PEDESTRIAN
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
    """A random person at (x, y, z) meters who looks along `heading` radians; `stride` swings the limbs."""
    build = person(BUILDS[int(rng.integers(len(BUILDS)))])
    top, trousers = paint.vivid(rng), paint.pick(rng, paint.STATICS + paint.CARS[2:8], 0.3)
    return Instance(build, x, y, z, heading, float(rng.uniform()), top, trousers, stride)
