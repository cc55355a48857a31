# SPDX-License-Identifier: Apache-2.0
"""Cost of a frame in bytes copied, page faults and work for topics without subscribers; no times."""

import gc
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("rclpy")
from rclpy.serialization import deserialize_message, serialize_message
from robot import byte_array, header_message
from sensor_msgs.msg import Image, PointCloud2

from mlesam_ros import mask_messages, semantic_points
from mlesam_ros.bags import serialization as fields
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import ConfigError, Problem
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import VisiblePoints
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import load_label_space
from mlesam_ros.messages import FrameReader
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.preprocessing.registration import cloud_to_camera
from mlesam_ros.ros import publishers as outputs
from mlesam_ros.ros.compat import message_class
from mlesam_ros.ros.publishers import MaskPublisher, message_from
from mlesam_ros.types import CAMERA, DEPTH, LIDAR, FrameSet, PointCloud, RawImage, Segmentation, SensorFrame

POINT = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4")])
OVER = 1.1  # array.array grows by a sixteenth more than it is asked to
MADE = {
    mask_messages: ("overlay", "encode_jpeg", "projected_cloud", "to_rgb", "pixels", "point_cloud", "camera_info",
                    "compressed_image"),
    semantic_points.MaskPoints: ("labeled", "navigation", "_make_grid"),
    VisiblePoints: ("of",),
    outputs: ("health_markers",),
}  # fmt: skip


