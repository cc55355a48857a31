"""One calibrated picture with its LiDAR sweep, as the OpenCalib samples lay them out.

Two layouts are read. Either `calib.jpg`, `calib.pcd` and `calib.txt` with the lines `K:` (9 numbers), `D:` (4) and `T:`
(3x4, camera from LiDAR); or one picture, one .pcd, `*-intrinsic.json` and `*-extrinsic.json` (4x4, camera from LiDAR).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.pcd import read_pcd
from mlesam_ros.encoding.samples import decode_compressed
from mlesam_ros.errors import BagError, CalibrationError, ImageError, MlesamError
from mlesam_ros.frame import RawImage
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transform import Transform

_PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class CalibratedFrame:
    """A calibrated frame.

    Attributes:
        form: "jpeg" or "png".
        picture: the file's bytes.
        pixels: the same decoded, `rgb8`.
        points: (n,) structured, in the LiDAR's frame.
        camera: intrinsics for this picture.
        camera_from_lidar: optical frame from LiDAR frame.
    """

    form: str
    picture: bytes
    pixels: RawImage
    points: npt.NDArray[np.void]
    camera: CameraModel
    camera_from_lidar: Transform


def load_calibrated_frame(folder: str | Path, fit: str | None = None) -> CalibratedFrame:
    """Read a folder.

    Args:
        folder: see the module.
        fit: how a picture of another size than its calibration's belongs to it, one of `FITS`; None to refuse it.

    Raises:
        BagError: a file is missing or cannot be read.
        CloudError: the point cloud is damaged.
        CalibrationError: the calibration is damaged, or was made for pictures of another size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BagError(f"{folder} is no folder.", "Give one with a picture, a .pcd file and its calibration.")
    path = _only(folder, "picture", [p for suffix in _PICTURES for p in folder.glob(f"*{suffix}")])
    cloud = _only(folder, ".pcd file", list(folder.glob("*.pcd")))
    data = path.read_bytes()
    try:
        pixels = decode_compressed(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except ImageError as error:
        raise BagError(f"{path} is no picture that can be read: {error}") from error
    height, width = pixels.shape[:2]
    text = folder / "calib.txt"
    read = _from_text if text.exists() else _from_json
    camera, pose = _guarded(folder, lambda: read(folder, (height, width)))
    if fit is not None:
        camera = camera.adapt_to_size(height, width, fit)
    try:
        camera.check(height, width)
    except CalibrationError as error:
        raise CalibrationError(f"{folder.name} cannot be used: {error.message}", error.remedy) from error
    rgb = np.ascontiguousarray(pixels[:, :, ::-1], np.uint8).reshape(-1)
    picture = RawImage(height, width, "rgb8", 3 * width, rgb)
    return CalibratedFrame("png" if path.suffix == ".png" else "jpeg", data, picture, read_pcd(cloud), camera, pose)


def _only(folder: Path, what: str, found: list[Path]) -> Path:
    if len(found) != 1:
        names = ", ".join(sorted(path.name for path in found)) or "none"
        raise BagError(f"{folder} must hold exactly one {what}; it holds {names}.")
    return found[0]


def _guarded(folder: Path, read: Any) -> tuple[CameraModel, Transform]:
    try:
        camera, pose = read()
    except MlesamError:
        raise
    except (OSError, KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise CalibrationError(f"the calibration in {folder} cannot be read: {reason}.") from error
    return camera, pose


def _from_text(folder: Path, size: tuple[int, int]) -> tuple[CameraModel, Transform]:
    """calib.txt does not say for which size it was made; it goes with its picture."""
    lines = (folder / "calib.txt").read_text(encoding="utf-8").splitlines()
    numbers = {
        key.strip(): np.array(rest.split(), np.float64) for key, _, rest in (line.partition(":") for line in lines)
    }
    pose = numbers["T"].reshape(3, 4)
    camera = CameraModel(size[1], size[0], numbers["K"].reshape(3, 3), numbers["D"], "plumb_bob")
    return camera, Transform(pose[:, :3], pose[:, 3])


def _from_json(folder: Path, size: tuple[int, int]) -> tuple[CameraModel, Transform]:
    inner = _only(folder, "calib.txt or *-intrinsic.json", list(folder.glob("*-intrinsic.json")))
    outer = _only(folder, "*-extrinsic.json", list(folder.glob("*-extrinsic.json")))
    intrinsic, extrinsic = _parameters(inner), _parameters(outer)
    pose = np.array(extrinsic["sensor_calib"]["data"], np.float64)
    camera = CameraModel(
        int(intrinsic["img_dist_w"]), int(intrinsic["img_dist_h"]), np.array(intrinsic["cam_K"]["data"]),
        np.array(intrinsic["cam_dist"]["data"]).ravel(), "plumb_bob",
    )  # fmt: skip
    return camera, Transform(pose[:3, :3], pose[:3, 3])


def _parameters(path: Path) -> dict[str, Any]:
    (entry,) = json.loads(path.read_text(encoding="utf-8")).values()
    parameters: dict[str, Any] = entry["param"]
    return parameters
