"""The synchronizer: which readings belong to one moment, when some come late, twice, or not at all.

    push(frame) ──▶ one sorted buffer per modality ──▶ take() ──▶ FrameSet
                                       │
                                       └──▶ superseded, late, unmatched, refused

The state is the buffers and nothing else. One modality is *primary*: each of its waiting frames is an open set, and the
others' frames nearest to it are its partners, chosen when the set is taken. A set is *ready* as soon as no frame still
to come could be a nearer partner, and at the latest when its max_wait runs out.

Whether something is still to come is judged from each stream itself: a modality that has been silent longer than the
time-out is not waited for (or every set would cost the whole max_wait), nor is one whose next frame, going by its usual
period and delay, would be too far off, belong to the next set, or come too late. So a dead sensor costs nothing, and a
slow one costs nothing in the sets between its frames. What says nothing new counts as silent: a stamp that stands
still, frames so late that waiting for them to catch up would take longer than the time-out.

When it falls silent the primary fails over to the next living modality of `primary_order`, and back with its first new
frame. The waiting frames of the new primary are open sets from that instant: nothing is lost in the change.

`now` and the stamps are nanoseconds of the same clock. Not safe for threads: the caller holds one lock around it all.
"""

from mlesam_ros.sync.account import COUNTERS, Account, BoundedCounter
from mlesam_ros.sync.clocks import GLANCE, Clocks, ForeignClock, ReplayClock, foreign_clock, judge_clocks
from mlesam_ros.sync.sync_config import SyncConfig
from mlesam_ros.sync.synchronizer import (
    LATE,
    OUTCOMES,
    PENDING,
    REFUSED,
    SUPERSEDED,
    UNMATCHED,
    USED,
    Synchronizer,
    ready_sets,
)

__all__ = [
    "COUNTERS",
    "GLANCE",
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
