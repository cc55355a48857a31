# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one node: shared subscriptions, faults of one of them, and masks as those of single nodes."""

from collections import defaultdict
from threading import Lock
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

pytest.importorskip("rclpy")
from listener import Listener
from node_process import NodeProcess
from rclpy.parameter import Parameter
from robot import Robot, clock_message
from rosgraph_msgs.msg import Clock

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import NodeParameters, build_parameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig as SensorRig
from mlesam_ros.messages import stamp_ns
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.parameter_groups import DepthParameters, EventParameters, LidarParameters
from mlesam_ros.ros.camera_view import CameraView
from mlesam_ros.ros.publishers import RawPublisher
from mlesam_ros.ros.runtime import SegmentationRuntime, reading_parameters
from mlesam_ros.simulation.export import write_simulated_bag
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, LIDAR, NANOSECONDS, FrameSet, RawImage, Segmentation, SensorFrame
from mlesam_ros.view import View

CAMERAS = ("front", "left", "right")
SENSORS = (CAMERA, LIDAR)
SWEEP = "/front/lidar/points"


class Rig:
    """A robot with a driver and a listener for each camera. Its LiDAR is published by the front one's driver."""

    def __init__(self, graph, infos=CAMERAS) -> None:
        self.graph = graph
        self.drivers = {c: Robot(graph.node("driver", namespace=c), infos=c in infos) for c in CAMERAS}
        self.listeners = {c: Listener(graph.node("listener", namespace=c), f"mlesam/{c}") for c in CAMERAS}

    def sense(self, cameras=CAMERAS) -> int:
        """Publish an image of each of these cameras and a sweep, at one stamp, which is returned."""
        stamp = self.drivers["front"].sense((LIDAR,))
        for camera in cameras:
            self.drivers[camera].sense((CAMERA,), stamp)
        return stamp

    def masks_of(self, stamp, cameras) -> bool:
        """Whether the mask of each of these cameras at a stamp was received."""
        return all(stamp in self.listeners[camera].stamps("labels") for camera in cameras)

    def drive(self, until, cameras=CAMERAS) -> None:
        """Publish at 10 Hz until something holds."""
        for _ in range(600):
            self.sense(cameras)
            if self.graph.spin_until(until, 0.1):
                return
        pytest.fail("it did not happen in time")

    def words(self, part) -> str:
        return self.listeners["front"].words(part)


@pytest.fixture
def start(graph, weights):
    def make(**parameters):
        given = {"cameras": list(CAMERAS), "lidar.topic": SWEEP, "modalities": list(SENSORS), **parameters}
        node = graph.perception_node({**weights, **given})
        node.start()
        assert node.state == "active"
        return node

    return make


def test_each_camera_has_its_masks_status_and_diagnostics_and_the_lidar_is_received_once(graph, start):
    node, rig = start(), Rig(graph)
    rig.drive(lambda: all(rig.listeners[c].masks_from(*SENSORS) and rig.words(f"{c}/pipeline") for c in CAMERAS))
    for camera in CAMERAS:
        got = rig.listeners[camera].got
        assert got["label_info"] and got["camera_info"] and got["obstacle_points"]
        status = rig.listeners[camera].masks_from(*SENSORS)[-1]
        own = [f"/{camera}/{topic}" for topic in ("camera/image_raw", "depth/image_raw", "events")]
        assert [sensor.topic for sensor in status.sensors] == [*own, SWEEP]
    parts = {name for name in rig.listeners["front"].reports if name.endswith(("pipeline", CAMERA, LIDAR))}
    assert parts == {f"{camera}/{part}" for camera in CAMERAS for part in ("pipeline", *SENSORS)}
    own = [i for i in node.get_subscriptions_info_by_topic(SWEEP) if i.node_name == node.get_name()]
    assert len(own) == 1


