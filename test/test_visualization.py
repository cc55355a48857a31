# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlesam_ros.errors import ConfigError, ImageError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import VisiblePoints
from mlesam_ros.labels import IGNORE, load_label_space
from mlesam_ros.visualization import colorize, overlay, projected_cloud, resize_area

SPACE = load_label_space("deliver")
masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))


@given(masks)
def test_colorize_looks_up_the_palette(labels):
    assert np.array_equal(colorize(labels, SPACE), SPACE.palette[labels])


@given(masks, st.floats(0, 1), st.integers(0, 255))
def test_overlay_blends(labels, alpha, gray):
    rgb = np.full((*labels.shape, 3), gray, np.uint8)
    expected = np.where((labels < 25)[..., None], (1 - alpha) * gray + alpha * SPACE.palette[labels], gray)
    assert np.abs(overlay(rgb, labels, SPACE, alpha) - expected).max() <= 0.51


def test_overlay_without_camera_image_is_colors_on_black():
    labels = np.array([[0, 6, IGNORE]], np.uint8)
    assert overlay(None, labels, SPACE).tolist() == [[[70, 70, 70], list(SPACE.colors[6]), [0, 0, 0]]]


def test_overlay_resizes_the_mask():
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    grown = np.kron(labels, np.ones((3, 2), np.uint8))
    assert np.array_equal(overlay(np.zeros((6, 4, 3), np.uint8), labels, SPACE, 1), SPACE.palette[grown])


def test_overlay_does_not_modify_its_inputs():
    rgb, labels = np.zeros((4, 4, 3), np.uint8), np.full((4, 4), IGNORE, np.uint8)
    rgb.flags.writeable = labels.flags.writeable = False
    assert overlay(rgb, labels, SPACE) is not rgb


@pytest.mark.parametrize("rgb", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_overlay_rejects_other_arrays(rgb):
    with pytest.raises(ImageError, match="must be uint8"):
        overlay(rgb, np.zeros((4, 4), np.uint8), SPACE)


def test_overlay_rejects_other_weights():
    with pytest.raises(ConfigError, match=r"alpha is 1\.5"):
        overlay(None, np.zeros((4, 4), np.uint8), SPACE, 1.5)


def test_projected_points_are_red_near_and_blue_far():
    points = np.array([[-1.0, 0, 2.5], [20, 0, 50]], np.float32)
    camera = CameraModel(20, 10, np.array([[10.0, 0, 9.5], [0, 10.0, 4.5], [0, 0, 1]]), np.zeros(5))
    picture = np.full((10, 20, 3), 90, np.uint8)
    shown = projected_cloud(picture, VisiblePoints.of(points, camera), (10, 20))
    changed = np.argwhere((shown != 90).any(-1))
    assert len(changed) == 2 and (picture == 90).all()
    near, far = (shown[tuple(place)].astype(int) for place in changed[np.argsort(changed[:, 1])])
    assert near[0] > near[2] + 100 and far[2] > far[0] + 50
    assert (projected_cloud(None, VisiblePoints.of(points, camera), (10, 20)) > 0).any(-1).sum() == 2
    behind = VisiblePoints.of(-points, camera)
    assert (projected_cloud(picture, behind, (10, 20)) == 90).all(), "none in view"


def test_image_shrinks_to_averages_of_areas():
    rgb = np.array([[[0, 10, 20], [100, 30, 40]], [[50, 70, 0], [50, 90, 60]]], np.uint8)
    assert resize_area(rgb, (1, 1)).tolist() == [[[50, 50, 30]]]
    assert resize_area(rgb, (2, 2)) is rgb
