# SPDX-License-Identifier: Apache-2.0
"""Label images in another label space or as colors: their decoding, and their mapping to a label space."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mlesam_ros.errors import ConfigError, ImageError, LabelError
from mlesam_ros.labels import IGNORE, ForeignLabelError, LabelSpace, load_label_space
from mlesam_ros.strict_yaml import check_choice, read_yaml, short_repr

Labels = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

UNLABELED = "ignore"
"""Name of the target of raw labels that are not to be compared or trained on."""
OWN_COLORS = "space"
"""Value of `palette` for the colors of the label space."""
_MAX_RAW = 1 << 16
_NO_CLASS = 0x7FFF
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_GRAY, _INDEXED = 0, 3
"""Color types of a PNG (ISO/IEC 15948, 11.2.2)."""


@dataclass(frozen=True)
class RawLabels:
    """Description of label images that are not the ids of a label space, as in YAML.

    Attributes:
        raw_space: name, file or content of the label space of the images; its classes with equal names need no entry in
            `map`.
        map: raw id, or name of a class of `raw_space` or of a color of `palette` → class, its id, or `ignore`. In an
            evaluation also a list of classes: masks with any of them are compared as the first.
        palette: class or key of `map` → color as [r, g, b], or a list of colors; `space` for the colors of `raw_space`,
            or of the label space itself. Without it the pixels, or the indices of a palette image, are ids.
        ignore: raw ids of unlabeled pixels, besides 255.
    """

    raw_space: Any = None
    map: Mapping[Any, Any] = field(default_factory=dict)
    palette: Any = None
    ignore: Sequence[int] = ()

    def __bool__(self) -> bool:
        """Whether anything is described."""
        return bool(self.raw_space is not None or self.map or self.palette is not None or self.ignore)


def read_raw_labels(path: str | Path) -> RawLabels:
    """Read a YAML file with the keys of `RawLabels`.

    Raises:
        ConfigError: the file cannot be read, or has an unknown key.
    """
    content = read_yaml(path, "label map")
    names = tuple(f.name for f in fields(RawLabels))
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"label map {path} is not a mapping; accepted keys are {', '.join(names)}.")
    for key in content:
        check_choice(f"label map {path}: key", key, names)
    return RawLabels(**content)


def find_label_space(given: Any) -> LabelSpace:
    """Label space by name or file, or from its content as a mapping.

    Raises:
        ConfigError, LabelError: see `load_label_space` and `LabelSpace.from_dict`.
    """
    return LabelSpace.from_dict(given) if isinstance(given, dict) else load_label_space(str(given))


@dataclass(frozen=True)
class LabelMap:
    """Map of raw labels to the ids of a label space.

    Attributes:
        space: label space of the result.
        ids: raw id → class id or 255; None for raw ids that are those of `space`.
        colors: (red, green, blue) → class id or 255; None where label images have ids.
        merged: class id of a mask → class id as which it is compared.
    """

    space: LabelSpace
    ids: Mapping[int, int] | None = None
    colors: Mapping[Color, int] | None = None
    merged: Mapping[int, int] = field(default_factory=dict)

    def decode(self, data: bytes, source: str) -> Labels:
        """Decode the file of a label image.

        Args:
            data: content of a lossless image file: gray of 8 or 16 bits, palette, or color, with or without alpha.
                Orientation in its EXIF data is applied, transparent pixels are unlabeled.
            source: name of the file, for errors.

        Returns:
            (H, W) uint8 class ids, 255 where unlabeled.

        Raises:
            ImageError: the file cannot be decoded.
            ForeignLabelError: an id or color without a class; lists them with their pixels.
            LabelError: the format alters labels, or does not fit: colors without a palette, ids with one.
        """
        image = open_label_image(data, source)
        image, opaque = _split_alpha(image, source)
        if self.colors is not None:
            labels = self.of_colors(np.asarray(image.convert("RGB")), source, opaque)
        elif image.mode in ("RGB", "CMYK", "YCbCr", "HSV", "LAB"):
            raise LabelError(
                f"{source} has colors, not ids.",
                "Add palette: {CLASS: [r, g, b], …}, or palette: space for the colors of the label space; or save one "
                "channel with the ids.",
            )
        else:
            indices = np.asarray(image)
            labels = self.of_ids(indices, source, opaque)
            if image.mode == "P" and self.ids is None:
                self._check_palette(image, labels, source)
        return labels

    def of_ids(self, raw: npt.NDArray[Any], source: str, opaque: npt.NDArray[np.bool_] | None = None) -> Labels:
        """Map raw ids.

        Args:
            raw: integers of any shape.
            source: name of their file, for errors.
            opaque: pixels that have a label; None for all.

        Returns:
            uint8 of the same shape.

        Raises:
            ForeignLabelError: see `decode`.
        """
        if raw.dtype.kind not in "iub" or raw.ndim != 2:
            raise LabelError(
                f"{source} has {raw.dtype} values of shape {raw.shape}; labels are integers of (height, width)."
            )
        values = raw.astype(np.int64)
        valid = np.clip(values, 0, _MAX_RAW - 1)
        known = self.ids if self.ids is not None else {i: i for i in range(len(self.space))} | {IGNORE: IGNORE}
        table = np.full(_MAX_RAW, _NO_CLASS, np.uint16)
        table[list(known)] = list(known.values())
        found = table[valid]
        found[valid != values] = _NO_CLASS
        foreign = found == _NO_CLASS
        if opaque is not None:
            foreign &= opaque
        if foreign.any():
            listed, pixels = np.unique(values[foreign], return_counts=True)
            counts = dict(zip(listed.tolist(), pixels.tolist(), strict=True))
            raise self._foreign(source, counts, self.ids is not None)
        return _unlabeled(found, opaque)

    def of_colors(self, rgb: npt.NDArray[np.uint8], source: str, opaque: npt.NDArray[np.bool_] | None = None) -> Labels:
        """Map (H, W, 3) uint8 colors; see `of_ids`."""
        table = self.colors or {}
        keys = np.array(sorted((r << 16 | g << 8 | b, i) for (r, g, b), i in table.items()), np.int64).reshape(-1, 2)
        packed = rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        place = np.searchsorted(keys[:, 0], packed).clip(0, len(keys) - 1)
        foreign = keys[place, 0] != packed
        if opaque is not None:
            foreign &= opaque
        if foreign.any():
            listed, pixels = np.unique(packed[foreign], return_counts=True)
            colors = [(c >> 16, c >> 8 & 255, c & 255) for c in listed.tolist()]
            raise self._foreign(source, dict(zip(colors, pixels.tolist(), strict=True)), True)
        return _unlabeled(keys[place, 1], opaque)

    def merge(self, mask: Labels) -> Labels:
        """Replace classes of a mask by those as which they are compared; a new array if there are any."""
        if not self.merged:
            return mask
        table = np.arange(256, dtype=np.uint8)
        table[list(self.merged)] = list(self.merged.values())
        return table[mask]

    def _foreign(self, source: str, counts: Mapping[Any, int], mapped: bool) -> ForeignLabelError:
        if not mapped:
            return ForeignLabelError(
                source, counts, self.space.accepted, "Map other ids by map: {ID: CLASS, …}, or list them in ignore."
            )
        key = "palette" if self.colors is not None else "map"
        return ForeignLabelError(
            source, counts, f"{key} lacks them", f"Add each to {key}, with a class of {self.space.name} or ignore."
        )

    def _check_palette(self, image: Image.Image, labels: Labels, source: str) -> None:
        """Refuse a palette image whose colors say other classes of the label space than its indices do."""
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        used = {int(i): tuple(palette[i].tolist()) for i in np.unique(labels[labels != IGNORE])}
        if any(color in self.space.colors and color != self.space.colors[i] for i, color in used.items()):
            raise LabelError(
                f"the colors of {source} are those of other classes of label space {self.space.name} than its indices.",
                "Set palette: space to read the colors, or map: {0: CLASS, …} to read the indices.",
            )


def make_label_map(space: LabelSpace, raw: RawLabels, merge: bool = False) -> LabelMap:
    """Build the map from raw labels to a label space.

    Args:
        space: target.
        raw: description of the raw labels.
        merge: whether `map` may have lists of classes.

    Raises:
        ConfigError: a key or value of `map`, `palette` or `ignore` is not accepted.
        LabelError: a class of `raw_space` has no class with the same name and no entry in `map`.
    """
    if not isinstance(raw.map, Mapping) or not isinstance(raw.ignore, list | tuple):
        raise ConfigError("map must be a mapping of raw labels to classes, and ignore a list of raw ids.")
    merged: dict[int, int] = {}
    target = {key: _target(space, key, value, merged if merge else None) for key, value in raw.map.items()}
    raw_space = None if raw.raw_space is None else find_label_space(raw.raw_space)
    if raw_space is not None:
        _add_equal_names(space, raw_space, target)
    names = {key: value for key, value in target.items() if isinstance(key, str)}
    colors = None if raw.palette is None else _palette(space, raw_space, names, raw.palette)
    if raw_space is None and raw.palette is None and names:
        raise ConfigError(
            f"map has the name {next(iter(names))!r}; without raw_space or palette, raw labels are ids.",
            "Write the ids, or set raw_space to the label space of the images.",
        )
    ids = {key: value for key, value in target.items() if not isinstance(key, str)}
    if raw_space is not None:
        ids |= {i: names[name] for i, name in enumerate(raw_space.names)}
    elif not raw.map and raw.ignore:
        ids = {i: i for i in range(len(space))}
    for value in raw.ignore:
        ids[_raw_id(value)] = IGNORE
    if ids:
        ids.setdefault(IGNORE, IGNORE)
    ids = {raw_id: merged.get(i, i) for raw_id, i in ids.items()}  # as those of the masks, see `LabelMap.merge`
    if colors is not None:
        colors = {color: merged.get(i, i) for color, i in colors.items()}
    return LabelMap(space, ids or None, colors, merged)


def _add_equal_names(space: LabelSpace, raw_space: LabelSpace, target: dict[Any, int]) -> None:
    for key in target:
        if isinstance(key, str):
            check_choice(f"map: class of label space {raw_space.name}", key, raw_space.names)
    missing = []
    for i, name in enumerate(raw_space.names):
        if i in target:
            target[name] = target.pop(i)
        elif name not in target and name in space.names:
            target[name] = space.names.index(name)
        elif name not in target:
            missing.append(name)
    if missing:
        raise LabelError(
            f"label space {space.name} has no {', '.join(missing)} of label space {raw_space.name}; it has "
            f"{', '.join(space.names)}.",
            f"Map each to a class or to ignore, as in map: {{{missing[0]}: {UNLABELED}}}.",
        )


def _target(space: LabelSpace, key: Any, value: Any, merged: dict[int, int] | None) -> int:
    """Class id of an entry of `map`."""
    if not isinstance(key, str):
        _raw_id(key)
    if isinstance(value, list):
        if merged is None or not value:
            raise ConfigError(f"map: {key} is {short_repr(value)}; it must be one class of label space {space.name}.")
        first, *others = (_class_id(space, key, each) for each in value)
        for other in others:
            if merged.setdefault(other, first) != first:
                raise ConfigError(f"map has class {space.names[other]} in two lists.", "List each class once.")
        return first
    return _class_id(space, key, value)


def _class_id(space: LabelSpace, key: Any, value: Any) -> int:
    if value is None or value == UNLABELED:
        return IGNORE
    if type(value) is int and (0 <= value < len(space) or value == IGNORE):
        return value
    check_choice(f"map: {key}: class of label space {space.name}", value, (*space.names, UNLABELED))
    return space.names.index(value)


def _raw_id(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_RAW:
        raise ConfigError(f"raw id {short_repr(value)} is not an integer from 0 to {_MAX_RAW - 1}.")
    return value


def _colors_of(space: LabelSpace, names: Mapping[str, int]) -> dict[Color, int]:
    """Color → class id of a label space.

    Raises:
        ConfigError: two classes with different ids have one color.
    """
    colors: dict[Color, int] = {}
    for name, color in zip(space.names, space.colors, strict=True):
        if colors.setdefault(color, names[name]) != names[name]:
            raise ConfigError(f"palette has color {list(color)} for {name} and for another class.")
    return colors


def _palette(
    space: LabelSpace, raw_space: LabelSpace | None, names: Mapping[str, int], palette: Any
) -> dict[Color, int]:
    own = {name: i for i, name in enumerate(space.names)}
    if palette == OWN_COLORS:
        return _colors_of(space, own) if raw_space is None else _colors_of(raw_space, names)
    if not isinstance(palette, dict) or not palette:
        raise ConfigError(f"palette is {short_repr(palette)}; it must be {OWN_COLORS}, or {{CLASS: [r, g, b], …}}.")
    known, colors = {**own, **names, UNLABELED: IGNORE}, dict[Color, int]()
    for name, given in palette.items():
        check_choice("palette: class", name, known)
        several = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
        for color in several:
            if not _is_color(color):
                raise ConfigError(f"palette: color {short_repr(color)} of {name} is not three integers from 0 to 255.")
            if colors.setdefault((color[0], color[1], color[2]), known[name]) != known[name]:
                raise ConfigError(f"palette has color {color} for {name} and for another class.")
    if unused := [name for name in names if name not in palette and raw_space is None]:
        raise ConfigError(f"map has {unused[0]!r}, which palette has no color of.", "Add its color to palette.")
    return colors


def _is_color(color: Any) -> bool:
    return isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)


def open_label_image(data: bytes, source: str) -> Image.Image:
    """Open the file of a label image, upright by its EXIF data.

    Raises:
        ImageError: it cannot be decoded.
        LabelError: a JPEG, which alters labels, or a PNG whose samples decoders change: gray with less than 8 bits or
            colors with 16.
    """
    if data[:2] == _JPEG:
        raise LabelError(f"{source} is a JPEG, whose compression alters labels.", "Export the labels as PNG.")
    if data[:8] == _PNG and len(data) > 25:
        bits, kind = data[24], data[25]
        if (bits < 8 and kind == _GRAY) or (bits == 16 and kind != _GRAY):
            what = "gray" if kind == _GRAY else "color"
            raise LabelError(f"{source} is {what} with {bits} bits per sample, which decoders scale.", "Save 8 bits.")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{source} cannot be decoded as an image; it has {len(data)} bytes: {' '.join(str(error).split())}."
        ) from error


def _split_alpha(image: Image.Image, source: str) -> tuple[Image.Image, npt.NDArray[np.bool_] | None]:
    """Image without alpha, and its opaque pixels; None if all are.

    Raises:
        LabelError: a pixel is partly transparent.
    """
    has_alpha = image.mode in ("LA", "RGBA", "PA")
    if not has_alpha and "transparency" not in image.info:  # of a palette entry, or of one gray value or color
        return image, None
    alpha = np.asarray((image if has_alpha else image.convert("RGBA")).getchannel("A"))
    partly = int(((alpha > 0) & (alpha < 255)).sum())
    if partly:
        raise LabelError(
            f"{source} has {partly} partly transparent pixels, which belong to no class.",
            "Export the labels without smooth edges.",
        )
    opaque = None if alpha.all() else alpha > 0
    return image.convert({"LA": "L", "RGBA": "RGB", "PA": "RGB"}[image.mode]) if has_alpha else image, opaque


def _unlabeled(found: npt.NDArray[Any], opaque: npt.NDArray[np.bool_] | None) -> Labels:
    labels = found.astype(np.uint8)
    if opaque is not None:
        labels[~opaque] = IGNORE
    return labels
