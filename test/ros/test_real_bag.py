# SPDX-License-Identifier: Apache-2.0
"""Real images, points and events: an assembled bag, played to the node in another process."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from assembled_bag import CAMERA_FRAME, LIDAR_FRAME, assemble_real_bag

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.serialization import typestore
from mlesam_ros.model.checkpoint import save_backbone, save_checkpoint
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS
from mlesam_ros.ros.subscribers import RawSubscriber
from mlesam_ros.types import NANOSECONDS

IMAGE, CLOUD, STATUS = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2", "mlesam_ros/msg/Status"
TOPICS = {
    "/mlesam/labels": IMAGE,
    "/mlesam/confidence": IMAGE,
    "/mlesam/semantic_points": CLOUD,
    "/mlesam/status": STATUS,
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
}
WIDTH, HEIGHT = 1920, 1200
RATE = 0.5


def stamp(header) -> int:
    return header.stamp.sec * NANOSECONDS + header.stamp.nanosec


def mlesam(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "mlesam_ros.cli", *map(str, arguments)])


@pytest.fixture(scope="module")
def heard(shared_data, tmp_path_factory):
    """Topic → outputs of the node during playback."""
    folder = tmp_path_factory.mktemp("real")
    data = shared_data / "camera_lidar" / "opencalib_ours_1", shared_data / "events" / "test_events_1"
    assemble_real_bag(*data, folder / "bag")
    torch.manual_seed(0)
    model = MLESAM(MLESAMConfig(rank=4, preprocessors=DEFAULT_PREPROCESSORS))
    save_checkpoint(folder / "experts.safetensors", model)
    save_backbone(folder / "base.safetensors", model.backbone)
    messages, told = {topic: [] for topic in TOPICS}, folder / "play.json"

    def hear(topic, arrival, raw):
        messages[topic].append((arrival, typestore().deserialize_cdr(raw, TOPICS[topic])))

    parameters = {
        "checkpoint": folder / "experts.safetensors",
        "base_weights": folder / "base.safetensors",
        "camera.topic": "/camera/image_raw/compressed",
    }
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    processes = [mlesam("node", "--ros-args", *given)]
    try:
        with RawSubscriber(hear) as observer:
            deadline = time.monotonic() + 120
            while observer.lifecycle_state("/mlesam") != "active":
                assert processes[0].poll() is None
                assert time.monotonic() < deadline
            for topic, name in TOPICS.items():
                observer.subscribe(topic, name)
            listeners = ("/camera/image_raw/compressed", "/lidar/points", "/events")
            wait = [part for topic in listeners for part in ("--listener", topic)]
            processes.append(mlesam("play", folder / "bag", "--wait", 60, "--rate", RATE, "--json", told, *wait))
            while processes[1].poll() is None:
                observer.spin_for(0.1)
            observer.spin_for(1.0)
        assert processes[1].returncode == 0
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
    came_back = {topic: [message for _, message in found] for topic, found in messages.items()}
    return {**came_back, "offered": offered(folder / "bag", json.loads(told.read_text())["start_ns"])}


def offered(bag, start):
    """Stamps of the images that the player published."""
    with BagReader(bag) as reader:
        infos = [stamp(m.message.header) for m in reader.messages(["/camera/camera_info"])]
        return {start + round((recorded - reader.start) / RATE) for recorded in infos}


def test_masks_have_size_stamp_and_frame_of_the_camera(heard):
    masks, offered = heard["/mlesam/labels"], heard["offered"]
    assert len(offered) == 21 and {stamp(info.header) for info in heard["/camera/camera_info"]} <= offered
    assert any(stamp(mask.header) in offered for mask in masks)
    for mask in masks:
        assert (mask.width, mask.height, mask.step, mask.encoding) == (WIDTH, HEIGHT, WIDTH, "mono8")
        assert mask.header.frame_id == CAMERA_FRAME
        # When the last picture is over, the events that still come are segmented alone.
        assert stamp(mask.header) in offered or stamp(mask.header) > max(offered)
        assert len(mask.data) == WIDTH * HEIGHT
        assert mask.data.max() < 25 or mask.data.max() == 255


def test_every_mask_has_its_confidence(heard):
    confidence = {stamp(message.header): message for message in heard["/mlesam/confidence"]}
    for mask in heard["/mlesam/labels"][1:]:  # the two subscriptions need not begin with the same mask
        partner = confidence[stamp(mask.header)]
        assert (partner.width, partner.height, partner.header.frame_id) == (WIDTH, HEIGHT, CAMERA_FRAME)
        assert partner.data.max() > 0


def test_points_have_the_class_of_their_pixel(heard):
    masks = {stamp(mask.header): mask.data.reshape(HEIGHT, WIDTH) for mask in heard["/mlesam/labels"]}
    clouds = heard["/mlesam/semantic_points"]
    assert clouds
    for cloud in clouds:
        assert cloud.header.frame_id == LIDAR_FRAME
        assert [field.name for field in cloud.fields] == ["x", "y", "z", "intensity", "label", "rgb"]
        # 12,437 points further than a meter land in this picture; some nearer ones too, and some hide others.
        assert 11_500 < cloud.width * cloud.height < 13_500
        labels = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_step)[:, cloud.fields[4].offset]
        mask = masks.get(stamp(cloud.header))
        if mask is not None:
            assert set(np.unique(labels)) <= set(np.unique(mask))


def test_status_lists_the_used_sensors(heard):
    assert heard["/mlesam/status"]
    stamps = {stamp(mask.header) for mask in heard["/mlesam/labels"]}
    used = [{s.modality for s in status.sensors if s.used} for status in heard["/mlesam/status"]]
    assert all("depth" not in sensors for sensors in used)  # there is none in this bag
    assert {"camera", "lidar", "event"} in used
    for status in heard["/mlesam/status"][1:]:
        assert stamp(status.header) in stamps
        assert status.header.frame_id == CAMERA_FRAME
        weights = [w for s in status.sensors for w in s.weights]
        for level in {w.level for w in weights}:
            assert sum(w.weight for w in weights if w.level == level) == pytest.approx(1, abs=0.01)  # bfloat16
        for sensor in status.sensors:
            assert sensor.topic == {"camera": "/camera/image_raw/compressed"}.get(sensor.modality, sensor.topic)
            assert sensor.used or np.isnan(sensor.age)
            assert not sensor.used or -0.05 < sensor.skew < 0.1


def test_bag_contains_the_assembled_messages(shared_data, tmp_path):
    data = shared_data / "camera_lidar" / "opencalib_ours_2", shared_data / "events" / "test_events_1"
    assemble_real_bag(*data, tmp_path / "bag")
    with BagReader(tmp_path / "bag") as reader:
        assert reader.counts["/events"] == 517
        picture = next(reader.messages(["/camera/image_raw/compressed"])).message
    assert bytes(picture.data) == (data[0] / "calib.jpg").read_bytes()
