"""From a driver's process to a mask: every kind of message, every mix of QoS, every arrangement of frames."""

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
from mlesam_ros.preprocessing.preprocessors import encode
from mlesam_ros.ros.node import PerceptionNode
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
    """The node and its first status once one sensor made a mask: one node for all, configured anew each time."""
    graph = Graph()
    overrides = [Parameter(name, value=value) for name, value in {**weights, "autostart": False}.items()]
    node = graph.node("mlesam", PerceptionNode, parameter_overrides=overrides)
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

        assert (node.trigger_configure(), node.trigger_activate()) == (TransitionCallbackReturn.SUCCESS,) * 2
        assert graph.spin_until(fresh, 30), listener.words(sensor)
        return node, fresh()[-1]

    yield make
    graph.close()


@pytest.fixture
def segmented(graph, weights):
    """The same with a node of its own and further parameters."""

    def make(sensor, topic, **parameters):
        given = {**weights, "modalities": [sensor], "primary_order": [sensor], f"{sensor}.topic": topic, **parameters}
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        node = graph.node("mlesam", PerceptionNode, parameter_overrides=overrides)
        listener = Listener(graph.node("listener"), outputs=("status", "labels"))
        node.start()
        assert graph.spin_until(lambda: listener.got["labels"] and listener.got["status"], 30), listener.words(sensor)
        return node, listener.got["status"][0]

    return make


def expected(node, sensor):
    """What the network reads of the scene, told to the encoder directly."""
    payload = {
        CAMERA: RawImage(HEIGHT, WIDTH, "rgb8", 3 * WIDTH, RGB.reshape(-1)),
        DEPTH: RawImage(HEIGHT, WIDTH, "32FC1", 4 * WIDTH, METERS.view(np.uint8).reshape(-1)),
        LIDAR: PointCloud(POINTS.copy().view([(axis, "<f4") for axis in "xyz"])[:, 0]),
    }[sensor]
    frame = SensorFrame(sensor, 0, LIDAR_FRAME if sensor == LIDAR else CAMERA_FRAME, payload)
    pipeline, rig = node._perception._pipeline, node._perception._rig_feed.rig
    return encode(
        FrameSet(0, sensor, {sensor: frame}, {sensor: 0}), rig, pipeline.network_size(rig), pipeline._preprocessors
    )


@pytest.mark.parametrize(("sensor", "kind"), EVERY, ids=[f"{sensor}-{kind}" for sensor, kind in EVERY])
def test_every_kind_of_message_shows_the_network_the_same_scene(reconfigured, sensor, kind):
    node, status = reconfigured(sensor, f"reliable/{sensor}/{kind}")
    assert [s.modality for s in status.sensors if s.used] == [sensor] and status.primary == sensor
    with node._perception._pipeline_lock:
        picture = node._perception._pipeline.images[sensor]
    if sensor == EVENT:
        brighter, darker, _ = picture
        left, right = np.split(brighter, 2, axis=1)
        assert left.mean() > 0.02 and not right.any() and not darker.any()
        return
    wanted = expected(node, sensor)[sensor]
    if kind == "organised_with_holes":
        assert (picture == wanted).mean() > 0.97, "thirteen rows of equal length lack a few points"
    else:
        np.testing.assert_allclose(picture, wanted, atol=LOSSY.get(kind, 1e-3))


@pytest.mark.parametrize("asked", ["best_effort", "reliable"])
@pytest.mark.parametrize("offered", ["best_effort", "reliable", "latched"])
@pytest.mark.parametrize("sensor", [CAMERA, LIDAR])
def test_every_mix_of_qos_is_heard_or_named(graph, weights, segmented, sensor, offered, asked):
    topic = f"{offered}/{sensor}/{next(iter(KINDS[sensor]))}"
    override = {f"qos_overrides./{topic}.subscription.reliability": asked}
    if (offered, asked) != ("best_effort", "reliable"):
        segmented(sensor, topic, **override)
        return
    given = {**weights, "modalities": [sensor], f"{sensor}.topic": topic, **override}
    listener = Listener(graph.node("listener"))
    node = graph.node("mlesam", PerceptionNode, parameter_overrides=[Parameter(n, value=v) for n, v in given.items()])
    node.start()
    assert graph.spin_until(lambda: "QoS incompatible: reliability" in listener.words(sensor)), listener.words(sensor)


@pytest.mark.parametrize("frame", [LIDAR_FRAME, "gimbal", "base_link"], ids=["static", "moving", "the tree's root"])
def test_wherever_tf_says_that_a_sensor_sits(segmented, frame):
    node, _ = segmented(LIDAR, "reliable/lidar/xyz", **{"lidar.frame_id": frame})
    rig = node._perception._rig_feed.rig
    assert node._perception._inputs[LIDAR].frame_id == frame and rig.camera_frame == CAMERA_FRAME


def test_the_camera_itself_may_have_another_frame_and_may_move(segmented):
    _, status = segmented(LIDAR, "reliable/lidar/xyz", **{"camera.frame_id": "gimbal_optical"})
    assert status.header.frame_id == "gimbal_optical"


def test_a_frame_that_tf_does_not_know_is_named(graph, weights):
    given = {**weights, "modalities": [LIDAR], "lidar.topic": "reliable/lidar/xyz", "lidar.frame_id": "nowhere"}
    listener = Listener(graph.node("listener"))
    node = graph.node("mlesam", PerceptionNode, parameter_overrides=[Parameter(n, value=v) for n, v in given.items()])
    node.start()
    assert graph.spin_until(lambda: "'nowhere'" in listener.words(LIDAR)), listener.words(LIDAR)


def test_two_nodes_in_two_namespaces_share_a_machine_and_nothing_else(graph, weights):
    nodes = {}
    for space, sensor, kind in (("left", CAMERA, "rgb8"), ("right", LIDAR, "xyz")):
        given = {
            **weights,
            "modalities": [sensor],
            f"{sensor}.topic": f"/reliable/{sensor}/{kind}",
            "camera.info_topic": "/camera/camera_info",
        }
        overrides = [Parameter(n, value=v) for n, v in given.items()]
        nodes[space] = graph.node("mlesam", PerceptionNode, namespace=space, parameter_overrides=overrides)
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
