# SPDX-License-Identifier: Apache-2.0
"""A run survives whatever ends it: SIGKILL at any moment, also within a save, a full disk, foreign files."""

import io
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mlesam_ros.errors import CheckpointError, FileError
from mlesam_ros.files import LOCK_FILE
from mlesam_ros.model.backbones import build_backbone
from mlesam_ros.model.checkpoint import describe_checkpoint, load_backbone, save_backbone, weights_sha256
from mlesam_ros.resources import resource_path
from mlesam_training.recipe import Recipe, from_mapping, recipe_dict
from mlesam_training.state import TrainState
from mlesam_training.train_run import EVALUATION, train
from mlesam_training.trainer import LOG, STATE

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = (str(CHECKOUT), str(CHECKOUT / "training"))
STEPS = 12
_TRAIN = "from mlesam_training.train_run import train; train({recipe!r}, {out!r})"
_DIE_IN_THE_THIRD_SAVE = """
import os, signal
from mlesam_ros import files
whole, saves = files.os.fsync, []

def fsync(number):
    saves.append(number)
    if len(saves) == 3:
        os.ftruncate(number, os.fstat(number).st_size // 2)  # what a save that was cut short leaves behind
        os.kill(os.getpid(), signal.SIGKILL)
    whole(number)

files.os.fsync = fsync
"""


@pytest.fixture(scope="module")
def recipe_file(smoke_file, street, tmp_path_factory):
    """Saves after every step, so that about half of the time something is being saved."""
    fields = yaml.safe_load(smoke_file.read_text())
    fields |= {"steps": STEPS, "log_every": 1, "checkpoint_minutes": 0.0, "ema": 0.9, "accumulate": 2, "muon": True}
    path = tmp_path_factory.mktemp("resume") / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def started(recipe_file, out, before=""):
    program = before + _TRAIN.format(recipe=str(recipe_file), out=str(out))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCES), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL)


def steps(out):
    return len((out / LOG).read_text().splitlines()) if (out / LOG).exists() else 0


def test_killed_run_resumes_with_the_same_result(recipe_file, tmp_path):
    whole = train(recipe_file, tmp_path / "whole")
    out = tmp_path / "killed"

    within_a_save = started(recipe_file, out, _DIE_IN_THE_THIRD_SAVE)
    assert within_a_save.wait(120) == -signal.SIGKILL
    draft = f".{STATE}.{within_a_save.pid}.part"
    assert sorted(p.name for p in out.iterdir()) == [LOCK_FILE, draft, LOG, STATE]

    at_random = started(recipe_file, out)
    here = steps(out)
    while steps(out) <= here + 1 and at_random.poll() is None:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.3))
    at_random.kill()
    assert at_random.wait(120) == -signal.SIGKILL
    assert 3 < steps(out) < STEPS

    resumed = train(recipe_file, out)
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()
    assert (out / EVALUATION).read_bytes() == (tmp_path / "whole" / EVALUATION).read_bytes()
    lines = [[line.split('"lr"')[0] for line in (d / LOG).read_text().splitlines()] for d in (tmp_path / "whole", out)]
    assert lines[0] == lines[1], "steps, losses and norms of the gradient"
    assert not [p for p in out.iterdir() if p.name == LOCK_FILE or p.suffix == ".part"]


@pytest.fixture
def state(smoke):
    model = torch.nn.Linear(100, 100)
    return TrainState(smoke, model)


