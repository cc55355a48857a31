# SPDX-License-Identifier: Apache-2.0
"""Policy of the Python `ApproximateTimeSynchronizer` of message_filters, for comparison.

Each topic keeps its newest `queue` messages by stamp, the smallest stamp leaving first. On each arrival, the stamps of
the other topics that lie strictly within `slop` of the new one are tried in nearest-first order, and the first
combination whose spread is below `slop` is emitted and removed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable


class StockPolicy:
    """Approximate time synchronization of stamps without messages.

    Args:
        topics: topics of a set; every set has a stamp of each.
        slop: exclusive upper bound of the spread of a set's stamps, in nanoseconds.
        queue: maximum number of stamps kept per topic.
    """

    def __init__(self, topics: Iterable[str], slop: int, queue: int = 10) -> None:
        self.queues: dict[str, set[int]] = {topic: set() for topic in topics}
        self.slop = slop
        self.size = queue

    def push(self, topic: str, stamp: int) -> dict[str, int] | None:
        """Add a stamp; return topic → stamp of the set that it completes, otherwise None."""
        mine = self.queues[topic]
        mine.add(stamp)
        if len(mine) > self.size:
            mine.remove(min(mine))
        if stamp not in mine:
            return None
        others = [t for t in self.queues if t != topic]
        for chosen in itertools.product(*(self._near(t, stamp) for t in others)):
            if max(*chosen, stamp) - min(*chosen, stamp) < self.slop:
                stamps = {**dict(zip(others, chosen, strict=True)), topic: stamp}
                for t, s in stamps.items():
                    self.queues[t].remove(s)
                return stamps
        return None

    def _near(self, topic: str, stamp: int) -> list[int]:
        near = (s for s in self.queues[topic] if abs(s - stamp) < self.slop)
        return sorted(near, key=lambda s: abs(s - stamp))
