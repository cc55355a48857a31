# SPDX-License-Identifier: Apache-2.0
"""Read ground-truth labels from image messages or from a folder of label images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import BagError, ImageError, LabelError
from mlesam_ros.evaluation.label_folder import bag_name, find_labels
from mlesam_ros.label_map import LabelMap
from mlesam_ros.labels import ForeignLabelError, LabelSpace, check_not_palette
from mlesam_ros.preprocessing.images import PixelFormat, decode_compressed, image_view
from mlesam_ros.types import CompressedImage, RawImage

Labels = npt.NDArray[np.uint8]

_PIXEL_FORMATS = {
    "mono8": PixelFormat("u1", 1),
    "8UC1": PixelFormat("u1", 1),
    "8SC1": PixelFormat("i1", 1),
    "mono16": PixelFormat("u2", 1),
    "16UC1": PixelFormat("u2", 1),
    "16SC1": PixelFormat("i2", 1),
    "32SC1": PixelFormat("i4", 1),
}
_COLOR_FORMATS = {"rgb8": PixelFormat("u1", 3), "bgr8": PixelFormat("u1", 3)}
_MAX_ASPECT_DIFFERENCE = 0.01
"""Largest relative difference of the aspect ratios of labels and camera, beyond rounding to whole pixels."""
_JPEG_MAGIC = b"\xff\xd8"


@dataclass(frozen=True)
class GroundTruth:
    """Ground-truth labels of one image.

    Attributes:
        time: nanoseconds, of the labeled image: its stamp without the camera's offset.
        labels: (H, W) uint8 ids.
    """

    time: int
    labels: Labels


def decode_labels(
    image: RawImage | CompressedImage, space: LabelSpace, label_map: LabelMap | None = None, source: str = ""
) -> Labels:
    """Decode the ids of a label image.

    Args:
        image: one channel of 8 to 32-bit integers, see `_PIXEL_FORMATS`, or a PNG of one channel. With a map, any image
            that `LabelMap.decode` reads, and rgb8 or bgr8 where it has colors.
        space: label space of the ids.
        label_map: map of the labels to the label space; None if they are its ids.
        source: name of the image, for errors.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: another encoding, or fields that do not fit each other.
        ForeignLabelError: an id that is neither a class nor 255, or that the map lacks.
        LabelError: more than one channel, or a JPEG, which alters ids.
    """
    source = f"{source} " if source else ""
    if isinstance(image, RawImage):
        source += f"label image ({image.encoding})"
        if label_map is not None and label_map.colors is not None:
            colors = image_view(image, _COLOR_FORMATS, "a label image with colors")
            return label_map.of_colors(colors if image.encoding == "rgb8" else colors[..., ::-1], source)
        samples = image_view(image, _PIXEL_FORMATS, "a label image")
        return _check_ids(samples, space, source) if label_map is None else label_map.of_ids(samples, source)
    if "jpeg" in image.format or "jpg" in image.format or image.data[:2].tobytes() == _JPEG_MAGIC:
        raise LabelError(
            f"labels are compressed as {image.format[:40]!r}, which alters ids.", "Publish them as png, or as Image."
        )
    return _decode_png(image.data, space, f"{source}label image ({image.format[:40]})", label_map)


def check_aspect(labels: tuple[int, ...], camera: tuple[int, ...]) -> None:
    """Reject labels with another aspect ratio than the camera's.

    Args:
        labels: (H, W) of the labels.
        camera: (H, W) of the camera.

    Raises:
        LabelError: the ratio of the sides differs by more than 1 % and by a pixel or more.
    """
    height = camera[0] * labels[1] / camera[1]
    if abs(labels[0] - height) > max(_MAX_ASPECT_DIFFERENCE * height, 1.0):
        raise LabelError(
            f"ground-truth labels are {labels[1]}x{labels[0]} pixels, but the camera has {camera[1]}x{camera[0]}: "
            "another aspect ratio, so they are not compared.",
            "Give labels of the camera's image, at any size of its aspect ratio.",
        )


class LabelFolder:
    """Folder of label images, one PNG each, with the stamp in nanoseconds in the file name.

    Attributes:
        stamps: of all label images, sorted.
    """

    def __init__(
        self,
        folder: str | Path,
        space: LabelSpace,
        bag: Path | None = None,
        split: str = "",
        label_map: LabelMap | None = None,
    ) -> None:
        """List the folder; arguments as for `find_labels`, and the map as for `decode_labels`.

        Raises:
            BagError, ConfigError, LabelError: see `find_labels`; or it has labels, but none of the bag.
        """
        self._space, self._map = space, label_map
        wanted = space if label_map is None else None
        self._files = {found.stamp: found.path for found in find_labels(Path(folder), wanted, bag, split)}
        self.stamps = list(self._files)
        if bag is not None and not self.stamps:
            raise BagError(
                f"{folder} has labels, but none of {bag_name(bag)}.", "Give the bag the name that it had when labeled."
            )

    def nearest(self, time: int, tolerance: int, offset: int = 0) -> GroundTruth | None:
        """Labels of the image nearest to a time; None if none is within the tolerance.

        Args:
            time: nanoseconds.
            tolerance: nanoseconds.
            offset: nanoseconds by which the stamps in the file names are late.

        Raises:
            ImageError: the file cannot be read, or is no image.
            LabelError: see `decode_labels`.
        """
        stamp = time + offset
        at = int(np.searchsorted(self.stamps, stamp))
        nearest = min(self.stamps[max(at - 1, 0) : at + 1], key=lambda other: abs(other - stamp))
        if abs(nearest - stamp) > tolerance:
            return None
        path = self._files[nearest]
        try:
            labels = _decode_png(np.fromfile(path, np.uint8), self._space, str(path), self._map)
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror or error}.") from error
        except ImageError as error:
            raise ImageError(f"{path}: {error.message}", error.remedy) from error
        return GroundTruth(time, labels)


def _decode_png(data: npt.NDArray[np.uint8], space: LabelSpace, source: str, label_map: LabelMap | None) -> Labels:
    if label_map is not None:
        return label_map.decode(data.tobytes(), source)
    check_not_palette(data[:26].tobytes(), source)
    samples = decode_compressed(data, cv2.IMREAD_UNCHANGED)
    if samples.ndim != 2:
        raise LabelError(f"{source} has {samples.shape[2]} channels; a label image has one, the ids.")
    return _check_ids(samples, space, source)


def _check_ids(samples: npt.NDArray[Any], space: LabelSpace, source: str) -> Labels:
    invalid, pixels = np.unique(samples[(samples > space.ignore) | (samples < 0)], return_counts=True)
    if invalid.size:
        raise ForeignLabelError(source, dict(zip(invalid.tolist(), pixels.tolist(), strict=True)), space.accepted)
    labels = np.ascontiguousarray(samples, np.uint8)
    space.check(labels, source)
    return labels
