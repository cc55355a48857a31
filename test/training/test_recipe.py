# SPDX-License-Identifier: Apache-2.0
"""Recipes: what is read, and what is refused with which words."""

import pytest
import yaml

from mlesam_ros.errors import ConfigError
from mlesam_ros.resources import resource_path
from mlesam_training.recipe import differences, load_recipe, recipe_dict

MINIMAL = {
    "stage": "pretrain",
    "steps": 10,
    "model": {"backbone": "hiera_nano"},
    "data": {
        "folder": "d",
        "train": {"first_seed": 0, "streets": 2, "moments": 3},
        "held_out": {"first_seed": 9, "streets": 1, "moments": 2},
    },
}
TRAIN = MINIMAL["data"]["train"]


def written(tmp_path, changes=None):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **(changes or {})}))
    return path


@pytest.mark.parametrize("path", sorted(resource_path("config/training").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_accepted(path):
    assert load_recipe(path).steps or load_recipe(path).epochs


def test_recipe_round_trip_through_dict(tmp_path):
    recipe = load_recipe(written(tmp_path, {"lr": 1, "augmentation": {"zoom": 2.0}}))
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(recipe_dict(recipe)))
    assert load_recipe(path) == recipe


def test_paths_are_expanded_as_a_shell_would(tmp_path, monkeypatch):
    """Path spelling. No shell reads a recipe; a folder called ~ was made in the working directory."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("BAGS", str(tmp_path))
    (tmp_path / "rig.yaml").write_text("/mlesam: {ros__parameters: {max_wait: 0.1}}")
    street = {"data": {**MINIMAL["data"], "folder": "~/data"}, "start": "$HOME/x.safetensors"}
    recipe = load_recipe(written(tmp_path, street))
    assert (recipe.data.folder, recipe.start) == ("/home/me/data", "/home/me/x.safetensors")
    bags = {
        "kind": "bags", "folder": "~/arrays", "train": ["$BAGS/a", "b"], "held_out": ["~/c.mcap"], "size": [64, 64],
        "params": "${BAGS}/rig.yaml", "space": "~/classes.yaml",
    }  # fmt: skip
    data = load_recipe(written(tmp_path, {"data": bags})).data
    assert (data.folder, data.train, data.held_out) == ("/home/me/arrays", (f"{tmp_path}/a", "b"), ("/home/me/c.mcap",))
    assert (data.params, data.space) == (f"{tmp_path}/rig.yaml", "/home/me/classes.yaml")
    crops = {"crop": 64, "scales": [0.5, 2.0], "flip": 0.5, "jitter": 0.2, "blur": 0.2, "sigma": None}
    crops |= {"blurred": []}
    published = {"kind": "deliver", "root": "~/DELIVER", "crops": crops}
    assert load_recipe(written(tmp_path, {"data": published})).data.root == "/home/me/DELIVER"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stepz": 3}, "did you mean steps"),
        ({"augmentation": {"flipp": 0.5}}, "did you mean flip"),
        ({"steps": "many"}, "'many'; it must be of type int"),
        ({"steps": True}, "True; it must be of type int"),
        ({"steps": 0}, "steps is 0"),
        ({"stage": "pretraining"}, "did you mean pretrain"),
        ({"stage": "experts"}, "needs backbone"),
        ({"precision": "fp16"}, "did you mean bf16|did you mean fp32"),
        ({"mixture": {"lidr": 1.0}}, "did you mean lidar"),
        ({"data": {**MINIMAL["data"], "held_out": {"first_seed": 1, "streets": 1, "moments": 1}}}, "share the seed 1"),
        ({"data": {"folder": "d", "train": MINIMAL["data"]["train"]}}, "lacks held_out"),
        ({"data": 3}, "3; it must be a mapping"),
        ({"data": {**MINIMAL["data"], "size": 100}}, "size is 100; it must be a multiple of 32"),
        ({"data": {**MINIMAL["data"], "train": {**TRAIN, "weathers": {"fgo": 1}}}}, "did you mean fog"),
        ({"data": {**MINIMAL["data"], "train": {**TRAIN, "faults": {"none": -1}}}}, "share of none is -1"),
        (
            {"data": {**MINIMAL["data"], "train": {**TRAIN, "faults": {"none": "all"}}}},
            "'all'; it must be of type float",
        ),
        ({"data": {**MINIMAL["data"], "train": {**TRAIN, "weathers": {}}}}, "at least one share"),
        ({"data": {**MINIMAL["data"], "train": {**TRAIN, "streets": 0}}}, "streets is 0"),
        ({"batch": 8, "accumulate": 3}, "batch is 8; with accumulate 3"),
        ({"ema": 1.5}, "ema is 1.5"),
        ({"device": "gpu"}, "did you mean cpu"),
        ({"data": {**MINIMAL["data"], "train": {**TRAIN, "styles": {"plane": 1}}}}, "did you mean plain"),
        ({"augmentation": {"heights": [48]}}, "heights is 48; it must be a multiple of 32"),
        ({"augmentation": {"heights": [32, 512]}}, "heights has 512; the data is 256 high"),
        ({"validate_every": -1}, "validate_every is -1"),
        ({"teacher": "t.safetensors"}, "teacher is for stage experts"),
        ({"stage": "experts", "backbone": "b", "teacher": "t", "full_share": 0.0}, "full_share is 0"),
        ({"alone": ["camera"]}, "alone is for stage experts"),
        ({"stage": "experts", "backbone": "b", "alone": ["radar"]}, "accepted are camera, depth, event, lidar"),
        ({"distillation_weight": -1.0}, "distillation_weight is -1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(written(tmp_path, changes))


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_recipe(tmp_path / "none.yaml")


def test_differences_ignores_mutable_keys(tmp_path):
    one = recipe_dict(load_recipe(written(tmp_path)))
    same = recipe_dict(
        load_recipe(written(tmp_path, {"threads": 1, "log_every": 5, "device": "cpu", "robustness": True}))
    )
    other = recipe_dict(load_recipe(written(tmp_path, {"lr": 0.1, "augmentation": {"flip": 0.0}})))
    assert differences(one, same) == []
    assert differences(one, other) == ["augmentation.flip", "lr"]
