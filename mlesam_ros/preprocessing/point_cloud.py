"""Read PointCloud2 fields and point times, and transform points into the camera frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError, CloudError, Problem
from mlesam_ros.geometry.rig import PointTransform, Rig, sensor_motion
from mlesam_ros.preprocessing.base import Reference
from mlesam_ros.preprocessing.settings import Found
from mlesam_ros.types import AUTO, LIDAR, NANOSECONDS, PointCloud, SensorFrame

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


Times = npt.NDArray[np.int64]

FIELDS = ("t", "time", "timestamp", "time_stamp", "offset_time", "time_offset")
"""The names under which times are looked for, in this order."""
UNITS = {"s": NANOSECONDS, "ms": 1_000_000, "us": 1000, "ns": 1}
"""Unit → nanoseconds."""
LONGEST = NANOSECONDS
"""Nanoseconds. A sweep takes 50 to 200 ms; what claims more than a second is no sweep, or no time."""
_BRIEF = 1_000_000
"""Nanoseconds. A sweep that is shorter by the usual unit may be told in another one."""
_DAY = 86_400 * NANOSECONDS
_SHORTEST = 10_000_000
"""Nanoseconds that a sweep takes at least by a unit other than the usual one."""


def cloud_times(cloud: PointCloud, stamp: int, offset: int = 0) -> Times | None:
    """When the points were measured, row for row with `cloud_xyz`.

    Args:
        cloud: the sweep.
        stamp: nanoseconds, of its frame.
        offset: nanoseconds by which the stamp, and with it the points' times, are late.

    Returns:
        (N,) int64 nanoseconds on the host's clock, the frame's time for points without a return; None if neither a
        field nor the stamps of pieces tell.

    Raises:
        CloudError: there is such a field, but its values cannot be the times of one sweep around the stamp.
    """
    if not cloud.earlier:
        return _times(cloud, stamp, offset, LONGEST)
    lags = [0, *(piece.lag for piece in cloud.earlier)]
    longest = min(max(4 * lags[-1] // len(lags), 1), LONGEST) if lags[-1] else LONGEST  # pieces may share a stamp
    found = [_times(piece, stamp - lag, offset, longest) for piece, lag in zip(cloud.pieces, lags, strict=True)]
    known = [times for times in found if times is not None]
    return np.concatenate(known) if len(known) == len(found) else piece_times(cloud, stamp - offset)


def _times(cloud: PointCloud, stamp: int, offset: int, longest: int) -> Times | None:
    """`cloud_times` of one message that takes so many nanoseconds at most."""
    points, name = cloud.points, _field(cloud)
    if name is None:
        return None
    # Drivers leave the times of points without a return at anything.
    measured = _measured(cloud)
    times = np.full(points.size, stamp - offset, np.int64)
    times[measured] += _after_stamp(points[name].ravel()[measured], stamp, name, cloud.time_unit, longest)
    return times


def _field(cloud: PointCloud) -> str | None:
    """The name of the field with the points' times; None without one."""
    points = cloud.points
    name = next((n for n in FIELDS if n in (points.dtype.names or ())), None)
    if name is not None and points[name].ndim != points.ndim:
        raise CloudError(f"field {name!r} has several numbers per point; times are one per point.")
    return name


def move_times(cloud: PointCloud, stamp: int, delta: int) -> bool:
    """Move points' times in place, where they count from the epoch of the stamp's clock.

    Args:
        cloud: one message whose bytes may be written.
        stamp: nanoseconds, as it was when the times were measured.
        delta: nanoseconds to add.

    Returns:
        Whether there are such times.
    """
    try:
        name = _field(cloud)
        if name is None:
            return False
        measured = _measured(cloud).reshape(cloud.points.shape)
        values = cloud.points[name][measured]
        scale, zero = _found(values, stamp, name, cloud.time_unit, LONGEST) if len(values) else (1, 0)
    except CloudError:
        return False
    if not zero:
        return False
    whole = values.dtype.kind != "f"
    cloud.points[name][measured] = values.astype(np.int64) + delta // scale if whole else values + delta / scale
    return True


def piece_times(cloud: PointCloud, time: int) -> Times | None:
    """When the points were measured, by the stamps of a sweep's pieces alone.

    Args:
        cloud: the sweep.
        time: nanoseconds, of its newest piece.

    Returns:
        (N,) int64 nanoseconds; None for a sweep in one piece.
    """
    if not cloud.earlier:
        return None
    sizes = [cloud.points.size, *(piece.points.size for piece in cloud.earlier)]
    return np.repeat(np.array([time, *(time - piece.lag for piece in cloud.earlier)], np.int64), sizes)


def _measured(cloud: PointCloud) -> npt.NDArray[np.bool_]:
    """(N,) which points have a return."""
    x, y, z = (cloud.points[axis] for axis in "xyz")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(x + y + z).ravel()


def _after_stamp(values: npt.NDArray[Any], stamp: int, name: str, unit: str, longest: int) -> Times:
    """(n,) int64 nanoseconds after the stamp."""
    if not len(values):
        return np.zeros(0, np.int64)
    scale, zero = _found(values, stamp, name, unit, longest)
    if scale == 1 or values.dtype.kind != "f":
        return np.asarray(values.astype(np.int64) * scale - zero, np.int64)
    # Subtracting before converting keeps the digits that an epoch in float64 still has.
    return np.asarray((values.astype(np.float64) - zero / scale) * scale, np.float64).astype(np.int64)


