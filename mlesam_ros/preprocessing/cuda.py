# SPDX-License-Identifier: Apache-2.0
"""Preprocessing on a CUDA device: asynchronous uploads, resizing and point projection in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.base import Preprocessor
from mlesam_ros.preprocessing.depth import LogDepth
from mlesam_ros.preprocessing.lidar import RangeIntensityHeight, echo_strength
from mlesam_ros.preprocessing.point_cloud import cloud_xyz
from mlesam_ros.preprocessing.preprocessors import RGB, decode_full, is_downscale
from mlesam_ros.preprocessing.registration import FrameContext, cloud_to_camera, depth_from_image, wrong_payload
from mlesam_ros.types import PointCloud, SensorFrame


class AsyncUploader:
    """Copies NumPy arrays to one device.

    Copies to a GPU are asynchronous, from page-locked memory, and overlap the CPU preprocessing of the next sensor.
    They are on the current stream: memory that another stream has used is kept by PyTorch's allocator until an event,
    which never comes after a failed capture of a CUDA graph.

    Attributes:
        device: torch device name, such as `cuda`.
    """

    def __init__(self, device: str) -> None:
        """Upload to a device."""
        self.device = device
        self.area_weights: dict[tuple[int, int], Tensor] = {}  # on the device, for as long as the uploader lives

    def __call__(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """The array as a tensor on the device; on the CPU it shares the memory of a writable array."""
        if not self.device.startswith("cuda"):
            here = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch has no read-only tensors
            return here.to(self.device)
        return page_locked(array).to(self.device, non_blocking=True)


def page_locked(array: npt.NDArray[Any]) -> Tensor:
    """Copy an array once, into memory that a GPU reads while the CPU continues. PyTorch reuses it afterwards."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    here = torch.empty(array.shape, dtype=dtype, pin_memory=torch.cuda.is_available())
    np.copyto(here.numpy(), array)
    return here


_EMPTY = torch.iinfo(torch.int64).max
_ENTRY = 0xFFFF_FFFF


@dataclass(frozen=True, eq=False)
class ZBuffer:
    """Nearest point of each pixel, on the device.

    Attributes:
        hit: (h, w) bool, whether a point covers the pixel.
        index: (h, w) int64 row of the nearest point; 0 where no point covers the pixel.
        range, depth: (h, w) float32 meters from the camera's center, and along its axis, of that point.
    """

    hit: Tensor
    index: Tensor
    range: Tensor
    depth: Tensor


def encode_torch(
    upload: AsyncUploader,
    preprocessor: Preprocessor,
    frame: SensorFrame,
    rig: Rig,
    size: tuple[int, int],
    context: FrameContext | None = None,
) -> Tensor:
    """Return the image of `preprocessor(frame, rig, size, context)` as a tensor on a device.

    RangeIntensityHeight, LogDepth and RGB are computed on the device. Other preprocessors run on the CPU and their
    image is uploaded.

    Args:
        upload: the uploader to the device.
        preprocessor: any preprocessor.
        frame: as for `Preprocessor`.
        rig: as for `Preprocessor`.
        size: as for `Preprocessor`.
        context: as for `Preprocessor`.

    Returns:
        (3, h, w) float32.

    Raises:
        MlesamError: as the preprocessor.
    """
    if type(preprocessor) is RangeIntensityHeight:
        return _range_intensity_height(upload, preprocessor, frame, rig, size, context)
    if type(preprocessor) is LogDepth:
        return _log_depth(upload, preprocessor, frame, rig, size, context)
    if type(preprocessor) is RGB:
        return _rgb(upload, preprocessor, frame, rig, size)
    return upload(preprocessor(frame, rig, size, context))


def project_torch(
    upload: AsyncUploader,
    points: npt.NDArray[np.floating[Any]],
    camera: CameraModel,
    size: tuple[int, int],
    near: float = 0.0,
    dilation: int = 0,
) -> ZBuffer:
    """`project_points` on a device, with dense images as the result.

    Args:
        upload: the uploader to the device.
        points: (N, 3) meters in the camera's optical frame.
        camera: as for `project_points`.
        size: as for `project_points`.
        near: as for `project_points`.
        dilation: as for `project_points`.
    """
    height, width = size
    if not len(points):
        points = np.full((1, 3), np.nan, np.float32)  # index 0 must exist
    there, turn = upload(points), camera.rectification
    keep, u, v = camera.project_masked(there if turn is None else upload(turn.apply(points)))
    keep &= there[:, 2] > near
    sides = (v, camera.height, height), (u, camera.width, width)
    row, col = (_pixels(x, source, target).where(keep, 0).long() for x, source, target in sides)
    x, y, z = there.T
    # float64, since float32 square roots are not correctly rounded on some devices and ties would differ.
    distance = (x * x + y * y + z * z).double().sqrt().float()
    index, hit = _nearest(row * width + col, distance, keep, size, dilation)
    return ZBuffer(hit, index, distance[index], z[index].float())


def _pixels(coordinate: Tensor, source: int, target: int) -> Tensor:
    """As in `projection`: pixels along one axis of `source` pixels after resizing it to `target`."""
    if source == target:
        return (coordinate + 0.5).floor()
    return ((coordinate + 0.5) * (target / source)).floor().clamp(max=target - 1)


