# SPDX-License-Identifier: Apache-2.0
"""Training from a checkpoint of other classes and sensors, and from SAM's weights."""

import json
import os
from dataclasses import replace

import pytest
import torch
import yaml
from sam2.build_sam import build_sam2
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_ros.errors import MlesamError
from mlesam_ros.labels import LabelSpace, load_label_space
from mlesam_ros.model.checkpoint import load_base, load_checkpoint, save_checkpoint, trainable_state
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.resources import resource_path
from mlesam_training.preflight import fit_memory
from mlesam_training.recipe import BLOCKS, load_recipe
from mlesam_training.recipe_choice import CHOSEN, choose, fill_recipe
from mlesam_training.train_run import EVALUATION, make_stage, model_config
from mlesam_training.warm_start import matching_classes, start_from

BASE = resource_path("weights/hiera_nano.safetensors")
OWN = LabelSpace("own", ("sky", "kerb", "Traffic light"), ((0, 0, 0),) * 3)
CPU = torch.device("cpu")


def make(**changes):
    model = MLESAM(MLESAMConfig(**{"rank": 4, "modalities": ("camera", "lidar"), **changes}))
    load_base(model, BASE)
    with torch.no_grad():
        for tensor in model.experts.parameters():
            tensor.normal_()
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of DELIVER's classes, a camera, a LiDAR and events."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("warm") / "street.safetensors"
    save_checkpoint(path, make(modalities=("camera", "event", "lidar")))
    return path


def test_classes_experts_and_shared_parts_are_taken_and_the_rest_is_fresh(checkpoint):
    torch.manual_seed(2)
    model = make(label_space=OWN, modalities=("lidar", "thermal", "camera"))
    before = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    theirs = trainable_state(load_checkpoint(checkpoint, BASE))
    found = start_from(checkpoint, model)
    assert (found.classes, found.new_classes) == (("sky", "Traffic light"), ("kerb",))
    assert (found.experts, found.new_experts, found.unused_experts) == (
        ("lidar", "camera"),
        {"thermal": ""},
        ("event",),
    )
    assert found.parts == ("router", "decoder", "auxiliary") and not found.new_parts and not found.note
    deliver = load_label_space("deliver").names
    sky, light = deliver.index("Sky"), deliver.index("TrafficLight")
    for name, now in trainable_state(model).items():
        if name.startswith(("decoder.class_tokens", "decoder.hypernetworks", "auxiliary.classify")):
            assert torch.equal(now, torch.stack([theirs[name][sky], before[name][1], theirs[name][light]])), name
        else:
            assert torch.equal(now, before[name] if ".thermal." in name else theirs[name]), name


def test_a_checkpoint_of_the_same_classes_and_sensors_is_taken_whole(checkpoint):
    model = make(modalities=("camera", "event", "lidar"))
    start_from(checkpoint, model)
    theirs = trainable_state(load_checkpoint(checkpoint, BASE))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in trainable_state(model).items())


def test_parts_of_another_shape_and_experts_of_other_images_are_fresh(checkpoint):
    save_checkpoint(checkpoint.with_name("other.safetensors"), make(preprocessors={"camera": "rgb", "lidar": "hha"}))
    model = make(router_width=8, preprocessors={"camera": "rgb", "lidar": "range_intensity_height"})
    found = start_from(checkpoint.with_name("other.safetensors"), model)
    assert found.experts == ("camera",) and "hha there" in found.new_experts["lidar"]
    assert found.new_parts == ("router",) and found.parts == ("decoder", "auxiliary")


def test_without_a_common_class_a_note_says_so(checkpoint):
    found = start_from(checkpoint, make(label_space=LabelSpace("a", ("moon",), ((0, 0, 0),))))
    assert "no class of the data" in found.note and found.parts and found.new_classes == ("moon",)


