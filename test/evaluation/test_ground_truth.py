# SPDX-License-Identifier: Apache-2.0
"""Ground-truth labels from messages and from folders."""

import cv2
import numpy as np
import pytest

from mlesam_ros.errors import BagError, ImageError, LabelError
from mlesam_ros.evaluation.ground_truth import LabelFolder, check_aspect, decode_labels
from mlesam_ros.labels import load_label_space
from mlesam_ros.types import CompressedImage, RawImage

SPACE = load_label_space("deliver")
STAMP = 1_700_000_000_123_456_789


@pytest.mark.parametrize(("encoding", "kind"), [
        ("mono8", "u1"), ("8UC1", "u1"), ("mono16", "<u2"), ("16UC1", "<u2"), ("16SC1", "<i2"), ("32SC1", "<i4"),
    ],
)  # fmt: skip
def test_label_images_of_every_encoding_are_decoded(encoding, kind):
    ids = np.array([[0, 24, 255], [3, 3, 7]])
    data = np.frombuffer(ids.astype(kind).tobytes(), np.uint8)
    found = decode_labels(RawImage(2, 3, encoding, 3 * np.dtype(kind).itemsize, data), SPACE)
    assert found.dtype == np.uint8
    assert np.array_equal(found, ids)


@pytest.mark.parametrize(
    ("kind", "encoding", "worst"),
    [
        ("u1", "mono8", 25),
        ("<u2", "mono16", 256),
        ("<u2", "mono16", 300),
        ("<i4", "32SC1", -1),
        ("i1", "8SC1", -7),
        ("<i4", "32SC1", 70_000),
    ],
)
def test_id_outside_the_label_space_is_rejected(kind, encoding, worst):
    data = np.frombuffer(np.full(4, worst, kind).tobytes(), np.uint8)
    with pytest.raises(LabelError, match=str(worst)):
        decode_labels(RawImage(2, 2, encoding, 2 * np.dtype(kind).itemsize, data), SPACE)


def test_color_image_is_no_label_image():
    with pytest.raises(ImageError, match="rgb8"):
        decode_labels(RawImage(1, 1, "rgb8", 3, np.zeros(3, np.uint8)), SPACE)


@pytest.fixture
def folder(tmp_path):
    for offset in (0, 100_000_000, 200_000_000):
        cv2.imwrite(str(tmp_path / f"left_{STAMP + offset}_ids.png"), np.full((2, 3), offset // 100_000_000, np.uint8))
    (tmp_path / "notes.txt").write_text("")
    return LabelFolder(tmp_path, SPACE)


@pytest.mark.parametrize(
    ("offset", "found"),
    [
        (0, 0),
        (4_000_000, 0),
        (-5_000_000, 0),
        (6_000_000, None),
        (97_000_000, 1),
        (210_000_000, None),
        (201_000_000, 2),
    ],
)
def test_nearest_label_image_of_a_folder_is_found(folder, offset, found):
    truth = folder.nearest(STAMP + offset, 5_000_000)
    assert (truth is None) == (found is None)
    if truth is not None:
        assert truth.time == STAMP + offset
        assert truth.labels.tolist() == [[found] * 3] * 2


def test_error_of_an_empty_folder_has_the_naming_scheme(tmp_path):
    cv2.imwrite(str(tmp_path / "0001.png"), np.zeros((2, 2), np.uint8))
    with pytest.raises(BagError, match=r"1700000000123456789\.png"):
        LabelFolder(tmp_path, SPACE)


def test_label_image_with_three_channels_is_rejected(tmp_path):
    cv2.imwrite(str(tmp_path / f"{STAMP}.png"), np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(LabelError, match="3 channels"):
        LabelFolder(tmp_path, SPACE).nearest(STAMP, 0)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_png_labels_are_decoded(kind):
    ids = np.array([[0, 24, 255], [3, 3, 7]], kind)
    file = CompressedImage("16UC1; png compressed ", np.frombuffer(cv2.imencode(".png", ids)[1].tobytes(), np.uint8))
    assert np.array_equal(decode_labels(file, SPACE), ids)


@pytest.mark.parametrize("kind", ["jpeg", "mono8; jpeg compressed ", ""])
def test_jpeg_labels_are_rejected(kind):
    data = np.frombuffer(cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes(), np.uint8)
    with pytest.raises(LabelError, match="alters ids"):
        decode_labels(CompressedImage(kind, data), SPACE)


@pytest.mark.parametrize(
    ("labels", "camera"),
    [((128, 160), (128, 160)), ((64, 80), (128, 160)), ((75, 100), (720, 960)), ((34, 60), (1080, 1920))],
)
def test_labels_of_the_same_aspect_ratio_are_accepted(labels, camera):
    check_aspect(labels, camera)
    check_aspect(camera, labels)


@pytest.mark.parametrize(
    ("labels", "camera"), [((60, 160), (128, 160)), ((480, 640), (720, 1280)), ((160, 128), (128, 160))]
)
def test_error_of_another_aspect_ratio_has_both_sizes(labels, camera):
    """Labels are not stretched to fit."""
    with pytest.raises(LabelError, match=f"{labels[1]}x{labels[0]} .* {camera[1]}x{camera[0]}"):
        check_aspect(labels, camera)
