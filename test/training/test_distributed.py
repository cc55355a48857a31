# SPDX-License-Identifier: Apache-2.0
"""Two processes under torchrun: what they train and count is what one process trains and counts."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.checkpoint import save_backbone, save_checkpoint
from mlesam_training.distributed import (
    all_reduce_gradients,
    all_reduce_sum,
    global_topk,
    is_first,
    local_slice,
    pick_device,
)
from mlesam_training.recipe import load_recipe
from mlesam_training.stages import ExpertStage, PretrainStage
from mlesam_training.state import TrainState
from mlesam_training.train_run import EVALUATION, EXPERTS, model_config, train
from mlesam_training.trainer import LOG, STATE, TENSORBOARD
from mlesam_training.training_report import REPORT

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = (str(CHECKOUT), str(CHECKOUT / "training"))
STAGES = {"pretrain": "hiera_nano.safetensors", "experts": EXPERTS}
_PROGRAM = """
import os, sys, torch
from pathlib import Path
import torch.distributed as dist
from mlesam_training.distributed import global_topk, processes, rank, local_slice, all_reduce_sum
from mlesam_training.loss import batch_loss, pixel_losses
from mlesam_training.train_run import train

recipes, out = sys.argv[1:-1], Path(sys.argv[-1])
with processes(torch.device("cpu")):
    given = torch.load(out / "given.pt")
    mine = [list(local_slice(n)) for n in (5, 1)]
    found = []
    for sharpness in given["sharpness"]:
        places = local_slice(len(given["labels"]))
        part = slice(places.start, places.stop)
        logits = (given["logits"] + sharpness * given["truth"])[part].requires_grad_()
        labels = given["labels"][part]
        loss = batch_loss([pixel_losses(logits, labels)], labels, given["weights"])
        loss.backward()
        found.append((all_reduce_sum(loss), logits.grad))
    best = global_topk(torch.arange(3.0) + 10 * rank(), 5)
    torch.save({"mine": mine, "found": found, "best": best}, out / f"rank{rank()}.pt")
    for recipe in recipes:
        for folder in ("begun", "half", "finished"):
            train(recipe, out / folder / Path(recipe).stem)
"""


def run(recipes, out):
    """Two processes as torchrun starts them; the same environment without its seconds of supervision."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = []
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(SOURCES),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        environment |= {key: str(value) for key, value in variables.items()}
        command = [sys.executable, "-c", _PROGRAM, *map(str, recipes), str(out)]
        both.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
    assert [process.wait(240) for process in both] == [0, 0]


@pytest.fixture(scope="module")
def given():
    """Labels of very different amounts per picture, so that neither half decides alone which pixels are hard."""
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (3, 8, 8), dtype=torch.uint8)
    labels[0] = 255
    labels[1, 2:] = 255
    truth = torch.nn.functional.one_hot(labels.long().clamp(max=4), 5).permute(0, 3, 1, 2).float()
    return {
        "labels": labels, "logits": torch.randn(3, 5, 8, 8), "truth": truth, "weights": torch.rand(5) + 0.5,
        "sharpness": [0.1, 3.0, 9.0, float("nan")],
    }  # fmt: skip


@pytest.fixture(scope="module")
def alone(smoke_file, street, tmp_path_factory):
    """Stage pretrain, then stage experts on what came of it, by one process; an odd number of moments per batch."""
    folder = tmp_path_factory.mktemp("alone")
    fields = yaml.safe_load(smoke_file.read_text())
    fields |= {"steps": 3, "log_every": 1, "batch": 5, "lr": 1e-4, "device": "cpu", "checkpoint_minutes": 0.0}
    fields["tensorboard"] = True
    weights = str(folder / "pretrain" / "hiera_nano.safetensors")
    stages = {"pretrain": {}, "experts": {"stage": "experts", "backbone": weights, "balance": 0.4, "ema": 0.5}}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TrainState, "save", keep_the_second(TrainState.save))
        for name, changes in stages.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(fields | changes))
            train(folder / f"{name}.yaml", folder / name)
    return folder


def keep_the_second(save):
    def saving(learner, path, step, origin):
        save(learner, path, step, origin)
        if step == 2:
            shutil.copy(path, path.with_name("half.pt"))

    return saving


