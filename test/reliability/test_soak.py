# SPDX-License-Identifier: Apache-2.0
"""The statistics of the soak detect growth and nothing else; a soak of some seconds."""

import json

import numpy as np
import pytest

pytest.importorskip("rclpy")
from soak import GRAINS, soak, written
from trend import BLOCKS, trend

HOUR = np.arange(0.0, 3600.0, 5.0)


def walk(seed: int) -> np.ndarray:
    """Noise whose neighbors resemble each other, as a process's memory has it."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 1, len(HOUR))
    noise = np.zeros(len(HOUR))
    for i in range(1, len(HOUR)):
        noise[i] = 0.95 * noise[i - 1] + steps[i]
    return noise


def test_leak_is_detected_in_noise():
    for seed in range(20):
        found = trend(HOUR, 600 + walk(seed) + 20 * HOUR / 3600)
        assert found.grows(8.0) and found.slope == pytest.approx(20, abs=3 * max(found.error, 1))


def test_noise_is_not_a_leak():
    grows = [trend(HOUR, 600 + walk(seed)).grows(8.0) for seed in range(200)]
    assert sum(grows) == 0
    beyond = [abs(f.slope) > f.error for f in (trend(HOUR, 600 + walk(seed)) for seed in range(200))]
    assert 0 < sum(beyond) < 30, "the interval holds about 95 of 100 slopes that are none"


def test_extra_thread_is_detected_and_an_allocator_step_is_not():
    one_more = np.where(HOUR > 1800, 20.0, 19.0)
    assert trend(HOUR, one_more).grows(GRAINS["threads"])
    assert not trend(HOUR, 600 + np.where(HOUR > 1800, 4.0, 0.0)).grows(GRAINS["rss_mib"])


def test_short_run_is_refused():
    with pytest.raises(ValueError, match="run longer"):
        trend(HOUR[: BLOCKS - 1], HOUR[: BLOCKS - 1])


def test_short_soak():
    result = soak(0.15, period=0.5)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["trends"]) >= {"rss_mib", "threads", "fds", "latency_p50_ms", "latency_p99_ms"}
    totals = result["totals"]
    assert totals["heard"] > 3 and totals["complete"] > 0
    assert totals["missed"] == totals["disordered"] == 0
    assert result["trends"]["threads"]["grows"] is result["trends"]["fds"]["grows"] is False
    page = written(result)
    assert page.count("\n| ") == 2 * 2 + len(result["trends"]) + 4
    assert f"| threads | {result['trends']['threads']['begin']:.1f} |" in page
