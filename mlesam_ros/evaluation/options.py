"""How a bag is evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from mlesam_ros.bags.drops import Outage
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """What the user may say.

    Attributes:
        parameters: the sensors and the network, as the node is told them.
        truth: topic with true labels, where guessing is not wanted.
        labels: folder of true labels, called by stamp.
        start, duration: seconds from the bag's beginning; None for all of it.
        every: only every n-th set is segmented.
        real_time: skip what this machine would skip if the bag were live.
        drops: sensors to silence.
        robustness: try every subset of each set's sensors, and damaged pictures, as well.
    """

    parameters: NodeParameters = field(default_factory=NodeParameters)
    truth: str | None = None
    labels: Path | None = None
    start: float = 0.0
    duration: float | None = None
    every: int = 1
    real_time: bool = False
    drops: tuple[Outage, ...] = ()
    robustness: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: with the value and what is accepted.
        """
        if not (math.isfinite(self.start) and self.start >= 0):
            raise ConfigError(f"start is {self.start:g} s; it must be 0 or more.")
        if self.duration is not None and not (math.isfinite(self.duration) and self.duration > 0):
            raise ConfigError(f"duration is {self.duration:g} s; it must be more than 0.")
        if self.every < 1:
            raise ConfigError(f"every is {self.every}; 1 segments every set, 2 every other one.")

    def span(self, seconds: float) -> float:
        """How many seconds of a bag that lasts `seconds` are evaluated.

        Raises:
            ConfigError: the bag is over before `start`.
        """
        if self.start > seconds:
            raise ConfigError(
                f"start is {self.start:g} s, but the bag lasts {seconds:.1f} s.", "Give an earlier start."
            )
        rest = seconds - self.start
        return rest if self.duration is None else min(self.duration, rest)
