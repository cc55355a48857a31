# SPDX-License-Identifier: Apache-2.0
"""Without an extra everything else works, and what needs it says so in one sentence."""

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlesam_ros.errors import PackageError
from mlesam_ros.extras import EXTRAS, require_extra

tomllib = pytest.importorskip("tomllib")  # from Python 3.11
CHECKOUT = Path(__file__).resolve().parents[1]
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({sorted(EXTRAS)}))\n"
"""Importing one of them raises ModuleNotFoundError, and `find_spec` finds none of them."""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run code in a Python without the packages of any extra."""
    hidden = WITHOUT + "import importlib.util as u; real = u.find_spec\n"
    hidden += "u.find_spec = lambda name, *rest: None if sys.modules.get(name, 0) is None else real(name, *rest)\n"
    command = [sys.executable, "-c", hidden + code, *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_extras_are_those_of_pyproject():
    given = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    both = given.pop("all")
    declared = {(name, r.name) for name, lines in given.items() for r in map(Requirement, lines) if here(r)}
    assert declared == set(EXTRAS.values())
    assert Requirement(*both).extras == given.keys()
    modules = packages_distributions()
    assert all(distribution in map(canonicalize_name, modules[m]) for m, (_, distribution) in EXTRAS.items())


def here(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


def test_every_module_can_be_imported_without_extras():
    names = [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for root, package in ((CHECKOUT, "mlesam_ros"), (CHECKOUT / "training", "mlesam_training"))
        for path in (root / package).rglob("*.py")
        if path.name not in ("__main__.py", "__init__.py")
    ]
    code = "import importlib\nsys.path.insert(0, 'training')\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = python(code, *(name for name in names if has_ros() or not name.startswith("mlesam_ros.ros")))
    assert done.returncode == 0, done.stderr


def has_ros() -> bool:
    try:
        import rclpy  # noqa: F401
    except ImportError:
        return False
    return True


COMMANDS = {
    "simulate": (["simulate", "out"], "open3d-cpu", "sim"),
    "demo": (["demo", "--headless"], "open3d-cpu", "sim"),
    "evaluate": (["evaluate", "bag"], "jinja2", "report"),
    "export": (["export", "street", "--format", "openvino"], "openvino", "openvino"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_the_missing_package_and_the_extra(command, tmp_path):
    words, package, extra = COMMANDS[command]
    program = f"sys.argv[1:] = {words}\nimport os; os.chdir({str(tmp_path)!r})\nfrom mlesam_ros.cli import main; main()"
    done = python(f"sys.path[:0] = [{str(CHECKOUT)!r}, {str(CHECKOUT / 'training')!r}]\n{program}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"pip install {package}" in done.stderr and f"pip install 'mlesam_ros[{extra}]'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_installed_packages_are_accepted(monkeypatch):
    require_extra("jinja2", "report.html")
    monkeypatch.setitem(EXTRAS, "no_such_module", ("train", "no-such-package"))
    with pytest.raises(PackageError, match="x needs the package no-such-package, which is not installed"):
        require_extra("no_such_module", "x")
