# SPDX-License-Identifier: Apache-2.0
"""From a published layout to weights with one command: the shipped recipes on a tiny network and tiny pictures."""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from small_recipes import BACKBONE, RUNS, SIZE, tiny
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_ros.errors import CheckpointError, ConfigError, DatasetError, LabelError, MlesamError
from mlesam_ros.model.checkpoint import describe_checkpoint, load_checkpoint
from mlesam_ros.model.model_config import MLESAMConfig, network_size
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.resources import resource_path
from mlesam_ros.simulation.export import write_deliver_scene
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, MODALITIES, FrameSet
from mlesam_training.augmentation import RandomCrops, ResizeForEval
from mlesam_training.datasets.deliver import Deliver
from mlesam_training.preflight import check_gpu_memory
from mlesam_training.recipe import FileData, differences, load_recipe, recipe_dict, scheduled
from mlesam_training.train_run import train
from mlesam_training.trainer import STATE


@pytest.fixture
def deliver(roots, tmp_path):
    return shutil.copytree(roots["deliver"], tmp_path / "DELIVER")


@pytest.mark.parametrize("name", sorted(RUNS))
def test_the_shipped_recipe_is_the_papers_model_and_the_groups_training(name):
    recipe = load_recipe(resource_path(f"config/training/{name}.yaml"))
    paper = MLESAMConfig.paper(modalities=RUNS[name])
    model = MLESAMConfig.from_dict(recipe.model)
    assert replace(model, image_size=1024, label_space=paper.label_space) == paper
    assert (recipe.seed, recipe.power, recipe.weight_decay, recipe.warmup_epochs) == (3407, 0.9, 0.01, 10)
    assert recipe.epochs == (500 if name == "mcubes" else 200) and recipe.label_stride == 1 and not recipe.balance
    assert isinstance(recipe.data, FileData)
    crops = recipe.data.crops
    assert (crops.crop, crops.scales, crops.flip) == (1024, (0.5, 2.0), 0.5)
    if name == "mcubes":
        assert (crops.jitter, crops.blur, crops.blurred, crops.sigma) == (0.0, 0.5, (CAMERA, "nir"), None)
    else:
        assert (crops.jitter, crops.blur, crops.blurred, crops.sigma) == (0.2, 0.2, (CAMERA,), 0.8)


@pytest.mark.parametrize(
    ("name", "pictures", "read"),
    [
        ("deliver", (1042, 1042), (1024, 1024)),
        ("muses", (1080, 1920), (1024, 1824)),
        ("mcubes", (1024, 1032), (1024, 1024)),
    ],
)
def test_image_size_is_the_long_side_in_training_evaluation_and_node(name, pictures, read):
    """A rule written twice. The sizes are those that the group's recipes give, worked out by hand."""
    recipe = load_recipe(resource_path(f"config/training/{name}.yaml"))
    published = import_module(f"mlesam_training.datasets.{name}")
    dataset = SimpleNamespace(sparse=frozenset(), blanks={}, normalization={}, square=published.DATASET.square)
    labels = torch.zeros(1, *pictures, dtype=torch.uint8)
    size = recipe.model["image_size"]
    assert ResizeForEval(dataset, size)({}, labels)[1].shape[1:] == read
    assert max(read) == size and network_size(pictures, size) == read
    still = replace(recipe.data.crops, scales=(1.0, 1.0), crop=2048)
    seen = RandomCrops(still, dataset, size)({}, labels, torch.Generator())[1] < 255
    assert (int(seen[0, :, 0].sum()), int(seen[0, 0].sum())) == (pictures if name == "mcubes" else read)


def test_an_epoch_leaves_its_incomplete_batch_out():
    recipe = scheduled(load_recipe(resource_path("config/training/deliver.yaml")), 3983)
    assert (recipe.steps, recipe.warmup) == (200 * 497, 10 * 497)
    assert scheduled(recipe, 5) == recipe


