"""What surfaces are made of: the ids that triangles carry, and what a LiDAR and a mirror see in each."""

from __future__ import annotations

import enum

import numpy as np

from mlesam_ros.world.vector import Floats


class Material(enum.IntEnum):
    """How a triangle is textured (`texture.py`)."""

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


# Reflectance of the usual 905 nm LiDAR on each material at normal incidence; ours, in the order of magnitude of the
# data sheets' 10 % (asphalt, rubber) and 80 % (white paint, foliage) targets; retro-reflecting signs exceed 1.
_REFLECTANCE = {
    Material.GROUND: 0.16, Material.SLAB: 0.32, Material.GRASS: 0.5, Material.FACADE: 0.4, Material.ROOF: 0.25,
    Material.LEAF: 0.6, Material.BARK: 0.3, Material.PAINT: 0.55, Material.GLASS: 0.05, Material.RUBBER: 0.04,
    Material.HEADLAMP: 0.9, Material.TAILLAMP: 1.2, Material.BRICK: 0.3, Material.CONCRETE: 0.35, Material.WOOD: 0.45,
    Material.METAL: 0.5, Material.SIGN: 1.6, Material.SIGNAL: 0.4, Material.TOP: 0.5, Material.TROUSERS: 0.4,
    Material.SKIN: 0.55, Material.STREETLAMP: 0.5, Material.CARGO: 0.6, Material.COACH: 0.5,
    Material.POST: 0.5,
}  # fmt: skip

# Share of the sky that a surface mirrors when looked at straight on (Schlick's F0, exaggerated for car paint).
_GLOSS = {Material.GLASS: 0.22, Material.PAINT: 0.05, Material.COACH: 0.05, Material.METAL: 0.06}


def _table(values: dict[Material, float]) -> Floats:
    return np.array([values.get(material, 0.0) for material in Material], np.float32)


REFLECTANCE = _table(_REFLECTANCE)
"""(materials,) float32: LiDAR reflectance at normal incidence."""
GLOSS = _table(_GLOSS)
"""(materials,) float32: mirrored share of the sky at normal incidence."""
