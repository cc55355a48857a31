"""MUSES (Brödermann et al., ECCV 2024): camera, LiDAR, events and radar, with the SDK's projections or raw.

    root / frame_camera / split / weather / time / ID_frame_camera.png      1920x1080
    root / lidar / …/ ID_lidar.bin                                          float64 (N, 6): x y z intensity ring time
    root / event_camera / …/ ID_event_camera.h5                             events/x, y, t (microseconds), p
    root / gt_semantic / …/ ID_gt_labelTrainIds.png                         0 … 18, 255
    root / calib.json                                                       intrinsics and extrinsics
    root / projected_to_rgb / lidar / …/ ID_lidar.npz or .npy or .png       what the SDK's script makes of them

Raw files go through the very encoders of the live node; projected ones become the same channels in the same units.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlesam_ros.encoding.event_counts import EventCounts
from mlesam_ros.encoding.range_intensity_height import RangeIntensityHeight
from mlesam_ros.encoding.rgb import RGB
from mlesam_ros.errors import ConfigError, DatasetError
from mlesam_ros.frame import CAMERA, EVENT, LIDAR, Modality
from mlesam_ros.labels import load_label_space
from mlesam_ros.training.datasets.files import read_picture, require_folder, three_channels, unit_scaled
from mlesam_ros.training.datasets.frames import (
    LABELS,
    FileDataset,
    Image,
    Labels,
    ModalityFormat,
    SampleFiles,
    published,
)
from mlesam_ros.training.datasets.muses_projected import RADAR, projected, squashed, squashed_labels
from mlesam_ros.training.datasets.muses_raw import RawMuses

SPLITS = ("train", "val", "test")
WEATHERS, TIMES = ("clear", "fog", "rain", "snow"), ("day", "night")
SOURCES = ("auto", "raw", "projected")
PROTOCOLS = ("official", "anyseg")
FOLDERS = {CAMERA: "frame_camera", LIDAR: "lidar", EVENT: "event_camera", RADAR: "radar"}
_RAW_SUFFIX = {LIDAR: ".bin", EVENT: ".h5"}
_PROJECTED_SUFFIXES = (".npz", ".npy", ".png")
# CAFuser's statistics of the projected radar: github.com/timbroed/CAFuser.
_READINGS = {
    CAMERA: published(RGB.statistics, RGB.name),
    LIDAR: ModalityFormat(RangeIntensityHeight.statistics, RangeIntensityHeight.name, sparse=True),
    EVENT: ModalityFormat(EventCounts.statistics, EventCounts.name, sparse=True),
    RADAR: ModalityFormat(((4.004, 9.343, 0.0), (14.607, 19.294, 1.0)), sparse=True),
}
_UNSCALED = ModalityFormat(((0.0,) * 3, (1.0,) * 3))


class Muses(FileDataset):
    """One split of MUSES. Conditions: weather, time."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: Sequence[Modality] = (CAMERA, EVENT, LIDAR),
        weather: str | None = None,
        time: str | None = None,
        source: str = "auto",
        protocol: str = "official",
        projected_folder: str = "projected_to_rgb",
    ) -> None:
        """Find the frames.

        Args:
            root: the folder that holds frame_camera, gt_semantic and so on.
            split: train or val; the labels of test are withheld.
            modalities: some of camera, event, lidar, radar.
            weather: only clear, fog, rain or snow.
            time: only day or night.
            source: raw files, the SDK's projected ones, or per modality what is there (projected first). Radar is read
                projected.
            protocol: `official`; or `anyseg`, which repeats the loader of the any-modal papers for comparison: all
                pictures squashed to 1024x1024 and left at 0 … 255, those of other sensors found beside the camera's,
                and unlabeled pixels counted as road.
            projected_folder: where the SDK's script wrote to.

        Raises:
            ConfigError: a name that is not accepted.
            DatasetError: a file is not where the layout puts it.
            CalibrationError: calib.json is malformed; raw files only.
        """
        self.root, self.protocol, self._projected = Path(root), protocol, projected_folder
        for what, value, accepted in (
            ("split", split, SPLITS), ("weather", weather, (None, *WEATHERS)), ("time", time, (None, *TIMES)),
            ("source", source, SOURCES), ("protocol", protocol, PROTOCOLS),
            *(("modality of MUSES", m, tuple(FOLDERS)) for m in modalities),
        ):  # fmt: skip
            _one_of(what, value, accepted)
        if split == "test":
            raise DatasetError("MUSES withholds the labels of its test split.", "Take val, or its benchmark server.")
        readings = {m: _UNSCALED if protocol == "anyseg" else _READINGS[m] for m in modalities}
        entries = [self._entry(path, modalities, source) for path in self._cameras(split, weather, time)]
        super().__init__(load_label_space("muses"), readings, entries)
        raw = any(entry.files[m].suffix == _RAW_SUFFIX.get(m) for entry in entries for m in modalities)
        self._raw = RawMuses(self.root / "calib.json") if raw else None

    def images(self, entry: SampleFiles, modalities: Sequence[Modality]) -> dict[Modality, Image]:
        """See `FileDataset`."""
        if self.protocol == "anyseg":
            return {m: squashed(entry.files[m]) for m in modalities}
        raw = [m for m in modalities if entry.files[m].suffix == _RAW_SUFFIX.get(m)]
        encoded: dict[Modality, Image] = {}
        if raw and self._raw is not None:
            encoded = self._raw.images({m: entry.files[m] for m in raw})
        return {m: encoded[m] if m in encoded else self._picture(entry, m) for m in modalities}

    def same_size(self, entry: SampleFiles) -> list[Path]:
        """All that are pictures of the camera's view; `anyseg` squashes whatever there is."""
        return [] if self.protocol == "anyseg" else list(entry.files.values())

    def _picture(self, entry: SampleFiles, modality: Modality) -> Image:
        path = entry.files[modality]
        if modality == CAMERA:
            return self.readings[modality].normalized(unit_scaled(three_channels(read_picture(path))))
        values = projected(path, modality)
        image = self.readings[modality].normalized(values)
        image[:, ~values.any(axis=2)] = 0
        return image

    def labels(self, entry: SampleFiles) -> Labels:
        """See `FileDataset`."""
        if self.protocol == "anyseg":
            return squashed_labels(entry.files[LABELS])
        labels = read_picture(entry.files[LABELS])
        return labels if labels.ndim == 2 else labels[..., 0]

    def _cameras(self, split: str, weather: str | None, time: str | None) -> list[Path]:
        folder = require_folder(self.root, FOLDERS[CAMERA], "MUSES")
        pattern = f"{split}/{weather or '*'}/{time or '*'}/*_frame_camera.png"
        found = sorted(folder.glob(pattern))
        if not found:
            raise DatasetError(f"MUSES at {self.root} has no {folder.name}/{pattern}.", "Check the split and filters.")
        return found

    def _entry(self, camera: Path, modalities: Sequence[Modality], source: str) -> SampleFiles:
        inside = camera.parent.relative_to(self.root / FOLDERS[CAMERA])
        name = camera.name.removesuffix("_frame_camera.png")
        files = {m: self._file(inside, name, m, source) for m in modalities}
        files[LABELS] = self.root / "gt_semantic" / inside / f"{name}_gt_labelTrainIds.png"
        weather, time = inside.parts[-2:]
        return SampleFiles((inside / name).as_posix(), files, {"weather": weather, "time": time})

    def _file(self, inside: Path, name: str, modality: Modality, source: str) -> Path:
        stem = f"{name}_{FOLDERS[modality]}"
        plain = self.root / FOLDERS[modality] / inside
        if modality == CAMERA or self.protocol == "anyseg":
            return plain / f"{stem}.png"
        made = self.root / self._projected / FOLDERS[modality] / inside
        if source != "raw" or modality == RADAR:
            there = next((made / (stem + s) for s in _PROJECTED_SUFFIXES if (made / (stem + s)).is_file()), None)
            if there or source == "projected" or modality == RADAR:
                return there or made / (stem + _PROJECTED_SUFFIXES[0])
        return plain / (stem + _RAW_SUFFIX[modality])


def _one_of(what: str, value: str | None, accepted: Sequence[str | None]) -> None:
    if value not in accepted:
        names = ", ".join(name for name in accepted if name)
        raise ConfigError(f"{what} {value!r} is not known; accepted are {names}.")
