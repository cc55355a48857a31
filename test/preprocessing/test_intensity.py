# SPDX-License-Identifier: Apache-2.0
"""Strength of the echoes: one scale for all drivers, found by type and range or set; absence is noted.

Kind: a setting that no parameter reaches, and an absent field read as zero. The expected strengths are those that the
same echoes have in 0 to 255.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.messages import FrameReader
from mlesam_ros.preprocessing.base import Preprocessing
from mlesam_ros.preprocessing.cuda import AsyncUploader, encode_torch
from mlesam_ros.preprocessing.lidar import echo_strength
from mlesam_ros.preprocessing.point_cloud import cloud_from_fields
from mlesam_ros.preprocessing.preprocessors import make_preprocessors
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import LIDAR

CLOUD = "sensor_msgs/msg/PointCloud2"
TYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
ECHOES = np.random.default_rng(4).uniform(0, 255, 2000).round()
"""In 0 to 255."""


def message(values, name="intensity", kind="f4", stamp=1):
    order = ">" if kind.startswith(">") else "<"
    kind = kind.lstrip("<>")
    dtype = np.dtype([("x", f"{order}f4"), ("y", f"{order}f4"), ("z", f"{order}f4"), (name, order + kind)])
    points = np.zeros(len(values), dtype)
    points["z"] = np.linspace(2, 40, len(values))
    points["x"] = np.linspace(-1, 1, len(values)) * points["z"] / 2
    points[name] = values
    fields = [
        SimpleNamespace(name=n, offset=dtype.fields[n][1], datatype=TYPES[dtype[n].str[1:]], count=1)
        for n in dtype.names
    ]
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=stamp), frame_id="lidar")
    size = dtype.itemsize
    return SimpleNamespace(
        header=header, fields=fields, height=1, width=len(points), point_step=size, row_step=size * len(points),
        is_bigendian=order == ">", data=points.tobytes(),
    )  # fmt: skip


def strengths(messages, settings=None):
    reader = FrameReader(LIDAR, CLOUD, settings or Preprocessing())
    return [echo_strength(reader.read(each).payload) for each in messages], reader.found["intensity"].text


@pytest.mark.parametrize(
    ("factor", "kind", "scale"),
    [
        (1 / 255, "f4", "1"),  # CARLA, Gazebo, Isaac, KITTI
        (1 / 255, "f8", "1"),
        (1, "f4", "255"),
        (1, "u1", "255"),
        (1, "u2", "255"),  # Ouster's calibrated reflectivity
        (257, "u2", "65535"),
        (257, ">u2", "65535"),
        (257, "f4", "65535"),
        (257, "u4", "65535"),
    ],
)
@pytest.mark.parametrize("name", ["intensity", "reflectivity", "Signal", "signal", "i", "Intensity", "remission"])
def test_equal_strength_in_every_scale_and_field_name(factor, kind, scale, name):
    [found], words = strengths([message(ECHOES * factor, name, kind)])
    np.testing.assert_allclose(found, ECHOES, atol=0.02)
    assert words == f"field {name}, {np.dtype(kind).name}, scale {scale}"


def test_intensity_of_0_to_255_is_unchanged():
    values = np.random.default_rng(1).uniform(0, 255, 500).astype("<f4")
    [found], _ = strengths([message(values)])
    assert found.tobytes() == values.tobytes()


def test_dark_sweeps_keep_scale():
    """A sweep of weak echoes after a bright one has the scale of the bright one; one outlier changes nothing."""
    dark = np.minimum(ECHOES * 257, 200).round()
    (_, weak), _ = strengths([message(ECHOES * 257, kind="u2"), message(dark, kind="u2")])
    np.testing.assert_allclose(weak, dark / 257, atol=1e-3)
    damaged = ECHOES.copy()
    damaged[7] = 1e30
    (first, second), words = strengths([message(damaged), message(ECHOES)])
    np.testing.assert_allclose(np.delete(first, 7), np.delete(ECHOES, 7))
    np.testing.assert_allclose(second, ECHOES)
    assert words.endswith("scale 255")


def test_integers_up_to_1_leave_scale_undetermined():
    (dark, bright), words = strengths([message(np.minimum(ECHOES, 1)), message(ECHOES)])
    np.testing.assert_allclose(dark, np.minimum(ECHOES, 1))
    np.testing.assert_allclose(bright, ECHOES)
    assert words.endswith("scale 255")


def test_field_and_scale_can_be_set():
    settings = Preprocessing(intensity_field="Power", intensity_scale=100.0)
    [found], words = strengths([message(ECHOES / 2.55, "power")], settings)
    np.testing.assert_allclose(found, ECHOES, atol=1e-3)
    assert words == "field power, float32, scale 100 as set"


@pytest.mark.parametrize(
    ("name", "wanted", "words"),
    [("ring", "auto", "no field of a known name among x, y, z, ring"), ("intensity", "gain", "no field gain among")],
)
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("encoder", ["range_intensity_height", "deliver_lidar"])
def test_missing_intensity_is_noted(name, wanted, words, on_device, encoder):
    frame = FrameReader(LIDAR, CLOUD, Preprocessing(intensity_field=wanted)).read(message(ECHOES, name))
    rig = Rig("front", {"front": CameraModel(64, 48, np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]), np.zeros(0))})
    rig.tree.set("front", "lidar", Transform.identity())
    context = FrameContext(1, {LIDAR: frame})
    made = make_preprocessors({LIDAR: encoder})[LIDAR]
    if on_device:
        encode_torch(AsyncUploader("cpu"), made, frame, rig, (48, 64), context)
    else:
        made(frame, rig, (48, 64), context)
    expected = {} if encoder == "deliver_lidar" else {LIDAR}  # DELIVER's image is of ranges by default
    assert set(context.notes) == set(expected)
    assert all(words in note and "or let the driver send one" in note for note in context.notes.values())


def test_field_of_several_values_is_not_intensity():
    fields = [SimpleNamespace(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate("xyz")]
    fields.append(SimpleNamespace(name="intensity", offset=12, datatype=7, count=2))
    cloud = cloud_from_fields(fields, 1, 2, 20, 40, False, np.zeros(40, np.uint8))
    assert not echo_strength(cloud).any()


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e-9])
def test_invalid_scale_is_rejected(value):
    with pytest.raises(ConfigError, match=r"lidar\.intensity_scale is"):
        Preprocessing(intensity_scale=value)
