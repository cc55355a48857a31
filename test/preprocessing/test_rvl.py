# SPDX-License-Identifier: Apache-2.0
"""RVL against an encoder written number by number from the paper, and any damage is a refusal."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlesam_ros.errors import ImageError
from mlesam_ros.preprocessing.images import decode_rvl, parse_depth
from mlesam_ros.types import CompressedImage


def encode(picture):
    """Wilson's scheme, one pixel after the other."""
    groups, previous, pixels = [], 0, [int(p) for p in picture.ravel()]

    def write(number):
        while True:
            number, low = number >> 3, number & 7
            groups.append(low | (8 if number else 0))
            if not number:
                return

    at = 0
    while at < len(pixels):
        zeros = at
        while at < len(pixels) and pixels[at] == 0:
            at += 1
        others = at
        while at < len(pixels) and pixels[at] != 0:
            at += 1
        write(others - zeros)
        write(at - others)
        for pixel in pixels[others:at]:
            delta = pixel - previous
            write(2 * delta if delta >= 0 else -2 * delta - 1)
            previous = pixel
    groups += [0] * (-len(groups) % 8)
    words = [sum(g << (28 - 4 * i) for i, g in enumerate(groups[k : k + 8])) for k in range(0, len(groups), 8)]
    data = struct.pack(f"<2I{len(words)}I", picture.shape[1], picture.shape[0], *words)
    return np.frombuffer(data, np.uint8)


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.uint16,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0, 0, 0, 1, 7, 8, 800, 801, 65535]),
    )
)
def test_round_trip(picture):
    np.testing.assert_array_equal(decode_rvl(encode(picture)), picture)


def test_recorded_depth_image(shared_data):
    picture = cv2.imread(str(shared_data / "rgbd_tum" / "1_depth.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decode_rvl(encode(picture)), picture)


def test_in_a_compressed_depth_message():
    """With the transport's header of 12 bytes before it: millimeters as they are, meters by inverse depth."""
    counts = np.array([[0, 1500, 1600], [0, 0, 65535]], np.uint16)
    body = encode(counts)
    plain = CompressedImage("16UC1; compressedDepth rvl", np.concatenate([np.zeros(12, np.uint8), body]))
    np.testing.assert_allclose(parse_depth(plain).meters(), np.where(counts, counts / 1000, np.nan), rtol=1e-6)
    header = np.frombuffer(struct.pack("<iff", 0, 10100.0, -9.0), np.uint8)
    inverse = CompressedImage("32FC1; compressedDepth rvl", np.concatenate([header, body]))
    np.testing.assert_allclose(
        parse_depth(inverse).meters(), np.where(counts, 10100 / (counts + 9.0), np.nan), rtol=1e-6
    )
    assert parse_depth(plain).size == (2, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "its header has 8"),
        (struct.pack("<2I", 0, 4), "0x4 pixels; 1 to 33554432"),
        (struct.pack("<2I", 2**32 - 1, 2**32 - 1), "4294967295x4294967295 pixels"),
        (struct.pack("<2I", 3, 4), "ends 12 pixels early"),
        (struct.pack("<3I", 3, 4, 0), "a run of 0 zeros and 0 others"),
        (struct.pack("<3I", 3, 4, 0x70000000), "a run of 0 zeros and 0 others"),
        (struct.pack("<4I", 3, 4, 0xFFFFFFFF, 0xFFF00000), "more than 30 bits"),
        (struct.pack("<3I", 3, 4, 0xA1000000), "a run of 0 zeros and 0 others"),
        (struct.pack("<3I", 3, 4, 0x0F700000), "which do not fit"),
    ],
)
def test_damage_is_refused(data, words):
    with pytest.raises(ImageError, match=words):
        decode_rvl(np.frombuffer(data, np.uint8))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(1, 40), st.integers(1, 40))
def test_any_bytes_are_decoded_or_rejected(data, width, height):
    try:
        picture = decode_rvl(np.frombuffer(struct.pack("<2I", width, height) + data, np.uint8))
    except ImageError:
        return
    assert (picture.shape, picture.dtype) == ((height, width), np.uint16)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_one_damaged_byte(place, value):
    data = encode(np.arange(400, dtype=np.uint16).reshape(20, 20) % 37).copy()
    data[place % len(data)] = value
    try:
        decode_rvl(data)
    except ImageError:
        return
