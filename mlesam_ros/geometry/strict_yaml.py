"""YAML in which nothing is lost without a word: a key that is given twice is an error, not the last one's victory."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml

from mlesam_ros.errors import ConfigError

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 60
_LONGEST = 1_000_000
"""Bytes. A calibration has a few thousand."""


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the safe loader does it, after a look at the keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"key {key.value!r} is given a second time in line {line}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Plain data.

    Raises:
        yaml.YAMLError: not YAML, or a key that is given twice.
    """
    try:
        return yaml.load(text, _Loader)  # a safe loader, by descent
    except (RecursionError, ValueError, TypeError) as error:  # nesting without end; numbers and dates that are none
        raise yaml.YAMLError(str(error) or type(error).__name__) from error


def read_yaml(path: str | Path) -> Any:
    """Plain data from a file.

    Raises:
        ConfigError: no such file, not YAML, or a key that is given twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if len(text) > _LONGEST:
            raise yaml.YAMLError(f"it has {len(text)} characters, more than {_LONGEST}")
        return parse_yaml(text)
    except (OSError, yaml.YAMLError, ValueError) as error:  # a UnicodeDecodeError and a NUL in the path are ValueErrors
        raise ConfigError(f"calibration file {path} cannot be read: {' '.join(str(error).split())}.") from error


def short(value: Any) -> str:
    """A value as a message can show it, however large or deep it is."""
    return _REPR.repr(value)
