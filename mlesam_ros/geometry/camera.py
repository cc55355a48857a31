# SPDX-License-Identifier: Apache-2.0
"""Camera model: projection of points to pixels, the ray of each pixel, and validation of intrinsics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError, Problem
from mlesam_ros.geometry.distortion import Distortion, canonical_model, indices, make_distortion, to_float64
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.strict_yaml import short_repr

Floats = npt.NDArray[np.float64]

_GRID_STEP_PX = 8  # pixels between two nodes of the initial grid
_MAX_ITERATIONS = 4
_MAX_RESIDUAL_PX = 2e-4
"""Largest reprojection error of a pixel's ray in pixels."""


def all_rays(width: int, height: int, intrinsics: Floats, lens: Distortion) -> npt.NDArray[np.float32]:
    """x/z and y/z of the ray of each pixel.

    Args:
        width: pixels.
        height: pixels.
        intrinsics: (3, 3) camera matrix.
        lens: distortion model.

    Returns:
        (height, width, 2) float32; NaN for pixels that no ray inside the valid radius of the lens reaches.
    """
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    u, v = np.arange(width), np.arange(height)
    node_u, node_v = (np.arange(0, size + _GRID_STEP_PX, _GRID_STEP_PX) for size in (width, height))
    grid_x, grid_y = np.meshgrid((node_u - cx) / fx, (node_v - cy) / fy)
    nodes = np.stack(lens.invert(grid_x, grid_y))  # (2, rows, columns)
    cell, along = np.divmod(u, _GRID_STEP_PX)
    slope = (np.diff(nodes, axis=2) / _GRID_STEP_PX)[:, :, cell]
    lines = nodes[:, :, cell] + slope * along  # (2, rows, width)
    rays = np.empty((height, width, 2), np.float32)
    unsolved = np.empty((height, width), np.bool_)
    for row, top in enumerate(range(0, height, _GRID_STEP_PX)):  # one band at a time fits into the CPU cache
        band = slice(top, min(top + _GRID_STEP_PX, height))
        fall = (lines[:, row + 1] - lines[:, row]) / _GRID_STEP_PX
        xy = lines[:, None, row] + fall[:, None] * (v[band] - top)[:, None]
        for step in range(_MAX_ITERATIONS + 1):
            distorted_x, distorted_y = lens.apply(*xy)
            off_u, off_v = u - (fx * distorted_x + cx), v[band, None] - (fy * distorted_y + cy)
            off = np.maximum(np.abs(off_u), np.abs(off_v))
            if step == _MAX_ITERATIONS or not (off > _MAX_RESIDUAL_PX).any():
                break
            xy[0] += slope[0, row] * off_u + fall[0] * off_v
            xy[1] += slope[1, row] * off_u + fall[1] * off_v
        rays[band, :, 0], rays[band, :, 1] = xy
        # A step may end beyond the valid radius, where the distortion maps another ray to the same pixel.
        unsolved[band] = ~((off <= _MAX_RESIDUAL_PX) & (xy[0] * xy[0] + xy[1] * xy[1] <= lens.max_radius**2))
    rows, columns = np.nonzero(unsolved)
    rays[rows, columns] = np.stack(lens.invert((columns - cx) / fx, (rows - cy) / fy), axis=-1)
    return rays


def camera_matrix(value: Any) -> npt.NDArray[np.float64]:
    """(3, 3) camera matrix from a 3x3 matrix, its 9 numbers, or fx, fy, cx, cy; its values are not checked.

    Raises:
        CalibrationError: the value is not numeric.
    """
    try:
        k = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"K is {short_repr(value)}; it must be 3x3 numbers, or fx, fy, cx, cy.") from error
    if k.shape == (4,):
        return np.array([[k[0], 0.0, k[2]], [0.0, k[1], k[3]], [0.0, 0.0, 1.0]])
    return k.reshape(3, 3) if k.shape == (9,) else k


def picture_size(value: Any) -> tuple[int, int]:
    """(width, height) from the `picture` key of a calibration file.

    Raises:
        CalibrationError: the value is not two integers.
    """
    try:
        width, height = (int(side) for side in value)
    except (TypeError, ValueError, OverflowError) as error:
        raise CalibrationError(f"picture is {short_repr(value)}; it must be [width, height] of the images.") from error
    return width, height


_FOCAL_RANGE = (0.05, 200)
"""Range of focal lengths relative to the image side: from a 180-degree fisheye on a long image to a telescope."""
_FULL_IMAGE_REMEDY = "Give K in pixels of the full image."


