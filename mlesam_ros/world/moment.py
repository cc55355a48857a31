"""What the street's sensors say at one moment, and the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.evt3_encode import encode_evt3
from mlesam_ros.frame import EventWindow, Modality, SensorFrame
from mlesam_ros.geometry.transform import Transform

EPOCH = 1_700_000_000_000_000_000
"""Nanoseconds of ROS time at which every street begins."""
PERIOD = 100_000_000
"""Nanoseconds from one moment to the next: 10 Hz."""
SENSOR_ZERO = EPOCH - 1_000_000_000
"""Host time in nanoseconds at which the event camera's own microsecond clock reads 0."""


@dataclass(frozen=True)
class SimFrame:
    """One tick of all sensors.

    Attributes:
        index: its number.
        stamp: nanoseconds, `EPOCH + index * PERIOD`.
        frames: modality → frame. The event frame holds the last 30 ms.
        labels: (H, W) uint8 DELIVER ids of the camera's pixels.
        pose: odom_from_base_link.
        simulate_period: makes `period_events`.
    """

    index: int
    stamp: int
    frames: dict[Modality, SensorFrame]
    labels: npt.NDArray[np.uint8]
    pose: Transform
    simulate_period: Callable[[], EventWindow]

    @cached_property
    def period_events(self) -> EventWindow:
        """All events since the moment before; they end with those of the event frame. Rendered when first asked for."""
        return self.simulate_period()

    @property
    def packet_stamp(self) -> int:
        """Host time in nanoseconds of the first of `period_events`: the stamp of their packet's header."""
        events = self.period_events
        return int(events.t[0]) if len(events.t) else events.start

    @cached_property
    def evt3(self) -> npt.NDArray[np.uint8]:
        """`period_events` as the bytes of one EVT3 packet, on the sensor's microsecond clock (see `SENSOR_ZERO`)."""
        events = self.period_events
        return encode_evt3(events.x, events.y, (events.t - SENSOR_ZERO) // 1000, events.polarity)
