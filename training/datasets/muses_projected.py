"""Pictures that MUSES' SDK, or the any-modal papers' preparation, has made of its other sensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from mlesam_ros.encoding.event_counts import EventCounts
from mlesam_ros.errors import DatasetError
from mlesam_ros.frame import EVENT, Modality
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.labels import IGNORE
from mlesam_ros.training.datasets.files import read_array, read_picture, read_stored
from mlesam_ros.training.datasets.frames import Image, Labels

RADAR: Modality = "radar"
_SHIFT, _SCALE = 100.0, 150.0
"""A PNG of the SDK holds (value + 100) * 150 as uint16, so that "nothing" is 15000."""
_SQUASHED = (1024, 1024)


def projected(path: Path, modality: Modality) -> npt.NDArray[np.float32]:
    """A file of the SDK's projection script.

    Returns:
        (H, W, 3) float32: for LiDAR and radar range (m), intensity and height (m; 0 for radar), for events the counts
        of brighter and darker ones, cut off as the live encoder does, and 0.

    Raises:
        DatasetError: it cannot be read, or holds something else.
    """
    stored = read_stored(path) if path.suffix == ".png" else read_array(path)
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise DatasetError(f"{path} has the shape {stored.shape}; the SDK projects to (height, width, 3).")
    values = stored.astype(np.float32)
    if modality == EVENT:
        return np.minimum(values, np.float32(EventCounts.most))
    if path.suffix == ".png":
        if stored.dtype != np.uint16:
            raise DatasetError(f"{path} holds {stored.dtype}; the SDK's pictures of {modality} are 16 bits deep.")
        values = values / np.float32(_SCALE) - np.float32(_SHIFT)
        values[stored == round(_SHIFT * _SCALE)] = 0
    return values


def squashed(path: Path) -> Image:
    """The any-modal papers' reading: as 8-bit RGB, squashed to 1024x1024, 0 … 255; (3, H, W).

    Raises:
        DatasetError: no such file, or no picture.
    """
    try:
        with Pillow.open(path) as picture:
            small = np.asarray(picture.convert("RGB").resize(_SQUASHED))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    return np.ascontiguousarray(small.transpose(2, 0, 1), np.float32)


def squashed_labels(path: Path) -> Labels:
    """The same papers' labels: 1024x1024, and what is unlabeled becomes road."""
    labels = read_picture(path)
    small = resize_nearest(labels if labels.ndim == 2 else labels[..., 0], _SQUASHED)
    return np.where(small == IGNORE, 0, small).astype(np.uint8)
