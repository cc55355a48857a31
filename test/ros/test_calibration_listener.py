# SPDX-License-Identifier: Apache-2.0
"""Calibration from CameraInfo and TF: QoS, namespaces, sizes and invalid messages."""

import dataclasses

import pytest

pytest.importorskip("rclpy")
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from robot import HEIGHT, WIDTH, camera_info
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from mlesam_ros.config import NodeParameters
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.ros.calibration_listener import CalibrationListener
from mlesam_ros.ros.diagnostics import OK, PIPELINE_MESSAGES, WARN, DiagnosticBuilder, PipelineHealth

TOPIC = "camera/camera_info"
REMAPPED = ("-r", "/tf:=/robot2/tf", "-r", "/tf_static:=/robot2/tf_static")


def feed(graph, info, **camera):
    parameters = NodeParameters()
    parameters = dataclasses.replace(parameters, camera=dataclasses.replace(parameters.camera, **camera))
    made = CalibrationListener(graph.node("listener"), parameters)
    publisher = graph.node("driver").create_publisher(CameraInfo, TOPIC, 10)

    def heard():
        publisher.publish(info)
        return made.rig.lenses or made.problems

    assert graph.spin_until(heard)
    return made


def test_camera_matches_its_camera_info(graph):
    made = feed(graph, camera_info(Header(frame_id="eye")))
    assert (made.rig.camera.width, made.rig.camera.height, made.missing) == (WIDTH, HEIGHT, None)


def test_fit_adapts_intrinsics_to_the_image_size(graph):
    info = camera_info(Header(frame_id="eye"))
    made = feed(graph, info, fit="crop_bottom", picture_size=(WIDTH, HEIGHT - 8))
    assert (made.rig.camera.height, made.rig.camera.K[1, 2]) == (HEIGHT - 8, info.k[5] - 8)


def test_invalid_camera_info_is_a_problem(graph):
    info = camera_info(Header(frame_id="eye"))
    info.k[2] = 9000.0
    made = feed(graph, info)
    assert "the principal point 9000 px is outside" in made.missing


def place(parent="eye", child="lidar", x=1.0, stamp=0):
    placed = TransformStamped(child_frame_id=child)
    placed.header.frame_id, placed.transform.translation.x, placed.transform.rotation.w = parent, x, 1.0
    placed.header.stamp = Time(sec=stamp)
    return TFMessage(transforms=[placed])


def listening(graph, space="", **options):
    node = graph.node("listener", namespace=space, **options)
    made = CalibrationListener(node, NodeParameters())
    made.rig.camera_frame = "eye"
    return made


def placed_at(graph, feed, seconds=10.0):
    """x of the LiDAR once it is known; None if it never is."""

    def look():
        feed.poll()
        return "lidar" in feed.rig.tree.frames

    found = graph.spin_until(look, seconds)
    return feed.rig.extrinsic("lidar").translation[0] if found else None


def quality(reliable, latched, depth=10):
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=depth, reliability=reliability, durability=durability)


@pytest.mark.parametrize("remedy", ["Stop all but one of them", "set camera.info_topic to another topic"])
def test_two_publishers_of_one_camera_info_are_reported_and_each_remedy_helps(graph, remedy):
    """Two nodes publish the CameraInfo of one camera."""
    nodes = [graph.node(name) for name in ("left", "right")]
    publishers = [node.create_publisher(CameraInfo, TOPIC, 10) for node in nodes]
    listener, parameters = graph.node("listener"), NodeParameters()
    made = CalibrationListener(listener, parameters)

    def status():
        health = PipelineHealth("active", rate=10.0, latencies=[0.1], competing_publishers=made.competing_publishers)
        return DiagnosticBuilder("/mlesam").pipeline(health, 1.0)

    assert graph.spin_until(lambda: status().level == WARN), status()
    assert status().message == str(
        PIPELINE_MESSAGES["several_infos"].format(competing_publishers=made.competing_publishers)[1]
    )
    assert status().message.startswith(f"2 publishers on /{TOPIC}: /left, /right.") and remedy in status().message
    if remedy.startswith("Stop"):
        nodes[0].destroy_publisher(publishers[0])
    else:
        camera = dataclasses.replace(parameters.camera, info_topic="other/camera_info")
        made.close()
        made = CalibrationListener(listener, dataclasses.replace(parameters, camera=camera))
        nodes[1].create_publisher(CameraInfo, "other/camera_info", 10)
    assert graph.spin_until(lambda: made.competing_publishers is None, 10)
    assert status().level == OK


def test_latched_camera_info_is_received_after_publication(graph):
    """One transient-local message before the subscription exists."""
    publisher = graph.node("driver").create_publisher(CameraInfo, TOPIC, quality(True, True))
    publisher.publish(camera_info(Header(frame_id="eye")))
    made = CalibrationListener(graph.node("listener"), NodeParameters())
    assert graph.spin_until(lambda: made.poll() or made.rig.has_camera, 15)
    made.close()


@pytest.mark.parametrize(("reliable", "latched"), [(True, False), (False, False), (False, True), (True, True)])
@pytest.mark.parametrize("topic", [TOPIC, "/tf", "/tf_static"])
def test_calibration_is_received_with_any_publisher_qos(graph, topic, reliable, latched):
    """Every combination of reliability and durability."""
    made = listening(graph)
    message = camera_info(Header(frame_id="eye")) if topic == TOPIC else place()
    publisher = graph.node("driver").create_publisher(type(message), topic, quality(reliable, latched))

    def heard():
        publisher.publish(message)
        made.poll()
        return made.rig.has_camera if topic == TOPIC else "lidar" in made.rig.tree.frames

    assert graph.spin_until(heard, 15)
    made.close()


