# SPDX-License-Identifier: Apache-2.0
"""Point cloud files: all three encodings against Open3D and against what was written, and damaged ones."""

import struct

import numpy as np
import open3d as o3d
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.bags.calibrated_frame import decompress_lzf, read_pcd
from mlesam_ros.errors import CloudError

COLUMNS = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("ring", "<u2"), ("timestamp", "<f8"), ("tag", "<i1", (3,))]
)


def points(count=50):
    rng = np.random.default_rng(1)
    cloud = np.zeros(count, COLUMNS)
    for name in "xyz":
        cloud[name] = rng.normal(0, 20, count)
    cloud["ring"], cloud["timestamp"] = np.arange(count) % 32, 1.6e9 + np.arange(count) * 1e-5
    cloud["tag"] = rng.integers(-100, 100, (count, 3))
    return cloud


def header(cloud, encoding):
    names = cloud.dtype.names
    bases = [cloud.dtype[n].base for n in names]
    counts = [int(np.prod(cloud.dtype[n].shape)) for n in names]
    return "\n".join([
        "# .PCD v0.7", "VERSION 0.7", "FIELDS " + " ".join(names), "SIZE " + " ".join(str(b.itemsize) for b in bases),
        "TYPE " + " ".join({"f": "F", "i": "I", "u": "U"}[b.kind] for b in bases),
        "COUNT " + " ".join(map(str, counts)), f"WIDTH {len(cloud)}", "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(cloud)}", f"DATA {encoding}", "",
    ]).encode()  # fmt: skip


def literals(data):
    """LZF without any compression: runs of up to 32 literal bytes."""
    return b"".join(bytes([len(data[i : i + 32]) - 1]) + data[i : i + 32] for i in range(0, len(data), 32))


def encode(cloud, encoding):
    if encoding == "binary":
        return header(cloud, encoding) + cloud.tobytes()
    if encoding == "ascii":
        lines = [" ".join(repr(v.item()) for n in cloud.dtype.names for v in np.atleast_1d(row[n])) for row in cloud]
        return header(cloud, encoding) + "\n".join(lines).encode()
    block = b"".join(np.ascontiguousarray(cloud[name]).tobytes() for name in cloud.dtype.names)
    packed = literals(block)
    return header(cloud, encoding) + struct.pack("<II", len(packed), len(block)) + packed


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd_columns_round_trip(tmp_path, encoding):
    cloud = points()
    (tmp_path / "a.pcd").write_bytes(encode(cloud, encoding))
    again = read_pcd(tmp_path / "a.pcd")
    assert again.dtype == cloud.dtype and np.array_equal(again, cloud)


@pytest.mark.parametrize("compressed", [False, True])
def test_pcd_files_of_open3d_are_read(tmp_path, compressed):
    xyz = np.round(np.random.default_rng(0).normal(0, 1, (3000, 3)), 1).astype(np.float32)
    cloud = o3d.t.geometry.PointCloud(o3d.core.Tensor.from_numpy(xyz))
    o3d.t.io.write_point_cloud(str(tmp_path / "a.pcd"), cloud, write_ascii=False, compressed=compressed)
    again = read_pcd(tmp_path / "a.pcd")
    assert (b"DATA binary_compressed" in (tmp_path / "a.pcd").read_bytes()) == compressed
    assert np.array_equal(np.stack([again[n] for n in "xyz"], 1), xyz)


def test_organized_pcd_keeps_its_rows(tmp_path):
    data = encode(points(6), "binary").replace(b"WIDTH 6\nHEIGHT 1", b"WIDTH 3\nHEIGHT 2")
    (tmp_path / "a.pcd").write_bytes(data)
    assert read_pcd(tmp_path / "a.pcd").shape == (2, 3)


@given(st.binary(min_size=1, max_size=8), st.integers(1, 600))
def test_overlapping_lzf_copy_repeats(pattern, length):
    """The run-length case of LZF: a reference into the bytes that it is writing."""
    length = max(length, 3)
    out, packed = bytearray(pattern), bytearray([len(pattern) - 1]) + pattern
    distance, left = len(pattern) - 1, length
    while left >= 3:
        step = min(left, 264)
        code = step - 2
        packed += bytes([code << 5, distance]) if code < 7 else bytes([7 << 5, code - 7, distance])
        for _ in range(step):
            out.append(out[-len(pattern)])
        left -= step
    assert decompress_lzf(bytes(packed), len(out)) == bytes(out)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_lzf_gives_the_declared_size_or_an_error(tmp_path_factory, data, size):
    cloud = points(1)
    path = tmp_path_factory.getbasetemp() / "fuzz.pcd"
    path.write_bytes(header(cloud, "binary_compressed") + struct.pack("<II", len(data), cloud.nbytes) + data)
    try:
        assert read_pcd(path).nbytes == cloud.nbytes
    except CloudError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_truncated_pcd_is_rejected(tmp_path, encoding):
    data = encode(points(5), encoding)
    for length in range(len(data) - 5):
        (tmp_path / "a.pcd").write_bytes(data[:length])
        with pytest.raises(CloudError, match=r"a\.pcd"):
            read_pcd(tmp_path / "a.pcd")


def test_recorded_pcd_files_are_read(shared_data):
    ours = read_pcd(shared_data / "camera_lidar/opencalib_ours_1/calib.pcd")
    assert ours.dtype.names == ("x", "y", "z", "intensity", "ring", "timestamp") and ours.dtype.itemsize == 26
    truth = o3d.t.io.read_point_cloud(str(shared_data / "camera_lidar/opencalib_ours_1/calib.pcd"))
    assert np.array_equal(np.stack([ours[n] for n in "xyz"], 1), truth.point.positions.numpy())
    assert 0.09 < np.ptp(ours["timestamp"]) < 0.11 and ours["ring"].max() < 128
    assert len(read_pcd(shared_data / "lidar_packets/vlp16/1673400472138016708.pcd")) == 14_831
