# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs_py as the oracle of point clouds: the same points are read, and each side reads what the other writes."""

import inspect

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("sensor_msgs_py.point_cloud2", reason="sensor_msgs_py is not installed")
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from sensor_msgs_py import point_cloud2

from mlesam_ros.bags import serialization as fields
from mlesam_ros.errors import CloudError
from mlesam_ros.messages import FrameReader
from mlesam_ros.ros.publishers import message_from
from mlesam_ros.semantic_points import POINT
from mlesam_ros.types import LIDAR, POINT_CLOUD

RNG = np.random.default_rng(5)
KINDS = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def read(message):
    return FrameReader(LIDAR, POINT_CLOUD).read(message).payload.points


def random_cloud(layout, step, shape=(1, 7), padding=0, big=False):
    """A message of random bytes, as from the transport.

    Args:
        layout: (name, offset, NumPy type, count) per field.
        step: bytes per point.
        shape: rows and columns.
        padding: bytes between rows.
        big: byte order of the fields.
    """
    columns = [PointField(name=n, offset=o, datatype=KINDS[kind], count=count) for n, o, kind, count in layout]
    message = PointCloud2(height=shape[0], width=shape[1], fields=columns, point_step=step, is_bigendian=big)
    message.row_step = shape[1] * step + padding
    message.data.frombytes(RNG.integers(0, 256, shape[0] * message.row_step, np.uint8).tobytes())
    return deserialize_message(serialize_message(message), PointCloud2)


XYZ = [(axis, 4 * index, "f4", 1) for index, axis in enumerate("xyz")]
VELODYNE = [*XYZ, ("intensity", 12, "f4", 1), ("ring", 16, "u2", 1), ("time", 18, "f4", 1)]
OUSTER = [*XYZ, ("intensity", 16, "f4", 1), ("t", 20, "u4", 1), ("reflectivity", 24, "u2", 1), ("ring", 26, "u1", 1)]
LIVOX = [*XYZ, ("intensity", 12, "f4", 1), ("tag", 16, "u1", 1), ("line", 17, "u1", 1), ("timestamp", 18, "f8", 1)]
EVERY_TYPE = [*XYZ, *((kind, 12 + 8 * index, kind, 1) for index, kind in enumerate(KINDS))]
DOUBLE = [(axis, 8 * index, "f8", 1) for index, axis in enumerate("zxy")]


@pytest.mark.parametrize(
    ("layout", "step"),
    [(XYZ, 12), (XYZ, 16), (VELODYNE, 22), (OUSTER, 48), (LIVOX, 26), (EVERY_TYPE, 76), (DOUBLE, 32)],
    ids=["xyz", "padded", "velodyne", "ouster", "livox", "every type", "double"],
)
@pytest.mark.parametrize("shape", [(1, 7), (3, 5)], ids=["unorganized", "organized"])
def test_fields_equal_those_of_read_points(layout, step, shape):
    message = random_cloud(layout, step, shape)
    ours, theirs = read(message), point_cloud2.read_points(message)
    assert ours.shape == (shape if shape[0] > 1 else shape[1:]) and ours.dtype.names == theirs.dtype.names
    for name in theirs.dtype.names:
        assert ours[name].ravel().tobytes() == theirs[name].tobytes()


def test_field_of_several_numbers_equals_that_of_read_points():
    message = random_cloud([*XYZ, ("normal", 12, "f4", 3)], 24)
    ours, theirs = read(message), point_cloud2.read_points(message)
    columns = np.stack([theirs[f"normal_{index}"] for index in range(3)], axis=1)
    assert ours["normal"].tobytes() == columns.tobytes()


@pytest.fixture
def labeled():
    """(9,) of the points of `~/semantic_points`."""
    points = np.zeros(9, POINT)
    for name in ("x", "y", "z", "intensity"):
        points[name] = RNG.normal(size=9)
    points["label"], points["rgb"] = np.arange(9), np.uint32(0x00FF8000).view(np.float32)
    return points


def test_labeled_points_are_read_by_read_points(labeled):
    message = message_from(PointCloud2, fields.point_cloud(3, "lidar", labeled))
    theirs = point_cloud2.read_points(message)
    assert theirs.dtype == POINT and theirs.tobytes() == labeled.tobytes()


def test_labeled_points_equal_those_of_create_cloud(labeled):
    """Apart from `is_dense`, which create_cloud leaves false."""
    ours = message_from(PointCloud2, fields.point_cloud(3, "lidar", labeled))
    step = (POINT.itemsize,) if "point_step" in inspect.signature(point_cloud2.create_cloud).parameters else ()
    theirs = point_cloud2.create_cloud(ours.header, ours.fields, labeled, *step)
    assert ours.is_dense
    theirs.is_dense = True
    assert ours == theirs


# Known faults of sensor_msgs_py, which is therefore not in the path from message to mask.


def outcome(convert, *arguments, **options):
    """The result of a function of sensor_msgs_py; None if it raises."""
    try:
        return convert(*arguments, **options)
    except Exception:
        return None


def test_organized_cloud_keeps_rows_and_columns():
    """`read_points(reshape_organized_cloud=True)` returns (width, height)."""
    message = random_cloud(XYZ, 12, (3, 5))
    theirs = point_cloud2.read_points(message, reshape_organized_cloud=True)
    assert read(message).shape == (3, 5)
    assert read(message)["x"].ravel().tobytes() == theirs["x"].ravel().tobytes()


def test_padding_between_rows_is_skipped():
    """`read_points` ignores `row_step`."""
    message = random_cloud(XYZ, 12, (3, 5), padding=8)
    rows = np.frombuffer(message.data, np.uint8).reshape(3, -1)[:, : 5 * 12]
    assert read(message).tobytes() == rows.tobytes()
    assert point_cloud2.read_points(message).tobytes() != rows.tobytes()


def test_big_endian_cloud_is_read_twice():
    """`read_points` swaps the bytes of the message itself, so that a second call returns other numbers."""
    message = random_cloud(VELODYNE, 22, big=True)
    before, x = message.data.tobytes(), read(message)["x"]
    first = x.astype(np.float32).tobytes()
    assert message.data.tobytes() == before and read(message)["x"].astype(np.float32).tobytes() == first
    assert point_cloud2.read_points(message)["x"].tobytes() == first
    assert message.data.tobytes() != before


def test_cloud_that_read_points_asserts_on_is_read_or_refused_with_a_reason():
    """A count of 0 is that of drivers older than the field; points beyond the data have no meaning."""
    old = random_cloud([(name, offset, kind, 0) for name, offset, kind, _ in XYZ], 12)
    assert read(old).shape == (7,) and outcome(point_cloud2.read_points, old) is None
    twice = random_cloud([*XYZ, XYZ[0]], 12)
    with pytest.raises(CloudError, match="'x' is declared twice"):
        read(twice)
    assert outcome(point_cloud2.read_points, twice) is None
