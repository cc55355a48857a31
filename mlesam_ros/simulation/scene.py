# SPDX-License-Identifier: Apache-2.0
"""Meshes, materials, and the scene for ray casting with Open3D.

A `Mesh` is built from boxes, rods and ellipsoids, an `Instance` places it in the world, a `Batch` joins instances into
arrays, a `Layer` is a batch with its ray caster, and a `Snapshot` casts rays at several layers.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.labels import load_label_space

Floats = npt.NDArray[np.floating]
"""float32 at run time; the type checker infers float64 for arithmetic with Python numbers."""


def as_float32(values: npt.ArrayLike) -> Floats:
    """Numbers as a float32 array."""
    return np.asarray(values, np.float32)


_CLASS_IDS = {name: number for number, name in enumerate(load_label_space("deliver").names)}


class Label:
    """Ids of the DELIVER classes, plain integers."""

    BUILDING = _CLASS_IDS["Building"]
    FENCE = _CLASS_IDS["Fence"]
    OTHER = _CLASS_IDS["Other"]
    PEDESTRIAN = _CLASS_IDS["Pedestrian"]
    POLE = _CLASS_IDS["Pole"]
    ROAD_LINE = _CLASS_IDS["RoadLine"]
    ROAD = _CLASS_IDS["Road"]
    SIDEWALK = _CLASS_IDS["SideWalk"]
    VEGETATION = _CLASS_IDS["Vegetation"]
    CARS = _CLASS_IDS["Cars"]
    WALL = _CLASS_IDS["Wall"]
    TRAFFIC_SIGN = _CLASS_IDS["TrafficSign"]
    SKY = _CLASS_IDS["Sky"]
    GROUND = _CLASS_IDS["Ground"]
    BRIDGE = _CLASS_IDS["Bridge"]
    RAIL_TRACK = _CLASS_IDS["RailTrack"]
    GUARD_RAIL = _CLASS_IDS["GroundRail"]
    TRAFFIC_LIGHT = _CLASS_IDS["TrafficLight"]
    STATIC = _CLASS_IDS["Static"]
    DYNAMIC = _CLASS_IDS["Dynamic"]
    WATER = _CLASS_IDS["Water"]
    TERRAIN = _CLASS_IDS["Terrain"]
    TWO_WHEELER = _CLASS_IDS["TwoWheeler"]
    BUS = _CLASS_IDS["Bus"]
    TRUCK = _CLASS_IDS["Truck"]


class Material(enum.IntEnum):
    """Material of a triangle; selects its texture in `textures.py`."""

    GROUND = 0
    SLAB = 1
    GRASS = 2
    FACADE = 3
    ROOF = 4
    LEAF = 5
    BARK = 6
    PAINT = 7
    GLASS = 8
    RUBBER = 9
    HEADLAMP = 10
    TAILLAMP = 11
    BRICK = 12
    CONCRETE = 13
    WOOD = 14
    METAL = 15
    SIGN = 16
    SIGNAL = 17
    TOP = 18
    TROUSERS = 19
    SKIN = 20
    STREETLAMP = 21
    CARGO = 22
    COACH = 23
    POST = 24
    WATER = 25
    BALLAST = 26
    PAVING = 27


# Reflectance of each material at normal incidence for a 905 nm LiDAR. Assumed values, in the order of magnitude of the
# 10 % (asphalt, rubber) and 80 % (white paint, foliage) targets of data sheets; retroreflecting signs exceed 1.
_REFLECTANCE = {
    Material.GROUND: 0.16, Material.SLAB: 0.32, Material.GRASS: 0.5, Material.FACADE: 0.4, Material.ROOF: 0.25,
    Material.LEAF: 0.6, Material.BARK: 0.3, Material.PAINT: 0.55, Material.GLASS: 0.05, Material.RUBBER: 0.04,
    Material.HEADLAMP: 0.9, Material.TAILLAMP: 1.2, Material.BRICK: 0.3, Material.CONCRETE: 0.35, Material.WOOD: 0.45,
    Material.METAL: 0.5, Material.SIGN: 1.6, Material.SIGNAL: 0.4, Material.TOP: 0.5, Material.TROUSERS: 0.4,
    Material.SKIN: 0.55, Material.STREETLAMP: 0.5, Material.CARGO: 0.6, Material.COACH: 0.5,
    Material.POST: 0.5, Material.WATER: 0.02, Material.BALLAST: 0.25, Material.PAVING: 0.3,
}  # fmt: skip

# Share of the sky that a surface reflects at normal incidence (Schlick's F0, exaggerated for car paint).
_GLOSS = {Material.GLASS: 0.22, Material.PAINT: 0.05, Material.COACH: 0.05, Material.METAL: 0.06, Material.WATER: 0.03}


def _table(values: dict[Material, float]) -> Floats:
    return np.array([values.get(material, 0.0) for material in Material], np.float32)


REFLECTANCE = _table(_REFLECTANCE)
"""(materials,) float32: LiDAR reflectance at normal incidence."""
GLOSS = _table(_GLOSS)
"""(materials,) float32: reflected share of the sky at normal incidence."""


Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles with a class and a material each.

    Attributes:
        vertices: (V, 3) float32, meters, x forward, y left, z up.
        triangles: (T, 3) uint32 vertex indices in any winding; `Snapshot.cast` turns normals towards the ray origin.
        material: (T,) uint8 `Material` ids.
        classes: (T,) uint8 label ids.
        swing: (V,) float32 displacement of a vertex along x per unit of stride, for legs and arms of pedestrians.
    """

    vertices: Floats
    triangles: npt.NDArray[np.uint32]
    material: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    swing: Floats


