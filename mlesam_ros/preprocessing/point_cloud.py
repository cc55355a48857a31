# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 data: coordinates, intensities and times of the points, and sweeps that a driver publishes in pieces.

Some drivers publish a turn as segments (SICK), partial azimuths (Isaac Sim) or packets. Pieces are detected by their
azimuths: a piece does not overlap the previous one, and a later piece overlaps an earlier one again. Messages with
whole sweeps, of a full turn or of a narrow field of view, overlap the previous message and are not changed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CloudError
from mlesam_ros.types import AUTO, NANOSECONDS, DetectedProperty, Piece, PointCloud, SensorFrame

_NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""`PointField.datatype` → NumPy type."""
_INTENSITY_FIELDS = (
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
"""Field names of the echo intensity in drivers, the most common first."""
NO_INTENSITY = "Set lidar.intensity_field to a field of it, or let the driver send one."
"""Remedy for a point cloud without the intensity field."""
FULL_STRENGTH = 255.0
"""Intensity at full strength of most drivers, and of the preprocessors."""
_SAMPLED_INTENSITIES = 2048
"""Fewest intensities that are sampled to find a scale."""
_OUTLIER_SHARE = 0.001
"""Share of a sweep's intensities that may exceed the range of its scale."""
_MAX_POINT_STEP = 65535
_MAX_FIELDS = 256


