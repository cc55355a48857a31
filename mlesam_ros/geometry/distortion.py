# SPDX-License-Identifier: Apache-2.0
"""Lens distortion models of sensor_msgs/CameraInfo, plumb_bob, rational_polynomial and equidistant, and their inverses.

The array helpers take NumPy arrays and torch tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError
from mlesam_ros.strict_yaml import short_repr


def to_float64(values: Any) -> Any:
    """Convert an array or tensor to float64."""
    return values.astype(np.float64) if isinstance(values, np.ndarray) else values.double()


def indices(mask: Any) -> Any:
    """(M,) ascending indices of the true elements of an (N,) mask."""
    return np.flatnonzero(mask) if isinstance(mask, np.ndarray) else mask.nonzero()[:, 0]


def ones_like(values: Any) -> Any:
    """Ones of the same shape and dtype, on the same device."""
    return np.ones_like(values) if isinstance(values, np.ndarray) else values.new_ones(values.shape)


def arctan(values: Any) -> Any:
    """Arc tangent in radians."""
    return np.arctan(values) if isinstance(values, np.ndarray) else values.arctan()


Floats = npt.NDArray[np.float64]

_COUNTS: dict[str, tuple[int, ...]] = {
    "pinhole": (0,),
    "plumb_bob": (4, 5),
    "rational_polynomial": (5, 8, 12, 14),
    "equidistant": (4,),
}
_ALIASES = {"": "pinhole", "none": "pinhole", "fisheye": "equidistant", "kannala_brandt": "equidistant"}
MODELS = tuple(_COUNTS)
"""Accepted model names. `fisheye` is an alias of `equidistant`, an empty name without coefficients of `pinhole`."""

_TABLE_SIZE = 4096
_MAX_COEFFICIENT = 1e6  # largest accepted coefficient; rational models fitted to too few points reach thousands
_MAX_RADIUS = 1e3  # tan of 89.94 degrees, the limit of planar-image models


class Distortion(ABC):
    """A radial distortion plus a small non-radial remainder.

    Attributes:
        max_radius: undistorted radius sqrt(x² + y²) of normalized coordinates up to which the map is injective, or inf
    """

    max_radius: float

    @abstractmethod
    def apply(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Distort normalized coordinates, two arrays or torch tensors of equal shape."""

    @abstractmethod
    def radial(self, r: Floats) -> Floats:
        """Distorted radius of an undistorted one, without the remainder; monotone on [0, max_radius]."""

    def invert(self, xd: Floats, yd: Floats, iterations: int = 12) -> tuple[Floats, Floats]:
        """Undistort normalized coordinates; NaN where no ray inside the valid radius exists.

        In distorted space the model is the identity plus its small non-radial remainder. The fixed-point iteration
        `radial part = target - remainder` therefore contracts by about the size of the tangential coefficients per
        step.

        Args:
            xd: distorted normalized x coordinates, of any shape.
            yd: distorted normalized y coordinates, of the same shape.
            iterations: upper bound; a point is final once its residual is below 1e-10 or no longer halves in a step.
        """
        target = np.stack([xd.ravel(), yd.ravel()])
        radial = target.copy()
        found = self._invert_radial(radial)
        residual = np.full(xd.size, np.inf)
        todo = np.arange(xd.size)
        for _ in range(iterations):
            error = target[:, todo] - self.apply(*found[:, todo])
            before, residual[todo] = residual[todo], np.hypot(*error)
            gains = (residual[todo] > 1e-10) & (residual[todo] < before / 2)
            todo = todo[gains]
            if not todo.size:
                break
            radial[:, todo] += error[:, gains]
            found[:, todo] = self._invert_radial(radial[:, todo])
        found[:, ~(residual < 1e-7 * (1.0 + np.hypot(*target)))] = np.nan
        return found[0].reshape(xd.shape), found[1].reshape(xd.shape)

    def _invert_radial(self, distorted: Floats) -> Floats:
        """Undistort (2, n) normalized coordinates by the radial part alone."""
        radii, table = self._table
        rd = np.hypot(*distorted)
        r: Floats = np.asarray(np.interp(rd, table, radii, right=np.nan))
        for _ in range(2):  # the table is accurate to 1e-7; a Newton step doubles the digits
            step = 1e-6 * r + 1e-9
            slope = (self.radial(r + step) - self.radial(r - step)) / (2 * step)
            steep = slope * r > 1e-3 * rd  # near the turning point Newton would overshoot; keep the table
            r = np.clip(r - (self.radial(r) - rd) / np.where(steep, slope, np.inf), 0.0, radii[-1])
        return np.asarray(distorted * np.divide(r, rd, out=np.ones_like(rd), where=rd > 1e-12))

    @cached_property
    def _table(self) -> tuple[Floats, Floats]:
        radii = np.tan(np.linspace(0.0, np.arctan(min(self.max_radius, _MAX_RADIUS)), _TABLE_SIZE))
        return radii, np.maximum.accumulate(self.radial(radii))


