# SPDX-License-Identifier: Apache-2.0
"""Overload: the node drops old messages instead of falling behind, and counts them."""

import itertools
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("rclpy")
from offline import Offline
from restart_stress import Node
from watch import RobotProcess, Watch

from mlesam_ros.messages import stamp_ns
from mlesam_ros.types import CAMERA, EVENT, MODALITIES

BURNER = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"
MASKS = 40
WAITING = 60  # messages of a sensor that may wait at once; events come in packets
WAIT = 0.6  # s that a set may wait for its last sensor and its turn: primary_timeout, max_wait, a period and some more


@contextmanager
def busy_cores():
    """Three processes for each core that want all of it, each in a session of its own: the scheduler shares between
    sessions first."""
    command = [sys.executable, "-c", BURNER, str(os.getpid())]
    burners = [subprocess.Popen(command, start_new_session=True) for _ in range(3 * len(os.sched_getaffinity(0)))]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@pytest.fixture(scope="module")
def starved(tmp_path_factory, weights):
    """Masks and statuses of the shipped network, which wants most of a core, while it gets a third of one."""
    folder = tmp_path_factory.mktemp("starved")
    robot = RobotProcess(folder / "robot.jsonl")
    watch, node = Watch(robot, Offline(robot.log, weights)), Node(folder / "node.log")
    try:
        assert watch.until(watch.well, 300), node.log.read_text()
        with busy_cores():
            watch.until(lambda: False, 2.0)
            watch.forget()
            assert watch.until(lambda: len(watch.masks) >= MASKS, 300), node.log.read_text()
            masks, statuses = list(watch.masks), list(watch.statuses)
        watch.forget()
        assert watch.until(watch.well, 300), "it does not recover"
        assert node.end(signal.SIGTERM)[1] == 0
    finally:
        node.process.kill()
        node.process.wait()
        watch.close()
        robot.close()
    return masks, statuses


def test_masks_are_in_order_and_most_periods_have_none(starved):
    stamps = [stamp_ns(mask.header) for _, mask in starved[0]]
    assert all(a < b for a, b in itertools.pairwise(stamps))
    assert (stamps[-1] - stamps[0]) / 1e8 > 1.2 * MASKS, "the node was not starved"


def test_mask_age_does_not_grow(starved):
    """With a queue of sets, the last mask would be delayed by all missing masks."""
    ages = np.array([arrival - stamp_ns(mask.header) for arrival, mask in starved[0]]) / 1e9
    longest = max(b - a for (a, _), (b, _) in itertools.pairwise(starved[0])) / 1e9
    print(f"ages {np.median(ages):.2f} s in the median, {ages.max():.2f} at most; longest gap {longest:.2f}")
    assert ages.max() < WAIT + 2 * longest
    assert np.median(ages[-10:]) < np.median(ages[:10]) + longest


def test_every_message_is_counted(starved):
    first, last = ({s.modality: s for s in starved[1][at][1].sensors} for at in (0, -1))
    for modality in MODALITIES:
        left = [
            s.received - (s.used_total + s.superseded + s.late + s.unmatched + s.refused)
            for s in (first[modality], last[modality])
        ]
        assert all(0 <= waiting <= WAITING for waiting in left), (modality, left)
    assert last[CAMERA].superseded > first[CAMERA].superseded
    assert last[EVENT].superseded > first[EVENT].superseded