def mesh(vertices: npt.ArrayLike, triangles: npt.ArrayLike, material: Material, label: int) -> Mesh:
    """A mesh of one material and one class from (V, 3) vertices and (T, 3) vertex indices."""
    points = np.asarray(vertices, np.float32).reshape(-1, 3)
    faces = np.asarray(triangles, np.uint32).reshape(-1, 3)
    count = len(faces)
    still = np.zeros(len(points), np.float32)
    return Mesh(points, faces, np.full(count, material, np.uint8), np.full(count, label, np.uint8), still)


def join(parts: Sequence[Mesh]) -> Mesh:
    """Join several meshes into one."""
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
    """The mesh rotated by `heading` radians about z, then translated by (x, y, z) meters."""
    c, s = np.cos(heading), np.sin(heading)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
    return replace(part, vertices=part.vertices @ turn.T + np.array([x, y, z], np.float32))


def scaled(part: Mesh, height: float, width: float | None = None) -> Mesh:
    """The mesh scaled about its origin by `height` along z and by `width`, by default the same, along x and y."""
    across, up = np.float32(height if width is None else width), np.float32(height)
    return replace(part, vertices=part.vertices * np.array([across, across, up]), swing=part.swing * up)


def swinging(part: Mesh, pivot: float, amount: float) -> Mesh:
    """The mesh as a limb that swings about the height `pivot`; `amount` is the shear per meter below the pivot."""
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
    """Equal boxes at (n, 3) centers, such as pickets."""
    where = np.asarray(centers, np.float32).reshape(-1, 1, 3)
    faces = _BOX[None] + (8 * np.arange(len(where), dtype=np.uint32))[:, None, None]
    return mesh(_CORNERS * as_float32(size) + where, faces, material, label)


@lru_cache(maxsize=32)
def _frustum_faces(n: int) -> npt.NDArray[np.uint32]:
    i = np.arange(n)
    j = (i + 1) % n
    sides = np.concatenate([np.stack([i, j, j + n], 1), np.stack([i, j + n, i + n], 1)])
    fan = np.stack([np.zeros(n - 2, int), np.arange(1, n - 1), np.arange(2, n)], 1)
    return np.concatenate([sides, fan, fan + n]).astype(np.uint32)


