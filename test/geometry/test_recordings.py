# SPDX-License-Identifier: Apache-2.0
"""The geometry on real recordings, whose figures were found by others: a car's camera and LiDAR, fisheye pictures."""

import json

import cv2
import numpy as np
import pytest
import yaml

from mlesam_ros.doctor.calibration_checks import Segments, best_yaw, rotate_extrinsic, score_by_yaw
from mlesam_ros.errors import CalibrationError
from mlesam_ros.geometry.camera import FITS, CameraModel
from mlesam_ros.geometry.projection import project_points
from mlesam_ros.geometry.transforms import Transform

LANDING = {"opencalib_ours_1": 12_437, "opencalib_ours_2": 10_863, "opencalib_manual": 9_748}
# Median inter-quartile range of log-depth inside the masks, with this many degrees of yaw added.
COHERENCE = {
    "opencalib_ours_1": {-2: 0.251, -1: 0.255, 0: 0.202, 1: 0.252, 2: 0.230},
    "opencalib_ours_2": {-2: 0.170, -1: 0.099, 0: 0.071, 1: 0.100, 2: 0.109},
}


class Recording:
    """Sweep, raw picture size, calibration and masks of one folder."""

    def __init__(self, folder):
        open3d = pytest.importorskip("open3d")
        self.sweep = open3d.t.io.read_point_cloud(str(next(folder.glob("*.pcd")))).point.positions.numpy()
        self.masks = [cv2.imread(str(path), 0) > 0 for path in sorted(folder.glob("masks/*.png"))]
        k, self.d, t, width, height = (
            text_calibration(folder) if (folder / "calib.txt").exists() else json_calibration(folder)
        )
        self.camera = CameraModel(width, height, k, self.d, "plumb_bob")
        self.pinhole = CameraModel(1920, 1200, k, [], "pinhole")
        self.mount = Transform(t[:3, :3], t[:3, 3])


def text_calibration(folder):
    lines = dict(line.split(":") for line in (folder / "calib.txt").read_text().splitlines() if ":" in line)
    k, d, t = (np.array(lines[key].split(), float) for key in "KDT")
    return k.reshape(3, 3), d, t.reshape(3, 4), 1920, 1200


def json_calibration(folder):
    inside = json.loads((folder / "center_camera-intrinsic.json").read_text())["center_camera-intrinsic"]["param"]
    name = "top_center_lidar-to-center_camera-extrinsic"
    outside = json.loads((folder / f"{name}.json").read_text())[name]["param"]
    k, d = np.array(inside["cam_K"]["data"]), np.array(inside["cam_dist"]["data"][0])
    return k, d, np.array(outside["sensor_calib"]["data"]), inside["img_dist_w"], inside["img_dist_h"]


@pytest.fixture(scope="module")
def recordings(shared_data):
    return {name: Recording(shared_data / "camera_lidar" / name) for name in LANDING}


@pytest.mark.parametrize("name", LANDING)
def test_points_in_undistorted_image_equal_published_count(recordings, name):
    real = recordings[name]
    uv, _ = real.pinhole.project(real.mount.apply(real.sweep.astype(np.float64)), near=1.0, bounded=False)
    # Whoever counted them took whole numbers for pixel corners.
    assert ((uv >= 0) & (uv < [1920, 1200])).all(axis=1).sum() == LANDING[name]


@pytest.mark.parametrize("name", COHERENCE)
def test_the_published_scores(recordings, name):
    """Whoever published them took whole numbers for pixel corners."""
    real, segments = recordings[name], Segments(recordings[name].masks)
    for degrees, published in COHERENCE[name].items():
        points = rotate_extrinsic(real.mount, degrees).apply(real.sweep.astype(np.float64))
        uv, valid = real.camera.project(points, near=1.0, bounded=False)
        valid &= (uv >= 0).all(axis=1) & (uv < [1920, 1200]).all(axis=1)
        cols, rows = uv[valid].astype(int).T
        assert segments.depth_spread(rows, cols, points[valid, 2]).score == pytest.approx(published, abs=1.5e-3)


