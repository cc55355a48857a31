# SPDX-License-Identifier: Apache-2.0
"""The node in a separate process, publishers and subscribers in this one, over the real transport."""

import math
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
from costmap_layers import read_xyz, semantic_layer_refusal
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from listener import LATCHED, OUTPUTS, Listener
from node_process import NodeProcess
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from robot import CAMERA_FRAME, EVENT_FRAME, HEIGHT, LIDAR_FRAME, WIDTH, Robot, camera_info
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from test_process import sockets

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.labels import load_label_space
from mlesam_ros.messages import stamp_ns
from mlesam_ros.ros.compat import message_class
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, NANOSECONDS


@pytest.fixture
def launch(tmp_path, weights):
    started = []

    def start(**parameters):
        name = f"node{len(started)}.log"
        started.append(NodeProcess(tmp_path / name, **{**weights, **parameters}))
        return started[-1]

    yield start
    for node in started:
        node.kill()


class Drive:
    """Robot that publishes at 10 Hz until a condition holds."""

    def __init__(self, graph) -> None:
        self.graph = graph
        self.robot = Robot(graph.node("robot"))
        self.listener = Listener(graph.node("listener"))
        self.sent: list[int] = []

    def until(self, condition, sensors=MODALITIES, timeout=120.0) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.sent.append(self.robot.sense(sensors))
            if self.graph.spin_until(condition, 0.1):
                return
        pytest.fail("it did not happen in time")


def weight_sums(status) -> list[float]:
    levels = {}
    for sensor in status.sensors:
        for weight in sensor.weights:
            levels[weight.level] = levels.get(weight.level, 0.0) + weight.weight
    return list(levels.values())


def test_costmap_layers_can_read_the_points(graph, launch):
    """By the rules of nav2's obstacle layer and of the semantic segmentation layer."""
    launch()
    drive, vision = Drive(graph), []
    got = drive.listener.got
    graph.node("vision").create_subscription(
        message_class("vision_msgs/msg/LabelInfo"), "/mlesam/vision_label_info", vision.append, LATCHED
    )
    aligned = [f"aligned/{name}" for name in ("labels", "confidence", "points")]

    def common():
        return set.intersection(*(set(drive.listener.stamps(name)) for name in aligned))

    drive.until(lambda: vision and common() and got["obstacle_points"] and got["ground_points"])
    for cloud in (got["obstacle_points"][-1], got["ground_points"][-1]):
        # The depth sensor's, registered to the camera, in a mask that the LiDAR's message came too late for.
        assert cloud.header.frame_id in (LIDAR_FRAME, CAMERA_FRAME) and stamp_ns(cloud.header) in drive.sent
        assert len(read_xyz(cloud)) == cloud.width
    stamp = max(common())
    three = [next(m for m in got[name] if stamp_ns(m.header) == stamp) for name in aligned]
    classes = {entry.class_id: entry.class_name for entry in vision[-1].class_map}
    assert semantic_layer_refusal(*three, classes) == ""


