# SPDX-License-Identifier: Apache-2.0
"""benchmarks/: alternatives do the same work, memory is what is requested, and results have every key."""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import compare
import numpy as np
import pytest
import torch
from bounds import least_seconds
from compare import BENCHMARKS, NETWORK, measured_ceilings, model, paths
from counting import asked_bytes
from goals import SWITCHES, Target
from sensor_operations import add_at, bincount
from sensor_operations import run as run_sensors

from mlesam_ros.bench.measurement import BenchmarkResult, measure
from mlesam_ros.bench.model_benchmark import Options
from mlesam_ros.bench.sensor_benchmark import make_events
from mlesam_ros.model.inference import InferenceOptions
from mlesam_ros.preprocessing.events import count_events

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / "benchmarks" / "results"
KEYS = {field.name for field in fields(BenchmarkResult)}


def test_moving_more_bytes_takes_longer():
    assert 0 < least_seconds(np.zeros(1 << 12)) < least_seconds(np.zeros(1 << 24))


def test_counting_alternatives_do_the_same_work():
    events = make_events(np.random.default_rng(0), 480, 640)
    ours = count_events(events, (480, 640))
    for count in (add_at, bincount):
        np.testing.assert_array_equal(np.moveaxis(count(events), 0, 2)[..., ::-1], ours)


def test_memory_is_the_peak_of_what_arrays_and_tensors_request():
    def work():
        array = np.ones(1 << 20, np.uint8)
        with torch.inference_mode():
            tensor = torch.ones(1 << 20, dtype=torch.uint8)
            other = tensor + 1
        del array
        return other

    (row,) = measure("work", work, 3, ("less", lambda: np.ones(1 << 16)), memory=asked_bytes)
    assert row.memory == pytest.approx(3 * 1.048576, rel=0.05)
    assert row.alternative_memory == pytest.approx(0.524288, rel=0.05)


def test_sensor_operations_have_alternatives_and_memory():
    rows = [row.to_dict() for row in run_sensors(1)]
    json.dumps(rows, allow_nan=False)
    assert all(row["median"] > 0 and row["memory"] > 0 for row in rows)
    assert sum(row["alternative"] is not None for row in rows) >= 11


def test_network_has_alternatives_bounds_and_memory():
    options = Options(size=64, threads=1)
    rows = [row.to_dict() for row in model(1, options)]
    json.dumps(rows, allow_nan=False)
    assert sum(row["alternative"] is not None for row in rows) == 3
    assert rows[0]["memory"] > 0.1 and 0 < rows[0]["bound"] < rows[0]["median"]
    assert all(row.alternative_memory > 0.1 for row in paths(1, options))
    assert measured_ceilings(options)["ceilings"]["gflops"] > 0


def test_ceilings_are_measured_with_the_threads_of_the_run(monkeypatch, tmp_path):
    used, original, threads = [], compare.ceilings, torch.get_num_threads()
    monkeypatch.setattr(compare, "ceilings", lambda *given: used.append(given[2]) or original(*given))
    out = tmp_path / "model.json"
    options = ["--repeats", "1", "--size", "64", "--threads", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["compare.py", "model", *options])
    torch.set_num_threads(2)
    try:
        compare.main()
    finally:
        torch.set_num_threads(threads)
    assert set(used) == {json.loads(out.read_text())["config"]["threads"]} == {1}


def test_every_key_is_documented():
    page = (CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8")
    assert [key for key in sorted(KEYS) if f"`rows[].{key}`" not in page and f"`.{key}`" not in page] == []


@pytest.mark.parametrize("name", sorted({*BENCHMARKS, *NETWORK, *(path.stem for path in RESULTS.glob("*.json"))}))
def test_results_are_committed_with_every_key(name):
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert all(set(row) == KEYS for row in result["rows"])
    assert {"device", "versions", "date", "load", "command", "config"} <= set(result)
    assert result["command"].split()[:2] == ["python", "benchmarks/compare.py"]


def test_goal_is_reached_not_reached_or_not_measured():
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
def test_every_switch_names_its_parity_test(switch):
    path, name = switch.test.split("::")
    assert f"def {name}(" in (CHECKOUT / path).read_text(encoding="utf-8")
    assert switch.tolerance and (switch.rows or switch.unmeasured)


def test_every_inference_option_is_on_the_page():
    named = " ".join(switch.name for switch in SWITCHES)
    assert all(f"InferenceOptions.{field.name}`" in named for field in fields(InferenceOptions))