class BrownConrady(Distortion):
    """Brown-Conrady with the rational and thin-prism terms: `pinhole`, `plumb_bob` and `rational_polynomial`.

    Args:
        coefficients: up to 12 numbers k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4; missing ones are zero.
    """

    def __init__(self, coefficients: Floats) -> None:
        padded = np.zeros(12)
        padded[: len(coefficients)] = coefficients
        k1, k2, self.p1, self.p2, k3, k4, k5, k6 = (float(c) for c in padded[:8])
        self.numerator = (k1, k2, k3)
        self.denominator = (k4, k5, k6)
        self.prism = tuple(float(c) for c in padded[8:])
        self.identity = not padded.any()
        self.max_radius = _max_radial_radius(self.numerator, self.denominator)
        if padded[[2, 3, 8, 9, 10, 11]].any():
            self.max_radius = min(self.max_radius, self._fold_radius())

    def apply(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """See `Distortion.apply`."""
        if self.identity:
            return x, y
        r2 = x * x + y * y
        factor = self._factor(r2)
        xd, yd = x * factor, y * factor
        if self.p1 or self.p2:
            xy = 2.0 * x * y
            xd += self.p1 * xy + self.p2 * (r2 + 2.0 * x * x)
            yd += self.p2 * xy + self.p1 * (r2 + 2.0 * y * y)
        if any(self.prism):
            s1, s2, s3, s4 = self.prism
            xd += r2 * (s1 + r2 * s2)
            yd += r2 * (s3 + r2 * s4)
        return xd, yd

    def radial(self, r: Floats) -> Floats:
        """See `Distortion.radial`."""
        return r * self._factor(r * r)

    def invert(self, xd: Floats, yd: Floats, iterations: int = 12) -> tuple[Floats, Floats]:
        """See `Distortion.invert`."""
        return (xd, yd) if self.identity else super().invert(xd, yd, iterations)

    def _fold_radius(self) -> float:
        """Radius within `max_radius` at which the tangential and prism terms first fold the plane in any direction.

        The map is one to one where the determinant of its Jacobian is positive. The determinant is sampled outwards
        along 32 directions in steps of less than 0.2 degrees.
        """
        radius = np.tan(np.linspace(0.0, np.arctan(min(self.max_radius, _MAX_RADIUS)), 512)[1:])[:, None]
        angle = np.linspace(0.0, 2 * np.pi, 32, endpoint=False)
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        h = 1e-6 * radius
        (ax, ay), (bx, by) = self.apply(x + h, y), self.apply(x - h, y)
        (cx, cy), (dx, dy) = self.apply(x, y + h), self.apply(x, y - h)
        folded = (((ax - bx) * (cy - dy) - (ay - by) * (cx - dx)) <= 0).any(axis=1)
        first = int(folded.argmax())
        return float(radius[max(first - 1, 0), 0]) if folded.any() else np.inf

    def _factor(self, r2: Floats) -> Floats:
        factor = _horner(self.numerator, r2)
        return factor / _horner(self.denominator, r2) if any(self.denominator) else factor


class KannalaBrandt(Distortion):
    """Equidistant fisheye: the distorted radius is a polynomial in the angle off the axis.

    Args:
        coefficients: k1 … k4 of θd = θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸); empty for zeros, the ideal fisheye.
    """

    def __init__(self, coefficients: Floats) -> None:
        self.k = tuple(float(c) for c in coefficients)
        slope = [(2 * i + 1) * k for i, k in enumerate((1.0, *self.k))]
        widest = np.sqrt(_smallest_positive_root(slope))
        self.max_radius = float(np.tan(widest)) if widest < np.pi / 2 else np.inf

    def apply(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """See `Distortion.apply`."""
        r = (x * x + y * y) ** 0.5
        tiny = r <= 1e-12
        scale = (self.radial(r) + tiny) / (r + tiny)
        return x * scale, y * scale

    def radial(self, r: Floats) -> Floats:
        """See `Distortion.radial`."""
        theta = arctan(r)
        return theta * _horner(self.k, theta * theta)


def make_distortion(model: str, coefficients: npt.ArrayLike) -> Distortion:
    """Create the distortion of a model name and its coefficients.

    Args:
        model: one of `MODELS` or an alias.
        coefficients: as many as the model takes; additional zeros are ignored. Every model accepts an empty list or
            zeros only, for no distortion; for `equidistant` this is the ideal fisheye θd = θ.

    Raises:
        CalibrationError: the model is unknown or a tilted sensor, the number of coefficients is wrong, or a coefficient
            is not finite or too large.
    """
    return _make_distortion(model, tuple(np.asarray(coefficients, np.float64).ravel().tolist()))


@lru_cache(maxsize=64)  # CameraInfo arrives with every image
def _make_distortion(model: str, coefficients: tuple[float, ...]) -> Distortion:
    d = np.array(coefficients)
    name = canonical_model(model, d)
    if not np.isfinite(d).all():
        raise CalibrationError(
            f"distortion coefficients {d.tolist()} are not all finite.", "Calibrate the camera again."
        )
    if len(d) and np.abs(d).max() > _MAX_COEFFICIENT:
        raise CalibrationError(
            f"distortion coefficient {d[np.abs(d).argmax()]:g} is too large; up to {_MAX_COEFFICIENT:g} are accepted.",
            "Calibrate the camera again.",
        )
    if not d.any():
        d = d[:0]
    counts = _COUNTS[name]
    while len(d) > counts[-1] and d[-1] == 0.0:
        d = d[:-1]
    if len(d) and len(d) not in counts:
        accepted = " or ".join(str(n) for n in counts)
        raise CalibrationError(f"distortion model {name} takes {accepted} coefficients, not {len(d)}: {d.tolist()}.")
    if len(d) == 14 and d[12:].any():
        raise CalibrationError(
            f"a tilted sensor (coefficients 13 and 14 are {d[12:].tolist()}) is not supported.",
            "Use rectified images.",
        )
    return KannalaBrandt(d) if name == "equidistant" else BrownConrady(d[:12])


def canonical_model(model: str, coefficients: Floats) -> str:
    """Name in `MODELS` of a `distortion_model` string.

    Raises:
        CalibrationError: the name is unknown, or empty although there are coefficients.
    """
    lowered = model.strip().lower()
    name = _ALIASES.get(lowered, lowered)
    if lowered == "" and np.any(coefficients):
        raise CalibrationError(
            f"the distortion model has {len(coefficients)} coefficients but no name.",
            f"Name one of {', '.join(MODELS)}.",
        )
    if name not in _COUNTS:
        raise CalibrationError(f"distortion model {short_repr(model)} is not known; accepted are {', '.join(MODELS)}.")
    return name


def _horner(coefficients: tuple[float, ...], t: Floats) -> Floats:
    """1 + c0 t + c1 t² + …, without the highest terms that are zero."""
    used = len(coefficients)
    while used and coefficients[used - 1] == 0.0:
        used -= 1
    if not used:
        return ones_like(t)
    total = coefficients[used - 1] * t
    for c in coefficients[used - 2 :: -1] if used > 1 else ():
        total += c
        total *= t
    total += 1.0
    return total


def _max_radial_radius(numerator: tuple[float, ...], denominator: tuple[float, ...]) -> float:
    """Radius at which r N(r²)/D(r²) stops increasing or its denominator vanishes, the smaller of the two.

    With s = r², d/dr (r N/D) has the sign of N D + 2 s (N' D - N D').
    """
    n = np.polynomial.Polynomial([1.0, *numerator])
    d = np.polynomial.Polynomial([1.0, *denominator])
    s = np.polynomial.Polynomial([0.0, 1.0])
    slope = n * d + 2.0 * s * (n.deriv() * d - n * d.deriv())
    pole = _smallest_positive_root(d.coef) * (1 - 1e-9)
    return float(np.sqrt(min(_smallest_positive_root(slope.coef), pole)))


def _smallest_positive_root(ascending: npt.ArrayLike) -> float:
    """Smallest positive root of a polynomial 1 + a1 s + a2 s² + …; inf without one.

    Its roots are the reciprocals of those of tⁿ + a1 tⁿ⁻¹ + … + an, which is monic and thus robust to tiny leading
    coefficients. Roots of s beyond 1e12 are ignored.
    """
    reciprocals = np.roots(np.asarray(ascending, np.float64))
    real = reciprocals.real[np.abs(reciprocals.imag) <= 1e-9 * np.abs(reciprocals)]
    return float(1.0 / real.max()) if real.max(initial=0.0) > 1e-12 else np.inf
