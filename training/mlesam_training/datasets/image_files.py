"""Read images of published data sets, and their sizes from the file header alone."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import DatasetError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_picture(path: Path) -> npt.NDArray[Any]:
    """A PNG as it is: (H, W) or (H, W, channels), uint8 or uint16, colors in the order RGB.

    Raises:
        DatasetError: no such file, or none that can be decoded.
    """
    picture = read_stored(path)
    if picture.ndim == 3:
        picture = picture[..., [2, 1, 0, *range(3, picture.shape[2])]]
    return picture


def read_stored(path: Path) -> npt.NDArray[Any]:
    """A PNG with its channels as OpenCV wrote them: data that somebody saved with `cv2.imwrite` comes back in order.

    Raises:
        DatasetError: see `read_picture`.
    """
    try:
        data = np.fromfile(path, np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except (OSError, cv2.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if picture is None:
        raise DatasetError(f"{path} is no picture that can be decoded; it has {len(data)} bytes.")
    return np.asarray(picture)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a PNG, from its header alone (ISO/IEC 15948, 11.2.2).

    Raises:
        DatasetError: no such file, or no PNG.
    """
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if len(head) < 24 or head[:8] != _SIGNATURE:
        raise DatasetError(f"{path} is no PNG.")
    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    return height, width


def three_channels(picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W, 3): the first three channels, or the only one three times."""
    if picture.ndim == 2:
        picture = picture[..., None]
    return picture[..., :3] if picture.shape[2] >= 3 else np.repeat(picture[..., :1], 3, axis=2)


def unit_scaled(picture: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Integer samples as 0 … 1 of their type's full scale; floats as they are."""
    if picture.dtype.kind == "u":
        return picture.astype(np.float32) / np.float32(np.iinfo(picture.dtype).max)
    return picture.astype(np.float32)


def read_array(path: Path) -> npt.NDArray[Any]:
    """The array in a .npy file, or the first one of a .npz file.

    Raises:
        DatasetError: no such file, or none that can be read.
    """
    try:
        content = np.load(path)
        return np.asarray(content[content.files[0]] if path.suffix == ".npz" else content)
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read as a NumPy array: {error}.") from error


def listed(path: Path) -> list[str]:
    """The first word of each line of a list file.

    Raises:
        DatasetError: no such file, or an empty one.
    """
    try:
        names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if not names:
        raise DatasetError(f"{path} lists no frame.")
    return names


def require_folder(root: Path, inside: str, what: str) -> Path:
    """A folder of a data set's layout.

    Raises:
        DatasetError: with what is there instead.
    """
    folder = root / inside
    if not folder.is_dir():
        there = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else None
        seen = "nothing, not even the folder itself" if there is None else ", ".join(there) or "nothing"
        raise DatasetError(f"{what} has its frames under {folder}, which is not there; {root} holds {seen}.")
    return folder


Shape = tuple[int, int]
_END = b"IEND\xaeB`\x82"
"""The last bytes of a PNG: type and checksum of its empty last chunk (ISO/IEC 15948, 11.2.5)."""
_TAIL = 64


def stored_shape(path: Path) -> Shape | None:
    """(height, width) of a PNG, .npy or .npz file; None for other files.

    Raises:
        DatasetError: no such file, one that is cut short, or not what its name says.
    """
    read = _READERS.get(path.suffix)
    try:
        return read(path) if read else None
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} is damaged or cut short: {' '.join(str(error).split())}.", "Fetch it again."
        ) from error


def _png(path: Path) -> Shape:
    size = picture_size(path)
    with path.open("rb") as file:
        file.seek(-min(_TAIL, path.stat().st_size), 2)
        if _END not in file.read():
            raise ValueError("it has no end")
    return size


def _npy(path: Path) -> Shape:
    shape = np.load(path, mmap_mode="r").shape
    return shape[0], shape[1]


def _npz(path: Path) -> Shape:
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read(member)
    return shape[0], shape[1]


def _hdf5(path: Path) -> None:
    h5py.File(path, "r").close()


_READERS: dict[str, Callable[[Path], Shape | None]] = {".png": _png, ".npy": _npy, ".npz": _npz, ".h5": _hdf5}
