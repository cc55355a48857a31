"""The parameters of `mlesam_ros.config` on a node: declared, read and changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from mlesam_ros.config import (
    CONFIGURE,
    LIVE,
    START,
    NodeParameters,
    assemble,
    build_parameters,
    iter_parameters,
    parameter_spec,
    unknown_name,
)
from mlesam_ros.errors import ConfigError
from mlesam_ros.parameter_file import ParameterSpec

WHEN = {
    START: "Read once at start.",
    CONFIGURE: "Read by configure; may be set while the node is unconfigured.",
    LIVE: "May be set at any time.",
}
_USE_SIM_TIME = ParameterSpec("use_sim_time", False)
"""Declared and read by rclpy, which refuses without a name and a value."""


def declare(node: Node) -> NodeParameters:
    """Declare every parameter on a node, with its description and range, and read what was given.

    Raises:
        ConfigError: a value is not accepted; nothing has been declared then.
    """
    given = {name: override.value for name, override in node._parameter_overrides.items()}
    parameters = build_parameters(given, node.get_fully_qualified_name())
    defaults = {name: default for name, _, default in iter_parameters()}
    for name, entry, value in iter_parameters(parameters):
        descriptor = _descriptor(entry, parameter_spec(name, entry, defaults[name]))
        node.declare_parameter(name, _plain(value), descriptor, ignore_override=True)
    return parameters


def cast(node: Node, change: Parameter[Any]) -> Parameter[Any]:
    """A change of a node's parameter as the type that was declared: 5 for 5.0; not ours as it is.

    Raises:
        ConfigError: the value is not accepted, or there is no such parameter, or it is read once at start.
    """
    found = next(((entry, default) for name, entry, default in iter_parameters() if name == change.name), None)
    if found is not None:
        if found[0].metadata["change"] == START:
            raise ConfigError(
                f"{change.name} is read once at start.",
                "Give it on the command line or in the parameter file, and start the node again.",
            )
        spec = parameter_spec(change.name, *found)
    elif change.name == _USE_SIM_TIME.name:
        spec = _USE_SIM_TIME
    elif node.has_parameter(change.name):
        return change
    else:
        raise ConfigError(unknown_name(change.name))
    return Parameter(change.name, value=_plain(spec.take(change.value)))


def read(node: Node, changes: Mapping[str, Any] | None = None) -> NodeParameters:
    """The node's parameters as they are, or as they would be with some changes."""
    changes = changes or {}
    values: dict[str, Any] = {}
    for name, _, default in iter_parameters():
        value = changes[name] if name in changes else node.get_parameter(name).value
        values[name] = tuple(value) if isinstance(default, tuple) else value
    return replace(assemble(values), node=node.get_fully_qualified_name())


def _descriptor(entry: Field[Any], spec: ParameterSpec) -> ParameterDescriptor:
    meta = entry.metadata
    descriptor = ParameterDescriptor(description=meta["text"], read_only=meta["change"] == START)
    said = f"Accepted are {spec.words}. " if spec.choices else ""
    descriptor.additional_constraints = said + WHEN[meta["change"]]
    if spec.limits is not None:
        low, high = spec.limits
        if isinstance(spec.default, float):
            span = FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
            descriptor.floating_point_range = [span]
        elif isinstance(spec.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
    return descriptor


def _plain(value: Any) -> Any:
    """As ROS has it: lists, not tuples."""
    return list(value) if isinstance(value, tuple) else value