def test_names_match_apart_from_case_and_punctuation():
    theirs = LabelSpace("t", ("Road", "SideWalk", "traffic-light", "Wall"), ((0, 0, 0),) * 4)
    ours = LabelSpace("o", ("side_walk", "Traffic Light", "roads", "WALL", "+"), ((0, 0, 0),) * 5)
    assert matching_classes(theirs, ours) == [(0, 1), (1, 2), (3, 3)]


@pytest.mark.parametrize(
    ("content", "weights", "words"),
    [
        (
            {"model": {"backbone": "hiera_tiny"}},
            "street",
            "model.backbone hiera_tiny, but street needs hiera_nano",
        ),
        ({"model": {"rank": 4}}, "street", "model.rank 4, but street needs 16"),
        ({"start": "a.safetensors"}, "street", r"start a\.safetensors, but street needs street"),
        ({"backbone": "b.pt"}, "hiera_nano", r"backbone b\.pt, but hiera_nano needs"),
        ({"stage": "pretrain"}, "street", "stage is pretrain, but --from and --data FILE are for stage experts"),
        ({}, "stret", "Did you mean street"),
        ({}, "sam2.1_hiera_tiny", "Download them: mlesam weights get sam2.1_hiera_tiny"),
    ],
)
def test_what_contradicts_the_weights_is_refused(content, weights, words, tmp_path, monkeypatch):
    monkeypatch.setenv("MLESAM_WEIGHTS", str(tmp_path))
    with pytest.raises(MlesamError, match=words):
        fill_recipe({"data": {"kind": "street"}, **content}, weights)


def test_a_checkpoint_on_a_downloaded_backbone_asks_for_it(tmp_path):
    model = MLESAM(MLESAMConfig(backbone="hiera_tiny", rank=4))
    save_checkpoint(tmp_path / "tiny.safetensors", model)
    with pytest.raises(MlesamError, match=r"--backbone sam2\.1_hiera_tiny"):
        fill_recipe({"data": {}}, str(tmp_path / "tiny.safetensors"))


@pytest.fixture(scope="module")
def data_file(smoke, tmp_path_factory):
    """Two sensors of the smoke recipe's street, and nothing else but the length."""
    fields = yaml.safe_load((resource_path("config/training/smoke.yaml")).read_text())
    fields["data"]["folder"] = str(tmp_path_factory.mktemp("pair"))
    path = tmp_path_factory.mktemp("data") / "my_data.yaml"
    own = {"data": fields["data"], "model": {"modalities": ["camera", "lidar"]}, "steps": 4, "validate_every": 2}
    path.write_text(yaml.safe_dump(own | {"threads": 1, "batch": 2, "precision": "fp32"}))
    return path


def test_one_command_from_a_data_file_and_shipped_weights_to_a_report(data_file, tmp_path):
    arguments = ["train", "--data", str(data_file), "--from", "street", "--out", str(tmp_path / "run")]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    for words in ("start from street", "depth, event", "chosen for 8 samples on cpu: warmup 1", "weights: "):
        assert words in told.output, told.output
    model = load_checkpoint(tmp_path / "run" / "experts.safetensors")
    assert model.config.modalities == ("camera", "lidar") and model.config.rank == 16
    assert len(json.loads((tmp_path / "run" / EVALUATION).read_text())["subsets"]) == 3
    page = (tmp_path / "run" / "report.html").read_text()
    for words in ("mIoU of the validations", "Confusion", "worst", "best", "calibration error", "training"):
        assert words in page
    state = (tmp_path / "run" / "experts.safetensors").read_bytes()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0 and (tmp_path / "run" / "experts.safetensors").read_bytes() == state, "resumed"


