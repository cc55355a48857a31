# SPDX-License-Identifier: Apache-2.0
"""Event preprocessors: counts per pixel, polarity of the newest event, and time surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, PacketError
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.base import EVENT_WINDOW, Image, Normalization
from mlesam_ros.preprocessing.image_warp import warp_by_depth
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.preprocessing.registration import FrameContext, wrong_payload
from mlesam_ros.types import EVENT, CompressedImage, EventWindow, Modality, RawImage, SensorFrame


def bin_indices(events: EventWindow, part: slice, size: tuple[int, int]) -> npt.NDArray[np.intp]:
    """Indices of events into a flat (h, w, 2) array: brighter, darker.

    Uses 32-bit integer arithmetic, which NumPy vectorizes; a lookup table per axis takes twice as long.

    Args:
        events: the events.
        part: the slice of events to use.
        size: (h, w) of the image, at most the sensor's; a sensor pixel belongs to the cell that contains its center.

    Raises:
        PacketError: an event lies outside the sensor.
    """
    x, y = events.x[part], events.y[part]
    if len(x) and (x.max() >= events.width or y.max() >= events.height):
        raise PacketError(
            f"events reach column {x.max()} and row {y.max()}; the sensor has {events.width}x{events.height} pixels."
        )
    cell = _cells_along(y, events.height, size[0])
    cell *= size[1]
    cell += _cells_along(x, events.width, size[1])
    cell <<= 1
    cell += (~events.polarity[part]).astype(cell.dtype)
    return cell.astype(np.intp)


def pixels_per_bin(pixels: int, cells: int) -> npt.NDArray[np.float32]:
    """(cells,) number of sensor pixels in each cell along one axis."""
    return np.bincount(_cells_along(np.arange(pixels), pixels, cells).astype(np.intp), minlength=cells).astype(
        np.float32
    )


def _cells_along(pixel: npt.NDArray[Any], pixels: int, cells: int) -> Any:
    """The cell of each pixel along one axis: its center, (pixel + 1/2) · cells / pixels, rounded down."""
    cell: Any = pixel.astype(np.uint32 if 2 * pixels * cells < 1 << 32 else np.uint64)
    if cells != pixels:
        cell *= 2 * cells
        cell += cells
        cell //= 2 * pixels
    return cell


Counts = npt.NDArray[np.float32]
_BATCH_EVENTS = 1 << 15
"""Events counted at once, so that their cells stay in the cache of a core."""


@dataclass(frozen=True)
class EventCounts:
    """Counts of brighter and darker events of the window per sensor pixel; the third channel is 0.

    A network pixel holds the mean count of the sensor pixels that it covers, so values do not depend on the size. In a
    rendered event image, a channel value of 255 counts as one event.

    Attributes:
        most: upper limit of a count, so that flickering lamps do not dominate the image.
        window: seconds of events in the input.
        brighter, darker: channels of a rendered RGB event image with the two polarities. CARLA, from which DELIVER
            comes, draws brighter in blue and darker in red according to its documentation. Gray images fill both.
    """

    modality: ClassVar[Modality] = EVENT
    name: ClassVar[str] = "event_counts"
    normalization: ClassVar[Normalization] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """Chosen here: counts are not scaled, and no event is 0. Pixels of streets with events have about 0.6 +- 1.4."""

    most: float = 10.0
    window: float = EVENT_WINDOW
    brighter: int = 2
    darker: int = 0

    def __post_init__(self) -> None:
        """Check the channels.

        Raises:
            ConfigError: brighter or darker is not a channel of an RGB image.
        """
        if not {self.brighter, self.darker} <= {0, 1, 2}:
            raise ConfigError(f"brighter and darker are {self.brighter} and {self.darker}; accepted are 0, 1 and 2.")

    def __call__(
        self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: FrameContext | None = None
    ) -> Image:
        """Convert an `EventWindow`, or a `RawImage` or `CompressedImage` of rendered events; see `Preprocessor`."""
        counts: Counts
        if isinstance(frame.payload, EventWindow):
            view = warp_by_depth(frame, (frame.payload.height, frame.payload.width), rig, size, context)
            counts = self.reduce(frame.payload, view.coarse)
        elif isinstance(frame.payload, RawImage | CompressedImage):
            rendered = to_rgb(frame.payload)[..., [self.brighter, self.darker]].astype(np.float32) / 255
            view = warp_by_depth(frame, (rendered.shape[0], rendered.shape[1]), rig, size, context)
            reduced = cv2.resize(rendered, view.coarse[::-1], interpolation=cv2.INTER_AREA)
            counts = np.asarray(reduced, np.float32)
        else:
            raise wrong_payload(frame, "an EventWindow, a RawImage or a CompressedImage")
        image = np.zeros((3, *size), np.float32)
        image[:2] = view.warp(np.minimum(counts, self.most)).transpose(2, 0, 1)
        return image

    def reduce(self, events: EventWindow, size: tuple[int, int]) -> Counts:
        """(h, w, 2) float32: mean counts per cell; see `count_events`."""
        return count_events(events, size)


@dataclass(frozen=True)
class EventPolarity(EventCounts):
    """Polarity of the newest event of each sensor pixel: 1 in its channel, 0 in the other two.

    Same as the event images of CARLA (https://carla.readthedocs.io/en/latest/ref_sensors/) and as DELIVER's files
    divided by 255. A network pixel holds the mean of the sensor pixels that it covers.
    """

    name: ClassVar[str] = "event_polarity"

    most: float = 1.0

    def reduce(self, events: EventWindow, size: tuple[int, int]) -> Counts:
        """(h, w, 2) float32: share of each cell's pixels with a brighter, and with a darker newest event."""
        full = (events.height, events.width)
        newest = np.zeros((events.height * events.width, 2), np.float32)
        cells = bin_indices(events, slice(None), full)
        # Times do not decrease, and NumPy keeps the last of several values for one index: the newest event.
        newest[cells >> 1] = np.stack([cells % 2 == 0, cells % 2 == 1], axis=1)
        image = newest.reshape(*full, 2)
        return image if size == full else np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))


