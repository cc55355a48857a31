"""Parameter files against rcl's own reader, which a node of the same name asks."""

from __future__ import annotations

from pathlib import Path

import pytest
import rclpy
from rclpy.node import Node

from mlesam_ros.errors import ConfigError
from mlesam_ros.ros.params_file import read_params_file

FILES = {
    "for all": "/**:\n  ros__parameters: {rate: 5, lidar: {topic: /a, tolerance: 0.5}}\n",
    "by name": "mlesam:\n  ros__parameters: {rate: 6}\n",
    "by full name": "/mlesam:\n  ros__parameters: {rate: 7}\n/robot/mlesam:\n  ros__parameters: {rate: 8}\n",
    "nested": "robot:\n  mlesam:\n    ros__parameters: {rate: 9, modalities: [camera, lidar]}\n",
    "one below": "/*/mlesam:\n  ros__parameters: {rate: 10}\n",
    "any below": "/**/mlesam:\n  ros__parameters: {rate: 11}\n",
    "any name": "/robot/*:\n  ros__parameters: {rate: 12}\n",
    "several": "/**:\n  ros__parameters: {rate: 1, a: x}\n/robot/mlesam:\n  ros__parameters: {rate: 2}\n",
    "others": "/other:\n  ros__parameters: {rate: 3}\n/robot/other:\n  ros__parameters: {rate: 4}\n",
}


@pytest.mark.parametrize("namespace", ["", "/robot", "/big/robot"])
@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_it_reads_what_rcl_reads(text, namespace, tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    assert read_params_file(path, f"{namespace}/mlesam") == by_rcl(path, namespace)


def by_rcl(path: Path, namespace: str) -> dict:
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = Node(
            "mlesam",
            context=context,
            namespace=namespace,
            cli_args=["--ros-args", "--params-file", str(path)],
            automatically_declare_parameters_from_overrides=True,
        )
        found = {name: node.get_parameter(name).value for name in node._parameter_overrides}
        node.destroy_node()
    finally:
        context.shutdown()
    return {name: list(v) if isinstance(v, (list, tuple)) else v for name, v in found.items()}


@pytest.mark.parametrize("text", ["{{{", "5", "- a", "mlesam: 5", "mlesam:\n  ros__parameters: 5", "5: {a: 1}", "\xff"])
def test_what_is_no_parameter_file_is_refused_by_name(text, tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"robot\.yaml"):
        read_params_file(path, "/mlesam")
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_params_file(tmp_path / "none.yaml", "/mlesam")
