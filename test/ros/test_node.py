# SPDX-License-Identifier: Apache-2.0
"""The node in this process: lifecycle, parameter changes, and faults of its inputs."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus
from listener import Listener
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from robot import CAMERA_FRAME, EVENT_FRAME, HEIGHT, LIDAR_FRAME, WIDTH, Robot, clock_message
from rosgraph_msgs.msg import Clock

from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def overrides(**parameters):
    return [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]


@pytest.fixture
def start(graph, weights):
    """A node with the tiny model, active unless told otherwise."""

    def make(active=True, **parameters):
        given = {name.replace("__", "."): value for name, value in parameters.items()}
        node = graph.perception_node({**weights, "autostart": active, **given})
        node.start()
        assert not active or node.state == "active"
        return node

    return make


@pytest.fixture
def robot(graph):
    return lambda **options: Robot(graph.node("robot"), **options)


@pytest.fixture
def listener(graph):
    return Listener(graph.node("listener"))


def drive(graph, robot, until, sensors=MODALITIES, timeout=60.0):
    """Publish at 10 Hz until something holds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        robot.sense(sensors)
        if graph.spin_until(until, 0.1):
            return
    pytest.fail("it did not happen in time")


def test_lifecycle_can_be_repeated(graph, start, robot, listener):
    node, robot = start(active=False), robot()
    assert node.state == "unconfigured"
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS
        graph.spin_until(lambda: False, 0.3)
        robot.sense()
        graph.spin_until(lambda: False, 0.3)
        assert not listener.got["labels"], "an inactive node is silent"
        for _ in range(2):
            assert node.trigger_activate() == SUCCESS
            drive(graph, robot, lambda: listener.masks_from(*MODALITIES))
            assert listener.got["status"][0].sequence == 1, "counted since activation"
            assert node.trigger_deactivate() == SUCCESS
            graph.spin_until(lambda: False, 0.3)
            for messages in listener.got.values():
                messages.clear()
        assert node.trigger_cleanup() == SUCCESS
        assert node.state == "unconfigured"
    assert node.trigger_shutdown() == SUCCESS
    assert node.state == "finalized"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"checkpoint": "/nowhere/street.safetensors"}, "there is no checkpoint /nowhere/street.safetensors"),
        ({"checkpoint": "{base_weights}"}, "no checkpoint metadata"),
        ({"base_weights": "{checkpoint}"}, "base weights"),
        ({"base_weights": "sam2_hirea_large"}, "Did you mean sam2_hiera_large?"),
        ({"calibration_file": "/nowhere/rig.yaml"}, "/nowhere/rig.yaml cannot be read"),
        ({"device": "cuda:77"}, "cuda"),
    ],
)
def test_failed_configure_has_a_reason_and_can_be_repeated(graph, start, listener, weights, wrong, words):
    wrong = {name: value.format(**weights) for name, value in wrong.items()}
    node = start(active=False, **wrong)
    assert node.trigger_configure() == FAILURE
    assert node.state == "unconfigured"
    assert graph.spin_until(lambda: words in listener.words("pipeline")), listener.words("pipeline")
    assert "\n" not in listener.words("pipeline")
    right = {**{name: "" for name in wrong}, **{n: v for n, v in weights.items() if n in wrong}}
    assert all(result.successful for result in node.set_parameters(overrides(**right)))
    assert node.trigger_configure() == SUCCESS
    assert graph.spin_until(lambda: listener.words("pipeline").startswith("inactive"))


def test_parameters_change_while_masks_are_made(graph, start, robot, listener):
    node, robot = start(), robot()
    drive(graph, robot, lambda: listener.masks_from(*MODALITIES))

    refused = node.set_parameters_atomically(overrides(overlay_alpha=0.1, max_wait=0.1))
    assert not refused.successful and "cleanup" in refused.reason
    assert node.get_parameter("overlay_alpha").value == 0.5, "all of them or none"
    assert not node.set_parameters(overrides(modalities=["camera", "sonar"]))[0].successful
    assert not node.set_parameters(overrides(confidence_threshold=2.0))[0].successful
    assert not node.set_parameters(overrides(autostart=False))[0].successful

    assert node.set_parameters(overrides(modalities=["camera", "depth"], confidence_threshold=1.0))[0].successful
    drive(graph, robot, lambda: listener.masks_from(CAMERA, DEPTH))
    listener.got["labels"].clear()
    drive(graph, robot, lambda: listener.got["labels"])
    assert set(listener.got["labels"][-1].data) == {255}
    assert node.set_parameters(overrides(modalities=list(MODALITIES), confidence_threshold=0.0))[0].successful
    listener.got["status"].clear()
    drive(graph, robot, lambda: listener.masks_from(*MODALITIES))


