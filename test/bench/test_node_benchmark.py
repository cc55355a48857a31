# SPDX-License-Identifier: Apache-2.0
"""The node's benchmark counts what was published, and its children end with it."""

import json

import pytest

pytest.importorskip("rclpy")

from mlesam_ros.bench.node_benchmark import Run, child, live_rows, run
from mlesam_ros.bench.traffic import PERIOD
from mlesam_ros.cli.common import prepare_own_domain
from mlesam_ros.types import NANOSECONDS

START = 1_700_000_000 * NANOSECONDS


@pytest.fixture
def own_domain(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "")  # remembered, and put back
    prepare_own_domain()


def figures(rows):
    json.dumps([row.to_dict() for row in rows], allow_nan=False)
    return {row.name.split(": ")[1]: row.median for row in rows}


def test_rows_count_every_period_between_the_first_and_the_last_mask():
    measured = Run(stamps=[START, START + PERIOD, START + 4 * PERIOD], complete=3, seconds=0.5, cpu=0.3, faults=6)
    for stage in ("receive", "synchronize", "encode", "decode", "publish"):
        measured.stages[stage] = [0.001] * 3
    measured.stages["stamp_to_mask"], measured.stages["model"] = [0.05, 0.06, 0.07], [0.04, 0.04, 0.04]
    found = figures(live_rows("street", measured))
    assert found["masks at 10.2 Hz"] == pytest.approx(0.5 * NANOSECONDS / PERIOD)
    assert found["everything but the model"] == pytest.approx(20)
    assert found["sets without a mask"] == pytest.approx(40)
    assert found["CPU per mask"] == pytest.approx(100)
    assert found["page faults per mask"] == 2


def test_child_ends_with_its_block():
    with child("mlesam_ros.cli", "--help") as process:
        pass
    assert process.returncode is not None


def test_short_run_gives_every_row(own_domain):
    found = figures(run(1))
    assert 0 < found["model"] < found["stamp to publish"]
    assert 0 < found["everything but the model"] < found["stamp to publish"]
    assert found["memory of the node"] > 100
    assert found["from the process's start to the first mask of all sensors"] > 1
