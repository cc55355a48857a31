# SPDX-License-Identifier: Apache-2.0
"""tools/check_rclpy_calls.py finds what another rclpy does not have."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
import rclpy
from check_rclpy_calls import findings

OURS = """
import rclpy
from rclpy.node import Node
from rclpy.clock import Clock


def use(node: Node) -> Clock:
    node.create_timer(0.1, print, clock=node.get_clock())
    return node.get_clock()
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The installed rclpy at a place of its own, as a checkout would be."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(Path(rclpy.__file__).parent, folder / "rclpy", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


def test_nothing_is_missing_in_the_installed_rclpy(sources):
    assert findings(sources) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("node.py", "def get_clock(", "def get_another_clock(", '"Node" has no attribute "get_clock"'),
        ("node.py", "        clock: Optional[Clock] = None,\n", "", 'Unexpected keyword argument "clock"'),
        ("clock.py", "", None, 'Cannot find implementation or library stub for module named "rclpy.clock"'),
    ],
    ids=["attribute", "argument", "module"],
)
def test_what_is_missing_is_found(sources, tmp_path, file, old, new, said):
    shutil.copytree(sources, tmp_path / "other")
    path = tmp_path / "other" / "rclpy" / file
    text = path.read_text()
    if new is None:
        path.unlink()
    else:
        assert old in text
        path.write_text(text.replace(old, new))
    (tmp_path / "ours.py").write_text(OURS)
    found = findings(tmp_path / "other", tmp_path / "ours.py")
    assert any(said in line for line in found), found
