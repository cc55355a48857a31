"""From a recipe to weights: both stages, on a street of a few tiny moments."""

import hashlib
import json
from collections import Counter

import pytest
import torch
import yaml

from mlesam_ros.errors import MlesamError
from mlesam_ros.frame import MODALITIES
from mlesam_ros.model.checkpoint import describe_checkpoint, load_checkpoint
from mlesam_ros.training.experts import draw_subset
from mlesam_ros.training.loop import LOG
from mlesam_ros.training.train import EVALUATION, train


@pytest.fixture(scope="module")
def pretrained(smoke_file, tmp_path_factory):
    return train(smoke_file, tmp_path_factory.mktemp("pretrain"))


@pytest.fixture(scope="module")
def expert_file(smoke_file, pretrained, tmp_path_factory):
    fields = yaml.safe_load(smoke_file.read_text())
    fields |= {"stage": "experts", "backbone": str(pretrained), "steps": 6, "log_every": 1, "balance": 0.5}
    fields["model"]["rank"] = 4
    path = tmp_path_factory.mktemp("recipe") / "experts.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_pretraining_leaves_weights_a_log_and_an_evaluation(pretrained):
    entries = json.loads((pretrained.parent / EVALUATION).read_text())
    assert [entry["sensors"] for entry in entries] == [["camera"], ["lidar"]]
    assert all(0 <= entry["all"]["pixel_accuracy"] <= 100 for entry in entries)
    assert (pretrained.parent / LOG).read_text().count("\n") == 3


def test_experts_train_and_the_backbone_does_not_move(expert_file, pretrained, tmp_path):
    before = hashlib.sha256(pretrained.read_bytes()).hexdigest()
    path = train(expert_file, tmp_path)
    assert hashlib.sha256(pretrained.read_bytes()).hexdigest() == before
    model = load_checkpoint(path, pretrained)  # refuses, unless the backbone is bit for bit the one in the file
    assert any(b.any() for b in model.experts.state_dict().values())
    assert model.config.encoders["lidar"] and model.config.statistics["camera"][0][0] == pytest.approx(0.485)
    assert model.config.image_size == 64
    entries = json.loads((tmp_path / EVALUATION).read_text())
    assert len(entries) == 15
    assert describe_checkpoint(path)["metrics"]["miou_all"] == entries[0]["all"]["miou_present"]


def test_a_finished_run_is_not_trained_again(expert_file, tmp_path):
    first = train(expert_file, tmp_path).read_bytes()
    log = (tmp_path / LOG).read_text()
    assert train(expert_file, tmp_path).read_bytes() == first
    assert (tmp_path / LOG).read_text() == log


def test_missing_base_weights_are_named_before_the_first_step(expert_file, tmp_path):
    fields = yaml.safe_load(expert_file.read_text()) | {"backbone": str(tmp_path / "none.safetensors")}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(MlesamError, match=r"none\.safetensors"):
        train(path, tmp_path / "out")


def test_modality_dropout_draws_every_subset():
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(draw_subset(MODALITIES, 0.4, generator) for _ in range(3000))
    assert len(drawn) == 15 and () not in drawn
    assert drawn[MODALITIES] / 3000 == pytest.approx(0.4 + 0.6 / 15, abs=0.03)


def test_a_run_can_start_from_what_an_earlier_one_made(smoke_file, pretrained, tmp_path):
    fields = yaml.safe_load(smoke_file.read_text()) | {"start": str(pretrained), "lr": 0.0, "steps": 1, "log_every": 1}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    assert train(path, tmp_path / "out").read_bytes() == pretrained.read_bytes()
