"""The last seconds of the sensors as a bag, on request."""

from __future__ import annotations

import threading
from collections.abc import Mapping
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

from mlesam_ros.bags.ring import BufferedMessage, RingBuffer, write_snapshot
from mlesam_ros.config import CameraParameters, NodeParameters
from mlesam_ros.errors import format_error
from mlesam_ros.frame import MODALITIES
from mlesam_ros.ros.compat.interfaces import message_class
from mlesam_ros.ros.topics import SERVICES

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