def test_full_disk_keeps_the_last_state(state, tmp_path):
    path = tmp_path / STATE
    state.save(path, 1, {"data set": "data"})
    good = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # no file of this process may grow beyond it
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, limits[1]))
    try:
        with pytest.raises(FileError, match=rf"needs {len(good) / 1e3:.1f} kB, .*B are free .*unchanged"):
            state.save(path, 2, {"data set": "data"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == good and [p.name for p in tmp_path.iterdir()] == [STATE]
    state.save(path, 2, {"data set": "data"})
    assert state.restore(path, {"data set": "data"}) == 2


def test_full_disk_for_the_log_ends_the_run_with_an_error(recipe_file, tmp_path, monkeypatch):
    opened = Path.open

    def full(path, mode="r", *args, **kwargs):
        if path.name == LOG and mode == "a":
            raise OSError(28, "No space left on device")
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FileError, match=r"log\.jsonl needs .*No space left"):
        train(recipe_file, tmp_path)


def other(content):
    """States that are none, as people come by them."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", other([1, 2]), other({"step": 3}), other({"model": {"weight": torch.zeros(3)}}), "truncated"],
    ids=["empty", "garbage", "a list", "another dictionary", "weights", "truncated"],
)
def test_invalid_state_file_is_refused(state, smoke, tmp_path, content):
    path = tmp_path / STATE
    state.save(path, 1, {"data set": "data"})
    path.write_bytes(path.read_bytes()[:1000] if content == "truncated" else content)
    before = {name: p.clone() for name, p in state.model.named_parameters()}
    with pytest.raises(CheckpointError, match=r"state\.pt is truncated or not a training state.*--restart"):
        state.restore(path, {"data set": "data"})
    assert all(torch.equal(p, before[name]) for name, p in state.model.named_parameters())


def test_a_state_of_another_model_is_refused(smoke, tmp_path):
    TrainState(smoke, torch.nn.Linear(4, 4)).save(tmp_path / STATE, 1, {"data set": "data"})
    with pytest.raises(CheckpointError, match="not a training state"):
        TrainState(smoke, torch.nn.Linear(5, 4)).restore(tmp_path / STATE, {"data set": "data"})


def test_a_state_of_an_earlier_version_is_refused_with_what_it_lacks(smoke, tmp_path):
    state = TrainState(smoke, torch.nn.Linear(4, 4))
    older = {key: value for key, value in recipe_dict(smoke).items() if key != "accumulate"}
    torch.save({"recipe": older, "step": 3}, tmp_path / STATE)
    with pytest.raises(CheckpointError, match="another accumulate"):
        state.restore(tmp_path / STATE, {"data set": "data"})


def test_the_average_is_resumed_too(smoke, tmp_path):
    recipe: Recipe = replace(smoke, ema=0.5)
    one, two = (TrainState(recipe, torch.nn.Linear(4, 4)) for _ in range(2))
    one.average["weight"].fill_(3)
    one.save(tmp_path / STATE, 7, {"data set": "data"})
    assert two.restore(tmp_path / STATE, {"data set": "data"}) == 7
    two.finish()
    assert (two.model.weight == 3).all()


def test_a_run_is_not_resumed_on_another_backbone_file(smoke_file, street, tmp_path, monkeypatch):
    """State without provenance. Another file of the same architecture, as sam2's and sam2.1's are."""
    shipped, other = resource_path("weights/hiera_nano.safetensors"), tmp_path / "other.safetensors"
    backbone = build_backbone("hiera_nano")
    load_backbone(backbone, shipped)
    ours = weights_sha256(backbone)
    with torch.no_grad():
        next(backbone.parameters()).mul_(1.001)
    save_backbone(other, backbone)
    theirs = weights_sha256(backbone)

    fields = yaml.safe_load(smoke_file.read_text())
    fields |= {"stage": "experts", "backbone": str(shipped), "steps": 4, "batch": 2, "checkpoint_minutes": 0.0}
    recipe = from_mapping(Recipe, fields, "recipe")
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", interrupted(torch.optim.AdamW.step, after=2))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "out")
    state, log_lines = (tmp_path / "out" / STATE).read_bytes(), steps(tmp_path / "out")
    with pytest.raises(CheckpointError, match=f"base weights with SHA-256 {ours}, and this run has {theirs}"):
        train(replace(recipe, backbone=str(other)), tmp_path / "out")
    assert (tmp_path / "out" / STATE).read_bytes() == state and steps(tmp_path / "out") == log_lines

    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(shipped.read_bytes())
    done = train(replace(recipe, backbone=str(moved)), tmp_path / "out")
    assert describe_checkpoint(done.weights)["base_sha256"] == ours and steps(tmp_path / "out") == 1


def interrupted(step, after):
    count = iter(range(after))

    def stepping(*args, **kwargs):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    return stepping