def count_events(events: EventWindow, size: tuple[int, int]) -> Counts:
    """Mean number of events per sensor pixel of each cell.

    Args:
        events: the events.
        size: (h, w) of the result, at most the sensor's; a sensor pixel belongs to the cell that contains its center.

    Returns:
        (h, w, 2) float32: brighter, darker events per sensor pixel of the cell.

    Raises:
        PacketError: an event lies outside the sensor.
    """
    counts = np.zeros(2 * size[0] * size[1], np.float32)
    for start in range(0, len(events.x), _BATCH_EVENTS):
        np.add.at(counts, bin_indices(events, slice(start, start + _BATCH_EVENTS), size), np.float32(1))
    image = counts.reshape(*size, 2)
    if size != (events.height, events.width):
        rows_in, cols_in = pixels_per_bin(events.height, size[0]), pixels_per_bin(events.width, size[1])
        image /= rows_in[:, None, None] * cols_in[:, None]
    return image


@dataclass(frozen=True)
class TimeSurface:
    """exp(-age / decay) of the newest brighter and the newest darker event of each pixel; the third channel is 0.

    X. Lagorce et al., "HOTS: A Hierarchy of Event-Based Time-Surfaces for Pattern Recognition", IEEE TPAMI 39(7),
    2017, equation 3. Age is measured from the end of the window. A network pixel holds the newest event of the sensor
    pixels that it covers. Counts show the contrast of an edge; a time surface shows its direction of motion, and
    flickering lamps do not dominate it.

    A rendered event image has no times and is rejected; use `event_counts` for it.

    Attributes:
        decay: seconds after which the value of an event is 1/e; a third of the 30 ms window by default.
        window: seconds of events in the input.
    """

    modality: ClassVar[Modality] = EVENT
    name: ClassVar[str] = "time_surface"
    normalization: ClassVar[Normalization] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """Not normalized: values are between 0 and 1, and no event is 0."""

    decay: float = 0.010
    window: float = EVENT_WINDOW

    def __call__(
        self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: FrameContext | None = None
    ) -> Image:
        """Convert an `EventWindow`; see `Preprocessor`."""
        events = frame.payload
        if not isinstance(events, EventWindow):
            raise wrong_payload(frame, "an EventWindow; event_counts reads a rendered event image")
        view = warp_by_depth(frame, (events.height, events.width), rig, size, context)
        image = np.zeros((3, *size), np.float32)
        image[:2] = view.warp(time_surface(events, view.coarse, self.decay)).transpose(2, 0, 1)
        return image


def time_surface(events: EventWindow, size: tuple[int, int], decay: float) -> npt.NDArray[np.float32]:
    """Exponentially decayed age of the newest event of each cell.

    Args:
        events: the events.
        size: (h, w) of the result, at most the sensor's; a sensor pixel belongs to the cell that contains its center.
        decay: seconds.

    Returns:
        (h, w, 2) float32: brighter, darker; 1 for an event at the window's end, 0 for none.

    Raises:
        PacketError: an event lies outside the sensor.
    """
    surface = np.zeros(2 * size[0] * size[1], np.float32)
    age = (events.end - events.t).astype(np.float32)
    # Times do not decrease, and NumPy keeps the last of several values for one index: the newest event.
    surface[bin_indices(events, slice(None), size)] = np.exp(age * np.float32(-1e-9 / decay))
    return surface.reshape(*size, 2)
