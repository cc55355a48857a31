# SPDX-License-Identifier: Apache-2.0
"""Synchronizer: group the frames of all modalities into sets although some arrive late, twice, or not at all.

    push(frame) ──▶ one sorted buffer per modality ──▶ take() ──▶ FrameSet
                                       │
                                       └──▶ superseded, late, unmatched, refused

One modality is *primary*. Each of its waiting frames is an open set. The nearest frames of the other modalities are its
partners, chosen when the set is taken. A set is *ready* as soon as no frame still to arrive could be a nearer partner,
and at the latest when its `max_wait` expires.

The history of each stream decides whether a frame is still expected. A modality that has been silent for longer than
the time-out is not waited for, else every set would take the whole `max_wait`. Neither is a modality with a next frame
that, by its usual period and delay, would lie outside the tolerance, belong to the next set, or arrive too late. A dead
sensor therefore adds no latency, and a slow sensor adds none to the sets between its frames. A stream counts as silent
if it repeats its stamp, or if its frames are so late that catching up would take longer than the time-out.

A silent primary fails over to the next living modality of `primary_order`, and back with its first new frame. The
waiting frames of the new primary become open sets at once, so that the change loses none.

`now` and the stamps are nanoseconds of the same clock. Not thread-safe: the caller holds one lock around all calls.
"""

from mlesam_ros.sync.clocks import CLOCK_SAMPLES, Clocks, ForeignClock, ReplayClock, foreign_clock, judge_clocks
from mlesam_ros.sync.sync_config import SyncConfig
from mlesam_ros.sync.synchronizer import (
    COUNTERS,
    LATE,
    OUTCOMES,
    PENDING,
    REFUSED,
    SUPERSEDED,
    UNMATCHED,
    USED,
    Account,
    BoundedCounter,
    Synchronizer,
    ready_sets,
)

__all__ = [
    "CLOCK_SAMPLES",
    "COUNTERS",
    "LATE",
    "OUTCOMES",
    "PENDING",
    "REFUSED",
    "SUPERSEDED",
    "UNMATCHED",
    "USED",
    "Account",
    "BoundedCounter",
    "Clocks",
    "ForeignClock",
    "ReplayClock",
    "SyncConfig",
    "Synchronizer",
    "foreign_clock",
    "judge_clocks",
    "ready_sets",
]
