# SPDX-License-Identifier: Apache-2.0
"""Read corrected masks from an annotation tool into a folder of labels.

PNGs have class ids in one channel, or the colors of the classes (palette, RGB); a `labelmap.txt` beside them, as CVAT
writes it, gives the colors of the tool. COCO files are read by `mlesam_ros.coco`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mlesam_ros.coco import read_coco
from mlesam_ros.errors import ConfigError, ImageError, LabelError
from mlesam_ros.evaluation.label_folder import CLASSES, IMAGES, LABELS, write_file, write_splits
from mlesam_ros.evaluation.proposals import BACKGROUND, CLASS_IMAGES, LABEL_MAP, encode_png
from mlesam_ros.files import detect_file_type, exclusive_folder
from mlesam_ros.label_map import Color, LabelMap, Labels
from mlesam_ros.labels import IGNORE, ForeignLabelError, LabelSpace, load_label_space
from mlesam_ros.preprocessing.images import check_declared_size

_TASK_PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""Prefix that Label Studio puts before the names of uploaded files."""
_COLOR_TYPE_BYTE, _GRAY_TYPES = 25, (b"\x00", b"\x04")
"""Of a PNG (ISO/IEC 15948, 11.2.2): gray, and gray with alpha."""


@dataclass(frozen=True)
class ImportedLabels:
    """Result of an import.

    Attributes:
        names: imported frames.
        frames: number of frames of the folder.
        labeled: number of frames with labels, from this and earlier imports.
        foreign: files or images of the import that are no frame of the folder.
    """

    names: list[str]
    frames: int
    labeled: int
    foreign: list[str]


def import_labels(source: Path, folder: Path) -> ImportedLabels:
    """Read corrected masks into a folder of labels. Everything is checked before the first file is written.

    Masks without a labeled pixel are left out, as tools export them for frames without annotations.

    Args:
        source: COCO file, or folder of PNGs.
        folder: written by `mlesam label`.

    Raises:
        ConfigError: the folder is not one of `mlesam label`, or the source is neither of the two.
        FileError: a file cannot be written, or another run writes into the folder.
        LabelError: a mask has another size than its frame, or classes outside the label space; or no mask belongs to a
            frame.
    """
    frames = _Frames(folder)
    space = load_label_space(folder / CLASSES)
    found = read_coco(source, space, frames.size_of) if source.suffix == ".json" else _read_pngs(source, space, frames)
    encoded: dict[str, bytes] = {}
    origins: dict[str, str] = {}
    for file, labels in found.items():
        name = frames.name_of(file)
        assert name is not None
        if (other := origins.setdefault(name, file)) != file:
            raise LabelError(f"{source} has two masks of {name}: {other} and {file}.", "Remove one of them.")
        if (labels != IGNORE).any():
            encoded[name] = encode_png(labels)
    if not encoded:
        some = f", such as {frames.foreign[0]}" if frames.foreign else ""
        raise LabelError(
            f"{source} has no mask of a frame in {folder}{some}.",
            f"Keep the names of the images, such as {frames.example}.png, in the tool.",
        )
    with exclusive_folder(folder, "labeling"):
        for name, data in encoded.items():
            write_file(folder / LABELS / f"{name}.png", data)
        labeled = [path.stem for path in (folder / LABELS).glob("*.png") if path.stem in frames.names]
        write_splits(folder, labeled)
    return ImportedLabels(sorted(encoded), len(frames.names), len(labeled), frames.foreign)


class _Frames:
    """Frames of a folder, and the files of an import that are none of them.

    Attributes:
        names: of the frames.
        foreign: names of files without a frame.
    """

    def __init__(self, folder: Path) -> None:
        self._images = folder / IMAGES
        if not (folder / CLASSES).exists():
            raise ConfigError(
                f"{folder} is no folder of mlesam label: it has no {CLASSES}.",
                f"Write it first: mlesam label BAG --out {folder}",
            )
        self.names = {path.stem for path in self._images.glob("*.png")}
        self.foreign: list[str] = []
        self._sizes: dict[str, tuple[int, int]] = {}

    @property
    def example(self) -> str:
        return min(self.names, default="drive_1700000000123456789")

    def name_of(self, file: str) -> str | None:
        """Frame of a file by its name, also with folders and with a prefix of Label Studio; None for other files."""
        stem = re.split(r"[/\\]", file)[-1].rsplit(".", 1)[0]
        return next((name for name in (stem, _TASK_PREFIX.sub("", stem)) if name in self.names), None)

    def size_of(self, file: str) -> tuple[int, int] | None:
        """(height, width) of a frame by a file's name; None, and an entry in `foreign`, for other files."""
        name = self.name_of(file)
        if name is None:
            if file not in self.foreign:
                self.foreign.append(file)
            return None
        if name not in self._sizes:
            path = self._images / f"{name}.png"
            try:
                with Image.open(path) as image:
                    self._sizes[name] = image.height, image.width
            except OSError as error:
                raise LabelError(f"the frame {path} cannot be read: {error}.") from error
        return self._sizes[name]