def frustum(bottom: npt.ArrayLike, top: npt.ArrayLike, material: Material, label: int) -> Mesh:
    """A solid between two rings of n points each, (n, 3), closed by triangle fans."""
    low, high = np.asarray(bottom, np.float32), np.asarray(top, np.float32)
    return mesh(np.concatenate([low, high]), _frustum_faces(len(low)), material, label)


def slab(profile: npt.ArrayLike, width: float, material: Material, label: int) -> Mesh:
    """A convex side view, (n, 2) points (x, z), extruded over `width` meters about y = 0."""
    side = np.asarray(profile, np.float32)
    half = np.full(len(side), width / 2, np.float32)
    right = np.stack([side[:, 0], -half, side[:, 1]], 1)
    left = np.stack([side[:, 0], half, side[:, 1]], 1)
    return frustum(right, left, material, label)


def rod(start: Point, end: Point, radii: tuple[float, float], material: Material, label: int, sides: int = 8) -> Mesh:
    """A truncated cone of radius radii[0] at `start` and radii[1] at `end`."""
    return rods([start], [end], radii, material, label, sides)


def rods(
    starts: npt.ArrayLike, ends: npt.ArrayLike, radii: tuple[float, float], material: Material, label: int,
    sides: int = 8,
) -> Mesh:  # fmt: skip
    """Truncated cones of radius radii[0] at (n, 3) starts and radii[1] at (n, 3) ends."""
    a, b = np.asarray(starts, np.float32), np.asarray(ends, np.float32)
    axis = (b - a).astype(np.float64)
    x, y, z = (axis / np.maximum(np.sqrt((axis * axis).sum(1, keepdims=True)), 1e-6)).T
    # Two directions across the axis: its cross product with x or y, and the cross product with that.
    steep, none = np.abs(x) < 0.9, np.zeros_like(x)
    across = np.where(steep, (none, z, -y), (-z, none, x))
    u, v, w = across / np.sqrt((across * across).sum(0))
    other = np.array([y * w - z * v, z * u - x * w, x * v - y * u])
    cosine, sine = _circle(sides)
    ring = cosine[:, None] * np.array([u, v, w]).T[:, None] + sine[:, None] * other.T[:, None]
    vertices = np.concatenate([a[:, None] + ring * radii[0], b[:, None] + ring * radii[1]], 1)
    faces = _frustum_faces(sides)[None] + (2 * sides * np.arange(len(a), dtype=np.uint32))[:, None, None]
    return mesh(vertices, faces, material, label)


@lru_cache(maxsize=32)
def _circle(sides: int) -> tuple[Floats, Floats]:
    angle = np.arange(sides) * (2 * np.pi / sides)
    return np.cos(angle), np.sin(angle)


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
    """The mesh with every vertex coordinate displaced by up to ± `amount` meters."""
    push = rng.uniform(-amount, amount, part.vertices.shape).astype(np.float32)
    return replace(part, vertices=part.vertices + push)


