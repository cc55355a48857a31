# SPDX-License-Identifier: Apache-2.0
"""Timing: operations take turns, and rows are what was measured."""

import time

import numpy as np
import pytest

from mlesam_ros.bench.measurement import device, interleaved, measure, summary, versions


def test_operations_take_turns_and_neither_is_always_first():
    calls = []
    timings = interleaved([lambda: calls.append("a"), lambda: calls.append("b")], repeats=6)
    assert calls[:4] == ["a", "b", "a", "b"]
    rounds = ["".join(calls[i : i + 2]) for i in range(4, len(calls), 2)]
    assert rounds == ["ab", "ba"] * 3
    assert [t.repeats for t in timings] == [6, 6]


def test_summary_has_median_tail_and_half_of_the_quartile_distance():
    timing = summary(np.arange(1.0, 102.0))
    assert (timing.median, timing.p99, timing.repeats) == (51, 100, 101)
    assert timing.spread == pytest.approx(25 / 51)


def test_ratio_is_the_speedup_over_the_alternative(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("mlesam_ros.bench.measurement.time.perf_counter", lambda: clock[0])

    def lasting(seconds):
        return lambda: clock.append(clock.pop() + seconds)

    ours, others = lasting(0.001), (("longer", lasting(0.02)), ("longest", lasting(0.03)))
    longer, longest = measure("short", ours, 5, *others, bound=1e-4, memory=lambda work: 10**6 * (1 + (work != ours)))
    assert (longer.ratio, longest.ratio) == (pytest.approx(20), pytest.approx(30))
    assert (longer.alternative, longer.alternative_median) == ("longer", pytest.approx(20))
    assert (longer.unit, longer.bound) == ("ms", pytest.approx(0.1))
    assert (longest.memory, longest.alternative_memory) == (1, 2)
    (alone,) = measure("alone", ours, 3, unit="us")
    assert alone.ratio is alone.memory is alone.alternative is None
    assert alone.median == pytest.approx(1000)


def test_rate_counts_items_per_second_and_its_p99_is_the_slow_end():
    (row,) = measure("sleep", lambda: time.sleep(0.002), 5, unit="Mevents/s", items=1e-3, bound=1e-3)
    assert row.unit == "Mevents/s"
    assert row.p99 <= row.median < 0.5
    assert row.bound == pytest.approx(1.0)
    assert row.cpu is None


def test_processor_time_excludes_sleeping():
    sleeps, works = interleaved([lambda: time.sleep(0.02), lambda: sum(range(100_000))], repeats=3)
    assert sleeps.cpu < sleeps.median / 2
    assert works.cpu > 0


def test_machine_is_described():
    assert "core" in device()
    assert versions()["numpy"] == np.__version__
