"""Benchmark of the synchronizer per message, against the stock policy on the same stream."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mlesam_ros.bench.row import BenchmarkResult, row
from mlesam_ros.bench.stock_policy import StockPolicy
from mlesam_ros.bench.timing import summary
from mlesam_ros.sync import Synchronizer
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, NANOSECONDS, Modality, SensorFrame

Arrival = tuple[int, SensorFrame]

_START = 1_700_000_000 * NANOSECONDS
_DELAYS = {CAMERA: 0.020, LIDAR: 0.045, DEPTH: 0.015, EVENT: 0.004}
_RATES = (
    ("10 Hz, events 100 Hz", {CAMERA: 10, LIDAR: 10, DEPTH: 10, EVENT: 100}),
    ("30 Hz, LiDAR 10 Hz, events 1 kHz", {CAMERA: 30, LIDAR: 10, DEPTH: 30, EVENT: 1000}),
)
_SECONDS = 10
_SLOP = 60_000_000


def run(repeats: int) -> list[BenchmarkResult]:
    """Measure four modalities at two sets of rates; every message is timed individually."""
    return [_compare(f"message of 4 modalities, {name}", rates, repeats) for name, rates in _RATES]


def stream(rates: dict[Modality, int], seed: int = 0) -> list[Arrival]:
    """Generate (arrival in nanoseconds, frame) pairs ordered by arrival, with jitter in stamps and delays."""
    rng = np.random.default_rng(seed)
    arrivals = []
    for modality, rate in rates.items():
        for i in range(_SECONDS * rate):
            stamp = _START + round((i / rate + rng.uniform(-0.003, 0.003)) * NANOSECONDS)
            delay = max(rng.normal(_DELAYS[modality], 0.003), 0.0001)
            frame = SensorFrame(modality, stamp, modality, None)  # type: ignore[arg-type]  # payload unused
            arrivals.append((stamp + round(delay * NANOSECONDS), frame))
    return sorted(arrivals, key=lambda arrival: arrival[0])


def _compare(name: str, rates: dict[Modality, int], repeats: int) -> BenchmarkResult:
    arrivals = stream(rates)
    ours: list[float] = []
    stock: list[float] = []
    for _ in range(max(repeats // 10, 1)):
        ours += _timed(arrivals, _ours())
        stock += _timed(arrivals, _stock())
    return row(name, "us", 1e6, summary(ours), ("stock greedy policy", summary(stock)))


def _ours() -> Callable[[int, SensorFrame], object]:
    sync = Synchronizer()

    def push(now: int, frame: SensorFrame) -> None:
        """Push the frame, take a ready set and query the next deadline, as the node does."""
        sync.push(frame, now)
        sync.take(now)
        sync.next_deadline()

    return push


def _stock() -> Callable[[int, SensorFrame], object]:
    policy = StockPolicy(MODALITIES, _SLOP)
    return lambda now, frame: policy.push(frame.modality, frame.stamp)


def _timed(arrivals: list[Arrival], push: Callable[[int, SensorFrame], object]) -> list[float]:
    seconds = []
    for now, frame in arrivals:
        start = time.perf_counter()
        push(now, frame)
        seconds.append(time.perf_counter() - start)
    return seconds
