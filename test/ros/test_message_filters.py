# SPDX-License-Identifier: Apache-2.0
"""The filters of this package in chains with those of message_filters, and the stand-in where it is not installed."""

import sys
import time
from importlib.util import module_from_spec, spec_from_file_location

import pytest

pytest.importorskip("rclpy")
from rclpy.clock import ClockType
from rclpy.time import Time
from robot import TOPICS, Robot
from sensor_msgs.msg import Image

from mlesam_ros.messages import FrameReader
from mlesam_ros.parameter_groups import SensorParameters
from mlesam_ros.ros import compat
from mlesam_ros.ros.subscribers import SensorSubscriber
from mlesam_ros.ros.sync_filter import SyncFilter, SyncWorker
from mlesam_ros.sync import SyncConfig
from mlesam_ros.types import CAMERA, DEPTH, IMAGE, LIDAR, NANOSECONDS


def installed():
    return pytest.importorskip("message_filters", reason="message_filters is not installed")


@pytest.fixture(params=["message_filters", "stand-in"])
def simple_filter(request, monkeypatch):
    """The `SimpleFilter` of message_filters, and the one that takes its place."""
    if request.param == "message_filters":
        return installed().SimpleFilter
    monkeypatch.setitem(sys.modules, "message_filters", None)
    spec = spec_from_file_location("compat_alone", compat.__file__)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleFilter


def test_callbacks_receive_messages_and_their_arguments(simple_filter):
    source, calls = simple_filter(), []
    connections = [
        source.registerCallback(lambda *given: calls.append(("first", *given))),
        source.registerCallback(lambda *given: calls.append(("second", *given)), "queue", 1),
    ]
    source.signalMessage("image", "cloud")
    assert calls == [("first", "image", "cloud"), ("second", "image", "cloud", "queue", 1)]
    assert connections == list(source.callbacks) == [0, 1]


def test_filters_are_those_of_message_filters_where_it_is_installed():
    simple = installed().SimpleFilter
    assert compat.SimpleFilter is simple
    assert issubclass(SensorSubscriber, simple) and issubclass(SyncFilter, simple)


@pytest.fixture
def robot(graph):
    return Robot(graph.node("robot"), qos=100)


@pytest.fixture
def subscribe(graph, robot):
    """Subscribers of the robot's sensors, by modality and offset."""

    def make(**offsets):
        node = graph.node("listener")
        made = [
            SensorSubscriber(node, modality, SensorParameters(topic=TOPICS[modality], offset=offset))
            for modality, offset in offsets.items()
        ]
        assert graph.spin_until(lambda: all(s.poll() or (s.type_name and s.publishers) for s in made))
        graph.spin_for(0.3)
        return made

    return make


def test_time_synchronizer_matches_frames_by_their_time(graph, robot, subscribe):
    """Stamps of the LiDAR are 20 ms late, its times are the camera's."""
    matches, late = [], NANOSECONDS // 50
    installed().TimeSynchronizer(subscribe(camera=0.0, lidar=0.02), 10).registerCallback(lambda *m: matches.append(m))
    stamps = []
    for number in range(3):
        stamps.append(robot.sense((CAMERA,)))
        robot.sense((LIDAR,), stamps[-1] + late)
        assert graph.spin_until(lambda count=number: len(matches) > count)
    for stamp, (camera, lidar) in zip(stamps, matches, strict=True):
        assert (camera.modality, lidar.modality) == (CAMERA, LIDAR)
        assert (camera.stamp, lidar.stamp, lidar.time) == (stamp, stamp + late, stamp)
        assert Time.from_msg(lidar.header.stamp).nanoseconds == stamp and lidar.header.frame_id == lidar.frame_id


def test_approximate_time_synchronizer_matches_near_frames(graph, robot, subscribe):
    matches = []
    sources = subscribe(camera=0.0, depth=0.0)
    installed().ApproximateTimeSynchronizer(sources, 10, slop=0.05).registerCallback(lambda *m: matches.append(m))
    first = robot.sense((CAMERA,))
    robot.sense((DEPTH,), first + NANOSECONDS // 5)
    robot.sense((DEPTH,), first + NANOSECONDS // 25)
    assert graph.spin_until(lambda: matches)
    graph.spin_for(0.2)
    assert [[frame.stamp - first for frame in match] for match in matches] == [[0, NANOSECONDS // 25]]


@pytest.fixture
def sync():
    """A synchronizer of the camera, and the sets that it emits."""
    made = SyncFilter(SyncConfig(modalities=(CAMERA,)), time.time_ns, lambda: False, lambda problem: None)
    made.sets = []
    made.registerCallback(made.sets.append)
    worker = SyncWorker([made], lambda sets: None)
    worker.start()
    yield made
    worker.stop()


def test_cache_between_subscriber_and_synchronizer(graph, robot, subscribe, sync):
    (camera,) = subscribe(camera=0.0)
    cache = installed().Cache(camera, 2)
    sync.connectInput(cache)
    stamps = []
    for number in range(3):
        stamps.append(robot.sense((CAMERA,)))
        assert graph.spin_until(lambda count=number: len(sync.sets) > count)
    assert [found.stamp for found in sync.sets] == stamps
    assert sync.sets[-1].frames[CAMERA] is cache.getLast()
    first, last = (Time(nanoseconds=stamp, clock_type=ClockType.ROS_TIME) for stamp in (stamps[0], stamps[-1]))
    kept = cache.getInterval(first, last)
    assert [frame.stamp for frame in kept] == stamps[1:]


def test_subscriber_of_message_filters_before_the_synchronizer(graph, robot, sync):
    """Its messages become frames by the reader that bags use, too."""
    source, reader = installed().Subscriber(graph.node("listener"), Image, TOPICS[CAMERA]), FrameReader(CAMERA, IMAGE)
    source.registerCallback(lambda message: sync.add(reader.read(message)))
    sent = []
    assert graph.spin_until(lambda: sent.append(robot.sense((CAMERA,))) or sync.sets)
    assert sync.sets[0].stamp in sent
