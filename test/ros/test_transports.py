# SPDX-License-Identifier: Apache-2.0
"""From a driver's process to a mask: every message type, QoS combination and arrangement of frames."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
from all_message_types import KINDS, METERS, POINTS, RGB
from listener import Listener
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from robot import CAMERA_FRAME, HEIGHT, LIDAR_FRAME, WIDTH
from ros_graph import Graph

from mlesam_ros.messages import stamp_ns
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, FrameSet, PointCloud, RawImage, SensorFrame

DRIVER = Path(__file__).parent / "all_message_types.py"
EVERY = [(sensor, kind) for sensor, kinds in KINDS.items() for kind in kinds]
LOSSY = {"jpeg": 0.05, "yuv422": 0.05, "yuv422_yuy2": 0.05, "bayer_rggb8": 0.3, "bayer_gbrg8": 0.3}


@pytest.fixture(scope="module", autouse=True)
def driver(transport):
    process = subprocess.Popen([sys.executable, str(DRIVER)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"driving\n"
    yield
    process.terminate()
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def reconfigured(weights):
    """Configure a shared node for one sensor; return the node, its first status and the network's newest images."""
    graph = Graph()
    node = graph.perception_node({**weights, "autostart": False})
    listener = Listener(graph.node("listener"), outputs=("status", "labels"))

    def make(sensor, topic):
        for transition in (node.trigger_deactivate, node.trigger_cleanup) if node.state == "active" else ():
            assert transition() == TransitionCallbackReturn.SUCCESS
        given = {"modalities": [sensor], "primary_order": [sensor], f"{sensor}.topic": topic}
        assert node.set_parameters_atomically([Parameter(n, value=v) for n, v in given.items()]).successful
        for messages in listener.got.values():
            messages.clear()
        begun = node.get_clock().now().nanoseconds

        def fresh():
            # What was sent before the last deactivation may still be on its way.
            return [status for status in listener.got["status"] if stamp_ns(status.header) >= begun]

        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        pipeline, images = node._runtime._pipeline, {}
        infer = pipeline.infer_batch
        pipeline.infer_batch = lambda sets: images.update(sets[0]) or infer(sets)
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert graph.spin_until(fresh, 30), listener.words(sensor)
        return node, fresh()[-1], images

    yield make
    graph.close()


@pytest.fixture
def segmented(graph, weights):
    """The same with a separate node and further parameters."""

    def make(sensor, topic, **parameters):
        given = {**weights, "modalities": [sensor], "primary_order": [sensor], f"{sensor}.topic": topic, **parameters}
        node = graph.perception_node(given)
        listener = Listener(graph.node("listener"), outputs=("status", "labels"))
        node.start()
        assert graph.spin_until(lambda: listener.got["labels"] and listener.got["status"], 30), listener.words(sensor)
        return node, listener.got["status"][0]

    return make


def expected(node, sensor):
    """Network input of the scene, computed directly."""
    payload = {
        CAMERA: RawImage(HEIGHT, WIDTH, "rgb8", 3 * WIDTH, RGB.reshape(-1)),
        DEPTH: RawImage(HEIGHT, WIDTH, "32FC1", 4 * WIDTH, METERS.view(np.uint8).reshape(-1)),
        LIDAR: PointCloud(POINTS.copy().view([(axis, "<f4") for axis in "xyz"])[:, 0]),
    }[sensor]
    frame = SensorFrame(sensor, 0, LIDAR_FRAME if sensor == LIDAR else CAMERA_FRAME, payload)
    pipeline, rig = node._runtime._pipeline, node._runtime.views[""].calibration.rig
    return pipeline.encode(FrameSet(0, sensor, {sensor: frame}, {sensor: 0}), rig)


@pytest.mark.parametrize(("sensor", "kind"), EVERY, ids=[f"{sensor}-{kind}" for sensor, kind in EVERY])
def test_all_message_types_give_the_same_network_input(reconfigured, sensor, kind):
    node, status, images = reconfigured(sensor, f"reliable/{sensor}/{kind}")
    assert [s.modality for s in status.sensors if s.used] == [sensor] and status.primary == sensor
    image = images[sensor]
    if sensor == EVENT:
        brighter, darker, _ = image
        left, right = np.split(brighter, 2, axis=1)
        assert left.mean() > 0.02 and not right.any() and not darker.any()
        return
    wanted = expected(node, sensor)[sensor]
    if kind == "organised_with_holes":
        assert (image == wanted).mean() > 0.97, "thirteen rows of equal length lack a few points"
    else:
        np.testing.assert_allclose(image, wanted, atol=LOSSY.get(kind, 1e-3))


@pytest.mark.parametrize("asked", ["best_effort", "reliable"])
@pytest.mark.parametrize("offered", ["best_effort", "reliable", "latched"])
@pytest.mark.parametrize("sensor", [CAMERA, LIDAR])
def test_qos_combinations_are_received_or_reported(graph, weights, segmented, sensor, offered, asked):
    topic = f"{offered}/{sensor}/{next(iter(KINDS[sensor]))}"
    override = {f"qos_overrides./{topic}.subscription.reliability": asked}
    if (offered, asked) != ("best_effort", "reliable"):
        segmented(sensor, topic, **override)
        return
    given = {**weights, "modalities": [sensor], f"{sensor}.topic": topic, **override}
    listener = Listener(graph.node("listener"))
    node = graph.perception_node(given)
    node.start()
    assert graph.spin_until(lambda: "QoS incompatible: reliability" in listener.words(sensor)), listener.words(sensor)


@pytest.mark.parametrize("frame", [LIDAR_FRAME, "gimbal", "base_link"], ids=["static", "moving", "the tree's root"])
def test_static_moving_and_root_frames_are_supported(segmented, frame):
    node, _ = segmented(LIDAR, "reliable/lidar/xyz", **{"lidar.frame_id": frame})
    rig = node._runtime.views[""].calibration.rig
    assert node._runtime.views[""].subscribers[LIDAR].frame_id == frame and rig.camera_frame == CAMERA_FRAME


def test_camera_may_have_a_moving_frame(segmented):
    _, status = segmented(LIDAR, "reliable/lidar/xyz", **{"camera.frame_id": "gimbal_optical"})
    assert status.header.frame_id == "gimbal_optical"


def test_nodes_in_two_namespaces_are_independent(graph, weights):
    nodes = {}
    for space, sensor, kind in (("left", CAMERA, "rgb8"), ("right", LIDAR, "xyz")):
        given = {
            **weights,
            "modalities": [sensor],
            f"{sensor}.topic": f"/reliable/{sensor}/{kind}",
            "camera.info_topic": "/camera/camera_info",
        }
        nodes[space] = graph.perception_node(given, namespace=space)
    listeners = {s: Listener(graph.node(f"listener_{s}"), f"{s}/mlesam", ("status", "labels")) for s in nodes}
    for node in nodes.values():
        node.start()
    assert graph.spin_until(lambda: all(one.got["labels"] and one.got["status"] for one in listeners.values()))
    used = {s: {x.modality for x in one.got["status"][0].sensors if x.used} for s, one in listeners.items()}
    assert used == {"left": {CAMERA}, "right": {LIDAR}}
    assert graph.spin_until(lambda: {"camera", "lidar", "pipeline"} <= set(listeners["left"].reports))
    names = {status.name for status in listeners["left"].reports.values()}
    assert all(name.startswith(("left/mlesam: ", "right/mlesam: ")) for name in names)
    nodes["left"].trigger_deactivate()
    seen = len(listeners["right"].got["labels"])
    assert graph.spin_until(lambda: len(listeners["right"].got["labels"]) > seen + 1)
