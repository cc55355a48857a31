# SPDX-License-Identifier: Apache-2.0
"""The structure: which package imports which, where ROS appears, no import cycles, and a license line per file."""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(CHECKOUT / "mlesam_ros").rglob("*.py"), *(CHECKOUT / "training").rglob("*.py")])

# Top to bottom: a package imports packages further down only. Modules beside them (config, pipeline …) are free, as
# long as there is no cycle.
LAYERS = (
    ("cli",),
    ("bench",),
    ("ros", "mlesam_training"),
    ("doctor",),
    ("evaluation", "simulation"),
    ("bags",),
    ("model",),
    ("preprocessing", "sync"),
    ("geometry",),
)
ROS_PACKAGES = (
    "rclpy",
    "launch",
    "launch_ros",
    "message_filters",
    "cv_bridge",
    "sensor_msgs_py",
    "tf2_ros",
    "ament_index_python",
)


def dotted(path: Path) -> str:
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "training" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in SOURCES}


def package(module: str) -> str:
    """The package in LAYERS that a module belongs to; empty for modules beside them."""
    top, *rest = module.split(".")
    name = top if top == "mlesam_training" else rest[0] if rest else ""
    return name if any(name in layer for layer in LAYERS) else ""


def layer(name: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if name in names)


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; name the module in full"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("module", MODULES)
def test_packages_import_packages_below(module):
    here = package(module)
    for other in {package(name) for name in imports(MODULES[module]) if name.startswith(("mlesam_ros", "mlesam_tr"))}:
        if here and other and here != other:
            assert layer(other) > layer(here), f"{module} must not import {other}"


@pytest.mark.parametrize("module", MODULES)
def test_ros_is_imported_in_ros_alone(module):
    if module.startswith("mlesam_ros.ros"):
        return
    for name in imports(MODULES[module]):
        top = name.split(".")[0]
        assert top not in ROS_PACKAGES and not top.endswith("_msgs"), f"{module} imports {name}"
        assert not name.startswith("mlesam_ros.msg"), f"{module} imports a message type"


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_tried_in_compat_alone(module):
    if module == "mlesam_ros.ros.compat":
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Try):
            assert not any(isinstance(s, ast.Import | ast.ImportFrom) for s in node.body), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_numpy_classes_are_subscripted_in_annotations_alone(module):
    """Before NumPy 1.22, `np.floating[Any]` raises when it is evaluated, as in an alias."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    found = [part for value in values for part in ast.walk(value) if isinstance(part, ast.Subscript)]
    classes = {f"np.{name}" for name in ("dtype", "floating", "generic", "integer", "ndarray", "number")}
    assert not [ast.unparse(part) for part in found if ast.unparse(part.value) in classes]


def test_no_import_cycles():
    edges = {m: (imports(path, top_level_only=True) & MODULES.keys()) - {m} for m, path in MODULES.items()}
    while leaves := {module for module, below in edges.items() if not below}:
        edges = {module: below - leaves for module, below in edges.items() if module not in leaves}
    assert not edges, f"modules import each other in a cycle, or lean on one that does: {sorted(edges)}"


def test_file_names_of_tests_are_unique():
    names = Counter(path.name for path in (CHECKOUT / "test").rglob("*.py") if path.name != "conftest.py")
    assert max(names.values()) == 1, f"pytest imports tests by name: {names.most_common(3)}"


def test_pages_name_files_that_exist():
    names = {
        path.name
        for path in [
            *SOURCES,
            *(CHECKOUT / "test").rglob("*.py"),
            *CHECKOUT.glob("*.py"),
            *(path for folder in ("launch", "tools", "benchmarks") for path in (CHECKOUT / folder).glob("*.py")),
        ]
    }
    pages = [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")]
    named = {
        (page.name, name) for page in pages for name in re.findall(r"`[\w/]*?(\w+\.py)\b", page.read_text("utf-8"))
    }
    assert sorted((page, name) for page, name in named if name not in names) == []


LICENSE_LINE = "SPDX-License-Identifier: Apache-2.0"
COMMENTED = {".py", ".sh", ".cmake", ".in", ".xml", ".yaml", ".yml"}
"""Suffixes of source files with comments. Others by name or folder."""


def source_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [CHECKOUT / name for name in listed.stdout.splitlines()]
    named = {"Makefile", "Dockerfile", "CMakeLists.txt"}
    return [
        path
        for path in paths
        if (path.suffix in COMMENTED and path.name != "MANIFEST.in")
        or path.name in named
        or path.parent.name in ("scripts", ".ci")
    ]


def test_every_source_file_names_its_license_at_the_top():
    """In the first line, or in the second below `#!` or `<?xml`."""
    paths = source_files()
    assert len(paths) > 100
    missing = [p for p in paths if not any(LICENSE_LINE in line for line in p.read_text("utf-8").splitlines()[:2])]
    assert [str(path.relative_to(CHECKOUT)) for path in missing if path.exists()] == []
