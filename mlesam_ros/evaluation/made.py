"""One mask and all that belongs to it, and those who want to see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.settings import Found
from mlesam_ros.evaluation.scores import MaskMetrics
from mlesam_ros.frame import FrameSet, Modality, Segmentation
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.mask_messages import camera_rgb

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MaskRecord:
    """One mask.

    Attributes:
        frame_set: what it was made from, frames that could not be used left out.
        images: modality → (3, h, w) float32, the pictures that the network read.
        mask: the mask.
        rig: as it is known by now.
        trace: its figures; a truth that comes later is added to it.
        counters: modality → fate → messages so far.
        sequence: 1 for the first mask.
        found: modality → what its data turned out to be; see `FrameReader.found`.
    """

    frame_set: FrameSet
    images: Mapping[Modality, npt.NDArray[np.float32]]
    mask: Segmentation
    rig: Rig
    trace: MaskMetrics
    counters: Mapping[Modality, Mapping[str, int]]
    sequence: int
    found: Mapping[Modality, Mapping[str, Found]] = field(default_factory=dict)

    def picture(self) -> npt.NDArray[np.uint8] | None:
        """(H, W, 3) RGB of the camera's frame in the set; None where there is none."""
        return camera_rgb(self.frame_set)


class MaskListener:
    """Whoever wants to see masks as they are made: the result bag, the report, the clouds."""

    def take(self, made: MaskRecord) -> None:
        """A mask was made."""

    def compare(self, stamp: int, labels: Labels, truth: Labels) -> None:
        """A mask met its truth, at once or some masks later.

        Args:
            stamp: nanoseconds, the mask's.
            labels: (H, W) uint8, the mask's.
            truth: (h, w) uint8.
        """
