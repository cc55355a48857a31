"""Things placed in the world, and what a ray meets there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import open3d as o3d

from mlesam_ros.world.mesh import Mesh
from mlesam_ros.world.vector import Floats

Color = tuple[float, float, float]
COLUMNS = 14
"""Columns of an instance row: x, y, z, cos, sin, seed, first color (3), second color (3), lit, speed."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A mesh put somewhere, with its own colors.

    Attributes:
        mesh: in its local frame.
        x, y, z: its origin in the world, meters.
        heading: radians about z.
        seed: in [0, 1), what makes its texture different from its neighbor's.
        first, second: linear RGB in [0, 1].
        stride: how far along x a walker's limbs have swung, meters per meter of limb.
        lit: whether its lamps burn at night.
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
    """Instances as the arrays that a ray caster wants: see `Mesh`; `instance` (T,) numbers the rows of `table`."""

    vertices: Floats
    triangles: npt.NDArray[np.uint32]
    material: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.int32]
    table: Floats


def place(instances: Sequence[Instance]) -> Batch:
    """Put instances into the world."""
    if not instances:
        return Batch(
            np.empty((0, 3), np.float32), np.empty((0, 3), np.uint32), np.empty(0, np.uint8), np.empty(0, np.uint8),
            np.empty(0, np.int32), np.empty((0, COLUMNS), np.float32),
        )  # fmt: skip
    offsets = np.cumsum([0, *(len(thing.mesh.vertices) for thing in instances[:-1])])
    counts = [len(thing.mesh.triangles) for thing in instances]
    return Batch(
        np.concatenate([_world_vertices(thing) for thing in instances]),
        np.concatenate([thing.mesh.triangles + np.uint32(o) for thing, o in zip(instances, offsets, strict=True)]),
        np.concatenate([thing.mesh.material for thing in instances]),
        np.concatenate([thing.mesh.classes for thing in instances]),
        np.repeat(np.arange(len(instances), dtype=np.int32), counts),
        np.array([_row(thing) for thing in instances], np.float32),
    )


def merge(batches: Sequence[Batch]) -> Batch:
    """One batch out of several."""
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
    """What n rays met.

    Attributes:
        distance: (n,) float32 in units of the ray's direction vector, inf where nothing was met.
        ray: (k,) int64, the rays that met something; in order of material; everything below has k rows.
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


class Layer:
    """A batch that rays can be cast at."""

    def __init__(self, batch: Batch, threads: int) -> None:
        """Build the ray caster's tree; `threads` as Embree counts them, 0 for all cores."""
        self.batch = batch
        self.caster = o3d.t.geometry.RaycastingScene(nthreads=threads)
        if len(batch.triangles):
            self.caster.add_triangles(
                o3d.core.Tensor.from_numpy(batch.vertices), o3d.core.Tensor.from_numpy(batch.triangles)
            )


class Snapshot:
    """The world at one instant: what stands still and what moves."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Layers without triangles are left out; one at least must have some."""
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
        # take(): NumPy gathers rows by it several times faster than by an index.
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
        """Distance (n,), triangle number (n,) among all layers, and normal (n, 3) of the nearest hit of every ray."""
        tensor, first = o3d.core.Tensor.from_numpy(rays), 0
        for number, layer in enumerate(self.layers):
            answer = layer.caster.cast_rays(tensor)
            t, triangle, n = (answer[key].numpy() for key in ("t_hit", "primitive_ids", "primitive_normals"))
            if number == 0:
                distance, triangles, normal = t, triangle, n
            else:
                nearer = np.flatnonzero(t < distance)
                distance[nearer], normal[nearer] = t[nearer], n[nearer]
                triangles[nearer] = triangle[nearer] + np.uint32(first)
            first += len(layer.batch.triangles)
        return distance, triangles, normal

    def occluded(self, origins: Floats, direction: Floats) -> npt.NDArray[np.bool_]:
        """Whether anything lies on the way from (n, 3) points towards one (3,) direction, or (n, 3) of them."""
        rays = _rays(origins, np.broadcast_to(direction, origins.shape))
        blocked = np.zeros(len(rays), bool)
        for layer in self.layers:
            open_way = np.flatnonzero(~blocked)
            tensor = o3d.core.Tensor.from_numpy(rays.take(open_way, axis=0))
            blocked[open_way] = layer.caster.test_occlusions(tensor, tnear=0.02).numpy()
        return blocked


def _world_vertices(thing: Instance) -> Floats:
    local = thing.mesh.vertices
    x = local[:, 0] + thing.mesh.swing * thing.stride if thing.stride else local[:, 0]
    c, s = np.cos(thing.heading), np.sin(thing.heading)
    out = np.empty_like(local)
    out[:, 0] = c * x - s * local[:, 1] + thing.x
    out[:, 1] = s * x + c * local[:, 1] + thing.y
    out[:, 2] = local[:, 2] + thing.z
    return out


def _row(thing: Instance) -> tuple[float, ...]:
    turn = (float(np.cos(thing.heading)), float(np.sin(thing.heading)))
    return (thing.x, thing.y, thing.z, *turn, thing.seed, *thing.first, *thing.second, float(thing.lit), thing.speed)


def _rays(origins: Floats, directions: Floats) -> Floats:
    rays = np.empty((len(directions), 6), np.float32)
    rays[:, :3] = origins
    rays[:, 3:] = directions
    return rays
