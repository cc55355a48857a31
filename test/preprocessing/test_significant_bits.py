# SPDX-License-Identifier: Apache-2.0
"""Bits in use of 16-bit samples, and mosaics in compressed images.

Kinds: a scale that is assumed, and a header that is not read. The oracle is OpenCV's demosaicing with the codes that
cv_bridge uses, and the 8-bit image that the samples were made from.
"""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mlesam_ros.messages import FrameReader
from mlesam_ros.preprocessing.base import Preprocessing
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.types import CAMERA, EVENT, DetectedProperty

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CODES = {  # cv_bridge/src/cv_bridge.cpp, getConversionCode
    "bayer_rggb": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg": cv2.COLOR_BayerGB2BGR,
}
SCENE = np.random.default_rng(3).integers(0, 256, (24, 32, 3), np.uint8)
SCENE[0, 0] = 255
MOSAIC = SCENE[..., 1].copy()


def header():
    return SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=1), frame_id="front")


def image(samples, encoding, big=False):
    data = samples.astype(samples.dtype.newbyteorder(">" if big else "<"))
    return SimpleNamespace(
        header=header(), height=len(samples), width=samples.shape[1], encoding=encoding, is_bigendian=big,
        step=data.nbytes // len(samples), data=data.tobytes(),
    )  # fmt: skip


def compressed(samples, kind, suffix):
    file = cv2.imencode(suffix, samples)[1]
    return SimpleNamespace(header=header(), format=kind, data=file.tobytes())


def rgb_of(message, kind, settings=None, modality=CAMERA):
    return to_rgb(FrameReader(modality, kind, settings or Preprocessing()).read(message).payload)


def demosaiced(pattern):
    return cv2.cvtColor(cv2.cvtColor(MOSAIC, CODES[pattern]), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("pattern", CODES)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("ending", ["png compressed ", "png compressed", "PNG"])
def test_bayer_file_is_demosaiced(pattern, bits, ending):
    samples = MOSAIC if bits == 8 else MOSAIC.astype(np.uint16) << (bits - 8)
    name = f"{pattern}{8 if bits == 8 else 16}"
    expected = demosaiced(pattern)
    np.testing.assert_array_equal(rgb_of(compressed(samples, f"{name}; {ending}", ".png"), COMPRESSED), expected)
    np.testing.assert_array_equal(rgb_of(image(samples, name), IMAGE), expected)


@pytest.mark.parametrize("pattern", CODES)
def test_bayer_jpeg_is_demosaiced(pattern):
    message = compressed(MOSAIC, f"{pattern}8; jpeg compressed ", ".jpg")
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = cv2.cvtColor(cv2.cvtColor(decoded, CODES[pattern]), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(rgb_of(message, COMPRESSED), expected)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("bayer_rggb8; jpeg compressed bgr8", ".jpg"),
        ("rgb8; jpeg compressed bgr8", ".jpg"),
        ("rgb8; png compressed bgr8", ".png"),
        ("jpeg", ".jpg"),
        ("png", ".png"),
        ("", ".png"),
    ],
)
def test_color_files_keep_colors(kind, suffix):
    """Also where the driver made color of a mosaic before it compressed: three channels are no mosaic."""
    message = compressed(SCENE[..., ::-1], kind, suffix)
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(rgb_of(message, COMPRESSED), decoded[..., ::-1])


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bgr16", "rgba16", "bgra16"])
def test_brightness_is_independent_of_bit_depth(bits, big, encoding):
    channels = {"mono16": MOSAIC, "rgb16": SCENE, "bgr16": SCENE[..., ::-1]}
    alpha = np.full((24, 32, 1), 255, np.uint8)
    channels |= {"rgba16": np.dstack([SCENE, alpha]), "bgra16": np.dstack([SCENE[..., ::-1], alpha])}
    samples = channels[encoding].astype(np.uint16) << (bits - 8)
    expected = np.repeat(MOSAIC[..., None], 3, 2) if encoding == "mono16" else SCENE
    np.testing.assert_array_equal(rgb_of(image(samples, encoding, big), IMAGE), expected)
    np.testing.assert_array_equal(rgb_of(image(samples, encoding, big), IMAGE, modality=EVENT), expected)


@pytest.mark.parametrize("bits", [12, 16])
def test_16_bit_files(bits):
    shifted = [a.astype(np.uint16) << (bits - 8) for a in (MOSAIC, SCENE[..., ::-1])]
    gray = rgb_of(compressed(shifted[0], "mono16; png compressed ", ".png"), COMPRESSED)
    np.testing.assert_array_equal(gray, np.repeat(MOSAIC[..., None], 3, 2))
    color = rgb_of(compressed(shifted[1], "rgb16; png compressed bgr16", ".png"), COMPRESSED)
    np.testing.assert_array_equal(color, SCENE)


@pytest.mark.parametrize("kind", [IMAGE, COMPRESSED])
def test_dark_images_keep_significant_bits(kind):
    """A dark image after a bright one is dark; in the order of a night that begins dark the bits rise once."""
    bright = MOSAIC.astype(np.uint16) << 4
    dark = bright >> 3

    def as_message(samples):
        return image(samples, "mono16") if kind == IMAGE else compressed(samples, "mono16; png compressed ", ".png")

    reader = FrameReader(CAMERA, kind)
    assert reader.found == {}
    first, second = (to_rgb(reader.read(as_message(samples)).payload)[..., 0] for samples in (bright, dark))
    np.testing.assert_array_equal(first, MOSAIC)
    np.testing.assert_array_equal(second, MOSAIC >> 3)
    assert reader.found == {"significant_bits": DetectedProperty("12 of 16, by the largest sample")}


def test_significant_bits_can_be_set():
    dark = (MOSAIC >> 4).astype(np.uint16) << 4
    settings = Preprocessing(significant_bits=12)
    np.testing.assert_array_equal(rgb_of(image(dark, "mono16"), IMAGE, settings)[..., 0], MOSAIC >> 4)
    reader = FrameReader(CAMERA, IMAGE, settings)
    reader.read(image(dark, "mono16"))
    assert reader.found == {"significant_bits": DetectedProperty("12 of 16, as set")}


def test_8_bit_images_have_no_significant_bits():
    reader = FrameReader(CAMERA, IMAGE)
    reader.read(image(SCENE, "rgb8"))
    assert reader.found == {}