def test_a_depth_camera_that_cameras_share_is_received_once(graph, start):
    """With the CameraInfo beside its images."""
    both = ("front", "left")
    node, rig = (
        start(cameras=[*both], modalities=[CAMERA, DEPTH], **{"depth.topic": "/front/depth/image_raw"}),
        Rig(graph),
    )
    for _ in range(600):
        rig.drivers["left"].sense((CAMERA,), rig.drivers["front"].sense((CAMERA, DEPTH)))
        if graph.spin_until(lambda: all(rig.listeners[camera].masks_from(CAMERA, DEPTH) for camera in both), 0.1):
            break
    assert all(rig.listeners[camera].masks_from(CAMERA, DEPTH) for camera in both)
    for topic in ("/front/depth/image_raw", "/front/depth/camera_info"):
        own = [i for i in node.get_subscriptions_info_by_topic(topic) if i.node_name == node.get_name()]
        assert len(own) == 1, topic


def test_topics_of_other_cameras_are_not_suggested(graph, start):
    """The left and the right camera are silent, and the images of a rear one are of no camera of the node."""
    start()
    for camera in ("front", "rear"):
        Robot(graph.node("driver", namespace=camera))
    listener = Listener(graph.node("listener"), "mlesam/front")
    assert graph.spin_until(lambda: "/rear/camera/image_raw" in listener.words("left/camera"), 10)
    assert "/front/" not in listener.words("left/camera")


def test_a_camera_that_is_pulled_out_costs_the_others_no_mask(graph, start):
    start()
    rig = Rig(graph)
    rig.drive(lambda: all(rig.listeners[camera].masks_from(*SENSORS) for camera in CAMERAS))
    others = CAMERAS[1:]
    for _ in range(10):
        stamp = rig.sense(others)
        assert graph.spin_until(lambda now=stamp: rig.masks_of(now, others), 10)
    assert graph.spin_until(lambda: "no message for" in rig.words("front/camera"), 10)
    assert not any("no message" in rig.words(f"{camera}/camera") for camera in others)
    for camera in others:
        used = rig.listeners[camera].got["status"][-10:]
        assert all({s.modality for s in status.sensors if s.used} == {*SENSORS} for status in used)


def test_a_camera_without_camera_info_is_reported_and_the_others_go_on(graph, start):
    start()
    rig = Rig(graph, infos=("front", "right"))
    rig.drive(lambda: all(rig.listeners[camera].masks_from(*SENSORS) for camera in ("front", "right")))
    assert graph.spin_until(lambda: "no CameraInfo yet on /left/camera/camera_info" in rig.words("left/pipeline"), 10)
    assert not rig.listeners["left"].got["labels"]


def test_parameters_change_for_one_camera_and_for_all(graph, start):
    node, rig = start(), Rig(graph)
    rig.drive(lambda: all(rig.listeners[camera].masks_from(*SENSORS) for camera in CAMERAS))

    def change(name, value):
        (result,) = node.set_parameters([Parameter(name, value=value)])
        return result

    assert change("left.modalities", [CAMERA]).successful
    rig.drive(lambda: len(rig.listeners["left"].got["status"]) > 5)
    rig.listeners["left"].got["status"].clear()
    rig.drive(lambda: len(rig.listeners["left"].got["status"]) > 5)
    assert len(rig.listeners["left"].masks_from(CAMERA)) == len(rig.listeners["left"].got["status"])
    rig.listeners["front"].got["status"].clear()
    rig.drive(lambda: rig.listeners["front"].masks_from(*SENSORS))
    assert change("left.camera.rate", 7.0).successful
    found = change("camera.rate", 5.0)
    assert found.successful and found.reason == "not changed, as set for one camera: left.camera.rate"
    assert [node.get_parameter(f"{camera}.camera.rate").value for camera in CAMERAS] == [5.0, 7.0, 5.0]
    refused = change("front.camera.topic", "other")
    assert not refused.successful and "front.camera.topic is read by configure" in refused.reason
    assert "did you mean front.camera.rate" in change("front.camera.rat", 5.0).reason
    assert "read once at start" in change("cameras", ["front"]).reason


