"""What one sensor said: when, in which sizes and frames, and what of it could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.config import NodeParameters, SensorParameters, frame_reader
from mlesam_ros.encoding.settings import Found
from mlesam_ros.errors import Problem, format_error
from mlesam_ros.evaluation.topics import TopicSource
from mlesam_ros.frame import NANOSECONDS, EventWindow, Modality, PointCloud, RawImage, SensorFrame
from mlesam_ros.messages import FrameReader, stamp_ns

Nanoseconds = npt.NDArray[np.int64]


class TopicStats:
    """A sensor's messages in the order of their arrival, without their payloads.

    Attributes:
        modality: which sensor.
        source: its topic and type.
        offset: nanoseconds by which its stamps are known to be late.
        received: messages, those that cannot be read among them.
        refusals: why a message cannot be read → how many.
        frame_ids: frame → messages.
        sizes: (height, width) → messages; of compressed pictures none.
        pieces: messages of a LiDAR that make a sweep → sweeps.
        found: what its data turned out to be; see `FrameReader.found`.
    """

    def __init__(
        self,
        modality: Modality,
        source: TopicSource,
        sensor: SensorParameters | None = None,
        bind: Callable[[SensorFrame], SensorFrame] = lambda frame: frame,
    ) -> None:
        """Start without messages; by default with the sensor's default parameters, `bind` is the rig's learner's."""
        self.modality, self.source, self._sensor = modality, source, sensor or NodeParameters().sensor(modality)
        self.offset = round(self._sensor.offset * NANOSECONDS)
        self.bind = bind
        self.received = 0
        self.refusals: Counter[Problem] = Counter()
        self.frame_ids: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.pieces: Counter[int] = Counter()
        self.found: dict[str, Found] = {}
        self._reader = self.reader()
        self._rows: list[tuple[int, int, int]] = []

    def reader(self) -> FrameReader:
        """A new reader of its messages."""
        return frame_reader(self._sensor, self.modality, self.source.type)

    def hear(self, message: Any, arrived: int) -> SensorFrame | None:
        """Note a message.

        Args:
            message: as for `FrameReader.read`.
            arrived: nanoseconds at which it was recorded or received.

        Returns:
            its frame; None where it cannot be read.
        """
        self.received += 1
        try:
            frame = self.bind(self._reader.read(message))
        except Exception as error:  # as in the node, whatever is in a message costs that message alone
            self.refusals[format_error(error)] += 1
            return None
        self.found = self._reader.found
        self.note(stamp_ns(message.header), frame.time, arrived, frame.frame_id)
        if isinstance(frame.payload, PointCloud):
            self.pieces[1 + len(frame.payload.earlier)] += 1
        if isinstance(frame.payload, RawImage | EventWindow):
            self.sizes[frame.payload.height, frame.payload.width] += 1
        return frame

    def note(self, stamp: int, moment: int, arrived: int, frame_id: str) -> None:
        """A message that was read: its header's stamp, its frame's `time`, and its arrival."""
        self._rows.append((stamp, moment, arrived))
        self.frame_ids[frame_id] += 1

    @property
    def stamps(self) -> Nanoseconds:
        """(N,) nanoseconds of the headers of what can be read."""
        return self._column(0)

    @property
    def moments(self) -> Nanoseconds:
        """(N,) nanoseconds, the `time` of the frames; for events the end of their window."""
        return self._column(1)

    @property
    def arrivals(self) -> Nanoseconds:
        """(N,) nanoseconds of recording or receiving."""
        return self._column(2)

    @property
    def delays(self) -> npt.NDArray[np.float64]:
        """(N,) seconds from a header's stamp, without the offset, to the arrival."""
        return np.asarray((self.arrivals - self.stamps + self.offset) / NANOSECONDS)

    @property
    def counters(self) -> dict[str, int]:
        """What happened to an event camera's packets; see `FrameReader.counters`."""
        return self._reader.counters

    @property
    def usual_pieces(self) -> int:
        """Messages that mostly make a sweep of a LiDAR; 1 for others."""
        return self.pieces.most_common(1)[0][0] if self.pieces else 1

    @property
    def frame_id(self) -> str:
        """The frame most of its messages are in; empty without any."""
        return self.frame_ids.most_common(1)[0][0] if self.frame_ids else ""

    def _column(self, column: int) -> Nanoseconds:
        return np.fromiter((row[column] for row in self._rows), np.int64, len(self._rows))
