"""Where else a sensor may be."""

import pytest

pytest.importorskip("rclpy")
from event_camera_msgs.msg import EventPacket
from sensor_msgs.msg import Image, PointCloud2

from mlesam_ros.ros.topics import instead, suggest_topics
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR


@pytest.fixture
def looked(graph):
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
    looker = graph.node("looker")
    assert graph.spin_until(lambda: set(offered) <= {name for name, _ in looker.get_topic_names_and_types()})
    return lambda modality, topic, taken=(): suggest_topics(looker, modality, topic, taken)


def test_topics_with_a_fitting_type_that_somebody_publishes(looked):
    assert looked(LIDAR, "/lidar/points") == ["/points"], "neither the node's own nor one that is only listened to"
    assert looked(EVENT, "/events") == ["/dvs"], "any picture could be event pictures, but hardly is"


def test_the_name_that_is_most_alike_comes_first_and_what_others_use_not_at_all(looked):
    found = looked(CAMERA, "/camera/image_raw")
    assert found[0] == "/front/image_raw" and len(found) == 3
    assert looked(DEPTH, "/depth/image_raw", {"/front/image_raw"})[0] == "/front/depth/image_raw"
    assert "/front/image_raw" not in looked(DEPTH, "/depth/image_raw", {"/front/image_raw"})


def test_in_words():
    assert instead(["/points", "/rear"]) == " to /points or /rear" and instead([]) == ""
