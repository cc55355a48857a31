# SPDX-License-Identifier: Apache-2.0
"""MUSES: raw files through live preprocessors, the SDK's projections in their units, the rules of any-modal papers."""

import json
import shutil

import cv2
import layouts
import numpy as np
import pytest
import torch

from mlesam_ros.errors import CalibrationError, ConfigError, DatasetError, LabelError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.types import CAMERA, EVENT, LIDAR, FrameSet, PointCloud, SensorFrame
from mlesam_training.datasets.muses import Muses, read_cloud, read_events

NAME = "REC0001_frame_000123"
INSIDE = "train/clear/day"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("muses")
    return root, layouts.muses(root)


@pytest.fixture(scope="module")
def raw(made):
    return Muses(made[0], "train")


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "copy")


def project_as_the_sdk(root, folder=INSIDE, suffix=".npz"):
    """Output of the SDK's script for the LiDAR, by its published formula: range from the sensor, intensity, z."""
    calibration = json.loads((root / "calib.json").read_text())
    rows = np.fromfile(root / f"lidar/{folder}/{NAME}_lidar.bin").reshape(-1, 6)
    rows = rows[np.linalg.norm(rows[:, :3], axis=1) >= 1]
    seen = np.array(calibration["extrinsics"]["lidar2rgb"]) @ np.c_[rows[:, :3], np.ones(len(rows))].T
    seen, rows = seen[:, seen[2] > 0], rows[seen[2] > 0]
    u, v, _ = np.array(calibration["intrinsics"]["rgb"]["K"]) @ seen[:3] / seen[2]
    inside = (u > 0) & (u < 1919) & (v > 0) & (v < 1079)
    picture = np.zeros((*layouts.MUSES_SIZE, 3), np.float32)
    values = np.c_[np.linalg.norm(rows[:, :3], axis=1), rows[:, 3], rows[:, 2]]
    picture[v[inside].astype(int), u[inside].astype(int)] = values[inside]
    path = root / f"projected_to_rgb/lidar/{folder}/{NAME}_lidar{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".npz":
        np.savez_compressed(path, picture)
    else:
        cv2.imwrite(str(path), ((picture + 100) * 150).astype(np.uint16))
    return picture


def test_rows_and_conditions(raw):
    assert raw.names == ["train/clear/day/" + NAME, "train/fog/night/" + NAME]
    assert raw.conditions == [{"weather": "clear", "time": "day"}, {"weather": "fog", "time": "night"}]
    assert raw.preprocessors == {m: DEFAULT_PREPROCESSORS[m] for m in (CAMERA, EVENT, LIDAR)}
    assert raw.sparse == {EVENT, LIDAR}


@pytest.mark.parametrize(("filters", "count"), [({"weather": "fog"}, 1), ({"time": "day"}, 1), ({}, 2)])
def test_filters(made, filters, count):
    assert len(Muses(made[0], "train", **filters)) == count


def test_raw_files_are_encoded_as_the_live_node_would(made, raw):
    _, moment = made
    images, labels = raw.sample(0, (CAMERA, EVENT, LIDAR))
    assert all(image.shape == (3, *layouts.MUSES_SIZE) for image in images.values())
    assert np.all(labels[:540] == 10) and np.all(labels[540:] == 255)
    rig = layouts.MUSES_CAMERA.rig
    rig.models[rig.camera_frame], old = (
        CameraModel(1920, 1080, np.array([[960, 0, 959.5], [0, 960, 539.5], [0, 0, 1.0]]), np.zeros(5), "plumb_bob"),
        rig.models[rig.camera_frame],
    )
    points = moment.frames[LIDAR].payload.points[["x", "y", "z", "intensity"]]
    frame = SensorFrame(LIDAR, moment.stamp, "lidar", PointCloud(points))
    live = encode(
        FrameSet(moment.stamp, LIDAR, {LIDAR: frame}, {LIDAR: 0}), rig, layouts.MUSES_SIZE,
        make_preprocessors({LIDAR: DEFAULT_PREPROCESSORS[LIDAR]}),
    )  # fmt: skip
    rig.models[rig.camera_frame] = old
    differing = np.mean(np.any(np.abs(images[LIDAR] - live[LIDAR]) > 1e-3, axis=0))
    assert np.mean(live[LIDAR].any(0)) > 0.02 and differing < 1e-4


