"""A sensor's free-running clock on the host's clock, from stamps that always come late, and never equally late.

A packet's stamp is when its events reached the host: stamp = true time + delay, the delay being anything above some
least one. So stamp - sensor time, smallest over the packets, tells the offset between the clocks best; and because
clocks drift, an old smallest one is worth less every second. That is the passive synchronization of E. Olson, "A
Passive Solution to the Sensor Synchronization Problem", IROS 2010, with a known bound on the drift:

    offset = min(offset before + DRIFT · time since, stamp - sensor time)

With delays between 0 and J and clocks that part by at most DRIFT, a host time is at most J late, and early by no more
than DRIFT · J, which is microseconds. It is late by what the best of the recent packets was late, plus 2 · DRIFT · that
packet's age; the jitter of the others does not show. What no stamp can tell is the least delay itself: the place for it
is the synchronizer's offset of the modality.
"""

from __future__ import annotations

DRIFT = 200e-6
"""Seconds per second by which the two clocks may part: two crystals of 100 ppm each."""
LATE = 10_000_000
"""Nanoseconds. What comes later than this against the others shows a clock that was set, not a delay."""


class SensorClock:
    """Follows the offset between one sensor's clock and the host's.

    Attributes:
        jumps: how often one of the clocks was set; also counts up while a recording is played at another speed.
    """

    def __init__(self, wrap: int = 0) -> None:
        """Know nothing yet.

        Args:
            wrap: nanoseconds after which the sensor's clock may have started again unseen; 0 for never.
        """
        self.jumps = 0
        self._wrap = wrap
        self.reset()

    def reset(self) -> None:
        """Forget the offset, as after the sensor was started anew."""
        self._offset: int | None = None
        self._stamp = 0

    def offset(self, stamp: int, sensor: int) -> int:
        """What to add to the sensor times of the packet at hand.

        Args:
            stamp: when one of its events reached the host, nanoseconds on the host's clock.
            sensor: the same event's time, nanoseconds on the sensor's clock.

        Returns:
            Nanoseconds; never more than stamp - sensor.
        """
        seen = stamp - sensor
        if self._offset is not None:
            expected = self._offset + round(DRIFT * max(stamp - self._stamp, 0))
            if self._wrap:
                expected += round((seen - expected) / self._wrap) * self._wrap
            delay = seen - expected
            self.jumps += abs(delay) > LATE
            if 0 < delay <= LATE:
                seen = expected
        self._offset, self._stamp = seen, stamp
        return seen
