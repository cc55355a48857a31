# SPDX-License-Identifier: Apache-2.0
"""The device makes the picture that NumPy makes: same winners, through every lens, with ties and dilation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import MlesamError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import project_points
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.cuda import AsyncUploader, encode_torch, page_locked, project_torch
from mlesam_ros.preprocessing.depth import LogDepth
from mlesam_ros.preprocessing.lidar import RangeIntensityHeight
from mlesam_ros.preprocessing.preprocessors import PREPROCESSORS, RGB
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, EventWindow, PointCloud, RawImage, SensorFrame

HERE = AsyncUploader("cpu")
STAMP = 1_700_000_000_000_000_000
MS = 1_000_000
K = np.array([[70.0, 0, 40.3], [0, 72.0, 29.1], [0, 0, 1]])
TURN = Transform.from_quaternion((0.01, 0.0, 0.0), (0.02, -0.01, 0.0, np.sqrt(1 - 5e-4)))
LENSES = {
    "pinhole": CameraModel(80, 60, K, np.zeros(0), "pinhole"),
    "plumb_bob": CameraModel(80, 60, K, np.array([-0.2, 0.05, 0.001, -0.002, 0.01]), "plumb_bob"),
    "tangential": CameraModel(80, 60, K, np.array([0.0, 0.0, 0.003, -0.002]), "plumb_bob"),
    "rational": CameraModel(80, 60, K, np.array([0.3, 0.02, 1e-3, 1e-3, 0.0, 0.5, 0.1, 0.0]), "rational_polynomial"),
    "equidistant": CameraModel(80, 60, K, np.array([0.02, -0.01, 0.003, 0.0]), "equidistant"),
    "rectified": CameraModel(80, 60, K, np.zeros(0), "pinhole", TURN),
}
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("time", "<f4")])
OPTICAL = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
LEVEL = 1.01 / 255 / min(RGB.normalization[1])
"""One of the camera's 256, normalized."""
SIZES = st.sampled_from([(60, 80), (30, 40), (17, 23), (1, 1), (96, 128)])


def assert_the_same_winners(points, camera, size, near, dilation):
    ours, theirs = (
        project_points(points, camera, size, near, dilation),
        project_torch(HERE, points, camera, size, near, dilation),
    )
    hit = np.zeros(size, bool)
    hit[ours.rows, ours.cols] = True
    np.testing.assert_array_equal(hit, theirs.hit)
    for name in ("index", "range", "depth"):
        np.testing.assert_array_equal(
            getattr(ours, name), getattr(theirs, name).numpy()[ours.rows, ours.cols], err_msg=name
        )


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(LENSES)), SIZES, st.integers(0, 3), st.floats(0, 2), st.integers(0, 2**32 - 1))
def test_any_lens_size_and_dilation(lens, size, dilation, near, seed):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(rng.integers(0, 900), 3)) * (3, 2, 5) + (0, 0, 4)).astype(np.float32)
    points[rng.random(len(points)) < 0.1] = np.nan
    points[rng.random(len(points)) < 0.02] = np.inf
    assert_the_same_winners(points, LENSES[lens], size, near, dilation)


