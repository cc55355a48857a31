# SPDX-License-Identifier: Apache-2.0
"""Data sets by name: those of this package, and those of other packages by entry points."""

import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import mlesam_training.datasets as registry
from mlesam_ros.errors import ConfigError, DatasetError, PackageError
from mlesam_ros.resources import resource_path
from mlesam_training.datasets import GROUP, dataset_names, dataset_options, find_dataset, open_dataset
from mlesam_training.labeled_dataset import FileDataset
from mlesam_training.recipe import FileData, from_mapping, load_recipe

VALLEY = """
from pathlib import Path
import numpy as np
from mlesam_ros.labels import LabelSpace
from mlesam_training.labeled_dataset import FileDataset, SampleFiles, published

class Valley(FileDataset):
    def __init__(self, root, split, modalities=("camera",), season="summer"):
        files = {"camera": Path(root) / "a.npy", "labels": Path(root) / "l.npy"}
        space = LabelSpace("valley", ("grass",), ((0, 1, 0),))
        super().__init__(space, {m: published() for m in modalities}, [SampleFiles(season, files)])

    def images(self, entry, modalities):
        return {m: self.formats[m].normalized(np.load(entry.files[m])) for m in modalities}

    def labels(self, entry):
        return np.load(entry.files["labels"])

DATASET = Valley
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Entry points of another package, given as name → value."""

    def install(**values):
        (tmp_path / "valley_data.py").write_text(VALLEY)
        monkeypatch.syspath_prepend(tmp_path)
        points = [EntryPoint(name, value, GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == GROUP else [])
        registry._entry_points.cache_clear()
        monkeypatch.setattr(FileData, "kinds", dataset_names())

    yield install
    monkeypatch.undo()
    registry._entry_points.cache_clear()
    sys.modules.pop("valley_data", None)


@pytest.mark.parametrize("value", ["valley_data", "valley_data:Valley"])
def test_module_of_another_package_is_found_by_name(installed, tmp_path, value):
    installed(valley=value)
    np.save(tmp_path / "a.npy", np.zeros((32, 32, 3), np.uint8))
    np.save(tmp_path / "l.npy", np.zeros((32, 32), np.uint8))
    assert "valley" in dataset_names() and dataset_options("valley") == ("modalities", "season")
    dataset = open_dataset("valley", "val", {"root": tmp_path, "season": "winter"})
    assert list(dataset.names) == ["winter"] and dataset.survey().tolist() == [1024]
    assert from_mapping(FileData, {"kind": "valley", "season": "fall"}, "data").options == {"season": "fall"}
    with pytest.raises(ConfigError, match="did you mean season"):
        from_mapping(FileData, {"kind": "valley", "seasons": "fall"}, "data")


@pytest.mark.parametrize(
    ("value", "words"),
    [("nowhere.valley", "No module named"), ("valley_data:Hill", "Hill"), ("valley_data:Path", "is no subclass")],
)  # fmt: skip
def test_entry_point_without_a_data_set_is_named(installed, value, words):
    installed(hill=value)
    with pytest.raises(PackageError, match=f"data set hill .*{words}"):
        find_dataset("hill")


def test_own_names_are_not_replaced(installed):
    installed(deliver="valley_data")
    assert find_dataset("deliver").__name__ == "Deliver"


@pytest.mark.parametrize("name", ["deliver", "folders", "mcubes", "muses"])
def test_every_module_is_a_data_set(name):
    assert issubclass(find_dataset(name), FileDataset) and name in dataset_names()
    if name != "folders":
        assert load_recipe(resource_path(f"config/training/{name}.yaml")).data.kind == name


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [("delivery", {"root": "x"}, "did you mean deliver"), ("deliver", {"roots": "x"}, "did you mean root"),
     ("deliver", {}, "lacks root"), ("deliver", {"root": "nowhere"}, "nowhere")],
)  # fmt: skip
def test_open_dataset_names_the_error(name, options, word):
    with pytest.raises((ConfigError, DatasetError), match=word):
        open_dataset(name, "val", options)
