# SPDX-License-Identifier: Apache-2.0
"""Every encoding against OpenCV and arithmetic, real depth, and pictures that are not what they claim."""

import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import ImageError, MlesamError
from mlesam_ros.preprocessing.images import CAMERA_LAYOUTS, DEPTH_LAYOUTS, parse_depth, to_rgb
from mlesam_ros.types import CompressedImage, RawImage

RGB = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)


def picture(samples, encoding, padding=0, big=False):
    """As a driver would send it: rows padded with rubbish, samples in the byte order announced."""
    order = ">" if big else "<"
    rows = np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder(order))).view(np.uint8)
    rows = rows.reshape(len(samples), -1)
    rows = np.hstack([rows, np.full((len(rows), padding), 0xAB, np.uint8)])
    return RawImage(*samples.shape[:2], encoding, rows.shape[1], rows.ravel(), big)


def encoded(flag):
    return cv2.cvtColor(RGB, flag)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "samples"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("8UC3", RGB[..., ::-1]),
        ("rgba8", encoded(cv2.COLOR_RGB2RGBA)),
        ("bgra8", encoded(cv2.COLOR_RGB2BGRA)),
        ("8UC4", encoded(cv2.COLOR_RGB2BGRA)),
    ],
)
def test_color_samples_are_unchanged(encoding, samples, padding):
    np.testing.assert_array_equal(to_rgb(picture(samples, encoding, padding)), RGB)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
def test_16_bit_samples_keep_upper_byte(big, padding):
    deep = RGB.astype(np.uint16) * 256 + 77
    np.testing.assert_array_equal(to_rgb(picture(deep, "rgb16", padding, big)), RGB)
    np.testing.assert_array_equal(to_rgb(picture(deep[..., ::-1], "bgr16", padding, big)), RGB)
    np.testing.assert_array_equal(to_rgb(picture(deep[..., 0], "mono16", padding, big))[..., 2], RGB[..., 0])


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_gray_fills_all_channels(encoding):
    np.testing.assert_array_equal(to_rgb(picture(RGB[..., 0], encoding)), np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("pattern", "red", "blue"),
    [("rggb", (0, 0), (1, 1)), ("bggr", (1, 1), (0, 0)), ("gbrg", (1, 0), (0, 1)), ("grbg", (0, 1), (1, 0))],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_mosaic_of_plain_color(pattern, red, blue, bits):
    """The name says which color filter sits on the first two pixels of the first two rows."""
    mosaic = np.full((8, 8), 120, np.uint16)
    mosaic[red[0] :: 2, red[1] :: 2] = 200
    mosaic[blue[0] :: 2, blue[1] :: 2] = 40
    samples = mosaic.astype(np.uint8) if bits == 8 else mosaic * 256
    inner = to_rgb(picture(samples, f"bayer_{pattern}{bits}"))[2:-2, 2:-2]
    assert np.unique(inner.reshape(-1, 3), axis=0).tolist() == [[200, 120, 40]]


@pytest.mark.parametrize(
    ("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")]
)
def test_yuv_of_plain_color(encoding, order):
    """BT.601 studio range: Y 16-235, U and V around 128."""
    y, u, v = 145, 54, 34  # (0, 255, 0), green
    pair = {"uyvy": [u, y, v, y], "yuyv": [y, u, y, v]}[order]
    samples = np.tile(np.array(pair, np.uint8), (2, 2)).reshape(2, 4, 2)
    np.testing.assert_allclose(to_rgb(picture(samples, encoding))[0, 0], [0, 255, 0], atol=3)


