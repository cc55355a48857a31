# SPDX-License-Identifier: Apache-2.0
"""A small four-sensor robot for tests: real message types, tiny payloads, every stamp under the test's control."""

from __future__ import annotations

import array

import numpy as np
from event_camera_msgs.msg import EventPacket
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from mlesam_ros.bags import serialization as fields
from mlesam_ros.preprocessing.evt3 import encode_evt3
from mlesam_ros.ros.publishers import message_from
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES

HEIGHT, WIDTH = 48, 64
CAMERA_FRAME, EVENT_FRAME, LIDAR_FRAME = "camera_optical_frame", "event_optical_frame", "lidar"
TOPICS = {CAMERA: "camera/image_raw", DEPTH: "depth/image_raw", EVENT: "events", LIDAR: "lidar/points"}
TYPES = {CAMERA: Image, DEPTH: Image, EVENT: EventPacket, LIDAR: PointCloud2}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # x, y, z, w of an optical frame in one with x forward


def header_message(stamp, frame_id):
    """std_msgs/Header from a stamp in nanoseconds and a TF frame."""
    return message_from(Header, fields.header(stamp, frame_id))


def byte_array(data):
    """Bytes of an array as an array that message setters accept without a check of each element."""
    return array.array("B", data.tobytes())


class Robot:
    """Publishers of all sensors, CameraInfo and TF, controlled by the test.

    Args:
        node: node of the publishers.
        qos: of the sensors.
        frames: the sensor frames that TF knows.
        infos: whether CameraInfo is published.
        static: QoS of /tf_static.
    """

    def __init__(
        self, node, qos=10, frames=(CAMERA_FRAME, EVENT_FRAME, LIDAR_FRAME), infos=True, static=LATCHED
    ) -> None:
        self._node = node
        self._rng = np.random.default_rng(0)
        self._sequence = 0
        self._publishers = {m: node.create_publisher(TYPES[m], TOPICS[m], qos) for m in MODALITIES}
        self._infos = {
            topic: (node.create_publisher(CameraInfo, topic, 10), frame)
            for topic, frame in (("camera/camera_info", CAMERA_FRAME), ("events/camera_info", EVENT_FRAME))
            if infos
        }
        self._static = node.create_publisher(TFMessage, "/tf_static", static)
        self.place(frames)

    @property
    def heard(self) -> bool:
        """Whether every sensor topic has a subscription."""
        return all(publisher.get_subscription_count() for publisher in self._publishers.values())

    def place(self, frames) -> None:
        """Publish the extrinsics of these frames."""
        optical = {CAMERA_FRAME, EVENT_FRAME}
        transforms = []
        for frame in frames:
            stamped = TransformStamped(header=header_message(0, "base_link"), child_frame_id=frame)
            rotation = stamped.transform.rotation
            if frame in optical:
                rotation.x, rotation.y, rotation.z, rotation.w = OPTICAL
            transforms.append(stamped)
        self._static.publish(TFMessage(transforms=transforms))

    def leave(self) -> None:
        """Destroy the publishers, so that those of another robot are the only ones."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)

    def now(self) -> int:
        """The node's time in nanoseconds."""
        return self._node.get_clock().now().nanoseconds

    def sense(self, sensors=MODALITIES, stamp: int | None = None) -> int:
        """Publish one reading of each of these sensors, all with one stamp, which is returned."""
        stamp = self.now() if stamp is None else stamp
        for publisher, frame in self._infos.values():
            publisher.publish(camera_info(header_message(stamp, frame)))
        for modality in sensors:
            self._publishers[modality].publish(getattr(self, f"_{modality}")(stamp))
        return stamp

    def send(self, modality: str, message) -> None:
        """Publish a message of the test's own making."""
        self._publishers[modality].publish(message)

    def _camera(self, stamp: int) -> Image:
        pixels = self._rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        return message_from(Image, fields.pixels(stamp, CAMERA_FRAME, pixels, "rgb8"))

    def _depth(self, stamp: int) -> Image:
        millimeters = self._rng.integers(500, 20000, (HEIGHT, WIDTH)).astype("<u2")
        message = Image(header=header_message(stamp, CAMERA_FRAME), height=HEIGHT, width=WIDTH, encoding="16UC1")
        message.step, message.data = 2 * WIDTH, byte_array(millimeters)
        return message

    def _lidar(self, stamp: int) -> PointCloud2:
        points = np.zeros(500, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
        points["x"] = self._rng.uniform(2, 30, 500)
        points["y"] = self._rng.uniform(-1, 1, 500) * points["x"]
        points["z"] = self._rng.uniform(-0.5, 0.5, 500) * points["x"]
        points["intensity"] = self._rng.uniform(0, 1, 500)
        columns = [
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate(points.dtype.names)
        ]
        message = PointCloud2(header=header_message(stamp, LIDAR_FRAME), height=1, width=500, fields=columns)
        message.point_step, message.row_step, message.data = 16, 8000, byte_array(points)
        return message

    def _event(self, stamp: int) -> EventPacket:
        count = 200
        times = np.sort(self._rng.integers(0, 5000, count)) + stamp // 1000 % 1_000_000
        x, y = self._rng.integers(0, WIDTH, count), self._rng.integers(0, HEIGHT, count)
        events = encode_evt3(x, y, times, self._rng.integers(0, 2, count))
        message = EventPacket(header=header_message(stamp - 5_000_000, EVENT_FRAME), height=HEIGHT, width=WIDTH)
        message.seq, message.encoding, message.events = self._sequence, "evt3", byte_array(events)
        self._sequence += 1
        return message


def camera_info(head) -> CameraInfo:
    """90 degrees wide, no distortion."""
    focal = WIDTH / 2
    k = [focal, 0.0, WIDTH / 2 - 0.5, 0.0, focal, HEIGHT / 2 - 0.5, 0.0, 0.0, 1.0]
    p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
    info = CameraInfo(header=head, height=HEIGHT, width=WIDTH, distortion_model="plumb_bob", d=[0.0] * 5, k=k, p=p)
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    return info


def clock_message(stamp: int):
    """`rosgraph_msgs/Clock`."""
    from rosgraph_msgs.msg import Clock

    return message_from(Clock, {"clock": fields.header(stamp, "")["stamp"]})