Color = tuple[float, float, float]
COLUMNS = 14
"""Columns of an instance row: x, y, z, cos, sin, seed, first color (3), second color (3), lit, speed."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A mesh at a pose in the world, with its own colors.

    Attributes:
        mesh: the mesh in its local frame.
        x, y, z: origin in the world, meters.
        heading: rotation about z, radians.
        seed: in [0, 1), varies the texture between instances; signs store a height in it.
        first, second: colors, linear RGB in [0, 1].
        stride: swing of a pedestrian's limbs along x, meters per meter of limb.
        lit: whether its lamps are on.
        speed: meters per second along its heading.
    """

    mesh: Mesh
    x: float
    y: float
    z: float
    heading: float
    seed: float
    first: Color = (0.5, 0.5, 0.5)
    second: Color = (0.3, 0.3, 0.3)
    stride: float = 0.0
    lit: bool = False
    speed: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Instances as arrays for a ray caster, fields as in `Mesh`; `instance` (T,) indexes the rows of `table`."""

    vertices: Floats
    triangles: npt.NDArray[np.uint32]
    material: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.int32]
    table: Floats


def place(instances: Sequence[Instance]) -> Batch:
    """Transform instances into the world and join them into one batch."""
    if not instances:
        return Batch(
            np.empty((0, 3), np.float32), np.empty((0, 3), np.uint32), np.empty(0, np.uint8), np.empty(0, np.uint8),
            np.empty(0, np.int32), np.empty((0, COLUMNS), np.float32),
        )  # fmt: skip
    offsets = np.cumsum([0, *(len(instance.mesh.vertices) for instance in instances[:-1])])
    counts = [len(instance.mesh.triangles) for instance in instances]
    return Batch(
        _world_vertices(instances),
        np.concatenate([i.mesh.triangles + np.uint32(offset) for i, offset in zip(instances, offsets, strict=True)]),
        np.concatenate([instance.mesh.material for instance in instances]),
        np.concatenate([instance.mesh.classes for instance in instances]),
        np.repeat(np.arange(len(instances), dtype=np.int32), counts),
        np.array([_row(instance) for instance in instances], np.float32),
    )


def merge(batches: Sequence[Batch]) -> Batch:
    """Join several batches into one."""
    vertices = np.cumsum([0, *(len(batch.vertices) for batch in batches[:-1])])
    rows = np.cumsum([0, *(len(batch.table) for batch in batches[:-1])])
    return Batch(
        np.concatenate([batch.vertices for batch in batches]),
        np.concatenate([batch.triangles + np.uint32(o) for batch, o in zip(batches, vertices, strict=True)]),
        np.concatenate([batch.material for batch in batches]),
        np.concatenate([batch.classes for batch in batches]),
        np.concatenate([batch.instance + np.int32(o) for batch, o in zip(batches, rows, strict=True)]),
        np.concatenate([batch.table for batch in batches]),
    )


@dataclass(frozen=True, slots=True)
class Hits:
    """Nearest hits of n rays.

    Attributes:
        distance: (n,) float32 in units of the ray's direction vector, inf for a ray without a hit.
        ray: (k,) int64 indices of the rays with a hit, sorted by material; the fields below have k rows.
        point: (k, 3) float32 in the world.
        normal: (k, 3) float32, unit, turned towards the ray's origin.
        material, classes: (k,) uint8.
        rows: (k, COLUMNS) float32 instance rows.
    """

    distance: Floats
    ray: npt.NDArray[np.int64]
    point: Floats
    normal: Floats
    material: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    rows: Floats


def _tensor(array: npt.NDArray[Any]) -> Any:
    """View of an array as an Open3D tensor."""
    import open3d as o3d  # noqa: PLC0415  # of the extra sim

    return o3d.core.Tensor.from_numpy(array)


class Layer:
    """A batch with its ray caster."""

    def __init__(self, batch: Batch, threads: int) -> None:
        """Build the acceleration structure of the ray caster; `threads` is its number of threads, 0 for all cores."""
        import open3d as o3d  # noqa: PLC0415  # of the extra sim

        self.batch = batch
        self.caster = o3d.t.geometry.RaycastingScene(nthreads=threads)
        if len(batch.triangles):
            self.caster.add_triangles(_tensor(batch.vertices), _tensor(batch.triangles))


class Snapshot:
    """The scene at one time: layers of static and moving objects."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Combine layers; those without triangles are ignored, and at least one must have triangles."""
        self.layers = [layer for layer in layers if len(layer.batch.triangles)]
        batches = [layer.batch for layer in self.layers]
        rows = np.cumsum([0, *(len(batch.table) for batch in batches[:-1])])
        self._material = np.concatenate([batch.material for batch in batches])
        self._classes = np.concatenate([batch.classes for batch in batches])
        self._instance = np.concatenate([batch.instance + np.int32(o) for batch, o in zip(batches, rows, strict=True)])
        self._columns = np.ascontiguousarray(np.concatenate([batch.table for batch in batches]).T)

    def cast(self, origins: Floats, directions: Floats) -> Hits:
        """Cast (n, 3) rays, or n directions from one (3,) origin."""
        distance, triangle, normal = self._nearest(_rays(origins, directions))
        ray = np.flatnonzero(distance < np.inf)
        material = self._material[triangle[ray]]
        ray = ray[np.argsort(material, kind="stable")]
        # NumPy gathers rows several times faster with take() than with an index.
        triangle, t = triangle.take(ray), distance.take(ray)
        normal, way = normal.take(ray, axis=0), directions.take(ray, axis=0)
        start = np.broadcast_to(origins, directions.shape) if origins.ndim == 1 else origins.take(ray, axis=0)
        towards = normal[:, 0] * way[:, 0] + normal[:, 1] * way[:, 1] + normal[:, 2] * way[:, 2]
        turn = np.where(towards > 0, np.float32(-1), np.float32(1))
        point = np.empty_like(normal)
        # Axis by axis: NumPy is several times slower along rows of three.
        for axis in range(3):
            normal[:, axis] *= turn
            point[:, axis] = way[:, axis] * t + start[: len(t), axis]
        # Column by column in memory: textures read one column at a time.
        rows = self._columns.take(self._instance.take(triangle), axis=1).T
        return Hits(distance, ray, point, normal, self._material.take(triangle), self._classes.take(triangle), rows)

    def _nearest(self, rays: Floats) -> tuple[Floats, npt.NDArray[np.uint32], Floats]:
        """Distance (n,), triangle index (n,) over all layers, and normal (n, 3) of the nearest hit of every ray."""
        tensor, first = _tensor(rays), 0
        for number, layer in enumerate(self.layers):
            result = layer.caster.cast_rays(tensor)
            t, triangle, n = (result[key].numpy() for key in ("t_hit", "primitive_ids", "primitive_normals"))
            if number == 0:
                distance, triangles, normal = t, triangle, n
            else:
                nearer = np.flatnonzero(t < distance)
                distance[nearer], normal[nearer] = t[nearer], n[nearer]
                triangles[nearer] = triangle[nearer] + np.uint32(first)
            first += len(layer.batch.triangles)
        return distance, triangles, normal

    def occluded(self, origins: Floats, direction: Floats) -> npt.NDArray[np.bool_]:
        """Whether rays from (n, 3) points along one (3,) direction, or (n, 3) directions, hit anything; (n,) bool."""
        rays = _rays(origins, np.broadcast_to(direction, origins.shape))
        blocked = np.zeros(len(rays), bool)
        for layer in self.layers:
            open_way = np.flatnonzero(~blocked)
            tensor = _tensor(rays.take(open_way, axis=0))
            blocked[open_way] = layer.caster.test_occlusions(tensor, tnear=0.02).numpy()
        return blocked


