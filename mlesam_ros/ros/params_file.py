"""A file of ROS parameters, read as the node reads it, without being the node.

rclpy's own reader looks up names differently from one distribution to the next; here what rcl does counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlesam_ros.errors import ConfigError
from mlesam_ros.strict_yaml import read_yaml

_PARAMETERS = "ros__parameters"


def read_params_file(path: Path, node: str) -> dict[str, Any]:
    """What a parameter file sets for a node.

    Args:
        path: YAML of node names, namespaces and wildcards, each with its `ros__parameters`, as `--params-file` takes.
        node: full name, such as `/robot/mlesam`.

    Returns:
        dotted name → value; where several sections match, the later one counts, as in rcl.

    Raises:
        ConfigError: the file cannot be read, or is no parameter file.
    """
    tree = read_yaml(path, "parameter file", unique=False)  # rcl takes the later one, too
    try:
        found: dict[str, Any] = {}
        for pattern, parameters in _sections(tree):
            if re.fullmatch(_expression(pattern), node):
                found.update(_flat(parameters))
        return found
    except (AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        wanted = f"node name, {_PARAMETERS}, values"
        raise ConfigError(f"{path} cannot be read as ROS parameters ({wanted}): {reason}") from error


def _sections(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names as they are written, namespaces in front, with the parameters below them."""
    for name, below in tree.items():
        if name == _PARAMETERS:
            yield prefix, below
        else:
            yield from _sections(below, f"{prefix}/{name.strip('/')}")


def _expression(pattern: str) -> str:
    """`*` is one name, `**` any number of them; https://design.ros2.org, rcl_yaml_param_parser's README."""
    return re.escape(pattern).replace(r"/\*\*", r"(/\w+)*").replace(r"/\*", r"/\w+")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
