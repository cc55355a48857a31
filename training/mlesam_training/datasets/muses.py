# SPDX-License-Identifier: Apache-2.0
"""The MUSES data set, from raw sensor files or from the projections of its SDK."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from mlesam_ros.errors import CalibrationError, DatasetError
from mlesam_ros.extras import require_extra
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.labels import IGNORE, load_label_space
from mlesam_ros.preprocessing.events import EventCounts
from mlesam_ros.preprocessing.lidar import RangeIntensityHeight
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, RGB, encode, make_preprocessors
from mlesam_ros.strict_yaml import check_choice
from mlesam_ros.types import CAMERA, EVENT, LIDAR, EventWindow, FrameSet, Modality, PointCloud, SensorFrame
from mlesam_training.image_files import (
    read_array,
    read_image,
    read_image_bgr,
    require_folder,
    scale_to_unit,
    three_channels,
)
from mlesam_training.labeled_dataset import LABELS, FileDataset, Image, Labels, ModalityFormat, SampleFiles, published

RADAR: Modality = "radar"
_SHIFT, _SCALE = 100.0, 150.0
"""A PNG of the SDK holds (value + 100) * 150 as uint16; a pixel without a return is 15000."""
_ANYSEG_SIZE = (1024, 1024)


def read_projected(path: Path, modality: Modality) -> npt.NDArray[np.float32]:
    """Read a file of the SDK's projection script.

    Returns:
        (H, W, 3) float32: for LiDAR and radar range (m), intensity and height (m; 0 for radar); for events the counts
        of brighter and darker events, clipped as in the live preprocessor, and 0.

    Raises:
        DatasetError: the file cannot be read, or has another shape or dtype.
    """
    stored = read_image_bgr(path) if path.suffix == ".png" else read_array(path)
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise DatasetError(f"{path} has the shape {stored.shape}; the SDK projects to (height, width, 3).")
    values = stored.astype(np.float32)
    if modality == EVENT:
        return np.minimum(values, np.float32(EventCounts.most))
    if path.suffix == ".png":
        if stored.dtype != np.uint16:
            raise DatasetError(f"{path} is {stored.dtype}; the SDK's images of {modality} are 16 bits deep.")
        values = values / np.float32(_SCALE) - np.float32(_SHIFT)
        values[stored == round(_SHIFT * _SCALE)] = 0
    return values


def read_anyseg_image(path: Path) -> Image:
    """Read an image as in the any-modal papers: 8-bit RGB, resized to 1024x1024, 0 … 255; (3, H, W).

    Raises:
        DatasetError: the file is missing or not an image.
    """
    try:
        with Pillow.open(path) as image:
            small = np.asarray(image.convert("RGB").resize(_ANYSEG_SIZE))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    return np.ascontiguousarray(small.transpose(2, 0, 1), np.float32)


def read_anyseg_labels(path: Path) -> Labels:
    """Read labels as in the any-modal papers: resized to 1024x1024, with unlabeled pixels as road."""
    labels = read_image(path)
    small = resize_nearest(labels if labels.ndim == 2 else labels[..., 0], _ANYSEG_SIZE)
    return np.where(small == IGNORE, 0, small).astype(np.uint8)


CAMERA_SIZE, EVENT_SIZE = (1080, 1920), (720, 1280)
"""(height, width). The calibration lacks the event camera's size; 720x1280 is that of HD sensors and fits its K."""
WINDOW = 30_000
"""Length of the event window in microseconds, as in the SDK."""
_CAMERA_FRAME, _FRAMES = "rgb", {LIDAR: "lidar", EVENT: "event"}
_POINT = np.dtype([("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("intensity", "<f8"), ("ring", "<f8"), ("time", "<f8")])
_FILTER_PACKAGE = "hdf5plugin"
"""Optional package that registers the compression filters of the HDF5 files."""
_COLUMNS = [name for name in _POINT.names or () if name != "time"]
_NS_PER_US = 1000


class RawMuses:
    """Encodes raw LiDAR and event files in the camera image plane.

    Attributes:
        rig: rig of calib.json: undistorted cameras, and the SDK's transforms lidar2rgb and event2rgb.
    """

    def __init__(self, calibration: Path) -> None:
        """Read calib.json.

        Raises:
            PackageError: h5py is not installed.
            DatasetError: the file is missing.
            CalibrationError: the file is not JSON, a key is missing, or a value is invalid.
        """
        require_extra("h5py", "the events of MUSES")
        self.rig = _rig(calibration)
        self._preprocessors = make_preprocessors({m: DEFAULT_PREPROCESSORS[m] for m in _FRAMES})

    def images(self, files: Mapping[Modality, Path]) -> dict[Modality, Image]:
        """Encode the raw files of one sample: modality → (3, 1080, 1920) float32.

        Raises:
            DatasetError: a file cannot be read.
        """
        frames = {m: _FRAME[m](path) for m, path in files.items()}
        frame_set = FrameSet(0, next(iter(frames)), frames, dict.fromkeys(frames, 0))
        return encode(frame_set, self.rig, CAMERA_SIZE, {m: self._preprocessors[m] for m in frames})


def read_cloud(path: Path) -> SensorFrame:
    """Read the LiDAR sweep of a .bin file.

    Raises:
        DatasetError: the file cannot be read, or its size is not a multiple of six float64.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if len(data) % _POINT.itemsize or not len(data):
        raise DatasetError(f"{path} has {len(data)} bytes; a sweep is rows of six float64, {_POINT.itemsize} bytes.")
    # The time column is left out: it is in the clock of the recording, unused here.
    return SensorFrame(LIDAR, 0, _FRAMES[LIDAR], PointCloud(data.view(_POINT)[_COLUMNS]))


def read_events(path: Path) -> SensorFrame:
    """Read the last 30 ms of events of a .h5 file. Events that undistortion moved outside the image are dropped.

    Raises:
        DatasetError: the file cannot be read, or its compression filter is not installed.
    """
    if importlib.util.find_spec(_FILTER_PACKAGE):
        importlib.import_module(_FILTER_PACKAGE)
    import h5py  # noqa: PLC0415  # of the extra train

    try:
        with h5py.File(path, "r") as file:
            x, y, t, p = (np.asarray(file[f"events/{name}"]) for name in "xytp")
    except (OSError, KeyError) as error:
        hint = "" if importlib.util.find_spec(_FILTER_PACKAGE) else f"; if it is compressed, install {_FILTER_PACKAGE}"
        raise DatasetError(f"{path} cannot be read as HDF5 with events/x, y, t and p ({error}){hint}.") from error
    height, width = EVENT_SIZE
    chosen = (t >= t.max(initial=0) - WINDOW) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    order = np.flatnonzero(chosen)[np.argsort(t[chosen], kind="stable")]
    end = int(t.max(initial=0)) * _NS_PER_US
    nanoseconds = t[order].astype(np.int64) * _NS_PER_US - end
    events = EventWindow(
        width, height, x[order].astype(np.uint16), y[order].astype(np.uint16), nanoseconds, p[order] > 0,
        -WINDOW * _NS_PER_US, 0,
    )  # fmt: skip
    return SensorFrame(EVENT, 0, _FRAMES[EVENT], events)


_FRAME = {LIDAR: read_cloud, EVENT: read_events}


def _rig(path: Path) -> Rig:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path} is missing; raw sensor files need the calibration.") from error
    except ValueError as error:
        raise CalibrationError(f"{path} is not JSON: {error}.") from error
    rig = Rig(_CAMERA_FRAME)
    try:
        intrinsics, extrinsics = content["intrinsics"], content["extrinsics"]
        for name, size in ((_CAMERA_FRAME, CAMERA_SIZE), (_FRAMES[EVENT], EVENT_SIZE)):
            k = np.array(intrinsics[name]["K"], np.float64)
            rig.models[name] = CameraModel(size[1], size[0], k, np.zeros(5), "plumb_bob")
        for name in _FRAMES.values():
            matrix = np.array(extrinsics[f"{name}2rgb"], np.float64)
            rig.tree.set(_CAMERA_FRAME, name, Transform(matrix[:3, :3], matrix[:3, 3]))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise CalibrationError(
            f"{path}: {error}; needed are intrinsics rgb and event with K, extrinsics lidar2rgb and event2rgb."
        ) from error
    return rig


SPLITS = ("train", "val", "test")
WEATHERS, TIMES = ("clear", "fog", "rain", "snow"), ("day", "night")
SOURCES = ("auto", "raw", "projected")
PROTOCOLS = ("official", "anyseg")
FOLDERS = {CAMERA: "frame_camera", LIDAR: "lidar", EVENT: "event_camera", RADAR: "radar"}
_RAW_SUFFIX = {LIDAR: ".bin", EVENT: ".h5"}
_PROJECTED_SUFFIXES = (".npz", ".npy", ".png")
# Statistics of the projected radar from CAFuser: github.com/timbroed/CAFuser.
_FORMATS = {
    CAMERA: published(RGB.normalization, RGB.name),
    LIDAR: ModalityFormat(RangeIntensityHeight.normalization, RangeIntensityHeight.name, sparse=True),
    EVENT: ModalityFormat(EventCounts.normalization, EventCounts.name, sparse=True),
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
            root: folder of frame_camera, gt_semantic and so on.
            split: train or val; the labels of test are withheld.
            modalities: some of camera, event, lidar, radar.
            weather: clear, fog, rain or snow; None for all.
            time: day or night; None for both.
            source: `raw`, `projected` (by the SDK), or `auto`: per modality the projected file if it exists, else the
                raw file. Radar is always projected.
            protocol: `official`; or `anyseg`, the loader of the any-modal papers for comparison: all images resized to
                1024x1024 without normalization (0 … 255), read as PNG from the sensor folders, and unlabeled pixels
                counted as road.
            projected_folder: output folder of the SDK's script.

        Raises:
            ConfigError: a name is not accepted.
            DatasetError: a file of the expected layout is missing.
            CalibrationError: calib.json is malformed; raw files only.
        """
        self.root, self.protocol, self._projected = Path(root), protocol, projected_folder
        for what, value, accepted in (
            ("split", split, SPLITS), ("source", source, SOURCES), ("protocol", protocol, PROTOCOLS),
            *(("modality of MUSES", m, tuple(FOLDERS)) for m in modalities),
        ):  # fmt: skip
            check_choice(what, value, accepted)
        for what, condition, accepted in (("weather", weather, WEATHERS), ("time", time, TIMES)):
            if condition is not None:
                check_choice(what, condition, accepted)
        if split == "test":
            raise DatasetError("MUSES withholds the labels of its test split.", "Take val, or its benchmark server.")
        formats = {m: _UNSCALED if protocol == "anyseg" else _FORMATS[m] for m in modalities}
        entries = [self._entry(path, modalities, source) for path in self._cameras(split, weather, time)]
        super().__init__(load_label_space("muses"), formats, entries)
        raw = any(entry.files[m].suffix == _RAW_SUFFIX.get(m) for entry in entries for m in modalities)
        self._raw = RawMuses(self.root / "calib.json") if raw else None

    @classmethod
    def may_recolor(cls, options: Mapping[str, Any]) -> bool:
        """See `FileDataset`: not in `anyseg`, whose images stay at 0 … 255."""
        return options.get("protocol") != "anyseg"

    def images(self, entry: SampleFiles, modalities: Sequence[Modality]) -> dict[Modality, Image]:
        """See `FileDataset`."""
        if self.protocol == "anyseg":
            return {m: read_anyseg_image(entry.files[m]) for m in modalities}
        raw = [m for m in modalities if entry.files[m].suffix == _RAW_SUFFIX.get(m)]
        encoded: dict[Modality, Image] = {}
        if raw and self._raw is not None:
            encoded = self._raw.images({m: entry.files[m] for m in raw})
        return {m: encoded[m] if m in encoded else self._picture(entry, m) for m in modalities}

    def same_size(self, entry: SampleFiles) -> list[Path]:
        """All files; none for `anyseg`, which resizes every image."""
        return [] if self.protocol == "anyseg" else list(entry.files.values())

    def _picture(self, entry: SampleFiles, modality: Modality) -> Image:
        path = entry.files[modality]
        if modality == CAMERA:
            return self.formats[modality].normalized(scale_to_unit(three_channels(read_image(path))))
        values = read_projected(path, modality)
        values[~values.any(axis=2)] = np.nan
        return self.formats[modality].normalized(values)

    def labels(self, entry: SampleFiles) -> Labels:
        """See `FileDataset`."""
        if self.protocol == "anyseg":
            return read_anyseg_labels(entry.files[LABELS])
        labels = read_image(entry.files[LABELS])
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


DATASET = Muses
