"""The house rules that a reader relies on: which room may import which, where ROS may appear, how long a file is."""

import ast
from collections import Counter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(CHECKOUT / "mlesam_ros").rglob("*.py"), *(CHECKOUT / "training").rglob("*.py")])

# Floor by floor, the ground last. A room may import rooms of its own floor's list below it, and itself.
FLOORS = [
    {"cli"},
    {"ros", "training", "evaluation", "doctor", "bench"},
    {"bags", "pipeline", "mask_messages", "config", "rig_learner"},
    {"model", "encoding", "sync", "render", "world", "messages"},
    {"geometry", "labels", "metrics", "robustness"},
    {"frame", "share", "files", "ownership", "progress", "errors", "findings", "blas"}
    | {"strict_yaml", "parameter_file", "parameter_spec"},
]
# Neighbors on one floor that lean on each other, in one direction only.
NEIGHBORS = {
    ("training", "evaluation"),
    ("doctor", "evaluation"),
    ("ros", "doctor"),
    ("ros", "evaluation"),
    ("bench", "ros"),
    ("bench", "training"),
    ("geometry", "labels"),
    ("metrics", "labels"),
    ("messages", "encoding"),
    ("rig_learner", "config"),
    ("world", "encoding"),
    ("model", "encoding"),
    ("render", "encoding"),
    ("bags", "pipeline"),
    ("pipeline", "config"),
    ("mask_messages", "bags"),
    ("share", "errors"),
    ("files", "errors"),
    ("ownership", "errors"),
    ("ownership", "files"),
    ("strict_yaml", "errors"),
    ("parameter_file", "errors"),
    ("parameter_file", "strict_yaml"),
    ("parameter_spec", "errors"),
    ("parameter_spec", "files"),
    ("findings", "errors"),
}
MESSAGE_PACKAGES = ("rclpy", "launch", "launch_ros", "message_filters", "cv_bridge", "tf2_ros", "ament_index_python")


def room(path: Path) -> str:
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return "training" if parts[0] == "training" else parts[1]


def floor(name: str) -> int:
    return next((level for level, rooms in enumerate(FLOORS) if name in rooms), -1)


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; name the room in full"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def rooms_of(names: set[str]) -> set[str]:
    found = {name.split(".")[1] for name in names if name.startswith("mlesam_ros.")}
    return {name for name in found if floor(name) >= 0}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_rooms_import_only_what_lies_below(path):
    here = room(path)
    if here in ("__init__", "interfaces"):
        return
    assert floor(here) >= 0, f"{here} has no floor; add it to the plan in docs/architecture.md and here"
    for other in rooms_of(imports(path)) - {here}:
        assert floor(other) > floor(here) or (here, other) in NEIGHBORS, f"{here} must not import {other}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_only_the_ros_room_speaks_ros(path):
    if room(path) == "ros":
        return
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in MESSAGE_PACKAGES and not top.endswith("_msgs"), f"{path} imports {name}"
        assert not name.startswith("mlesam_ros.msg"), f"{path} imports a message type"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_imports_are_not_tried_outside_the_one_place_for_it(path):
    if "compat" in path.relative_to(CHECKOUT).as_posix():
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Try):
            assert not any(isinstance(s, ast.Import | ast.ImportFrom) for s in node.body), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_files_stay_readable(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 600, f"{path} has {lines} lines; it is two nouns by now"


def test_no_room_reaches_itself_in_a_circle():
    edges = {(room(path), other) for path in SOURCES for other in rooms_of(imports(path)) if other != room(path)}
    edges = {(a, b) for a, b in edges if floor(a) >= 0}
    while leaves := {b for _, b in edges} - {a for a, _ in edges}:
        edges = {(a, b) for a, b in edges if b not in leaves}
    assert not edges, f"rooms import each other in a circle: {sorted(edges)}"


def test_no_two_files_of_tests_share_a_name():
    names = Counter(path.name for path in (CHECKOUT / "test").rglob("*.py") if path.name != "conftest.py")
    assert max(names.values()) == 1, f"pytest imports tests by name: {names.most_common(3)}"
