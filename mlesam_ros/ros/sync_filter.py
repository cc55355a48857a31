# SPDX-License-Identifier: Apache-2.0
"""Filters that synchronize the frames of each camera, and the thread that takes their sets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from mlesam_ros.errors import Problem, format_error
from mlesam_ros.ros.compat import SimpleFilter
from mlesam_ros.sync import SyncConfig, Synchronizer
from mlesam_ros.types import NANOSECONDS, FrameSet, Modality, SensorFrame

T = TypeVar("T")
_MAX_SLEEP_S = 0.5  # s, the longest sleep without a notification


class SyncFilter(SimpleFilter):
    """Filter that takes `SensorFrame`s from any thread and emits `FrameSet`s in the thread of a `SyncWorker`.

    Args:
        config: configuration of the synchronizer.
        clock: returns the time in nanoseconds of the clock of the stamps; 0 before the first time is available.
        simulated: returns whether that clock may run at another rate than the system clock.
        report: called with an error of the synchronizer, after which the stored frames are discarded.
        changed: the condition of the worker, which the filters of several cameras share; None for its own.
    """

    def __init__(
        self,
        config: SyncConfig,
        clock: Callable[[], int],
        simulated: Callable[[], bool],
        report: Callable[[Problem], None],
        changed: threading.Condition | None = None,
    ) -> None:
        super().__init__()
        self._synchronizer = Synchronizer(config)
        self._clock = clock
        self._simulated = simulated
        self._report = report
        self.changed = changed or threading.Condition()

    def connectInput(self, *inputs: SimpleFilter) -> None:  # noqa: N802 (upstream's name)
        """Register `add` as a callback of these filters."""
        for subscriber in inputs:
            subscriber.registerCallback(self.add)

    def add(self, frame: SensorFrame) -> None:
        """Push a frame to the synchronizer."""
        with self.changed:
            self._synchronizer.push(frame, self._clock())
            self.changed.notify()

    def take(self) -> FrameSet | None:
        """Take the newest set that is ready, if any. The caller holds `changed`."""
        return self._guarded(lambda: self._synchronizer.take(now) if (now := self._clock()) else None)

    def wait_timeout(self) -> float:
        """Return the seconds until `take` may return a set without a new frame. The caller holds `changed`."""
        deadline = self._guarded(self._synchronizer.next_deadline)
        if deadline is None:
            return _MAX_SLEEP_S
        if self._simulated():
            return 0.01
        return min(max((deadline - self._clock()) / NANOSECONDS, 0.001), _MAX_SLEEP_S)

    def _guarded(self, call: Callable[[], T | None]) -> T | None:
        """Return the result of the synchronizer. On an error report it, discard the stored frames and return None."""
        try:
            return call()
        except Exception as error:  # keep the thread alive; the stored frames would fail again
            self._synchronizer.flush()
            self._report(format_error(error))
            return None

    def counters(self) -> dict[Modality, dict[str, int]]:
        """Return a copy of `Synchronizer.counters`."""
        with self.changed:
            return {modality: dict(counts) for modality, counts in self._synchronizer.counters.items()}

    def refusals(self) -> dict[Modality, dict[str, int]]:
        """Return a copy of `Synchronizer.refusals`, the reasons for refused frames."""
        with self.changed:
            return {modality: dict(counts) for modality, counts in self._synchronizer.refusals.items()}


class SyncWorker:
    """Thread that takes the newest ready set of each camera and passes them on together.

    A camera without a ready set is not waited for. The callback may be slow: frames that arrive meanwhile are stored,
    and the next call receives the newest sets. No lock is held during a callback.

    Args:
        filters: filters of the cameras, which share one condition.
        callback: called with the set of each filter, None for one that is not ready, after the filters' own callbacks.
    """

    def __init__(self, filters: Sequence[SyncFilter], callback: Callable[[Sequence[FrameSet | None]], None]) -> None:
        self._filters, self._callback = filters, callback
        self._changed = filters[0].changed
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mlesam_worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop and join the thread, after the running callback if there is one."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while sets := self._wait():
            for source, frame_set in zip(self._filters, sets, strict=True):
                if frame_set is not None:
                    source.signalMessage(frame_set)
            self._callback(sets)

    def _wait(self) -> list[FrameSet | None]:
        """Wait for the next sets; return an empty list when stopped."""
        with self._changed:
            while not self._stopping:
                sets = [source.take() for source in self._filters]
                if any(frame_set is not None for frame_set in sets):
                    return sets
                self._changed.wait(min(source.wait_timeout() for source in self._filters))
        return []
