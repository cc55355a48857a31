# SPDX-License-Identifier: Apache-2.0
"""Parameter specifications (type, unit, range), and parameter files as rcl parses them."""

from __future__ import annotations

import difflib
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mlesam_ros.errors import ConfigError, shorten
from mlesam_ros.files import expand_path
from mlesam_ros.strict_yaml import compose_yaml
from mlesam_ros.types import NODE

_MAX_VALUE_CHARACTERS = 120  # characters of a value in an error message
_MAX_TOPIC_CHARACTERS = 247  # characters; rmw's limit, 255 less 8 for the middleware's prefix
_SUBSTITUTIONS = {"node": NODE[1:], "ns": "/", "namespace": "/"}


@dataclass(frozen=True)
class ParameterSpec:
    """Accepted values of one parameter.

    Attributes:
        name: the parameter, such as `lidar.tolerance`.
        default: bool, int, float, str, or a tuple of int or str; its type is the parameter's.
        limits: minimum and maximum of a number, or of a list's numbers.
        choices: accepted values of a text, or of a list's entries; empty for any.
        topic: the text is a topic name.
        path: the text is a path, which is expanded as a shell would.
    """

    name: str
    default: Any
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    topic: bool = False
    path: bool = False

    @property
    def description(self) -> str:
        """Description of the accepted values, such as `numbers from 0 to 10`."""
        if self.choices:
            entries = ", ".join(choice or '""' for choice in self.choices)
            return f"lists of {entries}, each once" if isinstance(self.default, tuple) else entries
        words = self._type.description.format(count=len(self.default) if isinstance(self.default, tuple) else 1)
        return words + ("" if self.limits is None else " from {:.10g} to {:.10g}".format(*self.limits))

    def validate(self, value: Any) -> Any:
        """Convert a value to the parameter's type: 5 to 5.0, lists to tuples.

        Args:
            value: from rclpy or the parameter file; None for a parameter without value or an empty list.

        Raises:
            ConfigError: the value is invalid; names the parameter, the value and the accepted ones.
        """
        converted = self._type.convert(value)
        if converted is None or not self._is_within(converted):
            raise self._refusal(value)
        for entry in converted if isinstance(converted, tuple) else (converted,):
            if self.choices and entry not in self.choices:
                raise self._refusal(value, entry)
        if self.topic and converted and (reason := topic_fault(converted)):
            accepted = f"accepted are names of topics, such as {self.default}"
            raise ConfigError(f"{self.name} is {format_value(value)}; {accepted}: {reason}.")
        return str(expand_path(converted)) if self.path and converted else converted

    def _is_within(self, converted: Any) -> bool:
        """Whether numbers are in range, lists of numbers have the required length, lists of strings no duplicates."""
        is_list = isinstance(converted, tuple)
        if is_list and isinstance(self.default[0], str):
            return 0 < len(converted) == len(set(converted))
        numbers = converted if is_list else (converted,)
        if is_list and len(numbers) != len(self.default):
            return False
        return self.limits is None or all(self.limits[0] <= number <= self.limits[1] for number in numbers)

    @property
    def _type(self) -> _ParameterType:
        default = self.default
        return _PARAMETER_TYPES[(type(default[0]),) if isinstance(default, tuple) else type(default)]

    def _refusal(self, value: Any, entry: str = "") -> ConfigError:
        given = "has no value" if value is None else f"is {format_value(value)}"
        return ConfigError(f"{self.name} {given}; accepted are {self.description}.", self._remedy(value, entry))

    def _remedy(self, value: Any, entry: str) -> str:
        if near := difflib.get_close_matches(entry, self.choices, 1):
            return f"Did you mean {near[0]}?"
        if isinstance(self.default, str) and isinstance(value, bool | int | float):
            # YAML parses unquoted 5 and on as a number and a boolean.
            return f"For a string write '{format_value(value)}' in a file, and \"'{format_value(value)}'\" in a shell."
        return ""


