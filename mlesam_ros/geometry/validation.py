# SPDX-License-Identifier: Apache-2.0
"""Validation of camera models, mountings and calibration files; reports every fault, not only the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ERROR, NOTE, WARNING, CalibrationError, ConfigError, Finding, Problem
from mlesam_ros.geometry.camera import CameraModel, camera_matrix, image_size_faults, intrinsics_faults
from mlesam_ros.geometry.distortion import make_distortion
from mlesam_ros.geometry.rig import CAMERA_KEYS, KEYS, TRANSFORM_KEYS, key_faults, transform_from
from mlesam_ros.geometry.transforms import TransformTree
from mlesam_ros.strict_yaml import short_repr

Floats = npt.NDArray[np.float64]

_FORWARD_CAMERA = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""body_from_optical of a forward-facing camera."""
_SUSPECT_DEG, _SENSIBLE_DEG = 20.0, 45.0
"""Degrees: a rotation within the first of a common mistake is suspect, unless within the second of a sensible one."""
_MAX_DISTANCE_M = 20.0
"""Largest plausible distance from the camera in meters; translations in millimeters nearly always exceed it."""


def mounting_findings(camera: str, models: Mapping[str, CameraModel], tree: TransformTree) -> Iterator[Finding]:
    """Find implausible mountings of the sensors.

    Args:
        camera: frame of the label camera.
        models: frame → its camera model, the valid ones.
        tree: the valid transforms.
    """
    sizes = {f"{frame} {model.width}x{model.height}": (model.width, model.height) for frame, model in models.items()}
    if len(set(sizes.values())) > 1:
        yield Finding(NOTE, "cameras", f"they have different sizes: {', '.join(sizes)}.")
    frames = tree.frames
    if not frames:
        yield Finding(WARNING, "transforms", "there are none: only the camera's own images can be used.", "Add them.")
        return
    if camera in frames or camera in models:
        yield from _disconnected(camera, [*frames, *(frame for frame in models if frame not in frames)], tree)
    for frame in models:
        yield from _rotated(frame, [other for other in frames if other not in models], tree)


def _disconnected(camera: str, frames: list[str], tree: TransformTree) -> Iterator[Finding]:
    """Frames that are not connected to the label camera, or implausibly far from it."""
    for frame in frames:
        try:
            offset = tree.lookup(camera, frame).translation
        except CalibrationError:
            message = f"it is not connected to {camera}: its measurements cannot be used."
            yield Finding(ERROR, f"frame {frame}", message, "Add the missing transform between the two.")
            continue
        distance = float(np.linalg.norm(offset))
        if distance > _MAX_DISTANCE_M:
            message = f"it is {distance:.1f} m from {camera}."
            yield Finding(WARNING, f"frame {frame}", message, "Check that translations are in meters, not millimeters.")


def _rotated(camera: str, bodies: list[str], tree: TransformTree) -> Iterator[Finding]:
    """Report a camera rotated against a body or LiDAR frame as by a common mistake; only for the first such frame."""
    for body in bodies:
        if "optical" in body:
            continue
        try:
            rotation = tree.lookup(body, camera).rotation
        except CalibrationError:
            continue
        if _angle_error(rotation, _FORWARD_CAMERA) < _SENSIBLE_DEG:
            continue
        if _angle_error(rotation, np.eye(3)) < _SUSPECT_DEG:
            yield Finding(
                WARNING,
                f"camera {camera}",
                f"it has the orientation of {body}, with z up: an optical frame has z forward, x right, y down.",
                "Rotate it; a camera that faces forward has the quaternion [-0.5, 0.5, -0.5, 0.5].",
            )
            return
        if _angle_error(rotation.T, _FORWARD_CAMERA) < _SUSPECT_DEG:
            yield Finding(
                WARNING,
                f"camera {camera}",
                f"its transform to {body} seems to be inverted: as given, the camera lies on its side.",
                f"Check that it takes points from child to parent; {body}'s z axis should be up in the image.",
            )
            return


def _angle_error(rotation: Floats, other: Floats) -> float:
    """Smallest angle in degrees between two rotations, over all rotations of one about the z axis of its target frame.

    The trace of Rz(a) M is (m00 + m11) cos a + (m10 - m01) sin a + m22, with the maximum where both terms are in phase.
    """
    m = other @ rotation.T
    trace = np.hypot(m[0, 0] + m[1, 1], m[1, 0] - m[0, 1]) + m[2, 2]
    return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0))))


