# SPDX-License-Identifier: Apache-2.0
"""Which interface packages pip generates: the ones that are missing, and never in the place of a real one."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("rosidl_generator_py")

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, sys
sys.argv = ["setup.py", "--quiet", "--name"]
sys.path.append(os.getcwd())
import setup
print(*(name for name in ("dvs_msgs", "tf2_msgs", "std_msgs") if setup.is_missing(name)))
"""


def missing(**environment: str) -> set[str]:
    """The packages that the set-up would generate."""
    bare = {name: value for name, value in os.environ.items() if name not in ("AMENT_PREFIX_PATH", "PYTHONPATH")}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=CHECKOUT,
        env={**bare, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.skipif(find_spec("ros_wheels_bootstrapper") is None, reason="this machine's ROS may bring the real ones")
def test_the_copies_of_an_earlier_installation_count_as_missing():
    assert missing() == {"dvs_msgs", "tf2_msgs"}


def test_a_package_of_a_sourced_workspace_is_left_alone(tmp_path):
    (tmp_path / "share" / "tf2_msgs").mkdir(parents=True)
    (tmp_path / "share" / "tf2_msgs" / "package.xml").touch()
    assert "tf2_msgs" not in missing(AMENT_PREFIX_PATH=str(tmp_path))


@pytest.mark.parametrize("name", ["mlesam", "perception_node"])
def test_executables_prefer_the_python_of_their_own_environment(tmp_path, name):
    """A wheel's files are not changed when they are installed, so none can name a Python."""
    script = tmp_path / "venv" / "lib" / "mlesam_ros" / name
    for folder, word in (("venv/bin", "its own"), ("path", "the first one")):
        python = tmp_path / folder / "python3"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\necho {word}: $1\n")
        python.chmod(0o755)
    script.parent.mkdir(parents=True)
    shutil.copy2(CHECKOUT / "scripts" / name, script)
    environment = {"PATH": f"{tmp_path / 'path'}:/usr/bin:/bin"}

    def started() -> str:
        return subprocess.run([script], env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert started() == f"its own: {script}"
    (tmp_path / "venv/bin/python3").unlink()
    assert started() == f"the first one: {script}"
