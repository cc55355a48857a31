# SPDX-License-Identifier: Apache-2.0
"""Points of any layout, seen where they lie."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import CloudError
from mlesam_ros.preprocessing.point_cloud import cloud_from_fields, cloud_intensity, cloud_xyz

POINT_FIELD = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def field(name, offset, kind, count=1):
    return SimpleNamespace(name=name, offset=offset, datatype=POINT_FIELD.get(kind, 0), count=count)


# x y z intensity ring timestamp, the float64 stamp at an odd address, as a robot's driver packs them.
ODD = [field(n, 4 * i, "f4") for i, n in enumerate(("x", "y", "z", "intensity"))]
ODD += [field("ring", 16, "u2"), field("timestamp", 18, "f8")]


def as_message(points, fields, point_step, padding=0, big=False):
    """Pack values (name → (h, w) array) as a driver would: fields at their offsets, rows padded with rubbish."""
    height, width = next(iter(points.values())).shape
    row_step = width * point_step + padding
    data = np.full((height, row_step), 0xAB, np.uint8)
    for f in fields:
        kind = next(k for k, v in POINT_FIELD.items() if v == f.datatype)
        values = np.ascontiguousarray(points[f.name].astype(f"{'>' if big else '<'}{kind}")).view(np.uint8)
        values = values.reshape(height, width, -1)
        for column in range(width):
            at = column * point_step + f.offset
            data[:, at : at + values.shape[2]] = values[:, column]
    return fields, height, width, point_step, row_step, big, data.ravel()


def some(shape=(1, 5)):
    n = shape[0] * shape[1]
    values = np.arange(n * 6, dtype=np.float64).reshape(6, *shape)
    return dict(zip(("x", "y", "z", "intensity", "ring", "timestamp"), values, strict=True))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("shape", [(1, 5), (3, 4)])
def test_any_layout_gives_the_same_values(shape, padding, big):
    points = some(shape)
    message = as_message(points, ODD, 26, padding, big)
    cloud = cloud_from_fields(*message)
    assert cloud.points.shape == (shape if shape[0] > 1 else shape[1:])
    assert np.shares_memory(cloud.points, message[-1])
    for name, values in points.items():
        assert cloud.points[name].ravel().tolist() == values.ravel().tolist()
    expected = np.stack([points[a].ravel() for a in "xyz"], axis=1)
    np.testing.assert_array_equal(cloud_xyz(cloud), expected)
    np.testing.assert_array_equal(cloud_intensity(cloud), points["intensity"].ravel())
    assert cloud_xyz(cloud).dtype == cloud_intensity(cloud).dtype == np.float32


def test_fields_in_any_order_with_gaps_and_double_precision():
    fields = [field("z", 24, "f8"), field("x", 8, "f8"), field("y", 16, "f8")]
    cloud = cloud_from_fields(*as_message(some(), fields, 40))
    np.testing.assert_array_equal(cloud_xyz(cloud)[:, 1], some()["y"].ravel())


def test_points_without_a_return_keep_their_row():
    points = some((2, 3))
    points["x"][0, 1] = np.nan
    points["y"][1, 0] = np.inf
    points["intensity"][0, 2] = np.nan
    cloud = cloud_from_fields(*as_message(points, ODD, 26))
    assert np.isnan(cloud_xyz(cloud)).all(axis=1).tolist() == [False, True, False, True, False, False]
    assert np.isnan(cloud_xyz(cloud)).any(axis=1).sum() == 2
    assert cloud_intensity(cloud).tolist() == [18, 19, 0, 21, 22, 23]


@pytest.mark.parametrize(("name", "kind"), [("reflectivity", "u2"), ("intensities", "f4"), ("i", "u1")])
def test_intensity_goes_by_several_names_and_types(name, kind):
    fields = [*ODD[:3], field(name, 12, kind)]
    points = some() | {name: np.arange(5.0)[None]}
    assert cloud_intensity(cloud_from_fields(*as_message(points, fields, 16))).tolist() == [0, 1, 2, 3, 4]


def test_missing_intensity_is_zero():
    assert cloud_intensity(cloud_from_fields(*as_message(some(), ODD[:3], 12))).tolist() == [0] * 5


def test_a_count_of_zero_means_one_and_of_three_an_array():
    fields = [field("x", 0, "f4", 0), field("y", 4, "f4", 0), field("z", 8, "f4", 0), field("normal", 12, "f4", 3)]
    data = np.arange(6, dtype="<f4").view(np.uint8)
    cloud = cloud_from_fields(fields, 1, 1, 24, 24, False, data)
    assert cloud.points["normal"].tolist() == [[3, 4, 5]]


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_double_precision_at_any_address(offset):
    """Coordinates of 8 bytes and a stamp at an odd address keep their digits; what float32 cannot hold is no point."""
    fields = [field(n, offset + 8 * i, "f8") for i, n in enumerate("xyz")] + [field("timestamp", offset + 24, "f8")]
    values = {n: np.array([[0.1, 1e300, -5.5]]) for n in "xyz"} | {"timestamp": np.full((1, 3), 1_700_000_000.123456)}
    cloud = cloud_from_fields(*as_message(values, fields, offset + 33))
    assert cloud.points["timestamp"].tolist() == [1_700_000_000.123456] * 3
    np.testing.assert_array_equal(cloud_xyz(cloud), np.array([[0.1] * 3, [np.nan] * 3, [-5.5] * 3], np.float32))


@pytest.mark.parametrize(
    ("height", "width", "row_step"),
    [(2**32 - 1, 0, 0), (0, 2**32 - 1, 26 * (2**32 - 1)), (0, 0, 0), (0, 0, 2**32 - 1)],
)
def test_huge_empty_cloud_needs_no_memory(height, width, row_step):
    cloud = cloud_from_fields(ODD, height, width, 26, row_step, False, np.zeros(0, np.uint8))
    assert len(cloud_xyz(cloud)) == len(cloud_intensity(cloud)) == 0


@pytest.mark.parametrize(("height", "width"), [(2**32 - 1, 1), (1, 2**32 - 1), (2**32 - 1, 2**32 - 1)])
def test_huge_size_of_little_data_is_rejected(height, width):
    with pytest.raises(CloudError, match="data has 26 bytes"):
        cloud_from_fields(ODD, height, width, 26, 26 * width, False, np.zeros(26, np.uint8))


def test_too_many_fields_are_rejected():
    with pytest.raises(CloudError, match="300 fields; at most 256"):
        cloud_from_fields([field(f"f{i}", 0, "f4") for i in range(300)], 1, 1, 26, 26, False, np.zeros(26, np.uint8))
    with pytest.raises(CloudError, match="'x' spans bytes 0 to 17179869180"):
        cloud_from_fields([field("x", 0, "f4", 2**32 - 1)], 1, 1, 26, 26, False, np.zeros(26, np.uint8))


def test_unnamed_fields_are_skipped():
    assert (
        len(cloud_xyz(cloud_from_fields(*as_message(some() | {"": some()["x"]}, [*ODD, field("", 0, "f4")], 26)))) == 5
    )


def test_an_empty_sweep_is_a_cloud():
    cloud = cloud_from_fields(ODD, 1, 0, 26, 0, False, np.zeros(0, np.uint8))
    assert cloud_xyz(cloud).shape == (0, 3)
    assert cloud_intensity(cloud).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": ODD[1:]}, "no field 'x', only y, z, intensity, ring, timestamp"),
        ({"fields": []}, "only none"),
        ({"fields": [*ODD, ODD[0]]}, "'x' is declared twice"),
        ({"fields": [field("x", 0, "i4"), *ODD[1:]]}, "'x' is int32; it must be one FLOAT32"),
        ({"fields": [*ODD, field("q", 0, "unknown")]}, "'q' has the datatype 0; PointField defines 1 to 8"),
        ({"fields": [field("x", 23, "f4"), *ODD[1:]]}, "'x' spans bytes 23 to 27; point_step is 26"),
        ({"point_step": 0, "data": np.zeros(131, np.uint8)}, "point_step is 0 bytes; 1 to 65535"),
        ({"point_step": 0, "data": np.zeros(100, np.uint8)}, "spans bytes .* point_step is 20"),
        ({"point_step": 2**31}, "point_step is 2147483648 bytes"),
        ({"row_step": 129, "data": np.zeros(129, np.uint8)}, "row_step is 129 bytes; 5 points of 26 need 130"),
        ({"row_step": 200, "data": np.zeros(160, np.uint8)}, "data has 160 bytes; 1 rows with a row_step of 200"),
        ({"data": np.zeros(129, np.uint8)}, "data has 129 bytes; 1 rows with a row_step of 130 make 130"),
    ],
)
def test_invalid_cloud_is_rejected(change, message):
    names = ("fields", "height", "width", "point_step", "row_step", "is_bigendian", "data")
    fields = dict(zip(names, as_message(some(), ODD, 26), strict=True))
    with pytest.raises(CloudError, match=message):
        cloud_from_fields(**(fields | change))


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (2, 3)])
@pytest.mark.parametrize("change", [{"row_step": 0}, {"row_step": 16}, {"row_step": 2**32 - 1}, {"point_step": 0}])
def test_wrong_redundant_field_is_ignored(shape, change):
    """The kind: redundant fields. row_step 0 or stale, no point_step, width and height swapped."""
    values = {name: np.arange(6.0).reshape(shape) + 10 * i for i, name in enumerate("xyz")}
    names = ("fields", "height", "width", "point_step", "row_step", "is_bigendian", "data")
    fields = [field(name, 4 * i, "f4") for i, name in enumerate("xyz")]
    message = dict(zip(names, as_message(values, fields, 20), strict=True))
    xyz = cloud_xyz(cloud_from_fields(**(message | change)))
    np.testing.assert_array_equal(xyz, np.arange(6.0)[:, None] + [0, 10, 20])


def test_a_real_sweep_in_the_layout_of_its_file(shared_data):
    """The VLP-16 cloud as its driver lays it out: 14,831 points, fields of seven types and sizes."""
    raw = (shared_data / "lidar_packets" / "vlp16" / "1673400472138016708.pcd").read_bytes()
    header, _, body = raw.partition(b"DATA binary\n")
    entries = dict(line.split(" ", 1) for line in header.decode().splitlines() if line and line[0] != "#")
    kinds = [f"{t.lower()}{s}" for t, s in zip(entries["TYPE"].split(), entries["SIZE"].split(), strict=True)]
    sizes = [int(kind[1]) for kind in kinds]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    fields = [field(n, int(o), k) for n, o, k in zip(entries["FIELDS"].split(), starts, kinds, strict=False)]
    count, step = int(entries["POINTS"]), int(starts[-1])
    cloud = cloud_from_fields(
        fields, 1, count, step, count * step, False, np.frombuffer(body, np.uint8)[: count * step]
    )
    assert count == 14_831
    xyz = cloud_xyz(cloud)
    ground_range = np.hypot(xyz[:, 0], xyz[:, 1])
    np.testing.assert_allclose(np.hypot(ground_range, xyz[:, 2]), cloud.points["distance"], atol=0.02)
    assert 0 <= cloud_intensity(cloud).min() <= cloud_intensity(cloud).max() <= 255


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), st.integers(0, 5), st.integers(12, 24), st.integers(0, 4), st.booleans(), st.data())
def test_any_bytes_are_a_cloud(height, width, point_step, padding, big, data):
    row_step = width * point_step + padding
    raw = np.frombuffer(data.draw(st.binary(min_size=height * row_step, max_size=height * row_step)), np.uint8)
    cloud = cloud_from_fields(
        [field(n, 4 * i, "f4") for i, n in enumerate("xyz")], height, width, point_step, row_step, big, raw
    )
    xyz = cloud_xyz(cloud)
    assert xyz.shape == (height * width, 3)
    assert (np.isfinite(xyz).all(axis=1) | np.isnan(xyz).all(axis=1)).all()
    assert np.isfinite(cloud_intensity(cloud)).all()