def planar(encoding, luma, chroma, padding=0):
    """Rows of brightness, then rows of color pairs, each padded to the same step (twice as wide in nv24)."""

    def padded(rows, to):
        return np.hstack([rows, np.full((len(rows), to - rows.shape[1]), 0xAB, np.uint8)])

    step = luma.shape[1] + padding
    planes = [padded(luma, step), padded(chroma.reshape(len(chroma), -1), 2 * step if encoding == "nv24" else step)]
    return RawImage(*luma.shape, encoding, step, np.concatenate([plane.ravel() for plane in planes]))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_planar_yuv_of_plain_colors(encoding, padding):
    """Left half green, right half red, in BT.601."""
    luma = np.repeat(np.array([[145, 145, 81, 81]], np.uint8), 4, axis=0)
    colors = np.array([[54, 34], [90, 240]], np.uint8)[:, :: -1 if encoding == "nv21" else 1]
    across, down = (2, 4) if encoding == "nv24" else (1, 2)
    chroma = np.repeat(np.repeat(colors[None], across, axis=1), down, axis=0)
    rgb = to_rgb(planar(encoding, luma, chroma, padding)).astype(int)
    np.testing.assert_allclose(rgb[:, :2], np.broadcast_to([0, 255, 0], (4, 2, 3)), atol=3)
    np.testing.assert_allclose(rgb[:, 2:], np.broadcast_to([255, 0, 0], (4, 2, 3)), atol=3)


def test_nv24_equals_opencv_where_color_is_even():
    rng = np.random.default_rng(0)
    luma, half = rng.integers(16, 236, (8, 10), np.uint8), rng.integers(0, 256, (4, 5, 2), np.uint8)
    full = np.repeat(np.repeat(half, 2, axis=0), 2, axis=1)
    ours, theirs = to_rgb(planar("nv24", luma, full)), to_rgb(planar("nv12", luma, half))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_every_listed_encoding_is_read():
    for encoding, layout in CAMERA_LAYOUTS.items():
        shape = (4, 6) if layout.channels == 1 else (4, 6, layout.channels)
        rows = np.zeros((int(4 * layout.lines), *shape[1:]), layout.dtype)
        source = picture(rows, encoding, 3)
        rgb = to_rgb(RawImage(4, *shape[1:2], encoding, source.step, source.data))
        assert (rgb.shape, rgb.dtype) == ((4, 6, 3), np.uint8)
    for encoding, layout in DEPTH_LAYOUTS.items():
        assert np.isnan(parse_depth(picture(np.zeros((4, 6), layout.dtype), encoding, 3)).meters()).all()


def test_rgb8_and_samples_are_views():
    for padding in (0, 7):
        source = picture(RGB, "rgb8", padding)
        assert np.shares_memory(to_rgb(source), source.data)
    source = picture(RGB[..., 0].astype(np.uint16), "16UC1", 2)
    assert np.shares_memory(parse_depth(source).counts, source.data)


def test_read_only_bytes_are_read():
    for encoding, samples in (("bgr8", RGB), ("mono8", RGB[..., 0])):
        source = picture(samples, encoding)
        frozen = RawImage(6, 8, encoding, source.step, np.frombuffer(source.data.tobytes(), np.uint8))
        np.testing.assert_array_equal(to_rgb(frozen), to_rgb(source))


def compressed(kind, samples, *options):
    return np.frombuffer(cv2.imencode(kind, samples, options)[1].tobytes(), np.uint8)


def test_compressed_images():
    png = CompressedImage("rgb8; png compressed bgr8", compressed(".png", RGB[..., ::-1]))
    np.testing.assert_array_equal(to_rgb(png), RGB)
    smooth = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_CUBIC)
    jpeg = CompressedImage("jpeg", compressed(".jpg", smooth[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 100))
    assert np.abs(to_rgb(jpeg).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
def test_millimeters(encoding, big, padding):
    depth = parse_depth(picture(np.array([[0, 1, 1000], [65535, 2500, 0]], np.uint16), encoding, padding, big)).meters()
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[np.nan, 0.001, 1], [65.535, 2.5, np.nan]], rtol=1e-6)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
def test_meters(big, padding):
    given_meters = np.array([[np.nan, 1.5, np.inf], [-np.inf, 0.0, -2.0]], np.float32)
    depth = parse_depth(picture(given_meters, "32FC1", padding, big)).meters()
    np.testing.assert_array_equal(depth, np.float32([[np.nan, 1.5, np.nan], [np.nan] * 3]))


def test_resizing_takes_nearest_depth():
    counts = np.arange(24, dtype=np.uint16).reshape(4, 6) + 1
    samples = parse_depth(replace(picture(counts, "16UC1"), unit=1.0))
    assert samples.size == (4, 6)
    assert samples.meters((2, 2)).tolist() == [[8, 11], [20, 23]]
    assert samples.meters((8, 12))[::2, ::2].tolist() == counts.tolist()


