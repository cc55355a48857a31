# SPDX-License-Identifier: Apache-2.0
"""Publisher of every supported message type, each on its own topic, at 10 Hz until the process is ended.

`KINDS` names them; topics are such as `reliable/camera/rgb8`. All kinds of one sensor show the same scene. The first
kind of each is also published best effort and latched, below `best_effort/` and `latched/`.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from event_camera_msgs.msg import EventPacket
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from robot import (
    CAMERA_FRAME,
    EVENT_FRAME,
    HEIGHT,
    LATCHED,
    LIDAR_FRAME,
    OPTICAL,
    WIDTH,
    byte_array,
    camera_info,
    header_message,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from tf2_msgs.msg import TFMessage

from mlesam_ros.preprocessing.evt3 import encode_evt3

Make = Callable[[int], object]
ROWS, COLS = np.mgrid[:HEIGHT, :WIDTH]
GRAY = (40 + 3 * COLS).astype(np.uint8)
RGB = np.dstack([GRAY] * 3)
METERS = (2 + ROWS / 4).astype(np.float32)
EVENTS = 200  # per message, all in the left half
POINTS = np.array([(8 + d / 10, y / 4, z / 4) for d in range(10) for y in range(-12, 13) for z in range(-6, 7)], "<f4")


def image(encoding: str, samples: np.ndarray, padding: int = 0, big: bool = False) -> Make:
    raw = np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder(">" if big else "<")))
    rows = raw.reshape(HEIGHT, -1).view(np.uint8).reshape(HEIGHT, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))

    def make(stamp: int) -> Image:
        message = Image(header=header_message(stamp, CAMERA_FRAME), height=HEIGHT, width=WIDTH, encoding=encoding)
        message.is_bigendian, message.step, message.data = int(big), rows.shape[1], byte_array(rows)
        return message

    return make


def compressed(form: str, data: bytes, frame: str = CAMERA_FRAME) -> Make:
    return lambda stamp: CompressedImage(header=header_message(stamp, frame), format=form, data=data)


def file(suffix: str, samples: np.ndarray) -> bytes:
    return bytes(cv2.imencode(suffix, samples)[1])


def uyvy() -> np.ndarray:
    """Gray in studio range; Y of two pixels between neutral U and V."""
    y = (16 + GRAY.astype(int) * 219 // 255).astype(np.uint8)
    return np.dstack([np.full_like(y, 128), y])


def in_frame(make: Make, frame: str) -> Make:
    def renamed(stamp: int) -> object:
        message = make(stamp)
        message.header.frame_id = frame  # type: ignore[attr-defined]
        return message

    return renamed


def packet(encoding: str) -> Make:
    def make(stamp: int) -> EventPacket:
        x, y, t = _events(stamp)
        begin = stamp - 5_000_000
        message = EventPacket(header=header_message(begin, EVENT_FRAME), height=HEIGHT, width=WIDTH, encoding=encoding)
        message.seq, message.time_base = make.sequence, begin  # type: ignore[attr-defined]
        make.sequence += 1  # type: ignore[attr-defined]
        message.events = byte_array(_ENCODE[encoding](x, y, t - begin, np.ones(EVENTS, int)))
        return message

    make.sequence = 0  # type: ignore[attr-defined]
    return make


def _events(stamp: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = np.arange(EVENTS)
    return n % (WIDTH // 2), n % HEIGHT, stamp - 5_000_000 + n * 20_000


def _mono(x, y, t, p) -> np.ndarray:
    return (p.astype("<u8") << 63 | y.astype("<u8") << 48 | x.astype("<u8") << 32 | t.astype("<u8")).view(np.uint8)


def _libcaer(x, y, t, p) -> np.ndarray:
    return np.stack([x << 17 | y << 2 | p << 1 | 1, t // 1000], 1).astype("<u4").view(np.uint8)


def _libcaer_cmp(x, y, t, p) -> np.ndarray:
    us = t // 1000
    words = np.stack([us >> 12, 1 << 12 | us & 0xFFF, 2 << 12 | x, 3 << 12 | p << 11 | y], 1)
    return words.astype("<u2").view(np.uint8)


_ENCODE = {
    "evt3": lambda x, y, t, p: encode_evt3(x, y, t // 1000, p),
    "mono": _mono,
    "libcaer": _libcaer,
    "libcaer_cmp": _libcaer_cmp,
}


def array(package: str) -> Make:
    types = import_module(f"{package}.msg")

    def make(stamp: int) -> object:
        message = types.EventArray(header=header_message(stamp - 5_000_000, EVENT_FRAME), height=HEIGHT, width=WIDTH)
        for x, y, t in zip(*(column.tolist() for column in _events(stamp)), strict=True):
            sec, nanosec = divmod(t, 10**9)
            message.events.append(types.Event(x=x, y=y, ts=Time(sec=sec, nanosec=nanosec), polarity=True))
        return message

    return make


def cloud(kind: str = "<f4", extra: str = "", rows: int = 1, padding: int = 0, holes: bool = False) -> Make:
    """Points with x, y, z of a type, a further field of another, and padding at the end of each."""
    names = ["x", "y", "z", *([extra] if extra else [])]
    size = np.dtype(kind).itemsize
    formats = [kind] * 3 + ([kind[0] + "u4"] if extra == "t" else [kind[0] + "f4"] if extra else [])
    offsets = [size * i for i in range(len(names))]
    step = offsets[-1] + np.dtype(formats[-1]).itemsize + padding
    layout = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": step})
    xyz = np.vstack([POINTS, np.full((rows, 3), np.nan, "<f4")]) if holes else POINTS
    xyz = xyz[: len(xyz) // rows * rows]
    points = np.zeros(len(xyz), layout)
    for axis, column in zip("xyz", xyz.T, strict=True):
        points[axis] = column
    types = {"f4": PointField.FLOAT32, "f8": PointField.FLOAT64, "u4": PointField.UINT32}
    fields = [
        PointField(name=n, offset=o, datatype=types[f[1:]], count=1)
        for n, o, f in zip(names, offsets, formats, strict=True)
    ]
    raw = byte_array(points)

    def make(stamp: int) -> PointCloud2:
        message = PointCloud2(
            header=header_message(stamp, LIDAR_FRAME), height=rows, width=len(xyz) // rows, fields=fields
        )
        message.is_bigendian, message.is_dense = kind[0] == ">", not holes
        message.point_step, message.row_step, message.data = step, step * len(xyz) // rows, raw
        return message

    return make


MILLIMETERS = (METERS * 1000).astype(np.uint16)
RED_BLUE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
RED_BLUE[:, : WIDTH // 2, 2] = 255
KINDS: dict[str, dict[str, Make]] = {
    "camera": {
        "rgb8": image("rgb8", RGB, padding=5),
        "bgr8": image("bgr8", RGB),
        "rgba8": image("rgba8", np.dstack([RGB, GRAY])),
        "bgra8": image("bgra8", np.dstack([RGB, GRAY])),
        "mono8": image("mono8", GRAY),
        "mono16": image("mono16", GRAY.astype("<u2") << 8),
        "mono16_big": image("mono16", GRAY.astype("<u2") << 8, big=True),
        "bayer_rggb8": image("bayer_rggb8", GRAY),
        "bayer_gbrg8": image("bayer_gbrg8", GRAY),
        "yuv422": image("yuv422", uyvy()),
        "yuv422_yuy2": image("yuv422_yuy2", uyvy()[..., ::-1]),
        "jpeg": compressed("rgb8; jpeg compressed bgr8", file(".jpg", RGB)),
        "png": compressed("png", file(".png", RGB)),
    },
    "depth": {
        "metres_32FC1": image("32FC1", METERS),
        "metres_32FC1_big": image("32FC1", METERS, big=True),
        "mm_16UC1": image("16UC1", MILLIMETERS, padding=6),
        "mm_16UC1_big": image("16UC1", MILLIMETERS, big=True),
        "mono16": image("mono16", MILLIMETERS),
        "png": compressed("16UC1; png compressed", file(".png", MILLIMETERS)),
        "compressedDepth": compressed("16UC1; compressedDepth png", bytes(12) + file(".png", MILLIMETERS)),
    },
    "event": {
        **{encoding: packet(encoding) for encoding in _ENCODE},
        **{package: array(package) for package in ("dvs_msgs", "prophesee_event_msgs")},
        "picture": in_frame(image("rgb8", RED_BLUE), EVENT_FRAME),
        "png": compressed("png", file(".png", RED_BLUE[..., ::-1]), EVENT_FRAME),
    },
    "lidar": {
        "xyz": cloud(),
        "xyzi_padded": cloud(extra="intensity", padding=16),
        "big_endian": cloud(">f4"),
        "doubles": cloud("<f8"),
        "organised_with_holes": cloud(rows=13, holes=True),
        "with_times": cloud(extra="t"),
    },
}
"""Sensor → kind → how a message is made for a stamp."""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    rclpy.init()
    node = rclpy.create_node("all_kinds")
    best = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    makers = []
    for sensor, kinds in KINDS.items():
        for number, (kind, make) in enumerate(kinds.items()):
            qos = {"reliable": 5, "best_effort": best, "latched": latched} if number == 0 else {"reliable": 5}
            for name, profile in qos.items():
                topic = f"{name}/{sensor}/{kind}"
                makers.append((node.create_publisher(type(make(time.time_ns())), topic, profile), make))
    infos = {
        frame: node.create_publisher(CameraInfo, topic, 5)
        for frame, topic in ((CAMERA_FRAME, "camera/camera_info"), (EVENT_FRAME, "events/camera_info"))
    }
    moving, static = (
        node.create_publisher(TFMessage, "/tf", 10),
        node.create_publisher(TFMessage, "/tf_static", LATCHED),
    )
    static.publish(TFMessage(transforms=[placed(CAMERA_FRAME), placed(EVENT_FRAME), placed(LIDAR_FRAME)]))
    print("driving", flush=True)
    while True:
        now = node.get_clock().now().nanoseconds
        moving.publish(TFMessage(transforms=[placed("gimbal", now), placed("gimbal_optical", now)]))
        for frame, publisher in infos.items():
            publisher.publish(camera_info(header_message(now, frame)))
        for publisher, make in makers:
            if publisher.get_subscription_count():
                publisher.publish(make(now))
        time.sleep(0.1)


def placed(frame: str, stamp: int = 0) -> TransformStamped:
    stamped = TransformStamped(header=header_message(stamp, "base_link"), child_frame_id=frame)
    if "optical" in frame:
        rotation = stamped.transform.rotation
        rotation.x, rotation.y, rotation.z, rotation.w = OPTICAL
    return stamped


if __name__ == "__main__":
    main()