def test_a_warm_start_begins_with_the_score_of_its_checkpoint(data_file):
    """With a rate of 0, the model is the shipped one."""
    recipe = load_recipe(data_file, lambda content: fill_recipe(content, "street", leave_open=True))
    stage = make_stage(recipe, model_config(recipe))
    shipped = trainable_state(load_checkpoint("street"))
    own = trainable_state(stage.model)
    assert len(own) < len(shipped) and all(torch.equal(own[name], shipped[name]) for name in own)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """SAM 2.1 as Meta publishes it, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("meta") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu").state_dict()}, path)
    return path


def test_sam_s_weights_start_the_backbone_and_the_decoder(published, data_file):
    recipe = load_recipe(data_file, lambda content: fill_recipe(content, str(published), leave_open=True))
    assert recipe.backbone == str(published) and recipe.start is None
    assert (recipe.model["backbone"], recipe.model["rank"]) == ("hiera_tiny", 32)
    stage = make_stage(recipe, model_config(recipe))
    meta = torch.load(published)["model"]
    state, backbone = stage.model.state_dict(), stage.model.backbone.state_dict()
    assert all(torch.equal(tensor, meta[f"image_encoder.{name}"]) for name, tensor in backbone.items())
    name = "transformer.layers.0.self_attn.q_proj.weight"
    assert torch.equal(state[f"decoder.{name}"], meta[f"sam_mask_decoder.{name}"])


def test_a_data_file_may_name_its_own_weights(published, checkpoint):
    street = {"data": {"kind": "street"}}
    own = fill_recipe({**street, "backbone": str(published)}, None, leave_open=True)
    assert own["backbone"] == str(published) and (own["model"]["backbone"], own["model"]["rank"]) == ("hiera_tiny", 32)
    own = fill_recipe({**street, "start": str(checkpoint)}, None, leave_open=True)
    assert own["start"] == str(checkpoint) and own["backbone"] == "hiera_nano" and own["model"]["rank"] == 4
    with pytest.raises(MlesamError, match=r"backbone, its weights, is missing.* --from: sam2\.1_hiera_tiny or sam2_"):
        fill_recipe({**street, "model": {"backbone": "hiera_tiny"}}, None, leave_open=True)


@pytest.mark.parametrize(
    ("device", "samples", "steps", "batch"), [("cpu", 8, 300, 4), ("cpu", 100, 1000, 4), ("cpu", 9000, 2000, 4),
                                              ("cuda", 100, 2000, 8), ("cuda", 4000, 20_000, 8)],
)  # fmt: skip
def test_the_length_follows_from_the_samples_and_the_device(smoke, monkeypatch, device, samples, steps, batch):
    monkeypatch.setattr("mlesam_training.recipe_choice.pick_precision", lambda name, there: "bf16")
    recipe = choose(replace(smoke, steps=0, chosen=CHOSEN), samples, torch.device(device))
    assert (recipe.steps, recipe.batch, recipe.precision, recipe.chosen) == (steps, batch, "bf16", ())
    assert recipe.warmup == steps // 20 and recipe.validate_every == steps // 10
    assert recipe.threads == len(os.sched_getaffinity(0)) and bool(recipe.workers) == (device == "cuda")


def test_what_a_recipe_names_is_kept(smoke):
    given = replace(smoke, steps=0, epochs=3, batch=3, chosen=("lr", "validate_every"))
    assert choose(given, 100, CPU) == replace(given, chosen=(), lr=1.5e-3, validate_every=9)
    filled = fill_recipe({"data": {"kind": "street"}}, None, leave_open=True)
    assert filled["backbone"] == "hiera_nano" and filled["chosen"] == [*CHOSEN]


def test_the_batch_is_cut_until_it_fits_the_memory(smoke):
    recipe = replace(smoke, batch=8)

    def needed(smaller):
        return 100 // smaller.accumulate

    assert fit_memory(recipe, needed, 60).accumulate == 2
    assert fit_memory(recipe, needed, 30).accumulate == 4
    smallest = fit_memory(recipe, lambda smaller: 0 if smaller.checkpointing == BLOCKS else 100, 10)
    assert (smallest.accumulate, smallest.checkpointing) == (8, BLOCKS)
    assert fit_memory(recipe, lambda smaller: 0, 0) == recipe