def test_qos_override_of_tf_is_applied(graph):
    """Best-effort /tf with the override that the doctor prints, without a poll."""
    override = Parameter("qos_overrides./tf.subscription.reliability", value="best_effort")
    made = listening(graph, parameter_overrides=[override])
    publisher = graph.node("driver").create_publisher(TFMessage, "/tf", quality(False, False))
    assert graph.spin_until(lambda: publisher.publish(place()) or "lidar" in made.rig.tree.frames, 15)
    made.close()


@pytest.mark.parametrize("first", ["/robot1", "/robot2"])
def test_transforms_of_other_namespaces_are_ignored(graph, first):
    """Equal frame names in one graph, 4 m apart."""
    driver = graph.node("driver")
    spaces = [first, *({"/robot1", "/robot2", ""} - {first})]
    sent = {"/robot1": 1.0, "/robot2": 5.0, "": 9.0}
    publishers = [driver.create_publisher(TFMessage, f"{space}/tf_static", quality(True, True)) for space in spaces]
    for space, publisher in zip(spaces, publishers, strict=True):
        publisher.publish(place(x=sent[space]))
    for space in ("/robot1", "/robot2", "", "/robot3"):
        made = listening(graph, space)
        own = sent.get(space, sent[""])
        assert graph.spin_until(lambda made=made, own=own: placed_at(graph, made) == own, 15), space
        graph.spin_until(lambda made=made: made.poll(), 0.5)
        assert placed_at(graph, made) == own
        assert not made.problems
        made.close()


@pytest.mark.parametrize("rival", [None, "/robot2/tf_static", "/tf_static"])
@pytest.mark.parametrize("space", ["", "/robot1"])
def test_extrinsic_outlives_its_publisher(graph, space, rival):
    """The publisher of the extrinsic ends; the extrinsic is kept."""
    if rival == f"{space}/tf_static":
        return
    made = listening(graph, space)
    driver, other = graph.node("driver"), graph.node("other")
    publisher = driver.create_publisher(TFMessage, f"{space}/tf_static", quality(True, True))
    publisher.publish(place())
    assert placed_at(graph, made, 15) == 1.0
    if rival:
        other.create_publisher(TFMessage, rival, quality(True, True)).publish(place(x=5.0))
    driver.destroy_publisher(publisher)
    topic = f"{space}/tf_static"
    assert graph.spin_until(lambda: made.poll() or not made._node.count_publishers(topic), 15)
    for _ in range(10):
        graph.spin_for(0.1)
        made.poll()
        assert placed_at(graph, made) == 1.0 and not made.problems
    again = graph.node("again").create_publisher(TFMessage, topic, quality(True, True))
    again.publish(place(x=2.0))
    assert graph.spin_until(lambda: placed_at(graph, made) == 2.0, 15)
    made.close()


def test_namespace_topic_is_kept_before_its_first_message(graph):
    """Discovery loses the publisher before its first message, while another /tf exists."""
    made = listening(graph, "/robot1")
    driver = graph.node("driver")
    publisher = driver.create_publisher(TFMessage, "/robot1/tf", quality(True, False))
    assert graph.spin_until(lambda: made.poll() or publisher.get_subscription_count(), 15)
    foreign = graph.node("other").create_publisher(TFMessage, "/tf", quality(True, False))
    driver.destroy_publisher(publisher)
    assert graph.spin_until(lambda: not made._node.count_publishers("/robot1/tf"), 15)
    for _ in range(10):
        foreign.publish(place(x=5.0))
        graph.spin_for(0.1)
        made.poll()
    assert "lidar" not in made.rig.tree.frames
    made.close()


def test_remedy_for_transforms_outside_the_namespace_helps(graph):
    """With TF remapped as advised, the extrinsics are used and the problem is gone."""
    publisher = graph.node("driver").create_publisher(TFMessage, "/robot2/tf_static", quality(True, True))
    publisher.publish(place())
    made = listening(graph, "/robot1")
    assert graph.spin_until(lambda: made.poll() or made.problems, 15)
    assert "Remap /tf and /tf_static to them" in made.problems["/robot2/tf_static"].remedy
    made.close()
    made = listening(graph, "/robot1", cli_args=["--ros-args", *REMAPPED])
    assert placed_at(graph, made, 15) == 1.0
    assert not made.problems
    made.close()


def test_backward_clock_jump_discards_dynamic_transforms(graph):
    """/clock jumps back before the first new transform."""
    made = listening(graph, parameter_overrides=[Parameter("use_sim_time", value=True)])
    driver = graph.node("driver")
    clock = driver.create_publisher(Clock, "/clock", 10)
    moving = driver.create_publisher(TFMessage, "/tf", 100)

    def run(second):
        clock.publish(Clock(clock=Time(sec=second)))
        moving.publish(place("odom", "base", float(second), second))
        graph.spin_for(0.05)
        known = "base" in made.rig.tree.frames and made.rig.tree.lookup("odom", "base").translation[0]
        return known == second and made._node.get_clock().now().nanoseconds == second * 10**9

    for second in range(100, 110):
        assert graph.spin_until(lambda second=second: run(second), 15)
    made.rig.tree.set("base", "lidar", Transform.identity())
    assert graph.spin_until(lambda: clock.publish(Clock(clock=Time(sec=103))) or "odom" not in made.rig.tree.frames, 15)
    assert "lidar" in made.rig.tree.frames
    made.close()
