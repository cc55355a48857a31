# SPDX-License-Identifier: Apache-2.0
"""What every encoder owes: shape, plane, size, zeros where nothing was said, refusals in words."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import CalibrationError, ConfigError, ImageError, MlesamError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.types import (
    CAMERA,
    DEPTH,
    EVENT,
    LIDAR,
    MODALITIES,
    CompressedImage,
    EventWindow,
    FrameSet,
    PointCloud,
    RawImage,
    SensorFrame,
)

STAMP = 1_700_000_000_000_000_000
HEIGHT, WIDTH, FOCAL = 60, 80, 70.0
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
# x forward, y left, z up of the LiDAR → x right, y down, z forward of the camera.
OPTICAL_FROM_BODY = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


def camera(height=HEIGHT, width=WIDTH, focal=FOCAL, distortion=()):
    k = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return CameraModel(width, height, k, np.array(distortion, float), "plumb_bob" if distortion else "pinhole")


def rig(**others):
    """The label camera, a LiDAR half a meter above it, and other cameras: name → (model, camera_from_it)."""
    made = Rig("front")
    made.models["front"] = camera()
    made.tree.set("front", "lidar", Transform(OPTICAL_FROM_BODY, np.array([0.0, -0.5, 0.0])))
    for name, (model, pose) in others.items():
        made.models[name] = model
        made.tree.set("front", name, pose)
    return made


def picture(samples, encoding):
    data = np.ascontiguousarray(samples).view(np.uint8).reshape(len(samples), -1)
    return RawImage(samples.shape[0], samples.shape[1], encoding, data.shape[1], data.ravel())


def frame(modality, payload, frame_id="front"):
    return SensorFrame(modality, STAMP, frame_id, payload)


def events(x, y, polarity, height=HEIGHT, width=WIDTH):
    x, y = np.array(x, np.uint16), np.array(y, np.uint16)
    t = np.full(len(x), STAMP, np.int64)
    return EventWindow(width, height, x, y, t, np.array(polarity, bool), STAMP - 30_000_000, STAMP)


def cloud(*points):
    return PointCloud(np.array(list(points), POINT))


def raw(image, encoder):
    """Back to the encoder's own units; absent pixels come out as the mean."""
    mean, std = (np.array(s)[:, None, None] for s in encoder.normalization)
    return image * std + mean


def turned(degrees, axis):
    return cv2.Rodrigues(np.radians(degrees) * np.array(axis, float))[0]


# Every encoder


@pytest.fixture
def full_set():
    rng = np.random.default_rng(0)
    frames = {
        CAMERA: frame(CAMERA, picture(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), "rgb8")),
        DEPTH: frame(DEPTH, picture(rng.integers(0, 9000, (HEIGHT, WIDTH), np.uint16), "16UC1")),
        EVENT: frame(EVENT, events([5, 6], [7, 8], [1, 0])),
        LIDAR: frame(LIDAR, cloud((5, 0, 0, 100)), "lidar"),
    }
    return FrameSet(STAMP, CAMERA, frames, dict.fromkeys(frames, 0))


@pytest.mark.parametrize("size", [(30, 40), (60, 80), (128, 160), (256, 256)])
def test_set_is_converted_to_network_size(full_set, size):
    images = encode(full_set, rig(), size, make_preprocessors(DEFAULT_PREPROCESSORS))
    assert tuple(images) == MODALITIES
    for image in images.values():
        assert (image.shape, image.dtype, image.flags.c_contiguous) == ((3, *size), np.float32, True)
        assert np.isfinite(image).all()
        assert image.any()


def test_frames_without_preprocessor_are_skipped(full_set):
    images = encode(full_set, rig(), (8, 8), make_preprocessors({DEPTH: "log_depth"}))
    assert list(images) == [DEPTH]
    without = FrameSet(STAMP, CAMERA, {CAMERA: full_set.frames[CAMERA]}, {CAMERA: 0})
    assert list(encode(without, rig(), (8, 8), make_preprocessors(DEFAULT_PREPROCESSORS))) == [CAMERA]


