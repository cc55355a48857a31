# SPDX-License-Identifier: Apache-2.0
"""A small bag, written without the project's own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin
from rosbags.typesys import Stores, get_typestore

START = 1_600_000_000_000_000_000
PERIOD = 100_000_000
STORE = get_typestore(Stores.LATEST)
TYPES = {
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/lidar/points": "sensor_msgs/msg/PointCloud2",
    "/ground_truth/labels": "sensor_msgs/msg/Image",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}


def make(name: str, *fields: object) -> object:
    return STORE.types[name](*fields)


def header(stamp: int, frame: str) -> object:
    return make("std_msgs/msg/Header", make("builtin_interfaces/msg/Time", *divmod(stamp, 10**9)), frame)


def image(stamp: int, encoding: str, channels: int, fill: int) -> object:
    data = np.full(8 * 6 * channels, fill, np.uint8)
    return make("sensor_msgs/msg/Image", header(stamp, "camera"), 6, 8, encoding, 0, 8 * channels, data)


def transforms(stamp: int) -> object:
    vector, turn = (
        make("geometry_msgs/msg/Vector3", 1.0, 2.0, 3.0),
        make("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 1.0),
    )
    move = make("geometry_msgs/msg/Transform", vector, turn)
    return make(
        "tf2_msgs/msg/TFMessage", [make("geometry_msgs/msg/TransformStamped", header(stamp, "odom"), "base", move)]
    )


def cloud(stamp: int) -> object:
    field = make("sensor_msgs/msg/PointField", "x", 0, 7, 1)
    return make(
        "sensor_msgs/msg/PointCloud2", header(stamp, "lidar"), 1, 2, [field], False, 4, 8, np.zeros(8, np.uint8), True
    )


def info(stamp: int) -> object:
    roi = make("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
    none, nine, twelve = np.zeros(0), np.eye(3).ravel(), np.eye(3, 4).ravel()
    return make(
        "sensor_msgs/msg/CameraInfo", header(stamp, "camera"), 6, 8, "plumb_bob", none, nine, nine, twelve, 0, 0, roi
    )


def write_small_bag(path: Path, moments: int, storage: StoragePlugin = StoragePlugin.MCAP) -> None:
    """Moments at 10 Hz; the LiDAR is 20 ms late; the camera's pixels count the moments."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {topic: writer.add_connection(topic, name, typestore=STORE) for topic, name in TYPES.items()}

        def write(topic: str, time: int, message: object) -> None:
            writer.write(connections[topic], time, STORE.serialize_cdr(message, TYPES[topic]))

        write("/tf_static", START, transforms(0))
        for index in range(moments):
            stamp = START + index * PERIOD
            write("/camera/image_raw", stamp, image(stamp, "rgb8", 3, index))
            write("/camera/camera_info", stamp, info(stamp))
            write("/ground_truth/labels", stamp, image(stamp, "mono8", 1, index))
            write("/tf", stamp, transforms(stamp))
            write("/lidar/points", stamp + 20_000_000, cloud(stamp + 20_000_000))
