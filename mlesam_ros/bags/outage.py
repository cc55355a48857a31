"""Sensors that fail on schedule: `camera@10..16` silences the camera from the 10th to the 16th second."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mlesam_ros.errors import ConfigError

_SYNTAX = re.compile(r"(?P<target>[\w/~-]+)(@(?P<start>[\d.]*)\.\.(?P<end>[\d.]*))?")


@dataclass(frozen=True)
class Outage:
    """One sensor's silence.

    Attributes:
        target: a modality such as `camera`, which stands for every topic with that word (or its plural) between its
            slashes; or a topic such as `/camera/image_raw`, which stands for itself and what lies below it.
        start, end: seconds from the beginning of the playback; the end is not part of it.
    """

    target: str
    start: float = 0.0
    end: float = math.inf

    def suppresses(self, topic: str, seconds: float) -> bool:
        """Whether a message of this topic at this moment of the playback is withheld."""
        return self.start <= seconds < self.end and self.matches(topic)

    def matches(self, topic: str) -> bool:
        """Whether this is one of the target's topics."""
        if self.target.startswith("/"):
            return topic == self.target or topic.startswith(self.target.rstrip("/") + "/")
        return any(part in (self.target, self.target + "s") for part in topic.split("/"))


def parse_drop(text: str) -> Outage:
    """Read `TARGET`, `TARGET@FROM..TO`, `TARGET@FROM..` or `TARGET@..TO`, in seconds.

    Raises:
        ConfigError: it is none of these, or the end does not come after the start.
    """
    match = _SYNTAX.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        drop = Outage(match["target"], float(match["start"] or 0), float(match["end"] or math.inf))
    except ValueError:
        raise ConfigError(
            f"drop {text!r} cannot be read.",
            "Write a modality or topic and seconds, such as camera@10..16 or lidar@20..",
        ) from None
    if drop.end <= drop.start:
        raise ConfigError(f"drop {text!r} ends before it starts.", "Write the earlier second first.")
    return drop
