# SPDX-License-Identifier: Apache-2.0
"""Layout of a folder of labels, as `mlesam label` writes it and training and evaluation read it.

    labels/
      images/<bag>_<stamp>.png        camera images
      proposals/, proposals.json      masks for the annotation tool, as PNG or COCO
      confidence/<bag>_<stamp>.png    probability of the proposed class times 255
      labels/<bag>_<stamp>.png        class ids, as corrected and imported
      classes.yaml                    label space
      train.txt, held_out.txt         names of the labeled frames of each split
      data.yaml                       data file for `mlesam train --data`

A plain folder of PNGs with stamps in their names is accepted as well; then its files are for any bag.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mlesam_ros.errors import BagError, ConfigError, LabelError
from mlesam_ros.files import atomic_write, write_error
from mlesam_ros.labels import LabelSpace, load_label_space
from mlesam_ros.types import Modality

IMAGES, CONFIDENCE, LABELS = "images", "confidence", "labels"
CLASSES, DATA = "classes.yaml", "data.yaml"
TRAIN, HELD_OUT = "train", "held_out"
_HELD_OUT_SHARE = 5
"""The last frame of so many is held out."""
_STAMP, _OWN_STAMP = re.compile(r"\d{16,19}"), re.compile(r"(?<=_)\d+$")


def bag_name(path: Path) -> str:
    """Name of a bag: that of its folder, or of its file without suffixes, `drive` of drive.mcap.zstd."""
    path = Path(os.path.abspath(path))  # keeps the name of a link, resolves `.`
    stem = path.name.split(".")[0] if path.name.count(".") > 1 else path.stem
    return (stem if path.is_file() else path.name).strip(".") or "bag"  # no leading dot, never `..`


def frame_name(bag: str, stamp: int) -> str:
    """Name of a frame: its files are called like that, with suffixes."""
    return f"{bag}_{stamp}"


def bag_of(frame: str) -> str:
    """Name of a frame's bag; the inverse of `frame_name`."""
    return frame.rpartition("_")[0]


def stamp_of(frame: str) -> int:
    """Stamp of a frame, from its name, in nanoseconds."""
    return int(frame.rpartition("_")[2])


class LabelFile(NamedTuple):
    """A label image: name of its frame, stamp in nanoseconds, and path."""

    name: str
    stamp: int
    path: Path


def find_labels(folder: Path, space: LabelSpace | None, bag: Path | None = None, split: str = "") -> list[LabelFile]:
    """List the label images of a folder by time.

    Args:
        folder: written by `mlesam label`, or a plain folder of PNGs.
        space: label space of the ids; None for any.
        bag: whose labels are listed; None for all.
        split: `TRAIN` or `HELD_OUT`, to list the frames of that split, if the folder has splits; empty for all.

    Raises:
        BagError: the folder does not exist or has no labels.
        ConfigError: see `read_splits`.
        LabelError: its labels are of another label space.
    """
    is_own = (folder / CLASSES).exists()
    if is_own and space is not None:
        _check_space(folder, space)
    inside, pattern = (folder / LABELS, _OWN_STAMP) if is_own else (folder, _STAMP)
    found = [LabelFile(p.stem, int(m[0]), p) for p in inside.glob("*.png") if (m := pattern.search(p.stem))]
    if not found and is_own:
        raise BagError(
            f"{folder} has no labels yet.", f"Correct its proposals and run: mlesam label --out {folder} --import FILE"
        )
    if not found:
        raise BagError(
            f"{folder} has no label images; their file names must be stamps in nanoseconds, such as "
            "1700000000123456789.png."
        )
    if is_own and bag is not None:
        found = [entry for entry in found if bag_of(entry.name) == bag_name(bag)]
    listed = read_splits(folder).get(split, set() if is_own else None) if split else None
    return sorted((e for e in found if listed is None or e.name in listed), key=lambda e: (e.stamp, e.name))


def _check_space(folder: Path, space: LabelSpace) -> None:
    labeled = load_label_space(folder / CLASSES)
    if labeled.names != space.names:
        raise LabelError(
            f"the labels in {folder} are of label space {labeled.name} with {len(labeled)} classes; wanted is "
            f"{space.name} with {len(space)}.",
            f"Give a checkpoint that was trained with {folder / CLASSES}, or --map FILE.",
        )


