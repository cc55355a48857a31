"""The synchronizer as a message filter, with the one thread that its output runs in."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mlesam_ros.errors import Problem, format_error
from mlesam_ros.frame import NANOSECONDS, FrameSet, Modality, SensorFrame
from mlesam_ros.ros.compat.filters import SimpleFilter
from mlesam_ros.sync import SyncConfig, Synchronizer

_NAP = 0.5  # s, the longest sleep without a notification


class SyncFilter(SimpleFilter):
    """Takes `SensorFrame`s from any thread and hands out `FrameSet`s in its own.

    A callback of this filter may be as slow as it likes: meanwhile frames are filed, never queued, and when it returns
    it gets the newest set there is. No lock is held while it runs.

    Args:
        config: what belongs together.
        clock: the time in nanoseconds, of the same clock as the stamps; 0 while there is no time yet.
        simulated: whether that clock may run at another pace than the machine's.
        report: called with an error of the synchronizer, which costs the frames that wait.
    """

    def __init__(
        self,
        config: SyncConfig,
        clock: Callable[[], int],
        simulated: Callable[[], bool],
        report: Callable[[Problem], None],
    ) -> None:
        super().__init__()
        self._synchronizer = Synchronizer(config)
        self._clock = clock
        self._simulated = simulated
        self._report = report
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def connectInput(self, *inputs: SimpleFilter) -> None:  # noqa: N802 (upstream's name)
        """Take frames from these filters."""
        for source in inputs:
            source.registerCallback(self.add)

    def add(self, frame: SensorFrame) -> None:
        """File a frame."""
        with self._changed:
            self._synchronizer.push(frame, self._clock())
            self._changed.notify()

    def start(self) -> None:
        """Begin to hand out sets."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mlesam_worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when the callback that is running, if any, has ended; no other follows."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def counters(self) -> dict[Modality, dict[str, int]]:
        """What became of the frames so far: a copy of `Synchronizer.counters`."""
        with self._changed:
            return {modality: dict(counts) for modality, counts in self._synchronizer.counters.items()}

    def refusals(self) -> dict[Modality, dict[str, int]]:
        """Why frames were refused: a copy of `Synchronizer.refusals`."""
        with self._changed:
            return {modality: dict(counts) for modality, counts in self._synchronizer.refusals.items()}

    def _run(self) -> None:
        while (frame_set := self._wait()) is not None:
            self.signalMessage(frame_set)

    def _wait(self) -> FrameSet | None:
        """The next set; None when it is time to stop."""
        with self._changed:
            while not self._stopping:
                nap = _NAP
                try:
                    now = self._clock()
                    frame_set = self._synchronizer.take(now) if now else None
                    if frame_set is not None:
                        return frame_set
                    nap = self._nap()
                except Exception as error:  # the thread lives on; what waits would fail again
                    self._synchronizer.flush()
                    self._report(format_error(error))
                self._changed.wait(nap)
        return None

    def _nap(self) -> float:
        """Seconds until `take` can have something new without a push."""
        deadline = self._synchronizer.next_deadline()
        if deadline is None:
            return _NAP
        if self._simulated():
            return 0.01
        return min(max((deadline - self._clock()) / NANOSECONDS, 0.001), _NAP)
