"""Rigid transforms, and the tree of frames that they connect.

A transform is named after what it does: `target_from_source.apply(points_in_source)` gives points in target. The pose
that TF publishes for (parent, child) is parent_from_child.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError
from mlesam_ros.frame import NANOSECONDS
from mlesam_ros.geometry import quaternion

Floats = npt.NDArray[np.float64]

_FARTHEST = 1e9
"""Metres. Nothing on a robot's map is farther away, and sums of what is still are numbers."""


@dataclass(frozen=True, eq=False)
class Transform:
    """A rotation followed by a translation.

    Attributes:
        rotation: (3, 3) float64 rotation matrix.
        translation: (3,) float64 metres.
    """

    rotation: Floats
    translation: Floats

    def __post_init__(self) -> None:
        """Refuse what is not a rigid motion.

        Raises:
            CalibrationError: not finite or absurdly far, or the matrix is no rotation.
        """
        rotation = np.asarray(self.rotation, np.float64)
        translation = np.asarray(self.translation, np.float64).ravel()
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)
        if rotation.shape != (3, 3) or not np.isfinite(rotation).all():
            raise CalibrationError(f"a rotation must be 3x3 finite numbers, not {rotation.tolist()}.")
        if translation.shape != (3,) or not (np.abs(translation) < _FARTHEST).all():
            raise CalibrationError(
                f"a translation must be 3 finite numbers in metres, none beyond {_FARTHEST:g}, "
                f"not {translation.tolist()}."
            )
        wild = np.abs(rotation).max() > 2
        if wild or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
            rows = [[float(f"{number:.4g}") for number in row] for row in rotation]
            raise CalibrationError(
                f"{rows} is not a rotation: its rows must be perpendicular unit vectors, right-handed."
            )

    @classmethod
    def identity(cls) -> Transform:
        """The transform that moves nothing."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_quaternion(cls, translation: npt.ArrayLike, rotation: npt.ArrayLike) -> Transform:
        """From metres and a unit quaternion (x, y, z, w).

        Raises:
            CalibrationError: not finite, or the quaternion's length is not 1 within 1 %.
        """
        q = np.asarray(rotation, np.float64).ravel()
        if q.shape != (4,) or not (np.abs(q) < 2).all() or abs(np.linalg.norm(q) - 1.0) > 0.01:
            raise CalibrationError(f"{q.tolist()} is not a rotation: a quaternion is x, y, z, w with length 1.")
        return cls(quaternion.to_matrix(q), np.asarray(translation, np.float64))

    def to_quaternion(self) -> Floats:
        """(4,) unit quaternion (x, y, z, w) of the rotation."""
        return quaternion.from_matrix(self.rotation)

    def inverse(self) -> Transform:
        """The way back."""
        return _trusted(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Transform) -> Transform:
        """a_from_b @ b_from_c = a_from_c."""
        return _trusted(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Move points.

        Args:
            points: (N, 3) metres.

        Returns:
            (N, 3) metres of the same floating type.
        """
        moved = points @ self.rotation.T.astype(points.dtype)
        for axis, offset in enumerate(self.translation.astype(points.dtype)):
            moved[..., axis] += offset  # one by one; with rows of three NumPy takes three times as long
        return moved

    def interpolate(self, other: Transform, t: float) -> Transform:
        """The motion a fraction t of the way to `other`: translation linear, rotation at constant angular velocity."""
        q = quaternion.slerp(self.to_quaternion(), other.to_quaternion(), t)
        return _trusted(quaternion.to_matrix(q), (1 - t) * self.translation + t * other.translation)


def _trusted(rotation: Floats, translation: Floats) -> Transform:
    """A transform made of such that have been checked: the tree is asked many times for a sweep."""
    made = object.__new__(Transform)
    object.__setattr__(made, "rotation", rotation)
    object.__setattr__(made, "translation", translation)
    return made


@dataclass
class _Edge:
    """How a frame hangs on its parent: one transform for ever, or one per stamp in rising order."""

    parent: str
    static: Transform | None = None
    stamps: list[int] = field(default_factory=list)
    moving: list[Transform] = field(default_factory=list)


