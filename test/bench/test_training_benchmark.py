# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a training step runs on small images."""

import json

from mlesam_ros.bench.training_benchmark import run


def test_every_kind_of_step_has_a_rate():
    rows = [row.to_dict() for row in run(1, side=64)]
    json.dumps(rows, allow_nan=False)
    assert [row["unit"] for row in rows] == ["images/s"] * 3
    assert all(row["median"] > 0 and row["alternative"] is None for row in rows)
