"""Pictures made on a torch device instead of by NumPy: the same ones, without a detour.

Where points lie is computed by NumPy either way; which pixels they hit, who wins them, and the channels are not. Lens
formulas and channels are the very same code (`geometry/arrays.py`), and the rule for ties is the same: the nearest
point, and of equally near ones the first. So on a CPU the winners are the same to the last one; on a GPU a point within
a rounding error of a pixel's edge may fall to the other side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mlesam_ros.encoding.checks import wrong_payload
from mlesam_ros.encoding.cloud import cloud_intensity, cloud_xyz
from mlesam_ros.encoding.context import Context
from mlesam_ros.encoding.encoder import Encoder
from mlesam_ros.encoding.log_depth import LogDepth
from mlesam_ros.encoding.placement import place_cloud
from mlesam_ros.encoding.range_intensity_height import RangeIntensityHeight
from mlesam_ros.encoding.registered import depth_from_picture
from mlesam_ros.frame import Cloud, SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import Projection
from mlesam_ros.geometry.rig import Rig

_EMPTY = torch.iinfo(torch.int64).max
_ENTRY = 0xFFFF_FFFF


def encode_on(
    device: str, encoder: Encoder, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None
) -> torch.Tensor:
    """What `encoder(frame, rig, size, context)` gives, as a tensor on a device.

    Encoders that have nothing to gain there work as ever, and their picture is moved.

    Args:
        device: such as `cuda`.
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
        return _range_intensity_height(device, encoder, frame, rig, size, context)
    if type(encoder) is LogDepth:
        return _log_depth(device, encoder, frame, rig, size, context)
    return torch.from_numpy(encoder(frame, rig, size, context)).to(device)


def project_on(
    device: str,
    points: npt.NDArray[np.floating[Any]],
    camera: CameraModel,
    size: tuple[int, int],
    near: float = 0.0,
    dilation: int = 0,
) -> Projection:
    """`project_points` with the arrays of the result as tensors on a device, in the order of their pixels.

    Args:
        device: such as `cuda`.
        points: (N, 3) metres in the camera's optical frame.
        camera: as for `project_points`.
        size: as for `project_points`.
        near: as for `project_points`.
        dilation: as for `project_points`.
    """
    height, width = size
    scaled = camera.scaled(height, width)
    there = torch.from_numpy(points).to(device)
    turn = scaled.rectification
    index, u, v = scaled.land_aligned(there if turn is None else torch.from_numpy(turn.apply(points)).to(device), near)
    pixel = (v + 0.5).floor().long() * width + (u + 0.5).floor().long()
    x, y, z = there[index].T
    # By way of float64, since a float32 root is only nearly rounded on some devices, and ties would differ.
    distance = (x * x + y * y + z * z).double().sqrt().float()
    hit, winner = _nearest(pixel, distance, size, dilation)
    found: Any = (hit // width, hit % width, index[winner], distance[winner], z[winner].float())
    return Projection(*found)


def _nearest(
    pixel: torch.Tensor, distance: torch.Tensor, size: tuple[int, int], dilation: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat pixels that are hit, and the entry that wins each: the smallest (distance, entry), as in `projection`."""
    entry = torch.arange(len(distance), device=distance.device)
    keys = (distance.view(torch.int32).long() << 32) | entry
    buffer = torch.full((size[0] * size[1],), _EMPTY, device=distance.device)
    buffer.scatter_reduce_(0, pixel, keys, "amin")
    if dilation:
        buffer = _spread(buffer.reshape(size), dilation).reshape(-1)
    hit = (buffer != _EMPTY).nonzero()[:, 0]
    return hit, buffer[hit] & _ENTRY


def _spread(keys: torch.Tensor, reach: int) -> torch.Tensor:
    """The smallest key within `reach` pixels of each: along rows, then along columns of that."""
    for axis in (1, 0):
        smallest, length = keys.clone(), keys.shape[axis]
        for shift in range(1, min(reach, length - 1) + 1):
            for to, source in ((shift, 0), (0, shift)):
                part = smallest.narrow(axis, to, length - shift)
                torch.minimum(part, keys.narrow(axis, source, length - shift), out=part)
        keys = smallest
    return keys


def _normalised(values: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    mean, std = (torch.tensor(s, device=values.device)[:, None] for s in encoder.statistics)
    return (values - mean) / std


def _range_intensity_height(
    device: str,
    encoder: RangeIntensityHeight,
    frame: SensorFrame,
    rig: Rig,
    size: tuple[int, int],
    context: Context | None,
) -> torch.Tensor:
    if not isinstance(frame.payload, Cloud):
        raise wrong_payload(frame, "a Cloud")
    xyz = cloud_xyz(frame.payload)
    points = place_cloud(frame, rig, context).apply(xyz)
    seen: Any = project_on(device, points, rig.camera, size, encoder.near, encoder.dilation)
    told = torch.from_numpy(np.stack([cloud_intensity(frame.payload), xyz[:, 2]])).to(device)[:, seen.index]
    image = torch.zeros((3, *size), device=device)
    image[:, seen.rows, seen.cols] = _normalised(torch.stack(encoder.channels(seen.range, *told)), encoder)
    return image


def _log_depth(
    device: str, encoder: LogDepth, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None
) -> torch.Tensor:
    def projector(*args: Any) -> Projection:
        return project_on(device, *args)

    metres = torch.as_tensor(depth_from_picture(frame, rig, size, encoder.unit, context, projector)).to(device)
    logs = metres.clip(encoder.nearest, encoder.farthest).log().reshape(1, -1).expand(3, -1)
    return torch.where(metres > 0, _normalised(logs, encoder).reshape(3, *size), 0.0)
