# SPDX-License-Identifier: Apache-2.0
"""Good serialized messages of every type that the node reads, which the damage starts from."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import cv2
import numpy as np

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.messages import RAW_TYPES
from mlesam_ros.preprocessing.event_stream import ENCODINGS
from mlesam_ros.preprocessing.evt3 import encode_evt3
from mlesam_ros.preprocessing.images import CAMERA_LAYOUTS, DEPTH_LAYOUTS, PixelFormat
from mlesam_ros.types import DEPTH, NANOSECONDS, Modality

NOW = 1_700_000_000 * NANOSECONDS
HEIGHT, WIDTH = 6, 8
POINT_TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 8: "<f8"}
RNG = np.random.default_rng(0)
RVL = bytes.fromhex("080000000600000019df18b320c18c21")
"""Eight by six pixels, two of which are not zero."""
PIXELS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def make(kind: str, *fields: Any) -> Any:
    return typestore().types[kind](*fields)


def pack(message: Any) -> bytes:
    return bytes(typestore().serialize_cdr(message, message.__msgtype__))


def header(frame: str, stamp: int = NOW) -> Any:
    return make("std_msgs/msg/Header", make("builtin_interfaces/msg/Time", *divmod(stamp, NANOSECONDS)), frame)


def image(encoding: str, layout: PixelFormat, frame: str) -> bytes:
    step = WIDTH * layout.channels * np.dtype(layout.dtype).itemsize
    data = RNG.integers(0, 256, int(HEIGHT * layout.lines) * step, np.uint8)
    return pack(make("sensor_msgs/msg/Image", header(frame), HEIGHT, WIDTH, encoding, 0, step, data))


def camera_image(stamp: int = NOW) -> bytes:
    data = PIXELS.ravel()
    return pack(make("sensor_msgs/msg/Image", header("camera", stamp), HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, data))


def compressed(form: str, data: bytes, frame: str) -> bytes:
    return pack(make("sensor_msgs/msg/CompressedImage", header(frame), form, np.frombuffer(data, np.uint8)))


def compressed_pictures(frame: str) -> list[bytes]:
    deep = PIXELS[..., 0].astype(np.uint16) * 99
    head = struct.pack("<iff", 0, 100.0, 1.0)
    png = cv2.imencode(".png", deep)[1].tobytes()
    if frame == "depth":
        made = [compressed(f"{e}; compressedDepth png", head + png, frame) for e in ("16UC1", "32FC1")]
        made.append(compressed("16UC1; compressedDepth rvl", head + RVL, frame))
        return [*made, compressed("16UC1; png", png, frame)]
    kinds = [("jpeg", ".jpg", PIXELS), ("png", ".png", PIXELS), ("mono8; png compressed", ".png", PIXELS[..., 0])]
    return [compressed(form, cv2.imencode(suffix, p)[1].tobytes(), frame) for form, suffix, p in kinds]


def cloud(columns: list[tuple[str, int]], points: int, rows: int = 1) -> bytes:
    offset, fields = 0, []
    for name, kind in columns:
        fields.append(make("sensor_msgs/msg/PointField", name, offset, kind, 1))
        offset += np.dtype(POINT_TYPES[kind]).itemsize
    layout = np.dtype([(name, POINT_TYPES[kind]) for name, kind in columns])
    table = np.zeros(points * rows, layout)
    for name in layout.names or ():
        table[name] = RNG.uniform(1, 9, len(table))
    data = np.frombuffer(table.tobytes(), np.uint8)
    size = offset, offset * points
    return pack(make("sensor_msgs/msg/PointCloud2", header("lidar"), rows, points, fields, False, *size, data, True))


def clouds() -> list[bytes]:
    xyz = [("x", 7), ("y", 7), ("z", 7)]
    extras = [[], [("intensity", 7)], [("intensity", 7), ("t", 6), ("ring", 4)], [("i", 2), ("timestamp", 8)]]
    made = [cloud([*xyz, *extra], 20) for extra in extras]
    return [*made, cloud([(axis, 8) for axis in "xyz"], 5, 3), cloud(xyz, 0), cloud([*xyz, ("offset_time", 6)], 7)]


def event_words(encoding: str, seq: int) -> bytes:
    """Forty events of 5 ms."""
    count = 40
    x, y, polarity = (RNG.integers(0, n, count) for n in (WIDTH, HEIGHT, 2))
    t = np.sort(RNG.integers(0, 5000, count)) + seq * 5000
    if encoding == "evt3":
        return encode_evt3(x, y, t, polarity).tobytes()
    if encoding == "mono":
        return (polarity << 63 | y << 48 | x << 32 | t * 1000).astype("<u8").tobytes()
    if encoding == "libcaer":
        return np.stack([x << 17 | y << 2 | polarity << 1, t], 1).astype("<u4").tobytes()
    words = [(t >> 12), 1 << 12 | t & 0xFFF, 2 << 12 | x, 3 << 12 | polarity << 11 | y]
    return np.stack(words, 1).astype("<u2").tobytes()


def packet(encoding: str, seq: int) -> bytes:
    head = header("event", NOW - 10_000_000 + seq * 5_000_000)
    events = np.frombuffer(event_words(encoding, seq), np.uint8)
    return pack(make("event_camera_msgs/msg/EventPacket", head, HEIGHT, WIDTH, seq, 0, encoding, False, events))


def event_array(kind: str, seq: int) -> bytes:
    package, count = kind.partition("/")[0], 30
    times = np.sort(RNG.integers(0, 5_000_000, count)) + NOW - 15_000_000 + seq * 5_000_000
    events = [
        make(f"{package}/msg/Event", int(RNG.integers(0, WIDTH)), int(RNG.integers(0, HEIGHT)),
             make("builtin_interfaces/msg/Time", *divmod(int(t), NANOSECONDS)), bool(RNG.integers(0, 2)))
        for t in times
    ]  # fmt: skip
    return pack(make(kind, header("event", int(times[-1])), HEIGHT, WIDTH, events))


def camera_info(frame: str, model: str = "plumb_bob", coefficients: int = 5) -> bytes:
    k, p = [5.0, 0, 3.5, 0, 5.0, 2.5, 0, 0, 1], [5.0, 0, 3.5, 0, 0, 5.0, 2.5, 0, 0, 0, 1, 0]
    d = np.linspace(0.01, 0.05, coefficients)
    roi = make("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
    matrices = np.array(k), np.eye(3).ravel(), np.array(p)
    return pack(make("sensor_msgs/msg/CameraInfo", header(frame), HEIGHT, WIDTH, model, d, *matrices, 0, 0, roi))


def infos() -> list[bytes]:
    models = [("plumb_bob", 5), ("rational_polynomial", 8), ("equidistant", 4), ("fisheye", 4), ("plumb_bob", 0)]
    return [camera_info("camera", *model) for model in models]


def transforms(*pairs: tuple[str, str]) -> bytes:
    stamped = [
        make("geometry_msgs/msg/TransformStamped", header(parent), child, make(
            "geometry_msgs/msg/Transform", make("geometry_msgs/msg/Vector3", 1.0, 0.1, 1.0),
            make("geometry_msgs/msg/Quaternion", -0.5, 0.5, -0.5, 0.5)))
        for parent, child in pairs
    ]  # fmt: skip
    return pack(make("tf2_msgs/msg/TFMessage", stamped))


@cache
def series(modality: Modality, kind: str) -> list[list[bytes]]:
    """Good messages of a sensor: of event cameras three that follow each other, of the others one by itself."""
    frame = str(modality)
    if kind.endswith("/CompressedImage"):
        return [[raw] for raw in compressed_pictures(frame)]
    if kind.endswith("/Image"):
        layouts = DEPTH_LAYOUTS if modality == DEPTH else CAMERA_LAYOUTS
        return [[image(encoding, layout, frame)] for encoding, layout in layouts.items()]
    if kind.endswith("/PointCloud2"):
        return [[raw] for raw in clouds()]
    if kind in RAW_TYPES:
        return [[event_array(kind, seq) for seq in range(3)]]
    return [[packet(encoding, seq) for seq in range(3)] for encoding in ENCODINGS]
