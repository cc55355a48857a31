"""What surrounds a frame in its set: the moment that the set is about, and how far away things are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from mlesam_ros.encoding.picture import MILLIMETRE, Metres
from mlesam_ros.encoding.registered import depth_from_cloud, depth_from_picture
from mlesam_ros.errors import MlesamError
from mlesam_ros.frame import DEPTH, LIDAR, FrameSet, Modality, SensorFrame
from mlesam_ros.geometry.rig import Rig


class Context:
    """One set's surroundings, shared by the encoders of its frames. Use it from one thread.

    Attributes:
        stamp: the reference moment of the set, nanoseconds; every picture shows the world as it was then.
    """

    def __init__(self, frame_set: FrameSet, depth_unit: float = MILLIMETRE) -> None:
        """Remember a set; nothing is computed yet.

        Args:
            frame_set: the set.
            depth_unit: metres per count of its 16-bit depth pictures.
        """
        self.stamp: int = frame_set.stamp
        self._frames = frame_set.frames
        self._unit = depth_unit
        self._depths: dict[tuple[int, int], Metres | None] = {}
        self._notes: dict[Modality, str] = {}

    @property
    def notes(self) -> Mapping[Modality, str]:
        """Modality → what an encoder had to do without, in one sentence; its picture is the best there can be."""
        return MappingProxyType(self._notes)

    def note(self, modality: Modality, reason: str) -> None:
        """Say what a picture had to be made without."""
        self._notes[modality] = reason

    def depth(self, rig: Rig, size: tuple[int, int]) -> Metres | None:
        """How far away each pixel's thing is: by the depth camera, or by the LiDAR where that says nothing.

        Computed at most once per size. A frame that cannot be read counts as absent; its own encoder says why.

        Args:
            rig: knows where the two sit.
            size: (h, w).

        Returns:
            (h, w) float32 metres along the label camera's axis, NaN where unknown; read only. None if all of it is.
        """
        if size not in self._depths:
            readings = (self._read(modality, rig, size) for modality in (DEPTH, LIDAR))
            self._depths[size] = next((metres for metres in readings if metres is not None), None)
        return self._depths[size]

    def _read(self, modality: Modality, rig: Rig, size: tuple[int, int]) -> Metres | None:
        frame = self._frames.get(modality)
        if frame is None:
            return None
        try:
            metres = self._picture(frame, rig, size) if modality == DEPTH else depth_from_cloud(frame, rig, size)
        except MlesamError:
            return None
        metres.flags.writeable = False
        return metres if np.isfinite(metres).any() else None

    def _picture(self, frame: SensorFrame, rig: Rig, size: tuple[int, int]) -> Metres:
        return depth_from_picture(frame, rig, size, self._unit)
