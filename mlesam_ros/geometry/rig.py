# SPDX-License-Identifier: Apache-2.0
"""The rig: camera models, extrinsics, the calibration file, and the motion between the timestamps of two sensors.

The node fills the rig from CameraInfo and TF. Without them, and offline, a calibration file describes it:

    camera: camera_optical_frame          # the frame of the masks; one of the cameras below
    cameras:                              # by TF frame
      camera_optical_frame:
        width: 1920
        height: 1200
        model: plumb_bob                  # pinhole, plumb_bob, rational_polynomial, equidistant (or fisheye)
        K: [2152.8, 2155.5, 971.3, 605.9] # fx, fy, cx, cy; or the 3x3 matrix, or its 9 numbers
        D: [-0.1192, 0.162, 0.00073985, 0.0014]
        picture: [1920, 1080]             # size of the images, only if it differs from the calibrated size; then also
        fit: crop_center                  # their relation: rescale, crop_top, crop_center or crop_bottom
    transforms:                           # pose of the child in the parent, as in TF
      - parent: base_link
        child: lidar
        translation: [0.0, 0.0, 1.8]      # meters
        quaternion: [0.0, 0.0, 0.0, 1.0]  # x, y, z, w; or rpy: [r, p, y] in radians about fixed axes, as in URDF;
                                          # or rotation: 3x3; or, including the translation, matrix: 3x4 or 4x4
    fixed_frame: odom                     # only if the odometry frame is not called odom or map
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError, ConfigError, Problem
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform, TransformTree
from mlesam_ros.strict_yaml import read_yaml, short_repr
from mlesam_ros.types import CAMERA, NANOSECONDS, FrameSet, Modality, SensorFrame

Stamps = npt.NDArray[np.int64]

_MAX_KNOTS = 33
_MAX_KNOT_SPACING_NS = NANOSECONDS // 100
"""Largest distance of knots in nanoseconds, the usual period of odometry."""
_MAX_KNOT_ROTATION_RAD = 0.009
"""Largest rotation between knots in radians: the chord of a point 100 m away deviates from its arc by 1 mm."""
_MAX_SPEED, _SPEED_MARGIN_M = 100.0, 0.3
"""Speed in m/s above which odometry has jumped, and the noise of its positions in meters."""


Points = npt.NDArray[np.floating]
"""(N, 3) meters."""


class PointTransform(Protocol):
    """Interface for moving a sensor's points into the label camera's frame: `Transform` or `PiecewiseMotion`."""

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Move (N, 3) meters in the sensor's frame to (N, 3) meters of the same dtype in the camera's."""
        ...


class PiecewiseMotion:
    """A transform per point, by its time of measurement.

    Between two knots, the position of a point is interpolated linearly between its positions by both transforms.
    """

    def __init__(self, times: Stamps, start: int, end: int, knots: list[Transform]) -> None:
        """Precompute the interpolation.

        Args:
            times: (N,) nanoseconds, one per point, from start to end.
            start: nanoseconds of the first knot.
            end: nanoseconds of the last knot.
            knots: target_from_source at equidistant times; at least two.
        """
        position = (times - start) * ((len(knots) - 1) / (end - start))
        segment = np.clip(position, 0, len(knots) - 2).astype(np.uint8)
        fraction = (position - segment).astype(np.float32)
        # Most sweeps are ordered by time. Others are sorted here, and `apply` restores their order.
        self._order = None
        if (segment[1:] < segment[:-1]).any():
            self._order = np.argsort(segment, kind="stable")
            segment, fraction = segment[self._order], fraction[self._order]
        self._bounds = np.searchsorted(segment, np.arange(len(knots)))
        self._fraction = fraction
        table = np.stack([np.column_stack([knot.rotation, knot.translation]) for knot in knots])  # (K, 3, 4)
        self._table = np.concatenate([table[:-1], table[1:] - table[:-1]], axis=2)  # (K - 1, 3, 8)
        self._applied: tuple[Points, Points] | None = None

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """See `PointTransform`. The result for a read-only array is computed once, and read-only.

        Args:
            points: (N, 3) meters, one row per time.
        """
        if points.flags.writeable:
            return self._apply(points)
        if self._applied is None or self._applied[0] is not points:
            moved = self._apply(points)
            moved.flags.writeable = False
            self._applied = points, moved
        return self._applied[1]

    def _apply(self, points: Points) -> Points:
        # (x, y, z, 1) and its product with the fraction: one matrix per segment interpolates between both ends.
        terms = np.empty((8, len(points)), points.dtype)  # contiguous rows are several times faster
        terms[:3], terms[3] = points.T if self._order is None else points.T[:, self._order], 1
        np.multiply(terms[:4], self._fraction, out=terms[4:])
        moved = np.empty((3, len(points)), points.dtype)
        for table, start, stop in zip(self._table.astype(points.dtype), self._bounds, self._bounds[1:], strict=False):
            np.matmul(table, terms[:, start:stop], out=moved[:, start:stop])
        if self._order is not None:
            moved[:, self._order] = moved.copy()
        return moved.T


