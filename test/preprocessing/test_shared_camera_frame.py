# SPDX-License-Identifier: Apache-2.0
"""Streams that share the camera's frame and have a lens of their own: registered depth, and event cameras.

The oracle is OpenCV: it says which ray each pixel of the other lens sees, and which pixel that ray is in the camera.
"""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mlesam_ros.config import build_parameters
from mlesam_ros.errors import CalibrationError
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.depth import LogDepth
from mlesam_ros.preprocessing.events import EventCounts
from mlesam_ros.preprocessing.registration import depth_from_image
from mlesam_ros.rig_builder import RigBuilder
from mlesam_ros.types import CAMERA, DEPTH, EVENT, EventWindow, RawImage, SensorFrame

SIZE = 120, 160
K = np.array([[128.0, 0, 79.5], [0, 128.0, 59.5], [0, 0, 1]])
D = np.array([-0.28, 0.08, 0.001, -0.001, 0.0])


def info(size=SIZE, k=K, d=(0.0,) * 5, r=None, p=None):
    roi = SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    p = np.hstack([k, np.zeros((3, 1))]) if p is None else p
    return SimpleNamespace(
        header=SimpleNamespace(frame_id="eye"), height=size[0], width=size[1], distortion_model="plumb_bob",
        d=list(d), k=k.ravel(), r=(np.eye(3) if r is None else r).ravel(), p=p.ravel(), binning_x=0, binning_y=0,
        roi=roi,
    )  # fmt: skip


def learnt(camera, other, modality=DEPTH, **parameters):
    learner = RigBuilder(Rig(""), build_parameters(parameters))
    learner.on_camera_info("/depth/info", modality, other)
    learner.on_camera_info("/camera/info", CAMERA, camera)
    learner.on_camera_info("/depth/info", modality, other)
    return learner.bind, learner.rig


def rays(k, d, size):
    u, v = np.meshgrid(np.arange(size[1], dtype=float), np.arange(size[0], dtype=float))
    return cv2.undistortPoints(np.stack([u, v], -1).reshape(-1, 1, 2), k, np.asarray(d)).reshape(*size, 2)


def board(rays):
    """Meters along the axis: a board at 4 m before a wall at 8 m."""
    x, y = rays[..., 0], rays[..., 1]
    return np.where((np.abs(x) < 0.45) & (np.abs(y) < 0.33), 4.0, 8.0)


def depth_frame(meters):
    data = np.round(meters * 1000).astype("<u2")
    return SensorFrame(
        DEPTH, 1, "eye", RawImage(*meters.shape, "16UC1", 2 * meters.shape[1], data.view(np.uint8).ravel())
    )


def wrong_share(found, expected):
    """Share of pixels that are off, away from the board's outline."""
    edge = cv2.morphologyEx((expected < 6).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
    return float((np.abs(found - expected) > 0.05)[~edge & np.isfinite(found)].mean())


HALF = np.array([[64.0, 0, 39.5], [0, 64.0, 29.5], [0, 0, 1]])
OTHER = np.array([[100.0, 0, 95.0], [0, 105.0, 60.0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("size", "k", "d"),
    [(SIZE, K, D), ((60, 80), HALF, D), ((130, 200), OTHER, D * 0), ((60, 80), HALF, D * 0), (SIZE, K, D * 0)],
)
@pytest.mark.parametrize("camera_d", [D * 0, -D])
def test_registered_depth_of_any_lens_equals_opencv(size, k, d, camera_d):
    """The kind: identity by frame name."""
    bind, rig = learnt(info(d=camera_d), info(size, k, d))
    frame = bind(depth_frame(board(rays(k, d, size))))
    found = depth_from_image(frame, rig, SIZE)
    expected = board(rays(K, camera_d, SIZE))
    assert np.isfinite(found).mean() > 0.7
    assert wrong_share(found, expected) < 0.01
    if (np.asarray(d) != camera_d).any():  # the case can fail: resizing alone is wrong
        resized = cv2.resize(board(rays(k, d, size)), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        assert wrong_share(resized, expected) > 0.01


def test_rectified_depth_in_raw_camera_frame():
    """R turns the rectified rays, P has another focal length."""
    turn, _ = cv2.Rodrigues(np.array([0.02, -0.03, 0.05]))
    p = np.array([[110.0, 0, 82.0, 0], [0, 110.0, 57.0, 0], [0, 0, 1, 0]])
    bind, rig = learnt(info(d=D), info(d=D, r=turn, p=p), **{"depth.rectified": True})
    seen = rays(p[:, :3], D * 0, SIZE)
    optical = np.concatenate([seen, np.ones((*SIZE, 1))], -1) @ turn  # R maps optical rays to rectified ones
    along = board(optical[..., :2] / optical[..., 2:]) / optical[..., 2]  # z in the rectified frame
    found = depth_from_image(bind(depth_frame(along)), rig, SIZE)
    assert wrong_share(found, board(rays(K, D, SIZE))) < 0.01


def test_depth_with_camera_info_of_camera_is_resized():
    """As before this: bit by bit what a frame without a lens of its own gives."""
    meters = board(rays(K, D, SIZE))[::2, ::2]
    for camera in (info(d=D), info(d=D)):
        bind, rig = learnt(camera, info(d=D))
        frame = depth_frame(meters)
        plain = Rig("eye", {"eye": rig.camera})
        for size in (SIZE, (30, 40)):
            np.testing.assert_array_equal(
                LogDepth()(bind(frame), rig, size), LogDepth()(frame, plain, size), strict=True
            )


def test_image_contradicting_its_camera_info_is_rejected():
    bind, rig = learnt(info(), info((60, 80), HALF, D))
    with pytest.raises(CalibrationError, match="depth image is 160x120 but its calibration is for 80x60"):
        depth_from_image(bind(depth_frame(np.full(SIZE, 5.0))), rig, SIZE)


def test_event_camera_in_shared_frame_uses_its_own_lens():
    """The kind: identity by frame name. Events at the corners of a square, counted where OpenCV puts them."""
    bind, rig = learnt(info(), info((130, 200), OTHER, D), EVENT)
    corners = np.array([[-0.35, -0.25], [0.3, -0.25], [-0.35, 0.3], [0.3, 0.3]])
    seen = cv2.projectPoints(np.column_stack([corners, np.ones(4)]), np.zeros(3), np.zeros(3), OTHER, D)[0][:, 0]
    x, y = (np.round(axis).astype(np.uint16) for axis in seen.T)
    spots = [np.repeat(axis, 50) for axis in (x, y)]
    events = EventWindow(200, 130, *spots, np.zeros(200, np.int64), np.ones(200, bool), 0, 1)
    image = EventCounts()(bind(SensorFrame(EVENT, 1, "eye", events)), rig, SIZE)
    strength = np.abs(image).sum(0)
    for u, v in corners @ K[:2, :2] + K[:2, 2]:
        r, c = round(v), round(u)
        assert strength[r - 1 : r + 2, c - 1 : c + 2].max() == pytest.approx(strength.max(), rel=0.6)
        strength[r - 3 : r + 4, c - 3 : c + 4] = 0
    assert strength.max() == 0
