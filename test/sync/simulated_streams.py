# SPDX-License-Identifier: Apache-2.0
"""Sensors that send stamps and nothing else, and a consumer that takes what it is offered."""

import numpy as np

from mlesam_ros.sync import Synchronizer
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, SensorFrame

MS = 1_000_000
START = 1_700_000_000 * 1000 * MS
RATES = {CAMERA: 10, LIDAR: 10, DEPTH: 10, EVENT: 100}
DELAYS = {CAMERA: (20, 3), LIDAR: (45, 4), DEPTH: (15, 3), EVENT: (4, 1)}


def frame(modality, stamp, offset=0):
    return SensorFrame(modality, stamp, modality, None, offset)


def sensors(seconds=10, rates=RATES, delays=DELAYS, jitter=3, dead=None, seed=0):
    """(arrival, modality, stamp) in the order of arrival.

    Args:
        seconds: how long.
        rates: modality → Hz.
        delays: modality → mean and deviation of stamp to arrival, ms.
        jitter: deviation of the stamps from their grid, ms.
        dead: modality → (from, to) seconds in which it sends nothing.
        seed: of the noise.
    """
    rng, messages = np.random.default_rng(seed), []
    for modality, rate in rates.items():
        silent = (dead or {}).get(modality, (0, 0))
        for i in range(int(seconds * rate)):
            stamp = START + int(i * 1000 * MS / rate + rng.uniform(-jitter, jitter) * MS)
            arrival = stamp + int(max(0.1, rng.normal(*delays[modality])) * MS)
            if not silent[0] <= i / rate < silent[1]:
                messages.append((arrival, modality, stamp))
    return sorted(messages)


def play(messages, config=None, sync=None, flush=True):
    """Push every message, take at each push and at each deadline, as the node does.

    Returns:
        The synchronizer, and the sets as (when it was handed out, set).
    """
    sync, sets = sync or Synchronizer(config), []

    def take(now):
        taken = sync.take(now)
        if taken:
            sets.append((now, taken))

    def sleep(until):
        while (deadline := sync.next_deadline()) is not None and deadline < until:
            if until - deadline > 60_000 * MS:  # the clock has jumped forward; nobody slept through it
                break
            take(deadline)
            assert sync.next_deadline() != deadline, "it would be woken for ever"

    for arrival, modality, stamp in messages:
        sleep(arrival)
        sync.push(frame(modality, stamp), arrival)
        take(arrival)
    sleep(messages[-1][0] + 100 * MS)  # what is complete by then; after a time-out the silence itself becomes news
    if flush:
        sync.flush()
    return sync, sets


def skews(sets):
    """Every partner's distance from the reference, ms."""
    return np.array([abs(s) / MS for _, t in sets for m, s in t.skews.items() if m != t.primary])
