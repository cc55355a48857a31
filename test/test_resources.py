# SPDX-License-Identifier: Apache-2.0
"""Installed files, and the number of BLAS threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlesam_ros.errors import ConfigError
from mlesam_ros.resources import resource_path

CHECKOUT = Path(__file__).resolve().parents[1]


def test_checkout_finds_its_own_files():
    assert resource_path("config/labels/deliver.yaml") == CHECKOUT / "config/labels/deliver.yaml"


def test_absent_file_is_named():
    with pytest.raises(ConfigError, match="config/labels/none"):
        resource_path("config/labels/none.yaml")


def test_installation_finds_its_files_under_its_prefix(tmp_path):
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


SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
UNDECIDED = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
PRODUCT = """
import os
import numpy as np
np.ones((200_000, 3), np.float32) @ np.ones((3, 3), np.float32)
print(len(os.listdir("/proc/self/task")))
"""
OURS = "from mlesam_ros.resources import limit_blas_threads\nlimit_blas_threads()\n" + PRODUCT
SHOWN = "import os, sys; sys.stderr.write('decided: ' + os.environ.get('OPENBLAS_NUM_THREADS', 'no')); os._exit(3)"


def threads(program, **environment):
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, env={**UNDECIDED, **environment}, check=True, capture_output=True).stdout)


def test_numpy_starts_no_threads_by_default():
    alone, shared = threads(PRODUCT, OPENBLAS_NUM_THREADS="1"), threads(PRODUCT)
    if shared == alone:
        pytest.skip("the NumPy of this machine multiplies in one thread anyway")
    assert threads(OURS) == alone
    assert threads(OURS, OPENBLAS_NUM_THREADS="2") > alone


@pytest.mark.parametrize("script", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_every_entry_point_limits_threads_before_numpy_is_imported(script, tmp_path):
    """Started with a NumPy in the way that shows what was decided when it was imported."""
    (tmp_path / "numpy.py").write_text(SHOWN)
    paths = os.pathsep.join([str(tmp_path), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(script), "info", "nothing"]
    done = subprocess.run(command, check=False, env={**UNDECIDED, "PYTHONPATH": paths}, capture_output=True)
    assert (done.returncode, done.stderr) == (3, b"decided: 1")
