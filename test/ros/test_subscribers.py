# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to sensors and to serialized messages, and suggested topics."""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlesam_ros.errors import ConfigError

pytest.importorskip("rclpy")
from event_camera_msgs.msg import EventPacket
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from robot import CAMERA_FRAME, TOPICS, Robot
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from mlesam_ros.config import NodeParameters
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.parameter_groups import SensorParameters
from mlesam_ros.rig_builder import RigBuilder
from mlesam_ros.ros.diagnostics import instead
from mlesam_ros.ros.subscribers import RawSubscriber, SensorSubscriber, suggest_topics
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, RawImage
from mlesam_ros.types import CompressedImage as CompressedPayload

ARRAY_DRIVER = str(Path(__file__).parent / "array_driver.py")


@pytest.fixture
def robot(graph):
    return Robot(graph.node("robot"), qos=100)


@pytest.fixture
def subscribe(graph):
    def make(modality, **parameters):
        sensor = SensorParameters(**parameters)
        learner = RigBuilder(Rig(""), replace(NodeParameters(), **{modality: sensor}))
        source = SensorSubscriber(graph.node("listener"), modality, sensor, bind=learner.bind)
        frames = []
        source.registerCallback(frames.append)
        assert graph.spin_until(lambda: source.poll() or source.type_name)
        return source, frames

    return make


def wait_for_match(graph, source, publishers=1):
    assert graph.spin_until(lambda: source.publishers == publishers)
    graph.spin_for(0.3)


def test_one_callback_reads_a_burst_of_event_packets(graph, robot, subscribe):
    source, frames = subscribe(EVENT, topic=TOPICS[EVENT])
    wait_for_match(graph, source)
    for _ in range(30):
        robot.send(EVENT, robot._event(robot.now()))
    time.sleep(0.5)
    assert source.received == 0, "nobody spins yet"
    assert graph.spin_until(lambda: source.received)
    assert source.received == 30, "one callback empties the queue"
    assert [f.stamp for f in frames] == sorted(f.stamp for f in frames)


def test_receipt_time_is_that_of_the_transport(graph, robot, subscribe):
    source, frames = subscribe(LIDAR, topic=TOPICS[LIDAR])
    wait_for_match(graph, source)
    stamp = robot.sense((LIDAR,))
    time.sleep(1.0)
    assert graph.spin_until(lambda: frames)
    assert 0 <= source.delay < 0.9 and source.received_at(stamp) < robot.now() - 100_000_000


@pytest.mark.parametrize("package", ["dvs_msgs", "prophesee_event_msgs"])
def test_event_arrays_are_received_as_bytes(graph, subscribe, package):
    """The subscription is raw, and one callback reads a burst."""
    driver = subprocess.Popen([sys.executable, ARRAY_DRIVER, package, f"{package}_topic", "20"], stdin=subprocess.PIPE)
    try:
        source, frames = subscribe(EVENT, topic=f"{package}_topic")
        assert source.type_name == f"{package}/msg/EventArray"
        wait_for_match(graph, source)
        driver.communicate(b"go", timeout=60)
        assert driver.returncode == 0
        assert graph.spin_until(lambda: source.received == 20)
    finally:
        driver.kill()
        driver.wait()
    assert not source.refusals
    newest = frames[-1]
    assert (newest.frame_id, newest.payload.width, newest.payload.height) == ("dvs", 64, 48)
    assert newest.payload.t.tolist() == [newest.stamp - 30_000_000 + 1_000_000 * n for n in range(31)]
    assert newest.payload.x.tolist() == [(199 - 30 + n) % 64 for n in range(31)]
    assert newest.payload.polarity.tolist() == [(199 - 30 + n) % 2 == 0 for n in range(31)]


def test_frame_id_parameter_replaces_the_frame(graph, robot, subscribe):
    source, frames = subscribe(LIDAR, topic=TOPICS[LIDAR], frame_id="roof")
    wait_for_match(graph, source)
    stamp = robot.sense((LIDAR,))
    assert graph.spin_until(lambda: frames)
    assert (frames[0].frame_id, frames[0].stamp) == ("roof", stamp)


