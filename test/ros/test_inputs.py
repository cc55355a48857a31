"""A sensor's subscription by itself."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from robot import CAMERA_FRAME, TOPICS, Robot
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from mlesam_ros.config import NodeParameters, SensorParameters
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.rig_learner import RigBuilder
from mlesam_ros.ros.subscribers import SensorSubscriber
from mlesam_ros.types import CAMERA, EVENT, LIDAR, RawImage
from mlesam_ros.types import CompressedImage as CompressedPayload

ARRAY_DRIVER = str(Path(__file__).parent / "array_driver.py")


@pytest.fixture
def robot(graph):
    return Robot(graph.node("robot"), qos=100)


@pytest.fixture
def listen(graph):
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


def test_a_burst_of_event_packets_is_read_at_one_go(graph, robot, listen):
    source, frames = listen(EVENT, topic=TOPICS[EVENT])
    wait_for_match(graph, source)
    for _ in range(30):
        robot.send(EVENT, robot._event(robot.now()))
    time.sleep(0.5)
    assert source.received == 0, "nobody spins yet"
    assert graph.spin_until(lambda: source.received)
    assert source.received == 30, "one callback empties the queue"
    assert [f.stamp for f in frames] == sorted(f.stamp for f in frames)


def test_receipt_is_when_the_message_came_not_when_a_busy_executor_read_it(graph, robot, listen):
    source, frames = listen(LIDAR, topic=TOPICS[LIDAR])
    wait_for_match(graph, source)
    stamp = robot.sense((LIDAR,))
    time.sleep(1.0)
    assert graph.spin_until(lambda: frames)
    assert 0 <= source.delay < 0.9 and source.received_at(stamp) < robot.now() - 100_000_000


@pytest.mark.parametrize("package", ["dvs_msgs", "prophesee_event_msgs"])
def test_arrays_of_events_arrive_as_bytes_from_another_process(graph, listen, package):
    """No object per event: the subscription is raw, and a burst is read at one go."""
    driver = subprocess.Popen([sys.executable, ARRAY_DRIVER, package, f"{package}_topic", "20"], stdin=subprocess.PIPE)
    try:
        source, frames = listen(EVENT, topic=f"{package}_topic")
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


def test_a_frame_can_be_renamed(graph, robot, listen):
    source, frames = listen(LIDAR, topic=TOPICS[LIDAR], frame_id="roof")
    wait_for_match(graph, source)
    stamp = robot.sense((LIDAR,))
    assert graph.spin_until(lambda: frames)
    assert (frames[0].frame_id, frames[0].stamp) == ("roof", stamp)


def test_a_driver_that_comes_back_with_another_type_is_followed(graph, listen, other_graph):
    first, second = other_graph(), other_graph()
    raw = first.create_publisher(Image, "picture", qos_profile_sensor_data)
    source, frames = listen(CAMERA, topic="picture")
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


def test_closed_means_silent(graph, robot, listen):
    source, frames = listen(LIDAR, topic=TOPICS[LIDAR])
    wait_for_match(graph, source)
    source.close()
    robot.sense((LIDAR,))
    graph.spin_for(0.3)
    assert not frames
    source.poll()
    wait_for_match(graph, source)
    robot.sense((LIDAR,))
    assert graph.spin_until(lambda: frames)


def test_an_override_that_makes_no_sense_is_reported(graph, robot):
    override = Parameter("qos_overrides./lidar/points.subscription.reliability", value="mostly")
    node = graph.node("listener", parameter_overrides=[override])
    source = SensorSubscriber(node, LIDAR, SensorParameters(topic=TOPICS[LIDAR]))
    assert graph.spin_until(lambda: source.poll() or source.obstacle)
    assert "mostly" in source.obstacle or "reliability" in source.obstacle


@pytest.fixture
def flood():
    """Starts a driver whose pictures get lost; ends it."""
    started = []

    def start(topic):
        started.append(subprocess.Popen([sys.executable, str(Path(__file__).parent / "oversize_publisher.py"), topic]))

    yield start
    for driver in started:
        driver.kill()
        driver.wait()


def test_what_the_transport_loses_is_counted(graph, listen, flood):
    flood("flooded")
    source, _ = listen(CAMERA, topic="flooded")
    assert graph.spin_until(lambda: source.lost > 5)


def test_publishers_that_take_turns_are_named_and_one_that_starts_again_is_not(graph, listen):
    """Kind: uniqueness that is assumed. A driver that starts again is another publisher, but sends alone."""
    cloud = PointCloud2(header=Header(frame_id="lidar"), point_step=1)
    one, two = (graph.node(name).create_publisher(PointCloud2, "shared", 10) for name in ("first", "second"))
    source, _ = listen(LIDAR, topic="shared")
    assert graph.spin_until(lambda: one.get_subscription_count() and two.get_subscription_count())

    def send(publisher):
        count = source.received
        publisher.publish(cloud)
        assert graph.spin_until(lambda: source.received > count)

    for publisher in (one, one, two, two):
        send(publisher)
    if source._senders:  # from Kilted on a message tells its publisher
        assert source.rivals == []
    for publisher in (one, two):
        send(publisher)
    assert source.rivals == ["/first", "/second"]