def _found(values: npt.NDArray[Any], stamp: int, name: str, unit: str, longest: int) -> tuple[int, int]:
    """Nanoseconds of the unit, and nanoseconds from which the numbers count.

    Raises:
        CloudError: the numbers cannot be the times of a message of at most `longest` nanoseconds.
    """
    least, most = values.min().item(), values.max().item()
    if not math.isfinite(most - least):
        raise CloudError(f"field {name!r} holds times that are not finite; every point with a return needs one.")
    usual = NANOSECONDS if values.dtype.kind == "f" else 1
    choices = list(UNITS.values()) if unit == AUTO else [UNITS[unit]]
    found = _reading(least, most, stamp, usual if unit == AUTO else UNITS[unit], choices, longest)
    if found is None:
        raise _refusal(least, most, stamp, name, usual, choices)
    return found


def _reading(
    least: float, most: float, stamp: int, usual: int, choices: list[int], longest: int
) -> tuple[int, int] | None:
    """As `_found`, with the usual unit and those that may be found; None where nothing fits."""

    def fits(scale: int, zero: int) -> bool:
        from_zero = abs(least * scale - zero) if zero else max(-least, most) * scale
        return (most - least) * scale <= longest and from_zero <= LONGEST

    brief = (most - least) * usual < min(_BRIEF, longest // 100)
    relative = fits(usual, 0)
    if relative and not brief:
        return usual, 0
    for scale in choices:
        if fits(scale, stamp):
            return scale, stamp
    for scale in choices:
        if fits(scale, 0) and (most - least) * scale >= min(_SHORTEST, longest // 100):
            return scale, 0
    return (usual, 0) if relative else None


def _refusal(least: float, most: float, stamp: int, name: str, usual: int, choices: list[int]) -> CloudError:
    """Why numbers are no times of a sweep around the stamp, by the unit that brings them nearest to it."""
    scale = min(choices, key=lambda scale: abs(least * scale - stamp))
    if len(choices) > 1 and abs(least * scale - stamp) > _DAY:
        scale = usual
    seconds = scale / NANOSECONDS
    if (most - least) * seconds > LONGEST / NANOSECONDS:
        return CloudError(
            f"field {name!r} spans {(most - least) * seconds:.3g} s; a sweep takes a second at most.",
            "Name the unit that the driver writes with lidar.time_unit."
            if len(choices) > 1
            else "Set lidar.time_unit to auto, or to the unit that the driver writes.",
        )
    away = abs(least * scale - stamp) / NANOSECONDS
    return CloudError(
        f"field {name!r} is {away:.3g} s away from the stamp; times count from it or from its clock's epoch.",
        "Synchronise the sensor's clock with the host's by PTP or GPS, or let the driver stamp by the sensor's.",
    )


_MOMENT = 1_000_000
"""Nanoseconds that count as one moment: 3 cm at 30 m/s."""


def sensor_to_camera(frame: SensorFrame, rig: Rig, reference: Reference | None = None) -> PointTransform:
    """How to bring a frame's points, all measured at its time, before the label camera.

    Where the robot's motion is not known the mounting alone counts, and the reference notes why.

    Args:
        frame: where the points come from and when.
        rig: knows the sensors and, by odometry, the robot's motion.
        reference: the set's moment, which remembers the result; None for a frame on its own, which is its own moment.

    Raises:
        CalibrationError: the rig does not tell where the sensor sits.
    """
    if reference is None:
        return _placed(frame, rig, None, None)
    return reference.placement(frame, lambda: _placed(frame, rig, reference, None))


def cloud_to_camera(frame: SensorFrame, rig: Rig, reference: Reference | None = None) -> PointTransform:
    """How to bring a sweep before the label camera, each point from where the LiDAR was when it measured it.

    Times that cannot be are left aside, and the reference notes why.

    Args:
        frame: holds a `PointCloud`.
        rig: as for `sensor_to_camera`.
        reference: as for `sensor_to_camera`.

    Raises:
        CalibrationError: the rig does not tell where the LiDAR sits.
    """
    if reference is None:
        return _placed(frame, rig, None, _placement_times(frame, None))
    return reference.placement(frame, lambda: _placed(frame, rig, reference, _placement_times(frame, reference)))


def _placement_times(frame: SensorFrame, reference: Reference | None) -> Times | None:
    """(N,) nanoseconds of each point; None if all were measured at the frame's time."""
    assert isinstance(frame.payload, PointCloud)
    times = None
    try:
        times = cloud_times(frame.payload, frame.stamp, frame.offset)
    except CloudError as error:
        if reference is not None:
            reason = f"times of points are left aside: {error.message}"
            reference.note(frame.modality, Problem(reason, error.remedy))
        times = piece_times(frame.payload, frame.stamp - frame.offset)
    return times


def _placed(frame: SensorFrame, rig: Rig, reference: Reference | None, times: Times | None) -> PointTransform:
    moment = frame.time if reference is None else reference.time
    if times is None or not len(times):
        times = np.array([frame.time])
    lag = max(int(times.max()) - moment, moment - int(times.min()))
    if lag > _MOMENT:
        try:
            return sensor_motion(rig, frame.frame_id, times, moment)
        except CalibrationError as error:
            mounting = rig.extrinsic(frame.frame_id, frame.time)  # if not even that is known, that is the error
            if reference is not None:
                reason = f"motion over {lag / 1e6:.0f} ms is not compensated: {error.message}"
                reference.note(frame.modality, Problem(reason, error.remedy))
            return mounting
    return rig.extrinsic(frame.frame_id, frame.time)