_MAX_ASPECT_DEVIATION = 0.1  # largest relative difference of fx and fy for nearly all sensors
_MAX_CENTER_OFFSET = 0.15  # largest distance of the principal point from the center, relative to the image side


def validate_rig(fields: Any) -> list[Finding]:
    """Find all faults of a calibration file.

    Args:
        fields: content of a file with the layout in `mlesam_ros.geometry.rig`, as returned by `read_yaml`.

    Returns:
        Errors, which prevent loading, warnings and notes, in the order of the file.
    """
    faults = key_faults(fields, KEYS, "calibration", ("camera", "cameras"))
    findings = [Finding.from_problem(ERROR, "file", fault) for fault in faults]
    if not isinstance(fields, Mapping):
        return findings
    models: dict[str, CameraModel] = {}
    cameras = fields.get("cameras")
    if isinstance(cameras, Mapping) and cameras:
        for frame, camera in cameras.items():
            findings += _camera_findings(str(frame), camera, models)
        if str(fields.get("camera")) not in map(str, cameras):
            names = ", ".join(map(str, cameras))
            message = f"camera: {short_repr(fields.get('camera'))} is not one of the cameras."
            findings.append(Finding(ERROR, "file", message, f"Name one of {names}."))
    elif "cameras" in fields:
        findings.append(Finding(ERROR, "file", "cameras has no camera.", "Describe at least the label camera."))
    tree = TransformTree()
    findings += _transform_findings(fields.get("transforms"), tree)
    findings += mounting_findings(str(fields.get("camera")), models, tree)
    return findings


def image_findings(fields: Any, frame: str | None, size: tuple[int, int], name: str) -> list[Finding]:
    """Check that an image has the size of a camera.

    Args:
        fields: as for `validate_rig`.
        frame: frame of the camera; None for the label camera.
        size: (height, width) of the image.
        name: name of the image.
    """
    frame = frame or str(fields["camera"])
    try:
        CameraModel.from_dict(fields["cameras"][frame]).check(*size, name)
    except CalibrationError as error:
        return [Finding.from_problem(ERROR, f"camera {frame}", error.problem)]
    except (KeyError, TypeError):
        return [Finding(ERROR, name, f"there is no camera {frame} to compare it with.", "Name one as FRAME=FILE.")]
    return []


def _camera_findings(frame: str, fields: Any, models: dict[str, CameraModel]) -> Iterator[Finding]:
    subject = f"camera {frame}"
    faults = [*key_faults(fields, CAMERA_KEYS, "it", ("width", "height", "K"))]
    if isinstance(fields, Mapping):
        faults += _value_faults(fields)
        if not faults:
            try:
                models[frame] = CameraModel.from_dict(fields)
            except CalibrationError as error:
                faults.append(error.problem)
    yield from (Finding.from_problem(ERROR, subject, fault) for fault in faults)
    if frame in models:
        yield from (Finding(severity, subject, *rest) for severity, *rest in _implausible(fields, models[frame]))


