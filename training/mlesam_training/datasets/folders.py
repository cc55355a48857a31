# SPDX-License-Identifier: Apache-2.0
"""Any data set of files with equal stems: images of any subset of the sensors, and label images.

    data:
      kind: folders
      root: photos
      images: {camera: "rgb/{split}/*.jpg", depth: "depth/{split}/{stem}.png"}
      labels: "gt/{split}/{stem}.png"
      space: my_space.yaml

One of the patterns has the wildcard `*`, whose match is the stem of a sample; `**/` matches folders, `.*` any suffix.
All sensors show the pixels of the labels.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, DatasetError
from mlesam_ros.label_map import RawLabels, find_label_space, make_label_map
from mlesam_ros.preprocessing.depth import HHA, LogDepth
from mlesam_ros.preprocessing.events import EventCounts, EventPolarity, TimeSurface
from mlesam_ros.preprocessing.lidar import DeliverLidar, RangeIntensityHeight
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, PREPROCESSORS, RGB
from mlesam_ros.strict_yaml import check_choice, short_repr
from mlesam_ros.types import Modality
from mlesam_training.image_files import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    StoredImage,
    read_array,
    read_color,
    read_image,
    read_list,
    scale_to_unit,
    three_channels,
)
from mlesam_training.labeled_dataset import LABELS, FileDataset, Image, Labels, ModalityFormat, SampleFiles, published

_SPLIT, _STEM, _ANY_SUFFIX = "{split}", "{stem}", ".*"
_SUFFIXES = (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)
_MILLIMETER = 0.001
_PICTURES = (RGB.name, HHA.name, DeliverLidar.name)
"""Preprocessors whose images are 8 or 16-bit images of 0 … 1."""
_RENDERED = (EventCounts.name, EventPolarity.name)
"""Preprocessors of events that may be rendered images, of brighter and darker events in blue and red."""
Values = npt.NDArray[Any]


class Folders(FileDataset):
    """One split of a data set in folders. No conditions."""

    indexed_labels = True

    @classmethod
    def available(cls, options: Mapping[str, Any]) -> tuple[Modality, ...]:
        """See `FileDataset`: the sensors that have images."""
        return tuple(options.get("images", ()))

    def __init__(
        self,
        root: str | Path,
        split: str,
        images: Mapping[Modality, str],
        labels: str,
        space: Any,
        modalities: Sequence[Modality] | None = None,
        splits: Mapping[str, Any] | None = None,
        raw_space: Any = None,
        map: Mapping[Any, Any] = MappingProxyType({}),
        palette: Any = None,
        ignore: Sequence[int] = (),
        preprocessors: Mapping[Modality, str] = MappingProxyType({}),
        depth_unit: float = 0.0,
    ) -> None:
        """Find the samples.

        Args:
            root: folder of the patterns and lists.
            split: replaces `{split}` in the patterns, and selects from `splits`.
            images: modality → pattern of its files, see above.
            labels: pattern of the label images, see `LabelMap.decode`; or .npy files of (H, W) integers.
            space: label space: name, file, or content as a mapping.
            modalities: some of `images`; None for all.
            splits: split → its stems: a list file below `root`, a pattern of stems or a list of patterns, or a share in
                the order of the stems, such as `{train: 0.8, val: 0.2}`. None where the patterns have `{split}`.
            raw_space, map, palette, ignore: description of label images with other ids or colors, see `RawLabels`.
            preprocessors: modality → equivalent live preprocessor, which determines the content of its files; those of
                `DEFAULT_PREPROCESSORS` by default, none for other modalities.
            depth_unit: meters per count of depth; 0 for millimeters in integers and meters in floats.

        Raises:
            ConfigError: a value is not accepted.
            DatasetError: a split is empty, splits overlap, or a file is missing.
            LabelError: the label space is malformed, or classes of `raw_space` have no counterpart.
        """
        if not isinstance(images, dict) or not images or not all(isinstance(t, str) for t in images.values()):
            raise ConfigError(f"images is {short_repr(images)}; it must be a mapping of sensors to patterns of files.")
        for modality in modalities or ():
            check_choice("modality of images", modality, images)
        chosen = tuple(modalities or images)
        layout = _Layout(Path(root), {**images, LABELS: labels}, splits)
        self._names, self._unit = _preprocessor_names(chosen, preprocessors), float(depth_unit)
        target = find_label_space(space)
        self._map = make_label_map(target, RawLabels(raw_space, map or {}, palette, ignore))
        self.notes = layout.notes(split)
        super().__init__(target, {m: _format(self._names[m]) for m in chosen}, layout.entries(split, chosen))

    @property
    def fingerprint(self) -> str:
        """See `FileDataset`; includes the unit of depth."""
        return hashlib.sha256(f"{super().fingerprint} {self._unit}".encode()).hexdigest()

    def images(self, entry: SampleFiles, modalities: Sequence[Modality]) -> dict[Modality, Image]:
        """See `FileDataset`."""
        return {m: self.formats[m].normalized(self._values(entry.files[m], m)) for m in modalities}

    def labels(self, entry: SampleFiles) -> Labels:
        """See `FileDataset`."""
        path = entry.files[LABELS]
        if path.suffix.lower() in ARRAY_SUFFIXES:
            return self._map.of_ids(read_array(path), str(path))
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error}.") from error
        return self._map.decode(data, str(path))

    def _values(self, path: Path, modality: Modality) -> Values:
        """(H, W, 3) values before normalization."""
        name, is_array = self._names[modality], path.suffix.lower() in ARRAY_SUFFIXES
        if name == RGB.name and not is_array:
            return scale_to_unit(read_color(path))
        stored = read_array(path) if is_array else read_image(path)
        self.check_content(modality, path, StoredImage(stored.shape, stored.dtype))
        if name is None or name in _PICTURES:
            return scale_to_unit(three_channels(stored))
        if name == LogDepth.name:
            return self._log_depth(stored)
        if not is_array and name in _RENDERED:
            channels = scale_to_unit(three_channels(stored))[..., [EventCounts.brighter, EventCounts.darker]]
            return np.dstack([channels, np.zeros_like(channels[..., :1])])
        values = np.nan_to_num(stored.astype(np.float32), posinf=0.0, neginf=0.0)
        return _CHANNELS[name](values if values.shape[2] == 3 else np.dstack([values, np.zeros_like(values[..., :1])]))

    def check_content(self, modality: Modality, path: Path, stored: StoredImage) -> None:
        """See `FileDataset`: the channels of LiDAR, events and depth, and the bits of depth."""
        name, is_array = self._names[modality], path.suffix.lower() in ARRAY_SUFFIXES
        if name == LogDepth.name:
            self._check_depth(path, stored)
        elif name in _CHANNELS and (is_array or name not in _RENDERED):
            channels = (3,) if name == RangeIntensityHeight.name else (2, 3)
            if not is_array or len(stored.shape) != 3 or stored.shape[2] not in channels:
                wanted = " or ".join(f"(height, width, {count})" for count in channels)
                raise DatasetError(
                    f"{path} has the shape {stored.shape}; {name} reads .npy and .npz files of {wanted}.",
                    f"Convert it, or set preprocessors: {{{modality}: …}} to what it is.",
                )

    def _check_depth(self, path: Path, stored: StoredImage) -> None:
        if len(stored.shape) != 2:
            raise DatasetError(
                f"{path} has the shape {stored.shape}; a depth image is (height, width).",
                "Set preprocessors: {depth: hha} for HHA images.",
            )
        if stored.dtype.itemsize == 1 and not self._unit:
            raise DatasetError(
                f"{path} has 8 bits per pixel; in millimeters they end at 0.255 m.",
                "Set depth_unit to the meters per count, or export 16 bits.",
            )

    def _log_depth(self, stored: Values) -> Values:
        unit = self._unit or (_MILLIMETER if stored.dtype.kind in "ui" else 1.0)
        meters = np.nan_to_num(stored.astype(np.float32) * np.float32(unit), posinf=0.0, neginf=0.0)
        seen = meters > 0
        logs = np.zeros_like(meters)
        logs[seen] = np.log(np.clip(meters[seen], LogDepth.nearest, LogDepth.farthest))
        return np.where(seen[..., None], np.repeat(logs[..., None], 3, 2), np.nan)


def _range_intensity_height(values: Values) -> Values:
    clipped = np.dstack(RangeIntensityHeight().channels(*np.moveaxis(values, 2, 0)))
    return np.where(values.any(axis=2, keepdims=True), clipped, np.nan)


def _event_channels(most: float) -> Callable[[Values], Values]:
    def clipped(values: Values) -> Values:
        counts = np.minimum(values, np.float32(most))
        counts[..., 2] = 0
        return counts

    return clipped


_CHANNELS: dict[str, Callable[[Values], Values]] = {
    RangeIntensityHeight.name: _range_intensity_height,
    EventCounts.name: _event_channels(EventCounts.most),
    EventPolarity.name: _event_channels(EventPolarity.most),
    TimeSurface.name: _event_channels(1.0),
}


def _preprocessor_names(modalities: Sequence[Modality], given: Mapping[Modality, str]) -> dict[Modality, str | None]:
    names = {m: given.get(m, DEFAULT_PREPROCESSORS.get(m)) for m in modalities}
    for modality, name in names.items():
        if name is not None:
            accepted = [n for n, cls in PREPROCESSORS.items() if cls.modality == modality]
            check_choice(f"preprocessor of {modality}", name, accepted)
    return names


def _format(name: str | None) -> ModalityFormat:
    if name is None:
        return published()
    normalization = PREPROCESSORS[name].normalization
    if name in _PICTURES:
        return published(normalization, name)
    return ModalityFormat(normalization, name, sparse=True)


def _beginnings(line: str) -> list[str]:
    """A line, and its beginnings that end before spaces, the longest first: names may have spaces."""
    return [line, *(line[: space.start()] for space in reversed([*re.finditer(r"\s+", line)]))]


@dataclass(frozen=True)
class _Pattern:
    """Pattern of the files of one kind: text before and after the stem, and its wildcard, empty for `{stem}`."""

    head: str
    wildcard: str
    tail: str
    any_suffix: bool

    @classmethod
    def parse(cls, what: str, text: str, split: str) -> _Pattern:
        body = text.replace(_SPLIT, split)
        any_suffix = body.endswith(_ANY_SUFFIX)
        body = body.removesuffix(_ANY_SUFFIX)
        first, last = body.find("*"), body.rfind("*")
        if body.count(_STEM) == 1 and first < 0:
            head, tail = body.split(_STEM)
            return cls(head, "", tail, any_suffix)
        if first < 0 or _STEM in body:
            raise ConfigError(f"{what} is {text!r}; it must have {_STEM} once, or * instead.")
        return cls(body[:first], body[first : last + 1], body[last + 1 :], any_suffix)

    def find(self, root: Path, wildcard: str) -> dict[str, Path]:
        """Stem → file, for all files that match."""
        text = glob.escape(self.head) + wildcard + glob.escape(self.tail) + (_ANY_SUFFIX if self.any_suffix else "")
        found: dict[str, Path] = {}
        for path in sorted(root.glob(text)):
            if path.is_file() and path.suffix.lower() in _SUFFIXES:
                inside = path.relative_to(root).as_posix()
                inside = inside.removesuffix(path.suffix) if self.any_suffix else inside
                stem = inside[len(self.head) : len(inside) - len(self.tail)]
                if found.setdefault(stem, path) != path:
                    raise DatasetError(f"{found[stem]} and {path} have the same stem.", "Give their suffix.")
        return found

    def path(self, root: Path, stem: str) -> Path:
        """File of a stem; with any suffix, the existing one if there is one."""
        plain = root / f"{self.head}{stem}{self.tail}"
        if not self.any_suffix:
            return plain
        candidates = sorted(plain.parent.glob(glob.escape(plain.name) + _ANY_SUFFIX))
        known = [path for path in candidates if path.suffix.lower() in _SUFFIXES]
        return known[0] if len(known) == 1 else plain.with_name(plain.name + _ANY_SUFFIX)


class _Layout:
    """Patterns of the files and the selection of the splits."""

    def __init__(self, root: Path, texts: Mapping[str, str], splits: Mapping[str, Any] | None) -> None:
        self._root, self._texts, self._splits = root, texts, splits
        if not root.is_dir():
            raise DatasetError(f"root {root} is no folder.", "Set data.root, or give the folder as --data.")
        with_wildcard = [name for name in texts if "*" in texts[name].removesuffix(_ANY_SUFFIX)]
        if len(with_wildcard) != 1:
            listed = " and ".join(with_wildcard) or "none"
            raise ConfigError(f"{listed} of images and labels has *; one pattern has it, the others have {_STEM}.")
        self._source = with_wildcard[0]
        self._by_folder = _SPLIT in texts[self._source]
        if splits is None and not self._by_folder:
            raise ConfigError(
                f"{self._what(self._source)} has no {_SPLIT}, and splits is missing.",
                "Give splits: {train: 0.8, val: 0.2}, list files, or patterns of stems.",
            )
        if splits is not None and (not isinstance(splits, dict) or not splits):
            raise ConfigError(f"splits is {short_repr(splits)}; it must be a mapping of names to list files or shares.")

    def entries(self, split: str, modalities: Sequence[Modality]) -> list[SampleFiles]:
        """Samples of a split.

        Raises:
            ConfigError, DatasetError: see `Folders`.
        """
        patterns = {name: self._pattern(name, split) for name in (*modalities, LABELS)}
        prefix = f"{split}/" if self._by_folder else ""
        return [
            SampleFiles(prefix + stem, {name: pattern.path(self._root, stem) for name, pattern in patterns.items()})
            for stem in self._stems(split)
        ]

    def notes(self, split: str) -> list[str]:
        """Note about label images without an image, if there are any."""
        if self._source == LABELS:
            return []
        source, pattern = self._pattern(self._source, split), self._pattern(LABELS, split)
        known, labels = source.find(self._root, source.wildcard), pattern.find(self._root, source.wildcard)
        alone = [path for stem, path in labels.items() if stem not in known]
        return [f"{len(alone)} label images have no image of {self._source}, such as {alone[0]}."] if alone else []

    def _stems(self, split: str) -> list[str]:
        pattern = self._pattern(self._source, split)
        found = pattern.find(self._root, pattern.wildcard)
        if not found:
            text = self._texts[self._source].replace(_SPLIT, split)
            folder = next(f for f in (self._root / pattern.head, *(self._root / pattern.head).parents) if f.is_dir())
            there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise DatasetError(
                f"split {split} is empty: {self._root} has no file {text}; {folder} contains {there}.",
                "Correct the pattern, or the name of the split: data.train and data.held_out.",
            )
        if self._splits is None:
            return list(found)
        check_choice("split", split, self._splits)
        chosen = {name: self._select(name, found) for name in ([split] if self._by_folder else self._splits)}
        for name, stems in chosen.items():
            if name != split and (both := [s for s in chosen[split] if s in set(stems)]):
                raise DatasetError(f"{len(both)} samples are in {split} and in {name}, such as {both[0]}.")
        return chosen[split]

    def _select(self, split: str, found: Mapping[str, Path]) -> list[str]:
        """Stems of a split, of all stems."""
        given = (self._splits or {})[split]
        if isinstance(given, float | int) and not isinstance(given, bool):
            stems = self._share(split, list(found))
        elif isinstance(given, str) and given.endswith(".txt"):
            stems = self._listed(self._root / given, found)
        else:
            patterns = given if isinstance(given, list) else [given]
            if not all(isinstance(pattern, str) for pattern in patterns):
                raise ConfigError(f"splits: {split} is {short_repr(given)}; it must be a list, patterns or a share.")
            stems = [stem for stem in found if any(fnmatchcase(stem, pattern) for pattern in patterns)]
        if not stems:
            raise DatasetError(f"split {split} is empty: {given!r} selects none of {len(found)} samples.")
        return stems

    def _share(self, split: str, stems: Sequence[str]) -> list[str]:
        shares = self._splits or {}
        valid = all(isinstance(s, float | int) and 0 < s <= 1 for s in shares.values())
        if not valid or sum(shares.values()) > 1 + 1e-9:
            raise ConfigError(f"splits is {dict(shares)}; shares are above 0 and at most 1 in all.")
        names = list(shares)
        before = sum(shares[name] for name in names[: names.index(split)])
        return list(stems[round(before * len(stems)) : round((before + shares[split]) * len(stems))])

    def _listed(self, path: Path, found: Mapping[str, Path]) -> list[str]:
        """Stems of a list file, each once. Its lines begin with a stem, a file name, or a path below root."""
        known: dict[str, list[str]] = {}
        for stem, file in found.items():
            for text in {stem, file.name, file.relative_to(self._root).as_posix()}:
                known.setdefault(text, []).append(stem)
        known |= {stem: [stem] for stem in found}
        lines = read_list(path)
        listed = [next((known[text] for text in _beginnings(line) if text in known), []) for line in lines]
        if missing := [line for line, stems in zip(lines, listed, strict=True) if not stems]:
            raise DatasetError(
                f"{path} lists {missing[0]!r}, which has no file {self._texts[self._source]}; {len(missing)} of "
                f"{len(lines)} lines have none."
            )
        for line, stems in zip(lines, listed, strict=True):
            if len(stems) > 1:
                raise DatasetError(
                    f"{path} lists {line!r}, which is {found[stems[0]]} or {found[stems[1]]}.", "List their paths."
                )
        return list(dict.fromkeys(stem for (stem,) in listed))

    def _pattern(self, name: str, split: str) -> _Pattern:
        return _Pattern.parse(self._what(name), self._texts[name], split)

    def _what(self, name: str) -> str:
        return name if name == LABELS else f"images.{name}"


DATASET = Folders
