# SPDX-License-Identifier: Apache-2.0
"""Robot whose sensors fail on command, one process per sensor: `python faulty.py LOG`.

Every line on standard input is a JSON object, sensor → name of a fault or null, and is answered with the nanoseconds at
which the last of them took effect. LOG gets a line for every message that was sent.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from readings import FRAMES, OFFSETS, PERIOD, Sent
from robot import LATCHED, OPTICAL, TOPICS, TYPES, camera_info, header_message
from sensor_msgs.msg import CameraInfo
from stale_shm import sweep
from tf2_msgs.msg import TFMessage

from mlesam_ros.types import CAMERA, EVENT, MODALITIES

HOURS = 3 * 3600 * 10**9
_LEAVING = 10.0  # s that a driver has to leave the graph in order
KILLED, ENDED, WRONG_QOS = "killed", "ended", "wrong QoS"
Plan = Callable[[int, int, int], list[tuple[float, int]]]
"""(steps since the order, the stamp, the last healthy stamp) → (seconds of delay, stamp) of every message."""


def _jitter(step: int) -> float:
    return random.Random(step).uniform(0.0, 0.4)


PLANS: dict[str | None, Plan] = {
    None: lambda n, stamp, last: [(0.0, stamp)],
    "stopped": lambda n, stamp, last: [],
    "frozen stamp": lambda n, stamp, last: [(0.0, last)],
    "delayed 0.3 s": lambda n, stamp, last: [(0.3, stamp)],
    "delayed 0.8 s": lambda n, stamp, last: [(0.8, stamp)],
    "delayed 1.5 s": lambda n, stamp, last: [(1.5, stamp)],
    "jittered 0 to 0.4 s": lambda n, stamp, last: [(_jitter(n), stamp)],
    "duplicated": lambda n, stamp, last: [(0.0, stamp), (0.03, stamp)],
    "bursts of 1 s": lambda n, stamp, last: [((9 - n % 10) / 10, stamp)],
    "clock 3 h ahead": lambda n, stamp, last: [(0.0, stamp + HOURS)],
    "clock 3 h behind": lambda n, stamp, last: [(0.0, stamp - HOURS)],
    "clock back by 2 s": lambda n, stamp, last: [(0.0, stamp - 2_030_000_000)],
    WRONG_QOS: lambda n, stamp, last: [(0.0, stamp)],
}
"""Fault → what is sent; None is health. The node asks for reliable publishers, so the wrong QoS is best effort."""
FAULTS = (*filter(None, PLANS), ENDED, KILLED)
"""What can be ordered; a driver that was ended or killed is started anew when it is to be well."""
RELIABLE = {f"qos_overrides./{topic}.subscription.reliability": "reliable" for topic in TOPICS.values()}
"""Parameters of the node that make best effort the wrong QoS."""


class Driver:
    """Driver of one sensor; takes orders from its pipe."""

    def __init__(self, modality: str, log: Path) -> None:
        self._modality = modality
        self._log = log.open("a", buffering=1, encoding="utf-8")
        context = rclpy.Context()
        rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node(f"{modality}_driver", context=context)
        self._publisher: Any = None
        self._offer(ReliabilityPolicy.RELIABLE)
        self._place()
        topic = {CAMERA: "camera/camera_info", EVENT: "events/camera_info"}.get(modality)
        self._info = self._node.create_publisher(CameraInfo, topic, 10) if topic else None
        self._fault: str | None = None
        self._last = self._number = self._latest = self._ordered = 0
        self._waiting: deque[tuple[int, Sent]] = deque()

    def run(self, orders: Connection, wanted: Callable[[], bool]) -> None:
        """Publish until the end; each order is a fault and is acknowledged when it is in effect."""
        step = time.time_ns() // PERIOD + 1
        while wanted():
            due = step * PERIOD + OFFSETS[self._modality]
            if self._waiting:
                due = min(due, self._waiting[0][0])
            if orders.poll(max(due - time.time_ns(), 0) / 1e9):
                self._obey(orders.recv())
                orders.send(time.time_ns())
                continue
            if step * PERIOD + OFFSETS[self._modality] <= time.time_ns():
                self._sense(step)
                step = max(step + 1, time.time_ns() // PERIOD)
            while self._waiting and self._waiting[0][0] <= time.time_ns():
                self._send(self._waiting.popleft()[1])

    def close(self) -> None:
        """Leave the graph in order."""
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._node.context)

    def _obey(self, fault: str | None) -> None:
        if WRONG_QOS in (fault, self._fault):
            reliable = fault != WRONG_QOS
            self._offer(ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)
        self._fault, self._latest, self._ordered = fault, 0, time.time_ns() // PERIOD
        self._waiting.clear()

    def _offer(self, reliability: ReliabilityPolicy) -> None:
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
        qos = QoSProfile(depth=20, reliability=reliability)
        self._publisher = self._node.create_publisher(TYPES[self._modality], TOPICS[self._modality], qos)

    def _place(self) -> None:
        """Publish the latched extrinsic of the sensor."""
        self._static = self._node.create_publisher(TFMessage, "/tf_static", LATCHED)
        stamped = TransformStamped(header=header_message(0, "base_link"), child_frame_id=FRAMES[self._modality])
        if "optical" in stamped.child_frame_id:
            turn = stamped.transform.rotation
            turn.x, turn.y, turn.z, turn.w = OPTICAL
        self._static.publish(TFMessage(transforms=[stamped]))

    def _sense(self, step: int) -> None:
        stamp = step * PERIOD + OFFSETS[self._modality]
        if self._info is not None:
            self._info.publish(camera_info(header_message(stamp, FRAMES[self._modality])))
        if self._fault in (None, WRONG_QOS):
            self._last = stamp
        self._number += 1
        for delay, told in PLANS[self._fault](step - self._ordered, stamp, self._last):
            # One after the other, as a connection that stutters has them.
            self._latest = max(stamp + round(delay * 1e9), self._latest)
            self._waiting.append((self._latest, Sent(self._modality, told, step, self._number, stamp)))

    def _send(self, sent: Sent) -> None:
        self._log.write(json.dumps(vars(sent)) + "\n")
        self._publisher.publish(sent.message())


class Robot:
    """The drivers, as children of a process that has loaded everything and joined nothing."""

    def __init__(self, log: Path) -> None:
        self._fork = multiprocessing.get_context("fork")
        self._log = log
        self._drivers: dict[str, tuple[Any, Connection]] = {}
        for modality in MODALITIES:
            self._start(modality)

    def order(self, modality: str, fault: str | None) -> int:
        """Set or clear the fault of a sensor; return the nanoseconds at which it took effect."""
        if fault in (KILLED, ENDED):
            return self._end(modality, fault)
        if modality not in self._drivers:
            self._start(modality)
        pipe = self._drivers[modality][1]
        pipe.send(fault)
        return int(pipe.recv())

    def close(self) -> None:
        """End all."""
        for modality in list(self._drivers):
            self._end(modality, KILLED)

    def _start(self, modality: str) -> None:
        ours, theirs = self._fork.Pipe()
        process = self._fork.Process(target=_drive, args=(modality, self._log, theirs, os.getpid()), daemon=True)
        process.start()
        theirs.close()  # or the death of a driver would not be the end of its pipe, and its answer awaited for ever
        self._drivers[modality] = process, ours

    def _end(self, modality: str, how: str) -> int:
        process, pipe = self._drivers.pop(modality)
        at = time.time_ns()
        process.kill() if how == KILLED else process.terminate()
        process.join(_LEAVING)
        process.kill()
        process.join()
        sweep()
        pipe.close()
        return at


def _drive(modality: str, log: Path, orders: Connection, parent: int) -> None:
    """Run until SIGTERM or the end of the robot, so that no driver is left over for the next test."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    driver = Driver(modality, log)
    with suppress(EOFError):
        driver.run(orders, lambda: not ended and os.getppid() == parent)
    driver.close()


def main() -> None:
    robot = Robot(Path(sys.argv[1]))
    print(0, flush=True)
    for line in sys.stdin:
        print(max([robot.order(m, fault) for m, fault in json.loads(line).items()], default=time.time_ns()), flush=True)
    robot.close()


if __name__ == "__main__":
    main()
