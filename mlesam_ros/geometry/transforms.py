# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms, unit quaternions (x, y, z, w), and the tree of TF frames."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError, Problem
from mlesam_ros.types import NANOSECONDS

Floats = npt.NDArray[np.float64]


def to_matrix(q: Floats) -> Floats:
    """(3, 3) rotation matrix of a (4,) quaternion, normalized first."""
    x, y, z, w = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def from_matrix(m: Floats) -> Floats:
    """(4,) unit quaternion of a (3, 3) rotation matrix.

    The largest of the four components is computed first, to avoid division by a small number
    (S. W. Shepperd, "Quaternion from rotation matrix", J. Guidance and Control 1(3), 1978).
    """
    diagonal = np.array([m[0, 0], m[1, 1], m[2, 2], np.trace(m)])
    largest = int(diagonal.argmax())
    q = np.empty(4)
    if largest == 3:
        q[:] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1.0 + diagonal[3]
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q[i] = 1.0 + m[i, i] - m[j, j] - m[k, k]
        q[j] = m[j, i] + m[i, j]
        q[k] = m[k, i] + m[i, k]
        q[3] = m[k, j] - m[j, k]
    return q / np.linalg.norm(q)


def slerp(a: Floats, b: Floats, t: float) -> Floats:
    """Spherical linear interpolation: a fraction t of the shorter rotation from a to b, at constant angular velocity.

    Source: K. Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    angle = np.arccos(min(cosine, 1.0))
    if angle < 1e-6:
        blend = (1 - t) * a + t * b
    else:
        blend = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return np.asarray(blend / np.linalg.norm(blend))


_MAX_TRANSLATION_M = 1e9
"""Exclusive bound of a translation in meters, beyond any robot's map; sums of such translations stay finite."""


