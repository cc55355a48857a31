"""What every surface looks like close up: albedo, class, lamps and mirrors at each point that a ray met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlesam_ros.world import ground_textures as ground
from mlesam_ros.world import thing_textures as things
from mlesam_ros.world import wall_textures as walls
from mlesam_ros.world.materials import GLOSS, Material
from mlesam_ros.world.patch import ShadingBatch
from mlesam_ros.world.plan import StreetLayout
from mlesam_ros.world.scene import Hits
from mlesam_ros.world.vector import Floats


@dataclass(frozen=True, slots=True)
class Surface:
    """k surface points.

    Attributes:
        albedo: (k, 3) float32 linear RGB; where `emission` is not 0 also the color of its light.
        emission: (k,) float32 radiance.
        gloss: (k,) float32, mirrored share of the sky at normal incidence.
        sheen: (k,) float32, how much of what gloss and grazing light mirror is left by roughness: 1 on dry things,
            whose gloss says it all.
        classes: (k,) uint8 label ids.
    """

    albedo: Floats
    emission: Floats
    gloss: Floats
    sheen: Floats
    classes: npt.NDArray[np.uint8]


def surface(hits: Hits, plan: StreetLayout, pixel: float, lamps: bool) -> Surface:
    """Texture what rays met.

    Args:
        hits: in order of material; normals of rough materials are bent in place.
        plan: the street, for its ground.
        pixel: angle between neighboring rays, radians.
        lamps: whether it is dark enough for lamps.
    """
    k = len(hits.ray)
    dark, matt = np.zeros(k, np.float32), np.ones(k, np.float32)
    out = Surface(np.empty((k, 3), np.float32), dark, GLOSS[hits.material], matt, hits.classes.copy())
    edges = np.searchsorted(hits.material, np.arange(len(Material) + 1))
    for material in Material:
        part = slice(int(edges[material]), int(edges[material + 1]))
        if part.start < part.stop:
            _TEXTURES[material](_patch(hits, out, part, plan, pixel, lamps))
    return out


def _patch(hits: Hits, out: Surface, part: slice, plan: StreetLayout, pixel: float, lamps: bool) -> ShadingBatch:
    rows, world = hits.rows[part], hits.point[part]
    dx, dy = world[:, 0] - rows[:, 0], world[:, 1] - rows[:, 1]
    c, s = rows[:, 3], rows[:, 4]
    normal = hits.normal[part].copy()
    normal[:, 0] = c * hits.normal[part, 0] + s * hits.normal[part, 1]
    normal[:, 1] = c * hits.normal[part, 1] - s * hits.normal[part, 0]
    return ShadingBatch(
        plan, lamps, world, c * dx + s * dy, c * dy - s * dx, world[:, 2] - rows[:, 2],
        hits.normal[part] if hits.material[part.start] == Material.LEAF else normal,
        hits.distance[hits.ray[part]] * np.float32(pixel), rows[:, 5], rows[:, 12], rows[:, 6:9], rows[:, 9:12],
        out.albedo[part], out.emission[part], out.gloss[part], out.classes[part],
    )  # fmt: skip


_TEXTURES: dict[Material, Callable[[ShadingBatch], None]] = {
    Material.GROUND: ground.ground,
    Material.SLAB: ground.slab,
    Material.GRASS: ground.grass,
    Material.FACADE: walls.facade,
    Material.ROOF: walls.roof,
    Material.LEAF: things.leaf,
    Material.BARK: things.bark,
    Material.PAINT: things.paint,
    Material.GLASS: things.glass,
    Material.RUBBER: things.rubber,
    Material.HEADLAMP: things.headlamp,
    Material.TAILLAMP: things.taillamp,
    Material.BRICK: walls.brick,
    Material.CONCRETE: walls.concrete,
    Material.WOOD: things.wood,
    Material.METAL: things.metal,
    Material.SIGN: things.sign,
    Material.SIGNAL: things.signal,
    Material.TOP: things.top,
    Material.TROUSERS: things.trousers,
    Material.SKIN: things.skin,
    Material.STREETLAMP: things.streetlamp,
    Material.CARGO: things.cargo,
    Material.COACH: things.coach,
    Material.POST: things.post,
}
