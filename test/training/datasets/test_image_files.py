# SPDX-License-Identifier: Apache-2.0
"""Shapes from file headers, and damaged files."""

import cv2
import h5py
import numpy as np
import PIL.Image
import pytest

from mlesam_ros.errors import DatasetError
from mlesam_training.image_files import inspect_file, read_array

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
    assert inspect_file(written(tmp_path / f"x{suffix}")) == ((20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("mode", "shape", "kind"),
    [("L", (20, 30), "u1"), ("I;16", (20, 30), "u2"), ("P", (20, 30, 3), "u1"), ("LA", (20, 30, 4), "u1")],
)
def test_shape_and_type_are_those_of_opencv(tmp_path, mode, shape, kind):
    PIL.Image.fromarray(PIXELS).convert("L").convert(mode).save(tmp_path / "x.png")
    found, read = inspect_file(tmp_path / "x.png"), cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
    assert found == (shape, kind) == (read.shape, read.dtype)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg"])
@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_damage_inside_a_file_is_named(tmp_path, suffix, at):
    """A PNG by its checksums; of a JPEG the rest is lost, and only its thumbnail has an end."""
    path, exif = tmp_path / f"x{suffix}", PIL.Image.Exif()
    exif[0x010E] = "a thumbnail: \xff\xd8 \xff\xd9"
    pixels = np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path, exif=exif if suffix != ".png" else None)
    assert inspect_file(path).shape == (200, 300, 3)
    data = bytearray(path.read_bytes())
    place = int(at * len(data))
    data[place : place + 4] = bytes(255 - value for value in data[place : place + 4])
    path.write_bytes(data if suffix == ".png" else data[:place])
    with pytest.raises(DatasetError, match=rf"x\{suffix} is damaged or cut short"):
        inspect_file(path)


@pytest.mark.parametrize("values", [np.array([["a", "b"]]), np.array([[1j]]), np.array([[None]])])
def test_arrays_of_no_numbers_are_named(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DatasetError, match=r"x\.npy"):
        inspect_file(tmp_path / "x.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_inside_an_archive_is_named_when_it_is_read(tmp_path, save):
    save(tmp_path / "x.npz", PIXELS)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(DatasetError, match=r"x\.npz cannot be read as a NumPy array") as caught:
        read_array(tmp_path / "x.npz")
    assert caught.value.remedy


def test_file_that_is_not_an_image_has_no_size(tmp_path):
    assert inspect_file(written(tmp_path / "x.h5")) is None
    assert inspect_file(tmp_path / "x.bin") is None


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".h5"])
@pytest.mark.parametrize("left", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_named(tmp_path, suffix, left):
    path = written(tmp_path / f"x{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data))])
    with pytest.raises(DatasetError, match=rf"x\{suffix} "):
        inspect_file(path)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".h5"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(DatasetError, match=rf"x\{suffix} "):
        inspect_file(tmp_path / f"x{suffix}")


def test_array_without_columns_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(5))
    with pytest.raises(DatasetError, match=r"x\.npy"):
        inspect_file(tmp_path / "x.npy")
