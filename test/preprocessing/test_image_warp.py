# SPDX-License-Identifier: Apache-2.0
"""An event camera beside the label camera: exact pixels by depth, infinity without it, the same bytes for one lens."""

import numpy as np
import pytest

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.cuda import AsyncUploader, encode_torch
from mlesam_ros.preprocessing.preprocessors import PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import DEPTH, EVENT, LIDAR, EventWindow, FrameSet, PointCloud, RawImage, SensorFrame

HEIGHT, WIDTH, FOCAL, BASELINE = 60, 80, 70.0, 0.2
STAMP = 10**18
NEAR, FAR_WALL = 2.0, 7.0  # parallax of 7 and 2 pixels


def camera(factor=1):
    matrix = [[FOCAL * factor, 0, (WIDTH * factor - 1) / 2], [0, FOCAL * factor, (HEIGHT * factor - 1) / 2], [0, 0, 1]]
    return CameraModel(WIDTH * factor, HEIGHT * factor, np.array(matrix), np.zeros(5), "plumb_bob")


def rig(baseline=BASELINE, factor=1):
    made = Rig("front")
    made.models |= {"front": camera(), "dvs": camera(factor)}
    made.tree.set("front", "dvs", Transform(np.eye(3), np.array([baseline, 0.0, 0.0])))
    return made


def box_before_a_wall():
    """Depth of the label camera, meters: a box in columns 30 to 49, rows 20 to 39."""
    depth = np.full((HEIGHT, WIDTH), FAR_WALL, np.float32)
    depth[20:40, 30:50] = NEAR
    return depth


def events_at(cols, rows, factor=1):
    count = len(cols)
    x, y = np.array(cols, np.uint16), np.array(rows, np.uint16)
    t, on = np.full(count, STAMP), np.ones(count, np.bool_)
    return EventWindow(WIDTH * factor, HEIGHT * factor, x, y, t, on, STAMP - 10, STAMP)


def encoded(events, depth=None, frame="dvs", **mounting):
    frames = {EVENT: SensorFrame(EVENT, STAMP, frame, events)}
    if depth is not None:
        picture = RawImage(HEIGHT, WIDTH, "32FC1", 4 * WIDTH, np.ascontiguousarray(depth).view(np.uint8).ravel())
        frames[DEPTH] = SensorFrame(DEPTH, STAMP, "front", picture)
    frame_set = FrameSet(STAMP, EVENT, frames, dict.fromkeys(frames, 0))
    return encode(frame_set, rig(**mounting), (HEIGHT, WIDTH), make_preprocessors({EVENT: "event_counts"}))[EVENT][0]


def hits(image):
    return sorted(zip(*(axis.tolist() for axis in np.nonzero(image)), strict=True))


def test_events_are_warped_to_their_pixels():
    """On the box by 7 pixels, on the wall by 2: focal length · baseline / depth."""
    box, wall = (35, 25), (60, 10)
    events = events_at([box[0] - 7, wall[0] - 2], [box[1], wall[1]])
    image = encoded(events, box_before_a_wall())
    assert hits(image) == [(wall[1], wall[0]), (box[1], box[0])]
    np.testing.assert_allclose(image[image > 0], 1)


def test_finer_event_camera_is_warped_to_same_pixels():
    """Four of its pixels see what one of the network's sees; parallax is twice as many of them."""
    image = encoded(events_at([2 * (35 - 7), 2 * (35 - 7) + 1] * 2, [50, 50, 51, 51], 2), box_before_a_wall(), factor=2)
    assert hits(image) == [(25, 35)]
    assert image[25, 35] == pytest.approx(1)