def intrinsics_faults(k: Floats) -> Iterator[Problem]:
    """Check that a matrix is a camera matrix; yield one problem per fault.

    Args:
        k: (3, 3) in pixels; other shapes are a fault.
    """
    if k.shape != (3, 3) or not np.isfinite(k).all():
        yield Problem(f"K must be 3x3 finite numbers, not {k.tolist()}.")
        return
    if k[0, 0] <= 0 or k[1, 1] <= 0:
        yield Problem(f"the focal lengths in K are {k[0, 0]:g} and {k[1, 1]:g} px; they must be positive.")
    rest = [k[0, 1], k[1, 0], k[2, 0], k[2, 1], k[2, 2] - 1.0]
    if np.abs(rest).max() > 1e-9 * abs(k[0, 0]):
        yield Problem(f"K must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], not {k.tolist()}.")


def image_size_faults(k: Floats, width: int, height: int) -> Iterator[Problem]:
    """Check a camera matrix against the image size; a fault hints at a matrix in meters or for another size.

    Args:
        k: (3, 3) camera matrix without `intrinsics_faults`.
        width: pixels of the calibrated image.
        height: pixels of the calibrated image.
    """
    for axis, size, name in ((0, width, "width"), (1, height, "height")):
        focal, center = k[axis, axis], k[axis, 2]
        if not _FOCAL_RANGE[0] * size <= focal <= _FOCAL_RANGE[1] * size:
            yield Problem(
                f"a focal length of {focal:g} px is implausible for a {name} of {size} px.", _FULL_IMAGE_REMEDY
            )
        if not 0 <= center <= size:
            yield Problem(f"the principal point {center:g} px is outside the {name} of {size} px.", _FULL_IMAGE_REMEDY)


FITS = ("rescale", "crop_top", "crop_center", "crop_bottom")
"""Ways to adapt a calibration to images of another size; see `CameraModel.adapt_to_size`."""
_SAME_VIEW_PX = 0.25
"""Largest deviation in pixels of two cameras with the same view."""