def test_compressed_depth():
    counts = np.array([[0, 1500], [65535, 20]], np.uint16)
    png = compressed(".png", counts)
    plain = CompressedImage("16UC1; compressedDepth png", np.concatenate([np.zeros(12, np.uint8), png]))
    expected = [[np.nan, 1.5], [65.535, 0.02]]
    np.testing.assert_allclose(parse_depth(plain).meters(), expected, rtol=1e-6)
    np.testing.assert_allclose(
        parse_depth(CompressedImage("16UC1; png compressed ", png)).meters(), expected, rtol=1e-6
    )


def test_compressed_inverse_depth():
    """depth = a / (count - b), what compressed_depth_image_transport does to 32FC1."""
    a, b = 10100.0, -1009.0
    meters = np.array([[2.0, 5.0], [9.5, 0.0]])
    counts = np.where(meters > 0, np.round(a / np.maximum(meters, 0.1) + b), 0).astype(np.uint16)
    header = np.frombuffer(struct.pack("<iff", 0, a, b), np.uint8)
    source = CompressedImage("32FC1; compressedDepth png", np.concatenate([header, compressed(".png", counts)]))
    np.testing.assert_allclose(parse_depth(source).meters(), [[2, 5], [9.5, np.nan]], rtol=1e-3)


def test_real_depth(shared_data):
    """The facts of the TUM pair: 5000 units per meter, a third of holes, 0.97 to 10.5 m over both."""
    nearest, farthest = [], []
    for name in ("1_depth.png", "2_depth.png"):
        counts = cv2.imread(str(shared_data / "rgbd_tum" / name), cv2.IMREAD_UNCHANGED)
        depth = parse_depth(replace(picture(counts, "16UC1"), unit=1 / 5000)).meters()
        np.testing.assert_array_equal(np.isnan(depth), counts == 0)
        assert np.isnan(depth).mean() == pytest.approx(0.33, abs=0.03)
        nearest.append(np.nanmin(depth))
        farthest.append(np.nanmax(depth))
        as_millimeters = parse_depth(picture((counts // 5).astype(np.uint16), "16UC1")).meters()
        np.testing.assert_allclose(as_millimeters, depth, atol=1e-3)
    assert (min(nearest), max(farthest)) == (pytest.approx(0.97, abs=0.01), pytest.approx(10.5, abs=0.1))


def bomb():
    png = compressed(".png", RGB).copy()
    png[16:24] = np.frombuffer(struct.pack(">II", 40_000, 40_000), np.uint8)
    return png


def broken(**change):
    fields = {"height": 2, "width": 3, "encoding": "rgb8", "step": 9, "data": np.zeros(18, np.uint8)}
    return RawImage(**(fields | change))


@pytest.mark.parametrize("step", [0, 8, 12, 2**32 - 1])
def test_wrong_step_is_ignored_if_data_is_complete(step):
    """The kind: redundant fields."""
    data = np.arange(18, dtype=np.uint8)
    np.testing.assert_array_equal(to_rgb(broken(step=step, data=data)), data.reshape(2, 3, 3))
    depth = RawImage(2, 3, "16UC1", step, np.arange(1000, 7000, 1000, dtype="<u2").view(np.uint8))
    np.testing.assert_allclose(parse_depth(depth).meters((2, 3)), [[1, 2, 3], [4, 5, 6]], rtol=1e-6)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (broken(height=0), "image is 3x0 pixels"),
        (broken(step=8, data=np.zeros(16, np.uint8)), "step is 8 bytes; 3 pixels of rgb8 need at least 9"),
        (broken(data=np.zeros(17, np.uint8)), "data has 17 bytes; 2 rows with a step of 9 make 18"),
        (broken(data=np.zeros(19, np.uint8)), "data has 19 bytes"),
        (broken(encoding="rbg8"), "'rbg8' is not a camera image; did you mean rgb8"),
        (broken(encoding=""), "accepted are rgb8, bgr8"),
        (broken(encoding="nv12", height=3, width=2, step=2, data=np.zeros(9, np.uint8)), "nv12 needs an even height"),
        (broken(encoding="nv12", height=2, width=3, step=3, data=np.zeros(9, np.uint8)), "YUV needs an even width"),
        (broken(encoding="nv24", step=3, data=np.zeros(12, np.uint8)), "6 rows with a step of 3 make 18"),
        (CompressedImage("png", bomb()), "declares 40000x40000 pixels"),
        (broken(encoding="uyvy", step=6, data=np.zeros(12, np.uint8)), "uyvy needs an even width"),
        (
            CompressedImage("jpeg", np.arange(20, dtype=np.uint8)),
            "20 bytes starting with 00 01 02 03 is neither JPEG",
        ),
        (CompressedImage("jpeg", np.zeros(0, np.uint8)), "0 bytes starting with nothing"),
        (CompressedImage("16UC1; compressedDepth png", np.zeros(0, np.uint8)), "is that of a depth image"),
    ],
)
def test_invalid_camera_image_is_rejected(source, message):
    with pytest.raises(ImageError, match=message):
        to_rgb(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (broken(), "'rgb8' is not a depth image"),
        (broken(encoding="16UC"), "did you mean 16UC1"),
        (CompressedImage("16UC1; compressedDepth png", np.zeros(5, np.uint8)), "header has 12"),
        (CompressedImage("32FC1; compressedDepth png", np.zeros(50, np.uint8)), "the first positive"),
        (CompressedImage("png", compressed(".png", RGB)), "uint8 of shape"),
    ],
)
def test_invalid_depth_image_is_rejected(source, message):
    with pytest.raises(ImageError, match=message):
        parse_depth(source).meters()