def test_parallax_of_large_network_is_resized(monkeypatch):
    """To their nearest, so away from the edges of things nothing changes."""
    box, wall = (38, 30), (65, 50)
    events = events_at([box[0] - 7, wall[0] - 2], [box[1], wall[1]])
    exact = encoded(events, box_before_a_wall())
    monkeypatch.setattr("mlesam_ros.preprocessing.image_warp._MAX_GRID_SIDE_PX", WIDTH // 2)
    np.testing.assert_allclose(encoded(events, box_before_a_wall()), exact, atol=1e-3)
    assert hits(exact) == [(box[1], box[0]), (wall[1], wall[0])]


def test_warp_at_infinity_without_depth():
    assert hits(encoded(events_at([28, 58], [25, 10]))) == [(10, 58), (25, 28)]


def test_small_holes_are_filled_and_wide_ones_at_infinity():
    depth = box_before_a_wall()
    depth[24:27, 34:37] = 0  # 0 meters is no reading
    depth[:, 60:] = np.nan
    image = encoded(events_at([35 - 7, 75], [25, 10]), depth)
    assert hits(image) == [(10, 75), (25, 35)]


def test_foreground_is_not_duplicated():
    """From the right the box hides five columns of wall, left of it, that the label camera sees."""
    everywhere = np.indices((20, 20)).reshape(2, -1)
    image = encoded(events_at(everywhere[1] + 30 - 7, everywhere[0] + 20), box_before_a_wall())
    assert image[20:40, 30:50].min() == pytest.approx(1)
    image[20:40, 30:50] = 0
    assert not image.any()


def test_depth_of_holes_only_is_infinity():
    events = events_at([28, 58], [25, 10])
    np.testing.assert_array_equal(encoded(events, np.full((HEIGHT, WIDTH), np.nan, np.float32)), encoded(events))


@pytest.mark.parametrize(("frame", "baseline"), [("front", BASELINE), ("dvs", 0.0), ("dvs", 1e-4)])
def test_same_lens_needs_no_depth(frame, baseline, monkeypatch):
    monkeypatch.setattr(FrameContext, "depth", lambda *_: pytest.fail("depth was asked for"))
    rng = np.random.default_rng(0)
    events = events_at(rng.integers(0, WIDTH, 500), rng.integers(0, HEIGHT, 500))
    alone = PREPROCESSORS["event_counts"]()(SensorFrame(EVENT, STAMP, frame, events), rig(baseline), (HEIGHT, WIDTH))[0]
    assert encoded(events, box_before_a_wall(), frame, baseline=baseline).tobytes() == alone.tobytes()


def test_slope_does_not_occlude_itself():
    """Ground whose depth doubles from row to row at the horizon."""
    rows = np.maximum(np.arange(HEIGHT) - 30, 0.5)
    depth = np.repeat((FOCAL * 1.6 / rows)[:, None], WIDTH, axis=1).astype(np.float32)
    everywhere = np.indices((HEIGHT, WIDTH)).reshape(2, -1)
    image = encoded(events_at(everywhere[1], everywhere[0]), depth)
    assert image[31:, 20:].min() == pytest.approx(1)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("blind", [0.0, np.nan, np.inf, -1.0])
def test_lidar_depth_is_used_for_warp(on_device, blind):
    """Kind: decided per image, not per pixel. A depth camera that reaches the box, but not the wall behind it.

    Edges on the wall land where focal length · baseline / depth puts them, as with the LiDAR alone; what the depth
    camera knows counts over the LiDAR.
    """
    depth = box_before_a_wall()
    depth[depth == FAR_WALL] = blind
    box, wall = (35, 25), (60, 10)
    events = events_at([box[0] - 7, wall[0] - 2], [box[1], wall[1]])
    u, v = (axis.ravel() for axis in np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)))
    points = np.zeros(u.size, np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4")]))
    points["z"] = FAR_WALL
    points["x"] = (u - (WIDTH - 1) / 2) / FOCAL * FAR_WALL
    points["y"] = (v - (HEIGHT - 1) / 2) / FOCAL * FAR_WALL
    picture = RawImage(HEIGHT, WIDTH, "32FC1", 4 * WIDTH, np.ascontiguousarray(depth).view(np.uint8).ravel())
    frames = {
        EVENT: SensorFrame(EVENT, STAMP, "dvs", events),
        DEPTH: SensorFrame(DEPTH, STAMP, "front", picture),
        LIDAR: SensorFrame(LIDAR, STAMP, "lidar", PointCloud(points)),
    }
    made, context = rig(), FrameContext(STAMP, frames)
    made.tree.set("front", "lidar", Transform.identity())
    encoder = make_preprocessors({EVENT: "event_counts"})[EVENT]
    if on_device:
        image = encode_torch(AsyncUploader("cpu"), encoder, frames[EVENT], made, (HEIGHT, WIDTH), context)[0].numpy()
    else:
        image = encoder(frames[EVENT], made, (HEIGHT, WIDTH), context)[0]
    assert hits(image) == [(wall[1], wall[0]), (box[1], box[0])]
