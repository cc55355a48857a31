# SPDX-License-Identifier: Apache-2.0
"""Outcome of a recording, read from the topics of the node or from a result bag."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from parity_scene import START

OUTPUTS = ("labels", "confidence", "overlay", "projected_lidar", "semantic_points", "status")


@dataclass
class Mask:
    """One mask.

    Attributes:
        frame_id: its frame.
        images: `labels` and so on → (H, W) or (H, W, 3) uint8.
        points: bytes of the labeled cloud's points.
        primary: the modality that set its stamp.
        sensors: modality → its part of the status.
    """

    frame_id: str = ""
    images: dict[str, np.ndarray] = field(default_factory=dict)
    points: bytes = b""
    primary: str = ""
    sensors: dict[str, Any] = field(default_factory=dict)

    @property
    def used(self) -> set[str]:
        return {name for name, sensor in self.sensors.items() if sensor.used}


Outcome = dict[int, Mask]
"""Milliseconds from `START` → mask."""
Due = dict[tuple[str, int], int]
"""Output and milliseconds from `START` of a message's stamp → those at which it has been published."""


def outcome(messages: Iterable[tuple[str, Any]]) -> Outcome:
    """From (topic's last word, message); messages of rclpy and of rosbags alike."""
    masks: Outcome = {}
    clouds = []
    for name, message in messages:
        stamp = milliseconds(message.header.stamp)
        if name == "semantic_points":
            clouds.append((stamp, message))
            continue
        mask = masks.setdefault(stamp, Mask())
        if name == "status":
            mask.primary, mask.frame_id = message.primary, message.header.frame_id
            mask.sensors = {sensor.modality: sensor for sensor in message.sensors}
            continue
        channels = 3 if message.encoding == "rgb8" else 1
        pixels = np.frombuffer(bytes(message.data), np.uint8).reshape(message.height, message.width, channels)
        mask.images[name] = pixels if channels == 3 else pixels[..., 0]
    for (_, mask), (_, cloud) in zip(sorted(_with_lidar(masks)), sorted(clouds, key=lambda c: c[0]), strict=False):
        mask.points = bytes(cloud.data)
    return masks


def _with_lidar(masks: Outcome) -> list[tuple[int, Mask]]:
    return [(stamp, mask) for stamp, mask in masks.items() if "lidar" in mask.used]


def milliseconds(stamp: Any) -> int:
    """From `START` to a stamp of a header."""
    return round((stamp.sec * 10**9 + stamp.nanosec - START) / 1e6)


def compare(live: Outcome, offline: Outcome, since: int = 0) -> None:
    """Compare two outcomes; ages, latencies and counters of messages in transit may differ.

    Args:
        live, offline: to be compared.
        since: milliseconds before which the two may differ.
    """
    live, offline = ({t: mask for t, mask in masks.items() if t >= since} for masks in (live, offline))
    assert sorted(live) == sorted(offline)
    for stamp, mask in live.items():
        other = offline[stamp]
        assert (mask.frame_id, mask.primary, mask.used) == (other.frame_id, other.primary, other.used), stamp
        for name, sensor in mask.sensors.items():
            theirs = other.sensors[name]
            assert sensor.topic == theirs.topic
            if not since:
                assert (sensor.used_total, sensor.refused) == (theirs.used_total, theirs.refused), (stamp, name)
            assert np.array_equal(sensor.skew, theirs.skew, equal_nan=True), (stamp, name, sensor.skew, theirs.skew)
        assert set(mask.images) == set(other.images)
        for name, pixels in mask.images.items():
            assert np.array_equal(pixels, other.images[name]), (stamp, name)
        assert mask.points == other.points
