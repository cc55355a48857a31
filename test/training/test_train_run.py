# SPDX-License-Identifier: Apache-2.0
"""From a recipe to weights: both stages and the ablation, on a street of a few tiny samples."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributions import Categorical, kl_divergence
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_ros.errors import CheckpointError, ConfigError, MlesamError
from mlesam_ros.model.checkpoint import describe_checkpoint, load_checkpoint
from mlesam_ros.types import MODALITIES
from mlesam_training.batch_loader import BatchLoader
from mlesam_training.data_config import open_source
from mlesam_training.recipe import load_recipe
from mlesam_training.sensor_corruption import corrupted
from mlesam_training.stages import ExpertStage, draw_subset
from mlesam_training.train_run import ABLATION_ROWS, BEST, EVALUATION, EXPERTS, VALIDATION, ablate, model_config, train
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
    fitted = {"+".join(entry["sensors"]): entry["temperature"] for entry in content["subsets"]}
    assert model.config.temperatures == fitted and len(set(fitted.values())) > 1
    assert all(0 <= entry[f"calibration_error{when}"] <= 1 for entry in content["subsets"] for when in ("", "_before"))
    assert metrics["miou_night"] == content["subsets"][0]["conditions"]["weather"]["night"]["miou"]


def test_backbone_trained_with_the_experts_is_written_beside_them(expert_file, pretrained, tmp_path):
    recipe = replace(load_recipe(expert_file), train_backbone=True, muon=True, checkpoint_minutes=0.0, ema=0.5)
    path = train(recipe, tmp_path / "whole").weights
    own = path.parent / "hiera_nano.safetensors"
    model = load_checkpoint(path, own)  # refuses, unless the experts belong to this backbone
    start = load_file(pretrained)
    moved = {name for name, value in load_file(own).items() if not torch.equal(value, start[name])}
    assert any("patch_embed" in name for name in moved) and any(".mlp." in name for name in moved)
    with pytest.raises(CheckpointError, match="base weights"):
        load_checkpoint(path, pretrained)
    assert (tmp_path / "whole" / LOG).exists() and model.config.temperatures
    again = train(recipe, tmp_path / "whole").weights  # from its last state
    assert again.read_bytes() == path.read_bytes()


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
        ({"stage": "pretrain", "train_backbone": True}, "train_backbone is for stage experts"),
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
    assert set(content["rows"][0]["conditions"]) == {"night", "none", "plain", "sun"}
    configs = {name: describe_checkpoint(out / name / EXPERTS)["config"] for name in ABLATION_ROWS}
    assert [(c["features"], c["auxiliary"]) for c in configs.values()] == [
        ("average", False), ("routed", False), ("both", False), ("both", True)
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="Give a recipe of stage experts"):
        ablate(load_recipe(pretrain), tmp_path)


def test_experts_start_from_the_heads_of_the_pretraining(expert_file, pretrained, tmp_path):
    heads = load_file(pretrained.with_name(EXPERTS))
    fields = yaml.safe_load(expert_file.read_text()) | {"start": str(pretrained.with_name(EXPERTS))}
    fields["model"].pop("rank")  # that of the pretraining
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields | {"lr": 0.0, "steps": 1}))
    started = load_file(train(path, tmp_path / "out").weights)
    assert started.keys() == heads.keys() and all(torch.equal(started[name], heads[name]) for name in heads)


@pytest.fixture
def students(expert_file, pretrained, tmp_path):
    """Stage with a teacher and its recipe: one step with all modalities."""
    recipe = replace(load_recipe(expert_file), full_share=1.0, steps=1, warmup=0, lr=0.01)
    teacher = train(recipe, tmp_path / "teacher").weights
    return replace(recipe, teacher=str(teacher), start=str(teacher))


def test_a_teacher_adds_the_divergence_on_corrupted_images(students, tmp_path):
    def first_loss(recipe, out):
        train(recipe, out)
        return json.loads((out / LOG).read_text().splitlines()[0])["loss"]

    alone = first_loss(replace(students, teacher=None), tmp_path / "alone")
    once, twice = (first_loss(replace(students, distillation_weight=w), tmp_path / f"{w}") for w in (1.0, 2.0))
    assert once > alone and twice - alone == pytest.approx(2 * (once - alone), rel=1e-3)
    parted = first_loss(replace(students, accumulate=2), tmp_path / "parted")
    assert parted == pytest.approx(once, rel=1e-4)


def test_another_teacher_does_not_resume(students, expert_file, tmp_path):
    train(students, tmp_path / "out")
    other = train(replace(load_recipe(expert_file), steps=2), tmp_path / "other").weights
    with pytest.raises(MlesamError, match="teacher with SHA-256"):
        train(replace(students, teacher=str(other)), tmp_path / "out")


def test_a_teacher_of_other_sensors_is_refused(students, expert_file, tmp_path):
    recipe = load_recipe(expert_file)
    data = replace(recipe.data, folder=str(tmp_path / "two"))
    other = replace(recipe, steps=1, data=data, model={**recipe.model, "modalities": ["camera", "lidar"]})
    teacher = train(other, tmp_path / "other").weights
    with pytest.raises(MlesamError, match=r"has modalities ..camera., .lidar."):
        train(replace(students, teacher=str(teacher), start=None), tmp_path / "out")


def test_heads_that_the_file_lacks_are_named(students, expert_file, tmp_path, capfd):
    recipe = load_recipe(expert_file)
    start = train(replace(recipe, steps=1, model={**recipe.model, "auxiliary": False}), tmp_path / "start").weights
    capfd.readouterr()
    train(replace(students, start=str(start), teacher=None), tmp_path / "out")
    assert re.search(r"for all classes.*router, decoder.*auxiliary", capfd.readouterr().err)


def test_the_time_is_estimated_after_five_steps(expert_file, tmp_path, capfd):
    train(expert_file, tmp_path)
    assert re.search(r"about [\d.]+ min: 6 steps of [\d.]+ s, [\d.]+ min of evaluation", capfd.readouterr().err)


def test_a_sensor_is_also_decoded_alone(expert_file):
    """The oracle is the network with that sensor's images only."""
    recipe = replace(load_recipe(expert_file), alone=("camera",))
    stage = ExpertStage(model_config(recipe), str(recipe.backbone), 1.0, None, alone=recipe.alone)
    source = open_source(recipe, stage.model.config)
    batch = BatchLoader(recipe, source.train, source.augment, stage.plan, torch.device("cpu")).step(0)[0]
    stage.model.eval()
    *whole, main, auxiliary = stage.heads(batch)
    expected = stage.model({"camera": batch.stacked()["camera"]})
    torch.testing.assert_close(main, expected.logits)
    torch.testing.assert_close(auxiliary, expected.aux_logits)
    assert len(whole) == 2 and not torch.equal(whole[0], main)
    for present in ({"camera"}, {"depth", "lidar"}):  # nothing besides, or nothing to decode
        part = replace(batch, samples=tuple({m: sample[m] for m in present} for sample in batch.samples))
        assert len(stage.heads(part)) == 2


