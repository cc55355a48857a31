# SPDX-License-Identifier: Apache-2.0
"""The tiles of a street and its traffic.

`furnish_tile` places the static objects of a tile, `place_movers` the vehicles, cyclists and pedestrians.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from mlesam_ros.simulation.objects import (
    bollards,
    building,
    bush,
    clutter,
    fence,
    gantry,
    guard_rail,
    hedge,
    lamp,
    movable,
    oddity,
    pole,
    shelter,
    sign,
    signals,
    tree,
    viaduct,
    wall,
)
from mlesam_ros.simulation.road_users import draw_person, draw_vehicle, two_wheeler
from mlesam_ros.simulation.scene import Batch, Color, Instance, Label, Material, boxes, frustum, join, mesh, place
from mlesam_ros.simulation.street_layout import CURB, LAMP_PITCH, SIDE_STREET, TILE, ZEBRA, Ego, StreetLayout
from mlesam_ros.simulation.style import Look, Shapes

_GROUND_HALF_WIDTH_M = 130.0
"""Extent of the ground to either side, meters."""
_SIDES = (1, -1)


def furnish_tile(layout: StreetLayout, seed: int, number: int) -> Batch:
    """Furnish tile `number`, TILE * number … TILE * (number + 1) meters; deterministic for given arguments."""
    rng = np.random.default_rng([seed, 101, number + 1_000_000])
    start = TILE * number
    open_left, open_right = (bool(rng.uniform() < 0.22) for _ in _SIDES)
    zebra = open_left or open_right or rng.uniform() < 0.15
    instances = [_ground(layout, start, (open_left, open_right, zebra), rng)]
    for side, is_open in zip(_SIDES, (open_left, open_right), strict=True):
        first = start + (SIDE_STREET if is_open else 0.0)
        instances.append(_pavement(layout, first, start + TILE, side, rng))
        front = _draw_front(layout, rng)
        if front == "plots":
            instances += _plots(layout, first, start + TILE, side, rng)
        else:
            instances += _open_front(layout, front, first, start + TILE, side, rng)
        instances += _curbside(layout, first, start + TILE, side, rng)
        instances += _parked(layout, start + (ZEBRA[1] + 2 if zebra else first - start + 1), start + TILE, side, rng)
        instances += _lamps(layout, start, side, rng)
        instances += _standing_people(layout, first, start + TILE, side, rng)
    instances += _crossing(layout, start, rng) if zebra else []
    instances += _skyline(layout, start, rng)
    instances += _extras(layout, start, zebra, rng) if layout.shapes.scenery else []
    return place(instances)


def _to_world(layout: StreetLayout, s: float, d: float) -> tuple[float, float, float]:
    """World x, y and heading of street coordinates (s, d)."""
    heading = layout.heading(s)
    return float(s - d * np.sin(heading)), float(layout.bend(s) + d * np.cos(heading)), heading


def _ground(
    layout: StreetLayout, start: float, openings: tuple[bool, bool, bool], rng: np.random.Generator
) -> Instance:
    corners = [
        (0, -_GROUND_HALF_WIDTH_M, 0),
        (TILE, -_GROUND_HALF_WIDTH_M, 0),
        (TILE, _GROUND_HALF_WIDTH_M, 0),
        (0, _GROUND_HALF_WIDTH_M, 0),
    ]
    flat = mesh(corners, [[0, 1, 2], [0, 2, 3]], Material.GROUND, Label.ROAD)
    flags: Color = (float(openings[0]), float(openings[1]), float(openings[2]))
    return Instance(flat, start, 0.0, 0.0, 0.0, float(rng.uniform()), flags)


def _strip(
    layout: StreetLayout, s0: float, s1: float, d0: float, d1: float, height: float, material: Material, label: int
) -> Instance:
    """A raised strip that follows the bend of the street, `s0` … `s1` by `d0` … `d1` meters."""
    stations = np.linspace(s0, s1, max(2, int((s1 - s0) / 6) + 1))
    pieces = []
    for a, b in pairwise(stations):
        ring = [(s, layout.bend(s) + d) for s, d in ((a, d0), (b, d0), (b, d1), (a, d1))]
        pieces.append(frustum([(x, y, -0.05) for x, y in ring], [(x, y, height) for x, y in ring], material, label))
    return Instance(join(pieces), 0.0, 0.0, 0.0, 0.0, 0.5)


def _pavement(layout: StreetLayout, s0: float, s1: float, side: int, rng: np.random.Generator) -> Instance:
    strip = _strip(layout, s0, s1, side * layout.curb, side * layout.frontage, CURB, Material.SLAB, Label.SIDEWALK)
    look = layout.look
    tone = float(rng.uniform(*look.pavement))
    color = (tone * look.paving[0], tone * look.paving[1], tone * look.paving[2])
    return Instance(strip.mesh, 0.0, 0.0, 0.0, 0.0, float(rng.uniform()), color)


def _plots(layout: StreetLayout, s0: float, s1: float, side: int, rng: np.random.Generator) -> list[Instance]:
    """Houses and gardens on one side, in order of s."""
    instances: list[Instance] = []
    s = s0 + 0.2
    while s < s1 - 5:
        width = min(float(rng.uniform(8, 19)), s1 - s)
        middle = s + width / 2
        if rng.uniform() < layout.urban:
            setback = float(rng.choice([0.0, 0.3, 2.5, 4.0], p=[0.4, 0.25, 0.2, 0.15]))
            instances += _house(layout, middle, width, side, setback, rng)
        else:
            instances += _garden(layout, middle, width, side, rng)
        s += width
    return instances


def _house(
    layout: StreetLayout, s: float, width: float, side: int, setback: float, rng: np.random.Generator
) -> list[Instance]:
    x, y, heading = _to_world(layout, s, side * (layout.frontage + setback))
    turn = heading if side > 0 else heading + np.pi
    instances = [building(rng, layout, width - float(rng.choice([0.0, 0.1, 1.5])), x, y, turn)]
    if setback > 1:
        instances.append(_lawn(layout, s - width / 2, s + width / 2, side, setback))
        instances += _border(layout, s, width * 0.45, side, rng)
        x, y, _ = _to_world(layout, s + rng.uniform(-0.4, 0.4) * width, side * (layout.frontage + 1.2))
        instances.append(bush(rng, layout.look, x, y))
    return instances


def _lawn(layout: StreetLayout, s0: float, s1: float, side: int, depth: float) -> Instance:
    near, far = side * layout.frontage, side * (layout.frontage + depth)
    return _strip(layout, s0, s1, near, far, CURB + 0.02, Material.GRASS, Label.TERRAIN)


def _border(layout: StreetLayout, s: float, length: float, side: int, rng: np.random.Generator) -> list[Instance]:
    make = (wall, fence, hedge)[int(rng.integers(3))]
    return [make(rng, layout.look, length, *_to_world(layout, s, side * (layout.frontage + 0.35)))]


def _garden(layout: StreetLayout, s: float, width: float, side: int, rng: np.random.Generator) -> list[Instance]:
    depth = float(rng.uniform(12, 22))
    instances = [_lawn(layout, s - width / 2, s + width / 2, side, depth), *_border(layout, s, width - 0.3, side, rng)]
    for _ in range(int(rng.integers(1, 5))):
        x, y, _ = _to_world(
            layout, s + rng.uniform(-0.45, 0.45) * width, side * (layout.frontage + rng.uniform(2.5, depth))
        )
        instances.append(tree(rng, layout, x, y) if rng.uniform() < 0.7 else bush(rng, layout.look, x, y))
    return instances


def _draw_front(layout: StreetLayout, rng: np.random.Generator) -> str:
    """Choose the scenery behind a sidewalk: "plots", or a "canal", a "railway" or a "forecourt" of `Shapes.scenery`."""
    fronts = [(name, share) for name, share in layout.shapes.scenery if name in _OPEN_FRONTS]
    dice = rng.uniform() if fronts else 1.0
    for name, share in fronts:
        dice -= share
        if dice < 0:
            return name
    return "plots"


_OPEN_FRONTS = ("canal", "railway", "forecourt")


def _open_front(
    layout: StreetLayout, kind: str, s0: float, s1: float, side: int, rng: np.random.Generator
) -> list[Instance]:
    """Water, tracks or a paved yard instead of the plots of one side, with a barrier and a row behind."""
    near, depth, look = layout.frontage, float(rng.uniform(12, 36)), layout.look
    middle, length = (s0 + s1) / 2, s1 - s0 - 0.4
    far, instances = near + depth, []
    if kind == "canal":
        instances.append(_strip(layout, s0, s1, side * near, side * (near + 0.4), 0.2, Material.CONCRETE, Label.WALL))
        instances.append(_strip(layout, s0, s1, side * (near + 0.4), side * far, 0.04, Material.WATER, Label.WATER))
    elif kind == "railway":
        x, y, heading = _to_world(layout, middle, side * (near + depth / 2))
        bed = np.array([(0, 0, 0.14)])
        rails = [(0, a + b, 0.3) for a in (-2.0, 2.0) for b in (-0.72, 0.72)]
        track = join(
            [
                boxes((length + 1.5, depth, 0.3), bed, Material.BALLAST, Label.RAIL_TRACK),
                boxes((length + 1.5, 0.08, 0.15), rails, Material.POST, Label.RAIL_TRACK),
            ]
        )
        stone, wood = look.walls.draw(rng), look.fences.draw(rng)
        instances.append(Instance(track, x, y, 0.0, heading, float(rng.uniform()), stone, wood))
        for s in np.arange(s0 + 4, s1 - 2, rng.uniform(12, 20)):
            instances.append(pole(rng, layout, *_to_world(layout, float(s), side * (near + depth / 2))))
    else:
        yard = _strip(layout, s0, s1, side * near, side * far, CURB + 0.01, Material.PAVING, Label.GROUND)
        tone = look.facades.draw(rng)
        instances.append(Instance(yard.mesh, 0.0, 0.0, 0.0, 0.0, float(rng.uniform()), tone))
        for _ in range(int(rng.integers(2, 6))):
            x, y, heading = _to_world(layout, rng.uniform(s0, s1), side * rng.uniform(near + 2, far - 1))
            make = (oddity, movable)[int(rng.integers(2))]
            instances.append(make(rng, look, x, y, float(rng.uniform(0, 6.28))))
    if rng.uniform() < {"canal": 0.4, "railway": 0.6, "forecourt": 0.3}[kind]:
        border = (fence, guard_rail, wall, hedge)[int(rng.integers(2 if kind == "canal" else 4))]
        instances.append(border(rng, look, length, *_to_world(layout, middle, side * (near + 0.3))))
    s = s0
    while s < s1 - 6:
        width = float(rng.uniform(8, 16))
        x, y, heading = _to_world(layout, s + width / 2, side * (far + 0.5))
        if rng.uniform() < layout.urban:
            instances.append(building(rng, layout, width - 0.2, x, y, heading if side > 0 else heading + np.pi))
        else:
            instances.append(tree(rng, layout, x, y))
        s += width
    return instances


def _extras(layout: StreetLayout, start: float, zebra: bool, rng: np.random.Generator) -> list[Instance]:
    """Scenery of a tile beyond plots and curbside objects."""
    instances, look = [], layout.look
    drawn = {name for name, share in layout.shapes.scenery if rng.uniform() < share}
    if "viaduct" in drawn:
        instances.append(viaduct(rng, layout, *_to_world(layout, start + rng.uniform(20, 40), 0.0)))
    if "gantry" in drawn:
        instances.append(gantry(rng, layout, *_to_world(layout, start + rng.uniform(16, 44), 0.0)))
    if "guard_rail" in drawn:
        side = int(rng.choice(_SIDES))
        first = start + (ZEBRA[1] + 1 if zebra else SIDE_STREET + 1)
        length = float(rng.uniform(8, start + TILE - first))
        d = side * (layout.curb + 0.15)
        instances.append(guard_rail(rng, look, length, *_to_world(layout, first + length / 2, d)))
    for name, make in (("movables", movable), ("oddities", oddity)):
        for _ in range(int(rng.integers(1, 4)) if name in drawn else 0):
            side = int(rng.choice(_SIDES))
            d = side * rng.uniform(layout.curb + 0.6, layout.frontage - 0.3)
            x, y, heading = _to_world(layout, start + rng.uniform(SIDE_STREET + 1, TILE - 1), d)
            instances.append(make(rng, look, x, y, heading + float(rng.normal(0, 0.3))))
    return instances


def _curbside(layout: StreetLayout, s0: float, s1: float, side: int, rng: np.random.Generator) -> list[Instance]:
    """Trees, signs, bins, bollards, bicycles and bus shelters along the curb, one every few meters."""
    instances: list[Instance] = []
    avenue = rng.uniform() < 0.5
    s = s0 + rng.uniform(2, 6)
    while s < s1 - 2:
        x, y, _ = _to_world(layout, s, side * (layout.curb + 0.6))
        what = rng.uniform()
        if what < layout.shapes.avenue[0 if avenue else 1]:
            instances.append(tree(rng, layout, x, y, float(rng.uniform(4.5, 7.5))))
        else:
            kind = next((name for name, bound in layout.shapes.curbside if what < bound), "shelter")
            instances += _curbside_objects(layout, kind, s, s1, side, rng)
        s += rng.uniform(*layout.shapes.spacing)
    return instances


def _curbside_objects(
    layout: StreetLayout, kind: str, s: float, s1: float, side: int, rng: np.random.Generator
) -> list[Instance]:
    x, y, heading = _to_world(layout, s, side * (layout.curb + 0.6))
    facing = heading if side < 0 else heading + np.pi
    match kind:
        case "sign":
            return [sign(rng, layout, x, y, facing)]
        case "pole":
            return [pole(rng, layout, x, y, facing)]
        case "clutter":
            return [clutter(rng, layout, x, y, facing)]
        case "movable":
            return [movable(rng, layout.look, x, y, facing + float(rng.normal(0, 0.5)))]
        case "bollards":
            return [bollards(rng, layout.look, x, y, heading)]
        case "bicycles":
            return _bicycles(layout, x, y, heading, rng)
        case _:
            return [_shelter(layout, s, side, rng)] if s < s1 - 6 else []


def _shelter(layout: StreetLayout, s: float, side: int, rng: np.random.Generator) -> Instance:
    x, y, heading = _to_world(layout, s + 2, side * (layout.curb + 1.1))
    return shelter(rng, layout.look, x, y, heading if side > 0 else heading + np.pi)


def _bicycles(layout: StreetLayout, x: float, y: float, heading: float, rng: np.random.Generator) -> list[Instance]:
    kind = "bicycle" if rng.uniform() < 0.7 else "motorbike"
    turn = heading + rng.uniform(-0.4, 0.4) + (np.pi / 2 if rng.uniform() < 0.4 else 0.0)
    make = two_wheeler(kind)
    return [
        Instance(make, x + 0.8 * n, y, CURB, turn, float(rng.uniform()), layout.look.tops.draw(rng))
        for n in range(int(rng.integers(1, 4)))
    ]


def _parked(layout: StreetLayout, s0: float, s1: float, side: int, rng: np.random.Generator) -> list[Instance]:
    instances: list[Instance] = []
    share, s = rng.uniform(0.25, 0.95) if layout.parks else 0.0, s0 + rng.uniform(0, 2)
    while s < s1 - 5:
        make, length, first, second = draw_vehicle(rng, layout.shapes, layout.look, s1 - s)
        if rng.uniform() < share:
            x, y, heading = _to_world(layout, s + length / 2, side * (layout.curb - 0.2 - layout.parking * 0.42))
            turn = heading + (np.pi if side > 0 else 0.0) + rng.normal(0, 0.02)
            instances.append(Instance(make, x, y, 0.0, float(turn), float(rng.uniform()), first, second))
        s += length + rng.uniform(0.7, 2.0)
    return instances


def _lamps(layout: StreetLayout, start: float, side: int, rng: np.random.Generator) -> list[Instance]:
    instances = []
    for number in range(int(start / LAMP_PITCH) - 1, int(start / LAMP_PITCH) + 3):
        x, y, _ = layout.lamp(np.float64(number))
        if start <= x < start + TILE and side == 1 - 2 * (number % 2):
            instances.append(lamp(rng, layout, float(x), float(y + side * 1.2), side, layout.heading(float(x)), 1.2))
    return instances


def _standing_people(layout: StreetLayout, s0: float, s1: float, side: int, rng: np.random.Generator) -> list[Instance]:
    instances, shapes = [], layout.shapes
    for _ in range(int(rng.integers(0, 4) * shapes.crowd)):
        x, y, _ = _to_world(layout, rng.uniform(s0, s1), side * rng.uniform(layout.curb + 0.4, layout.frontage - 0.4))
        turn, stride = float(rng.uniform(0, 6.28)), float(rng.uniform(-0.15, 0.15))
        instances.append(draw_person(rng, shapes, layout.look, (x, y, CURB), turn, stride))
        if shapes.group:
            instances += _company(layout, x, y, rng)
    return instances


def _company(layout: StreetLayout, x: float, y: float, rng: np.random.Generator) -> list[Instance]:
    """People who stand with someone at (x, y), facing them, in some cases."""
    instances = []
    for _ in range(int(rng.integers(1, 4)) if rng.uniform() < layout.shapes.group else 0):
        angle, near = float(rng.uniform(0, 6.28)), rng.uniform(0.55, 0.95)
        there = (float(x + near * np.cos(angle)), float(y + near * np.sin(angle)), CURB)
        instances.append(draw_person(rng, layout.shapes, layout.look, there, angle + np.pi))
    return instances


def _crossing(layout: StreetLayout, start: float, rng: np.random.Generator) -> list[Instance]:
    """Optional traffic lights, and pedestrians waiting at a crossing."""
    instances: list[Instance] = []
    lights, phase = rng.uniform() < 0.8, int(rng.integers(3))
    for side in _SIDES:
        s = start + (ZEBRA[0] - 1.2 if side < 0 else ZEBRA[1] + 1.2)
        x, y, heading = _to_world(layout, s, side * (layout.curb + 0.45))
        if lights:
            reach = (layout.parking + layout.lane * 0.6) if rng.uniform() < 0.6 else 0.0
            instances.append(signals(rng, layout, x, y, heading + (0.0 if side < 0 else np.pi), reach, phase))
        for _ in range(int(rng.integers(0, 3))):
            px, py, _ = _to_world(layout, start + rng.uniform(*ZEBRA), side * (layout.curb + rng.uniform(0.3, 1.2)))
            turn = heading - side * np.pi / 2
            instances.append(draw_person(rng, layout.shapes, layout.look, (px, py, CURB), turn))
    return instances


def _skyline(layout: StreetLayout, start: float, rng: np.random.Generator) -> list[Instance]:
    """Buildings and trees behind the front row."""
    instances: list[Instance] = []
    for side in _SIDES:
        for _ in range(3):
            s, d = start + rng.uniform(12, TILE - 4), side * (layout.frontage + rng.uniform(26, 60))
            x, y, heading = _to_world(layout, s, d)
            if rng.uniform() < 0.6:
                instances.append(
                    building(rng, layout, rng.uniform(10, 16), x, y, heading + (0.0 if side > 0 else np.pi))
                )
            else:
                instances.append(tree(rng, layout, x, y, float(rng.uniform(8, 13))))
    return instances


BEHIND_M, AHEAD_M = 45.0, 130.0
"""Distances from the ego vehicle within which movers are placed, meters along the street."""
_MIN_GAP_M = 9.0
"""Minimum distance in meters between the ego vehicle and vehicles in its lane."""


@dataclass(frozen=True)
class TrafficStream:
    """Movers of one kind in one lane.

    Attributes:
        number: index of the stream; seeds its movers.
        kind: "vehicle", "cycle" or "person".
        d: meters to the left of the center line.
        speed: meters per second, negative against x.
        pitch: mean distance between places, meters.
        share: share of occupied places.
    """

    number: int
    kind: str
    d: float
    speed: float
    pitch: float
    share: float


def draw_streams(layout: StreetLayout, ego: Ego, rng: np.random.Generator) -> tuple[TrafficStream, ...]:
    """Random streams of a street. The ego vehicle's lane moves at its speed, so that there are no collisions."""
    lanes = [side * (lane + 0.5) * layout.lane for side in (1, -1) for lane in range(layout.lanes)]
    streams: list[TrafficStream] = []
    for d in lanes:
        own = abs(d - ego.lane) < 0.1
        speed = ego.speed if own else -np.sign(d) * ego.speed * rng.uniform(0.8, 1.4)
        streams.append(
            TrafficStream(
                len(streams), "vehicle", d, float(speed), float(rng.uniform(16, 34)), float(rng.uniform(0.3, 0.8))
            )
        )
    for side in (1, -1):
        edge = side * (layout.carriageway - 0.45)
        streams.append(
            TrafficStream(len(streams), "cycle", edge, -side * rng.uniform(2.5, 4.2), 38.0, rng.uniform(0.2, 0.7))
        )
        for direction in (1, -1):
            d = side * (layout.curb + layout.pavement * (0.62 + 0.16 * direction))
            pace = direction * rng.uniform(1.0, 1.5)
            streams.append(
                TrafficStream(
                    len(streams),
                    "person",
                    d,
                    float(pace),
                    float(rng.uniform(5, 14) / layout.shapes.crowd**0.5),
                    float(rng.uniform(0.3, 0.9)),
                )
            )
    return tuple(streams)


