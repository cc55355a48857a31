# SPDX-License-Identifier: Apache-2.0
"""From a recipe to weights: both stages and the ablation, on a street of a few tiny samples."""

import hashlib
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_ros.errors import ConfigError, MlesamError
from mlesam_ros.model.checkpoint import describe_checkpoint, load_checkpoint
from mlesam_ros.types import MODALITIES
from mlesam_training.data_config import open_source
from mlesam_training.recipe import load_recipe
from mlesam_training.stages import ExpertStage, draw_subset
from mlesam_training.train_run import ABLATION_ROWS, EVALUATION, EXPERTS, ablate, model_config, train
from mlesam_training.trainer import LOG, run


@pytest.fixture(scope="module")
def pretrained(smoke_file, tmp_path_factory):
    return train(smoke_file, tmp_path_factory.mktemp("pretrain")).weights


@pytest.fixture(scope="module")
def expert_file(smoke_file, pretrained, tmp_path_factory):
    fields = yaml.safe_load(smoke_file.read_text())
    fields |= {"stage": "experts", "backbone": str(pretrained), "steps": 6, "log_every": 1, "balance": 0.5}
    fields["model"]["rank"] = 4
    path = tmp_path_factory.mktemp("recipe") / "experts.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_pretraining_leaves_weights_a_log_and_an_evaluation(pretrained):
    entries = json.loads((pretrained.parent / EVALUATION).read_text())["subsets"]
    assert [entry["sensors"] for entry in entries] == [["camera"], ["lidar"]]
    assert all(0 <= entry["pixel_accuracy"] <= 100 for entry in entries)
    assert (pretrained.parent / LOG).read_text().count("\n") == 3


def test_experts_train_and_the_backbone_does_not_move(expert_file, pretrained, tmp_path):
    before = hashlib.sha256(pretrained.read_bytes()).hexdigest()
    path = train(expert_file, tmp_path).weights
    assert hashlib.sha256(pretrained.read_bytes()).hexdigest() == before
    model = load_checkpoint(path, pretrained)  # refuses, unless the backbone is bit for bit the one in the file
    assert any(b.any() for b in model.experts.state_dict().values())
    assert model.config.preprocessors["lidar"] and model.config.normalization["camera"][0][0] == pytest.approx(0.485)
    assert model.config.image_size == 64
    content = json.loads((tmp_path / EVALUATION).read_text())
    assert len(content["subsets"]) == 15 and content["any_modal"]["expected"].keys() == {"0.2", "0.1", "0.05"}
    metrics = describe_checkpoint(path)["metrics"]
    assert metrics["miou"] == content["subsets"][0]["miou"]
    assert metrics["miou_night"] == content["subsets"][0]["conditions"]["weather"]["night"]["miou"]


def test_a_finished_run_is_not_trained_again(expert_file, tmp_path):
    first = train(expert_file, tmp_path).weights.read_bytes()
    log = (tmp_path / LOG).read_text()
    assert train(expert_file, tmp_path).weights.read_bytes() == first
    assert (tmp_path / LOG).read_text() == log


def test_only_experts_routers_and_heads_learn(expert_file, tmp_path):
    recipe = replace(load_recipe(expert_file), steps=1, lr=0.1, weight_decay=0.1, full_share=1.0, warmup=0)
    stage = ExpertStage(model_config(recipe), str(recipe.backbone), recipe.full_share, None)
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    source = open_source(recipe, stage.model.config)
    run(recipe, stage, source.train, source.augment, tmp_path)
    moved = {name for name, value in stage.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"experts", "router", "decoder", "auxiliary"}
    assert any(name.startswith("backbone.") for name in before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "none.safetensors"}, r"none\.safetensors"),
        ({"model": {"backbone": "hiera_nano", "rnak": 4}}, "did you mean rank"),
        ({"device": "cuda"}, "finds 0 GPUs"),
        ({"batch": 64}, "batch is 64, but the data set has 8"),
    ],
)
def test_invalid_recipe_is_refused_before_the_first_step(expert_file, tmp_path, changes, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(expert_file.read_text()) | changes))
    with pytest.raises(MlesamError, match=words):
        train(path, tmp_path / "out")
    assert not (tmp_path / "out" / LOG).exists()


def test_a_truncated_backbone_is_named_before_the_first_step(expert_file, pretrained, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(pretrained.read_bytes()[:5000])
    with pytest.raises(MlesamError, match=r"cut\.safetensors is truncated"):
        train(replace(load_recipe(expert_file), backbone=str(cut)), tmp_path / "out")


def test_modality_dropout_draws_every_subset():
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(draw_subset(MODALITIES, 0.4, generator) for _ in range(3000))
    assert len(drawn) == 15 and () not in drawn
    assert drawn[MODALITIES] / 3000 == pytest.approx(0.4 + 0.6 / 15, abs=0.03)


def test_run_starts_from_given_weights(smoke_file, pretrained, tmp_path):
    fields = yaml.safe_load(smoke_file.read_text()) | {"start": str(pretrained), "lr": 0.0, "steps": 1, "log_every": 1}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    assert train(path, tmp_path / "out").weights.read_bytes() == pretrained.read_bytes()


def test_ablation_writes_one_table(smoke_file, tmp_path):
    fields = yaml.safe_load(smoke_file.read_text()) | {"steps": 1}
    pretrain, experts = tmp_path / "pretrain.yaml", tmp_path / "experts.yaml"
    pretrain.write_text(yaml.safe_dump(fields))
    weights = train(pretrain, tmp_path / "pretrain").weights
    experts.write_text(yaml.safe_dump(fields | {"stage": "experts", "backbone": str(weights)}))
    out, result = tmp_path / "out", tmp_path / "result.json"
    told = CliRunner().invoke(app, ["train", str(experts), "--ablation", "--out", str(out), "--json", str(result)])
    assert told.exit_code == 0, told.output
    content = json.loads((out / "ablation.json").read_text())
    assert json.loads(result.read_text()) == {"ablation": str(out / "ablation.json")}
    assert [row["name"] for row in content["rows"]] == list(ABLATION_ROWS) and content["steps"] == 1
    assert set(content["rows"][0]["conditions"]) == {"night", "none", "sun"}
    configs = {name: describe_checkpoint(out / name / EXPERTS)["config"] for name in ABLATION_ROWS}
    assert [(c["features"], c["auxiliary"]) for c in configs.values()] == [
        ("average", False), ("routed", False), ("both", False), ("both", True)
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="Give a recipe of stage experts"):
        ablate(load_recipe(pretrain), tmp_path)
