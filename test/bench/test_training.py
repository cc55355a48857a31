"""The trainer's benchmark: both loops do the same step, workers share a batch, and memory is what is held."""

import json
import subprocess
import sys

import pytest
import torch

from mlesam_ros.bench import training
from mlesam_ros.bench.trainer import PlainTrainer, Trainer, WorkerConfig
from mlesam_ros.bench.training import WorkerError, workers

SMALL = WorkerConfig(side=64, moments=2, precision="fp32", steps=1, device="cpu")


def test_the_plain_loop_takes_the_same_step():
    trained = []
    for trainer in (Trainer(SMALL), PlainTrainer(SMALL)):
        model = trainer._stage.model if isinstance(trainer, Trainer) else trainer._model
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout2d):
                layer.p = 0.0  # the plain loop draws it otherwise
        before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        trainer.step()
        trained.append({name: p.grad.clone() for name, p in model.named_parameters() if name in before})
    ours, plain = trained
    assert ours.keys() == plain.keys()
    for name, gradient in ours.items():
        assert torch.allclose(gradient, plain[name], rtol=1e-3, atol=1e-5), name


def test_peak_memory_is_what_is_held_at_once():
    size = 64 << 20
    work = f"lambda: numpy.ones({size}, numpy.uint8).sum()"
    code = f"import numpy; from mlesam_ros.bench.memory import peak_bytes; print(peak_bytes({work}))"
    # A process of its own: what this one has kept of earlier tests would be taken into use again, not anew.
    held = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.9 * size < held < 1.5 * size


def test_two_processes_share_a_batch():
    (found,) = workers(SMALL, 2)
    assert found["processes"] == 2 and len(found["seconds"]) == SMALL.steps and found["bytes"] > 0


def test_a_worker_that_fails_is_no_figure():
    with pytest.raises(WorkerError, match="ended"):
        workers(WorkerConfig(side=63, moments=1, device="cpu"))


def test_every_row_is_there(monkeypatch):
    monkeypatch.setattr(training, "workers", lambda work, count=1: [{"seconds": [0.1, 0.2], "bytes": 1 << 20}])
    rows = [row.to_dict() for row in training.run(1, SMALL)]
    json.dumps(rows, allow_nan=False)
    units = [row["unit"] for row in rows]
    assert units.count("images/s") == 5 and units.count("MiB") == 2
    assert all(row["median"] > 0 and row["alternative_median"] > 0 for row in rows)