@pytest.fixture(scope="module")
def together(alone, given, tmp_path_factory):
    """The same by two processes: from the beginning, and gone on with after the second and the last step of the one."""
    out = tmp_path_factory.mktemp("together")
    torch.save(given, out / "given.pt")
    for folder, state in (("half", "half.pt"), ("finished", STATE)):
        for name in STAGES:
            (out / folder / name).mkdir(parents=True)
            shutil.copy(alone / name / state, out / folder / name / STATE)
    run([alone / f"{name}.yaml" for name in STAGES], out)
    return out


def test_work_is_split_over_the_processes(together):
    parts = [torch.load(together / f"rank{rank}.pt") for rank in range(2)]
    assert [part["mine"] for part in parts] == [[[0, 1], []], [[2, 3, 4], [0]]]
    assert [part["best"].tolist() for part in parts] == [[12, 11, 10, 2, 1]] * 2


def test_hard_pixels_are_chosen_over_the_whole_batch(together, given):
    """Also where no logit is a number: the loss is none either, in every process, and the loop stops with its words."""
    from mlesam_training.loss import batch_loss, pixel_losses

    parts = [torch.load(together / f"rank{rank}.pt")["found"] for rank in range(2)]
    for number, sharpness in enumerate(given["sharpness"]):
        logits = (given["logits"] + sharpness * given["truth"]).requires_grad_()
        loss = batch_loss([pixel_losses(logits, given["labels"])], given["labels"], given["weights"])
        loss.backward()
        torch.testing.assert_close(parts[0][number][0], loss.detach(), equal_nan=True)
        gradient = torch.cat([part[number][1] for part in parts])
        torch.testing.assert_close(gradient, logits.grad, equal_nan=True)
        assert loss.isnan() == (number == 3)


def vector(path):
    return torch.cat([value.flatten() for _, value in sorted(load_file(path).items())])


@pytest.mark.parametrize("folder", ["begun", "half"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_what_one_trains(together, alone, smoke, stage, folder):
    """AdamW makes steps of full length of the rounding of a gradient that is nearly zero: so, lengths are compared."""
    one, two = (vector(where / stage / STAGES[stage]) for where in (alone, together / folder))
    torch.manual_seed(smoke.seed)
    recipe = load_recipe(alone / f"{stage}.yaml")
    path = together / f"{stage}_0.safetensors"
    if stage == "pretrain":
        save_backbone(path, PretrainStage(model_config(recipe), recipe.mixture, None).model.backbone)
    else:
        save_checkpoint(path, ExpertStage(model_config(recipe), recipe.backbone, 0.0, None).model)
    assert (two - one).norm() < 0.02 * (one - vector(path)).norm()
    lines, others = ((where / stage / LOG).read_text().splitlines() for where in (alone, together / folder))
    assert len(others) == (3 if folder == "begun" else 1)
    for line, other in zip(lines[-len(others) :], others, strict=True):
        a, b = json.loads(line), json.loads(other)
        assert a["step"] == b["step"] and b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-2)


def test_only_the_first_process_writes(together):
    folder = together / "begun" / "experts"
    assert {path.name for path in folder.iterdir()} == {STATE, LOG, TENSORBOARD, EVALUATION, REPORT, STAGES["experts"]}
    assert len(list((folder / TENSORBOARD).iterdir())) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_resume_what_one_began_and_count_the_same(together, alone, stage):
    """The run was at its end, so it is only evaluated: the counts are the same to the last pixel."""
    for name in (EVALUATION, STAGES[stage]):
        assert (together / "finished" / stage / name).read_bytes() == (alone / stage / name).read_bytes()


def test_functions_work_for_one_process():
    value = torch.tensor([3.0, 1.0, 2.0])
    assert list(local_slice(7)) == list(range(7)) and torch.equal(all_reduce_sum(value), value)
    assert global_topk(value, 2).tolist() == [3, 2] and global_topk(value, 9).tolist() == [3, 2, 1]
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 5.0)
    all_reduce_gradients([parameter, torch.nn.Parameter(torch.ones(1))])
    assert parameter.grad.tolist() == [5, 5] and is_first()


def test_pick_device_per_process(monkeypatch):
    assert pick_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="process 2 of this machine finds 2 GPUs"):
        pick_device("cuda")


def test_parts_differ_by_one_at_most(monkeypatch):
    from mlesam_training import distributed

    for processes in range(1, 9):
        monkeypatch.setattr(distributed, "world_size", lambda processes=processes: processes)
        parts = []
        for here in range(processes):
            monkeypatch.setattr(distributed, "rank", lambda here=here: here)
            parts.append(list(local_slice(11)))
        assert sum(parts, []) == list(range(11))  # noqa: RUF017
        assert np.ptp([len(part) for part in parts]) <= 1
