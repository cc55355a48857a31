# SPDX-License-Identifier: Apache-2.0
"""Worker thread of the synchronizers: newest sets first, no blocking of callbacks or cameras, simulated time."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
from mlesam_ros.ros.compat import SimpleFilter
from mlesam_ros.ros.sync_filter import SyncFilter, SyncWorker
from mlesam_ros.sync import SyncConfig, Synchronizer
from mlesam_ros.types import CAMERA, LIDAR, PointCloud, SensorFrame

CLOUD = PointCloud(np.zeros(0, [("x", "f4")]))
MODALITIES = (CAMERA, LIDAR)


def frame(modality, stamp):
    return SensorFrame(modality, stamp, modality, CLOUD)


@pytest.fixture
def make():
    made = []

    def start(callback, clock=time.time_ns, simulated=lambda: False, report=lambda problem: None, **config):
        sync = SyncFilter(SyncConfig(modalities=MODALITIES, **config), clock, simulated, report)
        sync.registerCallback(callback)
        worker = SyncWorker([sync], lambda sets: None)
        made.append(worker)
        worker.start()
        sync.stop = worker.stop
        return sync

    yield start
    for worker in made:
        worker.stop()


def wait_for(condition, timeout=10.0):
    end = time.monotonic() + timeout
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_sets_are_emitted_in_a_worker_thread(make):
    received = []
    sync = make(lambda frame_set: received.append((frame_set, threading.current_thread())))
    source = SimpleFilter()
    sync.connectInput(source)
    stamp = time.time_ns()
    source.signalMessage(frame(CAMERA, stamp))
    source.signalMessage(frame(LIDAR, stamp + 1_000_000))
    assert wait_for(lambda: received)
    frame_set, thread = received[0]
    assert (frame_set.stamp, tuple(frame_set.frames)) == (stamp, MODALITIES)
    assert thread is not threading.current_thread()


def test_set_is_emitted_after_max_wait(make):
    received = []
    sync = make(received.append, max_wait=0.1)
    sync.add(frame(CAMERA, time.time_ns()))
    assert wait_for(lambda: received)
    assert tuple(received[0].frames) == (CAMERA,)


def test_slow_callback_receives_the_newest_set(make):
    release, received = threading.Event(), []

    def slow(frame_set):
        received.append(frame_set.stamp)
        release.wait(10)

    sync = make(slow, max_wait=0.0)
    first = time.time_ns()
    sync.add(frame(CAMERA, first))
    assert wait_for(lambda: received)
    begin = time.monotonic()
    stamps = [first + i * 10_000_000 for i in range(1, 30)]
    for stamp in stamps:
        sync.add(frame(CAMERA, stamp))
    assert time.monotonic() - begin < 5
    release.set()
    assert wait_for(lambda: len(received) > 1)
    sync.stop()
    assert received == [first, stamps[-1]]
    counts = sync.counters()[CAMERA]
    assert (counts["received"], counts["used"], counts["superseded"]) == (30, 2, 28)


def test_simulated_time_may_pause_and_run_fast(make):
    now, received = [0], []
    sync = make(received.append, clock=lambda: now[0], simulated=lambda: True, max_wait=0.5)
    sync.add(frame(CAMERA, 1_000_000_000))
    assert sync.refusals()[CAMERA] == {"the clock is zero: is /clock published?": 1}
    now[0] = 2_000_000_000
    sync.add(frame(CAMERA, now[0]))
    time.sleep(0.7)
    assert not received, "max_wait is counted on the simulated clock"
    now[0] += 600_000_000
    assert wait_for(lambda: received)


def test_stop_waits_for_the_running_callback(make):
    entered, ended = threading.Event(), []

    def slow(frame_set):
        entered.set()
        time.sleep(0.2)
        ended.append(frame_set)

    sync = make(slow, max_wait=0.0)
    sync.add(frame(CAMERA, time.time_ns()))
    assert entered.wait(10)
    sync.stop()
    assert len(ended) == 1
    sync.add(frame(CAMERA, time.time_ns()))
    time.sleep(0.05)
    assert len(ended) == 1


def test_error_of_the_synchronizer_is_reported_and_sets_continue(make, monkeypatch):
    """Stored frames are discarded, because they would fail again."""
    received, take, errors = [], Synchronizer.take, iter([ValueError("unforeseen")])

    def fail_once(self, now):
        if any(self.waiting.values()) and (error := next(errors, None)) is not None:
            raise error
        return take(self, now)

    monkeypatch.setattr(Synchronizer, "take", fail_once)
    reported = []
    sync = make(received.append, report=reported.append, max_wait=0.0)
    sync.add(frame(CAMERA, time.time_ns()))
    assert wait_for(lambda: reported)
    sync.add(frame(CAMERA, time.time_ns()))
    assert wait_for(lambda: received)
    assert [problem.message for problem in reported] == ["ValueError: unforeseen"]
    assert sync.counters()[CAMERA]["unmatched"] == 1


def test_sets_of_several_cameras_are_taken_together_and_none_is_waited_for():
    """The front camera and the left one have a set while the worker is busy; the right one has none."""
    changed, taken, release = threading.Condition(), [], threading.Event()
    filters = [
        SyncFilter(SyncConfig(modalities=(CAMERA,)), time.time_ns, lambda: False, lambda problem: None, changed)
        for _ in range(3)
    ]

    def segment(sets):
        taken.append([frame_set and frame_set.stamp for frame_set in sets])
        release.wait(10)

    worker = SyncWorker(filters, segment)
    worker.start()
    first = time.time_ns()
    filters[0].add(frame(CAMERA, first))
    assert wait_for(lambda: taken)
    for step in (1, 2):
        for sync in filters[:2]:
            sync.add(frame(CAMERA, first + step * 10_000_000))
    release.set()
    assert wait_for(lambda: len(taken) > 1)
    worker.stop()
    assert taken == [[first, None, None], [first + 20_000_000, first + 20_000_000, None]]
