# SPDX-License-Identifier: Apache-2.0
"""The small robot of the ROS tests and its tiny weights."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "ros"))

pytest.importorskip("rclpy")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | int]:
    """The parameters that name a tiny model of random weights."""
    from tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("weights"))
