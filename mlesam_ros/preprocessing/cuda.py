"""Preprocessing on a CUDA device: asynchronous uploads, resizing and point projection in torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.base import Preprocessor, wrong_payload
from mlesam_ros.preprocessing.context import Context
from mlesam_ros.preprocessing.depth import LogDepth
from mlesam_ros.preprocessing.lidar import RangeIntensityHeight
from mlesam_ros.preprocessing.point_cloud import cloud_to_camera, cloud_xyz, echo_strength
from mlesam_ros.preprocessing.preprocessors import RGB, decode_full, is_downscale
from mlesam_ros.preprocessing.registration import depth_from_picture
from mlesam_ros.types import PointCloud, SensorFrame


class AsyncUploader:
    """Brings NumPy arrays to one device.

    To a GPU they go from page-locked memory on a stream of their own, while this thread reads the next sensor and the
    device still works on the one before; the device's own queue waits for each before it is used.

    Attributes:
        device: such as `cuda`.
    """

    def __init__(self, device: str) -> None:
        """Nothing is allocated yet but a stream, on a GPU."""
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.startswith("cuda") else None

    def __call__(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """The array as a tensor there; on the CPU it shares the array's memory."""
        here = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch knows no memory to read only
        if self._stream is None:
            return here.to(self.device)
        with torch.cuda.stream(self._stream):
            there = here.pin_memory().to(self.device, non_blocking=True)
        queue = torch.cuda.current_stream(self.device)
        queue.wait_stream(self._stream)
        there.record_stream(queue)  # its memory is not given to the next upload before the queue has read it
        return there


_EMPTY = torch.iinfo(torch.int64).max
_ENTRY = 0xFFFF_FFFF


@dataclass(frozen=True, eq=False)
class ZBuffer:
    """What each pixel shows, on the device.

    Attributes:
        hit: (h, w) bool, whether a point covers the pixel.
        index: (h, w) int64 row of the point that wins it; 0 where none does.
        range, depth: (h, w) float32 meters from the camera's center, and along its axis, of that point.
    """

    hit: Tensor
    index: Tensor
    range: Tensor
    depth: Tensor


def encode_torch(
    upload: AsyncUploader,
    encoder: Preprocessor,
    frame: SensorFrame,
    rig: Rig,
    size: tuple[int, int],
    context: Context | None = None,
) -> Tensor:
    """What `encoder(frame, rig, size, context)` gives, as a tensor on a device.

    Encoders that have nothing to gain there work as ever, and their picture is moved.

    Args:
        upload: to the device.
        encoder: any.
        frame: as for the encoder.
        rig: as for the encoder.
        size: as for the encoder.
        context: as for the encoder.

    Returns:
        (3, h, w) float32.

    Raises:
        MlesamError: as the encoder.
    """
    if type(encoder) is RangeIntensityHeight:
        return _range_intensity_height(upload, encoder, frame, rig, size, context)
    if type(encoder) is LogDepth:
        return _log_depth(upload, encoder, frame, rig, size, context)
    if type(encoder) is RGB:
        return _rgb(upload, encoder, frame, rig, size)
    return upload(encoder(frame, rig, size, context))


def project_torch(
    upload: AsyncUploader,
    points: npt.NDArray[np.floating[Any]],
    camera: CameraModel,
    size: tuple[int, int],
    near: float = 0.0,
    dilation: int = 0,
) -> ZBuffer:
    """What `project_points` does, as whole pictures on a device.

    Args:
        upload: to the device.
        points: (N, 3) meters in the camera's optical frame.
        camera: as for `project_points`.
        size: as for `project_points`.
        near: as for `project_points`.
        dilation: as for `project_points`.
    """
    height, width = size
    scaled = camera.scaled(height, width)
    if not len(points):
        points = np.full((1, 3), np.nan, np.float32)  # so that there is a row 0
    there, turn = upload(points), scaled.rectification
    keep, u, v = scaled.project_masked(there if turn is None else upload(turn.apply(points)), near)
    row, col = ((x + 0.5).floor().where(keep, 0).long() for x in (v, u))
    x, y, z = there.T
    # By way of float64, since a float32 root is only nearly rounded on some devices, and ties would differ.
    distance = (x * x + y * y + z * z).double().sqrt().float()
    pixel = torch.where(keep, row * width + col, height * width)
    index, hit = _nearest(pixel, distance, size, dilation)
    return ZBuffer(hit, index, distance[index], z[index].float())


