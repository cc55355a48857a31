# SPDX-License-Identifier: Apache-2.0
"""Offline masks of the messages that a faulty robot sent, to compare with those of the node."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from readings import FRAMES, Sent
from robot import CAMERA_FRAME, EVENT_FRAME, OPTICAL, camera_info, header_message
from tf2_msgs.msg import TFMessage

from mlesam_ros.geometry.rig import Rig
from mlesam_ros.messages import FrameReader, stamp_ns
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.rig_builder import RigBuilder
from mlesam_ros.types import CAMERA, EVENT, MESSAGE_TYPES, NANOSECONDS, FrameSet, SensorFrame


class Offline:
    """Follows a robot's log.

    Args:
        log: what `faulty.py` writes.
        weights: the node's parameters that name the model.
    """

    def __init__(self, log: Path, weights: dict[str, Any]) -> None:
        self._log = log.open(encoding="utf-8")
        self._readers = {m: FrameReader(m, types[0]) for m, types in MESSAGE_TYPES.items()}
        self._frames: dict[tuple[str, int], list[SensorFrame]] = defaultdict(list)
        self._pipeline = Pipeline.from_checkpoint(weights["checkpoint"], weights["base_weights"], "cpu", "fp32", 1)
        self._rig = _rig()

    def explains(self, status: Any, labels: np.ndarray) -> bool | None:
        """Whether a mask is the one that the pipeline gives for the same set.

        Args:
            status: of the mask.
            labels: (H, W) uint8.

        Returns:
            None where a frame of the set is not known exactly: a lost packet of events changes the next ones' times.
        """
        self._read_on()
        stamp = stamp_ns(status.header)
        skews = {s.modality: round(s.skew * NANOSECONDS) for s in status.sensors if s.used}
        found = {m: self._frames.get((m, stamp + skew), []) for m, skew in skews.items()}
        # Several frames of a sensor with one stamp are a fault of its own; the set has one of them.
        sets = [dict(zip(found, frames, strict=True)) for frames in product(*found.values())]
        if not sets:
            return None
        return any(np.array_equal(self._mask(FrameSet(stamp, status.primary, s, skews)), labels) for s in sets)

    def _mask(self, frame_set: FrameSet) -> np.ndarray:
        return self._pipeline.segment(frame_set, self._rig).labels

    def _read_on(self) -> None:
        for sent in self._new():
            frame = self._readers[sent.modality].read(sent.message())
            known = self._frames[sent.modality, frame.stamp]
            if len(known) < 12:
                known.append(frame)

    def _new(self) -> Iterator[Sent]:
        while (line := self._log.readline()).endswith("\n"):
            yield Sent(**json.loads(line))


def _rig() -> Rig:
    learner = RigBuilder(Rig(CAMERA_FRAME))
    for modality, frame in ((CAMERA, CAMERA_FRAME), (EVENT, EVENT_FRAME)):
        learner.on_camera_info(f"{modality} info", modality, camera_info(header_message(1, frame)))
    for frame in set(FRAMES.values()):
        stamped = TransformStamped(header=header_message(0, "base_link"), child_frame_id=frame)
        turn = stamped.transform.rotation
        if "optical" in frame:
            turn.x, turn.y, turn.z, turn.w = OPTICAL
        learner.on_transforms("/tf_static", TFMessage(transforms=[stamped]))
    return learner.rig
