# SPDX-License-Identifier: Apache-2.0
"""Read a calibrated camera and LiDAR frame, and PCD files.

A folder contains one image (.jpg, .jpeg or .png), one .pcd file and the calibration: calib.txt, or one
*-intrinsic.json and one *-extrinsic.json.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import BagError, CalibrationError, CloudError, ImageError, MlesamError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.images import decode_compressed
from mlesam_ros.types import RawImage

_KEYS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_MAX_HEADER_BYTES = 4096
_MAX_POINTS = 100_000_000


def read_pcd(path: str | Path) -> npt.NDArray[np.void]:
    """Read a .pcd file: ascii, binary or binary_compressed.

    Returns:
        (points,) or, organized, (height, width) structured array, packed, with the field order and types of the file.

    Raises:
        CloudError: the file cannot be read, or its header or data are invalid.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CloudError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        head, body = _split_header(data)
        layout, height, width = _point_layout(head)
        points = _decode_points(head["DATA"][0], body, layout, height * width)
    except (KeyError, ValueError, IndexError, TypeError, struct.error) as error:
        kind = f"its header has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise CloudError(f"{path} is no usable PCD file: {kind}.") from error
    return points if height == 1 else points.reshape(height, width)


def _split_header(data: bytes) -> tuple[dict[str, list[str]], bytes]:
    head: dict[str, list[str]] = {}
    position = 0
    while "DATA" not in head:
        end = data.find(b"\n", position, _MAX_HEADER_BYTES)
        if end < 0:
            raise CloudError("it has no DATA line in its first bytes")
        fields = data[position:end].decode("ascii", "replace").split()
        if fields and fields[0] in _KEYS:
            head[fields[0]] = fields[1:]
        position = end + 1
    return head, data[position:]


def _point_layout(head: dict[str, list[str]]) -> tuple[np.dtype[Any], int, int]:
    names, sizes, kinds = head["FIELDS"], head["SIZE"], head["TYPE"]
    counts = head.get("COUNT", ["1"] * len(names))
    if not names or not len(names) == len(sizes) == len(kinds) == len(counts):
        raise CloudError("FIELDS, SIZE, TYPE and COUNT do not list the same number of columns")
    columns: list[Any] = []
    for number, (name, size, kind, count) in enumerate(zip(names, sizes, kinds, counts, strict=True)):
        code = {"F": "f", "I": "i", "U": "u"}[kind] + str(int(size))
        # PCL names its padding "_"; NumPy requires unique names.
        label = f"_{number}" if name == "_" else name
        columns.append((label, "<" + code) if int(count) == 1 else (label, "<" + code, (int(count),)))
    width, height = int(head["WIDTH"][0]), int(head.get("HEIGHT", ["1"])[0])
    if width < 0 or height < 1 or not width * height <= _MAX_POINTS:
        raise CloudError(f"its size {width}x{height} is impossible")
    return np.dtype(columns), height, width


def _decode_points(encoding: str, body: bytes, layout: np.dtype[Any], count: int) -> npt.NDArray[np.void]:
    if encoding == "ascii":
        return _points_from_text(body, layout, count)
    if encoding == "binary":
        return np.frombuffer(_take_bytes(body, count * layout.itemsize), layout, count).copy()
    if encoding == "binary_compressed":
        packed, unpacked = struct.unpack_from("<II", body)
        if unpacked != count * layout.itemsize:
            raise CloudError(f"it unpacks to {unpacked} bytes where {count} points need {count * layout.itemsize}")
        return _from_columns(decompress_lzf(_take_bytes(body[8:], packed), unpacked), layout, count)
    raise CloudError(f"DATA is {encoding!r}; known are ascii, binary and binary_compressed")


def _take_bytes(body: bytes, size: int) -> bytes:
    if len(body) < size:
        raise CloudError(f"truncated: {len(body)} bytes of points, {size} are declared")
    return body[:size]


def _points_from_text(body: bytes, layout: np.dtype[Any], count: int) -> npt.NDArray[np.void]:
    lines = body.decode("ascii", "replace").split("\n", count)[:count]
    values = [line.split() for line in lines if line.strip()]
    if len(values) != count:
        raise CloudError(f"truncated: {len(values)} lines of points, {count} are declared")
    table = np.array(values, np.float64).reshape(count, -1)
    points = np.zeros(count, layout)
    column = 0
    for name in layout.names or ():
        width = int(np.prod(layout[name].shape))
        points[name] = table[:, column : column + width].reshape(points[name].shape)
        column += width
    if column != table.shape[1]:
        raise CloudError(f"its lines have {table.shape[1]} numbers where the header declares {column}")
    return points


def _from_columns(data: bytes, layout: np.dtype[Any], count: int) -> npt.NDArray[np.void]:
    points = np.zeros(count, layout)
    offset = 0
    for name in layout.names or ():
        column = np.frombuffer(data, layout[name], count, offset)
        points[name] = column
        offset += column.nbytes
    return points


