# SPDX-License-Identifier: Apache-2.0
"""Sizes from file headers, and truncated files."""

import cv2
import h5py
import numpy as np
import pytest

from mlesam_ros.errors import DatasetError
from mlesam_training.image_files import stored_shape

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def written(path):
    if path.suffix == ".png":
        cv2.imwrite(str(path), PIXELS)
    elif path.suffix == ".npy":
        np.save(path, PIXELS)
    elif path.suffix == ".npz":
        np.savez_compressed(path, PIXELS)
    else:
        with h5py.File(path, "w") as file:
            file["events/x"] = PIXELS
    return path


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz"])
def test_size_is_height_and_width(tmp_path, suffix):
    assert stored_shape(written(tmp_path / f"x{suffix}")) == (20, 30)


def test_file_that_is_not_an_image_has_no_size(tmp_path):
    assert stored_shape(written(tmp_path / "x.h5")) is None
    assert stored_shape(tmp_path / "x.bin") is None


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".h5"])
@pytest.mark.parametrize("left", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_named(tmp_path, suffix, left):
    path = written(tmp_path / f"x{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data))])
    with pytest.raises(DatasetError, match=rf"x\{suffix} "):
        stored_shape(path)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".h5"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(DatasetError, match=rf"x\{suffix} "):
        stored_shape(tmp_path / f"x{suffix}")


def test_array_without_columns_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(5))
    with pytest.raises(DatasetError, match=r"x\.npy"):
        stored_shape(tmp_path / "x.npy")