def _world_vertices(instances: Sequence[Instance]) -> Floats:
    local = np.concatenate([instance.mesh.vertices for instance in instances])
    counts = [len(instance.mesh.vertices) for instance in instances]
    x, y, z, heading = (
        np.repeat([getattr(instance, name) for instance in instances], counts) for name in ("x", "y", "z", "heading")
    )
    stride = np.repeat(as_float32([instance.stride for instance in instances]), counts)
    forward = local[:, 0] + np.concatenate([instance.mesh.swing for instance in instances]) * stride
    c, s = np.cos(heading), np.sin(heading)
    out = np.empty_like(local)
    out[:, 0] = c * forward - s * local[:, 1] + x
    out[:, 1] = s * forward + c * local[:, 1] + y
    out[:, 2] = local[:, 2] + z
    return out


def _row(instance: Instance) -> tuple[float, ...]:
    turn = (float(np.cos(instance.heading)), float(np.sin(instance.heading)))
    position, colors = (instance.x, instance.y, instance.z), (*instance.first, *instance.second)
    return (*position, *turn, instance.seed, *colors, float(instance.lit), instance.speed)


def _rays(origins: Floats, directions: Floats) -> Floats:
    rays = np.empty((len(directions), 6), np.float32)
    rays[:, :3] = origins
    rays[:, 3:] = directions
    return rays
