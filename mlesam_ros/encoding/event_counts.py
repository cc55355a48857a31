"""Events as counts per polarity, after MUSES, or as the newest polarity of each pixel, after CARLA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.aligned import warp_by_depth
from mlesam_ros.encoding.checks import wrong_payload
from mlesam_ros.encoding.context import Context
from mlesam_ros.encoding.encoder import Image, Normalization
from mlesam_ros.encoding.event_cells import bin_indices, pixels_per_bin
from mlesam_ros.encoding.picture import to_rgb
from mlesam_ros.encoding.settings import EVENT_WINDOW
from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import EVENT, CompressedImage, EventWindow, Modality, RawImage, SensorFrame
from mlesam_ros.geometry.rig import Rig

Counts = npt.NDArray[np.float32]
_BATCH = 1 << 15
"""Events counted at once: their cells stay in a core's own cache."""


@dataclass(frozen=True)
class EventCounts:
    """Brighter and darker events of the window per pixel of the sensor; the third channel is 0.

    A network pixel shows the mean count of the sensor's pixels that it covers, so numbers mean the same at every size.
    A ready-made picture of events (a renderer's) counts as one event where a channel is 255.

    Attributes:
        most: counts are cut off here: a flickering lamp must not drown the street.
        window: seconds of events that the reader gathers for it.
        brighter, darker: channels of a ready-made RGB picture that hold the two polarities. CARLA's documentation
            (DELIVER comes from CARLA) paints brighter blue and darker red. Gray pictures fill both.
    """

    modality: ClassVar[Modality] = EVENT
    name: ClassVar[str] = "event_counts"
    statistics: ClassVar[Normalization] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """Ours: a count is its own scale, and no event is 0. A street's pixels with events have about 0.6 +- 1.4."""

    most: float = 10.0
    window: float = EVENT_WINDOW
    brighter: int = 2
    darker: int = 0

    def __post_init__(self) -> None:
        """Check the channels.

        Raises:
            ConfigError: brighter or darker is no channel of an RGB image.
        """
        if not {self.brighter, self.darker} <= {0, 1, 2}:
            raise ConfigError(f"brighter and darker are {self.brighter} and {self.darker}; accepted are 0, 1 and 2.")

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None) -> Image:
        """Encode `EventWindow`, or a `RawImage` or `CompressedImage` of them; see `Encoder`."""
        counts: Counts
        if isinstance(frame.payload, EventWindow):
            view = warp_by_depth(frame, (frame.payload.height, frame.payload.width), rig, size, context)
            counts = self.reduce(frame.payload, view.coarse)
        elif isinstance(frame.payload, RawImage | CompressedImage):
            picture = to_rgb(frame.payload)[..., [self.brighter, self.darker]].astype(np.float32) / 255
            view = warp_by_depth(frame, (picture.shape[0], picture.shape[1]), rig, size, context)
            reduced = cv2.resize(picture, view.coarse[::-1], interpolation=cv2.INTER_AREA)
            counts = np.asarray(reduced, np.float32)
        else:
            raise wrong_payload(frame, "EventWindow, a RawImage or a CompressedImage")
        image = np.zeros((3, *size), np.float32)
        image[:2] = view.warp(np.minimum(counts, self.most)).transpose(2, 0, 1)
        return image

    def reduce(self, events: EventWindow, size: tuple[int, int]) -> Counts:
        """(h, w, 2) float32: what the cells of a reduced sensor show; see `count_events`."""
        return count_events(events, size)


@dataclass(frozen=True)
class EventPolarity(EventCounts):
    """The polarity of the newest event of each pixel of the sensor: 1 in its channel, 0 in the other two.

    So CARLA draws its event camera (https://carla.readthedocs.io/en/latest/ref_sensors/), and DELIVER's files over 255
    are this image. A network pixel shows the mean of the sensor's pixels that it covers.
    """

    name: ClassVar[str] = "event_polarity"

    most: float = 1.0

    def reduce(self, events: EventWindow, size: tuple[int, int]) -> Counts:
        """(h, w, 2) float32: the share of each cell's pixels whose newest event is brighter, and darker."""
        full = (events.height, events.width)
        newest = np.zeros((events.height * events.width, 2), np.float32)
        cells = bin_indices(events, slice(None), full)
        # Times do not decrease, and of several values for one place NumPy keeps the last: the newest.
        newest[cells >> 1] = np.stack([cells % 2 == 0, cells % 2 == 1], axis=1)
        image = newest.reshape(*full, 2)
        return image if size == full else np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))


def count_events(events: EventWindow, size: tuple[int, int]) -> Counts:
    """How often the pixels reported.

    Args:
        events: the events.
        size: (h, w) of the result, at most the sensor's; each sensor pixel belongs to the cell that its center is in.

    Returns:
        (h, w, 2) float32: brighter, darker events per sensor pixel of the cell.

    Raises:
        PacketError: an event lies outside the sensor.
    """
    counts = np.zeros(2 * size[0] * size[1], np.float32)
    for start in range(0, len(events.x), _BATCH):
        np.add.at(counts, bin_indices(events, slice(start, start + _BATCH), size), np.float32(1))
    image = counts.reshape(*size, 2)
    if size != (events.height, events.width):
        rows_in, cols_in = pixels_per_bin(events.height, size[0]), pixels_per_bin(events.width, size[1])
        image /= rows_in[:, None, None] * cols_in[:, None]
    return image
