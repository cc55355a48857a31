"""Triangle meshes in meters, and the few solids that the street is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mlesam_ros.world.materials import Material
from mlesam_ros.world.vector import Floats, as_float32

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles that know their class and material.

    Attributes:
        vertices: (V, 3) float32, meters, x forward, y left, z up.
        triangles: (T, 3) uint32 vertex numbers; the winding is free, normals are turned to whoever looks.
        material: (T,) uint8 `Material` ids.
        classes: (T,) uint8 label ids.
        swing: (V,) float32, how far a vertex moves along x per unit of stride: legs and arms of walkers.
    """

    vertices: Floats
    triangles: npt.NDArray[np.uint32]
    material: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    swing: Floats


def mesh(vertices: npt.ArrayLike, triangles: npt.ArrayLike, material: Material, label: int) -> Mesh:
    """A mesh of one material and one class from (V, 3) vertices and (T, 3) vertex numbers."""
    points = np.asarray(vertices, np.float32).reshape(-1, 3)
    faces = np.asarray(triangles, np.uint32).reshape(-1, 3)
    count = len(faces)
    still = np.zeros(len(points), np.float32)
    return Mesh(points, faces, np.full(count, material, np.uint8), np.full(count, label, np.uint8), still)


def join(parts: Sequence[Mesh]) -> Mesh:
    """One mesh out of several."""
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    triangles = [part.triangles + np.uint32(offset) for part, offset in zip(parts, offsets, strict=True)]
    return Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate(triangles),
        np.concatenate([part.material for part in parts]),
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.swing for part in parts]),
    )


def moved(part: Mesh, x: float = 0.0, y: float = 0.0, z: float = 0.0, heading: float = 0.0) -> Mesh:
    """The mesh turned by `heading` radians about z, then shifted by meters."""
    c, s = np.cos(heading), np.sin(heading)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
    return replace(part, vertices=part.vertices @ turn.T + np.array([x, y, z], np.float32))


def swinging(part: Mesh, pivot: float, amount: float) -> Mesh:
    """The mesh as a limb that swings about the height `pivot`: `amount` is the shear per meter below it."""
    return replace(part, swing=((pivot - part.vertices[:, 2]) * amount).astype(np.float32))


_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], np.float32)
_BOX = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]], np.uint32
)  # fmt: skip


def box(size: Point, center: Point, material: Material, label: int) -> Mesh:
    """An axis-aligned box."""
    return mesh(_CORNERS * as_float32(size) + as_float32(center), _BOX, material, label)


def boxes(size: Point, centers: npt.ArrayLike, material: Material, label: int) -> Mesh:
    """Many equal boxes at (n, 3) centers: pickets, bollards, steps."""
    where = np.asarray(centers, np.float32).reshape(-1, 1, 3)
    faces = _BOX[None] + (8 * np.arange(len(where), dtype=np.uint32))[:, None, None]
    return mesh(_CORNERS * as_float32(size) + where, faces, material, label)


def frustum(bottom: npt.ArrayLike, top: npt.ArrayLike, material: Material, label: int) -> Mesh:
    """A solid between two rings of the same number of points, (n, 3) each, closed by fans."""
    low, high = np.asarray(bottom, np.float32), np.asarray(top, np.float32)
    n = len(low)
    i = np.arange(n)
    j = (i + 1) % n
    sides = np.concatenate([np.stack([i, j, j + n], 1), np.stack([i, j + n, i + n], 1)])
    fan = np.stack([np.zeros(n - 2, int), np.arange(1, n - 1), np.arange(2, n)], 1)
    return mesh(np.concatenate([low, high]), np.concatenate([sides, fan, fan + n]), material, label)


def slab(profile: npt.ArrayLike, width: float, material: Material, label: int) -> Mesh:
    """A convex side view, (n, 2) points (x, z), extruded over `width` meters about y = 0."""
    side = np.asarray(profile, np.float32)
    half = np.full(len(side), width / 2, np.float32)
    right = np.stack([side[:, 0], -half, side[:, 1]], 1)
    left = np.stack([side[:, 0], half, side[:, 1]], 1)
    return frustum(right, left, material, label)


def rod(start: Point, end: Point, radii: tuple[float, float], material: Material, label: int, sides: int = 8) -> Mesh:
    """A round bar, tapering from radii[0] at `start` to radii[1] at `end`."""
    a, b = as_float32(start), as_float32(end)
    axis = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6)
    across = np.cross(axis, [1.0, 0.0, 0.0] if abs(axis[0]) < 0.9 else [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    angle = np.arange(sides) * (2 * np.pi / sides)
    ring = np.outer(np.cos(angle), across) + np.outer(np.sin(angle), np.cross(axis, across))
    return frustum(a + ring * radii[0], b + ring * radii[1], material, label)


@lru_cache(maxsize=4)
def _sphere(rings: int) -> tuple[Floats, npt.NDArray[np.uint32]]:
    around = 2 * rings
    lat = np.linspace(0, np.pi, rings + 1)[1:-1]
    lon = np.arange(around) * (2 * np.pi / around)
    grid = np.stack(
        [
            np.outer(np.sin(lat), np.cos(lon)),
            np.outer(np.sin(lat), np.sin(lon)),
            np.outer(np.cos(lat), np.ones(around)),
        ],
        2,
    ).reshape(-1, 3)
    points = np.concatenate([[[0, 0, 1]], grid, [[0, 0, -1]]]).astype(np.float32)
    i, j = np.arange(around), (np.arange(around) + 1) % around
    faces = [np.stack([np.zeros(around, int), 1 + i, 1 + j], 1)]
    for row in range(rings - 2):
        a, b = 1 + row * around, 1 + (row + 1) * around
        faces += [np.stack([a + i, b + i, b + j], 1), np.stack([a + i, b + j, a + j], 1)]
    last = 1 + (rings - 2) * around
    faces.append(np.stack([last + i, np.full(around, len(points) - 1), last + j], 1))
    return points, np.concatenate(faces).astype(np.uint32)


def ball(radii: Point, center: Point, material: Material, label: int, rings: int = 4) -> Mesh:
    """An ellipsoid of `rings` bands of latitude."""
    points, faces = _sphere(rings)
    return mesh(points * as_float32(radii) + as_float32(center), faces, material, label)


def rough(part: Mesh, amount: float, rng: np.random.Generator) -> Mesh:
    """The mesh with every vertex pushed about by up to `amount` meters."""
    push = rng.uniform(-amount, amount, part.vertices.shape).astype(np.float32)
    return replace(part, vertices=part.vertices + push)
