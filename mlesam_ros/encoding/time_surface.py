"""Events as how long ago each pixel last reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.aligned import warp_by_depth
from mlesam_ros.encoding.checks import wrong_payload
from mlesam_ros.encoding.context import Context
from mlesam_ros.encoding.encoder import Image, Normalization
from mlesam_ros.encoding.event_cells import bin_indices
from mlesam_ros.encoding.settings import EVENT_WINDOW
from mlesam_ros.frame import EVENT, EventWindow, Modality, SensorFrame
from mlesam_ros.geometry.rig import Rig


@dataclass(frozen=True)
class TimeSurface:
    """exp(-age / decay) of the newest brighter and the newest darker event of each pixel; the third channel is 0.

    X. Lagorce et al., "HOTS: A Hierarchy of Event-Based Time-Surfaces for Pattern Recognition", IEEE TPAMI 39(7),
    2017, equation 3. Age counts back from the end of the window. A network pixel shows the newest event of the sensor's
    pixels that it covers. Where counts tell how much an edge stands out, a surface tells which way it moved, and a
    flickering lamp is no brighter than anything else.

    A ready-made picture of events has no times: it is refused, `event_counts` reads it.

    Attributes:
        decay: seconds after which an event counts 1/e; a third of the 30 ms window by default.
        window: seconds of events that the reader gathers for it.
    """

    modality: ClassVar[Modality] = EVENT
    name: ClassVar[str] = "time_surface"
    statistics: ClassVar[Normalization] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """A surface is between 0 and 1 by itself, and no event is 0."""

    decay: float = 0.010
    window: float = EVENT_WINDOW

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None) -> Image:
        """Encode `EventWindow`; see `Encoder`."""
        events = frame.payload
        if not isinstance(events, EventWindow):
            raise wrong_payload(frame, "Events for a time surface; a ready-made picture is read by event_counts")
        view = warp_by_depth(frame, (events.height, events.width), rig, size, context)
        image = np.zeros((3, *size), np.float32)
        image[:2] = view.warp(time_surface(events, view.coarse, self.decay)).transpose(2, 0, 1)
        return image


def time_surface(events: EventWindow, size: tuple[int, int], decay: float) -> npt.NDArray[np.float32]:
    """How recent the newest event of each cell is.

    Args:
        events: the events.
        size: (h, w) of the result, at most the sensor's; each sensor pixel belongs to the cell that its center is in.
        decay: seconds.

    Returns:
        (h, w, 2) float32: brighter, darker; 1 for an event at the window's end, 0 for none.

    Raises:
        PacketError: an event lies outside the sensor.
    """
    surface = np.zeros(2 * size[0] * size[1], np.float32)
    age = (events.end - events.t).astype(np.float32)
    # Times do not decrease, and of several values for one place NumPy keeps the last: the newest.
    surface[bin_indices(events, slice(None), size)] = np.exp(age * np.float32(-1e-9 / decay))
    return surface.reshape(*size, 2)
