# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of the network run on small images."""

import json

import pytest

from mlesam_ros.bench.model_benchmark import Options, run, run_paths


@pytest.mark.parametrize("benchmark", [run, run_paths])
def test_every_row_has_a_positive_duration(benchmark):
    rows = [row.to_dict() for row in benchmark(1, Options(size=64, threads=1))]
    json.dumps(rows, allow_nan=False)
    assert all(row["median"] > 0 for row in rows)
    assert [row for row in rows if row["alternative"]]


def test_config_names_the_device_and_the_precision_in_use():
    config = Options(size=64).config()
    assert config["precision"] in ("fp32", "bf16") and config["device"]
    assert {"backbone", "size", "threads", "modalities"} < set(config)
