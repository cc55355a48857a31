# SPDX-License-Identifier: Apache-2.0
"""Messages of the faulty robot, reproducible byte for byte from the record of what was sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from event_camera_msgs.msg import EventPacket
from robot import CAMERA_FRAME, EVENT_FRAME, HEIGHT, LIDAR_FRAME, WIDTH, byte_array, header_message
from sensor_msgs.msg import Image, PointCloud2, PointField

from mlesam_ros.bags.serialization import pixels
from mlesam_ros.preprocessing.evt3 import encode_evt3
from mlesam_ros.ros.publishers import message_from
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES

PERIOD = 100_000_000  # ns between the steps of all four
OFFSETS = {CAMERA: 0, DEPTH: 4_000_000, EVENT: 2_000_000, LIDAR: 12_000_000}  # ns after the step; never at once
FRAMES = {CAMERA: CAMERA_FRAME, DEPTH: CAMERA_FRAME, EVENT: EVENT_FRAME, LIDAR: LIDAR_FRAME}
_VARIANTS = 7
_LENGTH = 5000  # us of events in a packet
_EVENTS = 200


@dataclass(frozen=True)
class Sent:
    """One message that was sent.

    Attributes:
        modality: whose.
        stamp: nanoseconds, as its header has it.
        step: number of the step it shows.
        number: of the message, counted by its driver.
        true: nanoseconds on the sensor's own clock, which no fault of the host's disturbs.
    """

    modality: str
    stamp: int
    step: int
    number: int
    true: int

    def message(self) -> Image | PointCloud2 | EventPacket:
        """The message."""
        if self.modality == EVENT:
            return _events(self)
        message = _content(self.modality, self.step % _VARIANTS)
        message.header = header_message(self.stamp, FRAMES[self.modality])
        return message


def _events(sent: Sent) -> EventPacket:
    """The packet's stamp is that of its first event, 5 ms before the step."""
    x, y, t, polarity = _event_content(sent.step % _VARIANTS)
    microseconds = t + sent.true // 1000 % 1_000_000
    packet = EventPacket(header=header_message(sent.stamp - _LENGTH * 1000, EVENT_FRAME), height=HEIGHT, width=WIDTH)
    packet.seq, packet.encoding = sent.number, "evt3"
    packet.events = byte_array(encode_evt3(x, y, microseconds, polarity))
    return packet


@cache
def _event_content(variant: int) -> tuple[np.ndarray, ...]:
    rng = _rng(EVENT, variant)
    t = np.sort(rng.integers(0, _LENGTH, _EVENTS))
    t[0] = 0
    return rng.integers(0, WIDTH, _EVENTS), rng.integers(0, HEIGHT, _EVENTS), t, rng.integers(0, 2, _EVENTS)


@cache
def _content(modality: str, variant: int) -> Image | PointCloud2:
    rng, head = _rng(modality, variant), header_message(0, FRAMES[modality])
    if modality == CAMERA:
        rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        return message_from(Image, pixels(0, FRAMES[modality], rgb, "rgb8"))
    if modality == DEPTH:
        millimeters = rng.integers(500, 20000, (HEIGHT, WIDTH)).astype("<u2")
        message = Image(header=head, height=HEIGHT, width=WIDTH, encoding="16UC1", step=2 * WIDTH)
        message.data = byte_array(millimeters)
        return message
    return _cloud(rng, head)


def _cloud(rng: np.random.Generator, head: object) -> PointCloud2:
    points = np.zeros(500, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
    points["x"] = rng.uniform(2, 30, 500)
    points["y"] = rng.uniform(-1, 1, 500) * points["x"]
    points["z"] = rng.uniform(-0.5, 0.5, 500) * points["x"]
    points["intensity"] = rng.uniform(0, 1, 500)
    columns = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate(points.dtype.names)
    ]
    message = PointCloud2(header=head, height=1, width=500, fields=columns)
    message.point_step, message.row_step, message.data = 16, 8000, byte_array(points)
    return message


def _rng(modality: str, variant: int) -> np.random.Generator:
    return np.random.default_rng((MODALITIES.index(modality), variant))
