# SPDX-License-Identifier: Apache-2.0
"""A street of a few tiny moments, rendered once for all tests of the trainer."""

from pathlib import Path

import pytest
import torch
import yaml

from mlesam_ros.resources import resource_path
from mlesam_training.recipe import Recipe, load_recipe
from mlesam_training.street_dataset import prepare


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def street_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("street")


@pytest.fixture(scope="session")
def smoke_file(street_folder) -> Path:
    """The shipped smoke recipe, with its data in a temporary folder."""
    fields = yaml.safe_load(resource_path("config/training/smoke.yaml").read_text())
    fields["data"]["folder"] = str(street_folder)
    fields["threads"] = 1
    path = street_folder / "smoke.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.fixture(scope="session")
def smoke(smoke_file) -> Recipe:
    return load_recipe(smoke_file)


@pytest.fixture(scope="session")
def street(smoke):
    """The training part of the smoke recipe's data."""
    return prepare(smoke.data, "train")
