"""Point clouds of any layout as structured views of their bytes.

Layout: `sensor_msgs/PointCloud2` and `sensor_msgs/PointField`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.reference import Reference
from mlesam_ros.encoding.settings import Found
from mlesam_ros.errors import CloudError, Problem
from mlesam_ros.frame import LIDAR, PointCloud

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""`PointField.datatype` → NumPy type."""
_INTENSITIES = (
    "intensity",
    "intensities",
    "reflectivity",
    "reflectance",
    "i",
    "signal",
    "remission",
    "amplitude",
    "refl",
    "echo_intensity",
)
"""What drivers call the strength of the echo, the most usual first."""
NO_INTENSITY = "Set lidar.intensity_field to a field of it, or let the driver send one."
"""Remedy for a cloud without the field that intensity is read from."""
_USUAL = 255.0
"""Full strength of most drivers, and of the encoders."""
_SAMPLE = 2048
"""Values at least of those that are read to find a scale."""
_OUTLIERS = 0.001
"""Share of a sweep's intensities that may lie beyond the range of its scale."""
_LARGEST_POINT = 65535
_MOST_FIELDS = 256


class Field(Protocol):
    """What a `sensor_msgs/PointField` has, whichever library made it."""

    name: str
    offset: int
    datatype: int
    count: int


def cloud_from_fields(
    fields: Sequence[Field],
    height: int,
    width: int,
    point_step: int,
    row_step: int,
    is_bigendian: bool,
    data: npt.NDArray[np.uint8],
) -> PointCloud:
    """View a PointCloud2's bytes as points; nothing is copied.

    Args:
        fields: name, byte offset, datatype and count of each field, in any order, with any gaps.
        height: rows; 1 for a cloud that is not organized.
        width: points per row; 0 makes an empty cloud.
        point_step: bytes from one point to the next; 0 where the number of bytes is to tell.
        row_step: bytes from one row to the next. It is redundant, and not read, where the data hold exactly the points.
        is_bigendian: byte order of the fields.
        data: (height * row_step,) or (height * width * point_step,) uint8.

    Returns:
        A cloud of shape (width,), or (height, width) if it is organized.

    Raises:
        CloudError: with the field at fault, its value and what is accepted.
    """
    if height < 0 or width < 0:
        raise CloudError(f"cloud is {width}x{height} points; neither can be negative.")
    if point_step == 0 and len(data) and len(data) % max(height * width, 1) == 0:
        point_step = len(data) // max(height * width, 1)
    dtype = _point_dtype(fields, point_step, is_bigendian)
    if len(data) == height * width * point_step:
        row_step = width * point_step
    if row_step < width * point_step:
        raise CloudError(f"row_step is {row_step} bytes; {width} points of {point_step} need {width * point_step}.")
    if len(data) != height * row_step:
        raise CloudError(
            f"data has {len(data)} bytes; {height} rows with a row_step of {row_step} make {height * row_step}."
        )
    if height == 1:
        return PointCloud(np.ndarray((width,), dtype, np.ascontiguousarray(data), 0, (point_step,)))
    return PointCloud(np.ndarray((height, width), dtype, np.ascontiguousarray(data), 0, (row_step, point_step)))


def _point_dtype(fields: Sequence[Field], point_step: int, is_bigendian: bool) -> np.dtype[np.void]:
    if not 0 < point_step <= _LARGEST_POINT:
        raise CloudError(f"point_step is {point_step} bytes; 1 to {_LARGEST_POINT} are accepted.")
    if len(fields) > _MOST_FIELDS:
        raise CloudError(f"cloud has {len(fields)} fields; at most {_MOST_FIELDS} are accepted.")
    formats: dict[str, tuple[np.dtype[Any], int]] = {}
    for field in fields:
        if not field.name:
            continue  # padding that some converters declare
        if field.name in formats:
            raise CloudError(f"field {field.name[:40]!r} is declared twice; names must be unique.")
        formats[field.name] = _format(field, point_step, is_bigendian), field.offset
    for axis in "xyz":
        if axis not in formats:
            raise CloudError(
                f"cloud has no field {axis!r}, only {', '.join(formats)[:200] or 'none'}; it needs x, y and z."
            )
        if formats[axis][0].kind != "f":
            raise CloudError(f"field {axis!r} is {formats[axis][0]}; it must be one FLOAT32 or FLOAT64.")
    types, offsets = zip(*formats.values(), strict=True)
    return np.dtype({"names": list(formats), "formats": types, "offsets": offsets, "itemsize": point_step})


def _format(field: Field, point_step: int, is_bigendian: bool) -> np.dtype[Any]:
    name = field.name[:40]
    if field.datatype not in _TYPES:
        raise CloudError(f"field {name!r} has the datatype {field.datatype}; PointField knows 1 to 8.")
    single = np.dtype(_TYPES[field.datatype]).newbyteorder(">" if is_bigendian else "<")
    # Drivers older than the count field leave it 0.
    size = single.itemsize * max(field.count, 1)
    if field.offset < 0 or field.offset + size > point_step:
        raise CloudError(
            f"field {name!r} spans bytes {field.offset} to {field.offset + size}; point_step is {point_step}."
        )
    return single if field.count <= 1 else np.dtype((single, (field.count,)))


