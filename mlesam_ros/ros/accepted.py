"""What a parameter accepts, in words, and whether a value is that: the same at start, from a file and while it runs."""

from __future__ import annotations

import difflib
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.parameter import Parameter
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name

from mlesam_ros.errors import ConfigError

_LONGEST = 120  # characters of a value that a refusal quotes


@dataclass(frozen=True)
class Accepted:
    """What one parameter accepts.

    Attributes:
        name: the parameter, such as `lidar.tolerance`.
        default: bool, int, float, str, or a tuple of int or str; the type of what is accepted.
        limits: least and greatest value of a number, or of a list's.
        choices: the only values of a text, or of a list's entries; any where there are none.
        topic: the text is the name of a topic.
    """

    name: str
    default: Any
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    topic: bool = False

    @property
    def words(self) -> str:
        """What is accepted, such as `numbers from 0 to 10`."""
        if self.choices:
            entries = ", ".join(choice or '""' for choice in self.choices)
            return f"lists of {entries}, each once" if isinstance(self.default, tuple) else entries
        words = self._kind.words.format(count=len(self.default) if isinstance(self.default, tuple) else 1)
        return words + ("" if self.limits is None else " from {:.10g} to {:.10g}".format(*self.limits))

    @property
    def ros_type(self) -> Parameter.Type:
        """As rclpy calls the type."""
        return self._kind.ros_type

    def take(self, value: Any) -> Any:
        """The value as the parameter's type: 5 for 5.0, tuples for lists.

        Args:
            value: as rclpy has it; None where it was given no value, as by `ros2 param delete`, or an empty list.

        Raises:
            ConfigError: it is not accepted; names the parameter, the value and what is.
        """
        taken = self._kind.take(value)
        if taken is None or not self._is_within(taken):
            raise self._refusal(value)
        for entry in taken if isinstance(taken, tuple) else (taken,):
            if self.choices and entry not in self.choices:
                raise self._refusal(value, entry)
        if self.topic and taken:
            self._check_topic(taken)
        return taken

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

    def _check_topic(self, value: str) -> None:
        try:
            validate_topic_name(value)
            validate_full_topic_name(expand_topic_name(value, "mlesam", "/"))
        except (InvalidTopicNameException, ValueError) as error:
            reason = without_source(str(error).splitlines()[0].partition(": ")[2]).rstrip(":")
            words = f"{self.name} is {shown(value)}; accepted are names of topics, such as {self.default}: {reason}."
            raise ConfigError(words) from error

    def _refusal(self, value: Any, entry: str = "") -> ConfigError:
        near = difflib.get_close_matches(entry, self.choices, 1)
        hint = f"; did you mean {near[0]}?" if near else self._remedy(value)
        given = "has no value" if value is None else f"is {shown(value)}"
        return ConfigError(f"{self.name} {given}; accepted are {self.words}{hint}")

    def _remedy(self, value: Any) -> str:
        """Bare numbers and words such as `on` never reach a parameter as the text that they look like."""
        if isinstance(self.default, str) and isinstance(value, bool | int | float):
            return f"; to mean a text write '{shown(value)}' in a file, and \"'{shown(value)}'\" in a shell."
        return "."


def shown(value: Any) -> str:
    """A value as one would write it, shortened where it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        text = f"[{', '.join(map(shown, value))}]"
    else:
        text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def without_source(words: str) -> str:
    """What rcl says of a fault, without the places in its source code."""
    return re.sub(r"(, at \S+:\d+)+$", "", words)


@dataclass(frozen=True)
class _Kind:
    """One type of parameter: in words, as rclpy calls it, and the value as that type or None."""

    words: str
    ros_type: Parameter.Type
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
    bool: _Kind("true and false", Parameter.Type.BOOL, _only(bool)),
    int: _Kind("whole numbers", Parameter.Type.INTEGER, _only(int)),
    float: _Kind("numbers", Parameter.Type.DOUBLE, _number),
    str: _Kind("texts", Parameter.Type.STRING, _only(str)),
    (str,): _Kind("lists of {count} texts", Parameter.Type.STRING_ARRAY, _list_of(str)),
    (int,): _Kind("lists of {count} whole numbers", Parameter.Type.INTEGER_ARRAY, _list_of(int)),
}