@dataclass(frozen=True, eq=False)
class Transform:
    """A rotation followed by a translation.

    Attributes:
        rotation: (3, 3) float64 rotation matrix.
        translation: (3,) float64 meters.
    """

    rotation: Floats
    translation: Floats

    def __post_init__(self) -> None:
        """Validate that the values are a rigid transform.

        Raises:
            CalibrationError: a value is not finite or too large, or the matrix is not a rotation.
        """
        rotation = np.asarray(self.rotation, np.float64)
        translation = np.asarray(self.translation, np.float64).ravel()
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)
        if rotation.shape != (3, 3) or not np.isfinite(rotation).all():
            raise CalibrationError(f"a rotation must be 3x3 finite numbers, not {rotation.tolist()}.")
        if translation.shape != (3,) or not (np.abs(translation) < _MAX_TRANSLATION_M).all():
            raise CalibrationError(
                f"a translation must be 3 finite numbers in meters, none beyond {_MAX_TRANSLATION_M:g}, "
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
        """Identity transform."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_quaternion(cls, translation: npt.ArrayLike, rotation: npt.ArrayLike) -> Transform:
        """Create from meters and a unit quaternion (x, y, z, w).

        Raises:
            CalibrationError: a value is not finite, or the quaternion's length is not 1 within 1 %.
        """
        q = np.asarray(rotation, np.float64).ravel()
        if q.shape != (4,) or not (np.abs(q) < 2).all() or abs(np.linalg.norm(q) - 1.0) > 0.01:
            raise CalibrationError(f"{q.tolist()} is not a rotation: a quaternion is x, y, z, w with length 1.")
        return cls(to_matrix(q), np.asarray(translation, np.float64))

    def to_quaternion(self) -> Floats:
        """(4,) unit quaternion (x, y, z, w) of the rotation."""
        return from_matrix(self.rotation)

    def inverse(self) -> Transform:
        """Inverse transform."""
        return _unchecked(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Transform) -> Transform:
        """a_from_b @ b_from_c = a_from_c."""
        return _unchecked(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Transform points.

        Args:
            points: (N, 3) meters.

        Returns:
            (N, 3) meters of the same dtype.
        """
        moved = points @ self.rotation.T.astype(points.dtype)
        for axis, offset in enumerate(self.translation.astype(points.dtype)):
            moved[..., axis] += offset  # per axis: three times as fast in NumPy as broadcasting over rows of three
        return moved

    def interpolate(self, other: Transform, t: float) -> Transform:
        """Interpolate a fraction t of the way to `other`: translation linearly, rotation by slerp."""
        q = slerp(self.to_quaternion(), other.to_quaternion(), t)
        return _unchecked(to_matrix(q), (1 - t) * self.translation + t * other.translation)


def _unchecked(rotation: Floats, translation: Floats) -> Transform:
    """Create a transform from validated ones without validation, since a sweep needs many lookups."""
    made = object.__new__(Transform)
    object.__setattr__(made, "rotation", rotation)
    object.__setattr__(made, "translation", translation)
    return made


_JUMP_NS = NANOSECONDS // 2
"""Backward step of a frame's stamps in nanoseconds from which on its clock has jumped; reordered messages step less."""
_EQUAL_TOLERANCE = 1e-4
"""Tolerance of equal transforms, in meters and in entries of the rotation matrix."""
_CONFLICT_TOLERANCE = 1e-3
"""Difference beyond which two static transforms contradict each other, in the same units."""


@dataclass
class _Edge:
    """Edge from a frame to a parent: one static transform, or stamped transforms in ascending order.

    Attributes:
        parent: the parent frame.
        source: topic of the transforms; empty for a calibration file.
        static: the static parent_from_child; None for stamped transforms.
        rigid: the common value of all stamped transforms so far; None once one of them differed.
        stamps, moving: nanoseconds, and parent_from_child at each of them.
    """

    parent: str
    source: str = ""
    static: Transform | None = None
    rigid: Transform | None = None
    stamps: list[int] = field(default_factory=list)
    moving: list[Transform] = field(default_factory=list)

    @property
    def is_dynamic(self) -> bool:
        """Whether the frame has moved, or belongs to odometry."""
        return self.static is None and self.rigid is None

    @property
    def newest(self) -> Transform | None:
        """The newest parent_from_child."""
        return self.static or (self.moving[-1] if self.moving else self.rigid)


_Steps = tuple[tuple[str, _Edge], ...]
"""(child, its edge) for each step from a frame up to one of its ancestors."""


class TransformTree:
    """Time-dependent tree of the transforms between frames.

    Its sources are /tf and /tf_static, live or from a bag, and a calibration file. Thread-safe: one writer, many
    readers.

    A stamped transform that has never changed counts as a rigid mounting published on /tf and holds at any stamp. A
    transform to or from one of the `anchors` always counts as robot motion, even at standstill.

    Args:
        history: seconds of moving transforms that are kept.
        tolerance: seconds by which a lookup may lie outside the known stamps; it returns the nearest transform. A
            lookup farther outside raises an error: transforms are not extrapolated.
        capacity: most transforms kept per moving frame, independent of their rate.

    Attributes:
        anchors: names, without prefix, of frames in which the world is static (REP 105).
    """

    def __init__(self, history: float = 10.0, tolerance: float = 0.1, capacity: int = 4096) -> None:
        self.anchors = {"odom", "map", "world", "earth"}
        self._history = int(history * NANOSECONDS)
        self._tolerance = int(tolerance * NANOSECONDS)
        self._capacity = capacity
        self._edges: dict[str, list[_Edge]] = {}  # child → its edges, the valid one first
        self._conflicts: dict[str, tuple[str, Problem]] = {}  # child → topic, problem
        self._from_file: dict[str, tuple[str, Transform]] = {}  # child → parent and transform of a calibration file
        self._movers: set[tuple[str, str]] = set()  # (parent, child) that have moved
        self._lock = Lock()

    def set(self, parent: str, child: str, transform: Transform, stamp: int | None = None, source: str = "") -> None:
        """Add or update the transform parent_from_child.

        A child with another parent moves to the new one, as in TF. If two topics, or two publishers of one topic, keep
        contradicting each other, both parents are kept and `conflicts` reports them.

        A stamp more than half a second before the edge's newest one is a backward clock jump: if the frame moves, all
        moving transforms are removed.

        Args:
            parent: frame name; a leading slash is ignored.
            child: frame name; a leading slash is ignored.
            transform: parent_from_child.
            stamp: nanoseconds; None or 0 for a static transform.
            source: topic of the transform; empty for a calibration file, which any topic overrides.

        Raises:
            CalibrationError: a name is empty, or the frames would form a cycle.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        with self._lock:
            self._check_cycle(parent, child)
            edge = self._edge(parent, child, not stamp, source)
            if not stamp:
                self._set_static(edge, child, transform)
                if not source:
                    self._from_file[child] = parent, transform
            elif edge.static is None or not _close(edge.static, transform, _EQUAL_TOLERANCE):
                self._insert(edge, child, transform, stamp)

    def lookup(self, target: str, source: str, stamp: int | None = None) -> Transform:
        """target_from_source at a stamp.

        Args:
            target: target frame.
            source: source frame.
            stamp: nanoseconds; None for the newest transform. Static and rigid transforms ignore it.

        Raises:
            CalibrationError: a frame is unknown, the frames are not connected, or the stamp is not covered.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        if target == source:
            return Transform.identity()
        with self._lock:
            up, down = self._ancestors(target), self._ancestors(source)
            common = next((frame for frame in down if frame in up), None)
            if common is None:
                raise CalibrationError(
                    f"no transform connects {source!r} to {target!r}; {self._known()}.",
                    "Publish it on /tf or /tf_static or give a calibration file.",
                )
            root_from_source = self._compose_chain(down[common], stamp)
            root_from_target = self._compose_chain(up[common], stamp)
        return root_from_target.inverse() @ root_from_source

    def is_dynamic(self, target: str, source: str) -> bool:
        """Whether two frames are connected and move against each other."""
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            up, down = self._ancestors(target), self._ancestors(source)
            common = next((frame for frame in down if frame in up), None)
            return common is not None and any(edge.is_dynamic for _, edge in (*up[common], *down[common]))

    def remove_source(self, source: str) -> None:
        """Remove all transforms of a topic; restore those of a calibration file that it overrode."""
        with self._lock:
            for child, edges in list(self._edges.items()):
                edges[:] = [edge for edge in edges if edge.source != source]
                self._clean_up(child, edges)
            for child, (parent, transform) in self._from_file.items():
                if child not in self._edges and child not in self._ancestors(parent):
                    self._edges[child] = [_Edge(parent, static=transform)]

    def clock_jumped_to(self, now: int) -> None:
        """Remove all moving transforms if any of them predates a backward clock jump.

        Args:
            now: nanoseconds of the clock after the jump.
        """
        with self._lock:
            if any(e.is_dynamic and e.stamps[-1] > now + _JUMP_NS for edges in self._edges.values() for e in edges):
                self._remove_moving()

    def conflicts(self, frames: Iterable[str]) -> dict[str, Problem]:
        """Topic → contradiction between the transforms of some frames or their ancestors."""
        with self._lock:
            if not self._conflicts:
                return {}
            children = {child for frame in frames for steps in self._ancestors(frame).values() for child, _ in steps}
            return dict(self._conflicts[child] for child in self._conflicts if child in children)

    @property
    def frames(self) -> tuple[str, ...]:
        """All frames of the tree, sorted."""
        with self._lock:
            return self._frames()

    def static_transforms(self) -> list[tuple[str, str, Transform]]:
        """(parent, child, parent_from_child) of all static transforms, in the order of their first insertion."""
        with self._lock:
            pairs = [(child, edge) for child, edges in self._edges.items() for edge in edges]
            return [(edge.parent, child, edge.static) for child, edge in pairs if edge.static is not None]

    def _frames(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._edges) | {edge.parent for edges in self._edges.values() for edge in edges}))

    def _known(self) -> str:
        frames = self._frames()
        return f"known frames are {', '.join(frames)}" if frames else "no frame is known yet"

    def _check_cycle(self, parent: str, child: str) -> None:
        if not parent or not child:
            raise CalibrationError(f"a transform from {child!r} to {parent!r} has an empty frame name.")
        if child in self._ancestors(parent):
            raise CalibrationError(f"making {parent!r} the parent of {child!r} closes a cycle of frames.")

    def _edge(self, parent: str, child: str, static: bool, source: str) -> _Edge:
        """Edge of a new transform; it becomes the child's first one unless it contradicts a valid edge."""
        edges = self._edges.setdefault(child, [])
        if source:
            edges[:] = [edge for edge in edges if edge.source]  # any topic overrides a calibration file
        at = next((i for i, edge in enumerate(edges) if edge.parent == parent), None)
        edge = _Edge(parent, source) if at is None else edges[at]
        others = [other for other in edges if other is not edge]
        edge.source = source
        if not source or not others:
            edges[:] = [edge]
            self._conflicts.pop(child, None)
            return edge
        if child not in self._conflicts:
            # Of two stamped edges the old one may have ended; it is a conflict once the old one is published again.
            if static or any(other.static is not None for other in others) or (at is not None and edges[0] is not edge):
                self._conflicts[child] = source, _two_parents(child, edge, others[0])
            else:
                edges[:] = [edge, *others]
                return edge
        if static:
            edges[:] = [edge, *others]
        elif at is None:
            edges.append(edge)
        return edge

    def _set_static(self, edge: _Edge, child: str, transform: Transform) -> None:
        """Make an edge static; report a contradiction with its earlier static transform."""
        if edge.source and edge.static is not None and not _close(edge.static, transform, _CONFLICT_TOLERANCE):
            apart = np.linalg.norm(edge.static.translation - transform.translation)
            turn = edge.static.rotation.T @ transform.rotation
            angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
            message = (
                f"the static transform from {child!r} to {edge.parent!r} is published with two values, {apart:.3g} m "
                f"and {angle:.3g} degrees apart; the newest is used."
            )
            self._conflicts[child] = edge.source, Problem(message, "Let only one node publish it.")
        edge.static, edge.rigid = transform, None
        edge.stamps.clear()
        edge.moving.clear()

    def _ancestors(self, frame: str) -> dict[str, _Steps]:
        """Ancestor → the steps up to it, nearest first, starting with the frame itself."""
        found: dict[str, _Steps] = {frame: ()}
        todo = [frame]
        for child in todo:
            edges = self._edges.get(child, ())
            for edge in edges if child in self._conflicts else edges[:1]:
                if edge.parent not in found:
                    found[edge.parent] = (*found[child], (child, edge))
                    todo.append(edge.parent)
        return found

    def _compose_chain(self, steps: _Steps, stamp: int | None) -> Transform:
        """ancestor_from_frame: the product of the transforms of a chain at a stamp."""
        result = Transform.identity()
        for child, edge in steps:
            result = self._at(child, edge, stamp) @ result
        return result

    def _at(self, child: str, edge: _Edge, stamp: int | None) -> Transform:
        if edge.static is not None:
            return edge.static
        if stamp is None or not edge.stamps:
            newest = edge.newest
            assert newest is not None
            return newest
        after = bisect.bisect_left(edge.stamps, stamp)
        if 0 < after < len(edge.stamps):
            t0, t1 = edge.stamps[after - 1], edge.stamps[after]
            return edge.moving[after - 1].interpolate(edge.moving[after], (stamp - t0) / (t1 - t0))
        nearest = min(after, len(edge.stamps) - 1)
        gap = abs(stamp - edge.stamps[nearest])
        if gap > self._tolerance and edge.rigid is None:
            side = "after the newest" if stamp > edge.stamps[nearest] else "before the oldest"
            raise CalibrationError(
                f"the transform from {child!r} to {edge.parent!r} is requested {gap / NANOSECONDS:.3f} s {side} "
                f"known one; at most {self._tolerance / NANOSECONDS:g} s is bridged."
            )
        return edge.moving[nearest]

    def _insert(self, edge: _Edge, child: str, transform: Transform, stamp: int) -> None:
        if edge.stamps and stamp < edge.stamps[-1] - _JUMP_NS:
            if edge.is_dynamic:
                self._remove_moving()
                self._edges.setdefault(child, []).append(edge)
            edge.stamps.clear()
            edge.moving.clear()
        if edge.static is not None:
            edge.static = None
            self._movers.add((edge.parent, child))
        elif edge.rigid is None and not edge.stamps and self._may_be_rigid(edge.parent, child):
            edge.rigid = transform
        elif edge.rigid is not None and not _close(edge.rigid, transform, _EQUAL_TOLERANCE):
            edge.rigid = None
            self._movers.add((edge.parent, child))
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

    def _may_be_rigid(self, parent: str, child: str) -> bool:
        return (parent, child) not in self._movers and not {_bare(parent), _bare(child)} & self.anchors

    def _remove_moving(self) -> None:
        for child, edges in list(self._edges.items()):
            edges[:] = [edge for edge in edges if not edge.is_dynamic]
            for edge in edges:
                edge.stamps.clear()
                edge.moving.clear()
            self._clean_up(child, edges)

    def _clean_up(self, child: str, edges: list[_Edge]) -> None:
        """Clean up after the removal of some of a child's edges."""
        if len(edges) < 2:
            self._conflicts.pop(child, None)
        if not edges:
            del self._edges[child]


def _bare(frame: str) -> str:
    """Name of a frame without its robot's prefix."""
    return frame.rsplit("/", 1)[-1]


def _close(a: Transform, b: Transform, within: float) -> bool:
    apart = max(np.abs(a.rotation - b.rotation).max(), np.abs(a.translation - b.translation).max())
    return bool(apart <= within)


def _two_parents(child: str, one: _Edge, other: _Edge) -> Problem:
    return Problem(
        f"frame {child!r} has two parents, {other.parent!r} on {other.source} and {one.parent!r} on {one.source}.",
        "Let only one node publish its transform.",
    )
