"""Textures of what is built: facades with their windows, roofs, masonry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.world.materials import GLOSS, Material
from mlesam_ros.world.noise import cloudy, grain, hashed
from mlesam_ros.world.patch import ShadingBatch
from mlesam_ros.world.vector import Floats, as_float32


def facade(p: ShadingBatch) -> None:
    """Storeys of windows in brick or plaster; some ground floors are shops; by night some windows are lit."""
    u, style = p.along(), np.mod(p.seed * 97.0, 1.0)
    stain = 0.1 * cloudy(u + 50 * p.seed, p.z, 3.0)
    plaster = 1 + stain + 0.05 * grain(u, p.z, 30.0) * p.fade(0.04)
    p.tint(p.first, np.where(style < 0.45, _masonry(p, u) + 0.6 * stain, plaster))
    pitch = 1.7 + 1.9 * np.mod(p.seed * 13.0, 1.0)
    column, storey = np.floor(u / pitch), np.floor((p.z - 0.6) / 3.2)
    a, b = np.abs(u / pitch - column - 0.5) * pitch, (p.z - 0.6) / 3.2 - storey
    dice = hashed(column + 311 * np.floor(p.seed * 1000), storey)
    front = p.normal[:, 1] < -0.5
    ground = storey == 0
    band = (np.abs(b - 0.02) < 0.03) & (style > 0.3)
    p.put(band, p.second)
    shop = ground & front & (np.mod(p.seed * 41.0, 1.0) > 0.55)
    wide, low, high = pitch * (0.22 + 0.16 * np.mod(p.seed * 29.0, 1.0)), 0.26, 0.78
    wide = np.where(shop, pitch * 0.46, wide)
    low_edge, high_edge = np.where(shop, 0.04, low), np.where(shop, 0.72, high)
    there = (p.z > 0.6) & (front | (dice < 0.3)) & (np.abs(p.normal[:, 2]) < 0.5)
    pane = there & (a < wide) & (b > low_edge) & (b < high_edge)
    frame = there & (a < wide + 0.11) & (b > low_edge - 0.035) & (b < high_edge + 0.035) & ~pane
    p.put(frame, np.where(style[:, None] < 0.7, p.second, 0.6 * p.first))
    _panes(p, pane, a, dice, shop)
    board = shop & (b > 0.78) & (b < 0.95)
    p.put(board, np.roll(p.second, 1, axis=1) * 0.8 + 0.2 * dice[:, None])
    door = ground & front & ~shop & (dice < 0.2) & (a < 0.55) & (b < 0.68)
    p.put(door, p.second * 0.35)
    p.gloss[door] = 0.0
    p.emission[door] = 0.0


def _panes(p: ShadingBatch, pane: npt.NDArray[np.bool_], a: Floats, dice: Floats, shop: npt.NDArray[np.bool_]) -> None:
    curtain = 0.03 + 0.3 * np.maximum(dice - 0.55, 0)
    mullion = pane & (a < 0.035) & ~shop
    p.put(pane, np.repeat(curtain[:, None], 3, axis=1))
    p.put(mullion, p.second)
    p.gloss[pane & ~mullion] = GLOSS[Material.GLASS]
    if p.lamps:
        lit = pane & (np.where(shop, dice * 2.0, np.mod(dice * 17, 1.0)) > 0.72)
        p.put(lit, as_float32([1.0, 0.72, 0.4]))
        p.emission[lit] = (0.02 + 0.08 * np.mod(dice * 7, 1.0))[lit]


def roof(p: ShadingBatch) -> None:
    """Rows of tiles."""
    rows = np.mod(np.abs(p.y) * 3.0, 1.0)
    tone = 1 + 0.25 * (rows - 0.5) * p.fade(0.3) + 0.1 * grain(p.x, p.y + p.z, 12.0) * p.fade(0.1)
    p.tint(p.second, tone)


def _masonry(p: ShadingBatch, u: Floats) -> Floats:
    """The relief of bricks or plaster, about 1."""
    course = p.z / 0.085
    across = u / 0.25 + 0.5 * np.mod(np.floor(course), 2)
    joint = (course - np.floor(course) < 0.16) | (across - np.floor(across) < 0.06)
    bricks = 0.3 * (hashed(across, course) - 0.5) * p.fade(0.2) + 0.25 * joint * p.fade(0.08)
    return 1 + bricks + 0.06 * grain(u, p.z, 30.0) * p.fade(0.04)


def brick(p: ShadingBatch) -> None:
    """A garden wall."""
    p.tint(p.first, _masonry(p, p.along()))


def concrete(p: ShadingBatch) -> None:
    """Weathered concrete with a little of the first color."""
    u = p.along()
    p.tint(0.4 * p.first + 0.18, 1 + 0.1 * grain(u, p.z + p.y, 25.0) * p.fade(0.05) + 0.12 * cloudy(u, p.z, 8.0))