def _nearest(
    pixel: Tensor, distance: Tensor, keep: Tensor, size: tuple[int, int], dilation: int
) -> tuple[Tensor, Tensor]:
    """Entry with the smallest (distance, entry) of each pixel, as in `projection`, and whether the pixel has one.

    Entries that no pixel keeps are spread over all: at one address of a GPU they would wait for each other.
    """
    entry, pixels = torch.arange(len(distance), device=distance.device), size[0] * size[1]
    keys = torch.where(keep, (distance.view(torch.int32).long() << 32) | entry, _EMPTY)
    buffer = keys.new_full((pixels,), _EMPTY)
    buffer.scatter_reduce_(0, torch.where(keep, pixel, entry % pixels), keys, "amin")
    nearest = buffer.reshape(size)
    if dilation:
        nearest = _min_filter(nearest, dilation)
    hit = nearest != _EMPTY
    return (nearest & _ENTRY).where(hit, 0), hit


def _min_filter(keys: Tensor, reach: int) -> Tensor:
    """Minimum filter of (2 * reach + 1) squared pixels, separable: along rows, then along columns."""
    for axis in (1, 0):
        smallest, length = keys.clone(), keys.shape[axis]
        for shift in range(1, min(reach, length - 1) + 1):
            for to, source in ((shift, 0), (0, shift)):
                part = smallest.narrow(axis, to, length - shift)
                torch.minimum(part, keys.narrow(axis, source, length - shift), out=part)
        keys = smallest
    return keys


def _normalized(channels: tuple[Tensor, ...], known: Tensor, preprocessor: Preprocessor) -> Tensor:
    """(3, h, w) normalized channels, exactly 0 in unknown pixels.

    The statistics are Python floats, since a tensor would need an upload.
    """
    normal = [
        (c - float(np.float32(m))) / float(np.float32(s))
        for c, m, s in zip(channels, *preprocessor.normalization, strict=True)
    ]
    return torch.stack(normal).where(known, 0.0)


def _range_intensity_height(
    upload: AsyncUploader,
    preprocessor: RangeIntensityHeight,
    frame: SensorFrame,
    rig: Rig,
    size: tuple[int, int],
    context: FrameContext | None,
) -> Tensor:
    if not isinstance(frame.payload, PointCloud):
        raise wrong_payload(frame, "a PointCloud")
    xyz = cloud_xyz(frame.payload)
    points = cloud_to_camera(frame, rig, context).apply(xyz)
    seen = project_torch(upload, points, rig.camera, size, preprocessor.near, preprocessor.dilation)
    if not len(xyz):
        return torch.zeros((3, *size), device=upload.device)
    intensity, height = upload(np.stack([echo_strength(frame.payload, context), xyz[:, 2]]))[:, seen.index]
    return _normalized(preprocessor.channels(seen.range, intensity, height), seen.hit, preprocessor)


def _log_depth(
    upload: AsyncUploader,
    preprocessor: LogDepth,
    frame: SensorFrame,
    rig: Rig,
    size: tuple[int, int],
    context: FrameContext | None,
) -> Tensor:
    def rasterize(
        points: npt.NDArray[np.floating[Any]], camera: CameraModel, size: tuple[int, int], dilation: int
    ) -> Any:
        seen = project_torch(upload, points, camera, size, dilation=dilation)
        return seen.depth.where(seen.hit, torch.nan)

    meters = depth_from_image(frame, rig, size, context, rasterize)
    there = meters if isinstance(meters, Tensor) else upload(meters)
    logs = there.clip(preprocessor.nearest, preprocessor.farthest).log()
    return _normalized((logs, logs, logs), there > 0, preprocessor)


def _rgb(upload: AsyncUploader, preprocessor: RGB, frame: SensorFrame, rig: Rig, size: tuple[int, int]) -> Tensor:
    """Upload the full-size uint8 image; area averaging is a matrix product along each axis."""
    rgb = decode_full(frame, rig)
    if not is_downscale(rgb.shape, size):
        return upload(preprocessor(frame, rig, size))
    (height, width, _), there = rgb.shape, upload(np.ascontiguousarray(rgb)).float()
    rows, cols = (_area_weights(upload, new, old) for new, old in zip(size, (height, width), strict=True))
    there = (rows @ there.flatten(1)).unflatten(1, (width, 3))  # (h, W, 3)
    there = (there.permute(2, 0, 1) @ cols.T).round()  # (3, h, w), rounded as in OpenCV
    return _normalized(tuple(there / 255), torch.ones((), dtype=torch.bool, device=there.device), preprocessor)


def _area_weights(upload: AsyncUploader, new: int, old: int) -> Tensor:
    """(new, old) float32: weight of each old pixel in each new pixel."""
    if (new, old) not in upload.area_weights:
        edges = np.linspace(0, old, new + 1)[:, None]
        first, last = np.maximum(edges[:-1], np.arange(old)), np.minimum(edges[1:], np.arange(1, old + 1))
        upload.area_weights[new, old] = upload((np.clip(last - first, 0, None) * (new / old)).astype(np.float32))
    return upload.area_weights[new, old]
