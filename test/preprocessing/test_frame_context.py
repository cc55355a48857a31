# SPDX-License-Identifier: Apache-2.0
"""What surrounds a frame: the set's moment and its depth, read once and only when somebody asks."""

from dataclasses import replace

import numpy as np
import pytest

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing import registration as registered
from mlesam_ros.preprocessing.depth import LogDepth
from mlesam_ros.preprocessing.images import parse_depth
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import CAMERA, DEPTH, LIDAR, FrameSet, PointCloud, RawImage, SensorFrame

STAMP = 1_700_000_000_000_000_000
SIZE = HEIGHT, WIDTH = 30, 40
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])


@pytest.fixture
def rig():
    k = np.array([[40.0, 0, 19.5], [0, 40.0, 14.5], [0, 0, 1]])
    made = Rig("front", {"front": CameraModel(WIDTH, HEIGHT, k, np.zeros(0), "pinhole")})
    made.tree.set("front", "lidar", Transform.identity())
    return made


def depth_frame(meters, frame_id="front"):
    counts = np.full(SIZE, round(meters * 1000), "<u2")
    return SensorFrame(DEPTH, STAMP, frame_id, RawImage(*SIZE, "16UC1", 2 * WIDTH, counts.view(np.uint8).ravel()))


def lidar_frame(meters, frame_id="lidar"):
    return SensorFrame(LIDAR, STAMP, frame_id, PointCloud(np.array([(0, 0, meters, 1)], POINT)))


def a_set(*frames):
    return FrameSet(STAMP, CAMERA, {f.modality: f for f in frames}, {f.modality: 0 for f in frames})


def context_of(*frames):
    return FrameContext(STAMP, {f.modality: f for f in frames})


def test_depth_camera_precedes_lidar(rig):
    meters = context_of(depth_frame(4), lidar_frame(7)).depth(rig, SIZE)
    assert (meters.shape, meters.dtype) == (SIZE, np.float32)
    np.testing.assert_allclose(meters, 4)
    assert not meters.flags.writeable


@pytest.mark.parametrize("other", [(), (depth_frame(4, "nowhere"),), (depth_frame(0),)])
def test_lidar_fills_pixels_without_depth(rig, other):
    meters = context_of(lidar_frame(7), *other).depth(rig, SIZE)
    known = np.isfinite(meters)
    assert known[14, 19] and 1 < known.sum() <= 9
    np.testing.assert_allclose(meters[known], 7)


@pytest.mark.parametrize("frames", [(), (depth_frame(4, "nowhere"), lidar_frame(7, "nowhere")), (lidar_frame(-7),)])
def test_depth_is_none_without_measurement(rig, frames):
    assert context_of(*frames).depth(rig, SIZE) is None


def test_depth_is_computed_once_per_size(rig, monkeypatch):
    calls = []
    monkeypatch.setattr(registered, "parse_depth", lambda *args: calls.append(args) or parse_depth(*args))
    context = context_of(depth_frame(4))
    assert not calls
    first = context.depth(rig, SIZE)
    assert context.depth(rig, SIZE) is first
    assert context.depth(rig, (15, 20)).shape == (15, 20)
    assert len(calls) == 2


def test_depth_image_is_decoded_once_per_set(rig, monkeypatch):
    calls = []
    monkeypatch.setattr(registered, "parse_depth", lambda *args: calls.append(args) or parse_depth(*args))
    frame = depth_frame(4)
    context = context_of(frame)
    alone = LogDepth()(frame, rig, SIZE)
    calls.clear()
    np.testing.assert_array_equal(LogDepth()(frame, rig, SIZE, context), alone)
    np.testing.assert_allclose(context.depth(rig, SIZE), 4)
    assert len(calls) == 1
    LogDepth()(depth_frame(5), rig, SIZE, context)
    assert len(calls) == 2, "a frame of another set"


def test_depth_is_read_in_the_unit_of_its_sensor(rig):
    frame = depth_frame(4)
    context = context_of(replace(frame, payload=replace(frame.payload, unit=0.002)))
    np.testing.assert_allclose(context.depth(rig, SIZE), 8)


def test_preprocessors_receive_context_of_set(rig):
    seen = []

    class Listening(LogDepth):
        def __call__(self, frame, rig, size, context=None):
            seen.append(context)
            return super().__call__(frame, rig, size, context)

    encode(
        a_set(depth_frame(4), lidar_frame(7)),
        rig,
        SIZE,
        {**make_preprocessors(DEFAULT_PREPROCESSORS), DEPTH: Listening()},
    )
    assert [c.time for c in seen] == [STAMP]
    assert isinstance(seen[0].depth(rig, SIZE), np.ndarray)