@dataclass(frozen=True, eq=False)
class ComposedTransform:
    """Two transforms in succession.

    Attributes:
        first: from the points' frame.
        second: from the frame that `first` leads to.
    """

    first: PointTransform
    second: PointTransform

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """See `PointTransform`."""
        return self.second.apply(self.first.apply(points))


def sensor_motion(rig: Rig, frame_id: str, times: Stamps, reference: int) -> PointTransform:
    """Transform from points measured at different times to the label camera's frame at a reference time.

    The robot's motion is compensated through a fixed frame (REP 105: odom, map). Moving objects are not compensated.

    Args:
        rig: the rig, with the robot's motion in its tree.
        frame_id: the sensor's frame.
        times: (N,) nanoseconds, one per point; a single one is enough if all are equal.
        reference: time of the label camera's frame, nanoseconds.

    Raises:
        CalibrationError: no fixed frame is known, the tree does not cover the times, or odometry jumps.
    """
    fixed = rig.fixed_frame_or_default
    if fixed is None:
        name = f"{rig.fixed_frame!r} is not" if rig.fixed_frame else "neither odom nor map is"
        raise CalibrationError(
            f"{name} known as a frame that {rig.camera_frame!r} moves against.",
            "Publish odometry on /tf, or name the fixed_frame in the calibration file.",
        )
    camera_from_fixed = rig.tree.lookup(rig.camera_frame, fixed, reference)

    def at(stamp: int) -> Transform:
        return camera_from_fixed @ rig.tree.lookup(fixed, frame_id, stamp)

    start, end = int(times.min()), int(times.max())
    first, last = at(start), at(end)
    mounted = rig.tree.lookup(rig.camera_frame, frame_id, reference)
    for stamp, moved in ((start, first), (end, last)):
        _check_speed(fixed, abs(reference - stamp) / NANOSECONDS, moved, mounted)
    if start == end:
        return first
    rotations = _angle(first, last) / _MAX_KNOT_ROTATION_RAD
    pieces = min(max(math.ceil((end - start) / _MAX_KNOT_SPACING_NS), math.ceil(rotations)), _MAX_KNOTS - 1)
    between = [at(start + (end - start) * piece // pieces) for piece in range(1, pieces)]
    return PiecewiseMotion(times, start, end, [first, *between, last])


def _check_speed(fixed: str, seconds: float, moved: Transform, mounted: Transform) -> None:
    """Refuse a motion that no robot makes, such as across a reset of odometry.

    Raises:
        CalibrationError: it is faster than `_MAX_SPEED`.
    """
    meters = float(np.linalg.norm(moved.translation - mounted.translation))
    if meters > _MAX_SPEED * seconds + _SPEED_MARGIN_M:
        raise CalibrationError(
            f"{fixed!r} jumps by {meters:.1f} m in {1e3 * seconds:.0f} ms; robots move at most {_MAX_SPEED:g} m/s.",
            "Check the source of odometry.",
        )


def _angle(a: Transform, b: Transform) -> float:
    """Radians between two rotations."""
    cosine = (np.einsum("ij,ij", a.rotation, b.rotation) - 1) / 2
    return float(np.arccos(np.clip(cosine, -1, 1)))


T = TypeVar("T")
Floats = npt.NDArray[np.float64]

KEYS = ("camera", "cameras", "transforms", "fixed_frame")
CAMERA_KEYS = ("width", "height", "model", "K", "D", "picture", "fit")
TRANSFORM_KEYS = ("parent", "child", "translation", "quaternion", "rpy", "rotation", "matrix")

_FIXED_FRAMES = ("odom", "map")
"""Continuous frame first: the robot's pose in map jumps at a relocalization."""


@dataclass(frozen=True, eq=False)
class Lens:
    """Optical frame and camera model of a stream, from its CameraInfo.

    Attributes:
        frame_id: the optical frame; may be empty.
        model: the camera model of the stream's images.
    """

    frame_id: str
    model: CameraModel


@dataclass
class Rig:
    """Camera models and extrinsics of the sensors. Messages update it in place; it is never replaced while in use.

    Attributes:
        camera_frame: the optical frame of the label camera, in which masks are expressed.
        models: TF frame → its camera model, from a calibration file. The lens of a stream takes precedence.
        tree: the transforms between the frames.
        fixed_frame: the frame in which the world is static while the robot moves; None to find it by name.
        lenses: modality → the newest lens of its stream. Two streams may share a frame and have different lenses, such
            as an image and depth registered to it. A new lens replaces the dictionary instead of changing it.
        view: the modality of the label camera's stream.
    """

    camera_frame: str
    models: dict[str, CameraModel] = field(default_factory=dict)
    tree: TransformTree = field(default_factory=TransformTree)
    fixed_frame: str | None = None
    lenses: dict[Modality, Lens] = field(default_factory=dict)
    view: Modality = CAMERA

    def __post_init__(self) -> None:
        """Register the fixed frame as an anchor of the tree, so that it never counts as rigidly mounted."""
        if self.fixed_frame:
            self.tree.anchors.add(self.fixed_frame)

    @property
    def camera(self) -> CameraModel:
        """Model of the label camera.

        Raises:
            CalibrationError: the model is not known yet.
        """
        lens = self.lenses.get(self.view)
        return self.model(self.camera_frame) if lens is None else lens.model

    @property
    def has_camera(self) -> bool:
        """Whether the model of the label camera is known."""
        return self.view in self.lenses or self.camera_frame in self.models

    @property
    def cameras(self) -> dict[str, CameraModel]:
        """TF frame → camera model; the label camera's if several streams share its frame."""
        found = self.models | {lens.frame_id: lens.model for lens in self.lenses.values() if lens.frame_id}
        return found | ({self.camera_frame: self.camera} if self.has_camera else {})

    def of_set(self, frame_set: FrameSet) -> Rig:
        """Rig for one set, with the lens of the set's image as label camera, independent of later CameraInfo."""
        lenses, frame = self.lenses, frame_set.frames.get(self.view)
        lens = lenses.get(self.view) if frame is None or frame.lens is None else frame.lens
        if not isinstance(lens, Lens):
            return replace(self)
        camera_frame = lens.frame_id if self.view == CAMERA else self.camera_frame
        return replace(self, camera_frame=camera_frame, lenses=lenses | {self.view: lens})

    def own_model(self, frame: SensorFrame) -> CameraModel | None:
        """Camera model of a frame's stream from its CameraInfo; None without CameraInfo."""
        lens = frame.lens or self.lenses.get(frame.modality)
        return lens.model if isinstance(lens, Lens) else None

    def model_of(self, frame: SensorFrame) -> CameraModel:
        """Camera model of a frame, from its stream's CameraInfo or else from the calibration file by its frame_id.

        Raises:
            CalibrationError: the model is not known yet.
        """
        return self.own_model(frame) or self.model(frame.frame_id)

    def model(self, frame_id: str) -> CameraModel:
        """Camera model of an optical frame, from the calibration file.

        Raises:
            CalibrationError: the calibration file has no such frame.
        """
        model = self.models.get(frame_id)
        if model is None:
            known = ", ".join(self.cameras) or "none"
            raise CalibrationError(
                f"no calibration of camera frame {frame_id!r} is known; calibrated are {known}.",
                "Publish its CameraInfo or give a calibration file.",
            )
        return model

    def extrinsic(self, frame_id: str, stamp: int | None = None) -> Transform:
        """camera_from_sensor: from a sensor's frame to the label camera's optical frame.

        Args:
            frame_id: the sensor's frame.
            stamp: nanoseconds; None for the newest transform. Rigid mountings ignore it.

        Raises:
            CalibrationError: the tree does not connect the two frames at that time.
        """
        return self.tree.lookup(self.camera_frame, frame_id, stamp)

    @property
    def fixed_frame_or_default(self) -> str | None:
        """`fixed_frame` if set, else odom or map (REP 105), if the label camera moves against it; None otherwise."""
        names = (self.fixed_frame,) if self.fixed_frame else _FIXED_FRAMES
        return next((name for name in names if self.tree.is_dynamic(self.camera_frame, name)), None)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Rig:
        """Create from the layout in this module's docstring.

        Raises:
            ConfigError: a key is unknown or missing.
            CalibrationError: a value is invalid.
        """
        _check_keys(fields, KEYS, "calibration", ("camera", "cameras"))
        if not isinstance(fields["cameras"], Mapping) or not fields["cameras"]:
            raise ConfigError("cameras must map at least one TF frame to width, height, model, K and D.")
        fixed = fields.get("fixed_frame")
        rig = cls(str(fields["camera"]), fixed_frame=None if fixed is None else str(fixed))
        for frame, camera in fields["cameras"].items():
            _check_keys(camera, CAMERA_KEYS, f"camera {frame}", ("width", "height", "K"))
            rig.models[str(frame)] = _with_context(f"camera {frame}", CameraModel.from_dict, camera)
        if rig.camera_frame not in rig.models:
            raise ConfigError(f"camera: {rig.camera_frame} is not one of the cameras {', '.join(rig.models)}.")
        transforms = () if (given := fields.get("transforms")) is None else given
        if not isinstance(transforms, list | tuple):
            raise ConfigError("transforms must be a list of {parent, child, translation, quaternion}.")
        for entry in transforms:
            _check_keys(entry, TRANSFORM_KEYS, "transform", ("parent", "child"))
            name = f"transform from {entry['child']} to {entry['parent']}"
            rig.tree.set(str(entry["parent"]), str(entry["child"]), _with_context(name, transform_from, entry))
        return rig

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types for `from_dict`: the cameras, the static transforms, and `fixed_frame` if set."""
        transforms = [
            {"parent": p, "child": c, "translation": t.translation.tolist(), "quaternion": t.to_quaternion().tolist()}
            for p, c, t in self.tree.static_transforms()
        ]
        cameras = {frame: model.to_dict() for frame, model in self.cameras.items()}
        fields = {"camera": self.camera_frame, "cameras": cameras, "transforms": transforms}
        return fields | ({"fixed_frame": self.fixed_frame} if self.fixed_frame else {})


def load_rig(path: str | Path) -> Rig:
    """Read a calibration file.

    Raises:
        ConfigError: the file does not exist or is not YAML, or a key is unknown, missing or given twice.
        CalibrationError: a value is invalid.
    """
    fields = read_yaml(path)
    return _with_context(str(path), Rig.from_dict, fields)


def _with_context(name: str, make: Callable[[Any], T], fields: Any) -> T:
    """Call `make` on the fields and prefix its error message with a name."""
    try:
        return make(fields)
    except (CalibrationError, ConfigError) as error:
        raise type(error)(f"{name}: {error.message}", error.remedy) from error


def key_faults(fields: Any, accepted: tuple[str, ...], what: str, required: tuple[str, ...]) -> Iterator[Problem]:
    """Check the keys of a section of the file; yield one problem per fault."""
    if not isinstance(fields, Mapping):
        yield Problem(f"{what} is {short_repr(fields)}; it must be a mapping with the keys {', '.join(accepted)}.")
        return
    for key in fields:
        if key not in accepted:
            near = difflib.get_close_matches(str(key), accepted, 1)
            message = f"{what} has the unknown key {short_repr(key)}"
            if near:
                yield Problem(f"{message}.", f"Did you mean {near[0]}?")
            else:
                yield Problem(f"{message}; accepted are {', '.join(accepted)}.")
    missing = [key for key in required if key not in fields]
    if missing:
        yield Problem(f"{what} lacks {' and '.join(missing)}; its keys are {', '.join(accepted)}.")


def _check_keys(fields: Any, accepted: tuple[str, ...], what: str, required: tuple[str, ...]) -> None:
    for fault in key_faults(fields, accepted, what, required):
        raise ConfigError(fault.message, fault.remedy)


def transform_from(entry: Mapping[str, Any]) -> Transform:
    """parent_from_child of an entry of `transforms`.

    Raises:
        ConfigError: the combination of keys is invalid.
        CalibrationError: a value is invalid.
    """
    forms = [key for key in ("quaternion", "rpy", "rotation", "matrix") if key in entry]
    if len(forms) != 1:
        given = " and ".join(forms) or "none"
        raise ConfigError(f"exactly one of quaternion, rpy, rotation and matrix must be given, not {given}.")
    form = forms[0]
    if ("translation" in entry) == (form == "matrix"):
        raise ConfigError("translation is needed beside quaternion, rpy and rotation, and part of matrix already.")
    numbers = _numbers(entry[form], form)
    if form == "matrix":
        return _from_matrix(numbers)
    translation = _numbers(entry["translation"], "translation")
    if form == "quaternion":
        return Transform.from_quaternion(translation, numbers)
    if form == "rpy":
        return Transform(_from_rpy(numbers), translation)
    return Transform(numbers.reshape(3, 3) if numbers.size == 9 else numbers, translation)


def _from_matrix(numbers: Floats) -> Transform:
    if numbers.size not in (12, 16):
        raise CalibrationError(f"matrix has {numbers.size} numbers; it must be 3x4 or 4x4 row by row.")
    rows = numbers.reshape(-1, 4)
    if len(rows) == 4 and not np.allclose(rows[3], (0, 0, 0, 1)):
        raise CalibrationError(f"the last row of matrix is {rows[3].tolist()}; a rigid transform has 0, 0, 0, 1 there.")
    return Transform(rows[:3, :3], rows[:3, 3])


def _from_rpy(rpy: Floats) -> Floats:
    """(3, 3) rotation about the fixed x, then y, then z axis, as URDF defines `rpy`."""
    if rpy.shape != (3,):
        raise CalibrationError(f"rpy has {rpy.size} numbers; it must be roll, pitch, yaw in radians.")
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    roll = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return yaw @ pitch @ roll


def _numbers(value: Any, key: str) -> Floats:
    try:
        numbers = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{key} is {short_repr(value)}; it must be numbers.") from error
    if not np.isfinite(numbers).all():
        raise CalibrationError(f"{key} is {short_repr(value)}; its numbers must be finite.")
    return numbers
