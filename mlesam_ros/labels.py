# SPDX-License-Identifier: Apache-2.0
"""Label spaces: names and colors of the class ids in a mask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, LabelError
from mlesam_ros.resources import resource_path
from mlesam_ros.strict_yaml import check_choice, read_yaml

IGNORE = 255
"""Id of unlabeled pixels, as in `vision_msgs` and in all supported data sets."""
_LAYOUT = "It needs name and classes: [NAME: [r, g, b], …] or [{name, color: [r, g, b]}, …]."
_KEYS = ("name", "classes", "ground", "obstacles")
_MAX_LISTED = 8
"""Foreign labels that an error lists, most frequent first."""


class ForeignLabelError(LabelError):
    """Label images with ids or colors that their label space or map lacks.

    Attributes:
        source: first of the images.
        counts: id or color → pixels.
    """

    def __init__(self, source: str, counts: Mapping[Any, int], accepted: str, remedy: str = "", files: int = 1) -> None:
        """Name source, labels and pixels.

        Args:
            source: first of the images, for the message.
            counts: id, or color as (red, green, blue) → pixels.
            accepted: sentence about the accepted labels.
            remedy: see `MlesamError`.
            files: number of images with such labels.
        """
        self.source, self.counts, self._rest = source, dict(counts), (accepted, remedy)
        listed = sorted(counts, key=lambda label: -counts[label])[:_MAX_LISTED]
        shown = sorted(listed)
        kind = "colors" if shown and isinstance(shown[0], tuple) else "ids"
        names = ", ".join(str(list(label) if isinstance(label, tuple) else label) for label in shown)
        pixels = ", ".join(str(counts[label]) for label in shown)
        more = f" and {len(counts) - len(shown)} more" if len(counts) > len(shown) else ""
        others = f" and {files - 1} more files have" if files > 1 else " has"
        super().__init__(f"{source}{others} the {kind} [{names}]{more} ({pixels} pixels); {accepted}.", remedy)

    def merged(self, others: list[ForeignLabelError]) -> ForeignLabelError:
        """The same error for several images."""
        counts = dict(self.counts)
        for other in others:
            for label, pixels in other.counts.items():
                counts[label] = counts.get(label, 0) + pixels
        return ForeignLabelError(self.source, counts, *self._rest, files=1 + len(others))


@dataclass(frozen=True)
class LabelSpace:
    """Names and colors of the classes 0 … C-1.

    Attributes:
        name: name of the label space, such as `deliver`.
        names: C class names.
        colors: C (red, green, blue) triples of 0 … 255.
        ignore: the id of unlabeled pixels; always 255.
        ground, obstacles: classes that a robot drives on, and that it must not hit; see `default_classes`.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore: int = IGNORE
    ground: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate that uint8 ids can express the label space.

        Raises:
            LabelError: no class, more than 255 classes, a duplicate name, a malformed color, unequal counts, or a role
                for costmaps of an unknown class or two roles of one class.
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
        for role in ("ground", "obstacles"):
            if unknown := [name for name in getattr(self, role) if name not in self.names]:
                raise LabelError(
                    f"{role} of label space {self.name} has {unknown[0]!r}; accepted are {', '.join(self.names)}."
                )
        if both := sorted({*self.ground} & {*self.obstacles}):
            raise LabelError(f"label space {self.name} has {', '.join(both)} in ground and in obstacles.")

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
        counts = np.bincount(labels.ravel(), minlength=256)
        foreign = {int(v): int(counts[v]) for v in np.flatnonzero(counts) if v >= len(self) and v != self.ignore}
        if foreign:
            raise ForeignLabelError(source, foreign, self.accepted)

    @property
    def accepted(self) -> str:
        """Part of a sentence that states the accepted ids."""
        return f"label space {self.name} has 0 to {len(self) - 1} and {self.ignore}"

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> LabelSpace:
        """Create from a mapping in the layout of `config/labels/*.yaml`.

        Args:
            fields: `name`; `classes`, a list of `{name, color: [r, g, b]}` or short `{NAME: [r, g, b]}` in the order of
                the ids; and optionally `ground` and `obstacles`.

        Raises:
            ConfigError: an unknown key.
            LabelError: a key is missing, or `__post_init__` refuses the values.
        """
        classes = fields.get("classes") if isinstance(fields, dict) else None
        if not isinstance(fields, dict) or "name" not in fields or not isinstance(classes, list):
            has_name = isinstance(fields, dict) and "name" in fields
            raise LabelError(f"label space has no usable {'classes' if has_name else 'name'}.", _LAYOUT)
        for key in fields:
            check_choice(f"label space {fields['name']}: key", key, _KEYS)
        classes = [_full_entry(entry) for entry in classes]
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
        roles = {role: fields.get(role) or () for role in ("ground", "obstacles")}
        for role, listed in roles.items():
            if not isinstance(listed, list | tuple):
                raise LabelError(f"{role} of label space {fields['name']} is {listed!r}; it must be a list of classes.")
        return cls(
            str(fields["name"]), names, tuple(tuple(entry["color"]) for entry in classes),
            ground=tuple(roles["ground"]), obstacles=tuple(roles["obstacles"]),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, in plain JSON types."""
        classes = [{"name": n, "color": list(c)} for n, c in zip(self.names, self.colors, strict=True)]
        roles = {"ground": list(self.ground), "obstacles": list(self.obstacles)}
        return {"name": self.name, "classes": classes, **{role: names for role, names in roles.items() if names}}


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


def _full_entry(entry: Any) -> Any:
    """`{name, color}` of a class that is written as `{NAME: color}`."""
    if isinstance(entry, dict) and len(entry) == 1 and not {"name", "color"} & entry.keys():
        name, color = next(iter(entry.items()))
        return {"name": name, "color": color}
    return entry


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

    Returns:
        The label space; of a shipped one without `ground` and `obstacles`, which `default_classes` has.

    Raises:
        ConfigError: the file does not exist, is not YAML or has an unknown key.
        LabelError: the file is YAML but not a label space.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return _read_label_space(path)
    space = _read_label_space(_shipped(str(name_or_path)))
    return LabelSpace(space.name, space.names, space.colors)


def _read_label_space(path: Path) -> LabelSpace:
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
    """Classes of a label space for costmaps: its own, else those in the file of the shipped label space; else none."""
    if label_space.ground or label_space.obstacles:
        return CostmapClasses(label_space.ground, label_space.obstacles)
    path = resource_path("config/labels") / f"{label_space.name}.yaml"
    if not path.exists():
        return CostmapClasses((), ())
    shipped = _read_label_space(path)
    if shipped.names != label_space.names:
        return CostmapClasses((), ())
    return CostmapClasses(shipped.ground, shipped.obstacles)


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
