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

from mlesam_ros.errors import ConfigError
from mlesam_ros.files import expand_path
from mlesam_ros.strict_yaml import compose_yaml

_LONGEST = 120  # characters of a value in an error message
_NODE = "mlesam"
_LONGEST_TOPIC = 247  # characters; rmw's limit, 255 less 8 for the middleware's prefix
_SUBSTITUTIONS = {"node": _NODE, "ns": "/", "namespace": "/"}


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
    def words(self) -> str:
        """Description of the accepted values, such as `numbers from 0 to 10`."""
        if self.choices:
            entries = ", ".join(choice or '""' for choice in self.choices)
            return f"lists of {entries}, each once" if isinstance(self.default, tuple) else entries
        words = self._kind.words.format(count=len(self.default) if isinstance(self.default, tuple) else 1)
        return words + ("" if self.limits is None else " from {:.10g} to {:.10g}".format(*self.limits))

    def take(self, value: Any) -> Any:
        """Convert a value to the parameter's type: 5 to 5.0, lists to tuples.

        Args:
            value: from rclpy or the parameter file; None for a parameter without value or an empty list.

        Raises:
            ConfigError: the value is invalid; names the parameter, the value and the accepted ones.
        """
        taken = self._kind.take(value)
        if taken is None or not self._is_within(taken):
            raise self._refusal(value)
        for entry in taken if isinstance(taken, tuple) else (taken,):
            if self.choices and entry not in self.choices:
                raise self._refusal(value, entry)
        if self.topic and taken and (fault := topic_fault(taken)):
            words = f"{self.name} is {shown(value)}; accepted are names of topics, such as {self.default}: {fault}."
            raise ConfigError(words)
        return str(expand_path(taken)) if self.path and taken else taken

    def _is_within(self, taken: Any) -> bool:
        """Whether numbers are in range, lists of numbers have the required length, lists of choices no duplicates."""
        several = isinstance(taken, tuple)
        if several and self.choices:
            return 0 < len(taken) == len(set(taken))
        numbers = taken if several else (taken,)
        if several and len(numbers) != len(self.default):
            return False
        return self.limits is None or all(self.limits[0] <= number <= self.limits[1] for number in numbers)

    @property
    def _kind(self) -> _Kind:
        default = self.default
        return _KINDS[(type(default[0]),) if isinstance(default, tuple) else type(default)]

    def _refusal(self, value: Any, entry: str = "") -> ConfigError:
        given = "has no value" if value is None else f"is {shown(value)}"
        return ConfigError(f"{self.name} {given}; accepted are {self.words}.", self._remedy(value, entry))

    def _remedy(self, value: Any, entry: str) -> str:
        if near := difflib.get_close_matches(entry, self.choices, 1):
            return f"Did you mean {near[0]}?"
        if isinstance(self.default, str) and isinstance(value, bool | int | float):
            # YAML parses unquoted 5 and on as a number and a boolean.
            return f"To mean a text write '{shown(value)}' in a file, and \"'{shown(value)}'\" in a shell."
        return ""


def shown(value: Any) -> str:
    """Format a value as YAML, shortened if long."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        text = f"[{', '.join(map(shown, value))}]"
    else:
        text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


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
    if fault := _character_fault(name):
        return fault
    if fault := _token_fault(name):
        return fault
    full = f"/{_NODE}{name[1:]}" if name.startswith("~") else name
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
    return "topic length should not exceed '255U - 8U'" if len(full) > _LONGEST_TOPIC else None


@dataclass(frozen=True)
class _Kind:
    """One type of parameter: its description, and the conversion of a value to it (None if not convertible)."""

    words: str
    take: Callable[[Any], Any]


def _only(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if type(value) is kind else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None


def _list_of(kind: type) -> Callable[[Any], Any]:
    def take(value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, list | tuple | array):
            return None
        return tuple(value) if all(type(entry) is kind for entry in value) else None

    return take


_KINDS: dict[Any, _Kind] = {
    bool: _Kind("true and false", _only(bool)),
    int: _Kind("whole numbers", _only(int)),
    float: _Kind("numbers", _number),
    str: _Kind("texts", _only(str)),
    (str,): _Kind("lists of {count} texts", _list_of(str)),
    (int,): _Kind("lists of {count} whole numbers", _list_of(int)),
}


NODE = "/mlesam"
"""Default full name of the node whose sections are read."""
_PARAMETERS = "ros__parameters"
_TOKEN = r"[A-Za-z_][A-Za-z0-9_]*"
_PART = r"[A-Za-z_/][A-Za-z0-9_/]*"
"""Part of a parameter's name between two dots; topics are allowed: `qos_overrides./tf.subscription.depth`."""
_RULE = re.compile(rf"(?:({_TOKEN}):)?({_PART}(?:\.{_PART})*):=(.*)", re.DOTALL)
_EXAMPLE = "Write NAME:=VALUE, such as lidar.offset:=0.05."
_LAYOUT = f"Write the node's name or /**, below it {_PARAMETERS}, and below that the parameters."