def test_subscription_follows_a_change_of_type(graph, subscribe, other_graph):
    first, second = other_graph(), other_graph()
    raw = first.create_publisher(Image, "picture", qos_profile_sensor_data)
    source, frames = subscribe(CAMERA, topic="picture")
    assert source.type_name == "sensor_msgs/msg/Image"
    wait_for_match(graph, source)
    image = Image(height=1, width=1, step=3, encoding="rgb8", data=b"abc")
    image.header.frame_id = CAMERA_FRAME
    raw.publish(image)
    assert graph.spin_until(lambda: frames) and isinstance(frames[-1].payload, RawImage)

    first.destroy_publisher(raw)
    compressed = second.create_publisher(CompressedImage, "picture", qos_profile_sensor_data)
    assert graph.spin_until(lambda: source.poll() or source.type_name == "sensor_msgs/msg/CompressedImage")
    wait_for_match(graph, source)
    compressed.publish(CompressedImage(header=image.header, format="jpeg", data=b"\xff\xd8"))
    assert graph.spin_until(lambda: isinstance(frames[-1].payload, CompressedPayload))
    assert source.received == 2


def test_closed_subscription_receives_nothing(graph, robot, subscribe):
    source, frames = subscribe(LIDAR, topic=TOPICS[LIDAR])
    wait_for_match(graph, source)
    source.close()
    robot.sense((LIDAR,))
    graph.spin_for(0.3)
    assert not frames
    source.poll()
    wait_for_match(graph, source)
    robot.sense((LIDAR,))
    assert graph.spin_until(lambda: frames)


def test_invalid_qos_override_is_reported(graph, robot):
    override = Parameter("qos_overrides./lidar/points.subscription.reliability", value="mostly")
    node = graph.node("listener", parameter_overrides=[override])
    source = SensorSubscriber(node, LIDAR, SensorParameters(topic=TOPICS[LIDAR]))
    assert graph.spin_until(lambda: source.poll() or source.problem)
    assert "mostly" in source.problem or "reliability" in source.problem


@pytest.fixture
def flood():
    """Start a driver whose images are lost, and end it."""
    started = []

    def start(topic):
        started.append(subprocess.Popen([sys.executable, str(Path(__file__).parent / "oversize_publisher.py"), topic]))

    yield start
    for driver in started:
        driver.kill()
        driver.wait()


def test_lost_messages_are_counted(graph, subscribe, flood):
    flood("flooded")
    source, _ = subscribe(CAMERA, topic="flooded")
    assert graph.spin_until(lambda: source.lost > 5)


def test_alternating_publishers_are_reported_and_a_restarted_one_is_not(graph, subscribe):
    """A restarted driver is a new publisher, but the only one."""
    cloud = PointCloud2(header=Header(frame_id="lidar"), point_step=1)
    one, two = (graph.node(name).create_publisher(PointCloud2, "shared", 10) for name in ("first", "second"))
    source, _ = subscribe(LIDAR, topic="shared")
    assert graph.spin_until(lambda: one.get_subscription_count() and two.get_subscription_count())

    def send(publisher):
        count = source.received
        publisher.publish(cloud)
        assert graph.spin_until(lambda: source.received > count)

    for publisher in (one, one, two, two):
        send(publisher)
    if source._senders:  # from Kilted on a message tells its publisher
        assert source.competing_publishers == []
    for publisher in (one, two):
        send(publisher)
    assert source.competing_publishers == ["/first", "/second"]


@pytest.fixture
def suggest(graph):
    node = graph.node("driver")
    offered = {
        "/points": PointCloud2,
        "/mlesam/semantic_points": PointCloud2,
        "/front/image_raw": Image,
        "/front/depth/image_raw": Image,
        "/mlesam/overlay": Image,
        "/dvs": EventPacket,
        **{f"/eye{number}": Image for number in range(3)},
    }
    for topic, message in offered.items():
        node.create_publisher(message, topic, 1)
    node.create_subscription(PointCloud2, "/nobody/points", print, 1)
    client = graph.node("client")
    assert graph.spin_until(lambda: set(offered) <= {name for name, _ in client.get_topic_names_and_types()})
    return lambda modality, topic, taken=(): suggest_topics(client, modality, topic, taken)


