# SPDX-License-Identifier: Apache-2.0
import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mlesam_ros.errors import CheckpointError, ConfigError, FileError
from mlesam_ros.labels import load_label_space
from mlesam_ros.model.checkpoint import (
    describe_checkpoint,
    load_checkpoint,
    load_experts,
    load_trained,
    save_backbone,
    save_checkpoint,
    weights_sha256,
)


@pytest.fixture
def files(make_model, tmp_path):
    """A model, its base weights and its checkpoint."""
    model = make_model(normalization={"camera": ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))})
    base, path = tmp_path / "base.safetensors", tmp_path / "trained.safetensors"
    save_backbone(base, model.backbone)
    save_checkpoint(path, model, {"miou": 0.5})
    return model, base, path


def rewrite(path, change):
    """Change the description inside a checkpoint."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["mlesam"])
    change(about)
    save_file(load_file(path), path, {"mlesam": json.dumps(about)})


def test_checkpoint_round_trip_is_exact(files, make_images):
    model, base, path = files
    again, images = load_checkpoint(path, base), make_images()
    assert again.config == model.config
    assert not again.training
    with torch.inference_mode():
        assert torch.equal(again(images).fused, model(images).fused)


def test_checkpoint_has_only_trained_tensors(files):
    model, _, path = files
    names = set(load_file(path))
    assert not any(name.startswith("backbone") for name in names)
    assert names == {n for n, p in model.named_parameters() if p.requires_grad} | {"decoder.frequencies"}


def test_describe_checkpoint_needs_no_model(files):
    model, _, path = files
    about = describe_checkpoint(path)
    assert about["backbone"] == "hiera_nano"
    assert about["modalities"] == ["camera", "depth", "event", "lidar"]
    assert about["rank"] == 4
    assert about["label_space"]["name"] == "deliver"
    assert len(about["label_space"]["classes"]) == 25
    assert about["base_sha256"] == weights_sha256(model.backbone)
    assert about["metrics"] == {"miou": 0.5}
    total = sum(p.numel() for p in model.parameters())
    trained = total - sum(p.numel() for p in model.backbone.parameters())
    assert about["parameters"] == {"trainable": trained, "total": total}
    json.dumps(about)


def test_truncated(files):
    _, base, path = files
    path.write_bytes(path.read_bytes()[:-10])
    for read in (describe_checkpoint, lambda p: load_checkpoint(p, base)):
        with pytest.raises(CheckpointError, match="truncated"):
            read(path)


def test_other_base_weights_are_refused_with_both_values(files, make_model, tmp_path):
    model, _, path = files
    other = make_model()
    save_backbone(tmp_path / "other.safetensors", other.backbone)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path, tmp_path / "other.safetensors")
    assert weights_sha256(model.backbone) in str(refusal.value)
    assert weights_sha256(other.backbone) in str(refusal.value)


def test_another_label_space_is_refused(files):
    _, base, path = files
    with pytest.raises(CheckpointError, match=r"deliver \(25 classes\), not on muses \(19 classes\)"):
        load_checkpoint(path, base, label_space=load_label_space("muses"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 8}, "has rank 4, but the model has 8"),
        ({"modalities": ("camera",)}, r"has modalities .*'lidar'.*, but the model has \('camera',\)"),
        (
            {"label_space": load_label_space("mcubes")},
            r"deliver \(25 classes\), not on mcubes \(20 classes\): class 0 is Building there and asphalt",
        ),
    ],
)
def test_checkpoint_of_another_configuration_is_refused(files, make_model, changes, words):
    with pytest.raises(CheckpointError, match=words):
        load_trained(files[2], make_model(**changes))


def test_live_changes_of_experts_are_saved(files, make_images, tmp_path):
    model, base, _ = files
    model.experts.remove("camera")
    model.experts.add("sonar", model.experts.new_expert(4))
    save_checkpoint(tmp_path / "changed.safetensors", model)
    again = load_checkpoint(tmp_path / "changed.safetensors", base)
    assert again.config.modalities == ("depth", "event", "lidar", "sonar")
    assert "camera" not in again.config.normalization
    images = make_images(("lidar", "sonar"))
    with torch.inference_mode():
        assert torch.equal(again(images).fused, model(images).fused)


class TestExpertsFromAFile:
    """Into a model that is in use."""

    @pytest.fixture
    def source(self, files, make_model, tmp_path):
        """Other experts for the same backbone, one of them new, and their file."""
        model, _, _ = files
        other = make_model(
            modalities=("lidar", "sonar"),
            preprocessors={"sonar": "rgb"},
            normalization={"sonar": ((0, 0, 0), (1, 1, 1))},
        )
        other.backbone.load_state_dict(model.backbone.state_dict())
        save_checkpoint(tmp_path / "more.safetensors", other)
        return other, tmp_path / "more.safetensors"

    @pytest.mark.parametrize("merged", [False, True])
    def test_loaded_experts_take_effect(self, files, source, make_images, distance, merged):
        model, other = files[0], source[0]
        images = make_images(("camera", "lidar", "sonar"))
        if merged:
            model.experts.merge()
        load_experts(source[1], model)
        assert model.experts.modalities == ("camera", "depth", "event", "lidar", "sonar")
        with torch.no_grad():
            features = model.features(images)
            theirs, pyramid = other.features({m: images[m] for m in ("lidar", "sonar")}), features.pyramid
        torch.testing.assert_close(
            pyramid["semantic"][1:], theirs.pyramid["semantic"], rtol=1e-4, atol=1e-4 * float(pyramid["semantic"].max())
        )

    def test_loaded_experts_bring_their_preprocessors(self, files, source, tmp_path):
        model, base, _ = files
        load_experts(source[1], model, ["sonar"])
        assert model.config.modalities[-1] == "sonar"
        assert model.config.preprocessors == {"sonar": "rgb"}
        assert set(model.config.normalization) == {"camera", "sonar"}
        save_checkpoint(tmp_path / "both.safetensors", model)
        assert load_checkpoint(tmp_path / "both.safetensors", base).config == model.config

    def test_temperatures_of_replaced_experts_are_dropped(self, files, source, tmp_path):
        model, base, _ = files
        model.config = replace(model.config, temperatures={"camera": 1.5, "camera+lidar": 2.0, "lidar": 1.2})
        save_checkpoint(tmp_path / "fitted.safetensors", model)
        assert load_checkpoint(tmp_path / "fitted.safetensors", base).config.temperatures == model.config.temperatures
        load_experts(source[1], model, ["lidar"])
        assert model.config.temperatures == {"camera": 1.5}

    def test_a_model_in_half_precision_remembers_its_base(self, files, source):
        _, base, path = files
        model = load_checkpoint(path, base).bfloat16()
        load_experts(source[1], model, ["sonar"])
        assert {p.dtype for p in model.experts.parameters()} == {torch.bfloat16}

    def test_missing_expert_is_refused(self, files, source):
        with pytest.raises(ConfigError, match="no expert for radar; it has lidar, sonar"):
            load_experts(source[1], files[0], ["radar"])

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"rank": 8}, "has rank 4, but the model has 8"),
            ({"backbone": "vit_shrunk"}, "has backbone hiera_nano, but the model has vit_shrunk"),
            ({"label_space": load_label_space("mcubes")}, "class 0 is Building there and asphalt here"),
            ({}, "trained on hiera_nano weights with SHA-256 [0-9a-f]{64}, but the ones loaded have [0-9a-f]{64}"),
        ],
    )
    def test_incompatible_experts_are_refused(self, source, make_model, shrunk_vit, changes, words):
        model = make_model(**changes)
        before = model.experts.modalities
        for load in (load_experts, load_trained) if "backbone" in changes else (load_experts,):
            with pytest.raises(CheckpointError, match=words):
                load(source[1], model)
        assert model.experts.modalities == before


def test_another_rank_of_the_only_expert_is_saved(files, tmp_path):
    model, base, _ = files
    for modality in ("camera", "depth", "event"):
        model.experts.remove(modality)
    model.experts.add("lidar", model.experts.new_expert(7))
    save_checkpoint(tmp_path / "seven.safetensors", model)
    assert load_checkpoint(tmp_path / "seven.safetensors", base).config.rank == 7


def test_written_file_follows_the_umask(files):
    assert files[2].stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_loading_into_a_merged_model_takes_effect(files, make_model, make_images):
    model, _, path = files
    other, images = make_model(normalization=model.config.normalization), make_images()
    other.backbone.load_state_dict(model.backbone.state_dict())
    other.experts.merge()
    load_trained(path, other)
    with torch.inference_mode():
        assert torch.equal(other(images).fused, model(images).fused)


def test_tensors_that_contradict_the_configuration_are_refused(files):
    _, base, path = files
    rewrite(path, lambda about: about["config"].update(rank=5))
    with pytest.raises(CheckpointError, match=r"of another shape \(experts.*\[2, 32, 4\] for \[2, 32, 5\]"):
        load_checkpoint(path, base)


def test_huge_configuration_is_refused_before_allocation(files):
    _, base, path = files
    rewrite(path, lambda about: about["config"].update(rank=10**12))
    with pytest.raises(CheckpointError, match=r"contradicts its own configuration.*1000000000000\]"):
        load_checkpoint(path, base)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.view(-1)[3].fill_(float("nan")), r"has 1 values in experts\.\S+ that are not finite"),
        (lambda t: t.fill_(float("inf")), r"has \d+ values in experts\.\S+ that are not finite"),
        (lambda t: t.to(torch.int32), r"has experts\.\S+ in torch\.int32; a checkpoint's tensors are float32"),
    ],
)
def test_nonfinite_or_non_float_weights_are_refused(files, make_model, spoil, words):
    model, base, path = files
    state = load_file(path)
    name = next(name for name in state if name.startswith("experts."))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file({**state, name: spoil(state[name])}, path, about)
    for take in (load_trained, load_experts):
        with pytest.raises(CheckpointError, match=words):
            take(path, model)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path, base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_label_space_by_name_is_refused_in_a_checkpoint(files, tmp_path):
    path = files[2]
    labels = tmp_path / "labels.yaml"
    labels.write_text("name: mine\nclasses: [{name: a, color: [1, 2, 3]}]\n")
    for name in (str(labels), "deliver"):
        rewrite(path, lambda about, name=name: about["config"].update(label_space=name))
        with pytest.raises(CheckpointError, match="its label_space is not a mapping of name and classes"):
            describe_checkpoint(path)


def test_backbone_file_is_refused_as_checkpoint(files):
    with pytest.raises(CheckpointError, match="no checkpoint metadata"):
        describe_checkpoint(files[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: about.update(format=99), "format 99"),
        (lambda about: about.pop("base_sha256"), "lacks base_sha256"),
        (lambda about: about["config"].update(color="red"), "cannot be built: model key 'color' is unknown"),
        (lambda about: about["config"].update(backbone="resnet"), "resnet"),
        (lambda about: about["config"].update(normalization=[1]), "wrong kind"),
        (lambda about: about.update(config=5), "cannot be built"),
    ],
)
def test_invalid_metadata_is_refused(files, change, words):
    _, base, path = files
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path, base)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "7", "null"])
def test_metadata_that_is_not_a_json_object_is_refused(files, text):
    path = files[2]
    save_file(load_file(path), path, {"mlesam": text})
    with pytest.raises(CheckpointError, match="not a JSON object"):
        describe_checkpoint(path)


def test_no_such_file(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        describe_checkpoint(tmp_path / "none.safetensors")


def test_an_interrupted_write_leaves_the_old_file(files, monkeypatch):
    model, _, path = files
    before = path.read_bytes()

    def full(number):
        os.ftruncate(number, os.fstat(number).st_size // 2)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlesam_ros.files.os.fsync", full)
    with pytest.raises(FileError, match="No space left"):
        save_checkpoint(path, model)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["base.safetensors", "trained.safetensors"]