def _value_faults(fields: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the numbers of a camera; yield one problem per fault."""
    sides = [fields[key] for key in ("width", "height") if key in fields]
    whole = [isinstance(side, int) and side > 0 for side in sides]
    if not all(whole):
        yield Problem(f"width and height are {' and '.join(map(short_repr, sides))}; they must be whole pixels.")
    if "K" in fields:
        try:
            k = camera_matrix(fields["K"])
        except CalibrationError as error:
            yield error.problem
        else:
            faults = [*intrinsics_faults(k)]
            yield from faults
            if not faults and len(sides) == 2 and all(whole):
                yield from image_size_faults(k, *sides)
    try:
        d = np.asarray(fields.get("D") or (), np.float64)
        make_distortion(str(fields.get("model", "pinhole" if not d.size else "")), d)
    except (TypeError, ValueError) as error:  # a CalibrationError is a ValueError
        foreign = Problem(f"D is {short_repr(fields.get('D'))}; it must be a list of numbers.")
        yield error.problem if isinstance(error, CalibrationError) else foreign


def _implausible(fields: Mapping[str, Any], camera: CameraModel) -> Iterator[tuple[str, str, str]]:
    """(severity, message, remedy) of values that load but are implausible."""
    k, width, height = camera_matrix(fields["K"]), int(fields["width"]), int(fields["height"])
    ratio = k[0, 0] / k[1, 1]
    if abs(ratio - 1) > _MAX_ASPECT_DEVIATION:
        yield (
            WARNING,
            f"fx is {k[0, 0]:g} and fy {k[1, 1]:g}: pixels {1 / ratio:.2f} times as wide as high.",
            "Calibrate again, unless the images are stretched by that factor.",
        )
    for axis, side, name in ((0, width, "column"), (1, height, "row")):
        off = k[axis, 2] - (side - 1) / 2
        if abs(off) > _MAX_CENTER_OFFSET * side:
            yield (
                WARNING,
                f"the principal point's {name} is {k[axis, 2]:g}, {abs(off):.0f} pixels from the middle of {side}.",
                "Check that K is of this size, not of a larger image or a part of it.",
            )
    yield from _lens_findings(camera)
    if "fit" in fields:
        yield NOTE, f"{fields['fit']} takes it from {width}x{height} to {camera.width}x{camera.height} pixels.", ""
        stretch = camera.width * height / (width * camera.height)
        if fields["fit"] == "rescale" and abs(stretch - 1) > 0.01:
            yield WARNING, f"rescale stretches the images by {stretch:.3f}.", "Crop, unless they are stretched."


def _lens_findings(camera: CameraModel) -> Iterator[tuple[str, str, str]]:
    rays = camera.scaled(min(camera.height, 180), min(camera.width, 240)).rays.astype(np.float64)
    seen = np.isfinite(rays[..., 0])
    angles = np.degrees(np.arctan(np.hypot(rays[..., 0], rays[..., 1])))
    lost = 1 - seen.mean()
    if lost > 0:
        reach = np.degrees(np.arctan(camera.distortion.max_radius))
        yield (
            WARNING,
            f"the {camera.model} lens model folds back at {reach:.1f} degrees off its axis: {100 * lost:.1f} % of the "
            "image has no ray, and no point is projected there.",
            "Calibrate again with targets up to the corners, unless the image is black there.",
        )
    if seen.any():
        widest = angles[seen].max()
        yield (
            NOTE,
            f"{camera.width}x{camera.height}, {camera.model}, field of view of {widest:.1f} degrees off its axis.",
            "",
        )


def _transform_findings(entries: Any, tree: TransformTree) -> Iterator[Finding]:
    if entries is not None and not isinstance(entries, list | tuple):
        yield Finding(
            ERROR, "transforms", f"they are {short_repr(entries)}.", "Make them a list of parent, child and pose."
        )
        return
    parents: dict[str, str] = {}
    for number, entry in enumerate(entries or (), 1):
        faults = [*key_faults(entry, TRANSFORM_KEYS, "it", ("parent", "child"))]
        named = isinstance(entry, Mapping) and "parent" in entry and "child" in entry
        subject = f"transform from {entry['child']} to {entry['parent']}" if named else f"transform {number}"
        if named:
            parent, child = str(entry["parent"]).lstrip("/"), str(entry["child"]).lstrip("/")
            try:
                tree.set(parent, child, transform_from(entry))
            except (CalibrationError, ConfigError) as error:
                faults.append(error.problem)
            if child in parents:
                yield Finding(
                    WARNING,
                    subject,
                    f"{child} already has the parent {parents[child]}.",
                    "Keep one of the two; a frame has one parent.",
                )
            parents[child] = parent
            yield from _quaternion_findings(subject, entry)
        yield from (Finding.from_problem(ERROR, subject, fault) for fault in faults)


def _quaternion_findings(subject: str, entry: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        with np.errstate(over="ignore"):
            length = float(np.linalg.norm(np.asarray(entry.get("quaternion", (1,)), np.float64)))
    except (TypeError, ValueError):
        return  # reported as an error elsewhere
    if 1e-3 < abs(length - 1) <= 0.01:
        yield Finding(
            WARNING,
            subject,
            f"the quaternion's length is {length:.4f}; it is normalized.",
            "Write it with more digits.",
        )
