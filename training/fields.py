"""Dataclasses from YAML: every key and value is checked, and what is wrong is named with what is accepted."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mlesam_ros.errors import ConfigError
from mlesam_ros.files import expand_path

T = TypeVar("T")
PathText = Annotated[str, expand_path]
"""A text that is a path: expanded as a shell would; a relative one starts at the working directory."""


def check_choice(what: str, value: Any, accepted: Iterable[str]) -> None:
    """Refuse a word that is not among the accepted ones.

    Raises:
        ConfigError: with the nearest match, or all that are accepted.
    """
    words = tuple(accepted)
    if value not in words:
        near = difflib.get_close_matches(str(value), words, 1)
        hint = f"did you mean {near[0]}?" if near else f"accepted are {', '.join(words)}."
        raise ConfigError(f"{what} {value!r} is not known; {hint}")


def from_mapping(kind: type[T], content: Any, where: str) -> T:
    """A dataclass from a mapping, nested ones included.

    Args:
        kind: the dataclass.
        content: what YAML made of the file.
        where: where it came from, for the message.

    Raises:
        ConfigError: a key or value that is not accepted, or one that is missing.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{where} is {content!r}; it must be a mapping.")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in content:
        check_choice(f"{where}: key", key, known)
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in content]:
        raise ConfigError(f"{where} lacks {' and '.join(missing)}.")
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in content.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """The value, if it is of the type; integers are taken for floats."""
    if is_dataclass(hint):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is Annotated:
        text, convert = get_args(hint)
        given = _value(text, value, where)
        return str(convert(given)) if given else given
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return None if value is None else _value(_meant(kinds, value, where), value, where)
    kind = get_origin(hint) or hint
    if kind is tuple and isinstance(value, list | tuple):
        return _items(get_args(hint), value, where)
    if kind is dict and isinstance(value, dict) and get_args(hint)[1] is float:
        return {key: _value(float, share, f"{where}.{key}") for key, share in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} is {value!r}; it must be of type {kind.__name__}.")
    return value


def _meant(kinds: list[Any], value: Any, where: str) -> Any:
    """Of several dataclasses the one among whose `kinds` the value's key `kind` is; the first where it says nothing."""
    if len(kinds) == 1 or not isinstance(value, dict) or "kind" not in value:
        return kinds[0]
    check_choice(f"{where}: kind", value["kind"], [word for kind in kinds for word in kind.kinds])
    return next(kind for kind in kinds if value["kind"] in kind.kinds)


def _items(hints: tuple[Any, ...], values: Any, where: str) -> tuple[Any, ...]:
    """A YAML list as a tuple of one type, or of as many as are named."""
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(values)
    if len(values) != len(hints):
        raise ConfigError(f"{where} is {list(values)}; it must have {len(hints)} values.")
    return tuple(
        _value(hint, value, f"{where}[{i}]") for i, (hint, value) in enumerate(zip(hints, values, strict=True))
    )