@dataclass(frozen=True, eq=False)
class CameraModel:
    """A calibrated camera.

    Attributes:
        width, height: size of its images in pixels.
        K: (3, 3) float64 intrinsic matrix in pixels.
        D: (n,) float64 distortion coefficients.
        model: `pinhole`, `plumb_bob`, `rational_polynomial` or `equidistant` (alias `fisheye`).
        rectification: rectified_from_optical for a rectified image with rays rotated or shifted against the optical
            frame (R and the last column of P in CameraInfo); None otherwise.
        distortion: the distortion of `model` and `D`.
    """

    width: int
    height: int
    K: Floats
    D: Floats
    model: str = "plumb_bob"
    rectification: Transform | None = None
    distortion: Distortion = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Normalize the types and validate the values.

        Raises:
            CalibrationError: size, K or D is invalid.
        """
        intrinsics = np.array(self.K, np.float64)
        coefficients = np.array(self.D, np.float64).ravel()
        object.__setattr__(self, "K", intrinsics)
        object.__setattr__(self, "D", coefficients)
        object.__setattr__(self, "model", canonical_model(self.model, coefficients))
        object.__setattr__(self, "distortion", make_distortion(self.model, coefficients))
        if self.width < 1 or self.height < 1:
            raise CalibrationError(
                f"camera size {self.width}x{self.height} is empty; it must be the width and height of the image."
            )
        _raise_first(intrinsics_faults(intrinsics))

    # Construction

    @classmethod
    def from_info(cls, info: Any, rectified: bool = False) -> CameraModel:
        """Create from a ROS 2 `sensor_msgs/CameraInfo` of any library, with its ROI and binning applied.

        K and D of CameraInfo are those of the full sensor. Binning divides the focal length and center as
        `image_geometry` does.

        Args:
            info: any object with the fields of CameraInfo.
            rectified: whether the images are `image_rect`, for which P and R are used instead of K and D.

        Raises:
            CalibrationError: a field has a value that is not accepted; the message names both.
        """
        height, width = int(info.height), int(info.width)
        if height < 1 or width < 1:
            raise CalibrationError(f"CameraInfo gives the size {width}x{height}; it must be that of the calibration.")
        full = _rectified(info, width, height) if rectified else _raw(info, width, height)
        _raise_first(image_size_faults(full.K, full.width, full.height))
        roi = info.roi
        if roi.width or roi.height:
            full = full.cropped(int(roi.y_offset), int(roi.x_offset), int(roi.height), int(roi.width))
        return full._binned(max(int(info.binning_y), 1), max(int(info.binning_x), 1))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> CameraModel:
        """The inverse of `to_dict`. K may also be [fx, fy, cx, cy]; D and model are optional for a pinhole.

        `picture` [width, height] and `fit` adapt the camera to images of that size; see `adapt_to_size`.

        Raises:
            CalibrationError: a field is missing or invalid.
        """
        try:
            k = camera_matrix(fields["K"])
            d = np.asarray(fields.get("D", ()), np.float64)
            size = int(fields["width"]), int(fields["height"])
        except CalibrationError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CalibrationError(
                f"camera has no usable {error}; it needs width, height, K (3x3 or fx fy cx cy), and D with its model."
            ) from error
        camera = cls(*size, k, d, str(fields.get("model", "pinhole" if not d.size else "")))
        _raise_first(image_size_faults(camera.K, camera.width, camera.height))
        if ("picture" in fields) != ("fit" in fields):
            raise CalibrationError(
                "picture and fit must be given together: the images' size, and its relation to the calibrated size."
            )
        return (
            camera.adapt_to_size(*picture_size(fields["picture"])[::-1], fields["fit"]) if "fit" in fields else camera
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types for `from_dict`. The rectification belongs to the stream and is not included."""
        return {
            "width": self.width,
            "height": self.height,
            "model": self.model,
            "K": self.K.tolist(),
            "D": self.D.tolist(),
        }

    def scaled(self, height: int, width: int) -> CameraModel:
        """The camera with its images resized to (height, width), pixel edges on pixel edges.

        The result is cached, since callers request the same few sizes for every frame.
        """
        if (height, width) == (self.height, self.width):
            return self
        if (height, width) not in self._scaled:
            sx, sy = width / self.width, height / self.height
            k = self.K.copy()
            k[0] *= sx
            k[1] *= sy
            k[0, 2] += 0.5 * sx - 0.5
            k[1, 2] += 0.5 * sy - 0.5
            self._scaled[height, width] = replace(self, width=width, height=height, K=k)
        return self._scaled[height, width]

    def adapt_to_size(self, height: int, width: int, fit: str) -> CameraModel:
        """The camera for images of another than the calibrated size, by the relation that the user states.

        `rescale`: the images show the full calibrated view. `crop_top`, `crop_center` and `crop_bottom`: pixel for
        pixel, the smaller image is the upper, middle or lower part of the larger one, and the middle of its columns.

        Args:
            height: rows of the images.
            width: columns of the images.
            fit: one of `FITS`.

        Raises:
            CalibrationError: the fit is unknown, or the size is empty.
        """
        if fit not in FITS:
            raise CalibrationError(f"fit is {short_repr(fit)}; accepted are {', '.join(FITS)}.")
        if height < 1 or width < 1:
            raise CalibrationError(f"images of {width}x{height} pixels are empty.", "Give their width and height.")
        if fit == "rescale":
            return self.scaled(height, width)
        k, rows = self.K.copy(), self.height - height
        k[0, 2] -= (self.width - width) // 2
        k[1, 2] -= {"crop_top": 0, "crop_center": rows // 2, "crop_bottom": rows}[fit]
        return replace(self, width=width, height=height, K=k)

    def cropped(self, top: int, left: int, height: int, width: int) -> CameraModel:
        """The camera of a region of the image.

        Raises:
            CalibrationError: the region is empty or extends outside the image.
        """
        inside = 0 <= top <= self.height - height and 0 <= left <= self.width - width
        if height < 1 or width < 1 or not inside:
            raise CalibrationError(
                f"region {width}x{height} at column {left}, row {top} is not inside the {self.width}x{self.height} "
                "image; ROI is in unbinned pixels of the full sensor."
            )
        k = self.K.copy()
        k[0, 2] -= left
        k[1, 2] -= top
        return replace(self, width=width, height=height, K=k)

    def _binned(self, rows: int, columns: int) -> CameraModel:
        k = self.K.copy()
        k[0] /= columns
        k[1] /= rows
        return replace(self, width=self.width // columns, height=self.height // rows, K=k)

    # Use

    def check(self, height: int, width: int, what: str = "image") -> None:
        """Check that an image has the size of the calibration.

        Args:
            height: rows of the image.
            width: columns of the image.
            what: name of the image in the error message.

        Raises:
            CalibrationError: the sizes differ; the message names both.
        """
        if (height, width) != (self.height, self.width):
            raise CalibrationError(
                f"{what} is {width}x{height} but its calibration is for {self.width}x{self.height}.",
                f"Calibrate at this size, or set fit to the relation of the two sizes: {', '.join(FITS)}.",
            )

    def shows_as(self, other: CameraModel) -> bool:
        """Whether its resized image equals the other camera's from the same position, within 0.25 pixels."""
        return _same_view(self, other)

    def project(
        self, points: npt.NDArray[np.floating[Any]], near: float = 0.0, bounded: bool = True
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Pixel coordinates of points.

        Args:
            points: (N, 3) meters in the optical frame; NaN and infinite ones are not valid.
            near: points with z at or below it, in meters, are not valid.
            bounded: whether points outside the image are not valid either.

        Returns:
            (N, 2) float64 (u, v), NaN where not valid, and (N,) bool: in front of the camera, inside the distortion
            model's valid radius, and inside the image if `bounded`.
        """
        index, u, v = self.project_visible(points, near, bounded)
        uv = np.full((len(points), 2), np.nan)
        valid = np.zeros(len(points), np.bool_)
        uv[index, 0] = u
        uv[index, 1] = v
        valid[index] = True
        return uv, valid

    def project_visible(
        self, points: npt.NDArray[np.floating[Any]], near: float = 0.0, bounded: bool = True
    ) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
        """`project` without the points that are not valid.

        The frustum cull runs in the points' dtype; the remaining points are divided and distorted in float64.

        Returns:
            (M,) ascending indices into points, and their (M,) u and v.
        """
        if self.rectification is not None:
            points = self.rectification.apply(points)
        return self.project_rectified(points, near, bounded)

    def project_rectified(self, points: Any, near: float = 0.0, bounded: bool = True) -> tuple[Any, Any, Any]:
        """`project_visible` for points in the frame of the image, which is the rectified frame for a rectified image.

        Args:
            points: (N, 3) meters, as a NumPy array or as a torch tensor on any device.
            near: as for `project`.
            bounded: as for `project`.

        Returns:
            As for `project_visible`, from the same library and on the same device.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            index = self._frustum_cull(points, near, bounded)
            x, y, z = to_float64(points[index].T)
            x /= z
            y /= z
            if np.isfinite(self.distortion.max_radius):
                inside = x * x + y * y <= self.distortion.max_radius**2
                index, x, y = index[inside], x[inside], y[inside]
            u, v = self._pixels(x, y)
            keep = self._inside(u, v) if bounded else (abs(u) < np.inf) & (abs(v) < np.inf)
        return index[keep], u[keep], v[keep]

    def project_masked(self, points: Any) -> tuple[Any, Any, Any]:
        """`project_rectified` with a mask instead of indices: no data-dependent shape, so no device synchronization.

        Args:
            points: as for `project_rectified`.

        Returns:
            (N,) bool, true for points inside the image, and (N,) u and v, which are undefined for the other points.
        """
        with np.errstate(all="ignore"):
            keep = (points[:, 2] > 0) & (points[:, 2] < np.inf) & self._in_window(points)
            x, y, z = to_float64(points.T)
            x, y = x / z, y / z
            if np.isfinite(self.distortion.max_radius):
                keep &= x * x + y * y <= self.distortion.max_radius**2
            u, v = self._pixels(x, y)
            return keep & self._inside(u, v), u, v

    def _frustum_cull(self, points: Any, near: float, bounded: bool) -> Any:
        z = points[:, 2]
        index = indices((z > near) & (z < np.inf))
        return index[self._in_window(points[index])] if bounded else index

    def _in_window(self, points: Any) -> Any:
        left, right, top, bottom = self._window
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        keep = (x >= left * z) & (x <= right * z)
        keep &= (y >= top * z) & (y <= bottom * z)
        return keep

    def _pixels(self, x: Any, y: Any) -> tuple[Any, Any]:
        """(u, v) of undistorted normalized coordinates."""
        xd, yd = self.distortion.apply(x, y)
        return float(self.K[0, 0]) * xd + float(self.K[0, 2]), float(self.K[1, 1]) * yd + float(self.K[1, 2])

    def _inside(self, u: Any, v: Any) -> Any:
        return (u >= -0.5) & (u < self.width - 0.5) & (v >= -0.5) & (v < self.height - 0.5)

    def unproject(self, depth: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Points of a depth image.

        Args:
            depth: (H, W) meters along z, at the camera's size; NaN where unknown.

        Returns:
            (H, W, 3) of depth's dtype, meters in the optical frame; NaN where the depth is NaN, or where no ray inside
            the distortion model's valid radius reaches the pixel.

        Raises:
            CalibrationError: the image has another size.
        """
        self.check(depth.shape[0], depth.shape[1], "depth image")
        rays = self.rays
        points = np.empty((*depth.shape, 3), depth.dtype)
        np.multiply(rays[..., 0], depth, out=points[..., 0], casting="same_kind")
        np.multiply(rays[..., 1], depth, out=points[..., 1], casting="same_kind")
        points[..., 2] = depth
        if self.rectification is not None:
            return self.rectification.inverse().apply(points.reshape(-1, 3)).reshape(points.shape)
        return points

    @cached_property
    def rays(self) -> npt.NDArray[np.float32]:
        """(H, W, 2) float32: x/z and y/z of the ray of each pixel; NaN for a pixel without a ray. Computed once."""
        return all_rays(self.width, self.height, self.K, self.distortion)

    def _undistorted(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        return self.distortion.invert((u - self.K[0, 2]) / self.K[0, 0], (v - self.K[1, 2]) / self.K[1, 1])

    @cached_property
    def _window(self) -> tuple[float, float, float, float]:
        """Left, right, top, bottom of a box in (x/z, y/z) that contains every ray into the image.

        It bounds the undistorted outline of the image. If a pixel of the outline has no ray, the valid radius bounds
        the box instead.
        """
        u = np.linspace(-0.5, self.width - 0.5, 65)
        v = np.linspace(-0.5, self.height - 0.5, 65)
        outline_u = np.concatenate([u, u, np.full(65, u[0]), np.full(65, u[-1])])
        outline_v = np.concatenate([np.full(65, v[0]), np.full(65, v[-1]), v, v])
        x, y = self._undistorted(outline_u, outline_v)
        if not np.isfinite(x).all():
            reach = self.distortion.max_radius
            return -reach, reach, -reach, reach
        # Upper bound of the outline's bulge between two samples, from its curvature over 1/64 of a side.
        margin = 1e-3 * max(np.ptp(x), np.ptp(y))
        return float(x.min() - margin), float(x.max() + margin), float(y.min() - margin), float(y.max() + margin)

    @cached_property
    def _scaled(self) -> dict[tuple[int, int], CameraModel]:
        return {}


@lru_cache(maxsize=32)
def _same_view(one: CameraModel, other: CameraModel) -> bool:
    turns = [t.rectification or Transform.identity() for t in (one, other)]
    if not np.allclose(turns[0].rotation, turns[1].rotation, atol=1e-6):
        return False
    if not np.allclose(turns[0].translation, turns[1].translation, atol=1e-6):
        return False
    u, v = (a.ravel() for a in np.meshgrid(np.linspace(0, other.width - 1, 9), np.linspace(0, other.height - 1, 9)))
    x, y = other._undistorted(u, v)
    seen = np.isfinite(x)
    one = one.scaled(other.height, other.width)
    if not seen.any() or (np.hypot(x[seen], y[seen]) > one.distortion.max_radius).any():
        return False
    there = one._pixels(x[seen].copy(), y[seen].copy())
    return bool(max(np.abs(there[0] - u[seen]).max(), np.abs(there[1] - v[seen]).max()) <= _SAME_VIEW_PX)


def _raw(info: Any, width: int, height: int) -> CameraModel:
    k = np.asarray(info.k, np.float64)
    if not k.any():
        raise CalibrationError("CameraInfo has an all-zero K, so the camera is not calibrated.", "Calibrate it first.")
    return CameraModel(width, height, k.reshape(3, 3), np.asarray(info.d, np.float64), str(info.distortion_model))


def _rectified(info: Any, width: int, height: int) -> CameraModel:
    p = np.asarray(info.p, np.float64).reshape(3, 4)
    if not p.any():
        raise CalibrationError(
            "CameraInfo has an all-zero P, so it describes no rectified image.", "Use the raw image."
        )
    _raise_first(intrinsics_faults(p[:, :3]))
    r = np.asarray(info.r, np.float64).reshape(3, 3)
    turn = Transform(r if r.any() else np.eye(3), np.asarray(np.linalg.solve(p[:, :3], p[:, 3]), np.float64))
    aligned = np.allclose(turn.rotation, np.eye(3), atol=1e-12) and not turn.translation.any()
    return CameraModel(width, height, p[:, :3], np.zeros(0), "pinhole", None if aligned else turn)


def _raise_first(faults: Iterator[Problem]) -> None:
    for fault in faults:
        raise CalibrationError(fault.message, fault.remedy)
