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
    draw_person,
    draw_vehicle,
    fence,
    hedge,
    lamp,
    shelter,
    sign,
    signals,
    tree,
    two_wheeler,
    wall,
)
from mlesam_ros.simulation.scene import Batch, Color, Instance, Label, Material, frustum, join, mesh, place
from mlesam_ros.simulation.street_layout import CURB, LAMP_PITCH, SIDE_STREET, TILE, ZEBRA, Ego, StreetLayout
from mlesam_ros.simulation.textures import STATICS, pick, vivid

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
        instances += _plots(layout, first, start + TILE, side, rng)
        instances += _curbside(layout, first, start + TILE, side, rng)
        instances += _parked(layout, start + (ZEBRA[1] + 2 if zebra else first - start + 1), start + TILE, side, rng)
        instances += _lamps(layout, start, side, rng)
        instances += _standing_people(layout, first, start + TILE, side, rng)
    instances += _crossing(layout, start, rng) if zebra else []
    instances += _skyline(layout, start, rng)
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
    tone = float(rng.uniform(0.2, 0.4))
    return Instance(strip.mesh, 0.0, 0.0, 0.0, 0.0, float(rng.uniform()), (tone, tone * 0.96, tone * 0.9))


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
    instances = [building(rng, width - float(rng.choice([0.0, 0.1, 1.5])), x, y, turn)]
    if setback > 1:
        instances.append(_lawn(layout, s - width / 2, s + width / 2, side, setback))
        instances += _border(layout, s, width * 0.45, side, rng)
        x, y, _ = _to_world(layout, s + rng.uniform(-0.4, 0.4) * width, side * (layout.frontage + 1.2))
        instances.append(bush(rng, x, y))
    return instances


def _lawn(layout: StreetLayout, s0: float, s1: float, side: int, depth: float) -> Instance:
    near, far = side * layout.frontage, side * (layout.frontage + depth)
    return _strip(layout, s0, s1, near, far, CURB + 0.02, Material.GRASS, Label.TERRAIN)


def _border(layout: StreetLayout, s: float, length: float, side: int, rng: np.random.Generator) -> list[Instance]:
    make = (wall, fence, hedge)[int(rng.integers(3))]
    return [make(rng, length, *_to_world(layout, s, side * (layout.frontage + 0.35)))]


def _garden(layout: StreetLayout, s: float, width: float, side: int, rng: np.random.Generator) -> list[Instance]:
    depth = float(rng.uniform(12, 22))
    instances = [_lawn(layout, s - width / 2, s + width / 2, side, depth), *_border(layout, s, width - 0.3, side, rng)]
    for _ in range(int(rng.integers(1, 5))):
        x, y, _ = _to_world(
            layout, s + rng.uniform(-0.45, 0.45) * width, side * (layout.frontage + rng.uniform(2.5, depth))
        )
        instances.append(tree(rng, x, y) if rng.uniform() < 0.7 else bush(rng, x, y))
    return instances


def _curbside(layout: StreetLayout, s0: float, s1: float, side: int, rng: np.random.Generator) -> list[Instance]:
    """Trees, signs, bins, bollards, bicycles and bus shelters along the curb, one every few meters."""
    instances: list[Instance] = []
    avenue = rng.uniform() < 0.5
    s = s0 + rng.uniform(2, 6)
    while s < s1 - 2:
        x, y, heading = _to_world(layout, s, side * (layout.curb + 0.6))
        facing = heading if side < 0 else heading + np.pi
        what = rng.uniform()
        if what < (0.5 if avenue else 0.15):
            instances.append(tree(rng, x, y, float(rng.uniform(4.5, 7.5))))
        elif what < 0.68:
            instances.append(sign(rng, x, y, facing))
        elif what < 0.82:
            instances.append(clutter(rng, x, y, facing))
        elif what < 0.88:
            instances.append(bollards(rng, x, y, heading))
        elif what < 0.95:
            instances += _bicycles(x, y, heading, rng)
        elif s < s1 - 6:
            instances.append(_shelter(layout, s, side, rng))
        s += rng.uniform(4.5, 10)
    return instances


def _shelter(layout: StreetLayout, s: float, side: int, rng: np.random.Generator) -> Instance:
    x, y, heading = _to_world(layout, s + 2, side * (layout.curb + 1.1))
    return shelter(rng, x, y, heading if side > 0 else heading + np.pi)


def _bicycles(x: float, y: float, heading: float, rng: np.random.Generator) -> list[Instance]:
    kind = "bicycle" if rng.uniform() < 0.7 else "motorbike"
    turn = heading + rng.uniform(-0.4, 0.4) + (np.pi / 2 if rng.uniform() < 0.4 else 0.0)
    make = two_wheeler(kind)
    return [
        Instance(make, x + 0.8 * n, y, CURB, turn, float(rng.uniform()), vivid(rng))
        for n in range(int(rng.integers(1, 4)))
    ]


