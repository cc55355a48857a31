"""Many bags: where they are, what they are called, and which process takes which."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlesam_ros.bags.storage import is_storage, refuse_ros1_folder
from mlesam_ros.errors import BagError

_SPLIT = re.compile(r"(?P<stem>.*)_\d+")


def find_bags(paths: Iterable[Path]) -> list[Path]:
    """The bags that are given, and those in the folders that are given.

    A folder with `metadata.yaml` is a bag. One without it is a bag where its files are the parts of one recording
    (`drive_0.mcap`, `drive_1.mcap`); otherwise each of its files is a bag, and so is whatever lies deeper.

    Returns:
        each bag once, in the order given, those of a folder by name.

    Raises:
        BagError: a path where there is no bag.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise BagError(
                f"{path} does not exist.", "Give a rosbag2 folder, a .mcap or .db3 file, or a folder of bags."
            )
        bags = [path] if path.is_file() else _below(path)
        if not bags:
            refuse_ros1_folder(path)
            raise BagError(f"{path} holds no bag, nor does any folder in it; bags are *.mcap and *.db3.")
        for bag in bags:
            found.setdefault(os.path.realpath(bag), bag)
    return list(found.values())


def _below(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if is_storage(file) and file.is_file())
    if (folder / "metadata.yaml").exists() or (files and _one_recording(files)):
        return [folder]
    deeper = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [*files, *(bag for entry in deeper if not entry.is_symlink() for bag in _below(entry))]


def _one_recording(files: Sequence[Path]) -> bool:
    if len(files) == 1:
        return True
    names = [_stem(file) for file in files]
    parts = [_SPLIT.fullmatch(name) for name in names]
    return len({part["stem"] if part else name for part, name in zip(parts, names, strict=True)}) == 1


def unique_names(bags: Sequence[Path]) -> dict[str, Path]:
    """A name for each bag that can be a folder's: its own, numbered where two are called the same."""
    names: dict[str, Path] = {}
    for bag in bags:
        path, number = Path(os.path.abspath(bag)), 1  # of a link its own name, of `.` the folder's
        stem = (_stem(path) if path.is_file() else path.name).strip(".") or "bag"  # of a hidden file; never a way up
        name = stem
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names[name] = bag
    return names


def _stem(file: Path) -> str:
    """`drive` of drive.mcap, and of drive.mcap.zstd."""
    return file.name.split(".")[0] if file.name.count(".") > 1 else file.stem