def format_value(value: Any) -> str:
    """Format a value as YAML, shortened if long."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        text = f"[{', '.join(map(format_value, value))}]"
    else:
        text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[: _MAX_VALUE_CHARACTERS - 1]}…"


def topic_fault(name: str) -> str | None:
    """Reason for which ROS refuses a topic name, in the wording of rcl and rmw; None for a valid name.

    The rules of https://design.ros2.org/articles/topic_and_service_names.html as rcl_validate_topic_name,
    rcl_expand_topic_name for a node /mlesam, and rmw_validate_full_topic_name apply them.
    """
    if not name:
        return "topic name must not be empty string"
    if name[0] in "0123456789":
        return _NUMBER
    if name.endswith("/"):
        return "topic name must not end with a forward slash"
    if reason := _character_fault(name):
        return reason
    if reason := _token_fault(name):
        return reason
    full = f"{NODE}{name[1:]}" if name.startswith("~") else name
    for word in re.findall(r"\{(\w*)\}", full):
        if word not in _SUBSTITUTIONS:
            return f"unknown substitution: {{{word}}}"
        full = full.replace(f"{{{word}}}", _SUBSTITUTIONS[word], 1)
    return _full_topic_fault(full if full.startswith("/") else f"/{full}")


_NUMBER = "topic name token must not start with a number"
_BRACES = "topic name must not have unmatched (unbalanced) curly braces '{}'"


def _character_fault(name: str) -> str | None:
    """First invalid character."""
    opened = -1
    for at, character in enumerate(name):
        inside = opened >= 0
        if re.fullmatch("[A-Za-z0-9]", character):
            if inside and at - 1 == opened and character in "0123456789":
                return "substitution name must not start with a number"
        elif character == "~":
            if at:
                return "topic name must not have tilde '~' unless it is the first character"
        elif character == "}":
            if not inside:
                return _BRACES
            opened = -1
        elif character != "_" and inside:
            return "substitution name must not contain characters other than alphanumerics or '_'"
        elif character == "{":
            opened = at
        elif character not in "_/":
            return "topic name must not contain characters other than alphanumerics, '_', '~', '{', or '}'"
    return _BRACES if opened >= 0 else None


def _token_fault(name: str) -> str | None:
    """As in rcl, a tilde with one character after it is accepted."""
    for at in range(len(name) - 1):
        if name[at] == "/":
            if name[at + 1] in "0123456789":
                return _NUMBER
        elif at == 1 and name[0] == "~":
            return "topic name must not have a tilde '~' that is not followed by a forward slash '/'"
    return None


def _full_topic_fault(full: str) -> str | None:
    if full.endswith("/"):
        return "topic name must not end with a '/'"
    if bad := re.search("/[/0-9]", full):
        return "topic name must not contain repeated '/'" if bad[0] == "//" else _NUMBER
    return "topic length should not exceed '255U - 8U'" if len(full) > _MAX_TOPIC_CHARACTERS else None


@dataclass(frozen=True)
class _ParameterType:
    """One type of parameter: its description, and the conversion of a value to it (None if not convertible)."""

    description: str
    convert: Callable[[Any], Any]


def _exactly(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if type(value) is kind else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None


def _list_of(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, list | tuple | array):
            return None
        return tuple(value) if all(type(entry) is kind for entry in value) else None

    return convert


_PARAMETER_TYPES: dict[Any, _ParameterType] = {
    bool: _ParameterType("true and false", _exactly(bool)),
    int: _ParameterType("integers", _exactly(int)),
    float: _ParameterType("numbers", _number),
    str: _ParameterType("strings", _exactly(str)),
    (str,): _ParameterType("lists of strings, each once", _list_of(str)),
    (int,): _ParameterType("lists of {count} integers", _list_of(int)),
}


_PARAMETERS = "ros__parameters"
_TOKEN = r"[A-Za-z_][A-Za-z0-9_]*"
_PART = r"[A-Za-z_/][A-Za-z0-9_/]*"
"""Part of a parameter's name between two dots; topics are allowed: `qos_overrides./tf.subscription.depth`."""
_RULE = re.compile(rf"(?:({_TOKEN}):)?({_PART}(?:\.{_PART})*):=(.*)", re.DOTALL)
_EXAMPLE = "Write NAME:=VALUE, such as lidar.offset:=0.05."
_LAYOUT = f"Write the node's name or /**, below it {_PARAMETERS}, and below that the parameters."

FLAGS = ["true", "false", "True", "False"]
"""Accepted values of launch arguments that are flags: as in YAML, and as nav2's launch files write them."""

