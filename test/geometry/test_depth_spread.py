# SPDX-License-Identifier: Apache-2.0
"""The score of a calibration, on a scene that can be worked out by hand; the real ones are in test_recordings."""

import numpy as np
import pytest

from mlesam_ros.doctor.calibration_checks import Segments, best_yaw, rotate_extrinsic, score_by_yaw
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform

CAMERA = CameraModel(200, 100, [[150, 0, 99.5], [0, 150, 49.5], [0, 0, 1]], [], "pinhole")


def scene(boards=12, seed=0):
    """Boards side by side at their own distances: points of a dense sweep, and one label per board."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.6, 0.6, 40_000), rng.uniform(-0.3, 0.3, 40_000)
    depths = rng.uniform(4, 60, boards)
    board = np.clip(((x * 150 + 100) / 200 * boards).astype(int), 0, boards - 1)
    points = np.stack([x, y, np.ones_like(x)], axis=1) * depths[board][:, None]
    labels = np.broadcast_to(np.arange(200) * boards // 200 + 1, (100, 200))
    return points, labels


def test_the_range_is_the_quartiles_of_log_depth():
    segments = Segments([np.ones((10, 10), bool)], min_pixels=1, min_points=4)
    rows = cols = np.arange(5)
    result = segments.depth_spread(rows, cols, np.exp([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (result.score, result.segments, result.points) == (pytest.approx(2.0), 1, 5)


def test_the_median_is_over_segments_of_the_right_size_with_enough_points():
    small, large = np.zeros((100, 100), bool), np.ones((100, 100), bool)
    small[:5, :5] = True
    assert len(Segments([small, large])) == 1
    labels = np.zeros((100, 100), int)
    labels[:50], labels[60:] = 1, 2
    segments = Segments([labels, small], min_points=10)
    assert len(segments) == 2
    rows = np.concatenate([np.full(20, 10), np.full(9, 70)])
    result = segments.depth_spread(rows, np.arange(29), np.full(29, 7.0))
    assert (result.score, result.segments) == (0.0, 1)
    assert np.isnan(segments.depth_spread(rows[:0], rows[:0], np.zeros(0)).score)


@pytest.mark.parametrize("seed", range(5))
def test_a_true_mounting_scores_best(seed):
    points, labels = scene(seed=seed)
    scores = score_by_yaw(points, Transform.identity(), CAMERA, Segments([labels]))
    assert best_yaw(scores) == 0
    assert scores[0].score < 1e-6 < scores[-2].score
    wrong = rotate_extrinsic(Transform.identity(), yaw=1.0)
    assert best_yaw(score_by_yaw(points, wrong, CAMERA, Segments([labels]))) == -1


def test_no_score_without_points():
    points, labels = scene()
    assert best_yaw(score_by_yaw(points, Transform.identity(), CAMERA, Segments([labels], min_pixels=10_000))) is None


@pytest.mark.parametrize(("angle", "moves"), [("yaw", (1, 0)), ("pitch", (0, -1))])
def test_the_directions_are_those_that_are_promised(angle, moves):
    ahead = rotate_extrinsic(Transform.identity(), **{angle: 5.0}).apply(np.array([[0.0, 0, 10]]))[0]
    np.testing.assert_allclose(ahead[:2] / 10, np.sin(np.radians(5)) * np.array(moves), atol=1e-12)


def test_roll_turns_the_scene_clockwise():
    right = rotate_extrinsic(Transform.identity(), roll=90.0).apply(np.array([[1.0, 0, 10]]))[0]
    np.testing.assert_allclose(right, [0, 1, 10], atol=1e-12)