def has_splits(folder: Path) -> bool:
    """Whether lists split the frames of a folder, and not the bags; `mlesam label` writes them at the first import."""
    return (folder / CLASSES).exists() or (folder / f"{HELD_OUT}.txt").exists()


def read_splits(folder: Path) -> dict[str, set[str]]:
    """Split → names of its frames; without files the result is empty.

    Raises:
        ConfigError: a file cannot be read, or a frame is in both splits.
    """
    found: dict[str, set[str]] = {}
    for split in (TRAIN, HELD_OUT):
        path = folder / f"{split}.txt"
        try:
            if path.exists():
                found[split] = set(path.read_text(encoding="utf-8").split("\n")) - {""}
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}.") from error
    if len(found) == 1:
        missing = HELD_OUT if TRAIN in found else TRAIN
        raise ConfigError(f"{folder} has {next(iter(found))}.txt, but no {missing}.txt.", "Write both, or remove it.")
    if both := sorted(found.get(TRAIN, set()) & found.get(HELD_OUT, set())):
        raise ConfigError(f"{both[0]} is in {TRAIN}.txt and in {HELD_OUT}.txt of {folder}.", "Take it out of one.")
    return found


def write_splits(folder: Path, labeled: Collection[str]) -> dict[str, set[str]]:
    """Assign labeled frames to splits: of each bag the last fifth is held out. Frames keep an earlier assignment.

    Returns:
        Split → names.

    Raises:
        FileError: the files cannot be written.
    """
    splits = {TRAIN: set[str](), HELD_OUT: set[str](), **read_splits(folder)}
    new = set(labeled) - splits[TRAIN] - splits[HELD_OUT]
    for bag in sorted({bag_of(name) for name in new}):
        frames = sorted((name for name in new if bag_of(name) == bag), key=stamp_of)
        count = len(frames) // _HELD_OUT_SHARE
        if not count and not splits[HELD_OUT] and len(labeled) > 1:
            count = 1
        splits[TRAIN] |= {*frames[: len(frames) - count]}
        splits[HELD_OUT] |= {*frames[len(frames) - count :]}
    for split, names in splits.items():
        atomic_write(folder / f"{split}.txt", "".join(f"{name}\n" for name in sorted(names)))
    return splits


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file atomically, and create its folder.

    Raises:
        FileError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path.parent, error) from error
    atomic_write(path, content)


class NewFiles:
    """Files that a run writes into a folder, and removes if it fails. Files of others in the folder stay.

    Attributes:
        folder: created with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._written = folder, list[Path]()

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file of the folder; see `write_file`."""
        self._written.append(Path(name))
        write_file(self.folder / name, content)

    def remove(self) -> None:
        """Remove the written files, and the folders inside that are empty then."""
        inside = {parent for name in self._written for parent in name.parents[:-1]}
        for name in self._written:
            (self.folder / name).unlink(missing_ok=True)
        for name in sorted(inside, key=lambda name: -len(name.parts)):
            with suppress(OSError):  # not empty, or never created
                (self.folder / name).rmdir()


def write_data(
    files: NewFiles,
    bags: Sequence[Path],
    size: tuple[int, int],
    space: LabelSpace,
    sensors: Mapping[str, Any],
    modalities: Sequence[Modality],
) -> None:
    """Write the label space, and a data file that trains on the labels of the folder.

    Args:
        files: folder of the labels.
        bags: that the frames are of.
        size: (height, width) of the network's images.
        space: label space.
        sensors: keys that describe the sensors: `node`, and `parameters` as name → value.
        modalities: those that all bags have.

    Raises:
        FileError: a file cannot be written.
    """
    files.write(CLASSES, yaml.safe_dump(space.to_dict(), sort_keys=False))
    root, paths = files.folder.absolute(), [os.path.abspath(bag) for bag in bags]
    data = {
        "kind": "bags", "labels": str(root), "folder": str(root / "encoded"), "train": paths, "held_out": paths,
        "size": list(size), "space": str(root / CLASSES), **sensors,
    }  # fmt: skip
    content = {"data": data, "model": {"modalities": list(modalities)}}
    files.write(DATA, yaml.safe_dump(content, sort_keys=False, default_flow_style=None))
