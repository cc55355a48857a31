"""Keep the last seconds of all inputs in memory, and save them as a bag on request."""

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
from mlesam_ros.config import CameraParameters, NodeParameters
from mlesam_ros.errors import BagError, format_error
from mlesam_ros.ros.compat import message_class
from mlesam_ros.ros.topics import SERVICES
from mlesam_ros.types import MODALITIES, NANOSECONDS

_LATCHED = 1000
"""Latched messages that are kept for ever: a robot's static transforms come in one or in hundreds. More are kept like
others, such as those that come again and again with new stamps."""


@dataclass(frozen=True, slots=True)
class BufferedMessage:
    """One message.

    Attributes:
        topic, type_name: as `BagWriter` takes them.
        stamp: nanoseconds at which it was received.
        raw: serialized (CDR).
        latched: what it says holds until somebody says otherwise.
    """

    topic: str
    type_name: str
    stamp: int
    raw: bytes
    latched: bool = False


class RingBuffer:
    """Keeps the newest messages. Any thread may call it.

    Latched messages, and the newest one of the topics that are `lasting`, outlive the window: without the lens and the
    mounting of the sensors a bag is of little use.

    Args:
        seconds: how far back it reaches.
        most_bytes: of messages that are neither latched nor lasting.
        lasting: topics whose newest message is kept however old it is.
    """

    def __init__(self, seconds: float, most_bytes: int, lasting: Sequence[str] = ()) -> None:
        self._window = round(seconds * NANOSECONDS)
        self._most = most_bytes
        self._lasting = frozenset(lasting)
        self._messages: deque[BufferedMessage] = deque()
        self._bytes = 0
        self._latched: dict[tuple[str, bytes], BufferedMessage] = {}
        self._newest: dict[str, BufferedMessage] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._messages) + len(self._latched)

    @property
    def bytes(self) -> int:
        """Of the messages within the window."""
        return self._bytes

    def add(self, message: BufferedMessage) -> None:
        """Keep a message and let go of what is too old or too much. Stamps that jump back start the window anew."""
        with self._lock:
            known = (message.topic, message.raw) in self._latched
            if message.latched and (known or len(self._latched) < _LATCHED):
                self._latched.setdefault((message.topic, message.raw), message)
                return
            if self._messages and message.stamp < self._messages[-1].stamp - self._window:
                self._messages.clear()
                self._bytes = 0
            self._messages.append(message)
            self._bytes += len(message.raw)
            while self._messages and (
                self._bytes > self._most or message.stamp - self._messages[0].stamp > self._window
            ):
                self._evict()

    def contents(self) -> list[BufferedMessage]:
        """What is kept, in the order of receipt; what outlived the window is stamped with its beginning.

        A topic whose type changed begins with the new one: a bag knows one type per topic.
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
        if message.topic in self._lasting:
            self._newest[message.topic] = message
        if not self._messages:
            self._bytes = 0


def write_snapshot(ring: RingBuffer, path: Path, given_up: Callable[[], bool] = lambda: False) -> int:
    """Write what a ring holds as a bag, which appears whole or not at all.

    Args:
        ring: which goes on listening meanwhile.
        path: of the bag's folder, which must not exist.
        given_up: asked before every message whether to stop.

    Returns:
        how many messages were written.

    Raises:
        BagError: there is nothing to write, the folder exists, the disk is full or it was given up.
    """
    contents = ring.contents()
    if not contents:
        raise BagError("no message was kept yet.", "Wait until the sensors have been heard.")
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        _write(contents, draft / path.name, given_up)
        if path.exists():
            raise BagError(f"{path} exists already; bags are never overwritten.", f"Remove {path} first.")
        (draft / path.name).rename(path)
    except (OSError, BagError) as error:
        full = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(full, OSError):
            raise
        raise BagError(f"{path} cannot be made: {full.strerror}.", "Set snapshot_folder to another.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return len(contents)


def _write(contents: Sequence[BufferedMessage], path: Path, given_up: Callable[[], bool]) -> None:
    with BagWriter(path) as bag:
        for message in contents:
            if given_up():
                raise BagError("the snapshot was given up: the node ends.")
            bag.add_raw(message.topic, message.type_name, message.stamp, message.raw, message.latched)


_MEGABYTE = 1_000_000
_DEPTH = 20


class Snapshot:
    """Keeps serialized messages while `snapshot_seconds` is not zero, and offers `~/save_snapshot` always.

    It has subscriptions of its own to the sensors, which take bytes and unpack nothing. CameraInfo and transforms come
    from the rig's by `keep`. The bag is written in a thread of its own.

    Args:
        node: whose topics are recorded.
        parameters: as configured.
    """

    def __init__(self, node: Node, parameters: NodeParameters) -> None:
        self._node = node
        self._folder = Path(parameters.snapshot_folder or ".")
        self._subscriptions: dict[str, Subscription[Any]] = {}
        self._types: dict[str, str | None] = {}  # of the topics that are followed
        self._writing: threading.Thread | None = None
        self._closed = threading.Event()
        self._ring: RingBuffer | None = None
        if parameters.snapshot_seconds > 0:
            infos = [node.resolve_topic_name(topic) for topic in _info_topics(parameters)]
            self._ring = RingBuffer(parameters.snapshot_seconds, parameters.snapshot_megabytes * _MEGABYTE, infos)
        (name,) = SERVICES
        # A group of its own: while the answer is awaited, nothing else of the same group would be called.
        group = MutuallyExclusiveCallbackGroup()
        self._service = node.create_service(Trigger, f"~/{name}", self._save, callback_group=group)

    def close(self) -> None:
        """Stop listening; a bag that is being written is given up, for it may take minutes."""
        self._closed.set()
        self._node.destroy_service(self._service)
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._ring = None
        if self._writing is not None:
            self._writing.join()

    def follow(self, types: Mapping[str, str | None]) -> None:
        """Record these topics from now on: topic → message type, None for one that is not listened to.

        A process of DDS knows one type per topic: who went on listening to the old one would bar the new one.
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
        kind = message_class(type_name)
        if kind is None:
            return
        qos = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        keep = partial(self.keep, self._node.resolve_topic_name(topic), type_name)
        self._subscriptions[topic] = self._node.create_subscription(kind, topic, keep, qos, raw=True)

    def keep(self, topic: str, type_name: str, raw: bytes, latched: bool = False) -> None:
        """Keep the bytes of a message, for ever where it is latched."""
        if self._ring is not None:
            now = int(self._node.get_clock().now().nanoseconds)
            self._ring.add(BufferedMessage(topic, type_name, now, bytes(raw), latched))

    async def _save(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The service: sensors are read and masks made while the bag is written."""
        if self._ring is None:
            response.message = "nothing is kept: snapshot_seconds is 0; set it while the node is unconfigured."
            return response
        if self._writing is not None and self._writing.is_alive():
            response.message = "a snapshot is being written; ask again when it is done."
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
        except Exception as error:  # whatever it was, somebody waits for the answer
            done.set_result((False, format_error(error)))
        else:
            done.set_result((True, str(path)))


def _info_topics(parameters: NodeParameters) -> list[str]:
    sensors = [parameters.sensor(modality) for modality in MODALITIES]
    return [s.info_topic for s in sensors if isinstance(s, CameraParameters) and s.info_topic]
