"""Which street of a part has which weather and which fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from mlesam_ros.training.recipe import Split


@dataclass(frozen=True)
class Conditions:
    """What one street is like: one of the world's `WEATHERS`, one of its `FAULTS`."""

    weather: str
    fault: str

    def names(self) -> dict[str, str]:
        """Kind of condition → its name, as data sets tell it of every row."""
        return {"weather": self.weather, "fault": self.fault}


def street_conditions(split: Split) -> list[Conditions]:
    """The conditions of a part's streets, in the order of their seeds.

    They follow from a street's seed and the shares alone, so that a part that grows keeps the streets it had. Every
    stretch of seeds has every condition about as often as its share says; every weather deals the faults out by itself.
    """
    last = split.first_seed + split.streets
    dealt = {weather: iter(allocate_by_share(split.faults, last)) for weather in split.weathers}
    every = [Conditions(weather, next(dealt[weather])) for weather in allocate_by_share(split.weathers, last)]
    return every[split.first_seed :]


def allocate_by_share(shares: Mapping[str, float], count: int) -> list[str]:
    """Names in an order in which each is due as often as its share says, after any number of them."""
    total = sum(shares.values())
    exact = {name: Fraction(share / total).limit_denominator(1000) for name, share in shares.items()}
    due, dealt = dict.fromkeys(shares, Fraction(0)), []
    for _ in range(count):
        due = {name: owed + exact[name] for name, owed in due.items()}
        name = max(due, key=lambda each: due[each])  # of equals the first
        due[name] -= 1
        dealt.append(name)
    return dealt
