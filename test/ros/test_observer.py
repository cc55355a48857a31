"""The observer hears serialized messages with the time at which the transport delivered them."""

import threading
import time

import pytest
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from mlesam_ros.errors import ConfigError
from mlesam_ros.ros.raw_topics import RawSubscriber

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
        observer.hear(0.05)


def test_messages_arrive_as_they_were_sent(graph, observer):
    publisher = graph.node("speaker").create_publisher(Image, "/masks", 5)
    observer.listen("/masks", IMAGE)
    message = Image(height=1, width=3, step=3, encoding="mono8", data=[1, 2, 3])
    before = time.time_ns()
    publish_until_heard(graph, observer, publisher, message)
    topic, arrival, raw = observer.heard[0]
    assert topic == "/masks"
    assert before <= arrival <= time.time_ns()
    assert deserialize_message(raw, Image) == message


def test_a_slow_listener_does_not_make_messages_late(graph, observer):
    """What arrives while the listener is busy has the time of its arrival, not of its being taken."""
    publisher = graph.node("speaker").create_publisher(Image, "/masks", 5)
    observer.listen("/masks", IMAGE)
    publish_until_heard(graph, observer, publisher, Image())
    observer.hear(0.2)
    observer.heard.clear()
    sent = time.time_ns()
    publisher.publish(Image())
    time.sleep(0.6)
    observer.hear(0.1)
    assert [arrival - sent < 300_000_000 for _, arrival, _ in observer.heard] == [True]


def test_nothing_is_heard_after_ignoring(graph, observer):
    publisher = graph.node("speaker").create_publisher(Image, "/masks", 5)
    observer.listen("/masks", IMAGE)
    publish_until_heard(graph, observer, publisher, Image())
    observer.unsubscribe(["/masks", "/never_heard"])
    observer.heard.clear()
    assert graph.spin_until(lambda: publisher.get_subscription_count() == 0, 60)
    publisher.publish(Image())
    observer.hear(0.2)
    assert not observer.heard


def test_latched_words_are_heard_afterwards(graph, observer):
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    graph.node("speaker").create_publisher(Image, "/once", qos).publish(Image(width=7))
    observer.listen("/once", IMAGE, latched=True)
    end = time.monotonic() + 60
    while not observer.heard and time.monotonic() < end:
        observer.hear(0.1)
    assert deserialize_message(observer.heard[0][2], Image).width == 7


def test_unknown_type_is_named(observer):
    with pytest.raises(ConfigError, match="no_such_msgs/msg/Thing"):
        observer.listen("/thing", "no_such_msgs/msg/Thing")


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