def peak(work):
    """Peak bytes that Python allocates during the call."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_mask_is_copied_once_into_its_message():
    labels = np.ones((1080, 1920), np.uint8)

    def make():
        return message_from(Image, fields.pixels(1, "camera", labels, "mono8"))

    make()
    assert labels.nbytes <= peak(make) <= OVER * labels.nbytes


def test_cloud_is_copied_once_into_its_message():
    points = np.ones(131_072, POINT)

    def make():
        return message_from(PointCloud2, fields.point_cloud(1, "lidar", points))

    make()
    assert peak(make) <= OVER * points.nbytes


def test_strided_image_is_copied_once_into_its_message():
    turned = np.ones((1080, 1920, 3), np.uint8)[:, ::-1]
    assert peak(lambda: message_from(Image, {"data": turned})) <= (1 + OVER) * turned.nbytes


def received(message):
    """Return the message as received by rclpy."""
    return deserialize_message(serialize_message(message), type(message))


def image(encoding, channels, kind=np.uint8):
    pixels = np.ones((1080, 1920, channels), kind)
    message = Image(header=header_message(1, "camera"), height=1080, width=1920, encoding=encoding)
    message.step, message.data = pixels.strides[0], byte_array(pixels)
    return received(message)


@pytest.mark.parametrize(("modality", "encoding", "channels"), [(CAMERA, "rgb8", 3), (DEPTH, "32FC1", 4)])
def test_frame_is_a_view_of_its_image_message(modality, encoding, channels):
    message = image(encoding, channels)
    reader = FrameReader(modality, "sensor_msgs/msg/Image")
    frame = reader.read(message)
    assert np.shares_memory(frame.payload.data, np.frombuffer(message.data, np.uint8))
    assert peak(lambda: reader.read(message)) < 20_000


def test_rgb_is_a_view_of_its_image_message():
    message = image("rgb8", 3)
    frame = FrameReader(CAMERA, "sensor_msgs/msg/Image").read(message)
    assert np.shares_memory(to_rgb(frame.payload), np.frombuffer(message.data, np.uint8))


def test_frame_is_a_view_of_its_cloud_message():
    message = received(message_from(PointCloud2, fields.point_cloud(1, "lidar", np.ones(131_072, POINT))))
    assert isinstance(message, PointCloud2)
    reader = FrameReader(LIDAR, "sensor_msgs/msg/PointCloud2")
    frame = reader.read(message)
    assert np.shares_memory(frame.payload.points, np.frombuffer(message.data, np.uint8))
    # A fixed number of samples tells the scale of the intensity and the pieces of a sweep.
    assert peak(lambda: reader.read(message)) < 0.03 * len(message.data)


class Publisher:
    """Records what is published."""

    def __init__(self, listeners):
        self.listeners, self.sent = listeners, []

    def get_subscription_count(self):
        return self.listeners

    def publish(self, message):
        self.sent.append(message)


def counted(function, made, name):
    """Wrap a function to record its name in `made`."""

    def run(*arguments):
        made.append(name)
        return function(*arguments)

    return run


@pytest.fixture
def publish(monkeypatch):
    """Publish one mask to subscribers of some topics; return the calls and the topics."""
    made = []
    for module, names in MADE.items():
        for name in names:
            monkeypatch.setattr(module, name, counted(getattr(module, name), made, name))
    k = np.array([[30.0, 0, 31.5], [0, 30.0, 23.5], [0, 0, 1]])
    rig = Rig("camera", {"camera": CameraModel(64, 48, k, np.zeros(0), "pinhole")})
    pixels = RawImage(48, 64, "bgr8", 192, np.zeros(48 * 192, np.uint8))
    frames = {
        CAMERA: SensorFrame(CAMERA, 1, "camera", pixels),
        LIDAR: SensorFrame(LIDAR, 1, "camera", PointCloud(np.ones(10, POINT))),
    }
    labels = np.zeros((48, 64), np.uint8)
    placements = {LIDAR: cloud_to_camera(frames[LIDAR], rig)}
    mask = Segmentation(1, "camera", labels, labels, {}, (CAMERA, LIDAR), placements=placements)

    def run(*heard):
        one = MaskPublisher.__new__(MaskPublisher)
        one._prefix = "~/"
        one._label_space = load_label_space("deliver")
        one._types = {name: message_class(output.type_name) for name, output in outputs.OUTPUTS.items()}
        one._publishers = {name: Publisher(name in heard) for name in outputs.OUTPUTS}
        frame_set = FrameSet(1, CAMERA, frames, dict.fromkeys(frames, 0))
        run.problems = one.publish(one.messages(mask, frame_set, rig, NodeParameters()))
        one.publish_status(lambda: made.append("status") or {})
        one.publish_health([])
        return made, {name for name, publisher in one._publishers.items() if publisher.sent}

    return run


def test_topics_without_subscribers_cost_nothing(publish):
    assert publish() == ([], set())


@pytest.mark.parametrize(
    ("topic", "work"),
    [
        ("labels", ["pixels"]),
        ("confidence", ["pixels"]),
        ("camera_info", ["camera_info"]),
        ("overlay", ["to_rgb", "overlay", "pixels"]),
        ("overlay/compressed", ["to_rgb", "overlay", "encode_jpeg", "compressed_image"]),
        ("projected_lidar", ["of", "to_rgb", "projected_cloud", "pixels"]),
        ("semantic_points", ["labeled", "of", "point_cloud"]),
        ("obstacle_points", ["navigation", "_make_grid", "of", "point_cloud"]),
        ("ground_points", ["navigation", "_make_grid", "of", "point_cloud"]),
        ("aligned/labels", ["_make_grid", "of", "pixels"]),
        ("status", ["status"]),
        ("sensor_health", ["health_markers"]),
    ],
)
def test_subscribed_topic_costs_only_its_own_work(publish, topic, work):
    assert publish(topic) == (work, {topic})


def test_camera_image_is_converted_once_for_all_topics(publish):
    topics = {"overlay", "overlay/compressed", "projected_lidar"}
    made, sent = publish(*topics)
    assert (made.count("to_rgb"), made.count("overlay"), sent) == (1, 1, topics)


def test_points_are_projected_once_for_all_topics(publish):
    clouds = {"semantic_points", "obstacle_points", "ground_points", "aligned/points"}
    topics = {*clouds, "projected_lidar", "aligned/labels", "aligned/confidence"}
    made, sent = publish(*topics)
    assert (made.count("of"), made.count("_make_grid"), made.count("navigation"), sent) == (1, 1, 1, topics)
    assert made.count("point_cloud") == len(clouds)


def test_message_that_cannot_be_made_does_not_keep_back_the_others(publish, monkeypatch):
    def fail(*_):
        raise ConfigError("overlay_alpha is 2", "Set it to 1.")

    monkeypatch.setattr(mask_messages, "overlay", fail)
    _, sent = publish("labels", "overlay", "projected_lidar")
    assert sent == {"labels", "projected_lidar"}
    assert publish.problems == [Problem("no ~/overlay for this mask: overlay_alpha is 2", "Set it to 1.")]


_RECEIVE = """
import resource, sys
from mlesam_ros.ros.process import tune_malloc
if sys.argv[1] == "kept":
    tune_malloc()
def receive():  # what rclpy holds of a 1080p image when it hands it over: payload, C message, Python message
    return [bytearray(b"1") * (1080 * 1920 * 3) for _ in range(3)]
for _ in range(3):
    receive()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    receive()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""


def test_received_image_reuses_freed_memory():
    given, kept = (
        float(subprocess.run([sys.executable, "-c", _RECEIVE, how], capture_output=True, text=True, check=True).stdout)
        for how in ("given back", "kept")
    )
    assert kept < 100 < given, "4 KiB pages that the system had to find, per image"
