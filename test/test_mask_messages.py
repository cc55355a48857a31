# SPDX-License-Identifier: Apache-2.0
"""Status messages of a mask."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bags.writer import build
from mlesam_ros.config import NodeParameters
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.labels import load_label_space
from mlesam_ros.mask_messages import MaskReport, MaskTimes, mask_messages, status
from mlesam_ros.types import CAMERA, LIDAR, FrameSet, PointCloud, RawImage, Segmentation, SensorFrame

SPACE = load_label_space("deliver")
COUNTS = {"received": 9, "used": 3, "superseded": 2, "late": 1, "unmatched": 1, "refused": 2}
CLOUD = PointCloud(np.zeros(0, [("x", "f4")]))
STAMP = 10_000_000_000


def for_rclpy(content):
    pytest.importorskip("rclpy")
    from mlesam_ros.msg import Status
    from mlesam_ros.ros.publishers import message_from

    return message_from(Status, content)


def for_a_bag(content):
    return build(typestore(), "mlesam_ros/msg/Status", content)


def content(live):
    segmentation = Segmentation(
        stamp=STAMP,
        frame_id="camera",
        labels=np.zeros((1, 1), np.uint8),
        confidence=np.zeros((1, 1), np.uint8),
        weights={"semantic": {LIDAR: 1.0}, "high_res_0": {LIDAR: 1.0}},
        used=(LIDAR,),
        timings={"encode": 0.01, "model": 0.03},
    )
    frame = SensorFrame(LIDAR, STAMP + 5_000_000, "lidar", CLOUD)
    frame_set = FrameSet(STAMP, LIDAR, {LIDAR: frame}, {LIDAR: 5_000_000, CAMERA: 0})
    # The simulated clock runs at a tenth of the machine's pace: 42 ms of work are 4 ms of it.
    times = MaskTimes(STAMP + 12_000_000, STAMP + 20_000_000, STAMP + 24_000_000, 0.002)
    mask = MaskReport(segmentation, frame_set, 7, times if live else None)
    return status(mask, {CAMERA: "/image", LIDAR: "/points"}, {CAMERA: COUNTS, LIDAR: COUNTS})


@pytest.fixture(params=[for_rclpy, for_a_bag], ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture
def message(make):
    return make(content(live=True))


def test_status_has_used_and_unused_sensors(message):
    camera, lidar = message.sensors
    assert (camera.modality, camera.topic, camera.used, list(camera.weights)) == (CAMERA, "/image", False, [])
    assert math.isnan(camera.skew) and math.isnan(camera.age)
    assert (lidar.used, lidar.skew, lidar.age) == (True, 0.005, 0.019)
    assert [(w.level, w.weight) for w in lidar.weights] == [("semantic", 1.0), ("high_res_0", 1.0)]
    assert (message.sequence, message.primary, message.header.frame_id) == (7, LIDAR, "camera")


def test_status_has_counters(message):
    lidar = message.sensors[1]
    fates = lidar.used_total + lidar.superseded + lidar.late + lidar.unmatched + lidar.refused
    assert (lidar.received, fates) == (9, 9)


def test_latencies_are_not_negative_on_a_slow_simulated_clock(message):
    stages = {entry.stage: entry.seconds for entry in message.latencies}
    own = {"encode": 0.01, "model": 0.03, "publish": 0.002}
    assert stages == {"receive": 0.012, "synchronize": 0.008, **own, "stamp_to_mask": 0.024}


def test_offline_status_has_no_ages_and_no_publish_latency(make):
    message = make(content(live=False))
    assert math.isnan(message.sensors[1].age) and message.sensors[1].skew == 0.005
    assert {entry.stage: entry.seconds for entry in message.latencies} == {"encode": 0.01, "model": 0.03}


def test_mask_without_points_has_an_unknown_aligned_cloud_and_none_for_costmaps():
    labels = np.zeros((48, 64), np.uint8)
    rig = Rig(
        "front", {"front": CameraModel(64, 48, np.array([[30.0, 0, 31.5], [0, 30, 23.5], [0, 0, 1]]), np.zeros(5))}
    )
    mask = Segmentation(STAMP, "front", labels, labels, {}, (CAMERA,))
    made = mask_messages(mask, FrameSet(STAMP, CAMERA, {}, {}), rig, SPACE, NodeParameters())
    assert not made.keys() & {"obstacle_points", "ground_points", "semantic_points", "projected_lidar"}
    cloud = made["aligned/points"]()
    assert (cloud["height"], cloud["width"], cloud["is_dense"]) == (48, 64, False)
    assert np.isnan(cloud["data"].view(np.float32)).all()


@pytest.mark.parametrize("divided_by", [1, 2], ids=["camera", "network"])
def test_camera_info_belongs_to_every_image_beside_it(divided_by):
    """A point of the world falls on the same place of the images, whatever their resolution."""
    k = np.array([[30.0, 0, 31.5], [0, 30.0, 23.5], [0, 0, 1]])
    camera = CameraModel(64, 48, k, np.array([0.1, -0.05, 0.0, 0.0, 0.0]))
    labels = np.zeros((48 // divided_by, 64 // divided_by), np.uint8)
    placements = {LIDAR: Transform.identity()}
    mask = Segmentation(STAMP, "front", labels, labels, {}, (LIDAR,), placements=placements)
    seen = np.full((48, 64, 3), 100, np.uint8)
    image = RawImage(48, 64, "rgb8", 192, seen.reshape(-1))
    cloud = PointCloud(np.array([(0.3, -0.2, 1.0)], [("x", "f4"), ("y", "f4"), ("z", "f4")]))
    frames = {CAMERA: SensorFrame(CAMERA, STAMP, "front", image), LIDAR: SensorFrame(LIDAR, STAMP, "front", cloud)}
    frame_set = FrameSet(STAMP, LIDAR, frames, {})
    made = mask_messages(mask, frame_set, Rig("front", {"front": camera}), SPACE, NodeParameters())
    info = build(typestore(), "sensor_msgs/msg/CameraInfo", made["camera_info"]())
    assert (info.height, info.width, info.header.frame_id) == (*labels.shape, "front")
    assert info.header.stamp.sec * 10**9 + info.header.stamp.nanosec == STAMP
    point = np.array([[0.3, -0.2, 1.0]])
    pixel = (camera.project(point)[0] + 0.5) / divided_by - 0.5
    np.testing.assert_allclose(CameraModel.from_info(info).project(point)[0], pixel, atol=1e-9)
    images = {name: made[name]() for name in ("labels", "confidence", "overlay", "projected_lidar")}
    assert {(entry["height"], entry["width"]) for entry in images.values()} == {labels.shape}
    drawn = images["projected_lidar"]["data"].reshape(*labels.shape, 3)
    assert np.argwhere((drawn != 100).any(-1)).tolist() == [pixel[0, ::-1].round().tolist()]


@pytest.mark.parametrize(("width", "size"), [(0, (48, 64)), (32, (24, 32)), (640, (48, 64))])
def test_images_for_display_have_the_width_that_is_asked_for(width, size):
    labels = np.zeros((48, 64), np.uint8)
    mask = Segmentation(STAMP, "front", labels, labels, {}, (CAMERA,))
    image = RawImage(48, 64, "rgb8", 192, np.full(48 * 192, 100, np.uint8))
    frame_set = FrameSet(STAMP, CAMERA, {CAMERA: SensorFrame(CAMERA, STAMP, "front", image)}, {CAMERA: 0})
    rig = Rig("front", {"front": CameraModel(64, 48, np.diag([30.0, 30, 1]), np.zeros(5))})
    made = mask_messages(mask, frame_set, rig, SPACE, replace(NodeParameters(), overlay_width=width))
    overlay = made["overlay"]()
    assert (overlay["height"], overlay["width"], len(overlay["data"])) == (*size, 3 * size[0] * size[1])
    assert (made["labels"]()["height"], made["labels"]()["width"]) == (48, 64)
