# SPDX-License-Identifier: Apache-2.0
"""Label spaces: names and colors of the class ids in a mask."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, LabelError
from mlesam_ros.resources import resource_path
from mlesam_ros.strict_yaml import read_yaml

IGNORE = 255
"""Id of unlabeled pixels, as in `vision_msgs` and in all supported data sets."""
_LAYOUT = "It needs name and classes: [{name, color: [r, g, b]}, …]."


@dataclass(frozen=True)
class LabelSpace:
    """Names and colors of the classes 0 … C-1.

    Attributes:
        name: name of the label space, such as `deliver`.
        names: C class names.
        colors: C (red, green, blue) triples of 0 … 255.
        ignore: the id of unlabeled pixels; always 255.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore: int = IGNORE

    def __post_init__(self) -> None:
        """Validate that uint8 ids can express the label space.

        Raises:
            LabelError: no class, more than 255 classes, a duplicate name, a malformed color, or unequal counts.
        """
        if not 1 <= len(self.names) <= IGNORE:
            raise LabelError(f"label space {self.name} has {len(self.names)} classes; a uint8 mask has 1 to 255.")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise LabelError(f"label space {self.name} has {', '.join(twice)} twice; names must be unique.")
        if len(self.colors) != len(self.names):
            raise LabelError(f"label space {self.name} has {len(self.names)} names but {len(self.colors)} colors.")
        for name, color in zip(self.names, self.colors, strict=True):
            if len(color) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in color):
                raise LabelError(_color_fault(list(color), name))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8]:
        """(256, 3) uint8 RGB: row i is the color of class i, black beyond the last class."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colors
        return palette

    def check(self, labels: npt.NDArray[np.uint8], source: str = "label image") -> None:
        """Check that a label image has only values of the label space.

        Args:
            labels: uint8 of any shape.
            source: origin of the image, for the error message.

        Raises:
            LabelError: a value is outside the label space; the message lists all such values.
        """
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        foreign = [int(v) for v in present if v >= len(self) and v != self.ignore]
        if foreign:
            raise LabelError(
                f"{source} has the ids {foreign}; label space {self.name} has 0 to {len(self) - 1} and {self.ignore}."
            )

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> LabelSpace:
        """Create from `{name, classes: [{name, color: [r, g, b]}, …]}`, the layout of `config/labels/*.yaml`.

        Raises:
            LabelError: a key is missing, or `__post_init__` refuses the values.
        """
        classes = fields.get("classes") if isinstance(fields, dict) else None
        if not isinstance(fields, dict) or "name" not in fields or not isinstance(classes, list):
            raise LabelError(f"label space has no usable {'classes' if 'name' in fields else 'name'}.", _LAYOUT)
        for number, entry in enumerate(classes):
            if not isinstance(entry, dict) or not {"name", "color"} <= entry.keys():
                raise LabelError(f"class {number} of label space {fields['name']} is {entry!r}.", _LAYOUT)
            if not isinstance(entry["name"], str):
                raise LabelError(
                    f"class {number} is called {entry['name']!r}; a name must be a string.", "Put it in quotes."
                )
            if not isinstance(entry["color"], list | tuple):
                raise LabelError(_color_fault(entry["color"], entry["name"]), _color_remedy(entry["color"]))
        names = tuple(entry["name"] for entry in classes)
        return cls(str(fields["name"]), names, tuple(tuple(entry["color"]) for entry in classes))

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, in plain JSON types."""
        classes = [{"name": n, "color": list(c)} for n, c in zip(self.names, self.colors, strict=True)]
        return {"name": self.name, "classes": classes}


def check_not_palette(head: bytes, source: str) -> None:
    """Refuse a palette PNG: decoders convert its indices to colors, which are not labels.

    Args:
        head: the first 26 bytes of the file or more.
        source: origin of the file, for the error message.

    Raises:
        LabelError: its color type is 3 (ISO/IEC 15948, 11.2.2).
    """
    if head[:8] == b"\x89PNG\r\n\x1a\n" and head[25:26] == b"\x03":
        raise LabelError(
            f"{source} is a palette PNG; a label image is grayscale, and its values are the ids.",
            "Save the indices as gray values: PIL.Image.fromarray(numpy.array(PIL.Image.open(FILE))).save(FILE).",
        )


def _color_fault(color: Any, name: str) -> str:
    return f"color {color!r} of class {name} is not three integers from 0 to 255."


def _color_remedy(color: Any) -> str:
    """Remedy for a malformed color; converts web notation, #ff0000 or 0xff0000, to a list."""
    digits = f"{color:06x}" if type(color) is int else str(color).lstrip("#")
    if not re.fullmatch("[0-9a-fA-F]{6}", digits):
        return "Write it as [255, 0, 0]."
    return f"Write it as {list(bytes.fromhex(digits))}."


def load_label_space(name_or_path: str | Path) -> LabelSpace:
    """Read a label space.

    Args:
        name_or_path: a shipped name (`deliver`, `muses`, `mcubes`, `cityscapes`) or the path of a YAML file.

    Raises:
        ConfigError: the file does not exist or is not YAML.
        LabelError: the file is YAML but not a label space.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _shipped(str(name_or_path))
    fields = read_yaml(path, "label space file")
    if not isinstance(fields, dict):
        raise LabelError(f"{path} is not a mapping; a label space needs name and classes.")
    return LabelSpace.from_dict(fields)


class CostmapClasses(NamedTuple):
    """Names of the classes that a robot drives on, and of those that it must not hit."""

    ground: tuple[str, ...]
    obstacles: tuple[str, ...]


@lru_cache(maxsize=8)
def default_classes(label_space: LabelSpace) -> CostmapClasses:
    """Classes of a shipped label space for costmaps, `ground` and `obstacles` in its file; none of any other space.

    A checkpoint has names and colors of its label space alone, so that these keys have no effect in a user's own file.
    """
    path = resource_path("config/labels") / f"{label_space.name}.yaml"
    if not path.exists():
        return CostmapClasses((), ())
    fields = read_yaml(path, "label space file")
    if LabelSpace.from_dict(fields).names != label_space.names:
        return CostmapClasses((), ())
    return CostmapClasses(tuple(fields["ground"]), tuple(fields["obstacles"]))


def _shipped(name: str) -> Path:
    folder = resource_path("config/labels")
    path = folder / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(
            f"no label space called {name!r}; shipped are {known}.",
            "Name one of them, or give the path of a .yaml file.",
        )
    return path
