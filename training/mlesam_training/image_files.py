# SPDX-License-Identifier: Apache-2.0
"""Reading of images, arrays and lists of data sets, and checks of their files without their values."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from PIL.Image import DecompressionBombError

from mlesam_ros.errors import DatasetError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_image(path: Path) -> npt.NDArray[Any]:
    """Read an image unchanged: (H, W) or (H, W, channels), uint8 or uint16, colors in RGB order.

    A JPEG is upright by its EXIF orientation.

    Raises:
        DatasetError: the file is missing or cannot be decoded.
    """
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    image = read_image_bgr(path, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if is_jpeg else cv2.IMREAD_UNCHANGED)
    if image.ndim == 3:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]
    return image


def read_color(path: Path) -> npt.NDArray[Any]:
    """Read an image of any format in color, upright by its EXIF orientation and without alpha.

    Returns:
        (H, W, 3) RGB, uint8 or uint16.

    Raises:
        DatasetError: see `read_image`.
    """
    return read_image_bgr(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)[..., ::-1]


def read_image_bgr(path: Path, flags: int = cv2.IMREAD_UNCHANGED) -> npt.NDArray[Any]:
    """Read an image in the channel order of OpenCV, the inverse of `cv2.imwrite`.

    Args:
        path: the file.
        flags: of `cv2.imdecode`.

    Raises:
        DatasetError: see `read_image`.
    """
    try:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, flags) if len(data) else None
    except (OSError, cv2.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if image is None:
        raise DatasetError(f"{path} cannot be decoded as an image; it has {len(data)} bytes.", "Fetch it again.")
    return np.asarray(image)


def png_size(path: Path) -> tuple[int, int]:
    """(height, width) of a PNG, from its header (ISO/IEC 15948, 11.2.2).

    Raises:
        DatasetError: the file is missing or not a PNG.
    """
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if len(head) < 24 or head[:8] != _SIGNATURE:
        raise DatasetError(f"{path} is not a PNG.")
    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    return height, width


def three_channels(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert to (H, W, 3): the first three channels, or the first channel repeated."""
    if image.ndim == 2:
        image = image[..., None]
    return image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)


def scale_to_unit(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale unsigned integers to 0 … 1 of their full range as float32; other types are only cast."""
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read the array of a .npy file, or the first array of a .npz file.

    Raises:
        DatasetError: the file is missing or cannot be read.
    """
    try:
        content = np.load(path)
        return np.asarray(content[content.files[0]] if path.suffix == ".npz" else content)
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read as a NumPy array: {error}.", "Fetch it again.") from error


def read_list(path: Path) -> list[str]:
    """Read the lines of a list file, without empty ones.

    Raises:
        DatasetError: the file is missing, cannot be read, or is empty.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if not names:
        raise DatasetError(f"{path} lists no sample.")
    return names


def require_folder(root: Path, inside: str, what: str) -> Path:
    """Check that a folder of a data set's layout exists, and return it.

    Raises:
        DatasetError: the folder is missing; names the content of `root`.
    """
    folder = root / inside
    if not folder.is_dir():
        names = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else []
        content = f"contains {', '.join(names) or 'nothing'}" if root.is_dir() else "is missing, too"
        raise DatasetError(f"{what} has its frames under {folder}, which is missing; {root} {content}.")
    return folder


_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height (CIPA DC-008, 4.6.4)."""
_CHANNELS = {"P": 3, "LA": 4, "PA": 4}
"""Pillow mode → channels of `read_image`, where they differ from the bands."""


_DAMAGE = (
    OSError, ValueError, SyntaxError, IndexError, EOFError, zipfile.BadZipFile, zlib.error, DecompressionBombError,
)  # fmt: skip
"""Errors of Pillow, NumPy and zipfile about damaged files."""


class StoredImage(NamedTuple):
    """An image or array without its values.

    Attributes:
        shape: (height, width) or (height, width, channels), upright by its EXIF orientation.
        dtype: of the values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def inspect_file(path: Path) -> StoredImage | None:
    """Check that a file is complete: the checksums of a PNG, the scans of a JPEG; of others the header, and the length.

    Returns:
        Shape and type of an image, .npy or .npz file; None for other files.

    Raises:
        DatasetError: the file is missing, truncated, damaged, or has no numbers by row and column.
    """
    read = _READERS.get(path.suffix.lower())
    try:
        stored = read(path) if read else None
        if stored is not None and (len(stored.shape) < 2 or stored.dtype.kind not in "biuf"):
            raise ValueError(f"it has {stored.dtype} values of shape {stored.shape}")
    except _DAMAGE as error:
        raise DatasetError(
            f"{path} is damaged or cut short: {' '.join(str(error).split())}.", "Fetch it again."
        ) from error
    return stored


def _image(path: Path) -> StoredImage:
    with Image.open(path) as image:
        has_exif = image.format != "PNG" or "exif" in image.info  # without it Pillow decodes a PNG to look behind it
        turned = has_exif and image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
        size = (image.width, image.height) if turned else (image.height, image.width)
        channels = _CHANNELS.get(image.mode, len(image.getbands()))
        dtype = "f4" if image.mode == "F" else "u2" if image.mode.startswith("I") else "u1"
        if image.format == "PNG":
            image.verify()
        elif image.format in ("JPEG", "MPO"):
            image.draft(None, (1, 1))  # decodes an eighth of the size
            image.load()
    return StoredImage(size if channels == 1 else (*size, channels), np.dtype(dtype))


def _npy(path: Path) -> StoredImage:
    array = np.load(path, mmap_mode="r")
    return StoredImage(array.shape, array.dtype)


def _npz(path: Path) -> StoredImage:
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return StoredImage(shape, dtype)


def _hdf5(path: Path) -> None:
    import h5py  # noqa: PLC0415  # of the extra train

    h5py.File(path, "r").close()


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp")
ARRAY_SUFFIXES = (".npy", ".npz")
_READERS: dict[str, Callable[[Path], StoredImage | None]] = {
    **dict.fromkeys(IMAGE_SUFFIXES, _image), ".npy": _npy, ".npz": _npz, ".h5": _hdf5,
}  # fmt: skip
