"""The rig as messages fill it: a CameraInfo of another size than the pictures, and one that cannot be."""

import dataclasses

import pytest

pytest.importorskip("rclpy")
from robot import HEIGHT, WIDTH, camera_info
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from mlesam_ros.config import NodeParameters
from mlesam_ros.ros.rig_feed import RigFeed

TOPIC = "camera/camera_info"


def feed(graph, info, **camera):
    parameters = NodeParameters()
    parameters = dataclasses.replace(parameters, camera=dataclasses.replace(parameters.camera, **camera))
    made = RigFeed(graph.node("listener"), parameters)
    publisher = graph.node("driver").create_publisher(CameraInfo, TOPIC, 10)

    def heard():
        publisher.publish(info)
        return made.rig.lenses or made.problems

    assert graph.spin_until(heard)
    return made


def test_a_camera_is_what_its_info_says(graph):
    made = feed(graph, camera_info(Header(frame_id="eye")))
    assert (made.rig.camera.width, made.rig.camera.height, made.missing) == (WIDTH, HEIGHT, None)


def test_pictures_of_another_size_are_fitted_on_request(graph):
    info = camera_info(Header(frame_id="eye"))
    made = feed(graph, info, fit="crop_bottom", picture_size=(WIDTH, HEIGHT - 8))
    assert (made.rig.camera.height, made.rig.camera.K[1, 2]) == (HEIGHT - 8, info.k[5] - 8)


def test_an_info_that_lies_is_a_problem_in_words(graph):
    info = camera_info(Header(frame_id="eye"))
    info.k[2] = 9000.0
    made = feed(graph, info)
    assert "the principal point 9000 px lies outside" in made.missing