class Field(Protocol):
    """The fields of a `sensor_msgs/PointField` of any library."""

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
    """View a PointCloud2's bytes as points without a copy.

    Args:
        fields: name, byte offset, datatype and count of each field, in any order, with any gaps.
        height: rows; 1 for an unorganized point cloud.
        width: points per row; 0 for an empty point cloud.
        point_step: bytes from one point to the next; 0 to derive it from the length of the data.
        row_step: bytes from one row to the next. It is redundant and ignored if the data have no padding.
        is_bigendian: byte order of the fields.
        data: (height * row_step,) or (height * width * point_step,) uint8.

    Returns:
        A point cloud of shape (width,), or (height, width) if it is organized.

    Raises:
        CloudError: a field is invalid; the message has its value and the accepted ones.
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
    if not 0 < point_step <= _MAX_POINT_STEP:
        raise CloudError(f"point_step is {point_step} bytes; 1 to {_MAX_POINT_STEP} are accepted.")
    if len(fields) > _MAX_FIELDS:
        raise CloudError(f"cloud has {len(fields)} fields; at most {_MAX_FIELDS} are accepted.")
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
    if field.datatype not in _NUMPY_TYPES:
        raise CloudError(f"field {name!r} has the datatype {field.datatype}; PointField defines 1 to 8.")
    single = np.dtype(_NUMPY_TYPES[field.datatype]).newbyteorder(">" if is_bigendian else "<")
    # Drivers older than the count field set it to 0.
    size = single.itemsize * max(field.count, 1)
    if field.offset < 0 or field.offset + size > point_step:
        raise CloudError(
            f"field {name!r} spans bytes {field.offset} to {field.offset + size}; point_step is {point_step}."
        )
    return single if field.count <= 1 else np.dtype((single, (field.count,)))


def cloud_xyz(cloud: PointCloud) -> npt.NDArray[np.float32]:
    """Coordinates in the order of `cloud.points.ravel()`, followed by those of earlier pieces. Read once per cloud.

    Returns:
        (N, 3) float32 meters in the sensor's frame, read-only. Points without a return (NaN or infinite coordinates)
        are kept as (NaN, NaN, NaN), so that indices stay valid; projection drops them.
    """
    if cloud.xyz is None:
        xyz = np.concatenate([_xyz(points) for points in (cloud.points, *(piece.points for piece in cloud.earlier))])
        xyz.flags.writeable = False
        object.__setattr__(cloud, "xyz", xyz)  # a cache of an otherwise immutable object
    assert cloud.xyz is not None
    return cloud.xyz


def _xyz(points: npt.NDArray[np.void]) -> npt.NDArray[np.float32]:
    xyz = np.empty((points.size, 3), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for column, axis in enumerate("xyz"):
            xyz[:, column] = points[axis].ravel()
        # A sum is not finite if a term is not; faster than np.isfinite(...).all(axis=1).
        finite = np.isfinite(xyz[:, 0] + xyz[:, 1] + xyz[:, 2])
    if not finite.all():
        xyz[~finite] = np.nan
    return xyz


def find_intensity_field(points: npt.NDArray[np.void], wanted: str = "") -> str | None:
    """The name of the intensity field; None if the point cloud has none.

    Args:
        points: points of a `PointCloud`.
        wanted: name of the field, case-insensitive if no exact match exists; empty for the first known name.
    """
    single = [name for name in points.dtype.names or () if points[name].ndim == points.ndim]
    for name in [wanted] if wanted else _INTENSITY_FIELDS:
        found = [n for n in single if n == name] or [n for n in single if n.lower() == name.lower()]
        if found:
            return found[0]
    return None


def find_intensity_scale(values: npt.NDArray[Any]) -> float:
    """The intensity at full strength, by the type of the field and the range of one sweep.

    255 for uint8. For any other type, 65535 if values exceed 255, 1 if they are fractions of at most 1, else 255. One
    value in a thousand may exceed a range. Of many values, a few thousand at even spacing are read.

    Args:
        values: intensities of one sweep, of any shape.

    Returns:
        1, 255 or 65535; 0 if the sweep is inconclusive: no finite value, or only 0 and 1 in floats.
    """
    if values.dtype == np.uint8:
        return 255.0
    for axis, most in enumerate(
        (_SAMPLED_INTENSITIES,) if values.ndim == 1 else (math.isqrt(_SAMPLED_INTENSITIES),) * values.ndim
    ):
        # An odd step, to avoid sampling a single ring of a LiDAR with 16 or 32.
        values = values[(slice(None),) * axis + (slice(None, None, values.shape[axis] // most | 1),)]
    values = values.ravel()
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    few = _OUTLIER_SHARE * values.size
    if np.count_nonzero(values > 255) > few:
        return 65535.0
    if np.count_nonzero(values > 1) > few:
        return 255.0
    return 1.0 if values.dtype.kind == "f" and ((values > 0) & (values < 1)).any() else 0.0


class IntensityFinder:
    """Detects intensity field and scale of one topic.

    The scale never decreases, so that a dark sweep keeps the scale of an earlier bright one.

    Attributes:
        found: the field, its type and its scale; None before the first sweep.
    """

    def __init__(self, field: str = "", scale: float = 0.0) -> None:
        """Start without a sweep.

        Args:
            field: name of the field; empty for the known names.
            scale: intensity at full strength; 0 to detect it.
        """
        self._field, self._given = field, scale
        self._scale = 0.0
        self.found: DetectedProperty | None = None

    def describe(self, cloud: PointCloud) -> PointCloud:
        """Return the point cloud with intensity field and scale, as far as detected in this and earlier sweeps."""
        field = find_intensity_field(cloud.points, self._field)
        if field is None:
            self.found = DetectedProperty(no_intensity(cloud.points, self._field), absent=True)
            return replace(cloud, intensity_field=self._field, intensity_scale=self._given)
        values = cloud.points[field]
        if not self._given:
            self._scale = max(self._scale, find_intensity_scale(values))
        scale = self._given or self._scale
        given = " as set" if self._given else "" if self._scale else " until a sweep determines it"
        text = f"field {field}, {values.dtype.name}, scale {scale or FULL_STRENGTH:g}{given}"
        usual = field == _INTENSITY_FIELDS[0] and not self._given and scale in (0.0, FULL_STRENGTH)
        self.found = DetectedProperty(text, usual)
        return replace(cloud, intensity_field=field, intensity_scale=scale)


def no_intensity(points: npt.NDArray[np.void], wanted: str = "") -> str:
    """Phrase for a point cloud without intensity, with its field names."""
    name = f"field {wanted}" if wanted else "field of a known name"
    return f"no {name} among {', '.join(points.dtype.names or ())[:200]}"


def cloud_intensity(cloud: PointCloud) -> npt.NDArray[np.float32]:
    """Intensities in the order of `cloud_xyz`.

    Returns:
        (N,) float32 in the driver's scale; 0 if not finite or without an intensity field.
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


Times = npt.NDArray[np.int64]

TIME_FIELDS = ("t", "time", "timestamp", "time_stamp", "offset_time", "time_offset")
"""Known names of the time field, in order of precedence."""
TIME_UNITS = {"s": NANOSECONDS, "ms": 1_000_000, "us": 1000, "ns": 1}
"""Unit → nanoseconds."""
MAX_SWEEP_NS = NANOSECONDS
"""Longest accepted time span of a sweep, which usually takes 50 to 200 ms."""
_SUSPECT_SPAN_NS = 1_000_000
"""A sweep that is shorter in the default unit may have times in another unit."""
_DAY_NS = 86_400 * NANOSECONDS
_MIN_SWEEP_NS = 10_000_000
"""Shortest accepted sweep in a unit other than the default."""