def test_only_the_last_30_ms_of_events_count(made):
    root, moment = made
    frame = read_events(root / f"event_camera/{INSIDE}/{NAME}_event_camera.h5")
    events, truth = frame.payload, moment.frames[EVENT].payload
    assert len(events.t) == pytest.approx(len(truth.t), abs=3)
    assert not np.any((events.x == 5) & (events.y == 5))
    assert events.end - events.t.min() <= 30_000_000 and events.t.max() == events.end == 0
    assert np.all(np.diff(events.t) >= 0)


def test_projected_lidar_has_the_units_of_the_raw_one(copy, raw):
    picture = project_as_the_sdk(copy)
    dataset = Muses(copy, "train", [LIDAR], weather="clear")
    assert dataset.entries[0].files[LIDAR].suffix == ".npz", "what is projected is preferred"
    values = dataset.sample(0, [LIDAR])[0][LIDAR]
    mean, std = (np.array(s)[:, None, None] for s in dataset.normalization[LIDAR])
    seen = picture.any(2)
    assert np.allclose((values * std + mean)[:, seen], picture[seen].T, atol=1e-3)
    assert not values[:, ~seen].any()
    # Where the raw encoder shows the same point, intensity and height are the same numbers.
    direct = raw.sample(0, [LIDAR])[0][LIDAR][1:]
    both = seen & direct.any(0)
    assert both.sum() > 0.9 * seen.sum()
    assert np.mean(np.abs(direct - values[1:])[:, both].max(0) < 0.05) > 0.9


def test_sixteen_bit_pictures_hold_the_same_values(copy):
    picture = project_as_the_sdk(copy, suffix=".png")
    values = Muses(copy, "train", [LIDAR], weather="clear", source="projected").sample(0, [LIDAR])[0][LIDAR]
    mean, std = (np.array(s)[:, None, None] for s in Muses(copy, "train", [LIDAR]).normalization[LIDAR])
    seen = picture.any(2)
    assert np.allclose((values * std + mean)[:, seen], picture[seen].T, atol=1 / 150 + 1e-3)
    assert not values[:, ~seen].any(), "code 15000 is nothing"


def test_projected_events_are_counts_as_the_encoder_has_them(copy):
    counts = np.zeros((*layouts.MUSES_SIZE, 3), np.uint8)
    counts[7, 9] = (3, 200, 0)
    path = copy / f"projected_to_rgb/event_camera/{INSIDE}/{NAME}_event_camera.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, counts)
    values = Muses(copy, "train", [EVENT], weather="clear").sample(0, [EVENT])[0][EVENT]
    assert values[:, 7, 9].tolist() == [3, 10, 0] and np.count_nonzero(values) == 2


def test_radar_is_read_projected(copy):
    values = np.zeros((*layouts.MUSES_SIZE, 3), np.float32)
    values[5, 5] = (40, 20, 0)
    path = copy / f"projected_to_rgb/radar/{INSIDE}/{NAME}_radar.npy"
    path.parent.mkdir(parents=True)
    np.save(path, values)
    image = Muses(copy, "train", ["radar"], weather="clear").sample(0, ["radar"])[0]["radar"]
    assert np.allclose(image[:, 5, 5], [(40 - 4.004) / 14.607, (20 - 9.343) / 19.294, 0]) and not image[:, 0].any()
    with pytest.raises(DatasetError, match=r"projected_to_rgb/radar/train/fog/night/.*_radar.npz is missing"):
        Muses(copy, "train", ["radar"])


# The any-modal papers' protocol


@pytest.fixture
def any_modal(copy):
    for folder, level in (("lidar", 7), ("event_camera", 200)):
        for path in sorted((copy / "frame_camera").rglob("*.png")):
            inside = path.parent.relative_to(copy / "frame_camera")
            picture = np.full((540, 960, 3), level, np.uint8)
            layouts.png(copy / folder / inside / path.name.replace("frame_camera", folder), picture)
    return Muses(copy, "val", protocol="anyseg")


