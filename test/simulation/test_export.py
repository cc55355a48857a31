# SPDX-License-Identifier: Apache-2.0
"""The street's bag round trips through the readers of live topics."""

import numpy as np
import pytest

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.errors import BagError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import TransformTree
from mlesam_ros.messages import FrameReader, transforms
from mlesam_ros.simulation.export import INFO_TOPICS, LABELS_TOPIC, TOPICS, write_simulated_bag
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR


@pytest.fixture(scope="module")
def street():
    return World(2, "night", (64, 80))


@pytest.fixture(scope="module")
def bag(tmp_path_factory, street):
    done = []
    path = write_simulated_bag(tmp_path_factory.mktemp("street") / "bag", street, range(4, 7), progress=done.append)
    assert done == [1, 2, 3]
    return path


@pytest.fixture(scope="module")
def by_topic(bag):
    topics = {}
    with BagReader(bag) as reader:
        assert reader.warnings == []
        for entry in reader:
            topics.setdefault(entry.topic, []).append(entry)
    return topics


def test_every_topic_has_a_message_per_step(by_topic):
    once = {"/tf_static"}
    expected = {"/tf", LABELS_TOPIC, *TOPICS.values(), *INFO_TOPICS.values(), *once}
    assert set(by_topic) == expected
    assert {topic: len(entries) for topic, entries in by_topic.items()} == {t: 1 if t in once else 3 for t in expected}


@pytest.mark.parametrize("modality", [CAMERA, DEPTH])
def test_images_round_trip(street, by_topic, modality):
    for index, entry in zip(range(4, 7), by_topic[TOPICS[modality]], strict=True):
        frame, truth = FrameReader(modality, entry.type).read(entry.message), street.sample(index).frames[modality]
        assert (frame.stamp, frame.frame_id) == (truth.stamp, truth.frame_id) == (entry.stamp, truth.frame_id)
        for name in ("height", "width", "encoding", "step", "is_bigendian"):
            assert getattr(frame.payload, name) == getattr(truth.payload, name)
        assert np.array_equal(frame.payload.data, truth.payload.data)


def test_clouds_round_trip(street, by_topic):
    entry = by_topic[TOPICS[LIDAR]][0]
    cloud = FrameReader(LIDAR, entry.type).read(entry.message).payload.points.reshape(-1)
    truth = street.sample(4).frames[LIDAR].payload.points
    assert entry.message.point_step == truth.dtype.itemsize
    for name in truth.dtype.names:
        assert np.array_equal(cloud[name], truth[name])


def test_events_round_trip_on_the_host_clock(street, by_topic):
    reader = FrameReader(EVENT, by_topic[TOPICS[EVENT]][0].type)
    for index, entry in zip(range(4, 7), by_topic[TOPICS[EVENT]], strict=True):
        frame, truth = reader.read(entry.message), street.sample(index).frames[EVENT]
        assert abs(frame.stamp - truth.stamp) < 1_000_000
        common = frame.payload.t >= truth.payload.start
        for name in ("x", "y", "t", "polarity"):
            assert np.array_equal(getattr(frame.payload, name)[common], getattr(truth.payload, name))


def test_labels_and_calibration_round_trip(street, by_topic):
    entry = by_topic[LABELS_TOPIC][2]
    assert entry.message.encoding == "mono8"
    assert np.array_equal(entry.message.data.reshape(64, 80), street.sample(6).labels)
    for modality, topic in INFO_TOPICS.items():
        message = by_topic[topic][0].message
        assert message.header.frame_id == street.sample(4).frames[modality].frame_id
        assert np.array_equal(CameraModel.from_info(message).K, street.rig.camera.K)


def test_transforms_round_trip(street, by_topic):
    tree = TransformTree()
    for parent, child, pose, _ in transforms(by_topic["/tf_static"][0].message):
        tree.set(parent, child, pose)
    for entry in by_topic["/tf"]:
        for parent, child, pose, stamp in transforms(entry.message):
            tree.set(parent, child, pose, stamp)
    sample = street.sample(5)
    truth = sample.pose @ street.rig.tree.lookup("base_link", "lidar")
    found = tree.lookup("odom", "lidar", sample.stamp)
    assert np.allclose(found.translation, truth.translation, atol=1e-6)
    assert np.allclose(found.rotation, truth.rotation, atol=1e-6)


def test_existing_folder_is_not_changed(tmp_path, street):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(BagError, match="exists already"):
        write_simulated_bag(tmp_path / "mine", street, [0])
    assert (tmp_path / "mine").read_text() == "precious"


def test_further_cameras_see_the_same_street_beside_the_first(tmp_path):
    """Columns of a camera that is turned to the left by its field of view begin where those of the first one end."""
    size = (32, 64)
    world, left = World(2, size=size), World(2, size=size, dropped=(EVENT, LIDAR), yaw=45.0)
    path = write_simulated_bag(tmp_path / "bag", world, [4], cameras={"left": left})
    with BagReader(path) as reader:
        assert {topic for topic in reader.topics if topic.startswith("/left/")} == {
            f"/left{topic}"
            for topic in (LABELS_TOPIC, TOPICS[CAMERA], TOPICS[DEPTH], INFO_TOPICS[CAMERA], INFO_TOPICS[DEPTH])
        }
        found = {entry.topic: entry.message for entry in reader.messages()}
    own, turned = (found[space + TOPICS[DEPTH]] for space in ("", "/left"))
    assert turned.header.frame_id == "left_camera_optical_frame" and own.header.stamp == turned.header.stamp
    tree = TransformTree()
    for parent, child, transform, _ in transforms(found["/tf_static"]):
        tree.set(parent, child, transform)
    forward = tree.lookup("base_link", "left_camera_optical_frame").rotation[:, 2]
    assert forward == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), 0])
    middle, edge = (int(label) for label in (left.sample(4).labels[28, 32], world.sample(4).labels[28, 0]))
    assert middle == edge, "the middle of the left one is the left edge of the first one"