def _parked(layout: StreetLayout, s0: float, s1: float, side: int, rng: np.random.Generator) -> list[Instance]:
    instances: list[Instance] = []
    share, s = rng.uniform(0.25, 0.95) if layout.parks else 0.0, s0 + rng.uniform(0, 2)
    while s < s1 - 5:
        make, length, first, second = draw_vehicle(rng, s1 - s)
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
            instances.append(lamp(rng, float(x), float(y + side * 1.2), side, layout.heading(float(x)), 1.2))
    return instances


def _standing_people(layout: StreetLayout, s0: float, s1: float, side: int, rng: np.random.Generator) -> list[Instance]:
    instances = []
    for _ in range(int(rng.integers(0, 4))):
        x, y, _ = _to_world(layout, rng.uniform(s0, s1), side * rng.uniform(layout.curb + 0.4, layout.frontage - 0.4))
        instances.append(draw_person(rng, x, y, CURB, float(rng.uniform(0, 6.28)), float(rng.uniform(-0.15, 0.15))))
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
            instances.append(signals(rng, x, y, heading + (0.0 if side < 0 else np.pi), reach, phase))
        for _ in range(int(rng.integers(0, 3))):
            px, py, _ = _to_world(layout, start + rng.uniform(*ZEBRA), side * (layout.curb + rng.uniform(0.3, 1.2)))
            instances.append(draw_person(rng, px, py, CURB, heading - side * np.pi / 2))
    return instances


def _skyline(layout: StreetLayout, start: float, rng: np.random.Generator) -> list[Instance]:
    """Buildings and trees behind the front row."""
    instances: list[Instance] = []
    for side in _SIDES:
        for _ in range(3):
            s, d = start + rng.uniform(12, TILE - 4), side * (layout.frontage + rng.uniform(26, 60))
            x, y, heading = _to_world(layout, s, d)
            if rng.uniform() < 0.6:
                instances.append(building(rng, rng.uniform(10, 16), x, y, heading + (0.0 if side > 0 else np.pi)))
            else:
                instances.append(tree(rng, x, y, float(rng.uniform(8, 13))))
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
                    len(streams), "person", d, float(pace), float(rng.uniform(5, 14)), float(rng.uniform(0.3, 0.9))
                )
            )
    return tuple(streams)


def place_movers(layout: StreetLayout, ego: Ego, streams: tuple[TrafficStream, ...], seed: int, t: float) -> Batch:
    """All movers near the ego vehicle at t seconds."""
    return place([instance for stream in streams for instance in _stream_movers(layout, ego, stream, seed, t)])


@lru_cache(maxsize=4096)
def _draw_mover(seed: int, stream: TrafficStream, k: int) -> tuple[bool, float, float, Instance]:
    """Whether place k of a stream is occupied, its two jitters in [-1, 1], and its instance at the origin."""
    rng = np.random.default_rng([seed, 202, stream.number, k + 1_000_000])
    is_occupied, along, across = bool(rng.uniform() < stream.share), *(float(j) for j in rng.uniform(-1, 1, 2))
    if stream.kind == "person":
        return is_occupied, along, across, draw_person(rng, 0, 0, 0, 0)
    if stream.kind == "cycle":
        kind = "bicycle rider" if rng.uniform() < 0.6 else "motorbike rider"
        first, second = vivid(rng), pick(rng, STATICS)
        return (
            is_occupied,
            along,
            across,
            Instance(two_wheeler(kind), 0, 0, 0, 0, float(rng.uniform()), first, second),
        )
    make, _, first, second = draw_vehicle(rng)
    return is_occupied, along, across, Instance(make, 0, 0, 0, 0, float(rng.uniform()), first, second)


def _stream_movers(layout: StreetLayout, ego: Ego, stream: TrafficStream, seed: int, t: float) -> Iterator[Instance]:
    here, drift = ego.along(t), stream.speed * t
    own = stream.kind == "vehicle" and abs(stream.d - ego.lane) < 0.1
    first, last = (int((here + edge - drift) // stream.pitch) for edge in (-BEHIND_M, AHEAD_M))
    for k in range(first, last + 2):
        is_occupied, along, across, instance = _draw_mover(seed, stream, k)
        gap = 0.08 if stream.kind == "vehicle" else 0.4
        s = k * stream.pitch + along * gap * stream.pitch + drift
        near = own and abs(s - here) < _MIN_GAP_M + 4.0
        if is_occupied and not near:
            yield _place_mover(layout, stream, instance, s, stream.d + 0.25 * across, t + along)


def _place_mover(
    layout: StreetLayout, stream: TrafficStream, instance: Instance, s: float, d: float, t: float
) -> Instance:
    heading = layout.heading(s)
    x, y = float(s - d * np.sin(heading)), float(layout.bend(s) + d * np.cos(heading))
    turn = heading + (np.pi if stream.speed < 0 else 0.0)
    walking = stream.kind == "person"
    stride = 0.45 * float(np.sin(2 * np.pi * t * abs(stream.speed) / 1.5)) if walking else 0.0
    return Instance(
        instance.mesh, x, y, CURB if walking else 0.0, turn, instance.seed, instance.first, instance.second, stride,
        not walking, abs(stream.speed),
    )  # fmt: skip