def test_truncated_file_is_rejected_or_partly_decoded():
    png = compressed(".png", RGB)
    for length in range(len(png)):
        try:
            assert to_rgb(CompressedImage("png", png[:length])).shape == RGB.shape
        except ImageError:
            continue


SIDE = st.integers(-1, 6) | st.integers(0, 2**32 - 1)
PICTURE = st.builds(
    RawImage,
    SIDE,
    SIDE,
    st.sampled_from([*CAMERA_LAYOUTS, *DEPTH_LAYOUTS]) | st.text(max_size=6),
    st.integers(0, 40) | st.integers(0, 2**32 - 1),
    st.binary(max_size=120).map(lambda b: np.frombuffer(b, np.uint8)),
    st.booleans(),
)


@st.composite
def fitting(draw):
    """A picture whose numbers fit, with any bytes."""
    encoding, layout = draw(st.sampled_from([*CAMERA_LAYOUTS.items(), *DEPTH_LAYOUTS.items()]))
    height, width, padding = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(0, 3))
    step = width * layout.channels * np.dtype(layout.dtype).itemsize + padding
    size = int(height * layout.lines) * step
    data = draw(st.binary(min_size=size, max_size=size))
    return RawImage(height, width, encoding, step, np.frombuffer(data, np.uint8), draw(st.booleans()))


FILE = st.builds(
    CompressedImage,
    st.sampled_from(["jpeg", "png", "16UC1; compressedDepth png", "32FC1; compressedDepth png"]) | st.text(max_size=9),
    st.binary(max_size=80).map(lambda b: np.frombuffer(b, np.uint8)),
)


@settings(max_examples=500, deadline=None)
@given(PICTURE | fitting() | FILE)
def test_any_bytes_are_decoded_or_rejected(source):
    for read, channels in ((to_rgb, (3,)), (lambda image: parse_depth(image).meters(), ())):
        try:
            result = read(source)
        except MlesamError:
            continue
        assert result.shape == (source.height, source.width, *channels)
        if not channels:
            assert not (result <= 0).any()


@pytest.mark.parametrize("step", [0, 3, 5000])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_wrong_step_of_planar_image_is_ignored_if_data_is_complete(encoding, step):
    """Kind: redundant fields. Gray in every format: the brightness is the picture."""
    height, width = 4, 6
    luma = np.arange(100, 124, dtype=np.uint8).reshape(height, width)
    chroma = np.full(height * width * 2 if encoding == "nv24" else height * width // 2, 128, np.uint8)
    data = np.concatenate([luma.ravel(), chroma])
    wrong = to_rgb(RawImage(height, width, encoding, step, data))
    assert np.array_equal(wrong, to_rgb(RawImage(height, width, encoding, width, data)))
    assert np.ptp(wrong.astype(int), axis=2).max() <= 1 and (np.diff(wrong[..., 0].ravel().astype(int)) >= 0).all()