def test_missed_points_do_not_meet_at_one_pixel(monkeypatch):
    """At one address of a GPU they would wait for each other; 117,226 of a sweep's 407,040 do."""
    addresses, scatter = [], torch.Tensor.scatter_reduce_

    def spy(self, dim, index, source, reduce):
        addresses.append(index.clone())
        return scatter(self, dim, index, source, reduce)

    monkeypatch.setattr(torch.Tensor, "scatter_reduce_", spy)
    behind = np.full((5000, 3), -1, np.float32)
    seen = project_torch(HERE, behind, LENSES["pinhole"], (30, 40))
    assert not seen.hit.any()
    assert addresses[0].bincount().max() == -(-5000 // (30 * 40))


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<i4", "<i8", "<f4", "<f8", "?"])
def test_page_locked_copy_of_any_array(dtype):
    array = np.arange(24).reshape(4, 6).astype(dtype)[:, ::2]
    array.flags.writeable = False  # as a recording's messages are
    copy = page_locked(array)
    np.testing.assert_array_equal(copy.numpy(), array)
    assert copy.is_contiguous() and not np.shares_memory(copy.numpy(), array)


def test_area_weights_live_as_long_as_their_uploader():
    one, other = AsyncUploader("cpu"), AsyncUploader("cpu")
    frame = SensorFrame(CAMERA, STAMP, "front", RawImage(60, 80, "rgb8", 240, np.zeros(60 * 80 * 3, np.uint8)))
    for _ in range(2):
        encode_torch(one, RGB(), frame, car(), (30, 40))
    assert set(one.area_weights) == {(30, 60), (40, 80)} and not other.area_weights


@pytest.mark.parametrize("dilation", [0, 1])
def test_first_of_equally_near_points_wins(dilation):
    points = np.array([[0, 0, 5], [0, 0, 3], [0, 0, 3], [1, 0, 4], [-1, 0, 4]], np.float32)
    assert_the_same_winners(points, LENSES["pinhole"], (60, 80), 0, dilation)
    for some, size, winner in ((points[:3], (60, 80), 1), (points[[2, 1]], (60, 80), 0), (points[3:], (1, 1), 0)):
        seen = project_torch(HERE, some, LENSES["pinhole"], size)
        assert seen.index[seen.hit].tolist() == [winner]


def car():
    rig = Rig("front", {"front": LENSES["plumb_bob"], "depth": LENSES["equidistant"]})
    rig.tree.set("base_link", "front", Transform(OPTICAL.T, np.array([0.5, 0, 1.4])))
    rig.tree.set("base_link", "lidar", Transform(np.eye(3), np.array([0.1, 0, 1.9])))
    rig.tree.set("front", "depth", Transform(TURN.rotation, np.array([0.1, 0.02, 0.0])))
    for tick in range(-300, 301, 20):
        rig.tree.set("odom", "base_link", Transform(np.eye(3), np.array([tick * 0.012, 0, 0])), STAMP + tick * MS)
    return rig


def frames(late):
    rng = np.random.default_rng(5)
    points = np.zeros(4000, POINT)
    points["x"], points["y"], points["z"] = (
        rng.uniform(-5, 60, 4000),
        rng.uniform(-20, 20, 4000),
        rng.uniform(-2, 6, 4000),
    )
    points["intensity"], points["time"] = rng.uniform(-5, 300, 4000), np.sort(rng.uniform(-0.1, 0, 4000))
    points["x"][::17] = np.nan
    counts = rng.integers(0, 30000, (60, 80)).astype("<u2")
    counts[rng.random((60, 80)) < 0.3] = 0
    picture = RawImage(60, 80, "16UC1", 160, counts.view(np.uint8).ravel())
    return {
        LIDAR: SensorFrame(LIDAR, STAMP + late * MS, "lidar", PointCloud(points, intensity_scale=100.0)),
        "apart": SensorFrame(DEPTH, STAMP + late * MS, "depth", picture),
        "registered": SensorFrame(DEPTH, STAMP + late * MS, "front", picture),
    }


@pytest.mark.parametrize("late", [0, -60])
@pytest.mark.parametrize("size", [(60, 80), (32, 64), (96, 128)])
@pytest.mark.parametrize(
    ("key", "encoder"),
    [
        (LIDAR, RangeIntensityHeight()),
        (LIDAR, RangeIntensityHeight(dilation=0, near=3.0)),
        ("apart", LogDepth()),
        ("registered", LogDepth(farthest=20.0)),
    ],
)
def test_images_with_robot_motion(key, encoder, size, late):
    rig, frame = car(), frames(late)[key]
    contexts = [FrameContext(STAMP, {frame.modality: frame}) for _ in range(2)]
    ours, theirs = encoder(frame, rig, size, contexts[0]), encode_torch(HERE, encoder, frame, rig, size, contexts[1])
    assert (theirs.dtype, tuple(theirs.shape), theirs.is_contiguous()) == (torch.float32, ours.shape, True)
    np.testing.assert_array_equal(ours != 0, theirs.numpy() != 0)
    assert (ours != 0).any()
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)
    assert contexts[0].notes == contexts[1].notes == {}


@pytest.mark.parametrize("name", sorted(PREPROCESSORS))
def test_every_preprocessor_gives_tensor(name):
    rig, encoder = car(), PREPROCESSORS[name]()
    x = np.arange(60, dtype=np.uint16)
    events = EventWindow(80, 60, x, x, STAMP - 30 * MS + x * np.int64(MS // 2), x % 2 == 0, STAMP - 30 * MS, STAMP)
    gray = RawImage(60, 80, "mono8", 80, np.arange(4800, dtype=np.uint32).astype(np.uint8))
    payloads = {EVENT: SensorFrame(EVENT, STAMP, "front", events), CAMERA: SensorFrame(CAMERA, STAMP, "front", gray)}
    payloads |= {LIDAR: frames(0)[LIDAR], DEPTH: frames(0)["registered"]}
    frame = payloads[encoder.modality]
    ours, theirs = encoder(frame, rig, (30, 40)), encode_torch(HERE, encoder, frame, rig, (30, 40)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=LEVEL if name == "rgb" else 1e-6)


@pytest.mark.parametrize("size", [(60, 80), (32, 64), (30, 40), (17, 23), (59, 80), (1, 1), (96, 128), (32, 128)])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_camera_image_is_averaged_as_by_opencv(size, encoding):
    pixels = np.random.default_rng(3).integers(0, 256, 60 * 80 * 3).astype(np.uint8)
    pixels.flags.writeable = False  # as a recording's messages are
    frame, rig = SensorFrame(CAMERA, STAMP, "front", RawImage(60, 80, encoding, 240, pixels)), car()
    ours, theirs = RGB()(frame, rig, size), encode_torch(HERE, RGB(), frame, rig, size)
    assert (theirs.dtype, tuple(theirs.shape), theirs.is_contiguous()) == (torch.float32, ours.shape, True)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=LEVEL)
    if size != (30, 40):  # a half and a quarter make ties, which OpenCV rounds up
        assert (np.abs(ours - theirs.numpy()) > 1e-5).mean() < 0.01


@pytest.mark.parametrize("encoder", [RangeIntensityHeight(), LogDepth(), RGB()])
def test_errors_are_equal(encoder):
    wrong = frames(0)["registered" if encoder.modality == LIDAR else LIDAR]
    said = []
    for make in (encoder, lambda *args: encode_torch(HERE, encoder, *args)):
        with pytest.raises(MlesamError) as refusal:
            make(wrong, car(), (30, 40))
        said.append(str(refusal.value))
    assert said[0] == said[1]


def test_empty_sweep_gives_empty_tensor():
    empty = SensorFrame(LIDAR, STAMP, "lidar", PointCloud(np.zeros(0, POINT)))
    assert not encode_torch(HERE, RangeIntensityHeight(), empty, car(), (30, 40)).any()