def test_divergence_is_torch_s(students):
    stage = ExpertStage(model_config(students), str(students.backbone), 1.0, None)
    source = open_source(students, stage.model.config)
    teacher = load_checkpoint(students.teacher, students.backbone)
    stage.distill(teacher, students.teacher)
    stage.blanks = source.train.blanks
    batch = BatchLoader(students, source.train, source.augment, stage.plan, torch.device("cpu")).step(0)[0]
    stage.model.eval()
    states = [generator.get_state() for generator in batch.generators]
    found = stage.distillation_loss(batch)
    for generator, state in zip(batch.generators, states, strict=True):
        generator.set_state(state)
    worse = [corrupted(s, source.train.blanks, g) for s, g in zip(batch.samples, batch.generators, strict=True)]
    target = teacher(batch.stacked()).fused.softmax(1)
    output = stage.model({m: torch.stack([s[m] for s in worse]) for m in MODALITIES})
    each = [
        kl_divergence(Categorical(target.movedim(1, -1)), Categorical(logits=x.movedim(1, -1)))
        for x in (output.logits, output.aux_logits)
    ]
    assert found.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-4)
    part = replace(batch, samples=tuple({"camera": sample["camera"]} for sample in batch.samples))
    assert stage.distillation_loss(part) is None


def test_validation_keeps_the_best_weights_and_changes_nothing(expert_file, pretrained, tmp_path):
    recipe = replace(load_recipe(expert_file), ema=0.9, checkpoint_minutes=0.0)
    plain = train(recipe, tmp_path / "plain").weights.read_bytes()
    out = tmp_path / "validated"
    last = train(replace(recipe, validate_every=2), out)
    assert last.weights.read_bytes() == plain
    entries = [json.loads(line) for line in (out / VALIDATION).read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4]
    metrics = describe_checkpoint(out / BEST / EXPERTS)["metrics"]
    assert metrics["miou_mean_over_subsets"] == max(entry["mean_of_subsets"] for entry in entries)
    best, final = (load_checkpoint(path, pretrained).config for path in (out / BEST / EXPERTS, last.weights))
    assert best == replace(final, temperatures={})
    (out / BEST / "notes.txt").write_text("mine")
    train(recipe, out, resume=False)
    assert not (out / VALIDATION).exists() and [path.name for path in (out / BEST).iterdir()] == ["notes.txt"]