class TransformTree:
    """What is known about which frame sits where, and when.

    Live it is fed from /tf and /tf_static, offline from a bag, without TF from a calibration file. Safe to write in one
    thread and read in another.

    Args:
        history: seconds of moving transforms that are kept. A stamp older than that against the newest one is a clock
            that jumped back, and starts the frame's history afresh.
        tolerance: seconds by which a lookup may lie outside what is known; the nearest transform is used there.
            Beyond it the lookup is refused: nothing is extrapolated.
        capacity: most transforms kept per moving frame, whatever their rate.
    """

    def __init__(self, history: float = 10.0, tolerance: float = 0.1, capacity: int = 4096) -> None:
        self._history = int(history * NANOSECONDS)
        self._tolerance = int(tolerance * NANOSECONDS)
        self._capacity = capacity
        self._edges: dict[str, _Edge] = {}
        self._lock = Lock()

    def set(self, parent: str, child: str, transform: Transform, stamp: int | None = None) -> None:
        """Learn that parent_from_child is `transform`.

        A child that had another parent is moved to the new one, as TF does.

        Args:
            parent: frame name; a leading slash is ignored.
            child: frame name.
            transform: parent_from_child.
            stamp: nanoseconds at which it holds, or None for always.

        Raises:
            CalibrationError: an empty name, or the two frames would form a circle.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        with self._lock:
            self._refuse_circle(parent, child)
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent or (stamp is None) != (edge.static is not None):
                edge = self._edges[child] = _Edge(parent)
            if stamp is None:
                edge.static = transform
            else:
                self._remember(edge, transform, stamp)

    def lookup(self, target: str, source: str, stamp: int | None = None) -> Transform:
        """target_from_source at a moment.

        Args:
            target: the frame to go to.
            source: the frame to come from.
            stamp: nanoseconds; None means the newest known. Frames that never move ignore it.

        Raises:
            CalibrationError: a frame is unknown, the two are not connected, or the moment is not covered.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        if target == source:
            return Transform.identity()
        with self._lock:
            up, down = self._path(target), self._path(source)
            common = next((frame for frame in down if frame in up), None)
            if common is None:
                raise CalibrationError(
                    f"no transform connects {source!r} to {target!r}; {self._known()}; publish it on /tf or /tf_static "
                    "or give a calibration file."
                )
            root_from_source = self._climb(down[: down.index(common)], stamp)
            root_from_target = self._climb(up[: up.index(common)], stamp)
        return root_from_target.inverse() @ root_from_source

    def lookup_full(self, target: str, target_stamp: int, source: str, source_stamp: int, fixed: str) -> Transform:
        """target_from_source between two moments: where what source saw then is for target now.

        As tf2's `lookup_transform_full`: what stands still in `fixed` is carried from one moment to the other.

        Args:
            target: the frame to go to.
            target_stamp: nanoseconds at which target is meant.
            source: the frame to come from.
            source_stamp: nanoseconds at which source is meant.
            fixed: a frame that the world stands still in, such as `odom` (REP 105).

        Raises:
            CalibrationError: as for `lookup`, at either moment.
        """
        return self.lookup(target, fixed, target_stamp) @ self.lookup(fixed, source, source_stamp)

    def moves(self, target: str, source: str) -> bool:
        """Whether the two frames are connected, and move against each other."""
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            up, down = self._path(target), self._path(source)
            apart = set(up) ^ set(down)  # below the nearest frame that both hang on
            return up[-1] == down[-1] and any(self._edges[frame].static is None for frame in apart)

    def clear_moving(self) -> None:
        """Forget every stamped transform, as after a clock that jumped; static ones stay."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static is not None}

    @property
    def frames(self) -> tuple[str, ...]:
        """Every frame named so far, sorted."""
        with self._lock:
            return self._frames()

    def statics(self) -> list[tuple[str, str, Transform]]:
        """(parent, child, parent_from_child) of every frame that never moves, in the order they were learnt."""
        with self._lock:
            return [(e.parent, child, e.static) for child, e in self._edges.items() if e.static is not None]

    def _frames(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._edges) | {edge.parent for edge in self._edges.values()}))

    def _known(self) -> str:
        frames = self._frames()
        return f"known frames are {', '.join(frames)}" if frames else "no frame is known yet"

    def _refuse_circle(self, parent: str, child: str) -> None:
        if not parent or not child:
            raise CalibrationError(f"a transform from {child!r} to {parent!r} has a frame without a name.")
        if child in self._path(parent):
            raise CalibrationError(f"making {parent!r} the parent of {child!r} closes a circle of frames.")

    def _path(self, frame: str) -> list[str]:
        path = [frame]
        while frame in self._edges:
            frame = self._edges[frame].parent
            path.append(frame)
        return path

    def _climb(self, frames: list[str], stamp: int | None) -> Transform:
        """ancestor_from_first for a chain of frames, each the child of the next."""
        result = Transform.identity()
        for child in frames:
            result = self._at(child, stamp) @ result
        return result

    def _at(self, child: str, stamp: int | None) -> Transform:
        edge = self._edges[child]
        if edge.static is not None:
            return edge.static
        if stamp is None:
            return edge.moving[-1]
        after = bisect.bisect_left(edge.stamps, stamp)
        if 0 < after < len(edge.stamps):
            t0, t1 = edge.stamps[after - 1], edge.stamps[after]
            return edge.moving[after - 1].interpolate(edge.moving[after], (stamp - t0) / (t1 - t0))
        nearest = min(after, len(edge.stamps) - 1)
        gap = abs(stamp - edge.stamps[nearest])
        if gap > self._tolerance:
            side = "after the newest" if stamp > edge.stamps[nearest] else "before the oldest"
            raise CalibrationError(
                f"the transform from {child!r} to {edge.parent!r} is asked for {gap / NANOSECONDS:.3f} s {side} one "
                f"known; at most {self._tolerance / NANOSECONDS:g} s is bridged."
            )
        return edge.moving[nearest]

    def _remember(self, edge: _Edge, transform: Transform, stamp: int) -> None:
        if edge.stamps and stamp < edge.stamps[-1] - self._history:
            edge.stamps.clear()
            edge.moving.clear()
        at = bisect.bisect_left(edge.stamps, stamp)
        if at < len(edge.stamps) and edge.stamps[at] == stamp:
            edge.moving[at] = transform
            return
        edge.stamps.insert(at, stamp)
        edge.moving.insert(at, transform)
        old = bisect.bisect_left(edge.stamps, edge.stamps[-1] - self._history)
        old = max(old, len(edge.stamps) - self._capacity)
        if old > 0:
            del edge.stamps[:old], edge.moving[:old]