def test_four_sensors_give_all_outputs(graph, launch):
    node, drive = launch(), Drive(graph)
    got = drive.listener.got
    vision: list = []
    vision_type = message_class("vision_msgs/msg/LabelInfo")
    assert vision_type is not None
    graph.node("vision").create_subscription(vision_type, "/mlesam/vision_label_info", vision.append, LATCHED)
    enough = lambda: len(drive.listener.masks_from(*MODALITIES)) >= 3  # noqa: E731
    drive.until(lambda: enough() and got["sensor_health"] and got["sensor_health"][-1].markers)
    assert all(got[name] for name in (*OUTPUTS, "label_info"))
    assert {m.header.frame_id for m in got["sensor_health"][-1].markers} <= {CAMERA_FRAME, LIDAR_FRAME, EVENT_FRAME}

    for name, encoding, channels in (
        ("labels", "mono8", 1),
        ("confidence", "mono8", 1),
        ("overlay", "rgb8", 3),
        ("projected_lidar", "rgb8", 3),
    ):
        for image in got[name]:
            assert stamp_ns(image.header) in drive.sent
            assert image.header.frame_id == CAMERA_FRAME
            assert (image.height, image.width, image.encoding) == (HEIGHT, WIDTH, encoding)
            assert (image.step, len(image.data)) == (WIDTH * channels, HEIGHT * WIDTH * channels)
    for info in got["camera_info"]:
        assert stamp_ns(info.header) in drive.sent and info.header.frame_id == CAMERA_FRAME
        assert (info.height, info.width, list(info.k)) == (HEIGHT, WIDTH, list(camera_info(Header()).k))
    pictures = {stamp_ns(image.header): np.frombuffer(image.data, np.uint8) for image in got["overlay"]}
    for image in got["overlay/compressed"][-3:]:
        decoded = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        plain = pictures[stamp_ns(image.header)].reshape(HEIGHT, WIDTH, 3)
        assert np.abs(decoded.mean((0, 1)) - plain.mean((0, 1))).max() < 2, "red stays red"
        assert image.format == "rgb8; jpeg compressed bgr8", "of which image_transport makes rgb8"
    space = load_label_space("deliver")
    assert np.frombuffer(got["labels"][-1].data, np.uint8).max() < len(space)
    assert np.frombuffer(got["confidence"][-1].data, np.uint8).min() > 0

    cloud = got["semantic_points"][-1]
    assert cloud.header.frame_id == LIDAR_FRAME and stamp_ns(cloud.header) in drive.sent
    assert [f.name for f in cloud.fields] == ["x", "y", "z", "intensity", "label", "rgb"]
    assert 0 < cloud.width <= 500 and len(cloud.data) == cloud.width * cloud.point_step

    status = drive.listener.masks_from(*MODALITIES)[-1]
    assert (status.primary, status.header.frame_id) == (CAMERA, CAMERA_FRAME)
    assert stamp_ns(status.header) in drive.sent
    assert [s.modality for s in status.sensors] == list(MODALITIES)
    assert {s.modality: s.topic for s in status.sensors}[LIDAR] == "/lidar/points"
    for sensor in status.sensors:
        assert 0 <= sensor.age < 5 and abs(sensor.skew) <= 0.06
        fates = sensor.used_total + sensor.superseded + sensor.late + sensor.unmatched + sensor.refused
        assert 3 <= sensor.used_total <= fates <= sensor.received
    assert weight_sums(status) == pytest.approx([1.0] * 3, abs=1e-3)
    stages = {entry.stage: entry.seconds for entry in status.latencies}
    *parts, whole = stages
    assert parts == ["receive", "synchronize", "encode", "model", "decode", "publish"] and whole == "stamp_to_mask"
    assert all(stages[part] >= 0 for part in parts)
    assert sum(stages[part] for part in parts) <= stages[whole] + 0.001

    named = got["label_info"][0]
    assert (named.name, [c.name for c in named.classes]) == ("deliver", list(space.names))
    assert [entry.class_name for entry in vision[0].class_map] == list(space.names)
    drive.until(lambda: "masks/s" in drive.listener.words("pipeline"))

    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for pid in (node.process.pid, os.getpid()):
        ears = {(protocol, address) for protocol, address, port in sockets(pid) if port < lowest}
        assert ears == {("udp", "0100007F")}, "it listens on the loopback and nowhere else"
    assert node.end(signal.SIGINT) == 0


def test_masks_continue_while_the_camera_is_silent(graph, launch):
    launch()
    drive = Drive(graph)
    drive.until(lambda: drive.listener.masks_from(*MODALITIES))
    lost = drive.sent[-1]
    others = (DEPTH, EVENT, LIDAR)
    drive.until(lambda: len(drive.listener.masks_from(*others)) >= 10, others)
    for status in drive.listener.masks_from(*others)[1:]:
        camera = next(s for s in status.sensors if s.modality == CAMERA)
        assert not camera.used and math.isnan(camera.age) and not camera.weights
        assert status.header.frame_id == CAMERA_FRAME
        assert weight_sums(status) == pytest.approx([1.0] * 3, abs=1e-3)
    assert drive.listener.masks_from(*others)[-1].primary == LIDAR
    last = drive.listener.got["labels"][-1]
    assert (last.height, last.width, last.header.frame_id) == (HEIGHT, WIDTH, CAMERA_FRAME)
    after = [s for s in drive.listener.stamps("labels") if s >= lost]
    assert set(after) <= set(drive.sent)
    gaps = np.diff(after) / NANOSECONDS
    assert gaps.max() < 1.5, f"masks paused for {gaps.max():.2f} s when the camera was lost"
    drive.until(lambda: "/camera/image_raw" in drive.listener.words("camera"), others)
    seen = len(drive.listener.masks_from(*MODALITIES))
    drive.until(lambda: len(drive.listener.masks_from(*MODALITIES)) > seen + 2)
    assert drive.listener.got["status"][-1].primary == CAMERA


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)], ids=["sigints", "sigterm"])
def test_signals_end_an_active_node_cleanly(graph, launch, signals):
    node, drive = launch(), Drive(graph)
    drive.until(lambda: drive.listener.got["labels"])
    drive.robot.sense()
    assert node.end(*signals) == 0
    assert not node.said("Traceback")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["sigint", "sigterm"])
