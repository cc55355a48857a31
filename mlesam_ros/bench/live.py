"""Run the node live: robot, node and listener are three processes on one machine, connected over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bench.robot import PERIOD
from mlesam_ros.errors import MlesamError
from mlesam_ros.files import child_environment
from mlesam_ros.ros.subscribers import RawSubscriber
from mlesam_ros.types import NANOSECONDS

NODE = "/mlesam"
STATUS, LABELS = f"{NODE}/status", f"{NODE}/labels"
_IMAGE, _CLOUD = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"
OTHERS = {
    f"{NODE}/confidence": _IMAGE,
    f"{NODE}/overlay": _IMAGE,
    f"{NODE}/projected_lidar": _IMAGE,
    f"{NODE}/semantic_points": _CLOUD,
}
"""Topic → type of the outputs that the node publishes on demand, besides labels and status."""

_PATIENCE = 90.0  # s
_SETTLE = 2.0  # s
_TICK = os.sysconf("SC_CLK_TCK")


class LiveError(MlesamError):
    """The node published no masks to measure."""


@dataclass
class Run:
    """Measurements of one listening interval.

    Attributes:
        stages: stage → seconds per mask, in order; `stamp_to_mask` is the end-to-end latency.
        stamps: stamp of every mask in nanoseconds.
        complete: number of masks computed from all four sensors.
        seconds: duration of the interval.
        cores: mean number of cores used by the node, transport included.
        memory: resident bytes of the node at the end.
        faults: minor page faults of the node.
        ready: seconds from the start of the node's process to the first mask of all four sensors.
    """

    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    stamps: list[int] = field(default_factory=list)
    complete: int = 0
    seconds: float = 0.0
    cores: float = 0.0
    memory: int = 0
    faults: int = 0
    ready: float = 0.0

    @property
    def offered(self) -> int:
        """Number of frame periods from the first to the last mask, both included."""
        return round((self.stamps[-1] - self.stamps[0]) / PERIOD) + 1

    @property
    def rate(self) -> float:
        """Masks per second."""
        return (len(self.stamps) - 1) * NANOSECONDS / (self.stamps[-1] - self.stamps[0])

    def overhead(self) -> list[float]:
        """End-to-end latency of every mask without the network, in seconds."""
        return [whole - model for whole, model in zip(self.stages["stamp_to_mask"], self.stages["model"], strict=True)]


class Listener:
    """Collects the node's status messages.

    Attributes:
        run: measurements since the last `restart`.
    """

    def __init__(self) -> None:
        self.run = Run()
        self._types = typestore()

    def restart(self) -> Run:
        """Start a new run and return the previous one."""
        ended, self.run = self.run, Run()
        return ended

    def hear(self, topic: str, arrival: int, raw: bytes) -> None:
        """Process one message; only status messages are deserialized."""
        if topic != STATUS:
            return
        status: Any = self._types.deserialize_cdr(raw, "mlesam_ros/msg/Status")
        stamp = status.header.stamp
        self.run.stamps.append(stamp.sec * NANOSECONDS + stamp.nanosec)
        self.run.complete += all(sensor.used for sensor in status.sensors)
        for latency in status.latencies:
            self.run.stages[latency.stage].append(latency.seconds)


def drive(robot: str, seconds: float, parameters: Sequence[str] = ()) -> tuple[Run, Run]:
    """Start robot and node and measure the node twice.

    Args:
        robot: a key of `mlesam_ros.bench.robot.ROBOTS`.
        seconds: duration of each measurement; extended until there are two masks.
        parameters: parameters of the node, such as `threads:=1`.

    Returns:
        the run with labels and status subscribed, and the run with every topic subscribed.

    Raises:
        LiveError: the node published no masks in time.
    """
    given = [argument for parameter in parameters for argument in ("-p", parameter)]
    listener, begun = Listener(), time.monotonic()
    with ExitStack() as stack:
        node = stack.enter_context(child("mlesam_ros.cli", "node", "--ros-args", "--log-level", "fatal", *given))
        stack.enter_context(child("mlesam_ros.bench.robot", robot))
        observer = stack.enter_context(RawSubscriber(listener.hear))
        observer.subscribe(STATUS, "mlesam_ros/msg/Status")
        observer.subscribe(LABELS, _IMAGE)
        _until(observer, lambda: listener.run.complete > 0, "a mask of all four sensors")
        ready = time.monotonic() - begun
        alone = replace(_measure(observer, listener, node, seconds), ready=ready)
        for topic, type_name in OTHERS.items():
            observer.subscribe(topic, type_name)
        return alone, _measure(observer, listener, node, seconds)


def _measure(observer: RawSubscriber, listener: Listener, node: subprocess.Popen[bytes], seconds: float) -> Run:
    observer.spin_for(_SETTLE)
    listener.restart()
    begun, worked, faults = time.monotonic(), _cpu_seconds(node.pid), _faults(node.pid)
    observer.spin_for(seconds)
    _until(observer, lambda: len(listener.run.stamps) > 1, "two masks")
    run = listener.restart()
    run.seconds = time.monotonic() - begun
    run.cores = (_cpu_seconds(node.pid) - worked) / run.seconds
    run.memory, run.faults = _resident(node.pid), _faults(node.pid) - faults
    return run


def _until(observer: RawSubscriber, enough: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not enough():
        if time.monotonic() > end:
            raise LiveError(f"the node did not make {what} in {_PATIENCE:.0f} s; see what it says with mlesam demo.")
        observer.spin_for(0.1)


@contextmanager
def child(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module of this copy of the package in a child process that is stopped at the end of the block."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**child_environment(), "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cpu_seconds(pid: int) -> float:
    """User plus system CPU time of a process in seconds."""
    return (_stat(pid, 14) + _stat(pid, 15)) / _TICK


def _faults(pid: int) -> int:
    return _stat(pid, 10)


def _stat(pid: int, field: int) -> int:
    """Return a field of /proc/pid/stat, numbered as in proc(5)."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(after_name[field - 3])


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
