# SPDX-License-Identifier: Apache-2.0
"""Procedural textures: noise, and one texture function per `Material`.

A texture function fills the `Surface` views of a `ShadingBatch` in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from mlesam_ros.simulation.scene import GLOSS, Floats, Hits, Label, Material, as_float32
from mlesam_ros.simulation.street_layout import SIDE_STREET, ZEBRA, StreetLayout
from mlesam_ros.simulation.style import linear

_SKINS = np.array([linear(*c) for c in ((224, 178, 150), (196, 142, 110), (140, 96, 70), (92, 62, 46))], np.float32)


SIZE = 512
"""Texels per side of a noise tile, a power of two; the tile repeats."""


@lru_cache(maxsize=1)
def _tiles() -> tuple[Floats, Floats]:
    """A fine and a smooth noise tile, each (SIZE * SIZE,) float32 of mean 0 and standard deviation 1."""
    rng = np.random.default_rng(20241206)
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE)))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]) + 1 / SIZE
    tiles = []
    for slope in (0.6, 1.8):
        tile = np.fft.irfft2(spectrum * frequency**-slope, s=(SIZE, SIZE))
        tiles.append(((tile - tile.mean()) / tile.std()).astype(np.float32).ravel())
    return tiles[0], tiles[1]


def grain(u: Floats, v: Floats, per_meter: float) -> Floats:
    """Fine noise at (n,) positions in meters, `per_meter` texels per meter; mean 0, standard deviation 1."""
    return _tiles()[0][_index(u * np.float32(per_meter), v * np.float32(per_meter))]


def cloudy(u: Floats, v: Floats, per_unit: float) -> Floats:
    """Smooth noise at (n,) positions, bilinear between texels; mean 0, standard deviation 1."""
    tile = _tiles()[1]
    a, b = u * np.float32(per_unit), v * np.float32(per_unit)
    fa, fb = a - np.floor(a), b - np.floor(b)
    low = tile[_index(a, b)] * (1 - fb) + tile[_index(a, b + 1)] * fb
    high = tile[_index(a + 1, b)] * (1 - fb) + tile[_index(a + 1, b + 1)] * fb
    return low * (1 - fa) + high * fa


def hashed(a: Floats, b: Floats) -> Floats:
    """Hash of every pair of cell indices as a number in [0, 1)."""
    x = np.floor(a).astype(np.int32).astype(np.uint32) * np.uint32(0x9E3779B1)
    x ^= np.floor(b).astype(np.int32).astype(np.uint32) * np.uint32(0x85EBCA77)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x2C1B3C6D)
    x ^= x >> np.uint32(13)
    return (x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _index(a: Floats, b: Floats) -> npt.NDArray[np.int32]:
    rows = np.floor(a).astype(np.int32) & (SIZE - 1)
    rows *= SIZE
    rows += np.floor(b).astype(np.int32) & (SIZE - 1)
    return rows


class ShadingBatch:
    """Input and output of a texture function: surface points of one material; arrays are (n,) unless noted.

    Properties are computed when a texture reads them.

    Attributes:
        layout: layout of the street.
        lamps: whether lamps are on.
        world: (n, 3) positions in the world, meters.
        blur: width of a pixel at the point, meters.
        seed, lit: attributes of the instance.
        first, second: (n, 3) colors of the instance.
        albedo, emission, gloss, classes: views of the `Surface` to fill; albedo is unset, the others have defaults.
    """

    def __init__(self, hits: Hits, out: Surface, part: slice, layout: StreetLayout, pixel: float, lamps: bool) -> None:
        """Take a part of the hits.

        Args:
            hits: hits sorted by material.
            out: surface of all hits.
            part: the hits of one material.
            layout: layout of the street.
            pixel: angle between neighboring rays, radians.
            lamps: whether lamps are on.
        """
        self.layout, self.lamps, self.world = layout, lamps, hits.point[part]
        self.blur = hits.distance.take(hits.ray[part]) * np.float32(pixel)
        self._rows, self._world_normal = hits.rows[part], hits.normal[part]
        self.seed, self.lit = self._rows[:, 5], self._rows[:, 12]
        self.first, self.second = self._rows[:, 6:9], self._rows[:, 9:12]
        self.albedo, self.emission = out.albedo[part], out.emission[part]
        self.gloss, self.classes = out.gloss[part], out.classes[part]

    @cached_property
    def x(self) -> Floats:
        """Position in the local frame of the instance, meters."""
        return self._forward(self.world[:, 0] - self._rows[:, 0], self.world[:, 1] - self._rows[:, 1])

    @cached_property
    def y(self) -> Floats:
        """Position in the local frame of the instance, meters."""
        return self._left(self.world[:, 0] - self._rows[:, 0], self.world[:, 1] - self._rows[:, 1])

    @cached_property
    def z(self) -> Floats:
        """Position in the local frame of the instance, meters."""
        return as_float32(self.world[:, 2] - self._rows[:, 2])

    @cached_property
    def normal(self) -> Floats:
        """(n, 3) unit vectors in the local frame of the instance."""
        x, y, z = self._world_normal.T
        return np.stack([self._forward(x, y), self._left(x, y), z]).T

    @property
    def world_normal(self) -> Floats:
        """(n, 3) unit vectors in the world, a view of the hits; foliage and water change it in place."""
        return self._world_normal

    def _forward(self, x: Floats, y: Floats) -> Floats:
        return as_float32(self._rows[:, 3] * x + self._rows[:, 4] * y)

    def _left(self, x: Floats, y: Floats) -> Floats:
        return as_float32(self._rows[:, 3] * y - self._rows[:, 4] * x)

    def fade(self, size: float) -> Floats:
        """Contrast of a detail `size` meters wide at this distance, from 1 (near) to 0 (far), against aliasing."""
        return 1 / (1 + (self.blur * np.float32(2 / size)) ** 2)

    def tint(self, base: Floats, factor: Floats) -> None:
        """Set the albedo to a color, (n, 3) or (3,), times a factor (n,)."""
        np.multiply(base, np.maximum(factor, 0.05)[:, None], out=self.albedo)

    def put(self, where: npt.NDArray[np.bool_], color: npt.ArrayLike) -> None:
        """Set the albedo where a mask (n,) is true, to one color (3,) or to rows of (n, 3) colors."""
        value = np.asarray(color, np.float32)
        self.albedo[where] = value[where] if value.ndim == 2 else value

    def along(self) -> Floats:
        """Horizontal coordinate along a vertical face."""
        return np.where(np.abs(self.normal[:, 0]) > np.abs(self.normal[:, 1]), self.y, self.x)


def ground(p: ShadingBatch) -> None:
    """Asphalt with markings between the curbs and in side streets, rough grass beyond."""
    d = p.layout.lateral(p.world)
    far = np.abs(d)
    side_street = (p.x < SIDE_STREET) & (np.where(d > 0, p.first[:, 0], p.first[:, 1]) > 0.5)
    road = (far < p.layout.curb) | side_street
    fine, coarse = grain(p.world[:, 0], p.world[:, 1], 45.0), cloudy(p.world[:, 0], p.world[:, 1], 5.0)
    patched = hashed(p.world[:, 0] / 7.3, d / 2.1) < 0.18 * p.layout.wear
    tone = p.layout.brightness * (1 + 0.16 * fine * p.fade(0.03) + 0.1 * coarse - 0.28 * patched)
    look = p.layout.look
    if look.setts:
        tone *= 1 + np.float32(look.setts) * (hashed(p.world[:, 0] / 0.11, d / 0.15) - 0.6) * p.fade(0.12)
    p.tint(as_float32(look.road), tone)
    line = road & _markings(p, d, far)
    worn = fine * p.fade(0.03) + 0.7 * coarse < 2.4 - 2.2 * p.layout.wear
    p.put(line & worn, as_float32(look.marking))
    grass = 1 + 0.3 * fine * p.fade(0.03) + 0.25 * coarse
    p.put(~road, as_float32(look.verge) * grass[:, None])
    p.classes[line] = Label.ROAD_LINE
    p.classes[~road] = Label.TERRAIN
    if p.layout.shapes.tramway:
        _rails(p, far)


_GAUGE_M = 1.435
_RAIL_M = 0.16
"""Width of a grooved rail with its joints, meters."""


def _rails(p: ShadingBatch, far: Floats) -> None:
    """Rails of a tramway in the lanes next to the center line."""
    across = np.abs(np.abs(far - 0.5 * p.layout.lane) - _GAUGE_M / 2)
    rail = across < _RAIL_M / 2
    p.put(rail, np.where((across < 0.03)[:, None], as_float32([0.3, 0.3, 0.31]), np.float32(0.06)))
    p.classes[rail] = Label.RAIL_TRACK


def _markings(p: ShadingBatch, d: Floats, far: Floats) -> npt.NDArray[np.bool_]:
    layout, x = p.layout, p.world[:, 0]

    def where(mask: npt.NDArray[np.bool_], periods: Sequence[tuple[float, float]], u: Floats) -> None:
        """Mark the part of the mask in which u is in the first part of one of the (period, part)."""
        index = np.flatnonzero(mask)
        part = u.take(index)
        lines[index] = np.logical_or.reduce([np.mod(part, period) < size for period, size in periods])

    lines = np.abs(far - layout.carriageway) < 0.06
    where((far < 0.075) & ~lines, ((7.0, 3.2), (96.0, 30)), x)
    if layout.lanes > 1:
        where((np.abs(far - layout.lane) < 0.07) & ~lines, ((7.0, 3.2),), x)
    if layout.parks:
        where((far > layout.carriageway) & (far < layout.curb) & ~lines, ((6.0, 0.12),), x)
    crossing = p.first[:, 2] > 0.5
    zebra = crossing & (p.x > ZEBRA[0]) & (p.x < ZEBRA[1])
    lines &= ~zebra
    where(zebra & (far < layout.carriageway), ((1.05, 0.55),), d)
    stop = np.where(d < 0, ZEBRA[0] - 1.3 - p.x, p.x - ZEBRA[1] - 1.0)
    lines |= crossing & (stop > 0) & (stop < 0.35) & (far < layout.carriageway)
    return lines & (far < layout.curb)


def slab(p: ShadingBatch) -> None:
    """Paving stones and a curb stone."""
    d = p.layout.lateral(p.world)
    tone = _paving(p, p.world[:, 0], d)
    curb = np.abs(d) < p.layout.curb + 0.2
    p.put(curb, as_float32(p.layout.look.curb) * tone[:, None])


def _paving(p: ShadingBatch, x: Floats, y: Floats) -> Floats:
    """Tint with paving stones in the first color; return the brightness factor without the joints."""
    look = p.layout.look
    length, width = look.slabs
    u, v = x / length, y / width
    joint = np.maximum(np.abs(u - np.round(u)), np.abs(v - np.round(v))) > 0.47
    tone = 1 + 0.12 * grain(p.x, p.y, 40.0) * p.fade(0.03) + 0.16 * (hashed(u + 0.5, v + 0.5) - 0.5) * p.fade(length)
    tone += 0.08 * cloudy(p.x, p.y, 4.0)
    p.tint(p.first, tone - look.joints * joint * p.fade(0.04))
    return tone


def paving(p: ShadingBatch) -> None:
    """A paved yard."""
    _paving(p, p.x, p.y)


def grass(p: ShadingBatch) -> None:
    """Lawn with green and dry patches."""
    blade, patch = grain(p.world[:, 0], p.world[:, 1], 50.0), cloudy(p.world[:, 0], p.world[:, 1], 6.0)
    tone = 1 + 0.35 * blade * p.fade(0.03) + 0.22 * patch
    dry = np.clip(0.35 + 0.3 * patch, 0, 1)[:, None]
    p.tint(as_float32(p.layout.look.lawn) * (1 - dry) + as_float32(p.layout.look.straw) * dry, tone)


def facade(p: ShadingBatch) -> None:
    """Floors of windows in brick or plaster; some ground floors are shops; at night some windows are lit."""
    u, style = p.along(), np.mod(p.seed * 97.0, 1.0)
    stain = 0.1 * cloudy(u + 50 * p.seed, p.z, 3.0)
    plaster = 1 + stain + 0.05 * grain(u, p.z, 30.0) * p.fade(0.04)
    p.tint(p.first, np.where(style < 0.45, _masonry(p, u) + 0.6 * stain, plaster))
    pitch = 1.7 + 1.9 * np.mod(p.seed * 13.0, 1.0)
    column, storey = np.floor(u / pitch), np.floor((p.z - 0.6) / 3.2)
    a, b = np.abs(u / pitch - column - 0.5) * pitch, (p.z - 0.6) / 3.2 - storey
    dice = hashed(column + 311 * np.floor(p.seed * 1000), storey)
    front = p.normal[:, 1] < -0.5
    lowest = storey == 0
    band = (np.abs(b - 0.02) < 0.03) & (style > 0.3)
    p.put(band, p.second)
    shop = lowest & front & (np.mod(p.seed * 41.0, 1.0) > 0.55)
    wide, low, high = pitch * (0.22 + 0.16 * np.mod(p.seed * 29.0, 1.0)), 0.26, 0.78
    wide = np.where(shop, pitch * 0.46, wide)
    low_edge, high_edge = np.where(shop, 0.04, low), np.where(shop, 0.72, high)
    there = (p.z > 0.6) & (front | (dice < 0.3)) & (np.abs(p.normal[:, 2]) < 0.5)
    pane = there & (a < wide) & (b > low_edge) & (b < high_edge)
    frame = there & (a < wide + 0.11) & (b > low_edge - 0.035) & (b < high_edge + 0.035) & ~pane
    p.put(frame, np.where(style[:, None] < 0.7, p.second, 0.6 * p.first))
    _panes(p, pane, a, dice, shop)
    if p.layout.look.posters:
        _posters(p, u, ~pane & (p.z > 0.8) & (p.z < 3.0))
    board = shop & (b > 0.78) & (b < 0.95)
    p.put(board, np.roll(p.second, 1, axis=1) * 0.8 + 0.2 * dice[:, None])
    door = lowest & front & ~shop & (dice < 0.2) & (a < 0.55) & (b < 0.68)
    p.put(door, p.second * 0.35)
    p.gloss[door] = 0.0
    p.emission[door] = 0.0


def _posters(p: ShadingBatch, u: Floats, where: npt.NDArray[np.bool_]) -> None:
    """Posters and graffiti: sheets of one color, with a printed block."""
    index = np.flatnonzero(where)
    u, z, seed = u.take(index), p.z.take(index), p.seed.take(index)
    column, row = u / 1.3 + 31 * seed, z / 0.95
    dice = hashed(column, row + 97 * np.floor(seed * 1000))
    a, b = column - np.floor(column), row - np.floor(row)
    sheet = np.flatnonzero((dice < 0.45 * p.layout.look.posters) & (np.abs(a - 0.5) < 0.36) & (np.abs(b - 0.5) < 0.42))
    a, b, dice = a.take(sheet), b.take(sheet), dice.take(sheet)
    hue = np.mod(dice * 1000, 1.0)[:, None] * as_float32([6.283, 12.6, 25.1])
    color = 0.32 + 0.3 * np.sin(hue + as_float32([0.0, 2.1, 4.2]))
    block = ((np.abs(a - 0.5) < 0.2) & (np.abs(b - 0.45) < 0.2))[:, None]
    p.albedo[index[sheet]] = np.where(block, 0.9 - color, color)


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
    """Rows of roof tiles."""
    rows = np.mod(np.abs(p.y) * 3.0, 1.0)
    tone = 1 + 0.25 * (rows - 0.5) * p.fade(0.3) + 0.1 * grain(p.x, p.y + p.z, 12.0) * p.fade(0.1)
    p.tint(p.second, tone)


def _masonry(p: ShadingBatch, u: Floats) -> Floats:
    """Brightness factor of brickwork, about 1."""
    course = p.z / 0.085
    across = u / 0.25 + 0.5 * np.mod(np.floor(course), 2)
    joint = (course - np.floor(course) < 0.16) | (across - np.floor(across) < 0.06)
    bricks = 0.3 * (hashed(across, course) - 0.5) * p.fade(0.2) + 0.25 * joint * p.fade(0.08)
    return 1 + bricks + 0.06 * grain(u, p.z, 30.0) * p.fade(0.04)


def brick(p: ShadingBatch) -> None:
    """A wall of bricks."""
    u = p.along()
    p.tint(p.first, _masonry(p, u))
    if p.layout.look.posters:
        _posters(p, u, p.z > 0.3)


def concrete(p: ShadingBatch) -> None:
    """Weathered concrete, tinted with the first color."""
    u = p.along()
    p.tint(0.4 * p.first + 0.18, 1 + 0.1 * grain(u, p.z + p.y, 25.0) * p.fade(0.05) + 0.12 * cloudy(u, p.z, 8.0))


def leaf(p: ShadingBatch) -> None:
    """Foliage: leaves of many shades with dark gaps and scattered normals."""
    x, y, z = np.abs(p.world_normal).T
    flat = z > 0.65
    u = np.where(flat | (y > x), p.world[:, 0], p.world[:, 1]) + 7 * p.seed
    v = np.where(flat, p.world[:, 1], p.world[:, 2])
    leaf, twig = grain(u, v, 16.0) * p.fade(0.08), grain(v, u, 5.0) * p.fade(0.3)
    tone = 0.95 + 0.34 * leaf + 0.34 * twig - 0.4 * (leaf + twig < -1.1)
    p.tint(p.first, tone)
    p.albedo[:, 0] *= 1 + 0.12 * twig
    p.world_normal[:, 0] += 0.45 * twig
    p.world_normal[:, 1] += 0.45 * leaf
    p.world_normal[:, 2] += 0.3
    _normalize(p.world_normal)


def _normalize(normal: Floats) -> None:
    x, y, z = normal.T
    normal *= (1 / np.sqrt(x * x + y * y + z * z))[:, None]


def bark(p: ShadingBatch) -> None:
    """Bark in the second color."""
    p.tint(p.second, 1 + 0.35 * grain(p.x * 3 + p.y * 3, p.z * 0.6, 30.0) * p.fade(0.05))


def paint(p: ShadingBatch) -> None:
    """Car paint, dusty towards the ground, with door seams."""
    dust = np.clip(0.55 - p.z, 0, 0.5)[:, None]
    p.albedo[:] = p.first * (1 - dust) + as_float32([0.12, 0.11, 0.09]) * dust
    seam = (np.abs(np.mod(p.x + 0.3, 1.1) - 0.55) < 0.012) & (np.abs(p.normal[:, 1]) > 0.7)
    p.albedo[:] *= (1 - 0.5 * seam * p.fade(0.03))[:, None]


def glass(p: ShadingBatch) -> None:
    """Window panes: dark except for reflections."""
    p.albedo[:] = as_float32([0.02, 0.024, 0.026])


def rubber(p: ShadingBatch) -> None:
    """Tires and other nearly black parts."""
    p.tint(as_float32([0.025, 0.024, 0.024]), 1 + 0.2 * grain(p.x, p.z, 40.0) * p.fade(0.03))


def headlamp(p: ShadingBatch) -> None:
    """Headlamps, on for moving vehicles."""
    p.albedo[:] = as_float32([0.8, 0.8, 0.78])
    p.emission[:] = (2.5 if p.lamps else 0.5) * p.lit


def taillamp(p: ShadingBatch) -> None:
    """Tail lamps, on for moving vehicles."""
    p.albedo[:] = as_float32([0.5, 0.02, 0.02])
    p.emission[:] = (0.5 if p.lamps else 0.25) * p.lit


def wood(p: ShadingBatch) -> None:
    """Wooden boards in the second color."""
    p.tint(p.second, 1 + 0.2 * grain(p.x * 2 + p.y * 2, p.z * 0.3, 30.0) * p.fade(0.05))


def metal(p: ShadingBatch) -> None:
    """Dull painted metal in the first color."""
    p.tint(0.7 * p.first + 0.08, 1 + 0.06 * grain(p.x + p.y, p.z, 20.0) * p.fade(0.06))


def post(p: ShadingBatch) -> None:
    """Galvanized steel."""
    p.tint(as_float32([0.22, 0.23, 0.23]), 0.6 + np.mod(p.seed * 57, 1.0))


def sign(p: ShadingBatch) -> None:
    """Traffic sign: rim and glyph on the face, bare metal on the back. License plates are white."""
    height = p.z - 4 * p.seed
    rim = np.hypot(p.y, height) > 0.27
    glyph = (np.abs(p.y) < 0.05 + 0.08 * np.mod(p.seed * 31, 1.0)) & (np.abs(height) < 0.15)
    p.albedo[:] = p.first
    p.put(rim, p.second)
    p.put(glyph, np.where(p.first[:, :1] > 0.3, np.float32(0.02), np.float32(0.8)) * np.ones(3, np.float32))
    plate = p.classes != Label.TRAFFIC_SIGN
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
    """Skin in one of several tones."""
    p.albedo[:] = _SKINS[(p.seed * len(_SKINS)).astype(int)]


def streetlamp(p: ShadingBatch) -> None:
    """The head of a street lamp."""
    p.albedo[:] = as_float32([1.0, 0.8, 0.52])
    p.emission[:] = 1.5 if p.lamps else 0.0


def cargo(p: ShadingBatch) -> None:
    """Printed panels: truck bodies and advertisements."""
    u = p.along()
    block = hashed(u / 0.9 + 100 * p.seed, p.z / 0.7) < 0.35
    banner = (np.mod(p.z + p.seed, 1.7) < 0.5) & (p.seed > 0.4)
    light = 0.55 * p.first + 0.3
    p.tint(np.where((banner | (block & (p.seed < 0.7)))[:, None], p.second, light), 1 + 0.04 * grain(u, p.z, 10.0))


def coach(p: ShadingBatch) -> None:
    """Bus body: a band of windows between pillars, and a stripe."""
    u = p.along()
    p.albedo[:] = p.first
    p.put((p.z > 0.8) & (p.z < 1.15), p.second)
    window = (
        (((p.z > 1.4) & (p.z < 2.5)) | ((p.z > 3.0) & (p.z < 3.8)))
        & (np.mod(u, 1.5) > 0.12)
        & (np.abs(p.normal[:, 2]) < 0.5)
    )
    p.put(window, as_float32([0.02, 0.022, 0.025]))
    p.gloss[window] = GLOSS[Material.GLASS]
    if p.lamps:
        inside = window & (p.lit > 0)
        p.put(inside, as_float32([1.0, 0.93, 0.75]))
        p.emission[inside] = 0.06


def water(p: ShadingBatch) -> None:
    """Water with ripples."""
    p.albedo[:] = as_float32(p.layout.look.water)
    ripple = np.float32(0.05) * p.fade(0.3)
    p.world_normal[:, 0] += ripple * grain(p.world[:, 0], p.world[:, 1], 6.0)
    p.world_normal[:, 1] += ripple * grain(p.world[:, 1], p.world[:, 0], 6.0)
    _normalize(p.world_normal)


def ballast(p: ShadingBatch) -> None:
    """Broken stone with sleepers across the local x axis."""
    stone = 1 + 0.3 * grain(p.x, p.y, 22.0) * p.fade(0.06)
    p.tint(p.first, stone)
    sleeper = (np.mod(p.x, 0.62) < 0.25) & (np.abs(np.abs(p.y) - 2.0) < 1.25)
    p.put(sleeper, p.second)


@dataclass(frozen=True, slots=True)
class Surface:
    """Optical properties of k surface points.

    Attributes:
        albedo: (k, 3) float32 linear RGB; where `emission` is not 0 also the color of the emitted light.
        emission: (k,) float32 radiance.
        gloss: (k,) float32, reflected share of the sky at normal incidence.
        sheen: (k,) float32, factor of roughness on the whole reflection, Fresnel term included; 1 on dry surfaces.
        classes: (k,) uint8 label ids.
    """

    albedo: Floats
    emission: Floats
    gloss: Floats
    sheen: Floats
    classes: npt.NDArray[np.uint8]


def shade_hits(hits: Hits, layout: StreetLayout, pixel: float, lamps: bool) -> Surface:
    """Texture the hits of rays.

    Args:
        hits: hits sorted by material; normals of foliage and water are changed in place.
        layout: layout of the street, for the ground.
        pixel: angle between neighboring rays, radians.
        lamps: whether lamps are on.
    """
    k = len(hits.ray)
    dark, matt = np.zeros(k, np.float32), np.ones(k, np.float32)
    out = Surface(np.empty((k, 3), np.float32), dark, GLOSS[hits.material], matt, hits.classes.copy())
    edges = np.searchsorted(hits.material, np.arange(len(Material) + 1))
    for material in Material:
        part = slice(int(edges[material]), int(edges[material + 1]))
        if part.start < part.stop:
            _TEXTURES[material](ShadingBatch(hits, out, part, layout, pixel, lamps))
    return out


_TEXTURES: dict[Material, Callable[[ShadingBatch], None]] = {
    Material.GROUND: ground,
    Material.SLAB: slab,
    Material.GRASS: grass,
    Material.FACADE: facade,
    Material.ROOF: roof,
    Material.LEAF: leaf,
    Material.BARK: bark,
    Material.PAINT: paint,
    Material.GLASS: glass,
    Material.RUBBER: rubber,
    Material.HEADLAMP: headlamp,
    Material.TAILLAMP: taillamp,
    Material.BRICK: brick,
    Material.CONCRETE: concrete,
    Material.WOOD: wood,
    Material.METAL: metal,
    Material.SIGN: sign,
    Material.SIGNAL: signal,
    Material.TOP: top,
    Material.TROUSERS: trousers,
    Material.SKIN: skin,
    Material.STREETLAMP: streetlamp,
    Material.CARGO: cargo,
    Material.COACH: coach,
    Material.POST: post,
    Material.WATER: water,
    Material.BALLAST: ballast,
    Material.PAVING: paving,
}