def test_signals_end_a_loading_node_cleanly(graph, launch, number):
    node = launch()
    assert graph.spin_until(lambda: node.said("loading the network"), 120)
    assert node.end(number) == 0
    assert not node.said("Traceback")


def call(graph, client, request):
    future = client.call_async(request)
    assert graph.spin_until(future.done, 120)
    return future.result()


def connect(graph, client, harmless) -> None:
    """Repeat a harmless request until it is answered: responses are lost until discovery is complete on both sides."""
    for _ in range(60):
        future = client.call_async(harmless)
        if graph.spin_until(future.done, 2):
            return
    pytest.fail(f"no answer from {client.srv_name}")


def test_snapshot_and_checkpoint_swap_while_masks_are_made(graph, launch, weights, tmp_path):
    node, drive = launch(snapshot_seconds=10.0, snapshot_folder=tmp_path), Drive(graph)
    drive.until(lambda: drive.listener.masks_from(*MODALITIES))
    asker = graph.node("asker")
    snapshot = asker.create_client(Trigger, "/mlesam/save_snapshot")
    setter = asker.create_client(SetParameters, "/mlesam/set_parameters")
    connect(graph, setter, SetParameters.Request())
    assert graph.spin_until(snapshot.service_is_ready)
    for _ in range(2):
        answer = snapshot.call_async(Trigger.Request())
        drive.until(answer.done)
        assert answer.result().success, answer.result().message
        with BagReader(answer.result().message) as bag:
            assert {"/camera/image_raw", "/lidar/points", "/events", "/tf_static"} <= set(bag.topics)
    seen = len(drive.listener.got["labels"])
    other = tmp_path / "other.safetensors"
    other.write_bytes(Path(weights["checkpoint"]).read_bytes())
    for path, successful in (("/nowhere.safetensors", False), (str(other), True)):
        wanted = Parameter("checkpoint", value=path).to_parameter_msg()
        answer = setter.call_async(SetParameters.Request(parameters=[wanted]))
        drive.until(answer.done)
        assert answer.result().results[0].successful == successful, answer.result().results[0].reason
    drive.until(lambda: len(drive.listener.got["labels"]) > seen + 3)
    assert node.end(signal.SIGINT) == 0 and not node.said("Traceback")


def test_lifecycle_manager_configures_after_a_failed_start(graph, launch, weights):
    node = launch(checkpoint="/nowhere/street.safetensors")
    drive, manager = Drive(graph), graph.node("manager")
    state = manager.create_client(GetState, "/mlesam/get_state")
    change = manager.create_client(ChangeState, "/mlesam/change_state")
    setter = manager.create_client(SetParameters, "/mlesam/set_parameters")

    connect(graph, state, GetState.Request())
    connect(graph, change, ChangeState.Request(transition=Transition(label="none")))
    connect(graph, setter, SetParameters.Request())

    def transition(number):
        return call(graph, change, ChangeState.Request(transition=Transition(id=number))).success

    assert call(graph, state, GetState.Request()).current_state.label == "unconfigured"
    assert graph.spin_until(lambda: "there is no checkpoint /nowhere" in drive.listener.words("pipeline"))
    assert node.said("configure failed: there is no checkpoint /nowhere/street.safetensors")
    assert not transition(Transition.TRANSITION_CONFIGURE)
    right = Parameter("checkpoint", value=weights["checkpoint"]).to_parameter_msg()
    assert call(graph, setter, SetParameters.Request(parameters=[right])).results[0].successful
    assert transition(Transition.TRANSITION_CONFIGURE)
    assert transition(Transition.TRANSITION_ACTIVATE)
    drive.until(lambda: drive.listener.masks_from(*MODALITIES))
    assert transition(Transition.TRANSITION_DEACTIVATE)
    assert transition(Transition.TRANSITION_CLEANUP)
    assert call(graph, state, GetState.Request()).current_state.label == "unconfigured"
