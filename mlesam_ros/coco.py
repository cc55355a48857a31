# SPDX-License-Identifier: Apache-2.0
"""Label images as COCO annotations (https://cocodataset.org/#format-data), with run-length encoded regions.

RLE keeps every pixel. Polygons are read, but not written: they lose holes and the exact border. An annotation is a
region of one class; a class may have any number of them in an image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import LabelError
from mlesam_ros.files import detect_file_type
from mlesam_ros.labels import IGNORE, LabelSpace

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_MIN_REGION = 1e-3
"""Share of the image above which a connected region is an annotation of its own, so that a tool can change its class
as a whole; smaller regions of a class share one."""
_FIRST_CHARACTER, _CHARACTERS, _MAX_BITS = 48, 64, 40
_POLYGON_BITS = 8
"""Fractional bits of the coordinates for OpenCV."""


def encode_rle(mask: Mask) -> dict[str, Any]:
    """Encode a mask: `{size: [H, W], counts}` with the compressed counts of pycocotools.

    Args:
        mask: (H, W) bool.
    """
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": _compress(counts)}


def _compress(counts: Sequence[int]) -> str:
    """Counts as characters of 5 bits and a continuation bit; from the fourth on, differences to the one before last."""
    text = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            low, value = value & 0x1F, value >> 5
            more = value != (-1 if low & 0x10 else 0)
            text.append(_FIRST_CHARACTER + low + 0x20 * more)
            if not more:
                break
    return text.decode()


def decode_rle(rle: Mapping[str, Any], source: str) -> Mask:
    """Decode a mask; the inverse of `encode_rle`.

    Args:
        rle: size, and counts as a string or as a list of numbers.
        source: origin, for the error message.

    Returns:
        (H, W) bool.

    Raises:
        LabelError: the counts are malformed or do not add up to the size.
    """
    size, given = rle.get("size"), rle.get("counts")
    counts: Any = _decompress(given.encode("ascii", "replace")) if isinstance(given, str) else given
    if not (_is_numbers(size) and len(size) == 2 and _is_numbers(counts) and sum(counts) == size[0] * size[1]):
        raise LabelError(f"{source}: the counts of its RLE do not fit its size {size!r}.", "Export it again.")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size, order="F")


def _is_numbers(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _decompress(text: bytes) -> list[int] | None:
    """Counts of a compressed RLE; None if a character is not one of its alphabet or the last number is incomplete."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - _FIRST_CHARACTER
        if not 0 <= bits < _CHARACTERS:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if shift > _MAX_BITS:
            return None
        if bits & 0x20:
            continue
        value -= (1 << shift) if bits & 0x10 else 0
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return None if shift else counts


