"""The moment that a set is about, and what its pictures had to be made without."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mlesam_ros.frame import Modality


class Reference:
    """One set's moment.

    Attributes:
        time: nanoseconds; every picture shows the world as it was then.
    """

    def __init__(self, time: int) -> None:
        """Nothing is noted yet."""
        self.time = time
        self._notes: dict[Modality, str] = {}

    @property
    def notes(self) -> Mapping[Modality, str]:
        """Modality → what an encoder had to do without, in one sentence; its picture is the best there can be."""
        return MappingProxyType(self._notes)

    def note(self, modality: Modality, reason: str) -> None:
        """Say what a picture had to be made without."""
        self._notes[modality] = reason
