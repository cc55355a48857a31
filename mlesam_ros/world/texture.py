"""What every surface looks like close up: albedo, class, lamps and mirrors at each point that a ray met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlesam_ros.world import classes, paint
from mlesam_ros.world.materials import GLOSS, Material
from mlesam_ros.world.noise import cloudy, grain, hashed
from mlesam_ros.world.plan import SIDE_STREET, ZEBRA, Plan
from mlesam_ros.world.scene import Hits
from mlesam_ros.world.vector import Floats, vector

_SKINS = np.array(paint.SKINS, np.float32)


@dataclass(frozen=True, slots=True)
class Surface:
    """k surface points.

    Attributes:
        albedo: (k, 3) float32 linear RGB; where `emission` is not 0 also the colour of its light.
        emission: (k,) float32 radiance.
        gloss: (k,) float32, mirrored share of the sky at normal incidence.
        classes: (k,) uint8 label ids.

    """

    albedo: Floats
    emission: Floats
    gloss: Floats
    classes: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Patch:
    """The points of one material, in the frame of the thing that they belong to; all (n,) unless said otherwise.

    Attributes:
        plan: the street.
        lamps: whether it is dark enough for lamps.
        world: (n, 3) metres.
        x, y, z: metres in the thing's own frame.
        normal: (n, 3) in the thing's own frame; textures may roughen it in place.
        blur: metres that a pixel covers there.
        seed, lit: of the thing.
        first, second: (n, 3) its colours.
        albedo, emission, gloss, classes: views of the `Surface` to fill; albedo is unset, the others hold defaults.

    """

    plan: Plan
    lamps: bool
    world: Floats
    x: Floats
    y: Floats
    z: Floats
    normal: Floats
    blur: Floats
    seed: Floats
    lit: Floats
    first: Floats
    second: Floats
    albedo: Floats
    emission: Floats
    gloss: Floats
    classes: npt.NDArray[np.uint8]

    def fade(self, size: float) -> Floats:
        """How much of a detail `size` metres wide survives at this distance, 1 near to 0 far: it must not alias."""
        return 1 / (1 + (self.blur * np.float32(2 / size)) ** 2)

    def tint(self, base: Floats, factor: Floats) -> None:
        """Set the albedo to a colour, (n, 3) or (3,), times a factor (n,)."""
        np.multiply(base, np.maximum(factor, 0.05)[:, None], out=self.albedo)

    def put(self, where: npt.NDArray[np.bool_], colour: npt.ArrayLike) -> None:
        """Set the albedo where a mask (n,) holds, to one colour (3,) or to rows of (n, 3) colours."""
        value = np.asarray(colour, np.float32)
        self.albedo[where] = value[where] if value.ndim == 2 else value

    def along(self) -> Floats:
        """The horizontal coordinate along an upright face."""
        return np.where(np.abs(self.normal[:, 0]) > np.abs(self.normal[:, 1]), self.y, self.x)


def surface(hits: Hits, plan: Plan, pixel: float, lamps: bool) -> Surface:
    """Texture what rays met.

    Args:
        hits: in order of material; normals of rough materials are bent in place.
        plan: the street, for its ground.
        pixel: angle between neighbouring rays, radians.
        lamps: whether it is dark enough for lamps.

    """
    k = len(hits.ray)
    out = Surface(np.empty((k, 3), np.float32), np.zeros(k, np.float32), GLOSS[hits.material], hits.classes.copy())
    edges = np.searchsorted(hits.material, np.arange(len(Material) + 1))
    for material in Material:
        part = slice(int(edges[material]), int(edges[material + 1]))
        if part.start < part.stop:
            _TEXTURES[material](_patch(hits, out, part, plan, pixel, lamps))
    return out


def _patch(hits: Hits, out: Surface, part: slice, plan: Plan, pixel: float, lamps: bool) -> Patch:
    rows, world = hits.rows[part], hits.point[part]
    dx, dy = world[:, 0] - rows[:, 0], world[:, 1] - rows[:, 1]
    c, s = rows[:, 3], rows[:, 4]
    normal = hits.normal[part].copy()
    normal[:, 0] = c * hits.normal[part, 0] + s * hits.normal[part, 1]
    normal[:, 1] = c * hits.normal[part, 1] - s * hits.normal[part, 0]
    return Patch(
        plan, lamps, world, c * dx + s * dy, c * dy - s * dx, world[:, 2] - rows[:, 2],
        hits.normal[part] if hits.material[part.start] == Material.LEAF else normal,
        hits.distance[hits.ray[part]] * np.float32(pixel), rows[:, 5], rows[:, 12], rows[:, 6:9], rows[:, 9:12],
        out.albedo[part], out.emission[part], out.gloss[part], out.classes[part],
    )  # fmt: skip


def _ground(p: Patch) -> None:
    """Asphalt between the kerbs and in side streets, rough grass beyond."""
    d = p.plan.lateral(p.world)
    far = np.abs(d)
    side_street = (p.x < SIDE_STREET) & (np.where(d > 0, p.first[:, 0], p.first[:, 1]) > 0.5)
    road = (far < p.plan.kerb) | side_street
    fine, coarse = grain(p.world[:, 0], p.world[:, 1], 45.0), cloudy(p.world[:, 0], p.world[:, 1], 5.0)
    patched = hashed(p.world[:, 0] / 7.3, d / 2.1) < 0.18 * p.plan.wear
    tone = p.plan.brightness * (1 + 0.16 * fine * p.fade(0.03) + 0.1 * coarse - 0.28 * patched)
    p.tint(np.array([1.0, 0.99, 0.96], np.float32), tone)
    line = road & _markings(p, d, far)
    worn = fine * p.fade(0.03) + 0.7 * coarse < 2.4 - 2.2 * p.plan.wear
    p.put(line & worn, vector([0.62, 0.62, 0.58]))
    grass = 1 + 0.3 * fine * p.fade(0.03) + 0.25 * coarse
    p.put(~road, vector([0.11, 0.13, 0.05]) * grass[:, None])
    p.classes[line] = classes.ROAD_LINE
    p.classes[~road] = classes.TERRAIN


def _markings(p: Patch, d: Floats, far: Floats) -> npt.NDArray[np.bool_]:
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
    return lines & (far < plan.kerb)


def _slab(p: Patch) -> None:
    """Paving stones and a kerb stone."""
    d = p.plan.lateral(p.world)
    u, v = p.world[:, 0] / 0.6, d / 0.6
    joint = np.maximum(np.abs(u - np.round(u)), np.abs(v - np.round(v))) > 0.47
    tone = 1 + 0.12 * grain(p.x, p.y, 40.0) * p.fade(0.03) + 0.16 * (hashed(u + 0.5, v + 0.5) - 0.5) * p.fade(0.6)
    tone += 0.08 * cloudy(p.x, p.y, 4.0)
    p.tint(p.first, tone - 0.4 * joint * p.fade(0.04))
    kerb = np.abs(d) < p.plan.kerb + 0.2
    p.put(kerb, vector([0.36, 0.36, 0.35]) * tone[:, None])


def _grass(p: Patch) -> None:
    blade, patch = grain(p.world[:, 0], p.world[:, 1], 50.0), cloudy(p.world[:, 0], p.world[:, 1], 6.0)
    tone = 1 + 0.35 * blade * p.fade(0.03) + 0.22 * patch
    dry = np.clip(0.35 + 0.3 * patch, 0, 1)[:, None]
    p.tint(vector([0.09, 0.15, 0.035]) * (1 - dry) + vector([0.17, 0.15, 0.07]) * dry, tone)


def _masonry(p: Patch, u: Floats) -> Floats:
    """The relief of bricks or plaster, about 1."""
    course = p.z / 0.085
    across = u / 0.25 + 0.5 * np.mod(np.floor(course), 2)
    joint = (course - np.floor(course) < 0.16) | (across - np.floor(across) < 0.06)
    bricks = 0.3 * (hashed(across, course) - 0.5) * p.fade(0.2) + 0.25 * joint * p.fade(0.08)
    return 1 + bricks + 0.06 * grain(u, p.z, 30.0) * p.fade(0.04)


def _facade(p: Patch) -> None:
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


def _panes(p: Patch, pane: npt.NDArray[np.bool_], a: Floats, dice: Floats, shop: npt.NDArray[np.bool_]) -> None:
    curtain = 0.03 + 0.3 * np.maximum(dice - 0.55, 0)
    mullion = pane & (a < 0.035) & ~shop
    p.put(pane, np.repeat(curtain[:, None], 3, axis=1))
    p.put(mullion, p.second)
    p.gloss[pane & ~mullion] = GLOSS[Material.GLASS]
    if p.lamps:
        lit = pane & (np.where(shop, dice * 2.0, np.mod(dice * 17, 1.0)) > 0.72)
        p.put(lit, vector([1.0, 0.72, 0.4]))
        p.emission[lit] = (0.02 + 0.08 * np.mod(dice * 7, 1.0))[lit]


def _roof(p: Patch) -> None:
    rows = np.mod(np.abs(p.y) * 3.0, 1.0)
    tone = 1 + 0.25 * (rows - 0.5) * p.fade(0.3) + 0.1 * grain(p.x, p.y + p.z, 12.0) * p.fade(0.1)
    p.tint(p.second, tone)


def _leaf(p: Patch) -> None:
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


def _bark(p: Patch) -> None:
    p.tint(p.second, 1 + 0.35 * grain(p.x * 3 + p.y * 3, p.z * 0.6, 30.0) * p.fade(0.05))


def _paint(p: Patch) -> None:
    """Lacquer, dusty towards the ground, with the line of a door."""
    dust = np.clip(0.55 - p.z, 0, 0.5)[:, None]
    p.albedo[:] = p.first * (1 - dust) + vector([0.12, 0.11, 0.09]) * dust
    seam = (np.abs(np.mod(p.x + 0.3, 1.1) - 0.55) < 0.012) & (np.abs(p.normal[:, 1]) > 0.7)
    p.albedo[:] *= (1 - 0.5 * seam * p.fade(0.03))[:, None]


def _glass(p: Patch) -> None:
    p.albedo[:] = vector([0.02, 0.024, 0.026])


def _rubber(p: Patch) -> None:
    p.tint(vector([0.025, 0.024, 0.024]), 1 + 0.2 * grain(p.x, p.z, 40.0) * p.fade(0.03))


def _headlamp(p: Patch) -> None:
    p.albedo[:] = vector([0.8, 0.8, 0.78])
    p.emission[:] = (2.5 if p.lamps else 0.5) * p.lit


def _taillamp(p: Patch) -> None:
    p.albedo[:] = vector([0.5, 0.02, 0.02])
    p.emission[:] = (0.5 if p.lamps else 0.25) * p.lit


def _brick(p: Patch) -> None:
    p.tint(p.first, _masonry(p, p.along()))


def _concrete(p: Patch) -> None:
    u = p.along()
    p.tint(0.4 * p.first + 0.18, 1 + 0.1 * grain(u, p.z + p.y, 25.0) * p.fade(0.05) + 0.12 * cloudy(u, p.z, 8.0))


def _wood(p: Patch) -> None:
    p.tint(p.second, 1 + 0.2 * grain(p.x * 2 + p.y * 2, p.z * 0.3, 30.0) * p.fade(0.05))


def _metal(p: Patch) -> None:
    p.tint(0.7 * p.first + 0.08, 1 + 0.06 * grain(p.x + p.y, p.z, 20.0) * p.fade(0.06))


def _post(p: Patch) -> None:
    p.tint(vector([0.22, 0.23, 0.23]), 0.6 + np.mod(p.seed * 57, 1.0))


def _sign(p: Patch) -> None:
    """A rim and a glyph on the face; the back is bare metal. Number plates are white."""
    height = p.z - 4 * p.seed
    rim = np.hypot(p.y, height) > 0.27
    glyph = (np.abs(p.y) < 0.05 + 0.08 * np.mod(p.seed * 31, 1.0)) & (np.abs(height) < 0.15)
    p.albedo[:] = p.first
    p.put(rim, p.second)
    p.put(glyph, np.where(p.first[:, :1] > 0.3, np.float32(0.02), np.float32(0.8)) * np.ones(3, np.float32))
    plate = p.classes != classes.TRAFFIC_SIGN
    p.put(plate, vector([0.65, 0.64, 0.55]))
    p.put(~plate & (p.normal[:, 0] > 0.3), vector([0.22, 0.23, 0.24]))


def _signal(p: Patch) -> None:
    p.albedo[:] = p.first
    p.emission[:] = 0.7 if p.lamps else 1.6


def _top(p: Patch) -> None:
    striped = (p.seed > 0.65) & (np.mod(p.z, 0.16) < 0.08)
    p.albedo[:] = np.where(striped[:, None], 0.5 * p.first + 0.3, p.first)


def _trousers(p: Patch) -> None:
    p.albedo[:] = np.where((p.z < 0.09)[:, None], np.float32(0.03), p.second)


def _skin(p: Patch) -> None:
    p.albedo[:] = _SKINS[(p.seed * len(_SKINS)).astype(int)]


def _streetlamp(p: Patch) -> None:
    p.albedo[:] = vector([1.0, 0.8, 0.52])
    p.emission[:] = 1.5 if p.lamps else 0.0


def _cargo(p: Patch) -> None:
    """Printed panels: lorry bodies and advertisements."""
    u = p.along()
    block = hashed(u / 0.9 + 100 * p.seed, p.z / 0.7) < 0.35
    banner = (np.mod(p.z + p.seed, 1.7) < 0.5) & (p.seed > 0.4)
    light = 0.55 * p.first + 0.3
    p.tint(np.where((banner | (block & (p.seed < 0.7)))[:, None], p.second, light), 1 + 0.04 * grain(u, p.z, 10.0))


def _coach(p: Patch) -> None:
    """A bus: a band of windows between pillars, and a stripe."""
    u = p.along()
    p.albedo[:] = p.first
    p.put((p.z > 0.8) & (p.z < 1.15), p.second)
    window = (p.z > 1.4) & (p.z < 2.5) & (np.mod(u, 1.5) > 0.12) & (np.abs(p.normal[:, 2]) < 0.5)
    p.put(window, vector([0.02, 0.022, 0.025]))
    p.gloss[window] = GLOSS[Material.GLASS]
    if p.lamps:
        inside = window & (p.lit > 0)
        p.put(inside, vector([1.0, 0.93, 0.75]))
        p.emission[inside] = 0.06


_TEXTURES: dict[Material, Callable[[Patch], None]] = {
    Material.GROUND: _ground, Material.SLAB: _slab, Material.GRASS: _grass, Material.FACADE: _facade,
    Material.ROOF: _roof, Material.LEAF: _leaf, Material.BARK: _bark, Material.PAINT: _paint, Material.GLASS: _glass,
    Material.RUBBER: _rubber, Material.HEADLAMP: _headlamp, Material.TAILLAMP: _taillamp, Material.BRICK: _brick,
    Material.CONCRETE: _concrete, Material.WOOD: _wood, Material.METAL: _metal, Material.SIGN: _sign,
    Material.SIGNAL: _signal, Material.TOP: _top, Material.TROUSERS: _trousers, Material.SKIN: _skin,
    Material.STREETLAMP: _streetlamp, Material.CARGO: _cargo, Material.COACH: _coach, Material.POST: _post,
}  # fmt: skip