_TRUE = frozenset(("Y", "y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"))
_FALSE = frozenset(("N", "n", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"))
_INTEGER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HEXADECIMAL = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?")
_INFINITY_OR_NAN = re.compile(r"([+-]?)\.?(?:(inf(?:inity)?)|nan)", re.IGNORECASE)
_TEXT_TAG = re.compile(r"(?:&\S+\s+)?!!str\b")
_MIN_NORMAL_DOUBLE = 2.2250738585072014e-308
"""Smallest normal double; below it strtod reports a range error, and rcl keeps the text."""


class GivenParameters(NamedTuple):
    """Values that a parameter file and `-p` rules set for a node.

    Attributes:
        values: dotted name → value, None for an empty list.
        overridden: names whose value is that of a rule.
        ineffective: names of rules without effect, because a later section of the file sets them.
        other_sections: the sections of the file, if it has any and none is for this node.
    """

    values: dict[str, Any]
    overridden: frozenset[str]
    ineffective: list[str]
    other_sections: list[str]


def read_node_parameters(path: str | Path | None, rules: Sequence[str], node: str) -> GivenParameters:
    """Read a parameter file and then `-p` rules as rcl does.

    Args:
        path: YAML of node names, namespaces and wildcards, each with its `ros__parameters`, as for `--params-file`;
            None for no file.
        rules: `NAME:=VALUE` or `NODE:NAME:=VALUE`, as for `-p`.
        node: full name, such as `/robot/mlesam`.

    Raises:
        ConfigError: the file or a rule cannot be read.
    """
    sections = {} if path is None else _read_sections(path)
    other_sections = [] if any(_applies_to(name, node) for name in sections) else list(sections)
    ruled: dict[str, set[str]] = {}
    for rule in rules:
        section, name, value = _read_rule(rule)
        sections.setdefault(section, {})[name] = value
        ruled.setdefault(section, set()).add(name)
    origins = {name: section for section, values in sections.items() if _applies_to(section, node) for name in values}
    values = {name: sections[section][name] for name, section in origins.items()}
    wanted = {name for section, names in ruled.items() if _applies_to(section, node) for name in names}
    overridden = frozenset(name for name in wanted if name in ruled.get(origins[name], ()))
    return GivenParameters(values, overridden, sorted(wanted - overridden), other_sections)


def read_parameter_file(path: str | Path, node: str) -> tuple[dict[str, Any], list[str]]:
    """Read the values of a parameter file for a node: `values` and `other_sections` of `GivenParameters`.

    Raises:
        ConfigError: the file cannot be read, or is not a parameter file.
    """
    given = read_node_parameters(path, (), node)
    return given.values, given.other_sections


def read_override(rule: str, node: str) -> dict[str, Any]:
    """Read one `-p` rule: name → value; empty if it is for a node of another name.

    Raises:
        ConfigError: the rule cannot be read.
    """
    return read_node_parameters(None, [rule], node).values


def _read_sections(path: str | Path) -> dict[str, dict[str, Any]]:
    try:
        tree = compose_yaml(Path(path).read_text(encoding="utf-8-sig"))
        _check_aliases(tree, set())
        sections: dict[str, dict[str, Any]] = {}
        for name, parameters in _sections(tree, ()):
            sections.setdefault(name, {}).update(_flatten(parameters, ""))
        return sections
    except (OSError, yaml.YAMLError, ValueError) as error:  # UnicodeDecodeError and a NUL in the path are ValueErrors
        reason = " ".join(str(error).split()).rstrip(".")
        remedy = _LAYOUT if isinstance(error, _LayoutError) else ""
        raise ConfigError(f"parameter file {path} cannot be read: {reason}.", remedy) from error


def _read_rule(rule: str) -> tuple[str, str, Any]:
    """Section, name and value of a `-p` rule."""
    parts = _RULE.fullmatch(rule)
    if parts is None:
        raise ConfigError(f"-p {rule!r} is not NAME:=VALUE.", _EXAMPLE)
    section, name, text = parts.groups()
    try:
        tree = compose_yaml(text)
        if tree is None:
            raise _LayoutError("it has no value")
        value = _value(tree, name)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"-p {rule!r} cannot be read: {reason}.", _EXAMPLE) from error
    return section or "/**", name, value


class _LayoutError(yaml.YAMLError):
    """YAML that is not a parameter file."""


def _check_aliases(tree: yaml.Node | None, seen: set[int]) -> None:
    if tree is None or not tree.value:
        return
    if id(tree) in seen:
        raise _LayoutError(f"the node in line {_line(tree)} has an alias, which ROS does not support")
    seen.add(id(tree))
    for part in tree.value if isinstance(tree, yaml.CollectionNode) else ():
        for node in part if isinstance(part, tuple) else (part,):
            _check_aliases(node, seen)


def _sections(tree: yaml.Node | None, names: tuple[str, ...]) -> Iterator[tuple[str, yaml.MappingNode]]:
    """Node names as written, with their namespaces, and the parameters below them."""
    if tree is None:
        return
    if not isinstance(tree, yaml.MappingNode):
        raise _LayoutError(f"line {_line(tree)} has a value before {_PARAMETERS}")
    for key, below in tree.value:
        name = _key(key)
        if name != _PARAMETERS:
            yield from _sections(below, (*names, name))
            continue
        if not isinstance(below, yaml.MappingNode):
            raise _LayoutError(f"{_PARAMETERS} in line {_line(key)} is not a mapping")
        if not re.fullmatch(rf"/?(?:{_TOKEN}|\*\*?)(?:/(?:{_TOKEN}|\*\*?))*", "/".join(names)):
            raise _LayoutError(f"{'/'.join(names)!r} above {_PARAMETERS} in line {_line(key)} is not a node name")
        yield "/".join(names), below


def _applies_to(section: str, node: str) -> bool:
    """Whether a section applies to a node: `*` is one name, `**` any number (rcl_yaml_param_parser's README)."""
    expression = re.escape(f"/{section.lstrip('/')}").replace(r"/\*\*", r"(/\w+)*").replace(r"/\*", r"/\w+")
    return re.fullmatch(expression, node) is not None


def _flatten(tree: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, below in tree.value:
        name = prefix + _key(key)
        if isinstance(below, yaml.MappingNode) and below.value:
            yield from _flatten(below, f"{name}.")
        else:
            yield name, None if isinstance(below, yaml.MappingNode) else _value(below, name)


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise _LayoutError(f"line {_line(node)} has a key that is not a string")
    return str(node.value)


def _value(node: yaml.Node, name: str) -> Any:
    """A scalar, or a list of scalars of one type; None for an empty list."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, name)
    if isinstance(node, yaml.MappingNode):
        raise _LayoutError(f"{name} in line {_line(node)} is a mapping instead of a value")
    entries = []
    for entry in node.value:
        if not isinstance(entry, yaml.ScalarNode):
            raise _LayoutError(f"{name} in line {_line(node)} has a list or a mapping within a list")
        entries.append(_scalar(entry, name))
    if len({type(entry) for entry in entries}) > 1:
        raise _LayoutError(f"{name} in line {_line(node)} is a list of different types")
    return entries or None


def _scalar(node: yaml.ScalarNode, name: str) -> Any:
    text = str(node.value)
    mark = node.start_mark
    if node.style in ("'", '"') or _TEXT_TAG.match(mark.buffer or "", mark.pointer):
        return text
    if not text:
        raise _LayoutError(f"{name} in line {_line(node)} has no value")
    return parse_scalar(text)


def parse_scalar(text: str) -> bool | int | float | str:
    """Parse an unquoted scalar as rcl does: boolean, strtol with base 0 (64 bits), strtod, else the text."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        digits = text.lstrip("+-")
        octal = digits.startswith("0") and digits[1:].isdigit()
        number = int(digits, 8 if octal else 0) * (-1 if text.startswith("-") else 1)
        if -(2**63) <= number < 2**63:
            return number
    if parts := _INFINITY_OR_NAN.fullmatch(text):
        return float(f"{parts[1]}inf") if parts[2] else float("nan")
    if _DECIMAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
        try:
            real = float.fromhex(text) if _HEXADECIMAL.fullmatch(text) else float(text)
        except OverflowError:
            return text
        zero = not re.search("[1-9a-fA-F]", re.split("[eEpP]", text)[0]) if "x" not in text.lower() else real == 0
        return real if zero or _MIN_NORMAL_DOUBLE <= abs(real) < float("inf") else text
    return text


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def ineffective_rules(path: str | Path | None, names: Sequence[str]) -> list[str]:
    """Warnings for `-p` rules that a later section of the file overrides."""
    return [
        shorten(f"-p {name}:=… has no effect, as in ROS: a later section of {path} sets {name}. Change it there.")
        for name in names
    ]


def section_warnings(path: str | Path | None, node: str, sections: Sequence[str]) -> list[str]:
    """Warning where a parameter file has sections, but none for this node."""
    listed = ", ".join(sections)
    words = f"{path} has no section for {node} and sets no parameter; its sections are {listed}."
    return [shorten(words)] if sections else []
