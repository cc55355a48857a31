# SPDX-License-Identifier: Apache-2.0
"""Ring buffer of the last seconds of all inputs, and the service that saves it as a bag."""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.task import Future
from std_srvs.srv import Trigger

from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import BagError, format_error
from mlesam_ros.mask_messages import InterfaceSpec
from mlesam_ros.parameter_groups import CameraParameters
from mlesam_ros.ros.compat import message_class
from mlesam_ros.types import MODALITIES, NANOSECONDS

_MAX_LATCHED = 1000
"""Maximum number of latched messages that are kept permanently, enough for hundreds of static transforms. Further ones,
such as those republished with new stamps, are kept like other messages."""


@dataclass(frozen=True, slots=True)
class BufferedMessage:
    """A serialized message in the buffer.

    Attributes:
        topic, type_name: topic and message type, as `BagWriter` takes them.
        stamp: time of receipt in nanoseconds.
        raw: serialized message (CDR).
        latched: whether its content stays valid until it is replaced.
    """

    topic: str
    type_name: str
    stamp: int
    raw: bytes
    latched: bool = False


class RingBuffer:
    """Keeps the newest messages. Thread-safe.

    Latched messages and the newest message of each topic in `keep_last` outlive the window, because a bag is of little
    use without the intrinsics and extrinsics of the sensors.

    Args:
        seconds: length of the window.
        max_bytes: maximum number of bytes within the window.
        keep_last: topics whose newest message is kept beyond the window.
    """

    def __init__(self, seconds: float, max_bytes: int, keep_last: Sequence[str] = ()) -> None:
        self._window = round(seconds * NANOSECONDS)
        self._max_bytes = max_bytes
        self._keep_last = frozenset(keep_last)
        self._messages: deque[BufferedMessage] = deque()
        self._bytes = 0
        self._latched: dict[tuple[str, bytes], BufferedMessage] = {}
        self._newest: dict[str, BufferedMessage] = {}
        self._lock = threading.Lock()

    def add(self, message: BufferedMessage) -> None:
        """Add a message and evict those beyond window or size. A backward jump by more than the window clears it."""
        with self._lock:
            known = (message.topic, message.raw) in self._latched
            if message.latched and (known or len(self._latched) < _MAX_LATCHED):
                self._latched.setdefault((message.topic, message.raw), message)
                return
            if self._messages and message.stamp < self._messages[-1].stamp - self._window:
                self._messages.clear()
                self._bytes = 0
            self._messages.append(message)
            self._bytes += len(message.raw)
            while self._messages and (
                self._bytes > self._max_bytes or message.stamp - self._messages[0].stamp > self._window
            ):
                self._evict()

    def contents(self) -> list[BufferedMessage]:
        """Return the messages in the order of receipt; those older than the window are stamped with its beginning.

        Of a topic whose type changed, only messages of the new type are returned: a bag has one type per topic.
        """
        with self._lock:
            recent = list(self._messages)
            within = {message.topic for message in recent}
            old = [*self._latched.values(), *(m for topic, m in self._newest.items() if topic not in within)]
        if not recent:
            return []
        newest = {message.topic: message.type_name for message in recent}
        recent = [message for message in recent if message.type_name == newest[message.topic]]
        begin = min(message.stamp for message in recent)
        moved = [BufferedMessage(m.topic, m.type_name, max(m.stamp, begin), m.raw, m.latched) for m in old]
        return sorted([*moved, *recent], key=lambda message: message.stamp)

    def _evict(self) -> None:
        message = self._messages.popleft()
        self._bytes -= len(message.raw)
        if message.topic in self._keep_last:
            self._newest[message.topic] = message
        if not self._messages:
            self._bytes = 0


