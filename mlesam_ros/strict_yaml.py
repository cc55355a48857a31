# SPDX-License-Identifier: Apache-2.0
"""Strict YAML loader: no duplicate keys, no arbitrary objects, and limits on size.

A duplicate key is an error; in PyYAML the last one wins. Aliases count as their expansion: nine lines, each with nine
aliases of the line before, expand to half a billion values. No tag constructs an object.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml

from mlesam_ros.errors import ConfigError

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 60
_MAX_CHARACTERS = 1_000_000
"""Characters. A calibration file has a few thousand."""
_MAX_VALUES = 200_000
"""Values, aliases expanded."""
_MAX_DEPTH = 64
"""Levels; the scanner's time grows with their square."""
_INTEGER_LIMIT = 1 << 64
"""Limit of integers; larger ones are no sizes, lengths or seeds, and fit no array."""


class _StrictLoader(yaml.SafeLoader):
    """Safe loader that refuses duplicate keys and values beyond the limits."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose as the safe loader, with a limit on depth."""
        self.depth += 1
        _check_depth(self.depth)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Compose as the safe loader, with a limit on the number of values."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count_nodes(node, {})
        return node

    def fetch_flow_collection_start(self, kind: type[yaml.Token]) -> None:
        """Scan as the safe loader, with a limit on depth: it reads a thousand brackets before the first token."""
        _check_depth(self.flow_level)
        super().fetch_flow_collection_start(kind)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct as the safe loader, without duplicate keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"key {short_repr(key.value)} is duplicated in line {line}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Construct as the safe loader, within 64 bits."""
        number: int = super().construct_yaml_int(node)
        if abs(number) >= _INTEGER_LIMIT:
            raise yaml.YAMLError(f"{short_repr(node.value)} in line {node.start_mark.line + 1} exceeds 64 bits")
        return number


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise yaml.YAMLError(f"it is nested deeper than {_MAX_DEPTH} levels")


def _count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values of a node, aliases expanded; `known` has the counts of visited nodes, 0 while in progress."""
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.YAMLError(f"the node in line {node.start_mark.line + 1} contains itself")
        return known[id(node)]
    known[id(node)], weight = 0, 1
    if isinstance(node, yaml.MappingNode):
        weight += sum(_count_nodes(part, known) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        weight += sum(_count_nodes(part, known) for part in node.value)
    if weight > _MAX_VALUES:
        raise yaml.YAMLError(f"it has more than {_MAX_VALUES} values with aliases expanded")
    known[id(node)] = weight
    return weight


def parse_yaml(text: str) -> Any:
    """Parse plain data.

    Args:
        text: at most a million characters.

    Raises:
        yaml.YAMLError: invalid YAML, a duplicate key, or content beyond the limits.
    """
    _check_length(text)
    try:
        return yaml.load(text, _StrictLoader)  # _StrictLoader is a SafeLoader
    except (ValueError, TypeError) as error:  # invalid numbers and dates
        raise yaml.YAMLError(str(error) or type(error).__name__) from error


def compose_yaml(text: str) -> yaml.Node | None:
    """Compose the nodes of one document, with positions and before types are resolved; None for an empty one.

    Raises:
        yaml.YAMLError: as `parse_yaml`, except for duplicate keys.
    """
    _check_length(text)
    loader = _StrictLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _check_length(text: str) -> None:
    if len(text) > _MAX_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text)} characters, more than {_MAX_CHARACTERS}")


def read_yaml(path: str | Path, what: str = "calibration file") -> Any:
    """Read plain data from a file.

    Args:
        path: the file.
        what: kind of the file, for the error message.

    Raises:
        ConfigError: no such file, or `parse_yaml` refuses its content.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError) as error:  # UnicodeDecodeError and a NUL in the path are ValueErrors
        raise ConfigError(f"{what} {path} cannot be read: {' '.join(str(error).split())}.") from error


def short_repr(value: Any) -> str:
    """Representation of a value for a message, short for any size and depth."""
    return _REPR.repr(value)


def check_choice(what: str, value: Any, accepted: Iterable[str]) -> None:
    """Check that a value is one of the accepted words.

    Raises:
        ConfigError: the value is not accepted; names the accepted words, and the nearest match if there is one.
    """
    words = tuple(accepted)
    if value not in words:
        near = difflib.get_close_matches(str(value), words, 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(f"{what} {value!r} is unknown; accepted are {', '.join(words)}{hint}")