@dataclass
class CocoWriter:
    """Collects label images, and makes the document of their annotations.

    Attributes:
        space: label space of the images; category id is class id plus 1.
    """

    space: LabelSpace
    _images: list[dict[str, Any]] = field(default_factory=list)
    _annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, file_name: str, labels: Labels, confidence: npt.NDArray[np.uint8]) -> None:
        """Add an image. Pixels that are `IGNORE` are in no annotation.

        Args:
            file_name: of the image.
            labels: (H, W) class ids.
            confidence: (H, W) probability of the class times 255; an annotation's `score` is its mean.
        """
        image = len(self._images) + 1
        height, width = labels.shape
        self._images.append({"id": image, "file_name": file_name, "width": width, "height": height})
        for label, mask in _regions(labels):
            left, top, w, h = cv2.boundingRect(mask.astype(np.uint8))
            score = round(float(confidence[mask].mean()) / 255, 4)
            self._annotations.append({
                "id": len(self._annotations) + 1, "image_id": image, "category_id": label + 1,
                "segmentation": encode_rle(mask), "area": int(mask.sum()), "bbox": [left, top, w, h], "iscrowd": 1,
                "score": score,
            })  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The document, in JSON types."""
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(self.space.names)]
        return {"images": self._images, "categories": categories, "annotations": self._annotations}


def _regions(labels: Labels) -> Iterator[tuple[int, Mask]]:
    """Yield the regions of a label image: class id and (H, W) bool."""
    for label in np.unique(labels[labels != IGNORE]).tolist():
        of_class = labels == label
        _, components, stats, _ = cv2.connectedComponentsWithStats(of_class.astype(np.uint8), connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA]
        large = np.flatnonzero(areas > _MIN_REGION * labels.size)
        large = large[large > 0]
        yield from ((label, components == component) for component in large)
        rest = of_class & ~np.isin(components, large)
        if rest.any():
            yield label, rest


def read_coco(path: Path, space: LabelSpace, size_of: Callable[[str], tuple[int, int] | None]) -> dict[str, Labels]:
    """Read the label images of an annotation file: file name of the image → (H, W) class ids, `IGNORE` elsewhere.

    Categories are matched by name. Where annotations overlap, the later one counts. Polygons are filled by OpenCV, so
    that their border may differ by a pixel from that of other programs. Images without an annotation are left out.

    Args:
        path: the file.
        space: label space.
        size_of: (height, width) of an image by its file name; None for images to leave out.

    Raises:
        LabelError: the file cannot be read or is malformed, an image has another size, or an annotation has a category
            that is no class, no region, or a region of another size than its image.
    """
    document = _read_document(path)
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    images = {entry["id"]: entry for entry in document["images"]}
    found: dict[str, Labels] = {}
    for annotation in document["annotations"]:
        source = f"annotation {annotation.get('id')} of {path}"
        image, name = images.get(annotation["image_id"]), names.get(annotation["category_id"])
        if image is None or name is None:
            key = "image_id" if image is None else "category_id"
            raise LabelError(f"{source} has the {key} {annotation[key]}, which the file lacks.", "Export it again.")
        if (size := size_of(image["file_name"])) is None:
            continue
        if (image["height"], image["width"]) != size:
            raise LabelError(
                f"{path} has {image['file_name']} with {image['width']}x{image['height']} pixels; the frame has "
                f"{size[1]}x{size[0]}.",
                "Annotate the images as they are, without resizing.",
            )
        if name not in space.names:
            raise LabelError(
                f"{source} is of the category {name!r}; label space {space.name} has {', '.join(space.names)}.",
                "Give the labels of the tool these names.",
            )
        labels = found.setdefault(image["file_name"], np.full(size, IGNORE, np.uint8))
        labels[_region(annotation.get("segmentation"), size, source)] = space.names.index(name)
    return found


def _read_document(path: Path) -> dict[str, Any]:
    """Read a file and check that it has the keys of COCO that `read_coco` uses.

    Raises:
        LabelError: it cannot be read, or is no COCO file.
    """
    try:
        kind = detect_file_type(path)
        document = {} if kind else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabelError(f"{path} cannot be read as JSON: {error}.") from error
    if kind:
        raise LabelError(f"{path} is {kind[0]}, not COCO's JSON.", kind[1])
    wanted: dict[str, dict[str, type]] = {
        "images": {"id": int, "file_name": str, "height": int, "width": int},
        "categories": {"id": int, "name": str},
        "annotations": {"image_id": int, "category_id": int},
    }
    for key, types in wanted.items():
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise LabelError(f"{path} has no list of {key}, so it is no COCO file.", "Export as COCO 1.0.")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or any(type(entry.get(name)) is not kind for name, kind in types.items()):
                raise LabelError(f"{path}: {key}[{number}] lacks a valid {', '.join(types)}.", "Export it again.")
    return document


def _region(segmentation: Any, size: tuple[int, int], source: str) -> Mask:
    """Decode the region of an annotation, RLE or polygons.

    Raises:
        LabelError: it is neither, or has another size than the image.
    """
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise LabelError(
                f"{source} has the size {segmentation.get('size')!r}, its image {list(size)} (height, width).",
                "Export at the size of the images.",
            )
        return decode_rle(segmentation, source)
    polygons = segmentation if isinstance(segmentation, list) else []
    points = [np.array(polygon, float).reshape(-1, 2) for polygon in polygons if _is_polygon(polygon)]
    if not points or len(points) < len(polygons):
        raise LabelError(f"{source} has no mask or polygon, such as a box.", "Draw it as a mask or a polygon.")
    filled = np.zeros(size, np.uint8)
    for corners in points:
        fixed = np.round((corners - 0.5) * (1 << _POLYGON_BITS)).astype(np.int32)
        cv2.fillPoly(filled, [fixed], 1, shift=_POLYGON_BITS)
    return filled > 0


def _is_polygon(values: Any) -> bool:
    numbers = isinstance(values, list) and all(type(v) in (int, float) and abs(v) < 1e5 for v in values)
    return numbers and len(values) >= 6 and len(values) % 2 == 0
