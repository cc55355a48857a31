# SPDX-License-Identifier: Apache-2.0
"""Declaration, reading and conversion of the ROS parameters that `mlesam_ros.config` defines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from mlesam_ros.config import (
    NodeParameters,
    assemble,
    build_parameters,
    camera_parameter,
    check_cameras,
    follow_common,
    iter_declared,
    iter_parameters,
    known_names,
    parameter_spec,
    unknown_name,
)
from mlesam_ros.errors import ConfigError
from mlesam_ros.parameter_file import ParameterSpec
from mlesam_ros.parameter_groups import CONFIGURE, LIVE, START

WHEN = {
    START: "Read once at start.",
    CONFIGURE: "Read by configure; may be set while the node is unconfigured.",
    LIVE: "May be set at any time.",
}
_USE_SIM_TIME = ParameterSpec("use_sim_time", False)
"""Declared and read by rclpy, whose errors have neither the parameter's name nor its value."""


def declare_parameters(node: Node) -> NodeParameters:
    """Declare every parameter on a node with its description and range, and return the values.

    Raises:
        ConfigError: a value is invalid; no parameter has been declared then.
    """
    given = {name: override.value for name, override in node._parameter_overrides.items()}
    parameters = build_parameters(given, node.get_fully_qualified_name())
    defaults = {name: default for name, _, default in iter_parameters()}
    for name, entry, value in iter_declared(parameters):
        shared = camera_parameter(name)
        descriptor = _descriptor(entry, parameter_spec(shared, entry, defaults[shared]))
        node.declare_parameter(name, _plain(value), descriptor, ignore_override=True)
    return parameters


def coerce(node: Node, change: Parameter[Any]) -> Parameter[Any]:
    """Convert a change of a parameter to the declared type, such as 5 to 5.0.

    Parameters that other code has declared on the node, such as QoS overrides, are returned unchanged.

    Raises:
        ConfigError: the value is invalid, the parameter does not exist, or it is read once at start.
    """
    shared = camera_parameter(change.name)
    found = next(((entry, default) for name, entry, default in iter_parameters() if name == shared), None)
    if found is not None and node.has_parameter(change.name):
        if found[0].metadata["change"] == START:
            raise ConfigError(
                f"{change.name} is read once at start.",
                "Give it on the command line or in the parameter file, and start the node again.",
            )
        spec = replace(parameter_spec(shared, *found), name=change.name)
    elif change.name == _USE_SIM_TIME.name:
        spec = _USE_SIM_TIME
    elif node.has_parameter(change.name):
        return change
    else:
        raise ConfigError(unknown_name(change.name, _cameras(node)))
    return Parameter(change.name, value=_plain(spec.validate(change.value)))


def for_all_cameras(node: Node, changes: Sequence[Parameter[Any]], own: Collection[str]) -> list[Parameter[Any]]:
    """Add the changes of the cameras' parameters that follow from them; see `follow_common`."""
    if not (cameras := _cameras(node)):
        return [*changes]
    values = {name: node.get_parameter(name).value for name in known_names(cameras)}
    known = {change.name: change.value for change in changes if change.name in values}
    followed = follow_common(values, known, own)
    return [*changes, *(Parameter(name, value=value) for name, value in followed.items())]


def _cameras(node: Node) -> list[str]:
    """Names of the node's cameras; none for the default camera, or before the parameters are declared."""
    declared = node.has_parameter("cameras")
    return check_cameras(node.get_parameter("cameras").value) if declared else []


def read_parameters(node: Node, changes: Mapping[str, Any] | None = None) -> NodeParameters:
    """Return the node's parameters, with some changes if given."""
    changes = changes or {}
    values: dict[str, Any] = {}
    defaults = {name: default for name, _, default in iter_parameters()}
    for name in known_names(_cameras(node)):
        value = changes[name] if name in changes else node.get_parameter(name).value
        values[name] = tuple(value) if isinstance(defaults[camera_parameter(name)], tuple) else value
    return assemble(values, node.get_fully_qualified_name())


def _descriptor(entry: Field[Any], spec: ParameterSpec) -> ParameterDescriptor:
    meta = entry.metadata
    descriptor = ParameterDescriptor(description=meta["text"], read_only=meta["change"] == START)
    accepted = f"Accepted are {spec.description}. " if spec.choices else ""
    descriptor.additional_constraints = accepted + WHEN[meta["change"]]
    if spec.limits is not None:
        low, high = spec.limits
        if isinstance(spec.default, float):
            span = FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
            descriptor.floating_point_range = [span]
        elif isinstance(spec.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
    return descriptor


def _plain(value: Any) -> Any:
    """Convert a tuple to a list for rclpy."""
    return list(value) if isinstance(value, tuple) else value