def absolute(topic: str) -> str:
    return f"/{topic.lstrip('/')}"


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (LidarParameters(topic="l"), LidarParameters(topic="/l", rate=9.0, required=True, tolerance=0.5), True),
        (LidarParameters(topic="l"), LidarParameters(topic="l", offset=0.1), False),
        (DepthParameters(topic="d", gravity="0, 1, 0"), DepthParameters(topic="/d"), True),
        (DepthParameters(topic="d", info_topic="i"), DepthParameters(topic="d", info_topic="/i"), True),
        (DepthParameters(topic="d", info_topic="i"), DepthParameters(topic="d", info_topic="j"), False),
        (DepthParameters(topic="d"), DepthParameters(topic="d", unit=0.001), False),
        (EventParameters(topic="e"), EventParameters(topic="e", representation="time_surface"), True),
        (EventParameters(topic="e"), EventParameters(topic="e", window=0.01), False),
    ],
)
def test_sensors_are_shared_if_their_frames_are_equal(one, other, shared):
    assert (reading_parameters(one, absolute) == reading_parameters(other, absolute)) == shared


def test_errors_of_a_camera_name_it():
    runtime = SegmentationRuntime.__new__(SegmentationRuntime)
    runtime._pipeline = SimpleNamespace(config=MLESAMConfig(modalities=SENSORS))
    parameters = build_parameters({"cameras": list(CAMERAS), "left.modalities": ["event"]})
    with pytest.raises(ConfigError, match=r"^camera left: modalities is \['event'\]; the checkpoint has experts for"):
        runtime.check(parameters)


class Steps:
    """Stands in for a camera, its calibration and the pipeline: notes the order of batches and publishing."""

    def __init__(self, order, name="", batches=()) -> None:
        self._order, self._name, self._batches = order, name, batches
        self.calibration, self.settings = SimpleNamespace(rig=name), None

    def is_blocked(self, frame_set) -> bool:
        return False

    def finish(self, view, taken):
        self._order.append(f"labels of {self._name}")
        yield
        self._order.append(f"overlay of {self._name}")

    def segment_views(self, views, enlarge):
        for names in self._batches:
            self._order.append(f"batch of {' and '.join(names)}")
            yield [view for view in views if view.rig in names]


def test_labels_of_a_batch_are_published_before_its_overlays_and_the_next_batch():
    runtime, order = SegmentationRuntime.__new__(SegmentationRuntime), []
    runtime.views = {camera: Steps(order, camera) for camera in CAMERAS}
    runtime._pipeline, runtime._pipeline_lock = Steps(order, batches=[("front", "right"), ("left",)]), Lock()
    runtime._parameters, runtime._node = NodeParameters(), MagicMock()
    runtime._segment_ready([FrameSet(1, CAMERA, {}, {})] * 3)
    first, second = ("front", "right"), ("left",)
    assert order == [
        "batch of front and right",
        *(f"{topic} of {camera}" for topic in ("labels", "overlay") for camera in first),
        "batch of left",
        *(f"{topic} of {camera}" for topic in ("labels", "overlay") for camera in second),
    ]