def place_movers(layout: StreetLayout, ego: Ego, streams: tuple[TrafficStream, ...], seed: int, t: float) -> Batch:
    """All movers near the ego vehicle at t seconds."""
    movers = [mover for stream in streams for mover in _stream_movers(layout, ego, stream, seed, t)]
    s, d, phase, speed, walking = np.array([mover[1:] for mover in movers]).reshape(-1, 5).T
    heading = layout.heading(s)
    x, y = s - d * np.sin(heading), layout.bend(s) + d * np.cos(heading)
    turn = heading + np.where(speed < 0, np.pi, 0.0)
    stride = walking * (0.45 * np.sin(2 * np.pi * phase * np.abs(speed) / 1.5))
    rows = zip(movers, x.tolist(), y.tolist(), turn.tolist(), stride.tolist(), strict=True)
    return place(
        [
            Instance(
                still.mesh, px, py, CURB if on_foot else 0.0, angle, still.seed, still.first, still.second, swing,
                not on_foot, abs(pace),
            )
            for (still, _, _, _, pace, on_foot), px, py, angle, swing in rows
        ]
    )  # fmt: skip


Companion = tuple[Instance, float, float]
"""A mover, and its distance in meters along and to the left of the place it belongs to."""


@lru_cache(maxsize=4096)
def _draw_mover(
    shapes: Shapes, look: Look, seed: int, stream: TrafficStream, k: int
) -> tuple[bool, float, float, tuple[Companion, ...]]:
    """Whether place k of a stream is occupied, its two jitters in [-1, 1], and its movers at the origin."""
    rng = np.random.default_rng([seed, 202, stream.number, k + 1_000_000])
    is_occupied, along, across = bool(rng.uniform() < stream.share), *(float(j) for j in rng.uniform(-1, 1, 2))
    movers: list[Companion]
    if stream.kind == "person":
        movers = [(draw_person(rng, shapes, look, (0, 0, 0), 0), 0.0, 0.0)]
        if shapes.group and rng.uniform() < shapes.group:
            for n in range(int(rng.integers(1, 4))):
                ahead, left = float(rng.uniform(-0.5, 0.5)), (0.62, -0.62, 1.2)[n]
                movers.append((draw_person(rng, shapes, look, (0, 0, 0), 0), ahead, left))
    elif stream.kind == "cycle":
        kind = "bicycle rider" if rng.uniform() < 0.6 else "motorbike rider"
        first, second = look.tops.draw(rng), look.statics.draw(rng)
        if shapes.group and kind.startswith("bicycle") and rng.uniform() < 0.2:
            kind = "cargo " + kind
        movers = [(Instance(two_wheeler(kind), 0, 0, 0, 0, float(rng.uniform()), first, second), 0.0, 0.0)]
    else:
        make, _, first, second = draw_vehicle(rng, shapes, look)
        movers = [(Instance(make, 0, 0, 0, 0, float(rng.uniform()), first, second), 0.0, 0.0)]
    return is_occupied, along, across, tuple(movers)


Mover = tuple[Instance, float, float, float, float, bool]
"""A mover at the origin; s and d in meters, phase of its walk in seconds, speed in m/s, and whether it walks."""


def _stream_movers(layout: StreetLayout, ego: Ego, stream: TrafficStream, seed: int, t: float) -> Iterator[Mover]:
    here, drift = ego.along(t), stream.speed * t
    own = stream.kind == "vehicle" and abs(stream.d - ego.lane) < 0.1
    first, last = (int((here + edge - drift) // stream.pitch) for edge in (-BEHIND_M, AHEAD_M))
    for k in range(first, last + 2):
        is_occupied, along, across, movers = _draw_mover(layout.shapes, layout.look, seed, stream, k)
        gap = 0.08 if stream.kind == "vehicle" else 0.4
        s = k * stream.pitch + along * gap * stream.pitch + drift
        near = own and abs(s - here) < _MIN_GAP_M + 4.0
        if is_occupied and not near:
            for instance, ahead, left in movers:
                d = stream.d + 0.25 * across + left
                yield instance, s + ahead, d, t + along + ahead, stream.speed, stream.kind == "person"
