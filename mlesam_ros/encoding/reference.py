"""The moment that a set is about, and what its pictures had to be made without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mlesam_ros.frame import Modality, SensorFrame
from mlesam_ros.geometry.motion import PointTransform


class Reference:
    """One set's moment.

    Attributes:
        time: nanoseconds; every picture shows the world as it was then.
    """

    def __init__(self, time: int) -> None:
        """Nothing is noted yet."""
        self.time = time
        self._notes: dict[Modality, str] = {}
        self._placements: dict[Modality, tuple[SensorFrame, PointTransform]] = {}

    @property
    def notes(self) -> Mapping[Modality, str]:
        """Modality → what an encoder had to do without, in one sentence; its picture is the best there can be."""
        return MappingProxyType(self._notes)

    @property
    def placements(self) -> dict[Modality, PointTransform]:
        """Modality → where the points of its frame were placed."""
        return {modality: placement for modality, (_, placement) in self._placements.items()}

    def placement(self, frame: SensorFrame, place: Callable[[], PointTransform]) -> PointTransform:
        """The placement of one of the set's frames, computed once for all that ask for it.

        Args:
            frame: whose points are placed.
            place: computes it.
        """
        known = self._placements.get(frame.modality)
        if known is None or known[0] is not frame:
            known = self._placements[frame.modality] = frame, place()
        return known[1]

    def note(self, modality: Modality, reason: str) -> None:
        """Add what an image had to be made without; several reasons make one text."""
        known = self._notes.get(modality, "")
        if reason not in known:
            self._notes[modality] = f"{known} {reason}".strip()