def test_registry_names_equal_class_names():
    for name, cls in PREPROCESSORS.items():
        assert cls().name == name
        assert np.shape(cls.normalization) == (2, 3)
        assert min(cls.normalization[1]) > 0
    assert (
        {PREPROCESSORS[name].modality for name in DEFAULT_PREPROCESSORS.values()}
        == set(DEFAULT_PREPROCESSORS)
        == set(MODALITIES)
    )


def test_unknown_preprocessors_are_rejected():
    with pytest.raises(ConfigError, match=r"preprocessor 'log_dept' is unknown; .*did you mean log_depth"):
        make_preprocessors({DEPTH: "log_dept"})
    with pytest.raises(ConfigError, match="preprocessor rgb reads camera, not depth"):
        make_preprocessors({DEPTH: "rgb"})


@pytest.mark.parametrize("modality", MODALITIES)
def test_wrong_payload_is_rejected(modality):
    other = events([], [], []) if modality != EVENT else cloud()
    with pytest.raises(ImageError, match=f"a {modality} frame holds"):
        make_preprocessors(DEFAULT_PREPROCESSORS)[modality](frame(modality, other, "lidar"), rig(), (8, 8))


@pytest.mark.parametrize("modality", [DEPTH, EVENT, LIDAR])
def test_sensor_without_transform_is_rejected(full_set, modality):
    lost = frame(modality, full_set.frames[modality].payload, "nowhere")
    with pytest.raises(CalibrationError, match="'nowhere'"):
        make_preprocessors(DEFAULT_PREPROCESSORS)[modality](lost, rig(), (8, 8))


# Camera


