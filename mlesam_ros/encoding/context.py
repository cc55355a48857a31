"""What surrounds a frame in its set: the moment that the set is about, and how far away things are."""

from __future__ import annotations

import numpy as np

from mlesam_ros.encoding.picture import MILLIMETRE, Metres
from mlesam_ros.encoding.reference import Reference
from mlesam_ros.encoding.registered import depth_from_cloud, depth_from_picture
from mlesam_ros.errors import MlesamError
from mlesam_ros.frame import DEPTH, LIDAR, FrameSet, Modality, SensorFrame
from mlesam_ros.geometry.rig import Rig


class Context(Reference):
    """One set's surroundings, shared by the encoders of its frames. Use it from one thread."""

    def __init__(self, frame_set: FrameSet, depth_unit: float = MILLIMETRE) -> None:
        """Remember a set; nothing is computed yet.

        Args:
            frame_set: the set.
            depth_unit: metres per count of its 16-bit depth pictures.
        """
        super().__init__(frame_set.time)
        self._frames = frame_set.frames
        self._unit = depth_unit
        self._depths: dict[tuple[int, int], Metres | None] = {}
        self._pictures: dict[tuple[tuple[int, int], float], Metres] = {}

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

    def depth_picture(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], unit: float) -> Metres:
        """`depth_from_picture` of the set's own frame: read only, and computed once for all who ask for it.

        Raises:
            MlesamError: as that.
        """
        if frame is not self._frames.get(DEPTH):
            return depth_from_picture(frame, rig, size, unit, self)
        if (size, unit) not in self._pictures:
            metres = depth_from_picture(frame, rig, size, unit, self)
            metres.flags.writeable = False
            self._pictures[size, unit] = metres
        return self._pictures[size, unit]

    def _read(self, modality: Modality, rig: Rig, size: tuple[int, int]) -> Metres | None:
        frame = self._frames.get(modality)
        if frame is None:
            return None
        try:
            if modality == DEPTH:
                metres = self.depth_picture(frame, rig, size, self._unit)
            else:
                metres = depth_from_cloud(frame, rig, size, reference=self)
        except MlesamError:
            return None
        metres.flags.writeable = False
        return metres if np.isfinite(metres).any() else None


def depth_of(frame: SensorFrame, rig: Rig, size: tuple[int, int], unit: float, context: Context | None) -> Metres:
    """`depth_from_picture`, by way of the context where there is one; the result is read only then."""
    if context is None:
        return depth_from_picture(frame, rig, size, unit)
    return context.depth_picture(frame, rig, size, unit)