def test_suggested_topics_have_a_publisher_and_a_matching_type(suggest):
    assert suggest(LIDAR, "/lidar/points") == ["/points"], "neither the node's own nor one that is only listened to"
    assert suggest(EVENT, "/events") == ["/dvs"], "any picture could be event pictures, but hardly is"


def test_suggested_topics_are_sorted_by_similarity_without_those_in_use(suggest):
    found = suggest(CAMERA, "/camera/image_raw")
    assert found[0] == "/front/image_raw" and len(found) == 3
    assert suggest(DEPTH, "/depth/image_raw", {"/front/image_raw"})[0] == "/front/depth/image_raw"
    assert "/front/image_raw" not in suggest(DEPTH, "/depth/image_raw", {"/front/image_raw"})


def test_format_of_suggested_topics():
    assert instead(["/points", "/rear"]) == " to /points or /rear" and instead([]) == ""


IMAGE = "sensor_msgs/msg/Image"


@pytest.fixture
def observer(graph):
    heard = []
    with RawSubscriber(lambda *message: heard.append(message)) as made:
        made.heard = heard
        yield made


def publish_until_heard(graph, observer, publisher, message, count=1) -> None:
    end = time.monotonic() + 60
    while len(observer.heard) < count and time.monotonic() < end:
        publisher.publish(message)
        observer.spin_for(0.05)


def test_raw_subscriber_receives_the_published_bytes(graph, observer):
    publisher = graph.node("speaker").create_publisher(Image, "/masks", 5)
    observer.subscribe("/masks", IMAGE)
    message = Image(height=1, width=3, step=3, encoding="mono8", data=[1, 2, 3])
    before = time.time_ns()
    publish_until_heard(graph, observer, publisher, message)
    topic, arrival, raw = observer.heard[0]
    assert topic == "/masks"
    assert before <= arrival <= time.time_ns()
    assert deserialize_message(raw, Image) == message


def test_slow_callback_does_not_delay_the_receipt_time(graph, observer):
    """The receipt time is that of arrival, not that of the callback."""
    publisher = graph.node("speaker").create_publisher(Image, "/masks", 5)
    observer.subscribe("/masks", IMAGE)
    publish_until_heard(graph, observer, publisher, Image())
    observer.spin_for(0.2)
    observer.heard.clear()
    sent = time.time_ns()
    publisher.publish(Image())
    time.sleep(0.6)
    observer.spin_for(0.1)
    assert [arrival - sent < 300_000_000 for _, arrival, _ in observer.heard] == [True]


def test_unsubscribed_topic_receives_nothing(graph, observer):
    publisher = graph.node("speaker").create_publisher(Image, "/masks", 5)
    observer.subscribe("/masks", IMAGE)
    publish_until_heard(graph, observer, publisher, Image())
    observer.unsubscribe(["/masks", "/never_heard"])
    observer.heard.clear()
    assert graph.spin_until(lambda: publisher.get_subscription_count() == 0, 60)
    publisher.publish(Image())
    observer.spin_for(0.2)
    assert not observer.heard


def test_latched_message_is_received_late(graph, observer):
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    graph.node("speaker").create_publisher(Image, "/once", qos).publish(Image(width=7))
    observer.subscribe("/once", IMAGE, latched=True)
    end = time.monotonic() + 60
    while not observer.heard and time.monotonic() < end:
        observer.spin_for(0.1)
    assert deserialize_message(observer.heard[0][2], Image).width == 7


def test_unknown_type_is_refused(observer):
    with pytest.raises(ConfigError, match="no_such_msgs/msg/Thing"):
        observer.subscribe("/thing", "no_such_msgs/msg/Thing")


def test_lifecycle_state(graph, observer):
    assert observer.lifecycle_state("/nobody", max_wait=0.2) == ""
    sleeper = graph.node("sleeper", LifecycleNode)
    stop = threading.Event()
    spinner = threading.Thread(target=lambda: graph.spin_until(stop.is_set, 90))
    spinner.start()
    try:
        states = [observer.lifecycle_state("/sleeper", max_wait=30)]
        sleeper.trigger_configure()
        states.append(observer.lifecycle_state("/sleeper", max_wait=30))
    finally:
        stop.set()
        spinner.join()
    assert states == ["unconfigured", "inactive"]
