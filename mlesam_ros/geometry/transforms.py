"""Rigid transforms, unit quaternions (x, y, z, w), and the tree of frames that they connect."""

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
    """(3, 3) rotation matrix of a (4,) quaternion, which is normalized first."""
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

    The largest of the four components is computed first, so that no division is by a small number
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
    """The rotation a fraction t of the shorter way from a to b, at constant angular velocity.

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


_FARTHEST = 1e9
"""Meters. Nothing on a robot's map is farther away, and sums of what is still are numbers."""


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
        """From meters and a unit quaternion (x, y, z, w).

        Raises:
            CalibrationError: not finite, or the quaternion's length is not 1 within 1 %.
        """
        q = np.asarray(rotation, np.float64).ravel()
        if q.shape != (4,) or not (np.abs(q) < 2).all() or abs(np.linalg.norm(q) - 1.0) > 0.01:
            raise CalibrationError(f"{q.tolist()} is not a rotation: a quaternion is x, y, z, w with length 1.")
        return cls(to_matrix(q), np.asarray(translation, np.float64))

    def to_quaternion(self) -> Floats:
        """(4,) unit quaternion (x, y, z, w) of the rotation."""
        return from_matrix(self.rotation)

    def inverse(self) -> Transform:
        """The way back."""
        return _unchecked(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Transform) -> Transform:
        """a_from_b @ b_from_c = a_from_c."""
        return _unchecked(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Move points.

        Args:
            points: (N, 3) meters.

        Returns:
            (N, 3) meters of the same floating type.
        """
        moved = points @ self.rotation.T.astype(points.dtype)
        for axis, offset in enumerate(self.translation.astype(points.dtype)):
            moved[..., axis] += offset  # one by one; with rows of three NumPy takes three times as long
        return moved

    def interpolate(self, other: Transform, t: float) -> Transform:
        """The motion a fraction t of the way to `other`: translation linear, rotation at constant angular velocity."""
        q = slerp(self.to_quaternion(), other.to_quaternion(), t)
        return _unchecked(to_matrix(q), (1 - t) * self.translation + t * other.translation)


def _unchecked(rotation: Floats, translation: Floats) -> Transform:
    """A transform made of such that have been checked: the tree is asked many times for a sweep."""
    made = object.__new__(Transform)
    object.__setattr__(made, "rotation", rotation)
    object.__setattr__(made, "translation", translation)
    return made


_JUMP = NANOSECONDS // 2
"""Nanoseconds by which a frame's stamps go back when its clock has jumped; what arrives out of order goes back less."""
_EQUAL = 1e-4
"""Meters and entries of a rotation matrix within which two transforms are the same one."""
_DIFFERENT = 1e-3
"""The same, beyond which two static transforms contradict each other."""


@dataclass
class _Edge:
    """How a frame hangs on a parent: one transform for ever, or one per stamp in rising order.

    Attributes:
        parent: the parent frame.
        source: topic that it was published on; empty for a calibration file.
        static: parent_from_child for ever; None for a stamped one.
        rigid: what all stamped ones have been so far; None once one of them differed.
        stamps, moving: nanoseconds, and parent_from_child at each.
    """

    parent: str
    source: str = ""
    static: Transform | None = None
    rigid: Transform | None = None
    stamps: list[int] = field(default_factory=list)
    moving: list[Transform] = field(default_factory=list)

    @property
    def is_dynamic(self) -> bool:
        """Whether the frame has been seen to move, or belongs to odometry."""
        return self.static is None and self.rigid is None

    @property
    def newest(self) -> Transform | None:
        """parent_from_child as it was last published."""
        return self.static or (self.moving[-1] if self.moving else self.rigid)


_Steps = tuple[tuple[str, _Edge], ...]
"""(child, its edge) of each step from a frame up to one of its ancestors."""


class TransformTree:
    """Which frame sits where, and when.

    Live it is fed from /tf and /tf_static, offline from a bag, without TF from a calibration file. Safe to write in one
    thread and read in another.

    A stamped transform that has never changed is a rigid mounting that is published on /tf: it holds at any stamp. A
    transform to or from one of the `anchors` is a robot's motion, also while the robot stands still.

    Args:
        history: seconds of moving transforms that are kept.
        tolerance: seconds by which a lookup may lie outside what is known; the nearest transform is used there.
            Beyond it the lookup is refused: nothing is extrapolated.
        capacity: most transforms kept per moving frame, whatever their rate.

    Attributes:
        anchors: names, without their prefix, of frames that the world stands still in (REP 105).
    """

    def __init__(self, history: float = 10.0, tolerance: float = 0.1, capacity: int = 4096) -> None:
        self.anchors = {"odom", "map", "world", "earth"}
        self._history = int(history * NANOSECONDS)
        self._tolerance = int(tolerance * NANOSECONDS)
        self._capacity = capacity
        self._edges: dict[str, list[_Edge]] = {}  # child → its edges, the one that counts first
        self._conflicts: dict[str, tuple[str, Problem]] = {}  # child → topic, problem
        self._filed: dict[str, tuple[str, Transform]] = {}  # child → parent and transform of a calibration file
        self._movers: set[tuple[str, str]] = set()  # (parent, child) that have been seen to move
        self._lock = Lock()

    def set(self, parent: str, child: str, transform: Transform, stamp: int | None = None, source: str = "") -> None:
        """Learn that parent_from_child is `transform`.

        A child that had another parent is moved to the new one, as TF does. Where two topics, or two publishers of one,
        keep contradicting each other, both parents are kept and `conflicts` names them.

        A stamp that lies half a second before the frame's newest one is a clock that jumped back: everything that
        moves is forgotten.

        Args:
            parent: frame name; a leading slash is ignored.
            child: frame name.
            transform: parent_from_child.
            stamp: nanoseconds at which it holds; None or 0 for always.
            source: topic that it comes from; empty for a calibration file, which any topic overrides.

        Raises:
            CalibrationError: an empty name, or the two frames would form a circle.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        with self._lock:
            self._refuse_circle(parent, child)
            edge = self._edge(parent, child, not stamp, source)
            if not stamp:
                self._fix(edge, child, transform)
                if not source:
                    self._filed[child] = parent, transform
            elif edge.static is None or not _same(edge.static, transform, _EQUAL):
                self._insert(edge, child, transform, stamp)

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

    def is_dynamic(self, target: str, source: str) -> bool:
        """Whether the two frames are connected, and move against each other."""
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            up, down = self._ancestors(target), self._ancestors(source)
            common = next((frame for frame in down if frame in up), None)
            return common is not None and any(edge.is_dynamic for _, edge in (*up[common], *down[common]))

    def clear_moving(self) -> None:
        """Forget every transform that moves, as after a clock that jumped; static and rigid ones stay."""
        with self._lock:
            self._forget_moving()

    def forget(self, source: str) -> None:
        """Forget every transform that came from a topic; those of a calibration file that it overrode hold again."""
        with self._lock:
            for child, edges in list(self._edges.items()):
                edges[:] = [edge for edge in edges if edge.source != source]
                self._tidy(child, edges)
            for child, (parent, transform) in self._filed.items():
                if child not in self._edges and child not in self._ancestors(parent):
                    self._edges[child] = [_Edge(parent, static=transform)]

    def clock_jumped_to(self, now: int) -> None:
        """Forget every transform that moves, if some of them are from before a clock jumped back.

        Args:
            now: nanoseconds of the clock after the jump.
        """
        with self._lock:
            if any(e.is_dynamic and e.stamps[-1] > now + _JUMP for edges in self._edges.values() for e in edges):
                self._forget_moving()

    def conflicts(self, frames: Iterable[str]) -> dict[str, Problem]:
        """Topic → contradiction between the transforms that some frames, or their ancestors, hang by."""
        with self._lock:
            if not self._conflicts:
                return {}
            children = {child for frame in frames for steps in self._ancestors(frame).values() for child, _ in steps}
            return dict(self._conflicts[child] for child in self._conflicts if child in children)

    @property
    def frames(self) -> tuple[str, ...]:
        """Every frame named so far, sorted."""
        with self._lock:
            return self._frames()

    def static_transforms(self) -> list[tuple[str, str, Transform]]:
        """(parent, child, parent_from_child) of every frame that never moves, in the order they were learnt."""
        with self._lock:
            pairs = [(child, edge) for child, edges in self._edges.items() for edge in edges]
            return [(edge.parent, child, edge.static) for child, edge in pairs if edge.static is not None]

    def _frames(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._edges) | {edge.parent for edges in self._edges.values() for edge in edges}))

    def _known(self) -> str:
        frames = self._frames()
        return f"known frames are {', '.join(frames)}" if frames else "no frame is known yet"

    def _refuse_circle(self, parent: str, child: str) -> None:
        if not parent or not child:
            raise CalibrationError(f"a transform from {child!r} to {parent!r} has a frame without a name.")
        if child in self._ancestors(parent):
            raise CalibrationError(f"making {parent!r} the parent of {child!r} closes a circle of frames.")

    def _edge(self, parent: str, child: str, static: bool, source: str) -> _Edge:
        """The edge that a transform belongs to, put first among the child's unless it contradicts a better one."""
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
            # Of two that are published with stamps the old one may have ended; it comes again where both go on.
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

    def _fix(self, edge: _Edge, child: str, transform: Transform) -> None:
        """A transform for ever."""
        if edge.source and edge.static is not None and not _same(edge.static, transform, _DIFFERENT):
            apart = np.linalg.norm(edge.static.translation - transform.translation)
            turn = edge.static.rotation.T @ transform.rotation
            angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
            message = (
                f"the static transform from {child!r} to {edge.parent!r} is published with two values, {apart:.3g} m "
                f"and {angle:.3g} degrees apart; the newest is used."
            )
            self._conflicts[child] = edge.source, Problem(message, "Let one node alone publish it.")
        edge.static, edge.rigid = transform, None
        edge.stamps.clear()
        edge.moving.clear()

    def _ancestors(self, frame: str) -> dict[str, _Steps]:
        """Every frame above one, itself first and the nearest next → the steps up to it."""
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
        """ancestor_from_first for a chain of frames, each the child of the next."""
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
                f"the transform from {child!r} to {edge.parent!r} is asked for {gap / NANOSECONDS:.3f} s {side} one "
                f"known; at most {self._tolerance / NANOSECONDS:g} s is bridged."
            )
        return edge.moving[nearest]

    def _insert(self, edge: _Edge, child: str, transform: Transform, stamp: int) -> None:
        if edge.stamps and stamp < edge.stamps[-1] - _JUMP:
            if edge.is_dynamic:
                self._forget_moving()
                self._edges.setdefault(child, []).append(edge)
            edge.stamps.clear()
            edge.moving.clear()
        if edge.static is not None:
            edge.static = None
            self._movers.add((edge.parent, child))
        elif edge.rigid is None and not edge.stamps and self._may_be_rigid(edge.parent, child):
            edge.rigid = transform
        elif edge.rigid is not None and not _same(edge.rigid, transform, _EQUAL):
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

    def _forget_moving(self) -> None:
        for child, edges in list(self._edges.items()):
            edges[:] = [edge for edge in edges if not edge.is_dynamic]
            for edge in edges:
                edge.stamps.clear()
                edge.moving.clear()
            self._tidy(child, edges)

    def _tidy(self, child: str, edges: list[_Edge]) -> None:
        """After some of a child's edges went."""
        if len(edges) < 2:
            self._conflicts.pop(child, None)
        if not edges:
            del self._edges[child]


def _bare(frame: str) -> str:
    """A frame's name without the prefix of its robot."""
    return frame.rsplit("/", 1)[-1]


def _same(a: Transform, b: Transform, within: float) -> bool:
    apart = max(np.abs(a.rotation - b.rotation).max(), np.abs(a.translation - b.translation).max())
    return bool(apart <= within)


def _two_parents(child: str, one: _Edge, other: _Edge) -> Problem:
    return Problem(
        f"frame {child!r} has two parents, {other.parent!r} on {other.source} and {one.parent!r} on {one.source}.",
        "Let one node alone publish where it sits.",
    )
