# SPDX-License-Identifier: Apache-2.0
"""Times of points in the formats of real drivers; values that cannot be times of a sweep are rejected."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.bags.calibrated_frame import read_pcd
from mlesam_ros.errors import CloudError
from mlesam_ros.preprocessing.point_cloud import TIME_FIELDS, cloud_times, cloud_xyz
from mlesam_ros.types import PointCloud

STAMP = 1_700_000_000_000_000_000
AFTER = np.linspace(0, 0.0999, 40)  # seconds


def cloud(name, values, offset=0, shape=None):
    """Points with a time at any byte offset after x, y, z."""
    values = np.asarray(values)
    layout = {
        "names": ["x", "y", "z", name],
        "formats": ["<f4"] * 3 + [values.dtype],
        "offsets": [0, 4, 8, 12 + offset],
    }
    points = np.zeros(len(values), {**layout, "itemsize": 12 + offset + values.dtype.itemsize})
    points["x"] = 1
    points[name] = values
    return PointCloud(points if shape is None else points.reshape(shape))


@pytest.mark.parametrize(
    ("name", "values", "tolerance"),
    [
        pytest.param("t", (AFTER * 1e9).astype("<u4"), 1, id="Ouster"),
        pytest.param("time", AFTER.astype("<f4"), 10, id="Velodyne"),
        pytest.param("timestamp", STAMP / 1e9 + AFTER, 500, id="Hesai"),
        pytest.param("timestamp", STAMP + AFTER * 1e9, 500, id="Livox, absolute"),
        pytest.param("offset_time", (AFTER * 1e9).astype("<u4"), 1, id="Livox, relative"),
        pytest.param("time_stamp", (AFTER * 1e9).astype("<u4"), 1, id="nebula"),
        pytest.param("time", AFTER.astype(">f4"), 10, id="big-endian"),
        pytest.param("t", STAMP + (AFTER * 1e9).astype("<i8"), 1, id="absolute whole nanoseconds"),
    ],
)
@pytest.mark.parametrize("offset", [0, 3])
def test_times_of_known_drivers(name, values, tolerance, offset):
    times = cloud_times(cloud(name, values, offset), STAMP)
    assert times.dtype == np.int64
    np.testing.assert_allclose(times - STAMP, AFTER * 1e9, atol=tolerance)


UNITS = {"s": 1e0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def written(unit, zero, kind, seconds):
    """What a driver writes over so many seconds, the stamp, and the numbers' resolution in seconds."""
    stamp, dtype = 81_250_000_000 if zero == "boot" else STAMP, np.dtype(kind)
    start, per_second = 0 if zero == "the stamp" else stamp, UNITS[unit]
    after = np.linspace(0, seconds, 500)
    exact = [start * int(per_second) // 10**9 + int(t * per_second) for t in after]
    if dtype.kind != "f":
        return np.array(exact, dtype) if max(exact) <= np.iinfo(dtype).max else None, stamp, 1 / per_second
    values = np.array(exact if unit == "ns" else start / 1e9 * per_second + after * per_second, dtype)
    return values, stamp, float(np.spacing(values.astype(dtype.newbyteorder("="))).max()) / per_second


def possible(*case):
    values, _, resolution = written(*case)
    return values is not None and resolution < case[-1] / 20


KINDS = ["<f8", ">f8", "<f4", "<u4", "<u8", "<i8", ">i8"]
ZEROS = ["1970", "boot", "the stamp"]
CASES = [case for case in itertools.product(UNITS, ZEROS, KINDS, [0.1, 0.02]) if possible(*case)]


@pytest.mark.parametrize(("unit", "zero", "kind", "seconds"), CASES)
@pytest.mark.parametrize("named", [False, True])
def test_unit_is_detected_or_set(unit, zero, kind, seconds, named):
    """Kind: an error of the unit told as one of the clock. The numbers are counted by hand from a clock's epoch."""
    values, stamp, resolution = written(unit, zero, kind, seconds)
    made = PointCloud(cloud("timestamp", values).points, unit if named else "auto")
    after = np.linspace(0, seconds, 500)
    np.testing.assert_allclose(cloud_times(made, stamp) - stamp, after * 1e9, atol=2e9 * resolution + 1)


@pytest.mark.parametrize(
    ("unit", "words"), [("s", "spans 9.99e.04 s.* to auto"), ("ms", "spans 99.9 s"), ("ns", "1.7e.09 s away")]
)
def test_wrong_unit_is_rejected(unit, words):
    made = PointCloud(cloud("timestamp", STAMP / 1e3 + AFTER * 1e6).points, unit)
    with pytest.raises(CloudError, match=words):
        cloud_times(made, STAMP)


def test_offset_shifts_points_and_stamp():
    for values in ((AFTER * 1e9).astype("<u4"), STAMP / 1e9 + 37 + AFTER):
        times = cloud_times(cloud("timestamp", values), STAMP + 37_000_000_000, 37_000_000_000)
        np.testing.assert_allclose(times - STAMP, AFTER * 1e9, atol=500)


def test_stamp_may_be_that_of_last_point():
    """Velodyne's driver stamps with the last packet unless told otherwise: its times are negative."""
    times = cloud_times(cloud("time", (AFTER - AFTER[-1]).astype("<f4")), STAMP)
    np.testing.assert_allclose(times - STAMP, (AFTER - AFTER[-1]) * 1e9, atol=10)
    times = cloud_times(cloud("timestamp", STAMP / 1e9 + AFTER - AFTER[-1]), STAMP)
    np.testing.assert_allclose(times - STAMP, (AFTER - AFTER[-1]) * 1e9, atol=500)


def test_organized_clouds_are_flattened_as_their_points_are():
    times = cloud_times(cloud("t", 2_500_000 * np.arange(40, dtype="<u4"), shape=(4, 10)), STAMP)
    assert times.tolist() == [STAMP + 2_500_000 * n for n in range(40)]


def test_no_times_without_field():
    assert cloud_times(PointCloud(np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4")])), STAMP) is None


def test_times_of_empty_cloud():
    assert cloud_times(cloud("t", np.zeros(0, "<u4")), STAMP).shape == (0,)


def test_points_without_return_are_ignored():
    made = cloud("timestamp", STAMP / 1e9 + AFTER)
    made.points["x"][::2] = np.nan
    made.points["timestamp"][::4] = 0
    made.points["timestamp"][2::4] = np.nan
    times = cloud_times(made, STAMP)
    assert (times[::2] == STAMP).all()
    np.testing.assert_allclose(times[1::2] - STAMP, AFTER[1::2] * 1e9, atol=500)
    made.points["x"] = np.inf
    assert (cloud_times(made, STAMP) == STAMP).all()


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("t", np.array([0, 1_500_000_000], "<u4"), "'t' spans 1.5 s; a sweep takes a second at most"),
        ("timestamp", [0.0, STAMP / 1e9], "'timestamp' spans 1.7e"),
        ("timestamp", [81.0, 81.1], "'timestamp' is 1.7e.* s away from the stamp;.* Synchronize the sensor's clock"),
        ("time", np.array([np.nan, 0], "<f4"), "'time' holds times that are not finite"),
        ("time", np.array([np.inf, 0], "<f4"), "'time' holds times that are not finite"),
        ("t", np.array([2**64 - 1], "<u8"), "'t' is .* s away from the stamp"),
        ("t", np.zeros((2, 3), "<u4"), "'t' has several numbers per point"),
    ],
)
def test_invalid_times_are_rejected(name, values, words):
    values = np.asarray(values)
    if values.ndim > 1:
        points = np.ones(2, [("x", "f4"), ("y", "f4"), ("z", "f4"), (name, "<u4", 3)])
        made = PointCloud(points)
    else:
        made = cloud(name, values)
    with pytest.raises(CloudError, match=words):
        cloud_times(made, STAMP)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(TIME_FIELDS),
    st.sampled_from(["<u4", ">i4", "<f4", ">f8", "<f8", "<u8", "<i8", "u1", "<i2"]),
    st.binary(min_size=0, max_size=80),
    st.sampled_from([0, 1, 5_000_000_000, STAMP]),
)
def test_any_bytes_give_times_or_error(name, kind, data, stamp):
    dtype = np.dtype(kind)
    values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    try:
        times = cloud_times(cloud(name, values), stamp)
    except CloudError:
        return
    assert len(times) == len(values)
    assert np.abs(times - stamp).max(initial=0) <= 2_000_000_001


def test_recorded_sweeps(shared_data):
    """A rotating LiDAR at 10 Hz tells 100 ms, absolute, at an unaligned offset."""
    for name, seconds in (("opencalib_ours_1", 1678066887.8), ("opencalib_ours_2", 1678067032.9)):
        sweep = PointCloud(read_pcd(shared_data / "camera_lidar" / name / "calib.pcd"))
        times = cloud_times(sweep, round(seconds * 1e9))
        measured = np.isfinite(cloud_xyz(sweep)).all(axis=1)
        assert 0.095e9 < np.ptp(times[measured]) < 0.105e9
        with pytest.raises(CloudError, match="away from the stamp"):
            cloud_times(sweep, STAMP)
    vlp = PointCloud(read_pcd(shared_data / "lidar_packets" / "vlp16" / "1673400472138016708.pcd"))
    times = cloud_times(vlp, STAMP)
    # This driver's numbers count within each packet of 24 firings, 1.3 ms: less than a moment, so nothing is smeared.
    assert np.ptp(times) == 1304065
