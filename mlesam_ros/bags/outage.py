"""Scheduled sensor outages: `camera@10..16` withholds the camera's messages from second 10 to second 16."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mlesam_ros.errors import ConfigError

_SYNTAX = re.compile(r"(?P<target>[\w/~-]+)(@(?P<start>[\d.]*)\.\.(?P<end>[\d.]*))?")


@dataclass(frozen=True)
class Outage:
    """The outage of one sensor.

    Attributes:
        target: a modality such as `camera`, which matches every topic with that word (or its plural) between its
            slashes; or a topic such as `/camera/image_raw`, which matches itself and all topics below it.
        start, end: seconds from the start of playback, `start` inclusive, `end` exclusive.
    """

    target: str
    start: float = 0.0
    end: float = math.inf

    def suppresses(self, topic: str, seconds: float) -> bool:
        """Whether to withhold a message of this topic at this playback time in seconds."""
        return self.start <= seconds < self.end and self.matches(topic)

    def matches(self, topic: str) -> bool:
        """Whether the target matches this topic."""
        if self.target.startswith("/"):
            return topic == self.target or topic.startswith(self.target.rstrip("/") + "/")
        return any(part in (self.target, self.target + "s") for part in topic.split("/"))


def parse_drop(text: str) -> Outage:
    """Parse `TARGET`, `TARGET@FROM..TO`, `TARGET@FROM..` or `TARGET@..TO`, in seconds.

    Raises:
        ConfigError: the text has another form, or the end is not after the start.
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