@pytest.mark.parametrize("name", sorted(RUNS))
def test_one_command_from_files_to_weights(name, roots, tmp_path):
    path = tiny(name, "nowhere", tmp_path / f"{name}.yaml", backbone="none.pt")
    asked = ["train", str(path), "--data", str(roots[name]), "--backbone", str(BACKBONE), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    weights = tmp_path / "o" / "experts.safetensors"
    config = load_checkpoint(weights, BACKBONE).config
    space = MLESAMConfig.from_dict({"label_space": name}).label_space
    assert config.modalities == RUNS[name] and config.label_space == space and config.image_size == 64
    assert set(config.normalization) == set(RUNS[name]) and config.preprocessors[CAMERA] == "rgb"
    content = json.loads((tmp_path / "o" / "evaluation.json").read_text())
    assert len(content["subsets"]) == 2 ** len(RUNS[name]) - 1 and content["label_space"] == name
    kinds = {"deliver": {"weather", "fault"}, "muses": {"weather", "time"}, "mcubes": set()}[name]
    assert set(content["subsets"][0]["conditions"]) == kinds
    assert describe_checkpoint(weights)["metrics"]["data"].startswith(name)
    assert "training samples" in done.output and "GiB" in done.output


def test_what_was_trained_on_the_published_layout_segments_live_sensors(roots, tmp_path):
    weights = train(tiny("deliver", roots["deliver"], tmp_path / "r.yaml"), tmp_path / "o").weights
    world = World(5, "sun", SIZE)
    moment = world.sample(3)
    frames = FrameSet(moment.stamp, CAMERA, moment.frames, dict.fromkeys(moment.frames, 0))
    result = Pipeline(load_checkpoint(weights, BACKBONE)).segment(frames, world.rig)
    assert result.labels.shape == SIZE and result.used == MODALITIES


def test_dataset_without_live_preprocessor_is_refused_by_the_pipeline(roots, tmp_path):
    weights = train(tiny("mcubes", roots["mcubes"], tmp_path / "r.yaml"), tmp_path / "o").weights
    with pytest.raises(ConfigError, match="aolp"):
        Pipeline(load_checkpoint(weights, BACKBONE))


def test_a_killed_run_goes_on_and_other_data_is_refused(roots, deliver, tmp_path, monkeypatch):
    path = tiny("deliver", deliver, tmp_path / "r.yaml", epochs=3, checkpoint_minutes=0.0)
    whole = train(path, tmp_path / "whole").weights.read_bytes()
    steps = iter(range(1))
    step = torch.optim.AdamW.step

    def once(self, *args, **kwargs):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", once)
        train(path, tmp_path / "cut")
    assert (tmp_path / "cut" / STATE).exists()
    moved = deliver.rename(tmp_path / "elsewhere")
    again = load_recipe(path)
    again = replace(again, data=replace(again.data, root=str(moved)))
    assert train(again, tmp_path / "cut").weights.read_bytes() == whole
    shutil.copytree(moved / "img/sun", moved / "img/fog")
    for folder in ("hha", "event", "lidar", "semantic"):
        shutil.copytree(moved / folder / "sun", moved / folder / "fog")
    with pytest.raises(MlesamError, match=r"was made with data set .*, and this run has"):
        train(again, tmp_path / "cut")


@pytest.mark.parametrize("folder", ["semantic", "img"])
def test_a_run_does_not_go_on_with_files_that_were_changed_in_place(deliver, tmp_path, folder):
    """Mirrored labels have equal names and pixel counts, but another fingerprint."""
    recipe = tiny("deliver", deliver, tmp_path / "r.yaml")
    train(recipe, tmp_path / "o")
    path = _first(deliver, folder, "sun")
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, ::-1])
    with pytest.raises(CheckpointError, match=r"was made with data set .*, and this run has"):
        train(recipe, tmp_path / "o")


def test_a_finished_run_is_measured_on_another_split(roots, deliver, tmp_path):
    path = tiny("deliver", deliver, tmp_path / "r.yaml")
    train(path, tmp_path / "o")
    log = (tmp_path / "o" / "log.jsonl").read_text()
    write_deliver_scene(deliver, World(6, "fog", SIZE), "test", [0])
    tiny("deliver", deliver, path, data={"held_out": "test"})
    result = train(path, tmp_path / "o")
    assert set(result.scores[MODALITIES].conditions["weather"]) == {"fog"}
    assert json.loads(result.evaluation.read_text())["data"] == "deliver test"
    assert (tmp_path / "o" / "log.jsonl").read_text() == log


def test_the_any_modal_protocol_is_not_varied(roots, tmp_path):
    path = tiny("muses", roots["muses"], tmp_path / "r.yaml", data={"options": {"protocol": "anyseg"}})
    with pytest.raises(ConfigError, match="Set jitter and blur of crops to 0"):
        train(path, tmp_path / "o")


def _first(root, folder, weather="night"):
    return next((root / folder / weather).rglob("*.png"))


def _cut(root):
    path = _first(root, "lidar")
    path.write_bytes(path.read_bytes()[:-15])


def _foreign_label(root):
    path = _first(root, "semantic")
    cv2.imwrite(str(path), np.full(SIZE, 77, np.uint8))


