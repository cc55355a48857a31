# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of the network run on small images."""

import json

import pytest

from mlesam_ros.bench import model_benchmark
from mlesam_ros.bench.model_benchmark import Options, run, run_paths, runtimes
from mlesam_ros.model.exporter import export_checkpoint
from mlesam_ros.model.runtimes import export_path


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


def test_each_runtime_has_times_size_start_and_masks(monkeypatch, tmp_path):
    monkeypatch.setenv("MLESAM_EXPORTS", str(tmp_path))
    monkeypatch.setattr(model_benchmark, "_HELD_OUT_SETS", 3)
    options = Options(size=64, threads=1, precision="fp32")
    assert runtimes(1, options) == []  # without a file
    content, info = export_checkpoint("street", "onnx", "fp32", (64, 64))
    export_path(info.checkpoint_sha256, "onnx", "fp32", info.size).write_bytes(content)
    rows = {row.name.removeprefix("hiera_nano 64x64, 4 sensors, "): row for row in runtimes(1, options)}
    assert len(rows) == 2 * 5
    assert (
        rows["onnx fp32"].unit == "ms" and rows["onnx fp32"].cpu > 0 and rows["onnx fp32"].alternative == "torch fp32"
    )
    assert rows["onnx fp32: its file"].median == pytest.approx(len(content) / 1e6)
    assert rows["torch fp32: its file"].median > 1
    assert rows["onnx fp32: from its file to the first mask"].median > rows["onnx fp32"].median
    assert rows["torch fp32: labels of fp32"].median == 100 and rows["onnx fp32: labels of fp32"].median > 99.5
    scores = [rows[f"{name} fp32: mIoU on held-out streets"] for name in ("torch", "onnx")]
    assert scores[0].median == scores[0].alternative_median == scores[1].alternative_median
    assert scores[1].median == pytest.approx(scores[0].median, abs=0.5) and 0 < scores[0].median < 100
    assert runtimes(1, Options(backbone="hiera_tiny", size=64)) == []
