"""MUSES' raw sensor files, as frames that the live node's encoders read."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mlesam_ros.encoding.encoders import DEFAULT_PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.errors import CalibrationError, DatasetError
from mlesam_ros.frame import EVENT, LIDAR, EventWindow, FrameSet, Modality, PointCloud, SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transform import Transform
from mlesam_ros.training.datasets.frames import Image

CAMERA_SIZE, EVENT_SIZE = (1080, 1920), (720, 1280)
"""(height, width). The event camera's is not in the calibration; HD sensors have this one, and its K fits it."""
WINDOW = 30_000
"""Microseconds of events that count, as in the SDK."""
_CAMERA_FRAME, _FRAMES = "rgb", {LIDAR: "lidar", EVENT: "event"}
_POINT = np.dtype([("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("intensity", "<f8"), ("ring", "<f8"), ("time", "<f8")])
_FILTERS = "hdf5plugin"
"""Registers the compressions that the files may be written with; a package of its own, and a large one."""
_COLUMNS = [name for name in _POINT.names or () if name != "time"]
_MICROSECOND = 1000


class RawMuses:
    """Encodes raw LiDAR and event files in the camera's picture.

    Attributes:
        rig: of calib.json: undistorted cameras, and what the SDK calls lidar2rgb and event2rgb.
    """

    def __init__(self, calibration: Path) -> None:
        """Read calib.json.

        Raises:
            DatasetError: no such file.
            CalibrationError: it lacks a key, or a value is impossible.
        """
        self.rig = _rig(calibration)
        self._encoders = make_preprocessors({m: DEFAULT_PREPROCESSORS[m] for m in _FRAMES})

    def images(self, files: Mapping[Modality, Path]) -> dict[Modality, Image]:
        """Modality → (3, 1080, 1920) float32 pictures of one moment's raw files.

        Raises:
            DatasetError: a file cannot be read.
        """
        frames = {m: _FRAME[m](path) for m, path in files.items()}
        frame_set = FrameSet(0, next(iter(frames)), frames, dict.fromkeys(frames, 0))
        return encode(frame_set, self.rig, CAMERA_SIZE, {m: self._encoders[m] for m in frames})


def read_cloud(path: Path) -> SensorFrame:
    """A .bin file's sweep.

    Raises:
        DatasetError: it cannot be read, or its length fits no rows of six float64.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if len(data) % _POINT.itemsize or not len(data):
        raise DatasetError(f"{path} has {len(data)} bytes; a sweep is rows of six float64, {_POINT.itemsize} bytes.")
    # Its times are those of the recording's own clock, which nothing else here refers to.
    return SensorFrame(LIDAR, 0, _FRAMES[LIDAR], PointCloud(data.view(_POINT)[_COLUMNS]))


def read_events(path: Path) -> SensorFrame:
    """The last 30 ms of a .h5 file's events; those beside the sensor, which undistortion leaves, are dropped.

    Raises:
        DatasetError: it cannot be read, or is written with a compression that is not installed.
    """
    if importlib.util.find_spec(_FILTERS):
        importlib.import_module(_FILTERS)
    try:
        with h5py.File(path, "r") as file:
            x, y, t, p = (np.asarray(file[f"events/{name}"]) for name in "xytp")
    except (OSError, KeyError) as error:
        hint = "" if importlib.util.find_spec(_FILTERS) else f"; if it is compressed, install {_FILTERS}"
        raise DatasetError(f"{path} cannot be read as HDF5 with events/x, y, t and p ({error}){hint}.") from error
    height, width = EVENT_SIZE
    chosen = (t >= t.max(initial=0) - WINDOW) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    order = np.flatnonzero(chosen)[np.argsort(t[chosen], kind="stable")]
    end = int(t.max(initial=0)) * _MICROSECOND
    nanoseconds = t[order].astype(np.int64) * _MICROSECOND - end
    events = EventWindow(
        width, height, x[order].astype(np.uint16), y[order].astype(np.uint16), nanoseconds, p[order] > 0,
        -WINDOW * _MICROSECOND, 0,
    )  # fmt: skip
    return SensorFrame(EVENT, 0, _FRAMES[EVENT], events)


_FRAME = {LIDAR: read_cloud, EVENT: read_events}


def _rig(path: Path) -> Rig:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path} is missing; raw sensor files are of no use without the calibration.") from error
    except ValueError as error:
        raise CalibrationError(f"{path} is no JSON: {error}.") from error
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