def write_snapshot(ring: RingBuffer, path: Path, is_aborted: Callable[[], bool] = lambda: False) -> int:
    """Write the contents of a ring buffer as a bag, atomically.

    Args:
        ring: ring buffer, which may receive messages meanwhile.
        path: folder of the bag; must not exist.
        is_aborted: called before every message; returns whether to abort.

    Returns:
        number of messages written.

    Raises:
        BagError: the buffer is empty, the folder exists, the disk is full, or writing was aborted.
    """
    contents = ring.contents()
    if not contents:
        raise BagError("the buffer has no message yet.", "Wait until messages of the sensors arrive.")
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        _write(contents, draft / path.name, is_aborted)
        if path.exists():
            raise BagError(f"{path} exists already; bags are never overwritten.", f"Remove {path} first.")
        (draft / path.name).rename(path)
    except (OSError, BagError) as error:
        full = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(full, OSError):
            raise
        raise BagError(f"{path} cannot be written: {full.strerror}.", "Set snapshot_folder to another.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return len(contents)


def _write(contents: Sequence[BufferedMessage], path: Path, is_aborted: Callable[[], bool]) -> None:
    with BagWriter(path) as bag:
        for message in contents:
            if is_aborted():
                raise BagError("snapshot aborted: the node is shutting down.")
            bag.add_raw(message.topic, message.type_name, message.stamp, message.raw, message.latched)


SERVICES = {
    "save_snapshot": InterfaceSpec(
        "std_srvs/srv/Trigger",
        "Writes the messages of the last `snapshot_seconds` as a bag; the response has its path, or the failure.",
    ),
}
"""Service below the node's name, beside those of every lifecycle node → its description."""

_MEGABYTE = 1_000_000
_QUEUE_DEPTH = 20


class Snapshot:
    """Buffers serialized messages if `snapshot_seconds` is not 0, and always provides the service `~/save_snapshot`.

    It has separate raw subscriptions to the sensors. CameraInfo and transforms are passed to `keep` by the
    `CalibrationListener`. The bag is written in a separate thread.

    Args:
        node: node whose topics are recorded.
        parameters: parameters at configure.
    """

    def __init__(self, node: Node, parameters: NodeParameters) -> None:
        self._node = node
        self._folder = Path(parameters.snapshot_folder or ".")
        self._subscriptions: dict[str, Subscription[Any]] = {}
        self._types: dict[str, str | None] = {}  # topic → type of its subscription
        self._writing: threading.Thread | None = None
        self._closed = threading.Event()
        self._ring: RingBuffer | None = None
        if parameters.snapshot_seconds > 0:
            infos = [node.resolve_topic_name(topic) for topic in _info_topics(parameters)]
            self._ring = RingBuffer(parameters.snapshot_seconds, parameters.snapshot_megabytes * _MEGABYTE, infos)
        (name,) = SERVICES
        # A separate group: the pending response would block other callbacks of the same group.
        group = MutuallyExclusiveCallbackGroup()
        self._service = node.create_service(Trigger, f"~/{name}", self._save, callback_group=group)

    def close(self) -> None:
        """Destroy subscriptions and service; abort a bag that is being written, because it may take minutes."""
        self._closed.set()
        self._node.destroy_service(self._service)
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._ring = None
        if self._writing is not None:
            self._writing.join()

    def follow(self, types: Mapping[str, str | None]) -> None:
        """Record these topics: topic → message type, None for topics without a subscription.

        A DDS participant has one type per topic, so the subscription of an old type is destroyed first.
        """
        if self._ring is None:
            return
        for topic, type_name in types.items():
            if self._types.get(topic) == type_name:
                continue
            if topic in self._subscriptions:
                self._node.destroy_subscription(self._subscriptions.pop(topic))
            if type_name is not None:
                self._listen(topic, type_name)
            self._types[topic] = type_name

    def _listen(self, topic: str, type_name: str) -> None:
        message = message_class(type_name)
        if message is None:
            return
        qos = QoSProfile(depth=_QUEUE_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        keep = partial(self.keep, self._node.resolve_topic_name(topic), type_name)
        self._subscriptions[topic] = self._node.create_subscription(message, topic, keep, qos, raw=True)

    def keep(self, topic: str, type_name: str, raw: bytes, latched: bool = False) -> None:
        """Buffer a serialized message, permanently if it is latched."""
        if self._ring is not None:
            now = int(self._node.get_clock().now().nanoseconds)
            self._ring.add(BufferedMessage(topic, type_name, now, bytes(raw), latched))

    async def _save(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Handle the service request; the node continues to make masks while the bag is written."""
        if self._ring is None:
            response.message = "no message is buffered: snapshot_seconds is 0; set it while the node is unconfigured."
            return response
        if self._writing is not None and self._writing.is_alive():
            response.message = "a snapshot is being written; call again when it is complete."
            return response
        done: Future[tuple[bool, str]] = Future(executor=self._node.executor)
        path = (self._folder / f"snapshot_{datetime.now():%Y%m%d_%H%M%S_%f}").absolute()
        self._writing = threading.Thread(target=self._write, args=(self._ring, path, done), name="mlesam_snapshot")
        self._writing.start()
        response.success, response.message = await done
        self._node.get_logger().info(f"snapshot: {response.message}")
        return response

    def _write(self, ring: RingBuffer, path: Path, done: Future[tuple[bool, str]]) -> None:
        try:
            write_snapshot(ring, path, self._closed.is_set)
        except Exception as error:  # the service must respond after any error
            done.set_result((False, format_error(error)))
        else:
            done.set_result((True, str(path)))


def _info_topics(parameters: NodeParameters) -> list[str]:
    sensors = [view.sensor(modality) for view in parameters.views.values() for modality in MODALITIES]
    return list(dict.fromkeys(s.info_topic for s in sensors if isinstance(s, CameraParameters) and s.info_topic))
