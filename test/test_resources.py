"""Finding shipped files, in a checkout and in an installation."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlesam_ros.errors import ConfigError
from mlesam_ros.resources import resource_path

CHECKOUT = Path(__file__).resolve().parents[1]


def test_a_checkout_finds_its_own_files():
    assert resource_path("config/labels/deliver.yaml") == CHECKOUT / "config/labels/deliver.yaml"


def test_an_absent_file_is_named():
    with pytest.raises(ConfigError, match="config/labels/none"):
        resource_path("config/labels/none.yaml")


def test_an_installation_finds_its_files_under_its_prefix(tmp_path):
    package = tmp_path / "lib/python3/site-packages/mlesam_ros"
    shutil.copytree(CHECKOUT / "mlesam_ros", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / "config/labels", tmp_path / "share/mlesam_ros/config/labels")
    script = "from mlesam_ros.labels import load_label_space; import mlesam_ros.resources as s; print(s.__file__)\n"
    script += "print(s.resource_path('config/labels/deliver.yaml'))"
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=package.parent,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert found == [str(package / "resources.py"), str(tmp_path / "share/mlesam_ros/config/labels/deliver.yaml")]
