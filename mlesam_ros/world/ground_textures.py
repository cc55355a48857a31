"""Textures to walk and drive on: asphalt and its markings, paving stones, grass."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.world import classes
from mlesam_ros.world.noise import cloudy, grain, hashed
from mlesam_ros.world.patch import ShadingBatch
from mlesam_ros.world.plan import SIDE_STREET, ZEBRA
from mlesam_ros.world.vector import Floats, as_float32


def ground(p: ShadingBatch) -> None:
    """Asphalt between the curbs and in side streets, rough grass beyond."""
    d = p.plan.lateral(p.world)
    far = np.abs(d)
    side_street = (p.x < SIDE_STREET) & (np.where(d > 0, p.first[:, 0], p.first[:, 1]) > 0.5)
    road = (far < p.plan.curb) | side_street
    fine, coarse = grain(p.world[:, 0], p.world[:, 1], 45.0), cloudy(p.world[:, 0], p.world[:, 1], 5.0)
    patched = hashed(p.world[:, 0] / 7.3, d / 2.1) < 0.18 * p.plan.wear
    tone = p.plan.brightness * (1 + 0.16 * fine * p.fade(0.03) + 0.1 * coarse - 0.28 * patched)
    p.tint(np.array([1.0, 0.99, 0.96], np.float32), tone)
    line = road & _markings(p, d, far)
    worn = fine * p.fade(0.03) + 0.7 * coarse < 2.4 - 2.2 * p.plan.wear
    p.put(line & worn, as_float32([0.62, 0.62, 0.58]))
    grass = 1 + 0.3 * fine * p.fade(0.03) + 0.25 * coarse
    p.put(~road, as_float32([0.11, 0.13, 0.05]) * grass[:, None])
    p.classes[line] = classes.ROAD_LINE
    p.classes[~road] = classes.TERRAIN


def _markings(p: ShadingBatch, d: Floats, far: Floats) -> npt.NDArray[np.bool_]:
    plan, x = p.plan, p.world[:, 0]
    dashed = np.mod(x, 7.0) < 3.2
    lines = (far < 0.075) & (dashed | (np.mod(x, 96.0) < 30))
    lines |= np.abs(far - plan.carriageway) < 0.06
    if plan.lanes > 1:
        lines |= (np.abs(far - plan.lane) < 0.07) & dashed
    if plan.parks:
        lines |= (far > plan.carriageway) & (np.mod(x, 6.0) < 0.12)
    crossing = p.first[:, 2] > 0.5
    zebra = (p.x > ZEBRA[0]) & (p.x < ZEBRA[1])
    lines = np.where(crossing & zebra, (np.mod(d, 1.05) < 0.55) & (far < plan.carriageway), lines)
    stop = np.where(d < 0, ZEBRA[0] - 1.3 - p.x, p.x - ZEBRA[1] - 1.0)
    lines |= crossing & (stop > 0) & (stop < 0.35) & (far < plan.carriageway)
    return lines & (far < plan.curb)


def slab(p: ShadingBatch) -> None:
    """Paving stones and a curb stone."""
    d = p.plan.lateral(p.world)
    u, v = p.world[:, 0] / 0.6, d / 0.6
    joint = np.maximum(np.abs(u - np.round(u)), np.abs(v - np.round(v))) > 0.47
    tone = 1 + 0.12 * grain(p.x, p.y, 40.0) * p.fade(0.03) + 0.16 * (hashed(u + 0.5, v + 0.5) - 0.5) * p.fade(0.6)
    tone += 0.08 * cloudy(p.x, p.y, 4.0)
    p.tint(p.first, tone - 0.4 * joint * p.fade(0.04))
    curb = np.abs(d) < p.plan.curb + 0.2
    p.put(curb, as_float32([0.36, 0.36, 0.35]) * tone[:, None])


def grass(p: ShadingBatch) -> None:
    """Lawn, greener and drier in patches."""
    blade, patch = grain(p.world[:, 0], p.world[:, 1], 50.0), cloudy(p.world[:, 0], p.world[:, 1], 6.0)
    tone = 1 + 0.35 * blade * p.fade(0.03) + 0.22 * patch
    dry = np.clip(0.35 + 0.3 * patch, 0, 1)[:, None]
    p.tint(as_float32([0.09, 0.15, 0.035]) * (1 - dry) + as_float32([0.17, 0.15, 0.07]) * dry, tone)