def _nearest(pixel: Tensor, distance: Tensor, size: tuple[int, int], dilation: int) -> tuple[Tensor, Tensor]:
    """The entry that wins each pixel, the smallest (distance, entry) as in `projection`, and whether any does."""
    entry = torch.arange(len(distance), device=distance.device)
    keys = (distance.view(torch.int32).long() << 32) | entry
    buffer = keys.new_full((size[0] * size[1] + 1,), _EMPTY)
    buffer.scatter_reduce_(0, pixel, keys, "amin")
    nearest = buffer[:-1].reshape(size)
    if dilation:
        nearest = _spread(nearest, dilation)
    hit = nearest != _EMPTY
    return (nearest & _ENTRY).where(hit, 0), hit


def _spread(keys: Tensor, reach: int) -> Tensor:
    """The smallest key within `reach` pixels of each: along rows, then along columns of that."""
    for axis in (1, 0):
        smallest, length = keys.clone(), keys.shape[axis]
        for shift in range(1, min(reach, length - 1) + 1):
            for to, source in ((shift, 0), (0, shift)):
                part = smallest.narrow(axis, to, length - shift)
                torch.minimum(part, keys.narrow(axis, source, length - shift), out=part)
        keys = smallest
    return keys


def _placed(channels: tuple[Tensor, ...], known: Tensor, encoder: Preprocessor) -> Tensor:
    """(3, h, w) normalized channels, exactly 0 where nothing is known.

    The statistics are handed over as numbers, since a tensor made of them would have to be uploaded first.
    """
    normal = [
        (c - float(np.float32(m))) / float(np.float32(s)) for c, m, s in zip(channels, *encoder.statistics, strict=True)
    ]
    return torch.stack(normal).where(known, 0.0)


def _range_intensity_height(
    upload: AsyncUploader,
    encoder: RangeIntensityHeight,
    frame: SensorFrame,
    rig: Rig,
    size: tuple[int, int],
    context: Context | None,
) -> Tensor:
    if not isinstance(frame.payload, PointCloud):
        raise wrong_payload(frame, "a PointCloud")
    xyz = cloud_xyz(frame.payload)
    points = cloud_to_camera(frame, rig, context).apply(xyz)
    seen = project_torch(upload, points, rig.camera, size, encoder.near, encoder.dilation)
    if not len(xyz):
        return torch.zeros((3, *size), device=upload.device)
    intensity, height = upload(np.stack([echo_strength(frame.payload, context), xyz[:, 2]]))[:, seen.index]
    return _placed(encoder.channels(seen.range, intensity, height), seen.hit, encoder)


def _log_depth(
    upload: AsyncUploader,
    encoder: LogDepth,
    frame: SensorFrame,
    rig: Rig,
    size: tuple[int, int],
    context: Context | None,
) -> Tensor:
    def paint(points: npt.NDArray[np.floating[Any]], camera: CameraModel, size: tuple[int, int], dilation: int) -> Any:
        seen = project_torch(upload, points, camera, size, dilation=dilation)
        return seen.depth.where(seen.hit, torch.nan)

    meters = depth_from_picture(frame, rig, size, context, paint)
    there = meters if isinstance(meters, Tensor) else upload(meters)
    logs = there.clip(encoder.nearest, encoder.farthest).log()
    return _placed((logs, logs, logs), there > 0, encoder)


def _rgb(upload: AsyncUploader, encoder: RGB, frame: SensorFrame, rig: Rig, size: tuple[int, int]) -> Tensor:
    """The bytes go there as they came; averaging over areas is a matrix product along each side."""
    rgb = decode_full(frame, rig)
    if not is_downscale(rgb.shape, size):
        return upload(encoder(frame, rig, size))
    (height, width, _), there = rgb.shape, upload(np.ascontiguousarray(rgb)).float()
    rows, cols = (_areas(upload, new, old) for new, old in zip(size, (height, width), strict=True))
    there = (rows @ there.flatten(1)).unflatten(1, (width, 3))  # (h, W, 3)
    there = (there.permute(2, 0, 1) @ cols.T).round()  # (3, h, w), whole numbers as OpenCV has them
    return _placed(tuple(there / 255), torch.ones((), dtype=torch.bool, device=there.device), encoder)


@lru_cache(maxsize=16)
def _areas(upload: AsyncUploader, new: int, old: int) -> Tensor:
    """(new, old) float32: what part of each new pixel each old one is."""
    edges = np.linspace(0, old, new + 1)[:, None]
    covered = np.clip(np.minimum(edges[1:], np.arange(1, old + 1)) - np.maximum(edges[:-1], np.arange(old)), 0, None)
    return upload((covered * (new / old)).astype(np.float32))
