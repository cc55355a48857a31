# SPDX-License-Identifier: Apache-2.0
"""DELIVER's LiDAR picture as this project reads it: gray dots on black, the nearest on top."""

import numpy as np
import pytest

from mlesam_ros.errors import ConfigError, ImageError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.lidar import DeliverLidar
from mlesam_ros.types import LIDAR, PointCloud, RawImage, SensorFrame

POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
SIZE = (60, 80)


def picture(encoder, *points):
    k = np.array([[70.0, 0, 40], [0, 70.0, 30], [0, 0, 1]])
    rig = Rig("front", {"front": CameraModel(80, 60, k, np.zeros(0), "pinhole")})
    rig.tree.set("front", "lidar", Transform.identity())
    image = encoder(SensorFrame(LIDAR, 1, "lidar", PointCloud(np.array(list(points), POINT))), rig, SIZE)
    assert (image.shape, image.dtype) == ((3, *SIZE), np.float32)
    assert (image[0] == image[1]).all() and (image[0] == image[2]).all()
    return np.rint(image[0] * 255)


def test_attenuation_equals_carla_intensity():
    gray = picture(DeliverLidar(), (0, 0, 10, 3), (4, 0, 40, 9))
    assert gray[30, 40] == round(255 * np.exp(-0.04))
    assert gray[30, 47] == round(255 * np.exp(-0.004 * np.hypot(4, 40)))
    assert np.count_nonzero(gray) == 2


def test_nearest_point_wins_and_far_points_are_omitted():
    assert picture(DeliverLidar(), (0, 0, 30, 1), (0, 0, 20, 1))[30, 40] == round(255 * np.exp(-0.08))
    assert not picture(DeliverLidar(), (0, 0, 101, 1)).any()
    assert picture(DeliverLidar(farthest=150), (0, 0, 101, 1)).any()
    assert np.count_nonzero(picture(DeliverLidar(dilation=1), (0, 0, 20, 1))) == 9


def test_range_and_intensity_modes():
    assert picture(DeliverLidar(shows="range"), (0, 0, 50, 1))[30, 40] == 128
    assert picture(DeliverLidar(shows="intensity"), (0, 0, 50, 0.2))[30, 40] == 51
    assert picture(DeliverLidar(rate=0.1), (0, 0, 10, 1))[30, 40] == round(255 / np.e)


def test_unknown_mode_is_rejected():
    with pytest.raises(ConfigError, match="'colour'; accepted are attenuation, range, intensity"):
        DeliverLidar(shows="colour")
    wrong = SensorFrame(LIDAR, 1, "lidar", RawImage(1, 1, "rgb8", 3, np.zeros(3, np.uint8)))
    with pytest.raises(ImageError, match="it must hold a PointCloud"):
        DeliverLidar()(wrong, Rig("front"), SIZE)
