"""Type, range and choices of one parameter, and the check of a value against them.

The same check runs for a parameter file, for `-p NAME:=VALUE`, at the node's start and while it runs.
"""

from __future__ import annotations

import difflib
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlesam_ros.errors import ConfigError
from mlesam_ros.files import expand_path

_LONGEST = 120  # characters of a value that a refusal quotes
_NODE = "mlesam"
_LONGEST_TOPIC = 247  # characters; rmw's limit, which leaves room for the middleware's prefix
_SUBSTITUTIONS = {"node": _NODE, "ns": "/", "namespace": "/"}


@dataclass(frozen=True)
class ParameterSpec:
    """What one parameter accepts.

    Attributes:
        name: the parameter, such as `lidar.tolerance`.
        default: bool, int, float, str, or a tuple of int or str; the type of what is accepted.
        limits: least and greatest value of a number, or of a list's.
        choices: the only values of a text, or of a list's entries; any where there are none.
        topic: the text is the name of a topic.
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
        """Accepted values in words, such as `numbers from 0 to 10`."""
        if self.choices:
            entries = ", ".join(choice or '""' for choice in self.choices)
            return f"lists of {entries}, each once" if isinstance(self.default, tuple) else entries
        words = self._kind.words.format(count=len(self.default) if isinstance(self.default, tuple) else 1)
        return words + ("" if self.limits is None else " from {:.10g} to {:.10g}".format(*self.limits))

    def take(self, value: Any) -> Any:
        """Convert a value to the parameter's type: 5 to 5.0, lists to tuples.

        Args:
            value: as rclpy or the parameter file gives it; None for a parameter without value or an empty list.

        Raises:
            ConfigError: the value is not accepted; names the parameter, the value and what is accepted.
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
        """Whether numbers are in their range, lists of numbers as long as they should be, lists of choices sets."""
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
            # YAML makes numbers and booleans of bare words such as 5 and on.
            return f"To mean a text write '{shown(value)}' in a file, and \"'{shown(value)}'\" in a shell."
        return ""


def shown(value: Any) -> str:
    """A value as YAML writes it, shortened where it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        text = f"[{', '.join(map(shown, value))}]"
    else:
        text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def topic_fault(name: str) -> str | None:
    """Why ROS refuses the name of a topic, with the words of rcl and rmw; None for a name that ROS accepts.

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
    """The first character that may not stand where it stands."""
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
    """As rcl: a tilde with one character after it passes."""
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
    """One type of parameter: in words, and the conversion of a value to that type or None."""

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