def decompress_lzf(data: bytes, size: int) -> bytes:
    """Decompress one LZF block to exactly `size` bytes.

    Raises:
        CloudError: the block is damaged.
    """
    out = bytearray()
    position, end = 0, len(data)
    while position < end and len(out) <= size:
        control = data[position]
        position += 1
        if control < 32:  # literals: control + 1 bytes follow
            out += data[position : position + control + 1]
            position += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[position]
            position += 1
        start = len(out) - ((control & 31) << 8) - data[position] - 1
        position += 1
        if start < 0:
            raise CloudError("its compressed block refers to bytes before its beginning")
        # A copy can overlap its own output; then the bytes from `start` on repeat.
        pattern, wanted = bytes(out[start : start + length + 2]), length + 2
        out += pattern if len(pattern) == wanted else (pattern * (wanted // len(pattern) + 1))[:wanted]
    if len(out) != size:
        raise CloudError(f"its compressed block unpacks to {len(out)} bytes where {size} are declared")
    return bytes(out)


_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class CalibratedFrame:
    """An image and a point cloud with their calibration.

    Attributes:
        image: `rgb8`.
        points: (n,) or, organized, (height, width) structured array in the LiDAR frame.
        camera: intrinsics for this image.
        camera_from_lidar: transform from the LiDAR frame to the optical frame.
    """

    image: RawImage
    points: npt.NDArray[np.void]
    camera: CameraModel
    camera_from_lidar: Transform


def load_calibrated_frame(folder: str | Path, fit: str | None = None) -> CalibratedFrame:
    """Read the calibrated frame of a folder.

    Args:
        folder: its layout is described in the module.
        fit: how to adapt the intrinsics to another image size, one of `FITS`; None to raise an error instead.

    Raises:
        BagError: a file is missing or cannot be read.
        CloudError: the point cloud is damaged.
        CalibrationError: the calibration is damaged, or was made for another image size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BagError(f"{folder} is no folder.", "Give a folder with an image, a .pcd file and the calibration.")
    path = _only_file(folder, "image", [p for suffix in _IMAGE_SUFFIXES for p in folder.glob(f"*{suffix}")])
    cloud = _only_file(folder, ".pcd file", list(folder.glob("*.pcd")))
    try:
        pixels = decode_compressed(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except ImageError as error:
        raise BagError(f"{path} is no readable image: {error}") from error
    height, width = pixels.shape[:2]
    text = folder / "calib.txt"
    read = _calibration_from_text if text.exists() else _calibration_from_json
    camera, pose = _with_calibration_errors(folder, lambda: read(folder, (height, width)))
    if fit is not None:
        camera = camera.adapt_to_size(height, width, fit)
    try:
        camera.check(height, width)
    except CalibrationError as error:
        raise CalibrationError(f"{folder.name} cannot be used: {error.message}", error.remedy) from error
    rgb = np.ascontiguousarray(pixels[:, :, ::-1], np.uint8).reshape(-1)
    image = RawImage(height, width, "rgb8", 3 * width, rgb)
    return CalibratedFrame(image, read_pcd(cloud), camera, pose)


def _only_file(folder: Path, kind: str, found: list[Path]) -> Path:
    if len(found) != 1:
        names = ", ".join(sorted(path.name for path in found)) or "none"
        raise BagError(f"{folder} must contain exactly one {kind}; it contains {names}.")
    return found[0]


def _with_calibration_errors(folder: Path, read: Any) -> tuple[CameraModel, Transform]:
    try:
        camera, pose = read()
    except MlesamError:
        raise
    except (OSError, KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise CalibrationError(f"the calibration in {folder} cannot be read: {reason}.") from error
    return camera, pose


def _calibration_from_text(folder: Path, size: tuple[int, int]) -> tuple[CameraModel, Transform]:
    """Read calib.txt. It contains no image size; the size of the image is assumed."""
    lines = (folder / "calib.txt").read_text(encoding="utf-8").splitlines()
    numbers = {
        key.strip(): np.array(rest.split(), np.float64) for key, _, rest in (line.partition(":") for line in lines)
    }
    pose = numbers["T"].reshape(3, 4)
    camera = CameraModel(size[1], size[0], numbers["K"].reshape(3, 3), numbers["D"], "plumb_bob")
    return camera, Transform(pose[:, :3], pose[:, 3])


def _calibration_from_json(folder: Path, size: tuple[int, int]) -> tuple[CameraModel, Transform]:
    inner = _only_file(folder, "calib.txt or *-intrinsic.json", list(folder.glob("*-intrinsic.json")))
    outer = _only_file(folder, "*-extrinsic.json", list(folder.glob("*-extrinsic.json")))
    intrinsic, extrinsic = _json_parameters(inner), _json_parameters(outer)
    pose = np.array(extrinsic["sensor_calib"]["data"], np.float64)
    camera = CameraModel(
        int(intrinsic["img_dist_w"]), int(intrinsic["img_dist_h"]), np.array(intrinsic["cam_K"]["data"]),
        np.array(intrinsic["cam_dist"]["data"]).ravel(), "plumb_bob",
    )  # fmt: skip
    return camera, Transform(pose[:3, :3], pose[:3, 3])


def _json_parameters(path: Path) -> dict[str, Any]:
    (entry,) = json.loads(path.read_text(encoding="utf-8")).values()
    parameters: dict[str, Any] = entry["param"]
    return parameters
