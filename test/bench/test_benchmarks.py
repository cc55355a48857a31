"""The bench room: turns are fair, figures are what they claim, and every benchmark compares equal work."""

import itertools
import json
import time
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from goals import SWITCHES, Target

from mlesam_ros.bench import BENCHES
from mlesam_ros.bench.machine import device, least_seconds, versions
from mlesam_ros.bench.model import Options, facts
from mlesam_ros.bench.readings import EVENTS, POINTS, make_events, make_readings
from mlesam_ros.bench.row import compare, rate
from mlesam_ros.bench.sensors import _add_at, _bincount
from mlesam_ros.bench.stock_policy import StockPolicy
from mlesam_ros.bench.sync import stream
from mlesam_ros.bench.timing import interleaved, summary
from mlesam_ros.model.inference import InferenceOptions
from mlesam_ros.preprocessing.events import count_events
from mlesam_ros.types import CAMERA, LIDAR

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / "benchmarks" / "results"
KEYS = {
    "name", "unit", "median", "p99", "spread", "repeats", "alternative", "alternative_median", "ratio", "bound", "cpu",
    "alternative_cpu", "memory", "alternative_memory",
}  # fmt: skip


def test_contenders_take_turns_and_neither_is_always_first():
    calls = []
    timings = interleaved([lambda: calls.append("a"), lambda: calls.append("b")], repeats=6)
    assert calls[:4] == ["a", "b", "a", "b"]
    rounds = ["".join(calls[i : i + 2]) for i in range(4, len(calls), 2)]
    assert rounds == ["ab", "ba"] * 3
    assert [t.repeats for t in timings] == [6, 6]


def test_a_summary_is_median_tail_and_half_the_quartiles():
    timing = summary(np.arange(1.0, 102.0))
    assert (timing.median, timing.p99, timing.repeats) == (51, 100, 101)
    assert timing.spread == pytest.approx(25 / 51)


def test_a_ratio_says_how_many_times_ours_is_as_fast(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("mlesam_ros.bench.timing.time.perf_counter", lambda: clock[0])

    def lasting(seconds):
        return lambda: clock.append(clock.pop() + seconds)

    row = compare("short", lasting(0.001), 5, ("longer", lasting(0.02)), bound=1e-4)
    assert row.ratio == pytest.approx(20)
    assert row.alternative_median == pytest.approx(20)
    assert (row.unit, row.bound) == ("ms", pytest.approx(0.1))
    assert compare("alone", lasting(0.001), 3).ratio is None


def test_a_rate_counts_per_second_and_its_tail_is_the_slow_end():
    row = rate("sleep", lambda: time.sleep(0.002), 1000, "events", 5, least=1e-3)
    assert row.unit == "Mevents/s"
    assert row.p99 <= row.median < 0.5
    assert row.bound == pytest.approx(1.0)


def test_moving_more_bytes_takes_longer():
    assert 0 < least_seconds(np.zeros(1 << 12)) < least_seconds(np.zeros(1 << 24))


def test_the_machine_is_described():
    assert "core" in device()
    assert versions()["numpy"] == np.__version__


def test_the_readings_are_as_large_as_announced_and_can_be_used():
    readings = make_readings()
    assert len(readings.xyz) == POINTS
    assert len(readings.frames["event"].payload.x) == EVENTS
    optical = readings.rig.extrinsic(LIDAR).apply(readings.xyz)
    seen = len(readings.rig.model(CAMERA).project_visible(optical)[0])
    assert POINTS / 10 < seen < POINTS / 2


def test_the_alternatives_do_the_same_work():
    events = make_events(np.random.default_rng(0), 480, 640)
    ours = count_events(events, (480, 640))
    for count in (_add_at, _bincount):
        np.testing.assert_array_equal(np.moveaxis(count(events), 0, 2)[..., ::-1], ours)


def test_the_stock_policy_emits_a_set_once():
    policy = StockPolicy(("a", "b"), slop=10)
    assert policy.push("a", 100) is None
    assert policy.push("b", 120) is None
    assert policy.push("b", 105) == {"a": 100, "b": 105}
    assert policy.push("b", 101) is None


def test_the_stream_is_in_order_of_arrival():
    arrivals = stream({CAMERA: 10, LIDAR: 10})
    assert len(arrivals) == 200
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(arrivals))
    assert all(now > frame.stamp for now, frame in arrivals)


