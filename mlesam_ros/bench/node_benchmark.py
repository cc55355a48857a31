# SPDX-License-Identifier: Apache-2.0
"""Benchmark of the node: traffic, node and this listener are three processes on one machine, connected over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bench.measurement import BenchmarkResult, row, summary
from mlesam_ros.bench.traffic import PERIOD
from mlesam_ros.errors import MlesamError
from mlesam_ros.files import child_environment
from mlesam_ros.ros.subscribers import RawSubscriber
from mlesam_ros.types import IMAGE, NANOSECONDS

STATUS, LABELS = "/mlesam/status", "/mlesam/labels"
_SECONDS_PER_REPEAT = 0.3
_MAX_WAIT, _SETTLE = 90.0, 2.0  # s
_CLOCK_TICK, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


@dataclass
class Run:
    """Measurements of one listening interval of `seconds`.

    Attributes:
        stages: stage → seconds per mask, in order; `stamp_to_mask` is the end-to-end latency.
        stamps: stamp of every mask in nanoseconds.
        complete: number of masks computed from all four sensors.
        cpu, faults, memory: CPU seconds and minor page faults of the node, and its resident bytes at the end.
        ready: seconds from the start of the node's process to the first mask of all four sensors.
    """

    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    stamps: list[int] = field(default_factory=list)
    complete: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    faults: int = 0
    memory: int = 0
    ready: float = 0.0


def run(repeats: int) -> list[BenchmarkResult]:
    """Measure the shipped network with the traffic of a simulated street."""
    street = drive(("mlesam_ros.bench.traffic", "street"), _SECONDS_PER_REPEAT * repeats)
    return live_rows("512x512, street robot", street)


def live_rows(name: str, run: Run) -> list[BenchmarkResult]:
    """Return the rows of a run."""
    masks, seconds = len(run.stamps), (run.stamps[-1] - run.stamps[0]) / NANOSECONDS
    gaps, offered = summary(np.diff(run.stamps) / NANOSECONDS), NANOSECONDS / PERIOD
    whole, model = run.stages["stamp_to_mask"], run.stages["model"]
    durations = {
        "stamp to publish": whole,
        "everything but the model": [a - b for a, b in zip(whole, model, strict=True)],
        **{stage: run.stages[stage] for stage in ("receive", "synchronize", "encode", "model", "decode", "publish")},
    }
    figures = {
        "CPU of the node": ("cores", run.cpu / run.seconds),
        "sets without a mask": ("%", 100 * (1 - masks / (round(seconds * offered) + 1))),
        "masks without one of the sensors": ("%", 100 * (1 - run.complete / masks)),
        "CPU per mask": ("ms", 1e3 * run.cpu / masks),
        "page faults per mask": ("faults", run.faults / masks),
        "memory of the node": ("MiB", run.memory / 2**20),
        "from the process's start to the first mask of all sensors": ("s", run.ready),
    }
    rate, title = (masks - 1) / seconds, f"{name}: masks at {offered:.1f} Hz"
    return [
        BenchmarkResult(title, "Hz", rate, 1 / gaps.p99, gaps.spread, masks, bound=offered),
        *(row(f"{name}: {words}", "ms", summary(times)) for words, times in durations.items()),
        *(BenchmarkResult(f"{name}: {words}", unit, f, f, 0.0, 1) for words, (unit, f) in figures.items()),
    ]


def drive(traffic: Sequence[str], seconds: float, topics: Mapping[str, str] | None = None) -> Run:
    """Start the traffic and the node, and measure the node with labels and status subscribed.

    Args:
        traffic: module that publishes the sensors until it is stopped, and its arguments.
        seconds: duration of the measurement; at least one, extended until there are two masks.
        topics: topic → type of further subscriptions.

    Raises:
        MlesamError: the node published no masks in time.
    """
    run, begun, types = Run(), time.monotonic(), typestore()

    def hear(topic: str, arrival: int, raw: bytes) -> None:
        if topic != STATUS:
            return
        status: Any = types.deserialize_cdr(raw, "mlesam_ros/msg/Status")
        run.stamps.append(status.header.stamp.sec * NANOSECONDS + status.header.stamp.nanosec)
        run.complete += all(sensor.used for sensor in status.sensors)
        for latency in status.latencies:
            run.stages[latency.stage].append(latency.seconds)

    with ExitStack() as stack:
        node = stack.enter_context(child("mlesam_ros.cli", "node", "--ros-args", "--log-level", "fatal"))
        stack.enter_context(child(*traffic))
        observer = stack.enter_context(RawSubscriber(hear))
        for topic, type_name in {STATUS: "mlesam_ros/msg/Status", LABELS: IMAGE}.items():
            observer.subscribe(topic, type_name)
        wait_for(observer, lambda: run.complete > 0, "mask of all four sensors")
        ready = time.monotonic() - begun
        for topic, type_name in (topics or {}).items():
            observer.subscribe(topic, type_name)
        observer.spin_for(_SETTLE)
        run, start, (cpu, faults, _) = Run(ready=ready), time.monotonic(), process_usage(node.pid)
        observer.spin_for(max(seconds, 1.0))
        wait_for(observer, lambda: len(run.stamps) > 1, "second mask")
        run.seconds = time.monotonic() - start
        after = process_usage(node.pid)
    run.cpu, run.faults, run.memory = after[0] - cpu, after[1] - faults, after[2]
    return run


def wait_for(observer: RawSubscriber, done: Callable[[], bool], awaited: str) -> None:
    """Listen until something is done.

    Args:
        observer: the subscriptions.
        done: whether it is.
        awaited: name of it for the error.

    Raises:
        MlesamError: it was not done in time.
    """
    end = time.monotonic() + _MAX_WAIT
    while not done():
        if time.monotonic() > end:
            raise MlesamError(
                f"no {awaited} from the node in {_MAX_WAIT:.0f} s.", "Run mlesam demo, and see node.log in its folder."
            )
        observer.spin_for(0.1)


@contextmanager
def child(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module of this copy of the package in a child process that ends with the block."""
    environment = child_environment()
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


def process_usage(pid: int) -> tuple[float, int, int]:
    """CPU seconds, minor page faults and resident bytes of a process; see proc(5)."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return (int(stat[11]) + int(stat[12])) / _CLOCK_TICK, int(stat[7]), pages * _PAGE