def test_anyseg_resizes_without_normalization_and_counts_unlabeled_as_road(any_modal):
    images, labels = any_modal.batch([0], (CAMERA, EVENT, LIDAR))
    assert labels.shape == (1, 1024, 1024) and set(labels.unique().tolist()) == {0, 10}
    assert all(image.shape == (1, 3, 1024, 1024) for image in images.values())
    assert torch.all(images[LIDAR] == 7) and torch.all(images[EVENT] == 200)
    assert images[CAMERA].max() > 200, "0 to 255"
    assert not any_modal.preprocessors, "no live encoder reads like that"


def test_official_protocol_keeps_size_and_labels(raw):
    counts = raw.survey()
    assert counts[0] == 0 and counts[10] == 2 * 540 * 1920


# Errors


def test_a_missing_raw_file_is_named(copy):
    victim = copy / f"lidar/{INSIDE}/{NAME}_lidar.bin"
    victim.unlink()
    with pytest.raises(DatasetError, match=f"lidar/{INSIDE}/{NAME}_lidar.bin is missing"):
        Muses(copy, "train")
    assert len(Muses(copy, "train", [CAMERA, EVENT])) == 2


def test_a_sweep_of_an_odd_length_is_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x" * 50)
    with pytest.raises(DatasetError, match=r"a\.bin has 50 bytes; .* 48 bytes"):
        read_cloud(tmp_path / "a.bin")


def test_events_that_are_no_events_are_named(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"x" * 50)
    with pytest.raises(DatasetError, match=r"a\.h5 cannot be read as HDF5 with events/x, y, t and p"):
        read_events(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("spoil", "error", "word"),
    [(lambda path: path.unlink(), DatasetError, "calib.json is missing"),
     (lambda path: path.write_text("{"), CalibrationError, "is not JSON"),
     (lambda path: path.write_text("{}"), CalibrationError, "intrinsics"),
     (lambda path: path.write_text(path.read_text().replace("lidar2rgb", "lidar2gnss")), CalibrationError, "lidar2rgb"),
     ],
)  # fmt: skip
def test_a_calibration_that_does_not_do(copy, spoil, error, word):
    spoil(copy / "calib.json")
    with pytest.raises(error, match=word):
        Muses(copy, "train")


def test_the_withheld_split_and_unknown_names(made):
    with pytest.raises(DatasetError, match="withholds"):
        Muses(made[0], "test")
    for options, word in (
        ({"weather": "sun"}, "snow"), ({"protocol": "any"}, "anyseg"), ({"source": "npz"}, "raw"),
        ({"protocol": None}, "anyseg"), ({"source": None}, "raw"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            Muses(made[0], "train", **options)
    with pytest.raises(DatasetError, match=r"train/snow/\*"):
        Muses(made[0], "train", weather="snow")


def test_labels_outside_the_space_are_named(copy):
    layouts.png(copy / f"gt_semantic/{INSIDE}/{NAME}_gt_labelTrainIds.png", np.full(layouts.MUSES_SIZE, 33, np.uint8))
    with pytest.raises(LabelError, match=r"gt_labelTrainIds.png has the ids \[33\]"):
        Muses(copy, "train", [CAMERA], weather="clear").survey()


def test_a_projection_of_another_size_is_named(copy):
    path = copy / f"projected_to_rgb/lidar/{INSIDE}/{NAME}_lidar.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, np.ones((540, 960, 3), np.float32))
    with pytest.raises(DatasetError, match=r"is 960x540; the labels .* are 1920x1080"):
        Muses(copy, "train", [LIDAR], weather="clear").sample(0, [LIDAR])
    np.savez_compressed(path, np.ones((540, 960), np.float32))
    with pytest.raises(DatasetError, match=r"shape \(540, 960\)"):
        Muses(copy, "train", [LIDAR], weather="clear").sample(0, [LIDAR])