@pytest.mark.parametrize("name", ["sensors", "sync"])
def test_every_benchmark_runs(name):
    rows = [row.to_dict() for row in import_module(BENCHES[name]).run(1)]
    assert rows and all(set(row) == KEYS for row in rows)
    assert all((row["median"] > 0 and row["cpu"] is None) or row["cpu"] > 0 for row in rows)
    assert any(row["memory"] for row in rows) or name == "sync"
    json.dumps(rows, allow_nan=False)


def test_processor_time_is_not_what_passes_while_others_work():
    sleeps, works = interleaved([lambda: time.sleep(0.02), lambda: sum(range(100_000))], repeats=3)
    assert sleeps.cpu < sleeps.median / 2
    assert works.cpu > 0


def test_memory_is_what_arrays_and_tensors_ask_for_at_once():
    def work():
        array = np.ones(1 << 20, np.uint8)
        with torch.inference_mode():
            tensor = torch.ones(1 << 20, dtype=torch.uint8)
            other = tensor + 1
        del array
        return other

    row = compare("work", work, 3, ("less", lambda: np.ones(1 << 16)))
    assert row.memory == pytest.approx(3 * 1.048576, rel=0.05)
    assert row.alternative_memory == pytest.approx(0.524288, rel=0.05)


def test_a_goal_is_reached_not_reached_or_not_measured():
    row = dict.fromkeys(KEYS) | {"name": "work on much", "median": 4.0, "ratio": 3.0, "alternative": "other"}
    result = {"rows": [row], "config": {"device": "cpu", "backbone": "any", "size": 64}}
    goal = Target("work", "≥ 2 times", "x", "work", "other", least=2)
    assert goal.verdict(result) == ("**reached**", "3 times")
    assert replace(goal, least=5).verdict(result) == ("**not reached**", "3 times")
    assert replace(goal, gpu=True).verdict(result) == ("not measured", "any at 64 pixels on a CPU: 3 times")
    result["config"]["device"] = "cuda"
    assert replace(goal, gpu=True).verdict(result) == ("**reached**", "3 times")
    row |= {"cpu": 2.0, "alternative_cpu": 3.0}
    assert goal.verdict(result) == ("**not reached**", "1.5 times")
    assert replace(goal, result="").verdict(None) == ("", "")


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)
def test_every_fast_path_names_its_parity_test(switch):
    path, name = switch.test.split("::")
    assert f"def {name}(" in (CHECKOUT / path).read_text(encoding="utf-8")
    assert switch.tolerance and (switch.rows or switch.unmeasured)


def test_every_fast_path_is_on_the_page():
    named = " ".join(switch.name for switch in SWITCHES)
    assert all(f"InferenceOptions.{field.name}`" in named for field in fields(InferenceOptions))


@pytest.mark.parametrize("name", sorted({*BENCHES, *(path.stem for path in RESULTS.glob("*.json"))}))
def test_results_are_committed_with_every_row(name):
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert all(set(row) == KEYS for row in result["rows"])
    assert {"device", "versions", "date", "load", "command", "config"} <= set(result)


def test_the_networks_benchmarks_run_on_small_pictures():
    options = Options(size=64, threads=1)
    for name in ("model", "paths"):
        rows = [row.to_dict() for row in import_module(BENCHES[name]).run(1, options)]
        json.dumps(rows, allow_nan=False)
        assert all(row["median"] > 0 for row in rows)
        assert [row for row in rows if row["alternative"]] and rows[0]["memory"] > 0.1
    assert facts(options)["ceilings"]["gflops"] > 0
