# SPDX-License-Identifier: Apache-2.0
"""Outcome of a fault case, and the faults that need not be reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlesam_ros.sync import SyncConfig

Faults = Mapping[str, str]
"""Sensor → name of its fault."""

INSTEAD = ("duplicated",)
LATE = ("delayed 0.3 s", "jittered 0 to 0.4 s")
"""Faults below `sensor_timeout`."""
WENT_ON = 3  # masks during a fault that show that they go on


def tolerated(faults: Faults) -> set[str]:
    """Sensors that need not be reported: a mask is as late as its primary, which is no fault below `sensor_timeout`,
    and other sensors with the same delay are in time for it.
    """
    primary = next((m for m in SyncConfig().order if faults.get(m) in (None, *INSTEAD, *LATE)), None)
    if primary is None or faults.get(primary) not in LATE:
        return set()
    return {sensor for sensor, fault in faults.items() if fault in LATE}


@dataclass
class Outcome:
    """Outcome of one case. Times in seconds; infinite for what did not happen.

    Attributes:
        faults: what failed.
        gap: longest time between two masks, from the fault's beginning to the recovery.
        during: masks that came while the fault lasted, but for its first half second.
        status: until `~/status` showed every fault: the sensor not used, its messages refused, late or unmatched, or of
            an age that those of the others do not have.
        diagnostics: until `/diagnostics` named every one.
        words: sensor → what it said.
        recovered: from the fault's end to a mask of all sensors that are newer.
        silent: from the fault's end until `/diagnostics` had nothing to say any more.
        paused: longest time for which the listener itself, which has next to nothing to do, got no processor.
        masks: how many there were.
        compared, equal: how many were made again offline, and how many of these were the same to the last pixel.
    """

    faults: Faults
    gap: float = float("inf")
    during: int = 0
    status: float = float("inf")
    diagnostics: float = float("inf")
    words: dict[str, str] = field(default_factory=dict)
    recovered: float = float("inf")
    silent: float = float("inf")
    paused: float = 0.0
    masks: int = 0
    compared: int = 0
    equal: int = 0

    @property
    def told(self) -> bool:
        """Whether a fault had to be reported."""
        return bool(set(self.faults) - tolerated(self.faults))

    def wrong(self, gap: float) -> list[str]:
        """Describe what is wrong; empty if nothing is.

        Args:
            gap: seconds without a mask that are too many.
        """
        checks = {
            f"only {self.during} masks while it lasted": self.during < WENT_ON,
            f"{self.gap:.2f} s without a mask": self.gap > gap,
            "not in ~/status": self.status == float("inf"),
            "not in /diagnostics": self.diagnostics == float("inf"),
            "no mask of all sensors afterwards": self.recovered == float("inf"),
            "/diagnostics does not fall silent": self.silent == float("inf"),
            "no mask could be compared": not self.compared,
            f"{self.compared - self.equal} of {self.compared} masks are not the offline ones": (
                self.equal < self.compared
            ),
        }
        return [words for words, holds in checks.items() if holds]