def _another_size(root):
    cv2.imwrite(str(_first(root, "hha")), np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda root: _first(root, "hha").unlink(), DatasetError, r"depth_front\.png is missing"),
        (_cut, DatasetError, r"lidar_front\.png is damaged or cut short"),
        (_foreign_label, LabelError, r"semantic_front\.png has the ids \[77\]"),
        (_another_size, DatasetError, r"depth_front\.png is 32x32; the labels .* are 80x64"),
        (lambda root: shutil.rmtree(root / "event"), DatasetError, "event"),
    ],
)
def test_damaged_held_out_file_is_named_before_the_first_step(deliver, tmp_path, spoil, kind, words):
    spoil(deliver)
    with pytest.raises(kind, match=words):
        train(tiny("deliver", deliver, tmp_path / "r.yaml"), tmp_path / "o")
    assert not (tmp_path / "o" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"kind": "delivr"}}, "did you mean deliver"),
        ({"data": {"kindd": "x"}}, "did you mean kind"),
        ({"data": {"options": {"wether": "sun"}}}, "did you mean weather"),
        ({"data": {"options": {"modalities": ["camera"]}}}, r"Set data\.root, model\.modalities"),
        ({"data": {"held_out": "train"}}, "both train"),
        ({"data": {"train": "trian"}}, "train, val, test"),
        ({"data": {"root": ""}}, "--data"),
        ({"model": {"modalities": ["camera", "nir"]}}, "nir"),
        ({"model": {"label_space": "muses"}}, "the data set decides"),
        ({"model": {"rnak": 4}}, "did you mean rank"),
        ({"steps": 5}, "Give one of the two"),
        ({"epochs": -1}, "epochs is -1"),
        ({"batch": 3}, "batch is 3, but the data set has 2"),
        ({"model": {"backbone": "hiera_tiny"}}, "is not hiera_tiny but hiera_nano"),
        ({"backbone": "none.pt"}, r"no weights file none\.pt"),
    ],
)
def test_a_wrong_value_is_named_before_the_first_step(roots, tmp_path, changes, words):
    with pytest.raises(MlesamError, match=words):
        train(tiny("deliver", roots["deliver"], tmp_path / "r.yaml", **changes), tmp_path / "o")
    assert not (tmp_path / "o" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("crops", "words"),
    [
        ({"crop": 100}, "crop is 100; it must be a multiple of 32"),
        ({"scales": [2.0, 0.5]}, "smaller one first"),
        ({"scales": [1.0]}, "must have 2 values"),
        ({"flip": 2.0}, "flip is 2.0"),
        ({"whole": 1024}, "key 'whole' is unknown"),
    ],
)
def test_crops_that_no_network_reads_are_refused(tmp_path, crops, words):
    path = tiny("deliver", "d", tmp_path / "r.yaml")
    fields = yaml.safe_load(path.read_text())
    fields["data"]["crops"] |= crops
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(ConfigError, match=words):
        load_recipe(path)


def test_options_of_the_command_that_contradict_each_other_are_refused():
    for options, words in (
        ([], "either"),
        (["r.yaml", "--recipe", "deliver"], "either"),
    ):
        done = CliRunner().invoke(app, ["train", *options])
        assert done.exit_code == 2 and words in done.output


def test_new_keys_at_their_default_are_no_difference(tmp_path):
    recipe = recipe_dict(load_recipe(resource_path("config/training/smoke.yaml")))
    older = {key: value for key, value in recipe.items() if key not in ("epochs", "warmup_epochs")}
    older["data"] = {key: value for key, value in recipe["data"].items() if key != "kind"}
    assert differences(older, recipe) == []
    published = recipe_dict(load_recipe(tiny("deliver", "a", tmp_path / "a.yaml")))
    other = recipe_dict(load_recipe(tiny("deliver", "b", tmp_path / "b.yaml", data={"held_out": "test"})))
    assert differences(published, other) == [] and "data.train" in differences(recipe, published)


def test_a_gpu_that_is_too_small_is_refused_with_the_remedy():
    check_gpu_memory(3 << 30, 4 << 30)
    with pytest.raises(ConfigError, match=r"5\.0 GiB and the GPU has 4\.0 GiB\. Raise accumulate"):
        check_gpu_memory(5 << 30, 4 << 30)


FOLDERS = ("img", "hha", "lidar", "semantic", "event")


def test_rows_of_unequal_sizes_are_trained_and_evaluated(deliver, tmp_path):
    for split in ("train", "val"):
        for folder in FOLDERS:
            path = sorted((deliver / folder).glob(f"*/{split}/*/*.png"))[-1]
            cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path), -1), (96, 64), interpolation=cv2.INTER_NEAREST))
    train(tiny("deliver", deliver, tmp_path / "r.yaml"), tmp_path / "o")
    named = sorted((deliver / "semantic").glob("*/train/*/*.png"))
    with pytest.raises(DatasetError) as refused:
        Deliver(deliver, "train").batch([0, 1], [CAMERA])
    assert f"{named[1]} is 96x64" in refused.value.message and f"{named[0]} is 80x64" in refused.value.message


def test_a_palette_image_of_labels_is_named_and_the_remedy_helps(deliver, tmp_path):
    """A decoder's conversion taken for data: a palette's colors were read as class ids."""
    path = sorted((deliver / "semantic").glob("*/train/*/*.png"))[1]
    ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    palette = PIL.Image.fromarray(ids, "P")
    palette.putpalette([value for n in range(256) for value in (n // 2, 255 - n, 7)])
    palette.save(path)
    recipe = tiny("deliver", deliver, tmp_path / "r.yaml")
    with pytest.raises(LabelError, match=rf"{path.name} is a palette PNG") as refused:
        train(recipe, tmp_path / "o")
    command = refused.value.remedy.partition(": ")[2].removesuffix(".").replace("FILE", repr(str(path)))
    exec(command, {"PIL": PIL, "numpy": np})  # the remedy, to the letter
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), ids)
    train(recipe, tmp_path / "o")