_TRUE = frozenset(("Y", "y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"))
_FALSE = frozenset(("N", "n", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"))
_INTEGER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HEXADECIMAL = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"([+-]?)\.?(?:(inf(?:inity)?)|nan)", re.IGNORECASE)
_TEXT_TAG = re.compile(r"(?:&\S+\s+)?!!str\b")
_SMALLEST = 2.2250738585072014e-308
"""Smallest normal double; below it strtod reports a range error, and rcl keeps the text."""


class Given(NamedTuple):
    """Values that a parameter file and `-p` rules set for a node.

    Attributes:
        values: dotted name → value, None for an empty list.
        overridden: names whose value is that of a rule.
        beaten: names of rules without effect, because a later section of the file sets them.
        others: the sections of the file, if it has any and none is for this node.
    """

    values: dict[str, Any]
    overridden: frozenset[str]
    beaten: list[str]
    others: list[str]


def read_node_parameters(path: str | Path | None, rules: Sequence[str], node: str) -> Given:
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
    others = [] if any(_is_for(name, node) for name in sections) else list(sections)
    ruled: dict[str, set[str]] = {}
    for rule in rules:
        section, name, value = _read_rule(rule)
        sections.setdefault(section, {})[name] = value
        ruled.setdefault(section, set()).add(name)
    origins = {name: section for section, values in sections.items() if _is_for(section, node) for name in values}
    values = {name: sections[section][name] for name, section in origins.items()}
    wanted = {name for section, names in ruled.items() if _is_for(section, node) for name in names}
    overridden = frozenset(name for name in wanted if name in ruled.get(origins[name], ()))
    return Given(values, overridden, sorted(wanted - overridden), others)


def read_parameter_file(path: str | Path, node: str) -> tuple[dict[str, Any], list[str]]:
    """Read the values of a parameter file for a node: `values` and `others` of `Given`.

    Raises:
        ConfigError: the file cannot be read, or is not a parameter file.
    """
    given = read_node_parameters(path, (), node)
    return given.values, given.others


def read_override(rule: str, node: str) -> dict[str, Any]:
    """Read one `-p` rule: name → value; empty if it is for a node of another name.

    Raises:
        ConfigError: the rule cannot be read.
    """
    return read_node_parameters(None, [rule], node).values


def _read_sections(path: str | Path) -> dict[str, dict[str, Any]]:
    try:
        tree = compose_yaml(Path(path).read_text(encoding="utf-8-sig"))
        _refuse_aliases(tree, set())
        sections: dict[str, dict[str, Any]] = {}
        for name, parameters in _sections(tree, ()):
            sections.setdefault(name, {}).update(_flat(parameters, ""))
        return sections
    except (OSError, yaml.YAMLError, ValueError) as error:  # UnicodeDecodeError and a NUL in the path are ValueErrors
        reason = " ".join(str(error).split()).rstrip(".")
        remedy = _LAYOUT if isinstance(error, _LayoutError) else ""
        raise ConfigError(f"parameter file {path} cannot be read: {reason}.", remedy) from error


def _read_rule(rule: str) -> tuple[str, str, Any]:
    """Section, name and value of a `-p` rule."""
    parts = _RULE.fullmatch(rule)
    if parts is None:
        raise ConfigError(f"-p {rule!r} is no name and value.", _EXAMPLE)
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


def _refuse_aliases(tree: yaml.Node | None, seen: set[int]) -> None:
    if tree is None or not tree.value:
        return
    if id(tree) in seen:
        raise _LayoutError(f"what begins in line {_line(tree)} has an alias, and ROS supports none")
    seen.add(id(tree))
    for part in tree.value if isinstance(tree, yaml.CollectionNode) else ():
        for node in part if isinstance(part, tuple) else (part,):
            _refuse_aliases(node, seen)


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
            raise _LayoutError(f"{_PARAMETERS} in line {_line(key)} is no mapping of names and values")
        if not re.fullmatch(rf"/?(?:{_TOKEN}|\*\*?)(?:/(?:{_TOKEN}|\*\*?))*", "/".join(names)):
            raise _LayoutError(f"{'/'.join(names)!r} above {_PARAMETERS} in line {_line(key)} is no name of a node")
        yield "/".join(names), below


def _is_for(section: str, node: str) -> bool:
    """Whether a section applies to a node: `*` is one name, `**` any number (rcl_yaml_param_parser's README)."""
    expression = re.escape(f"/{section.lstrip('/')}").replace(r"/\*\*", r"(/\w+)*").replace(r"/\*", r"/\w+")
    return re.fullmatch(expression, node) is not None


def _flat(tree: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, below in tree.value:
        name = prefix + _key(key)
        if isinstance(below, yaml.MappingNode) and below.value:
            yield from _flat(below, f"{name}.")
        else:
            yield name, None if isinstance(below, yaml.MappingNode) else _value(below, name)


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise _LayoutError(f"line {_line(node)} has a key that is no name")
    return str(node.value)


def _value(node: yaml.Node, name: str) -> Any:
    """A scalar, or a list of scalars of one type; None for an empty list."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, name)
    if isinstance(node, yaml.MappingNode):
        raise _LayoutError(f"{name} in line {_line(node)} has names and values where a value belongs")
    entries = []
    for entry in node.value:
        if not isinstance(entry, yaml.ScalarNode):
            raise _LayoutError(f"{name} in line {_line(node)} has a list or names within a list")
        entries.append(_scalar(entry, name))
    if len({type(entry) for entry in entries}) > 1:
        raise _LayoutError(f"{name} in line {_line(node)} is a list of values of several types")
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
    if parts := _NO_NUMBER.fullmatch(text):
        return float(f"{parts[1]}inf") if parts[2] else float("nan")
    if _DECIMAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
        try:
            real = float.fromhex(text) if _HEXADECIMAL.fullmatch(text) else float(text)
        except OverflowError:
            return text
        zero = not re.search("[1-9a-fA-F]", re.split("[eEpP]", text)[0]) if "x" not in text.lower() else real == 0
        return real if zero or _SMALLEST <= abs(real) < float("inf") else text
    return text


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
