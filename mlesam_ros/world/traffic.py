"""Everything that moves by itself: cars in every lane, cyclists at its edge, people on the pavements.

Movers come in endless streams. Number k of a stream is at `k * pitch + jitter(k) + speed * t`, its looks depend on
(seed, stream, k) alone, so any moment can be asked for on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mlesam_ros.world import paint, vehicles
from mlesam_ros.world.ego import Ego
from mlesam_ros.world.people import draw_person
from mlesam_ros.world.plan import CURB, StreetLayout
from mlesam_ros.world.scene import Batch, Instance, place

BEHIND, AHEAD = 45.0, 130.0
"""How far from the ego car movers are placed, meters along the street."""
_CLEAR = 9.0
"""No vehicle of the ego car's own lane comes closer than this, meters."""


@dataclass(frozen=True)
class Stream:
    """Movers of one kind in one lane.

    Attributes:
        number: tells streams of a street apart.
        kind: "vehicle", "cycle" or "person".
        d: meters to the left of the center line.
        speed: meters per second, negative against x.
        pitch: mean meters from one to the next.
        share: part of the places that is taken.
    """

    number: int
    kind: str
    d: float
    speed: float
    pitch: float
    share: float


def draw_streams(plan: StreetLayout, ego: Ego, rng: np.random.Generator) -> tuple[Stream, ...]:
    """The streams of a random street. The ego car's lane moves at its speed, so nobody is run over."""
    lanes = [side * (lane + 0.5) * plan.lane for side in (1, -1) for lane in range(plan.lanes)]
    streams: list[Stream] = []
    for d in lanes:
        own = abs(d - ego.lane) < 0.1
        speed = ego.speed if own else -np.sign(d) * ego.speed * rng.uniform(0.8, 1.4)
        streams.append(
            Stream(len(streams), "vehicle", d, float(speed), float(rng.uniform(16, 34)), float(rng.uniform(0.3, 0.8)))
        )
    for side in (1, -1):
        edge = side * (plan.carriageway - 0.45)
        streams.append(Stream(len(streams), "cycle", edge, -side * rng.uniform(2.5, 4.2), 38.0, rng.uniform(0.2, 0.7)))
        for direction in (1, -1):
            d = side * (plan.curb + plan.pavement * (0.62 + 0.16 * direction))
            pace = direction * rng.uniform(1.0, 1.5)
            streams.append(
                Stream(len(streams), "person", d, float(pace), float(rng.uniform(5, 14)), float(rng.uniform(0.3, 0.9)))
            )
    return tuple(streams)


def movers(plan: StreetLayout, ego: Ego, streams: tuple[Stream, ...], seed: int, t: float) -> Batch:
    """All movers near the ego car at t seconds."""
    return place([thing for stream in streams for thing in _members(plan, ego, stream, seed, t)])


@lru_cache(maxsize=4096)
def _looks(seed: int, stream: Stream, k: int) -> tuple[bool, float, float, Instance]:
    """Whether place k of a stream is taken, its two jitters in [-1, 1], and what it looks like at the origin."""
    rng = np.random.default_rng([seed, 202, stream.number, k + 1_000_000])
    taken, along, across = bool(rng.uniform() < stream.share), *(float(j) for j in rng.uniform(-1, 1, 2))
    if stream.kind == "person":
        return taken, along, across, draw_person(rng, 0, 0, 0, 0)
    if stream.kind == "cycle":
        kind = "bicycle rider" if rng.uniform() < 0.6 else "motorbike rider"
        first, second = paint.vivid(rng), paint.pick(rng, paint.STATICS)
        return (
            taken,
            along,
            across,
            Instance(vehicles.two_wheeler(kind), 0, 0, 0, 0, float(rng.uniform()), first, second),
        )
    make, _, first, second = vehicles.draw_vehicle(rng)
    return taken, along, across, Instance(make, 0, 0, 0, 0, float(rng.uniform()), first, second)


def _members(plan: StreetLayout, ego: Ego, stream: Stream, seed: int, t: float) -> Iterator[Instance]:
    here, drift = ego.along(t), stream.speed * t
    own = stream.kind == "vehicle" and abs(stream.d - ego.lane) < 0.1
    first, last = (int((here + edge - drift) // stream.pitch) for edge in (-BEHIND, AHEAD))
    for k in range(first, last + 2):
        taken, along, across, look = _looks(seed, stream, k)
        gap = 0.08 if stream.kind == "vehicle" else 0.4
        s = k * stream.pitch + along * gap * stream.pitch + drift
        near = own and abs(s - here) < _CLEAR + 4.0
        if taken and not near:
            yield _standing_at(plan, stream, look, s, stream.d + 0.25 * across, t + along)


def _standing_at(plan: StreetLayout, stream: Stream, look: Instance, s: float, d: float, t: float) -> Instance:
    heading = plan.heading(s)
    x, y = float(s - d * np.sin(heading)), float(plan.bend(s) + d * np.cos(heading))
    turn = heading + (np.pi if stream.speed < 0 else 0.0)
    walking = stream.kind == "person"
    stride = 0.45 * float(np.sin(2 * np.pi * t * abs(stream.speed) / 1.5)) if walking else 0.0
    return Instance(
        look.mesh, x, y, CURB if walking else 0.0, turn, look.seed, look.first, look.second, stride, not walking,
        abs(stream.speed),
    )  # fmt: skip
