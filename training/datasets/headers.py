"""What a file says of itself, without reading all of it: its picture's size, and whether its end is there.

A set of 30 000 pictures is looked at in a minute so; a file that a download cut short is found before the first step.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from mlesam_ros.errors import DatasetError
from mlesam_ros.training.datasets.files import picture_size

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