def test_missing_camera_info_is_reported_and_replaced_by_a_file(graph, start, robot, listener, tmp_path):
    node, robot = start(), robot(infos=False)
    drive(graph, robot, lambda: "no CameraInfo yet on /camera/camera_info" in listener.words("pipeline"))
    assert not listener.got["labels"]
    rig = tmp_path / "rig.yaml"
    size = {"width": WIDTH, "height": HEIGHT, "K": [32.0, 32.0, 31.5, 23.5]}
    rig.write_text(str({"camera": CAMERA_FRAME, "cameras": {CAMERA_FRAME: size, EVENT_FRAME: size}}))
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert node.set_parameters(overrides(calibration_file=str(rig)))[0].successful
    assert (node.trigger_configure(), node.trigger_activate()) == (SUCCESS, SUCCESS)
    drive(graph, robot, lambda: listener.masks_from(*MODALITIES))


def test_missing_extrinsic_is_reported_and_masks_continue(graph, start, robot, listener):
    start()
    robot = robot(frames=(CAMERA_FRAME, EVENT_FRAME))
    drive(graph, robot, lambda: listener.masks_from(CAMERA, DEPTH, EVENT))
    drive(graph, robot, lambda: "no transform connects 'lidar'" in listener.words("lidar"))
    status = listener.got["status"][-1]
    lidar = next(s for s in status.sensors if s.modality == LIDAR)
    assert not lidar.used and lidar.refused > 0 and lidar.used_total == 0
    robot.place((CAMERA_FRAME, EVENT_FRAME, LIDAR_FRAME))
    drive(graph, robot, lambda: listener.masks_from(*MODALITIES))


def test_damaged_messages_are_counted_and_masks_continue(graph, start, robot, listener):
    start()
    robot = robot()
    drive(graph, robot, lambda: listener.masks_from(*MODALITIES))

    def garbage():
        stamp = robot.sense((CAMERA, DEPTH))
        cloud = robot._lidar(stamp)
        cloud.point_step = 7
        robot.send(LIDAR, cloud)
        packet = robot._event(stamp)
        packet.encoding = "morse"
        robot.send(EVENT, packet)

    listener.got["status"].clear()
    end = time.monotonic() + 60
    told = lambda: "refused" in listener.words("lidar") and "morse" in listener.words("event")  # noqa: E731
    while not (told() and listener.masks_from(CAMERA, DEPTH)):
        assert time.monotonic() < end, (listener.words("lidar"), listener.words("event"))
        garbage()
        graph.spin_until(lambda: False, 0.1)
    counts = {s.modality: s for s in listener.got["status"][-1].sensors}
    for modality in (LIDAR, EVENT):
        assert counts[modality].refused > 0
    listener.got["status"].clear()
    drive(graph, robot, lambda: listener.masks_from(*MODALITIES))


def test_image_of_another_size_than_its_calibration_is_not_used(graph, start, robot, listener):
    start()
    robot = robot()

    def wrong_size():
        stamp = robot.sense((DEPTH, EVENT, LIDAR))
        image = robot._camera(stamp)
        image.height, image.data = HEIGHT // 2, image.data[: len(image.data) // 2]
        robot.send(CAMERA, image)

    end = time.monotonic() + 60
    while not (listener.masks_from(DEPTH, EVENT, LIDAR) and f"{WIDTH}x{HEIGHT // 2}" in listener.words("camera")):
        assert time.monotonic() < end, listener.words("camera")
        wrong_size()
        graph.spin_until(lambda: False, 0.1)
    assert listener.got["labels"][-1].header.frame_id == CAMERA_FRAME
    assert (listener.got["labels"][-1].height, listener.got["labels"][-1].width) == (HEIGHT, WIDTH)


