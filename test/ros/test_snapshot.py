# SPDX-License-Identifier: Apache-2.0
"""Snapshots: the last seconds of the inputs as a bag."""

import numpy as np
import pytest

pytest.importorskip("rclpy")
from listener import Listener
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from robot import WIDTH, Robot, camera_info
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.serialization import transforms
from mlesam_ros.config import NodeParameters
from mlesam_ros.evaluation.bag_sensors import BagRig, find_topics
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.ros.publishers import message_from
from mlesam_ros.ros.snapshot import Snapshot
from mlesam_ros.ros.subscribers import SensorSubscriber
from mlesam_ros.types import CAMERA, MODALITIES


@pytest.fixture
def start(graph, weights):
    def make(namespace="", **parameters):
        node = graph.perception_node({**weights, **parameters}, namespace=namespace)
        node.start()
        return node

    return make


def ask(graph, namespace=""):
    client = graph.node("asker").create_client(Trigger, f"{namespace}/mlesam/save_snapshot")
    assert graph.spin_until(client.service_is_ready)
    future = client.call_async(Trigger.Request())
    assert graph.spin_until(future.done)
    return future.result()


def test_snapshot_contains_the_last_seconds_and_the_calibration(graph, start, tmp_path):
    start(snapshot_seconds=20.0, snapshot_folder=str(tmp_path / "snapshots"))
    robot, listener = Robot(graph.node("robot")), Listener(graph.node("listener"))
    sent = []
    for _ in range(300):
        sent.append(robot.sense())
        if graph.spin_until(lambda: len(listener.masks_from(*MODALITIES)) >= 5, 0.1):
            break
    answer = ask(graph)
    assert answer.success, answer.message
    with BagReader(answer.message) as bag:
        assert bag.topics == {
            "/camera/image_raw": "sensor_msgs/msg/Image",
            "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
            "/depth/image_raw": "sensor_msgs/msg/Image",
            "/events": "event_camera_msgs/msg/EventPacket",
            "/events/camera_info": "sensor_msgs/msg/CameraInfo",
            "/lidar/points": "sensor_msgs/msg/PointCloud2",
            "/tf_static": "tf2_msgs/msg/TFMessage",
        }
        stamps = [m.message.header.stamp for m in bag.messages(["/camera/image_raw"])]
    pictures = {stamp.sec * 10**9 + stamp.nanosec for stamp in stamps}
    assert pictures <= set(sent) and {*listener.stamps("labels")[:5]} <= pictures


def place(parent, child, x):
    pose = Transform(np.eye(3), [x, 0.0, 0.0])
    return message_from(TFMessage, transforms([(parent, child, pose)], 0))


@pytest.mark.parametrize("space", ["", "/robot1"])
def test_snapshot_has_the_calibration_of_the_node(graph, start, tmp_path, space):
    """CameraInfo latched once, /tf_static volatile, and TF of a namespace."""
    driver, volatile = graph.node("driver", namespace=space), QoSProfile(depth=10)
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    driver.create_publisher(CameraInfo, "camera/camera_info", latched).publish(camera_info(Header(frame_id="eye")))
    own, foreign = f"{space}/tf_static", "/tf_static"
    sent = {own: place("eye", "lidar", 1.0), **({foreign: place("eye", "lidar", 9.0)} if space else {})}
    publishers = {topic: driver.create_publisher(TFMessage, topic, volatile) for topic in sent}
    image = driver.create_publisher(Image, "camera/image_raw", volatile)
    node = start(space, snapshot_seconds=20.0, snapshot_folder=str(tmp_path))
    rig, snapshot = node._runtime.views[""].calibration.rig, node._runtime._snapshot

    def known():
        for topic, message in sent.items():
            publishers[topic].publish(message)
        image.publish(Image())
        placed = rig.has_camera and "lidar" in rig.tree.frames and rig.extrinsic("lidar").translation[0] == 1.0
        return placed and f"{space}/camera/image_raw" in {kept.topic for kept in snapshot._ring.contents()}

    assert graph.spin_until(known, 20)
    answer = ask(graph, space)
    assert answer.success, answer.message
    with BagReader(answer.message) as bag:
        learned = BagRig(bag, find_topics(bag.topics)).rig
    assert (learned.camera_frame, learned.camera.width) == ("eye", WIDTH)
    assert learned.extrinsic("lidar").translation[0] == 1.0


def test_snapshot_without_buffer_names_the_parameter(graph, start):
    start()
    answer = ask(graph)
    assert not answer.success and "snapshot_seconds is 0" in answer.message


def test_snapshot_follows_a_change_of_type(graph, other_graph):
    """A DDS participant has one type per topic, so the old subscription must be destroyed first."""
    node = graph.node("listener")
    parameters = NodeParameters(snapshot_seconds=20.0)
    source, snapshot = SensorSubscriber(node, CAMERA, parameters.camera), Snapshot(node, parameters)
    received = []
    source.registerCallback(received.append)

    def poll():
        source.poll()
        snapshot.follow({source.topic: source.type_name})

    try:
        for kind in (Image, CompressedImage):
            driver = other_graph()
            publisher = driver.create_publisher(kind, source.topic, qos_profile_sensor_data)
            wanted = f"sensor_msgs/msg/{kind.__name__}"

            def kept(wanted=wanted, publisher=publisher, kind=kind):
                poll()
                publisher.publish(kind())
                return wanted in {message.type_name for message in snapshot._ring.contents()}

            assert graph.spin_until(kept), (source.type_name, source.problem)
            assert source.type_name == wanted and source.problem is None
            driver.destroy_publisher(publisher)
    finally:
        snapshot.close()
        source.close()


def test_failed_snapshot_has_a_reason(graph, start, tmp_path):
    (tmp_path / "file").write_text("")
    start(snapshot_seconds=5.0, snapshot_folder=str(tmp_path / "file"))
    assert "the buffer has no message yet" in ask(graph).message
    robot = Robot(graph.node("robot"))
    for _ in range(20):
        robot.sense()
        graph.spin_for(0.1)
    answer = ask(graph)
    assert not answer.success and "snapshot_folder" in answer.message
