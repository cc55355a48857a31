"""package.xml names every ROS package that the code imports, so that rosdep brings all of them."""

import ast
from pathlib import Path
from xml.etree import ElementTree

CHECKOUT = Path(__file__).resolve().parents[2]
SPEAKERS = [*(CHECKOUT / "mlesam_ros/ros").rglob("*.py"), *(CHECKOUT / "launch").glob("*.py")]

OTHERS = ("rclpy", "launch", "launch_ros", "message_filters", "ament_index_python", "cv_bridge", "tf2_ros")


def imported() -> set[str]:
    found = set()
    for path in SPEAKERS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return {name for name in found if name.endswith(("_msgs", "_interfaces")) or name in OTHERS}


def test_what_is_imported_is_declared():
    manifest = ElementTree.parse(CHECKOUT / "package.xml").getroot()
    declared = {entry.text for tag in ("depend", "exec_depend") for entry in manifest.iter(tag)}
    assert {"rclpy", "sensor_msgs", "message_filters"} <= imported() <= declared


def test_pip_brings_a_rich_that_draws_our_progress_bars():
    """Tasks of unknown total came with 12.3; apt of Ubuntu 22.04 has 11."""
    for path in ("pyproject.toml", "requirements/robot.txt"):
        assert "rich>=12.3" in (CHECKOUT / path).read_text(encoding="utf-8")
