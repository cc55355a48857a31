"""What happens in the demo, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import CAMERA, LIDAR, MODALITIES, NANOSECONDS, Modality

PERIOD = NANOSECONDS // 10
"""Nanoseconds between two moments of the street."""
_SHORTEST = 3.0
_SCENES = ("day", "night")
_ACTS: tuple[tuple[float, Modality | None], ...] = ((0.4, None), (0.3, CAMERA), (0.3, LIDAR))
"""Share of a scene, and which sensor is lost in it."""


@dataclass(frozen=True)
class Phase:
    """A stretch of the demo with one light and one set of living sensors.

    Attributes:
        daylight: "day" or "night".
        lost: the sensor that is silent, if any.
        start, end: nanoseconds from the beginning of the playback; the end is not part of it.
    """

    daylight: str
    lost: Modality | None
    start: int
    end: int

    @property
    def name(self) -> str:
        """Such as `night_camera_lost`; names files and keys results."""
        return f"{self.daylight}_{f'{self.lost}_lost' if self.lost else 'all_sensors'}"

    @property
    def title(self) -> str:
        """The name for people."""
        return f"{self.daylight}, {f'{self.lost} lost' if self.lost else 'all sensors'}"

    @property
    def sensors(self) -> list[Modality]:
        """Who is alive."""
        return [modality for modality in MODALITIES if modality != self.lost]

    @property
    def drop(self) -> str | None:
        """The player's option that makes it so."""
        if self.lost is None:
            return None
        return f"{self.lost}@{self.start / NANOSECONDS}..{self.end / NANOSECONDS}"


def write_script(seconds: float) -> list[Phase]:
    """The phases of a demo: by day and by night, with all sensors, without the camera, without the LiDAR.

    Args:
        seconds: length of the whole; phases begin and end on moments of the street.

    Raises:
        ConfigError: too short for six phases.
    """
    if seconds < _SHORTEST:
        raise ConfigError(f"a demo of {seconds} s has no room for six phases.", f"Give at least {_SHORTEST:g} seconds.")
    phases = []
    scene = round(seconds * NANOSECONDS / len(_SCENES) / PERIOD) * PERIOD
    for number, daylight in enumerate(_SCENES):
        begin, share = number * scene, 0.0
        for part, lost in _ACTS:
            start = begin + round(scene * share / PERIOD) * PERIOD
            share += part
            phases.append(Phase(daylight, lost, start, begin + round(scene * share / PERIOD) * PERIOD))
    return phases


def phase_at(phases: Sequence[Phase], offset: int) -> Phase | None:
    """The phase at this many nanoseconds from the beginning, or nothing before and after."""
    return next((phase for phase in phases if phase.start <= offset < phase.end), None)