def _read_pngs(source: Path, space: LabelSpace, frames: _Frames) -> dict[str, Labels]:
    """Read the PNGs of a folder: path → (H, W) class ids.

    Raises:
        ConfigError: it is no folder, or has no PNG.
        LabelError: see `_read_png`, and a mask has another size than its frame.
    """
    if not source.is_dir():
        kind = detect_file_type(source) if source.exists() else None
        what = (
            f"is {kind[0]}" if kind and source.suffix != ".xml" else "is neither" if source.exists() else "is missing"
        )
        raise ConfigError(
            f"--import takes a COCO file (.json) or a folder of PNGs; {source} {what}.",
            "Export as COCO 1.0 or as Segmentation mask 1.1, and unpack the archive.",
        )
    if annotations := sorted(source.glob("annotations/*.json")):
        raise ConfigError(f"{source} is an export of COCO files.", f"Give its file: --import {annotations[0]}")
    folders = [path for path in sorted(source.rglob(CLASS_IMAGES)) if path.is_dir()] or [source]
    files = [path for inside in folders for path in sorted(inside.rglob("*.png"))]
    if not files:
        raise ConfigError(f"{source} has no PNG.", "Export as Segmentation mask 1.1, and unpack the archive.")
    found: dict[str, Labels] = {}
    maps = {inside: _read_label_map(inside, source, space) for inside in folders}
    for path in files:
        if (size := frames.size_of(str(path))) is not None:
            colors = next(colors for inside, colors in maps.items() if path.is_relative_to(inside))
            labels = _read_png(path, space, colors)
            if labels.shape != size:
                raise LabelError(
                    f"{path} has {labels.shape[1]}x{labels.shape[0]} pixels, its frame {size[1]}x{size[0]}.",
                    "Annotate the images as they are, and export without resizing.",
                )
            found[str(path)] = labels
    return found


def _read_label_map(inside: Path, source: Path, space: LabelSpace) -> dict[Color, int]:
    """Color → class id: of `labelmap.txt` in a folder of masks or beside it, else of the label space.

    Raises:
        LabelError: the file is malformed.
    """
    path = next((at / LABEL_MAP for at in (inside, inside.parent, source) if (at / LABEL_MAP).is_file()), None)
    if path is None:
        return {(0, 0, 0): IGNORE, **{color: label for label, color in enumerate(space.colors)}}
    ids = {BACKGROUND: IGNORE, **{name: label for label, name in enumerate(space.names)}}
    found: dict[Color, int] = {(0, 0, 0): IGNORE}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        values = rest.split(":")[0].split(",")
        if len(values) != 3 or not all(value.strip().isdecimal() and int(value) < 256 for value in values):
            raise LabelError(f"{path} has the line {line[:80]!r}.", "Write NAME:RED,GREEN,BLUE:: in each line.")
        if name in ids:
            red, green, blue = map(int, values)
            found[red, green, blue] = ids[name]
    return found


def _read_png(path: Path, space: LabelSpace, colors: Mapping[Color, int]) -> Labels:
    """Read class ids of a gray image, or colors of classes.

    Raises:
        LabelError: it cannot be read or is not accepted by `LabelMap.decode`, or has an id or color of no class.
    """
    try:
        data = path.read_bytes()
        check_declared_size(data)
        is_gray = data[_COLOR_TYPE_BYTE : _COLOR_TYPE_BYTE + 1] in _GRAY_TYPES
        return LabelMap(space, colors=None if is_gray else colors).decode(data, str(path))
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ForeignLabelError as error:
        remedy = (
            f"Give the labels of the tool the names and colors of {CLASSES}, or put its {LABEL_MAP} beside the masks."
        )
        raise ForeignLabelError(error.source, error.counts, space.accepted, remedy) from error
    except ImageError as error:
        named = error.message if str(path) in error.message else f"{path}: {error.message}"
        raise LabelError(named, error.remedy or "Export it again.") from error
