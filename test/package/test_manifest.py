# SPDX-License-Identifier: Apache-2.0
"""Each import has a package that brings it: in package.xml from ROS, in pyproject.toml and robot.txt from pip."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
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

TYPE_NAME = re.compile(r"(\w+)/(?:msg|srv)/\w+")
"""Name of a type that is imported at run time."""


def nodes(paths: Iterable[Path]) -> Iterator[ast.AST]:
    for path in paths:
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imported(paths: Iterable[Path]) -> set[str]:
    """Modules of others that these files import."""
    found = set()
    for node in nodes(paths):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found - {*sys.stdlib_module_names, "mlesam_ros", "mlesam_training", "compression"}  # Python 3.14


def named(paths: Iterable[Path]) -> set[str]:
    """Packages whose types these files name."""
    texts = (node.value for node in nodes(paths) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {name[1] for name in map(TYPE_NAME.fullmatch, texts) if name} - {"mlesam_ros"}


def from_ros() -> set[str | None]:
    manifest = ElementTree.parse(CHECKOUT / "package.xml").getroot()
    return {entry.text for tag in ("depend", "exec_depend") for entry in manifest.iter(tag)}


def test_what_is_imported_and_does_not_come_by_pip_is_declared():
    used = {name for name in imported(SPEAKERS) if not brought(name) & declared()} | named(SPEAKERS)
    assert {"rclpy", "launch_ros", "message_filters", "bond"} <= used <= from_ros()


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


def declared() -> set[str]:
    """Distributions that pyproject.toml names, those of the extras included."""
    return {*requirements([*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())])}


def brought(module: str) -> set[str]:
    """Installed distributions that have a module."""
    return set(map(canonicalize_name, metadata.packages_distributions().get(module, ())))


def test_what_is_imported_from_elsewhere_is_a_dependency():
    files = [*(CHECKOUT / "mlesam_ros").rglob("*.py"), *(CHECKOUT / "training").rglob("*.py")]
    brings = {name: brought(name) for name in imported(files) - from_ros()}
    assert {name for name, distributions in brings.items() if not distributions & declared()} == set()
    by_name = {
        "segment-anything",
        "tensorboard",
        "onnx",
        "onnxscript",
    }  # importlib; torch.utils.tensorboard, torch.onnx
    assert declared() - set().union(*brings.values()) <= by_name | {"mlesam-ros", "open3d"}


def test_robot_txt_is_what_rosdep_does_not_bring():
    lines = (CHECKOUT / "requirements/robot.txt").read_text(encoding="utf-8").splitlines()
    robot, wanted = requirements(lines), requirements(PROJECT["dependencies"])
    del robot["setuptools"]
    assert robot.keys() == wanted.keys() - {ROSDEP[key] for key in from_ros() & ROSDEP.keys()}
    for name, requirement in robot.items():
        assert str(requirement) == str(wanted[name])
