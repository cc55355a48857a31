"""The loop: it learns, and a run that was killed ends with the same bytes as one that was not."""

import json
from dataclasses import replace

import pytest
import torch

from mlesam_ros.errors import CheckpointError, MlesamError
from mlesam_ros.training import loop
from mlesam_ros.training.loop import LOG, STATE, run
from mlesam_ros.training.pretrain import PretrainStage
from mlesam_ros.training.transforms import Augment

STATISTICS = (torch.zeros(3), torch.ones(3))


def new_stage(recipe):
    torch.manual_seed(recipe.seed)
    return PretrainStage("hiera_nano", 25, recipe.mixture, None)


def trained(recipe, street, out, resume=True):
    out.mkdir(exist_ok=True)
    stage = new_stage(recipe)
    run(recipe, stage, street, Augment(recipe.augmentation, STATISTICS), out, resume)
    return stage.model.state_dict()


def losses(out):
    return [json.loads(line)["loss"] for line in (out / LOG).read_text().splitlines()]


def test_the_loss_goes_down(smoke, street, tmp_path):
    trained(replace(smoke, steps=30, log_every=5), street, tmp_path)
    assert len(losses(tmp_path)) == 6
    assert losses(tmp_path)[-1] < 0.8 * losses(tmp_path)[0]


class KilledError(Exception):
    pass


def test_a_killed_run_ends_with_the_same_bytes(smoke, street, tmp_path, monkeypatch):
    recipe = replace(smoke, steps=8, log_every=1, checkpoint_minutes=0.0)
    whole = trained(recipe, street, tmp_path / "whole")
    killed = tmp_path / "killed"
    save, count = loop.save_state, []

    def die_after_five(*args):
        save(*args)
        count.append(args)
        if len(count) == 5:
            raise KilledError

    monkeypatch.setattr(loop, "save_state", die_after_five)
    with pytest.raises(KilledError):
        trained(recipe, street, killed)
    monkeypatch.undo()
    (killed / LOG).write_text((killed / LOG).read_text() + '{"step": 6, "loss": 99}\n')
    resumed = trained(recipe, street, killed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses(killed) == losses(tmp_path / "whole")


def test_another_recipe_does_not_resume(smoke, street, tmp_path):
    recipe = replace(smoke, steps=1)
    trained(recipe, street, tmp_path)
    with pytest.raises(CheckpointError, match="another lr and seed"):
        trained(replace(recipe, lr=0.5, seed=1), street, tmp_path)
    trained(replace(recipe, threads=1, log_every=3), street, tmp_path)


def test_a_truncated_state_is_refused(smoke, street, tmp_path):
    recipe = replace(smoke, steps=1)
    trained(recipe, street, tmp_path)
    state = tmp_path / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        trained(recipe, street, tmp_path)
    trained(recipe, street, tmp_path, resume=False)


def test_a_full_disk_leaves_the_last_state(smoke, street, tmp_path, monkeypatch):
    recipe = replace(smoke, steps=2)
    trained(recipe, street, tmp_path)
    good = (tmp_path / STATE).read_bytes()

    def fill(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(OSError, match="No space"):
        trained(recipe, street, tmp_path, resume=False)
    assert (tmp_path / STATE).read_bytes() == good
    assert sorted(p.name for p in tmp_path.iterdir()) == [LOG, STATE]


def test_a_loss_that_is_not_a_number_stops_the_run(smoke, street, tmp_path):
    stage = new_stage(smoke)
    with torch.no_grad():
        stage.model.head.classify.bias.fill_(float("nan"))
    with pytest.raises(MlesamError, match="loss of step 0 is nan"):
        run(smoke, stage, street, Augment(smoke.augmentation, STATISTICS), tmp_path)
