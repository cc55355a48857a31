# SPDX-License-Identifier: Apache-2.0
"""Observer of the node while its sensors fail; records the outcome of each case."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from offline import Offline
from outcome import WENT_ON, Faults, Outcome, tolerated

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.messages import stamp_ns
from mlesam_ros.ros.subscribers import RawSubscriber
from mlesam_ros.types import MODALITIES

HERE = Path(__file__).parent
_TYPES = {
    "/mlesam/status": "mlesam_ros/msg/Status",
    "/mlesam/labels": "sensor_msgs/msg/Image",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}
_COMPARED = 6  # masks per case that are made again offline
_TURN = 0.02  # s of listening between looks
_HEALTH = 300.0  # s that a machine may be too busy for
_SETTLED = 500_000_000  # ns, more than primary_timeout and max_wait, after which what is made is made without it


class RobotProcess:
    """`faulty.py` at the other end of a pipe; `log` is what it writes."""

    def __init__(self, log: Path) -> None:
        self.log = log
        log.touch()
        command = [sys.executable, str(HERE / "faulty.py"), str(log)]
        paths = [HERE.parents[1], HERE.parent, HERE.parent / "ros", *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self._answer()

    def order(self, faults: Mapping[str, str | None]) -> int:
        """Let sensors fail, or be well; nanoseconds at which the last of them did."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dict(faults)) + "\n")
        self._process.stdin.flush()
        return self._answer()

    @property
    def pid(self) -> int:
        """Process whose children are the drivers."""
        return self._process.pid

    def close(self) -> None:
        """End it and its drivers."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


class Watch:
    """Listens to a node, lets a robot's sensors fail, and compares.

    Args:
        robot: whose sensors fail.
        offline: who knows what the masks must be.
    """

    def __init__(self, robot: RobotProcess, offline: Offline) -> None:
        self._robot, self._offline = robot, offline
        self._types = typestore()
        self._observer = RawSubscriber(self._hear)
        for topic, kind in _TYPES.items():
            self._observer.subscribe(topic, kind, depth=100)
        self.forget()

    def close(self) -> None:
        """Leave the graph."""
        self._observer.__exit__()

    def forget(self) -> None:
        """Begin a new case."""
        self.paused = 0.0
        self.masks: list[tuple[int, Any]] = []
        self.statuses: list[tuple[int, Any]] = []
        self.reports: list[tuple[int, dict[str, tuple[int, str]]]] = []

    def case(self, faults: Faults, least: float = 1.5, most: float = 4.0, max_wait: float = 8.0) -> Outcome:
        """One fault, or several at once, from health to health.

        Args:
            faults: sensor → fault.
            least, most: seconds that they last: until they are named.
            max_wait: seconds to wait for health.
        """
        assert self.until(self.well, _HEALTH), f"no health before {faults}: {self.reports[-1:]}"
        outcome = Outcome(faults)
        self.forget()
        begun = self._robot.order(faults)
        self.until(lambda: False, least)
        self.until(lambda: self._named(outcome, begun) and self._went_on(outcome, begun), most - least)
        mended = self._robot.order(dict.fromkeys(faults))
        begun_well = time.monotonic()
        self.until(lambda: self._recovered(outcome, mended), max_wait)
        self.until(lambda: False, 0.4 - (time.monotonic() - begun_well))
        outcome.paused = self.paused
        self._named(outcome, begun)
        self._gap(outcome, begun)
        self._compare(outcome)
        return outcome

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Listen until it holds; whether it does."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            begin = time.monotonic()
            self._observer.spin_for(_TURN)
            self.paused = max(self.paused, time.monotonic() - begin - _TURN)
        return True

    def well(self) -> bool:
        """Whether all sensors are used and nothing is wrong."""
        if len(self.reports) < 2 or len(self.statuses) < 3:
            return False
        full = all(s.used for _, status in self.statuses[-3:] for s in status.sensors)
        return full and _all_well(self.reports[-1][1])

    def _hear(self, topic: str, arrival: int, raw: bytes) -> None:
        message = self._types.deserialize_cdr(raw, _TYPES[topic])
        if topic == "/mlesam/labels":
            self.masks.append((arrival, message))
        elif topic == "/mlesam/status":
            self.statuses.append((arrival, message))
        else:
            parts = {s.name.split(": ")[1]: (s.level, s.message) for s in message.status if "mlesam" in s.name}
            self.reports.append((arrival, parts))

    def _named(self, outcome: Outcome, begun: int) -> bool:
        """Whether status and diagnostics have reported every fault; record when."""
        sensors = set(outcome.faults) - tolerated(outcome.faults)
        outcome.status = max((self._in_status(sensor, begun, outcome.faults) for sensor in sensors), default=0.0)
        found = {sensor: self._in_diagnostics(sensor, begun) for sensor in outcome.faults}
        outcome.diagnostics = max((found[sensor][0] for sensor in sensors), default=0.0)
        outcome.words = {sensor: words for sensor, (_, words) in found.items()}
        return max(outcome.status, outcome.diagnostics) < float("inf")

    def _went_on(self, outcome: Outcome, begun: int) -> bool:
        """Whether masks are made during the fault; record how many."""
        outcome.during = sum(arrival > begun + _SETTLED for arrival, _ in self.masks)
        return outcome.during >= WENT_ON

    def _in_status(self, sensor: str, begun: int, faults: Faults) -> float:
        before: int | None = None
        for arrival, status in self.statuses:
            (entry,) = (s for s in status.sensors if s.modality == sensor)
            missed = entry.late + entry.unmatched + entry.refused
            before = missed if before is None else before
            stale = entry.used and entry.age > 0.25 + _age_of_the_others(status, faults)
            if arrival > begun and (not entry.used or missed > before or stale):
                return (arrival - begun) / 1e9
        return float("inf")

    def _in_diagnostics(self, sensor: str, begun: int) -> tuple[float, str]:
        for arrival, parts in self.reports:
            level, words = parts.get(sensor, (0, ""))
            if arrival > begun and level:
                return (arrival - begun) / 1e9, words
        return float("inf"), ""

    def _recovered(self, outcome: Outcome, mended: int) -> bool:
        """Whether all sensors have recovered; record since when."""
        for arrival, status in self.statuses:
            fresh = stamp_ns(status.header) >= mended and all(s.used for s in status.sensors)
            if fresh and outcome.recovered == float("inf"):
                outcome.recovered = (arrival - mended) / 1e9
        for arrival, parts in self.reports:
            if arrival > mended and _all_well(parts) and outcome.silent == float("inf"):
                outcome.silent = (arrival - mended) / 1e9
        return max(outcome.recovered, outcome.silent) < float("inf")

    def _gap(self, outcome: Outcome, begun: int) -> None:
        times = [begun, *(arrival for arrival, _ in self.masks if arrival > begun)]
        outcome.masks = len(times) - 1
        if outcome.masks:
            outcome.gap = max(b - a for a, b in itertools.pairwise(times)) / 1e9

    def _compare(self, outcome: Outcome) -> None:
        masks = {stamp_ns(m.header): m for _, m in self.masks}
        pairs = [(s, masks[stamp_ns(s.header)]) for _, s in self.statuses if stamp_ns(s.header) in masks]
        for index in sorted({round(i) for i in np.linspace(0, len(pairs) - 1, _COMPARED)} if pairs else ()):
            status, mask = pairs[index]
            same = self._offline.explains(status, mask.data.reshape(mask.height, mask.width))
            outcome.compared += same is not None
            outcome.equal += same is True


def _age_of_the_others(status: Any, faults: Faults) -> float:
    return min((s.age for s in status.sensors if s.used and s.modality not in faults), default=0.0)


def _all_well(parts: dict[str, tuple[int, str]]) -> bool:
    return set(parts) >= {*MODALITIES, "pipeline"} and not any(level for level, _ in parts.values())