def cloud_times(cloud: PointCloud, stamp: int, offset: int = 0) -> Times | None:
    """Measurement times of the points, in the order of `cloud_xyz`.

    Args:
        cloud: the sweep.
        stamp: stamp of its frame in nanoseconds.
        offset: nanoseconds by which the stamp and the points' times are late.

    Returns:
        (N,) int64 nanoseconds on the host's clock, the frame's time for points without a return; None without a time
        field and without pieces.

    Raises:
        CloudError: the values of the time field cannot be the times of one sweep around the stamp.
    """
    if not cloud.earlier:
        return _message_times(cloud, stamp, offset, MAX_SWEEP_NS)
    lags = [0, *(piece.lag for piece in cloud.earlier)]
    longest = (
        min(max(4 * lags[-1] // len(lags), 1), MAX_SWEEP_NS) if lags[-1] else MAX_SWEEP_NS
    )  # pieces may share a stamp
    found = [_message_times(piece, stamp - lag, offset, longest) for piece, lag in zip(cloud.pieces, lags, strict=True)]
    known = [times for times in found if times is not None]
    return np.concatenate(known) if len(known) == len(found) else piece_times(cloud, stamp - offset)


def _message_times(cloud: PointCloud, stamp: int, offset: int, longest: int) -> Times | None:
    """`cloud_times` of one message of at most `longest` nanoseconds."""
    points, name = cloud.points, _time_field(cloud)
    if name is None:
        return None
    # The times of points without a return are arbitrary in some drivers.
    measured = _has_return(cloud)
    times = np.full(points.size, stamp - offset, np.int64)
    times[measured] += _after_stamp(points[name].ravel()[measured], stamp, name, cloud.time_unit, longest)
    return times


def _time_field(cloud: PointCloud) -> str | None:
    """The name of the time field; None without one."""
    points = cloud.points
    name = next((n for n in TIME_FIELDS if n in (points.dtype.names or ())), None)
    if name is not None and points[name].ndim != points.ndim:
        raise CloudError(f"field {name!r} has several numbers per point; times are one per point.")
    return name


def move_times(cloud: PointCloud, stamp: int, delta: int) -> bool:
    """Shift the points' times in place if they count from the epoch of the stamp's clock.

    Args:
        cloud: one message with writable bytes.
        stamp: original stamp of the message in nanoseconds.
        delta: nanoseconds to add.

    Returns:
        Whether times were shifted.
    """
    try:
        name = _time_field(cloud)
        if name is None:
            return False
        measured = _has_return(cloud).reshape(cloud.points.shape)
        values = cloud.points[name][measured]
        scale, zero = _time_scale(values, stamp, name, cloud.time_unit, MAX_SWEEP_NS) if len(values) else (1, 0)
    except CloudError:
        return False
    if not zero:
        return False
    whole = values.dtype.kind != "f"
    cloud.points[name][measured] = values.astype(np.int64) + delta // scale if whole else values + delta / scale
    return True


def piece_times(cloud: PointCloud, time: int) -> Times | None:
    """Measurement times of the points by the stamps of the sweep's pieces.

    Args:
        cloud: the sweep.
        time: time of its newest piece in nanoseconds.

    Returns:
        (N,) int64 nanoseconds; None for a sweep in one piece.
    """
    if not cloud.earlier:
        return None
    sizes = [cloud.points.size, *(piece.points.size for piece in cloud.earlier)]
    return np.repeat(np.array([time, *(time - piece.lag for piece in cloud.earlier)], np.int64), sizes)


def _has_return(cloud: PointCloud) -> npt.NDArray[np.bool_]:
    """(N,) whether a point has a return."""
    x, y, z = (cloud.points[axis] for axis in "xyz")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(x + y + z).ravel()


def _after_stamp(values: npt.NDArray[Any], stamp: int, name: str, unit: str, longest: int) -> Times:
    """(n,) int64 nanoseconds after the stamp."""
    if not len(values):
        return np.zeros(0, np.int64)
    scale, zero = _time_scale(values, stamp, name, unit, longest)
    if scale == 1 or values.dtype.kind != "f":
        return np.asarray(values.astype(np.int64) * scale - zero, np.int64)
    # Subtract before scaling, to keep the precision of an epoch in float64.
    return np.asarray((values.astype(np.float64) - zero / scale) * scale, np.float64).astype(np.int64)


def _time_scale(values: npt.NDArray[Any], stamp: int, name: str, unit: str, longest: int) -> tuple[int, int]:
    """Nanoseconds per unit, and the zero: the stamp for times since the epoch, 0 for times since the stamp.

    Raises:
        CloudError: the values cannot be the times of a message of at most `longest` nanoseconds.
    """
    least, most = values.min().item(), values.max().item()
    if not math.isfinite(most - least):
        raise CloudError(f"field {name!r} holds times that are not finite; every point with a return needs one.")
    usual = NANOSECONDS if values.dtype.kind == "f" else 1
    choices = list(TIME_UNITS.values()) if unit == AUTO else [TIME_UNITS[unit]]
    found = _fitting_scale(least, most, stamp, usual if unit == AUTO else TIME_UNITS[unit], choices, longest)
    if found is None:
        raise _time_error(least, most, stamp, name, usual, choices)
    return found


def _fitting_scale(
    least: float, most: float, stamp: int, usual: int, choices: list[int], longest: int
) -> tuple[int, int] | None:
    """As `_time_scale`, for the default unit and the candidate units; None if none fits."""

    def fits(scale: int, zero: int) -> bool:
        from_zero = abs(least * scale - zero) if zero else max(-least, most) * scale
        return (most - least) * scale <= longest and from_zero <= MAX_SWEEP_NS

    brief = (most - least) * usual < min(_SUSPECT_SPAN_NS, longest // 100)
    relative = fits(usual, 0)
    if relative and not brief:
        return usual, 0
    for scale in choices:
        if fits(scale, stamp):
            return scale, stamp
    for scale in choices:
        if fits(scale, 0) and (most - least) * scale >= min(_MIN_SWEEP_NS, longest // 100):
            return scale, 0
    return (usual, 0) if relative else None


def _time_error(least: float, most: float, stamp: int, name: str, usual: int, choices: list[int]) -> CloudError:
    """The error for values that are not times of a sweep around the stamp, in the unit that brings them nearest."""
    scale = min(choices, key=lambda scale: abs(least * scale - stamp))
    if len(choices) > 1 and abs(least * scale - stamp) > _DAY_NS:
        scale = usual
    seconds = scale / NANOSECONDS
    if (most - least) * seconds > MAX_SWEEP_NS / NANOSECONDS:
        return CloudError(
            f"field {name!r} spans {(most - least) * seconds:.3g} s; a sweep takes a second at most.",
            "Name the unit that the driver writes with lidar.time_unit."
            if len(choices) > 1
            else "Set lidar.time_unit to auto, or to the unit that the driver writes.",
        )
    away = abs(least * scale - stamp) / NANOSECONDS
    return CloudError(
        f"field {name!r} is {away:.3g} s away from the stamp; times count from it or from its clock's epoch.",
        "Synchronize the sensor's clock with the host's by PTP or GPS, or let the driver stamp by the sensor's.",
    )


Arc = tuple[float, float]
"""Start and width of an interval of azimuths in radians."""

GATHER_AUTO = -1.0
"""Value of `lidar.gather` for which the pieces of a sweep are detected."""
_SAMPLED_POINTS = 1024
"""Points of a message that are sampled."""
_MIN_RETURNS = 8
"""Fewest returns in a message to determine its azimuths."""
_MAX_TURN_NS = NANOSECONDS
"""Longest turn."""
_MAX_PIECES = 4000
"""Most pieces of a turn; a packet of a spinning LiDAR covers a fifth of a degree."""
_MAX_MISSING_PIECES = 8
"""Consecutive pieces that may be missing."""
_MIN_OVERLAP = 0.5
"""Overlap, as a share of the narrower arc, above which two arcs count as the same azimuths."""
_MIN_SWEEP_RAD = math.radians(90)
"""Smallest total width of the pieces of a sweep."""


@dataclass(frozen=True, slots=True)
class _SweepPiece:
    stamp: int
    points: npt.NDArray[np.void]
    arc: Arc | None


class SweepGatherer:
    """Joins the messages of one LiDAR, in order, into sweeps."""

    def __init__(self, seconds: float = GATHER_AUTO) -> None:
        """Start without messages.

        Args:
            seconds: duration of the messages of a sweep; 0 to leave messages unchanged, negative to detect it.
        """
        self._seconds = seconds
        self._reset()

    def _reset(self) -> None:
        self._messages: deque[_SweepPiece] = deque()
        self._frame_id, self._period, self._repeated = "", 0, 0

    def gather(self, frame: SensorFrame) -> SensorFrame:
        """Add a message.

        Returns:
            The frame itself, or the frame with the earlier pieces of its turn, newest first, and the middle of the turn
            as its time. Frames with equal stamps get times one nanosecond apart.
        """
        cloud = frame.payload
        if self._seconds == 0 or not isinstance(cloud, PointCloud):
            return frame
        last = self._messages[-1].stamp if self._messages else frame.stamp
        if frame.frame_id != self._frame_id or not 0 <= frame.stamp - last <= _MAX_TURN_NS:
            self._reset()
            self._frame_id = frame.frame_id
        arc = _arc(cloud.points) if self._seconds < 0 else None
        message = _SweepPiece(frame.stamp, cloud.points, arc)
        if self._seconds > 0:
            self._drop_before(frame.stamp - round(self._seconds * NANOSECONDS))
        else:
            self._drop_replaced(message)
        self._repeated = self._repeated + 1 if self._messages and frame.stamp == last else 0
        complete = self._seconds > 0 or self._is_sweep(arc)
        earlier = tuple(Piece(m.points, frame.stamp - m.stamp) for m in reversed(self._messages)) if complete else ()
        self._messages.append(message)
        if not earlier:
            return frame
        middle = earlier[-1].lag // 2
        return replace(frame, payload=replace(cloud, earlier=earlier), lag=middle - self._repeated)

    def _drop_replaced(self, message: _SweepPiece) -> None:
        """Drop the messages that a new one replaces."""
        self._drop_before(message.stamp - (self._period * 5 // 4 if self._period else _MAX_TURN_NS))
        if message.arc is None:
            return
        before = next((m.arc for m in reversed(self._messages) if m.arc is not None), None)
        if before is not None and _overlap(before, message.arc) > _MIN_OVERLAP:
            self._messages.clear()  # the message is a whole sweep
            self._period = 0
            return
        replaced = 0
        for index in range(min(len(self._messages), _MAX_MISSING_PIECES)):
            old = self._messages[index]
            if old.arc is not None and _overlap(old.arc, message.arc) > _MIN_OVERLAP:
                self._period, replaced = message.stamp - old.stamp, index + 1
        for _ in range(replaced):
            self._messages.popleft()

    def _is_sweep(self, arc: Arc | None) -> bool:
        """Whether the kept messages and the new one form a sweep: the period is known and the arcs are wide enough."""
        widths = [m.arc[1] for m in self._messages if m.arc is not None]
        return self._period > 0 and sum(widths) + (arc[1] if arc else 0.0) >= _MIN_SWEEP_RAD

    def _drop_before(self, stamp: int) -> None:
        while self._messages and (self._messages[0].stamp <= stamp or len(self._messages) >= _MAX_PIECES):
            self._messages.popleft()


def _arc(points: npt.NDArray[np.void]) -> Arc | None:
    """The azimuths of a message: all but the widest gap between its returns; None with too few returns."""
    some = points
    for axis, size in enumerate(points.shape):
        step = max(
            1, math.ceil(size / (_SAMPLED_POINTS if points.ndim == 1 else math.isqrt(_SAMPLED_POINTS) * (1 + 3 * axis)))
        )
        some = some[(slice(None),) * axis + (slice(None, None, step),)]
    with np.errstate(invalid="ignore"):  # signaling NaNs
        x, y = (some[axis].ravel().astype(np.float64) for axis in "xy")
    seen = np.isfinite(x) & np.isfinite(y) & ((x != 0) | (y != 0))
    if seen.sum() < _MIN_RETURNS:
        return None
    azimuths = np.sort(np.arctan2(y[seen], x[seen]))
    gaps = np.diff(azimuths, append=azimuths[0] + 2 * np.pi)
    widest = int(gaps.argmax())
    return float(azimuths[(widest + 1) % len(azimuths)]), float(2 * np.pi - gaps[widest])


def _overlap(a: Arc, b: Arc) -> float:
    """Overlap of two arcs as a share of the narrower one."""
    apart = (b[0] - a[0]) % (2 * math.pi)
    common = max(0.0, min(a[1] - apart, b[1])) + max(0.0, min(b[1] - (2 * math.pi - apart), a[1]))
    return min(common / max(min(a[1], b[1]), 1e-6), 1.0)