def test_camera_images_are_normalized_as_imagenet():
    samples = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    image = PREPROCESSORS["rgb"]()(frame(CAMERA, picture(samples, "rgb8")), rig(), (HEIGHT, WIDTH))
    expected = (samples / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(image, expected.transpose(2, 0, 1), atol=1e-5)


def test_camera_images_are_averaged_over_areas():
    samples = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    encoder = PREPROCESSORS["rgb"]()
    image = encoder(frame(CAMERA, picture(samples, "rgb8")), rig(), (HEIGHT // 2, WIDTH // 2))
    expected = samples.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(raw(image, encoder) * 255, expected, atol=0.6)


def test_camera_image_of_other_size_than_calibration_is_rejected():
    small = picture(np.zeros((HEIGHT, WIDTH - 1, 3), np.uint8), "rgb8")
    with pytest.raises(CalibrationError, match="79x60 but its calibration is for 80x60"):
        PREPROCESSORS["rgb"]()(frame(CAMERA, small), rig(), (8, 8))


def test_camera_jpeg_is_converted():
    gray = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    jpeg = np.frombuffer(cv2.imencode(".jpg", gray)[1].tobytes(), np.uint8)
    encoder = PREPROCESSORS["rgb"]()
    image = encoder(frame(CAMERA, CompressedImage("jpeg", jpeg)), rig(), (10, 10))
    np.testing.assert_allclose(raw(image, encoder) * 255, 128, atol=2)


# Depth


def test_log_depth_of_registered_image():
    counts = np.random.default_rng(2).integers(0, 60000, (HEIGHT, WIDTH)).astype(np.uint16)
    counts[:20] = 0
    encoder = PREPROCESSORS["log_depth"]()
    image = encoder(frame(DEPTH, picture(counts, "16UC1")), rig(), (HEIGHT, WIDTH))
    assert not image[:, counts == 0].any()
    measured = counts > 100
    for channel in raw(image, encoder):
        np.testing.assert_allclose(channel[measured], np.log(counts[measured] / 1000), atol=1e-4)


def test_depth_is_clipped_to_limits():
    meters = np.full((HEIGHT, WIDTH), 0.01, np.float32)
    meters[:, 40:] = 5000
    encoder = PREPROCESSORS["log_depth"]()
    image = raw(encoder(frame(DEPTH, picture(meters, "32FC1")), rig(), (HEIGHT, WIDTH)), encoder)
    np.testing.assert_allclose(np.exp(image[0, 0, [0, 79]]), [0.1, 200], rtol=1e-4)


def test_registered_depth_of_other_aspect_is_rejected():
    with pytest.raises(CalibrationError, match="80x80 is in the frame 'front' of a camera with 80x60"):
        PREPROCESSORS["log_depth"]()(frame(DEPTH, picture(np.ones((80, 80), np.uint16), "16UC1")), rig(), (8, 8))


def test_depth_of_other_camera_keeps_wall_distance():
    """A wall at z = 4 m in front of the label camera; the depth camera stands 1 m closer and to the right of it."""
    mounting = {"depth": (camera(120, 160, 100.0), Transform(np.eye(3), np.array([0.1, 0.0, 1.0])))}
    wall = picture(np.full((120, 160), 3.0, np.float32), "32FC1")
    encoder = PREPROCESSORS["log_depth"]()
    image = encoder(frame(DEPTH, wall, "depth"), rig(**mounting), (HEIGHT, WIDTH))
    seen = image[0] != 0
    np.testing.assert_allclose(np.exp(raw(image, encoder)[0][seen]), 4.0, rtol=1e-5)
    # The wall's visible part: 160 px / 100 px · 3 m wide, 0.1 m to the right, at 70 px / 4 m.
    columns = np.flatnonzero(seen.any(axis=0))
    center = (WIDTH - 1) / 2
    assert columns[0] == pytest.approx(max(center + (0.1 - 2.4) * 70 / 4, 0), abs=1.5)
    assert seen[20:40, columns[0] + 1 : columns[-1]].all()


def test_depth_equals_reference_reprojection():
    rng = np.random.default_rng(4)
    pose = Transform(turned(4, (0.3, 1, 0.1)), np.array([0.05, -0.02, 0.01]))
    model = camera(40, 50, 45.0, (-0.05, 0.01, 0.001, -0.001))
    meters = rng.uniform(2, 6, (40, 50)).astype(np.float32)
    meters[rng.random((40, 50)) < 0.3] = np.nan
    image = PREPROCESSORS["log_depth"]()(
        frame(DEPTH, picture(meters, "32FC1"), "depth"), rig(depth=(model, pose)), (30, 40)
    )
    pixels = np.argwhere(np.isfinite(meters))
    flat = cv2.undistortPoints(pixels[:, None, ::-1].astype(float), model.K, model.D)[:, 0]
    z = meters[tuple(pixels.T)].astype(float)
    points = np.column_stack([flat * z[:, None], z]) @ pose.rotation.T + pose.translation
    k = camera().scaled(30, 40).K
    expected: dict = {}
    for x, y, depth in points:
        col, row = np.floor(k[0, 0] * x / depth + k[0, 2] + 0.5), np.floor(k[1, 1] * y / depth + k[1, 2] + 0.5)
        if 0 <= row < 30 and 0 <= col < 40:
            distance = np.linalg.norm((x, y, depth))
            expected[row, col] = min(expected.get((row, col), (np.inf, 0)), (distance, depth))
    found = raw(image, PREPROCESSORS["log_depth"])[0]
    agree = sum(abs(np.exp(found[int(r), int(c)]) - depth) < 0.01 for (r, c), (_, depth) in expected.items())
    assert agree >= 0.97 * len(expected)  # a point on a pixel's edge may round to either side
    assert abs(np.count_nonzero(image[0]) - len(expected)) <= 0.03 * len(expected)


# LiDAR


def test_point_has_range_intensity_and_height():
    encoder = PREPROCESSORS["range_intensity_height"]()
    image = encoder(
        frame(LIDAR, cloud((4, 0, -0.5, 80), (-4, 0, 0, 9), (np.nan, 0, 0, 9)), "lidar"), rig(), (HEIGHT, WIDTH)
    )
    rows, cols = np.nonzero(image.any(axis=0))
    # Straight ahead, at the camera's height: the principal point, in a 3x3 block.
    assert (sorted(set(rows)), sorted(set(cols))) == ([29, 30, 31], [39, 40, 41])
    np.testing.assert_allclose(raw(image, encoder)[:, 30, 40], [4, 80, -0.5], atol=1e-4)


def test_nearest_point_of_pixel_wins():
    encoder = PREPROCESSORS["range_intensity_height"]()
    image = encoder(frame(LIDAR, cloud((8, 0, -0.5, 1), (4, 0, -0.5, 2), (9, 0, -0.5, 3)), "lidar"), rig(), (6, 8))
    assert raw(image, encoder)[1][image[1] != 0].tolist() == pytest.approx([2] * np.count_nonzero(image[1]))


def test_lidar_options():
    cls = PREPROCESSORS["range_intensity_height"]
    one = frame(LIDAR, cloud((4, 0, -0.5, 0.5)), "lidar")
    assert np.count_nonzero(cls(dilation=0)(one, rig(), (HEIGHT, WIDTH)).any(axis=0)) == 1
    assert raw(cls()(one, rig(), (HEIGHT, WIDTH)), cls)[1, 30, 40] == pytest.approx(127.5, abs=1e-3)
    assert not cls(near=5.0)(one, rig(), (HEIGHT, WIDTH)).any()


def test_empty_sweep_gives_empty_image():
    assert not PREPROCESSORS["range_intensity_height"]()(frame(LIDAR, cloud(), "lidar"), rig(), (6, 8)).any()


def test_recorded_sweep_is_projected_as_by_opencv(shared_data):
    o3d = pytest.importorskip("open3d")
    folder = shared_data / "camera_lidar" / "opencalib_ours_1"
    points = o3d.t.io.read_point_cloud(str(folder / "calib.pcd")).point
    columns = [*points.positions.numpy().T, points["intensity"].numpy()[:, 0]]
    street, model = _read_calibration(folder / "calib.txt")
    sweep = np.empty(len(columns[0]), POINT)
    for name, column in zip(["x", "y", "z", "intensity"], columns, strict=True):
        sweep[name] = column
    encoder = PREPROCESSORS["range_intensity_height"](dilation=0, near=1.0)
    image = encoder(frame(LIDAR, PointCloud(sweep), "lidar"), street, (model.height, model.width))
    seen = street.extrinsic("lidar").apply(np.column_stack(columns[:3]).astype(float))
    seen = seen[(seen[:, 2] > 1) & (np.abs(seen[:, 0]) < 0.6 * seen[:, 2]) & (np.abs(seen[:, 1]) < 0.4 * seen[:, 2])]
    uv = np.floor(cv2.projectPoints(seen, np.zeros(3), np.zeros(3), model.K, model.D)[0][:, 0] + 0.5).astype(int)
    uv = np.unique(uv[(uv >= 0).all(axis=1) & (uv < (model.width, model.height)).all(axis=1)], axis=0)
    assert len(uv) > 10_000
    shown = image.any(axis=0)
    assert shown[uv[:, 1], uv[:, 0]].all()
    assert shown.sum() == len(uv)
    assert np.abs(image[:, shown].mean(axis=1)).max() < 1
    assert 0.3 < image[:, shown].std(axis=1).min() < image[:, shown].std(axis=1).max() < 2


def _read_calibration(path):
    rows = {}
    for line in path.read_text().splitlines():
        name, _, numbers = line.partition(":")
        rows[name.strip()] = np.array(numbers.split(), float)
    model = CameraModel(1920, 1200, rows["K"].reshape(3, 3), rows["D"], "plumb_bob")
    made = Rig("front", {"front": model})
    pose = rows["T"].reshape(-1, 4)
    made.tree.set("front", "lidar", Transform(pose[:3, :3], pose[:3, 3]))
    return made, model


# Events


def test_events_are_counted_per_polarity():
    x, y, polarity = [3, 3, 3, 79, 0], [2, 2, 2, 59, 0], [1, 1, 0, 0, 1]
    image = PREPROCESSORS["event_counts"]()(frame(EVENT, events(x, y, polarity)), rig(), (HEIGHT, WIDTH))
    assert image[:, 2, 3].tolist() == [2, 1, 0]
    assert image[:, 59, 79].tolist() == [0, 1, 0]
    assert image[:, 0, 0].tolist() == [1, 0, 0]
    assert image.sum() == 5


@given(st.lists(st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.booleans()), max_size=60))
@settings(deadline=None)
def test_counts_equal_reference_loop(drawn):
    x, y, polarity = ([e[i] for e in drawn] for i in range(3))
    expected = np.zeros((HEIGHT, WIDTH, 2))
    np.add.at(expected, (y, x, [1 - p for p in polarity]), 1)
    image = PREPROCESSORS["event_counts"](most=1e9)(frame(EVENT, events(x, y, polarity)), rig(), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(image[:2].transpose(1, 2, 0), expected)


def test_counts_are_averaged_or_repeated_by_network_size():
    one = frame(EVENT, events([10], [20], [1]))
    assert PREPROCESSORS["event_counts"]()(one, rig(), (HEIGHT // 2, WIDTH // 2))[0, 10, 5] == 0.25
    finer = PREPROCESSORS["event_counts"]()(one, rig(), (2 * HEIGHT, 2 * WIDTH))
    assert finer[0, 40:42, 20:22].tolist() == [[1, 1], [1, 1]]


def test_counts_are_limited():
    image = PREPROCESSORS["event_counts"]()(
        frame(EVENT, events([1] * 500, [1] * 500, [1] * 500)), rig(), (HEIGHT, WIDTH)
    )
    assert image.max() == 10


def test_no_events_give_empty_image():
    assert not PREPROCESSORS["event_counts"]()(frame(EVENT, events([], [], [])), rig(), (6, 8)).any()


def test_event_outside_sensor_is_rejected():
    with pytest.raises(MlesamError, match="column 80 and row 3; the sensor has 80x60"):
        PREPROCESSORS["event_counts"]()(frame(EVENT, events([80], [3], [1])), rig(), (6, 8))


def test_camera_with_same_lens_needs_no_warp():
    """Its own frame and twice the resolution, but the same view: the numbers are those of plain shrinking."""
    shared = rig(dvs=(camera(2 * HEIGHT, 2 * WIDTH, 2 * FOCAL), Transform.identity()))
    rng = np.random.default_rng(5)
    x, y, polarity = rng.integers(0, 2 * WIDTH, 900), rng.integers(0, 2 * HEIGHT, 900), rng.random(900) < 0.5
    payload = events(x, y, polarity, 2 * HEIGHT, 2 * WIDTH)
    apart = PREPROCESSORS["event_counts"]()(frame(EVENT, payload, "dvs"), shared, (HEIGHT, WIDTH))
    same = PREPROCESSORS["event_counts"]()(frame(EVENT, payload), shared, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(apart, same)


@pytest.mark.parametrize("size", [(30, 40), (60, 80), (120, 160)])
def test_far_landmark_is_warped_to_label_camera(size):
    """Another lens, turned by some degrees: events at the landmark's pixel there show up at its pixel here."""
    pose = Transform(turned(6, (0.2, 1, -0.3)), np.array([0.1, 0.0, 0.0]))
    model = camera(100, 140, 90.0, (-0.1, 0.02, 0.001, 0.0))
    apart = rig(dvs=(model, pose))
    landmark = np.array([[0.1, -0.05, 1.0]]) * 1e5
    [(u, v)], _ = model.project(pose.inverse().apply(landmark))
    x, y = np.meshgrid(np.arange(-1, 2) + round(u), np.arange(-1, 2) + round(v))
    payload = events(x.ravel(), y.ravel(), [1] * 9, 100, 140)
    image = PREPROCESSORS["event_counts"]()(frame(EVENT, payload, "dvs"), apart, size)[0]
    rows, cols = np.indices(size)
    [(at_u, at_v)], _ = apart.camera.scaled(*size).project(landmark)
    assert (image * cols).sum() / image.sum() == pytest.approx(at_u, abs=0.6)
    assert (image * rows).sum() / image.sum() == pytest.approx(at_v, abs=0.6)


def test_events_outside_view_are_absent():
    apart = rig(dvs=(camera(), Transform(turned(25, (0, 1, 0)), np.zeros(3))))
    everywhere = np.indices((HEIGHT, WIDTH)).reshape(2, -1)
    payload = events(everywhere[1], everywhere[0], [1] * (HEIGHT * WIDTH))
    image = PREPROCESSORS["event_counts"]()(frame(EVENT, payload, "dvs"), apart, (HEIGHT, WIDTH))[0]
    assert not image[:, :20].any()
    assert image[20:40, 60:].min() == pytest.approx(1)


def test_events_of_other_size_than_calibration_are_rejected():
    with pytest.raises(CalibrationError, match="event image is 80x60 but its calibration is for 100x60"):
        PREPROCESSORS["event_counts"]()(
            frame(EVENT, events([], [], []), "dvs"), rig(dvs=(camera(60, 100), Transform.identity())), (6, 8)
        )


def test_rendered_event_image_is_counted():
    samples = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    samples[2, 3] = 0, 0, 255
    samples[4, 5] = 255, 0, 0
    encoder = PREPROCESSORS["event_counts"]()
    image = encoder(frame(EVENT, picture(samples, "rgb8")), rig(), (HEIGHT, WIDTH))
    live = encoder(frame(EVENT, events([3, 5], [2, 4], [1, 0])), rig(), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(image, live)
    swapped = PREPROCESSORS["event_counts"](brighter=0, darker=2)(
        frame(EVENT, picture(samples, "rgb8")), rig(), (HEIGHT, WIDTH)
    )
    np.testing.assert_array_equal(swapped[:2], live[1::-1])
    gray = encoder(frame(EVENT, picture(samples[..., 2], "mono8")), rig(), (HEIGHT, WIDTH))
    assert gray[:, 2, 3].tolist() == [1, 1, 0]


# Anything


FRAME_ID = st.sampled_from(["front", "lidar", "dvs", "nowhere", ""])
PAYLOAD = st.one_of(
    st.builds(
        lambda h, w, e, extra, b: RawImage(h, w, e, w * extra, np.resize(np.frombuffer(b, np.uint8), h * w * extra)),
        st.integers(0, 4) | st.just(HEIGHT),
        st.integers(0, 4) | st.just(WIDTH),
        st.sampled_from(["rgb8", "mono8", "16UC1", "32FC1", "bayer_rggb8", "yuyv", "?"]),
        st.integers(1, 4),
        st.binary(min_size=1, max_size=64),
    ),
    st.builds(
        CompressedImage,
        st.sampled_from(["jpeg", "16UC1; compressedDepth png"]),
        st.just(np.arange(40, dtype=np.uint8)),
    ),
    st.binary(max_size=96).map(lambda b: PointCloud(np.frombuffer(b[: len(b) // 16 * 16], POINT))),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=5).map(
        lambda xy: events([a for a, _ in xy], [b for _, b in xy], [1] * len(xy))
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODALITIES), PAYLOAD, FRAME_ID, st.sampled_from([(6, 8), (60, 80), (13, 7)]))
def test_any_payload_gives_finite_image_or_error(modality, payload, frame_id, size):
    apart = rig(dvs=(camera(), Transform(turned(5, (0, 1, 0)), np.zeros(3))))
    try:
        image = PREPROCESSORS[DEFAULT_PREPROCESSORS[modality]]()(frame(modality, payload, frame_id), apart, size)
    except MlesamError:
        return
    assert image.shape == (3, *size)
    assert np.isfinite(image).all()


@pytest.mark.parametrize(
    ("modality", "encoder", "setting", "value"),
    [
        (EVENT, "event_counts", "most", "x"),
        (EVENT, "event_counts", "most", None),
        (EVENT, "event_counts", "most", 0),
        (EVENT, "event_counts", "window", float("nan")),
        (EVENT, "event_counts", "window", 10**400),
        (EVENT, "event_counts", "window", 60.0),
        (EVENT, "event_counts", "brighter", 3),
        (EVENT, "event_counts", "darker", 1.5),
        (EVENT, "time_surface", "decay", [0.01]),
        (LIDAR, "range_intensity_height", "dilation", -1),
        (LIDAR, "range_intensity_height", "dilation", True),
        (LIDAR, "range_intensity_height", "near", -1.0),
        (LIDAR, "deliver_lidar", "shows", 3),
    ],
)
def test_invalid_image_setting_is_rejected(modality, encoder, setting, value):
    """Kind: settings of a damaged checkpoint. They are refused when the encoder is made, not at its first frame."""
    with pytest.raises(ConfigError, match=setting):
        make_preprocessors({modality: encoder}, {modality: {setting: value}})