def cloud_xyz(cloud: PointCloud) -> npt.NDArray[np.float32]:
    """Coordinates row for row with `cloud.points.ravel()`, those of earlier pieces after them.

    Returns:
        (N, 3) float32 meters in the sensor's frame. Points without a return stay in, as (NaN, NaN, NaN) whatever the
        driver wrote (NaN, infinity), so that indices hold; projection drops them.
    """
    if cloud.earlier:
        return np.concatenate([cloud_xyz(piece) for piece in cloud.pieces])
    points = cloud.points
    xyz = np.empty((points.size, 3), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for column, axis in enumerate("xyz"):
            xyz[:, column] = points[axis].ravel()
        # A sum is not finite if a term is not; far cheaper than a test along rows.
        finite = np.isfinite(xyz[:, 0] + xyz[:, 1] + xyz[:, 2])
    if not finite.all():
        xyz[~finite] = np.nan
    return xyz


def find_intensity_field(points: npt.NDArray[np.void], wanted: str = "") -> str | None:
    """The name of the field with the strength of the echoes; None where the cloud has none.

    Args:
        points: a cloud's.
        wanted: the field's name, exact or in another case; empty for the first of the known names in any case.
    """
    single = [name for name in points.dtype.names or () if points[name].ndim == points.ndim]
    for name in [wanted] if wanted else _INTENSITIES:
        found = [n for n in single if n == name] or [n for n in single if n.lower() == name.lower()]
        if found:
            return found[0]
    return None


def find_intensity_scale(values: npt.NDArray[Any]) -> float:
    """The value that counts as full strength, by the type of a field and the range of one sweep.

    uint8 is 255. Any other type is 65535 if values exceed 255, 1 if they are fractions of at most 1, else 255. One
    value in a thousand may lie beyond a range. Of many values a few thousand, evenly spread, are read.

    Args:
        values: of any shape, of one sweep.

    Returns:
        1, 255 or 65535; 0 where the sweep does not tell: no finite value, or only 0 and 1 in floats.
    """
    if values.dtype == np.uint8:
        return 255.0
    for axis, most in enumerate((_SAMPLE,) if values.ndim == 1 else (math.isqrt(_SAMPLE),) * values.ndim):
        # An odd step, so that it does not follow one ring of a LiDAR with 16 or 32.
        values = values[(slice(None),) * axis + (slice(None, None, values.shape[axis] // most | 1),)]
    values = values.ravel()
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    few = _OUTLIERS * values.size
    if np.count_nonzero(values > 255) > few:
        return 65535.0
    if np.count_nonzero(values > 1) > few:
        return 255.0
    return 1.0 if values.dtype.kind == "f" and ((values > 0) & (values < 1)).any() else 0.0


class IntensityFinder:
    """Finds field and scale of the intensity of one topic, stable from sweep to sweep.

    The scale never falls: a dark sweep after a bright one keeps the scale of the bright one.

    Attributes:
        found: the field, its type and its scale; None before the first sweep.
    """

    def __init__(self, field: str = "", scale: float = 0.0) -> None:
        """Start without a sweep.

        Args:
            field: name of the field; empty for the known names.
            scale: value at full strength; 0 to find it.
        """
        self._field, self._given = field, scale
        self._scale = 0.0
        self.found: Found | None = None

    def describe(self, cloud: PointCloud) -> PointCloud:
        """The cloud with its field and scale named, as far as this and earlier sweeps tell."""
        field = find_intensity_field(cloud.points, self._field)
        if field is None:
            self.found = Found(no_intensity(cloud.points, self._field), absent=True)
            return replace(cloud, intensity_field=self._field, intensity_scale=self._given)
        values = cloud.points[field]
        if not self._given:
            self._scale = max(self._scale, find_intensity_scale(values))
        scale = self._given or self._scale
        given = " as set" if self._given else "" if self._scale else " until a sweep tells"
        words = f"field {field}, {values.dtype.name}, scale {scale or _USUAL:g}{given}"
        usual = field == _INTENSITIES[0] and not self._given and scale in (0.0, _USUAL)
        self.found = Found(words, usual)
        return replace(cloud, intensity_field=field, intensity_scale=scale)


def no_intensity(points: npt.NDArray[np.void], wanted: str = "") -> str:
    """Why a cloud has no intensity, in one phrase with its fields."""
    name = f"field {wanted}" if wanted else "field of a known name"
    return f"no {name} among {', '.join(points.dtype.names or ())[:200]}"


def cloud_intensity(cloud: PointCloud) -> npt.NDArray[np.float32]:
    """Strength of the echoes row for row with `cloud_xyz`.

    Returns:
        (N,) float32 in the driver's own scale; 0 where the cloud has none or it is not finite.
    """
    if cloud.earlier:
        return np.concatenate([cloud_intensity(piece) for piece in cloud.pieces])
    points = cloud.points
    name = find_intensity_field(points, cloud.intensity_field)
    if name is None:
        return np.zeros(points.size, np.float32)
    with np.errstate(over="ignore"):
        intensity = points[name].ravel().astype(np.float32)
    intensity[~np.isfinite(intensity)] = 0
    return intensity


def echo_strength(cloud: PointCloud, reference: Reference | None = None) -> npt.NDArray[np.float32]:
    """Strength of the echoes in one scale for all drivers, row for row with `cloud_xyz`.

    Args:
        cloud: the sweep.
        reference: is told where the cloud has no intensity.

    Returns:
        (N,) float32; 255 is full strength, 0 where the cloud has no intensity.
    """
    points = cloud.points
    name = find_intensity_field(points, cloud.intensity_field)
    if name is None and reference is not None:
        reason = no_intensity(points, cloud.intensity_field)
        reference.note(LIDAR, Problem(f"intensity is taken as 0: {reason}.", NO_INTENSITY))
    strength = cloud_intensity(cloud)
    scale = cloud.intensity_scale or (find_intensity_scale(points[name]) if name else 0.0) or _USUAL
    return strength if scale == _USUAL else strength * np.float32(_USUAL / scale)
