"""YAML in which nothing is lost without a word, and which stays as small as it looks.

A key that is given twice is an error, not the last one's victory. Aliases are what the file is worth written out: nine
lines in which each is nine of the line before are half a billion words to whoever walks them. No tag makes an object.
"""

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
_MOST = 200_000
"""Values, aliases written out."""
_DEEPEST = 64
"""Levels; the scanner's time goes with the square of them."""
_LARGEST = 1 << 64
"""No number counts further; those that do are no sizes, lengths or seeds, and no array holds them."""


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys, and values beyond measure."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As the safe loader does it, down to a depth."""
        self.depth += 1
        _check_depth(self.depth)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """As the safe loader does it, and then weighed."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count_nodes(node, {})
        return node

    def fetch_flow_collection_start(self, kind: type[yaml.Token]) -> None:
        """As the safe loader does it, down to a depth: it reads a thousand brackets before it hands out the first."""
        _check_depth(self.flow_level)
        super().fetch_flow_collection_start(kind)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the safe loader does it, after a look at the keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"key {short_repr(key.value)} is given a second time in line {line}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """As the safe loader does it, up to what 64 bits hold."""
        number: int = super().construct_yaml_int(node)
        if abs(number) >= _LARGEST:
            raise yaml.YAMLError(
                f"{short_repr(node.value)} in line {node.start_mark.line + 1} is more than 64 bits hold"
            )
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _check_depth(depth: int) -> None:
    if depth > _DEEPEST:
        raise yaml.YAMLError(f"it is nested more than {_DEEPEST} levels deep")


def _count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node is, aliases written out; `known` has those that were counted, 0 for those being so."""
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.YAMLError(f"what begins in line {node.start_mark.line + 1} is a part of itself")
        return known[id(node)]
    known[id(node)], weight = 0, 1
    if isinstance(node, yaml.MappingNode):
        weight += sum(_count_nodes(part, known) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        weight += sum(_count_nodes(part, known) for part in node.value)
    if weight > _MOST:
        raise yaml.YAMLError(f"it has more than {_MOST} values, aliases written out")
    known[id(node)] = weight
    return weight


def parse_yaml(text: str) -> Any:
    """Plain data.

    Args:
        text: at most a million characters.

    Raises:
        yaml.YAMLError: not YAML, a key that is given twice, or more than a file of settings has.
    """
    _refuse_long(text)
    try:
        return yaml.load(text, _Loader)  # a safe loader, by descent
    except (ValueError, TypeError) as error:  # numbers and dates that are none
        raise yaml.YAMLError(str(error) or type(error).__name__) from error


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of one document, with their positions and before any type is decided; None for an empty one.

    Raises:
        yaml.YAMLError: as `parse_yaml`; keys may be given twice.
    """
    _refuse_long(text)
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _refuse_long(text: str) -> None:
    if len(text) > _LONGEST:
        raise yaml.YAMLError(f"it has {len(text)} characters, more than {_LONGEST}")


def read_yaml(path: str | Path, what: str = "calibration file") -> Any:
    """Plain data from a file.

    Args:
        path: of the file.
        what: it is, for the message.

    Raises:
        ConfigError: no such file, or `parse_yaml` refuses what is in it.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError) as error:  # a UnicodeDecodeError and a NUL in the path are ValueErrors
        raise ConfigError(f"{what} {path} cannot be read: {' '.join(str(error).split())}.") from error


def short_repr(value: Any) -> str:
    """A value as a message can show it, however large or deep it is."""
    return _REPR.repr(value)
