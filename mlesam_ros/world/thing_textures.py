"""Textures of everything that stands or moves in a street: leaves, lacquer, lamps, signs, clothes."""

from __future__ import annotations

import numpy as np

from mlesam_ros.world import classes
from mlesam_ros.world import paint as colors
from mlesam_ros.world.materials import GLOSS, Material
from mlesam_ros.world.noise import grain, hashed
from mlesam_ros.world.patch import ShadingBatch
from mlesam_ros.world.vector import as_float32

_SKINS = np.array(colors.SKINS, np.float32)


def leaf(p: ShadingBatch) -> None:
    """Foliage: leaves of many shades with dark gaps, and normals that point about."""
    x, y, z = np.abs(p.normal).T
    flat = z > 0.65
    u = np.where(flat | (y > x), p.world[:, 0], p.world[:, 1]) + 7 * p.seed
    v = np.where(flat, p.world[:, 1], p.world[:, 2])
    leaf, twig = grain(u, v, 16.0) * p.fade(0.08), grain(v, u, 5.0) * p.fade(0.3)
    tone = 0.95 + 0.34 * leaf + 0.34 * twig - 0.4 * (leaf + twig < -1.1)
    p.tint(p.first, tone)
    p.albedo[:, 0] *= 1 + 0.12 * twig
    p.normal[:, 0] += 0.45 * twig
    p.normal[:, 1] += 0.45 * leaf
    p.normal[:, 2] += 0.3
    p.normal[:] /= np.linalg.norm(p.normal, axis=1, keepdims=True)


def bark(p: ShadingBatch) -> None:
    """Bark in the second color."""
    p.tint(p.second, 1 + 0.35 * grain(p.x * 3 + p.y * 3, p.z * 0.6, 30.0) * p.fade(0.05))


def paint(p: ShadingBatch) -> None:
    """Lacquer, dusty towards the ground, with the line of a door."""
    dust = np.clip(0.55 - p.z, 0, 0.5)[:, None]
    p.albedo[:] = p.first * (1 - dust) + as_float32([0.12, 0.11, 0.09]) * dust
    seam = (np.abs(np.mod(p.x + 0.3, 1.1) - 0.55) < 0.012) & (np.abs(p.normal[:, 1]) > 0.7)
    p.albedo[:] *= (1 - 0.5 * seam * p.fade(0.03))[:, None]


def glass(p: ShadingBatch) -> None:
    """Panes: dark, but for what they mirror."""
    p.albedo[:] = as_float32([0.02, 0.024, 0.026])


def rubber(p: ShadingBatch) -> None:
    """Tyres, and everything else that is nearly black."""
    p.tint(as_float32([0.025, 0.024, 0.024]), 1 + 0.2 * grain(p.x, p.z, 40.0) * p.fade(0.03))


def headlamp(p: ShadingBatch) -> None:
    """Headlamps, burning on whatever drives."""
    p.albedo[:] = as_float32([0.8, 0.8, 0.78])
    p.emission[:] = (2.5 if p.lamps else 0.5) * p.lit


def taillamp(p: ShadingBatch) -> None:
    """Tail lamps, burning on whatever drives."""
    p.albedo[:] = as_float32([0.5, 0.02, 0.02])
    p.emission[:] = (0.5 if p.lamps else 0.25) * p.lit


def wood(p: ShadingBatch) -> None:
    """Boards in the second color."""
    p.tint(p.second, 1 + 0.2 * grain(p.x * 2 + p.y * 2, p.z * 0.3, 30.0) * p.fade(0.05))


def metal(p: ShadingBatch) -> None:
    """Dull lacquered metal in the first color."""
    p.tint(0.7 * p.first + 0.08, 1 + 0.06 * grain(p.x + p.y, p.z, 20.0) * p.fade(0.06))


def post(p: ShadingBatch) -> None:
    """Galvanised steel."""
    p.tint(as_float32([0.22, 0.23, 0.23]), 0.6 + np.mod(p.seed * 57, 1.0))


def sign(p: ShadingBatch) -> None:
    """A rim and a glyph on the face; the back is bare metal. Number plates are white."""
    height = p.z - 4 * p.seed
    rim = np.hypot(p.y, height) > 0.27
    glyph = (np.abs(p.y) < 0.05 + 0.08 * np.mod(p.seed * 31, 1.0)) & (np.abs(height) < 0.15)
    p.albedo[:] = p.first
    p.put(rim, p.second)
    p.put(glyph, np.where(p.first[:, :1] > 0.3, np.float32(0.02), np.float32(0.8)) * np.ones(3, np.float32))
    plate = p.classes != classes.TRAFFIC_SIGN
    p.put(plate, as_float32([0.65, 0.64, 0.55]))
    p.put(~plate & (p.normal[:, 0] > 0.3), as_float32([0.22, 0.23, 0.24]))


def signal(p: ShadingBatch) -> None:
    """The lit lens of a traffic light."""
    p.albedo[:] = p.first
    p.emission[:] = 0.7 if p.lamps else 1.6


def top(p: ShadingBatch) -> None:
    """A shirt or coat in the first color, some striped."""
    striped = (p.seed > 0.65) & (np.mod(p.z, 0.16) < 0.08)
    p.albedo[:] = np.where(striped[:, None], 0.5 * p.first + 0.3, p.first)


def trousers(p: ShadingBatch) -> None:
    """Trousers in the second color, and black shoes."""
    p.albedo[:] = np.where((p.z < 0.09)[:, None], np.float32(0.03), p.second)


def skin(p: ShadingBatch) -> None:
    """Faces."""
    p.albedo[:] = _SKINS[(p.seed * len(_SKINS)).astype(int)]


def streetlamp(p: ShadingBatch) -> None:
    """The head of a street lamp."""
    p.albedo[:] = as_float32([1.0, 0.8, 0.52])
    p.emission[:] = 1.5 if p.lamps else 0.0


def cargo(p: ShadingBatch) -> None:
    """Printed panels: lorry bodies and advertisements."""
    u = p.along()
    block = hashed(u / 0.9 + 100 * p.seed, p.z / 0.7) < 0.35
    banner = (np.mod(p.z + p.seed, 1.7) < 0.5) & (p.seed > 0.4)
    light = 0.55 * p.first + 0.3
    p.tint(np.where((banner | (block & (p.seed < 0.7)))[:, None], p.second, light), 1 + 0.04 * grain(u, p.z, 10.0))


def coach(p: ShadingBatch) -> None:
    """A bus: a band of windows between pillars, and a stripe."""
    u = p.along()
    p.albedo[:] = p.first
    p.put((p.z > 0.8) & (p.z < 1.15), p.second)
    window = (p.z > 1.4) & (p.z < 2.5) & (np.mod(u, 1.5) > 0.12) & (np.abs(p.normal[:, 2]) < 0.5)
    p.put(window, as_float32([0.02, 0.022, 0.025]))
    p.gloss[window] = GLOSS[Material.GLASS]
    if p.lamps:
        inside = window & (p.lit > 0)
        p.put(inside, as_float32([1.0, 0.93, 0.75]))
        p.emission[inside] = 0.06
