# SPDX-License-Identifier: Apache-2.0
"""The training comparison: both loops do the same step, workers share a batch, and memory is what is held."""

import json
import os
import subprocess
import sys
from pathlib import Path

import counting
import pytest
import torch
import training_worker
from training_worker import PlainStep, WorkerError, workers

from mlesam_ros.bench.training_benchmark import TrainingStep

SMALL = {"precision": "fp32", "side": 64, "device": "cpu"}


def test_plain_loop_takes_the_same_step():
    trained = []
    for kind in (lambda step: step, PlainStep):
        step = TrainingStep(**SMALL)
        model = step.stage.model
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout2d):
                layer.p = 0.0  # the plain loop draws it otherwise
        kind(step)()
        trained.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    ours, plain = trained
    assert ours.keys() == plain.keys()
    for name, gradient in ours.items():
        assert torch.allclose(gradient, plain[name], rtol=1e-3, atol=1e-5), name


def test_peak_memory_is_what_is_held_at_once():
    size = 64 << 20
    work = f"lambda: numpy.ones({size}, numpy.uint8).sum()"
    code = f"import numpy; from counting import peak_bytes; print(peak_bytes({work}))"
    # A process of its own: memory that this one has kept of earlier tests would be reused.
    environment = {**os.environ, "PYTHONPATH": str(Path(counting.__file__).parent)}
    command = [sys.executable, "-c", code]
    held = int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert 0.9 * size < held < 1.5 * size


def test_two_processes_share_a_batch():
    (found,) = workers(SMALL, 2, steps=1)
    assert found["processes"] == 2 and len(found["seconds"]) == 1 and found["bytes"] > 0


def test_failing_worker_is_an_error():
    with pytest.raises(WorkerError, match="ended"):
        workers({**SMALL, "side": 63})


def test_every_row_is_there(monkeypatch):
    monkeypatch.setattr(training_worker, "workers", lambda *_, **__: [{"seconds": [0.1, 0.2], "bytes": 1 << 20}])
    rows = [row.to_dict() for row in training_worker.run(1, side=64)]
    json.dumps(rows, allow_nan=False)
    units = [row["unit"] for row in rows]
    assert units.count("images/s") == 5 and units.count("MiB") == 2
    assert all(row["median"] > 0 and row["alternative_median"] > 0 for row in rows)
