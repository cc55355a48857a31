"""Events as counts per polarity, after MUSES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.encoder import Image, Statistics, wrong_payload
from mlesam_ros.encoding.infinity import seen_from_camera
from mlesam_ros.encoding.picture import to_rgb
from mlesam_ros.errors import PacketError
from mlesam_ros.frame import EVENT, CompressedPicture, Events, Modality, Picture, SensorFrame
from mlesam_ros.geometry.rig import Rig

Counts = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EventCounts:
    """Brighter and darker events of the window per pixel of the sensor; the third channel is 0.

    A network pixel shows the mean count of the sensor's pixels that it covers, so numbers mean the same at every size.
    A ready-made picture of events (DELIVER's, or a renderer's) counts as one event where a channel is 255.

    Attributes:
        most: counts are cut off here: a flickering lamp must not drown the street.
        brighter, darker: channels of a ready-made RGB picture that hold the two polarities. CARLA's documentation
            (DELIVER comes from CARLA) paints brighter blue and darker red. Grey pictures fill both.
    """

    modality: ClassVar[Modality] = EVENT
    name: ClassVar[str] = "event_counts"
    statistics: ClassVar[Statistics] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """Ours: a count is its own scale, and no event is 0. A street's pixels with events have about 0.6 +- 1.4."""

    most: float = 10.0
    brighter: int = 2
    darker: int = 0

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int]) -> Image:
        """Encode `Events`, or a `Picture` or `CompressedPicture` of them; see `Encoder`."""
        counts: Counts
        if isinstance(frame.payload, Events):
            counts = count_events(frame.payload)
        elif isinstance(frame.payload, Picture | CompressedPicture):
            counts = to_rgb(frame.payload)[..., [self.brighter, self.darker]].astype(np.float32) / np.float32(255)
        else:
            raise wrong_payload(frame, "Events, a Picture or a CompressedPicture")
        image = np.zeros((3, *size), np.float32)
        seen = seen_from_camera(np.minimum(counts, self.most), frame, rig, size)
        image[:2] = seen.transpose(2, 0, 1)
        return image


def count_events(events: Events) -> Counts:
    """How often each pixel reported.

    Returns:
        (H, W, 2) float32: brighter, darker.

    Raises:
        PacketError: an event lies outside the sensor.
    """
    height, width = events.height, events.width
    if len(events.x) and (events.x.max() >= width or events.y.max() >= height):
        raise PacketError(
            f"events reach column {events.x.max()} and row {events.y.max()}; the sensor has {width}x{height} pixels."
        )
    index = events.y.astype(np.intp)
    index *= width
    index += events.x
    index *= 2
    index += ~events.polarity
    return np.bincount(index, minlength=2 * height * width).reshape(height, width, 2).astype(np.float32)