def test_message_type_is_detected_and_an_unsupported_one_is_reported(graph, start, robot, listener):
    import cv2
    from sensor_msgs.msg import CompressedImage, Imu

    start(camera__topic="camera/compressed", lidar__topic="imu")
    robot = robot()
    driver = graph.node("driver")
    camera = driver.create_publisher(CompressedImage, "camera/compressed", qos_profile_sensor_data)
    driver.create_publisher(Imu, "imu", 10)

    def jpeg():
        image = robot._camera(robot.sense((DEPTH,)))
        pixels = np.frombuffer(image.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
        data = cv2.imencode(".jpg", pixels)[1]
        camera.publish(CompressedImage(header=image.header, format="jpeg", data=data.tobytes()))

    end = time.monotonic() + 60
    while not (listener.masks_from(CAMERA, DEPTH) and "publisher sends sensor_msgs/msg/Imu" in listener.words("lidar")):
        assert time.monotonic() < end, listener.words("lidar")
        jpeg()
        graph.spin_until(lambda: False, 0.1)


def test_simulated_time(graph, start, robot, listener):
    start(use_sim_time=True)
    robot = robot()
    drive(graph, robot, lambda: "no message on /clock" in listener.words("pipeline"))
    clock = graph.node("clock").create_publisher(Clock, "/clock", 10)
    now = 100_000_000_000

    def tick(seconds=0.1):
        nonlocal now
        now += int(seconds * 1e9)
        clock.publish(clock_message(now))
        graph.spin_until(lambda: False, 0.05)
        robot.sense(stamp=now)
        graph.spin_until(lambda: False, 0.05)

    for _ in range(200):
        tick()
        if listener.masks_from(*MODALITIES):
            break
    assert listener.masks_from(*MODALITIES)
    assert listener.stamps("labels")[-1] % 100_000_000 == 0, "stamps are those of the simulated clock"
    now = 50_000_000_000  # the simulation starts again
    listener.got["status"].clear()
    for _ in range(200):
        tick()
        if listener.masks_from(*MODALITIES):
            break
    assert listener.masks_from(*MODALITIES)


def test_missing_calibration_is_a_warning_then_an_error(graph, start, robot, listener):
    node = start(calibration_timeout=2.0)
    robot = robot(frames=(CAMERA_FRAME, EVENT_FRAME), infos=False)
    drive(graph, robot, lambda: "no CameraInfo yet" in listener.words("pipeline"))
    assert listener.reports["pipeline"].level == DiagnosticStatus.WARN and "waiting for" in listener.words("pipeline")
    drive(graph, robot, lambda: "waited" in listener.words("pipeline"))
    assert listener.reports["pipeline"].level == DiagnosticStatus.ERROR
    reasons = {pair.key for pair in listener.reports["lidar"].values}
    assert any(key.startswith("refused: no CameraInfo yet") for key in reasons)
    robot.leave()
    other = Robot(graph.node("other"), frames=(CAMERA_FRAME, EVENT_FRAME))
    drive(graph, other, lambda: "waited" in listener.words("lidar") and "'lidar'" in listener.words("lidar"))
    assert listener.reports["lidar"].level == DiagnosticStatus.ERROR
    node.set_parameters(overrides(calibration_timeout=3600.0))
    drive(graph, other, lambda: "waiting for" in listener.words("lidar"))


def test_labels_resolution_network(graph, start, robot, listener):
    node, robot = start(), robot()
    drive(graph, robot, lambda: listener.masks_from(*MODALITIES))
    size = node._runtime._pipeline.network_size(node._runtime.views[""].calibration.rig)
    assert size != (HEIGHT, WIDTH)
    sizes = lambda: [(m.height, m.width) for m in listener.got["labels"]]  # noqa: E731
    assert not node.set_parameters(overrides(labels_resolution="netwrok"))[0].successful
    assert node.set_parameters(overrides(labels_resolution="network"))[0].successful
    beside = ("confidence", "overlay", "projected_lidar", "camera_info")
    for expected in (size, (HEIGHT, WIDTH)):
        drive(graph, robot, lambda: sizes()[-1] == expected)  # noqa: B023
        last = listener.got["labels"][-1]
        assert (last.step, len(last.data), last.header.frame_id) == (
            last.width,
            expected[0] * expected[1],
            CAMERA_FRAME,
        )
        for name in (*beside, "semantic_points"):
            listener.got[name].clear()
        drive(graph, robot, lambda: all(listener.got[name] for name in (*beside, "semantic_points")))
        assert {(listener.got[name][-1].height, listener.got[name][-1].width) for name in beside} == {expected}
        node.set_parameters(overrides(labels_resolution="camera"))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "field intensity, float32, scale 1"),
        ({"lidar__intensity_scale": 5.0, "event__window": 0.05}, "field intensity, float32, scale 5 as set"),
    ],
)
def test_detected_properties_are_in_status_and_diagnostics(graph, start, robot, listener, parameters, words):
    """Scale of the intensity and duration of the window."""
    start(**parameters)
    trained = "event.window is 0.05 s, but the expert was trained on 0.03 s" if parameters else " Hz on /events"
    values = lambda: {v.key: v.value for v in listener.reports["lidar"].values}  # noqa: E731
    said = lambda: trained in listener.words("event") and "intensity" in values()  # noqa: E731
    drive(graph, robot(), lambda: listener.masks_from(*MODALITIES) and said())
    assert ("trained" in listener.words("event")) == bool(parameters)
    (lidar,) = (s for s in listener.masks_from(*MODALITIES)[-1].sensors if s.modality == LIDAR)
    assert lidar.data == f"intensity: {words}"
    assert values()["intensity"] == words
