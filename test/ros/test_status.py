"""The status says where a mask came from and adds up."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy")
from mlesam_ros.frame import CAMERA, LIDAR, Cloud, FrameSet, Segmentation, SensorFrame
from mlesam_ros.ros.status import Provenance, Times, status_message

COUNTS = {"received": 9, "used": 3, "superseded": 2, "late": 1, "unmatched": 1, "refused": 2}
CLOUD = Cloud(np.zeros(0, [("x", "f4")]))
STAMP = 10_000_000_000


@pytest.fixture
def status():
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
    times = Times(STAMP + 12_000_000, STAMP + 20_000_000, STAMP + 24_000_000, 0.002)
    mask = Provenance(segmentation, frame_set, 7, times)
    return status_message(mask, {CAMERA: "/image", LIDAR: "/points"}, {CAMERA: COUNTS, LIDAR: COUNTS})


def test_used_and_unused_sensors_are_both_there(status):
    camera, lidar = status.sensors
    assert (camera.modality, camera.topic, camera.used, list(camera.weights)) == (CAMERA, "/image", False, [])
    assert math.isnan(camera.skew) and math.isnan(camera.age)
    assert (lidar.used, lidar.skew, lidar.age) == (True, 0.005, 0.019)
    assert [(w.level, w.weight) for w in lidar.weights] == [("semantic", 1.0), ("high_res_0", 1.0)]
    assert (status.sequence, status.primary, status.header.frame_id) == (7, LIDAR, "camera")


def test_counters_are_passed_on(status):
    lidar = status.sensors[1]
    fates = lidar.used_total + lidar.superseded + lidar.late + lidar.unmatched + lidar.refused
    assert (lidar.received, fates) == (9, 9)


def test_no_stage_is_negative_on_a_slow_simulated_clock(status):
    stages = {entry.stage: entry.seconds for entry in status.latencies}
    own = {"encode": 0.01, "model": 0.03, "publish": 0.002}
    assert stages == {"receive": 0.012, "synchronise": 0.008, **own, "stamp_to_mask": 0.024}
