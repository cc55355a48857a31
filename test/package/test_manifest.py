# SPDX-License-Identifier: Apache-2.0
"""Each import has a package that brings it: in package.xml from ROS, in pyproject.toml and robot.txt from pip."""

import ast
import sys
from collections.abc import Iterable
from importlib import metadata
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib")  # from Python 3.11
CHECKOUT = Path(__file__).resolve().parents[2]
SPEAKERS = [*(CHECKOUT / "mlesam_ros/ros").rglob("*.py"), *(CHECKOUT / "launch").glob("*.py")]

OTHERS = ("rclpy", "bondpy", "launch", "launch_ros", "message_filters", "ament_index_python", "cv_bridge", "tf2_ros")


def imported() -> set[str]:
    found = set()
    for path in SPEAKERS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return {name for name in found if name.endswith(("_msgs", "_interfaces")) or name in OTHERS}


def from_ros() -> set[str | None]:
    manifest = ElementTree.parse(CHECKOUT / "package.xml").getroot()
    return {entry.text for tag in ("depend", "exec_depend") for entry in manifest.iter(tag)}


def test_what_is_imported_is_declared():
    assert {"rclpy", "sensor_msgs", "message_filters"} <= imported() <= from_ros()


def test_pip_brings_a_rich_that_draws_our_progress_bars():
    """Tasks of unknown total came with 12.3; apt of Ubuntu 22.04 has 11."""
    for path in ("pyproject.toml", "requirements/robot.txt"):
        assert "rich>=12.3" in (CHECKOUT / path).read_text(encoding="utf-8")


PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ROSDEP = {"python3-numpy": "numpy", "python3-opencv": "opencv-python-headless", "python3-yaml": "pyyaml"}
"""Keys of package.xml → the dependencies of pyproject.toml that they replace on a robot."""


def requirements(lines: Iterable[str]) -> dict[str, Requirement]:
    found = map(Requirement, filter(None, (line.partition("#")[0].strip() for line in lines)))
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_what_is_imported_from_elsewhere_is_a_dependency():
    names = metadata.packages_distributions()
    used = set()
    for path in [*(CHECKOUT / "mlesam_ros").rglob("*.py"), *(CHECKOUT / "training").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.split(".")[0])
    used -= {*sys.stdlib_module_names, *from_ros(), "mlesam_ros", "mlesam_training", "compression"}  # Python 3.14
    brings = {name: set(map(canonicalize_name, names[name])) for name in used}
    declared = requirements([*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]).keys()
    assert {name for name, distributions in brings.items() if not distributions & declared} == set()
    by_name = {"segment-anything", "tensorboard"}  # importlib; torch.utils.tensorboard
    assert declared - set().union(*brings.values()) <= by_name | {"mlesam-ros", "open3d"}


def test_robot_txt_is_what_rosdep_does_not_bring():
    lines = (CHECKOUT / "requirements/robot.txt").read_text(encoding="utf-8").splitlines()
    robot, wanted = requirements(lines), requirements(PROJECT["dependencies"])
    del robot["setuptools"]
    assert robot.keys() == wanted.keys() - {ROSDEP[key] for key in from_ros() & ROSDEP.keys()}
    for name, requirement in robot.items():
        assert str(requirement) == str(wanted[name])