def test_labels_and_their_camera_info_are_the_first_topics_of_a_mask():
    """Of a camera whose node and calibration are stand-ins."""
    published = []

    def publisher(message, topic, *_, **__):
        name = topic.removeprefix("~/left/")
        wanted = name in ("labels", "camera_info", "confidence", "overlay")
        return SimpleNamespace(get_subscription_count=lambda: wanted, publish=lambda message: published.append(name))

    node = MagicMock()
    node.create_lifecycle_publisher, node.get_clock().now().nanoseconds = publisher, 5
    model = CameraModel(4, 3, np.array([[4.0, 0, 2], [0, 4, 1.5], [0, 0, 1]]), np.zeros(0), "pinhole")
    frame = SensorFrame(CAMERA, 1, "eye", RawImage(3, 4, "rgb8", 12, np.zeros(36, np.uint8)))
    view = View(FrameSet(1, CAMERA, {CAMERA: frame}, {CAMERA: 0}), SensorRig("eye", {"eye": model}))
    pixels = np.zeros((3, 4), np.uint8)
    view.segmentation = Segmentation(1, "eye", pixels, pixels, {}, (CAMERA,), {}, {}, {}, (3, 4))
    config = MLESAMConfig(modalities=(CAMERA,))
    camera = CameraView(node, "left", NodeParameters(), config, MagicMock())
    camera.subscribers = {CAMERA: MagicMock(**{"received_at.return_value": 2})}
    steps = camera.finish(view, 3)
    next(steps)
    assert published == ["labels", "camera_info"]
    assert not list(steps) and published == ["labels", "camera_info", "confidence", "overlay"]
    assert camera._statistics.sequence == 1 and not camera._statistics.recent_error(None)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Six steps of a street, seen by three cameras and one LiDAR."""
    turns = dict(zip(CAMERAS, (0.0, 70.0, -70.0), strict=True))
    views = {name: World(3, size=(48, 64), dropped=("event", "lidar"), yaw=yaw) for name, yaw in turns.items()}
    lidar = World(3, size=(48, 64), dropped=("camera", "depth", "event"))
    return write_simulated_bag(tmp_path_factory.mktemp("street") / "bag", lidar, range(6), cameras=views)


def test_masks_equal_those_of_single_nodes(graph, street, weights, tmp_path):
    """Four processes receive the same messages, of a robot that moves."""
    common = {
        **weights,
        "use_sim_time": True,
        "modalities": "[camera, depth, lidar]",
        "max_wait": 9.0,
        "lidar.topic": "/lidar/points",
    }
    alone = ("-m", "mlesam_ros.ros.node", "--ros-args", "-r", "__ns:=/{}", "--")
    nodes = [NodeProcess(tmp_path / "all.log", **common, cameras=f"[{', '.join(CAMERAS)}]")]
    for camera in CAMERAS:
        nodes.append(NodeProcess(tmp_path / f"{camera}.log", None, [w.format(camera) for w in alone], **common))
    outputs = ("labels", "confidence")
    together, single = (
        {c: Listener(graph.node(f"listener_{c}"), name.format(c), outputs) for c in CAMERAS}
        for name in ("mlesam/{}", "{}/mlesam")
    )
    try:
        play(graph, street, [*together.values(), *single.values()])
    finally:
        for node in nodes:
            node.kill()
    for camera in CAMERAS:
        for output, tolerance in zip(outputs, (0, 1), strict=True):
            found, expected = (by_stamp(listeners[camera].got[output]) for listeners in (together, single))
            assert found.keys() == expected.keys() and len(found) == 6
            for stamp in sorted(found)[1:]:  # no sensor is waited for before its first message
                image = found[stamp]
                assert (np.abs(image - expected[stamp]) > tolerance).mean() < 2e-3, f"{output} of {camera}"


def by_stamp(images) -> dict[int, np.ndarray]:
    return {stamp_ns(image.header): np.frombuffer(image.data, np.uint8).astype(int) for image in images}


def play(graph, bag, listeners) -> None:
    """Publish calibration until all nodes have it, and then the messages of each step until all listeners have masks.

    Transforms of all steps come first, so that sweeps can be compensated to their ends.
    """
    driver, steps, calibration = graph.node("driver"), defaultdict(list), []
    clock = driver.create_publisher(Clock, "/clock", 10)
    with BagReader(bag) as reader:
        for topic, _, stamp, raw in reader.raw_messages():
            fixed = topic.startswith("/tf") or topic.endswith("info")
            (calibration if fixed else steps[stamp]).append((topic, raw))
        types = dict(reader.topics)
    sensors = [topic for topic in types if topic.endswith(("image_raw", "points"))]
    first = min(steps)
    with RawPublisher(types, ["/tf_static"], depth=50) as publisher:

        def publish(messages, stamp):
            clock.publish(clock_message(stamp))
            for topic, raw in messages:
                publisher.publish(topic, raw)

        def heard():
            return all(driver.count_subscribers(topic) >= (4 if topic.endswith("points") else 2) for topic in sensors)

        before = first - NANOSECONDS  # so that events, which are not published, are not waited for
        wait(graph, heard, lambda: publish(calibration, before), 0.5)
        for _ in range(4):  # those that a node that has just subscribed may have missed
            publish(calibration, before)
            graph.spin_for(0.5)
        for stamp, messages in steps.items():
            complete = lambda now=stamp: all(now in x.stamps("confidence") for x in listeners)  # noqa: E731
            wait(graph, complete, lambda now=stamp, sent=messages: publish(sent, now), 5.0)


def wait(graph, condition, act, seconds) -> None:
    """Act again every few seconds until the condition holds."""
    for _ in range(round(120 / seconds)):
        act()
        if graph.spin_until(condition, seconds):
            return
    pytest.fail("it did not happen in time")