@pytest.mark.parametrize("name", COHERENCE)
def test_depth_is_most_coherent_inside_masks_at_the_true_calibration(recordings, name):
    real = recordings[name]
    scores = score_by_yaw(real.sweep.astype(np.float64), real.mount, real.camera, Segments(real.masks))
    assert best_yaw(scores) == 0
    assert min(c.segments for c in scores.values()) >= 29


@pytest.mark.parametrize("name", COHERENCE)
def test_the_whole_chain_agrees_with_opencv(recordings, name):
    real = recordings[name]
    shown = project_points(real.mount.apply(real.sweep), real.camera, (1200, 1920), near=1.0)
    # OpenCV takes angles, and those of a matrix printed with six digits are not exactly its own; so transform first.
    optical = real.mount.apply(real.sweep[shown.index].astype(np.float64))
    uv = cv2.projectPoints(optical, np.zeros(3), np.zeros(3), real.camera.K, real.d)[0][:, 0]
    pixel = np.stack([shown.cols, shown.rows], axis=1)
    assert np.abs(uv - pixel).max() < 0.5 + 1e-3
    assert len(shown.index) > 10_000


def test_calibration_for_other_height_is_rejected(recordings, shared_data):
    camera = recordings["opencalib_manual"].camera
    picture = cv2.imread(str(shared_data / "camera_lidar" / "opencalib_manual" / "0.png"))
    with pytest.raises(CalibrationError, match="image is 1920x1200 but its calibration is for 1920x1080"):
        camera.check(*picture.shape[:2])
    for fit in FITS:
        camera.adapt_to_size(1200, 1920, fit).check(*picture.shape[:2])


def test_only_correct_fit_gives_published_count(recordings):
    real = recordings["opencalib_manual"]
    optical, counts = real.mount.apply(real.sweep.astype(np.float64)), {}
    for fit in FITS:
        lens = real.camera.adapt_to_size(1200, 1920, fit)
        uv, _ = CameraModel(1920, 1200, lens.K, [], "pinhole").project(optical, near=1.0, bounded=False)
        counts[fit] = ((uv >= 0) & (uv < [1920, 1200])).all(axis=1).sum()
    assert counts["crop_top"] == LANDING["opencalib_manual"]
    assert [fit for fit, count in counts.items() if count == counts["crop_top"]] == ["crop_top"]


@pytest.mark.parametrize("name", ["frontCamera", "leftCamera", "rightCamera", "rearCamera"])
def test_real_fisheye_lenses_agree_with_opencv(shared_data, name):
    fields = yaml.safe_load((shared_data / "fisheye" / "camerasParam.yaml").read_text())[name]["ros__parameters"]
    k, d = np.array(fields["intrinsic_matrix"]).reshape(3, 3), np.array(fields["distortion_coefficients"])
    camera = CameraModel(fields["image_width"], fields["image_height"], k, d, "fisheye")
    rng = np.random.default_rng(0)
    angle, around = np.deg2rad(rng.uniform(0, 85, 5000)), rng.uniform(-np.pi, np.pi, 5000)
    points = np.stack([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)], axis=1)
    uv, valid = camera.project(points)
    expected = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), k, d)[0][:, 0]
    assert valid.sum() > 1000
    np.testing.assert_allclose(uv[valid], expected[valid], atol=1e-3)
    back, found = camera.project(
        np.concatenate([camera.rays.reshape(-1, 2), np.ones((camera.rays.size // 2, 1))], axis=1)
    )
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    error = np.abs(back - np.stack([u.ravel(), v.ravel()], axis=1))[found]
    assert found.sum() > 0.5 * found.size
    assert error.max() < 0.1  # the cached rays are float32, which near 90 degrees is a coarse tangent
    assert np.median(error) < 1e-4
