# SPDX-License-Identifier: Apache-2.0
"""DELIVER: the street in its layout equals the simulation; errors name file and value."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from mlesam_ros.errors import ConfigError, DatasetError, LabelError
from mlesam_ros.preprocessing.preprocessors import PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.simulation.export import write_deliver_scene
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, FrameSet
from mlesam_training.datasets import open_dataset
from mlesam_training.datasets.deliver import Deliver

SIZE = (64, 80)
SCENES = [("sun", "none", "val"), ("rain", "eventlowres", "val"), ("night", "motionblur", "train")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "DELIVER"
    for weather, fault, split in SCENES:
        write_deliver_scene(root, World(5, weather, SIZE, fault=fault), split, [0, 7])
    return root


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


@pytest.fixture(scope="module")
def val(written):
    return Deliver(written, "val")


def test_rows_have_paths_and_conditions(val, written):
    assert val.names == [
        "rain/val/MAP_5_point1_eventlowres/000000", "rain/val/MAP_5_point1_eventlowres/000007",
        "sun/val/MAP_5_point1/000000", "sun/val/MAP_5_point1/000007",
    ]  # fmt: skip
    assert val.conditions[0] == {"weather": "rain", "fault": "eventlowres"}
    assert val.conditions[2] == {"weather": "sun", "fault": "none"}
    assert (written / "hha/sun/val/MAP_5_point1/000007_depth_front.png").exists()
    assert val.space.name == "deliver" and val.modalities == MODALITIES


@pytest.mark.parametrize(
    ("filters", "count"),
    [({"weather": "rain"}, 2), ({"fault": "none"}, 2), ({"fault": "eventlowres"}, 2), ({"weather": "sun"}, 2)],
)
def test_filters(written, filters, count):
    chosen = Deliver(written, "val", **filters)
    assert len(chosen) == count
    assert all(filters.items() <= dict(condition).items() for condition in chosen.conditions)


def test_row_equals_the_live_preprocessors(val):
    world = World(5, "sun", SIZE)
    moment = world.sample(7)
    images, labels = val.sample(3, MODALITIES)
    assert np.array_equal(labels, moment.labels)
    frame_set = FrameSet(moment.stamp, CAMERA, moment.frames, dict.fromkeys(moment.frames, 0))
    expected = encode(frame_set, world.rig, SIZE, make_preprocessors(val.preprocessors))
    for modality in MODALITIES:
        assert np.allclose(images[modality], expected[modality], atol=1e-6)
    assert set(np.unique(images[EVENT])) == {0, 1}, "events are drawn, not counted"


def test_normalization_equals_the_live_preprocessors(val):
    assert val.preprocessors == {CAMERA: "rgb", DEPTH: "hha", EVENT: "event_polarity", LIDAR: "deliver_lidar"}
    for modality, name in val.preprocessors.items():
        assert PREPROCESSORS[name].modality == modality
        assert val.normalization[modality] == PREPROCESSORS[name].normalization


def test_events_of_low_resolution_are_enlarged_by_nearest_neighbor(val, written):
    stored = cv2.imread(str(written / "event/rain/val/MAP_5_point1_eventlowres/000000_event_front.png"))
    assert stored.shape[:2] == (31, 39)
    images, _ = val.sample(0, [EVENT])
    expected = cv2.resize(stored, SIZE[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    assert np.array_equal(images[EVENT][0] * 255, expected[..., 0]), "brighter is blue"
    assert np.array_equal(images[EVENT][1] * 255, expected[..., 2]), "darker is red"


def test_batches_and_counts(val):
    images, labels = val.batch([0, 3], [CAMERA, LIDAR])
    assert {m: tuple(t.shape) for m, t in images.items()} == {m: (2, 3, *SIZE) for m in (CAMERA, LIDAR)}
    assert labels.dtype == torch.uint8 and labels.shape == (2, *SIZE)
    told = []
    counts = val.survey(lambda done, of: told.append((done, of)))
    assert told == [(n, 4) for n in (1, 2, 3, 4)]
    assert counts.sum() == 4 * SIZE[0] * SIZE[1] and np.array_equal(counts, val.class_counts(25))


def test_raw_depth_is_coded_as_carla_codes_it(written):
    blue, green, red = cv2.split(cv2.imread(str(written / "depth/sun/val/MAP_5_point1/000000_depth_front.png")))
    meters = (red + 256.0 * green + 65536.0 * blue) / (2**24 - 1) * 1000
    truth = World(5, "sun", SIZE).sample(0).frames[DEPTH].payload.data.view("<u2").reshape(SIZE) / 1000
    assert np.allclose(np.where(truth > 0, truth, 1000), meters, atol=1e-3)


# The published label coding


@pytest.mark.parametrize(("raw", "train_id"), [(0, 255), (255, 255), (1, 0), (25, 24)])
def test_label_coding(copy, raw, train_id):
    path = sorted((copy / "semantic/sun/val").rglob("*.png"))[0]
    cv2.imwrite(str(path), np.full(SIZE, raw, np.uint8))
    row = Deliver(copy, "val", weather="sun").sample(0, [CAMERA])
    assert np.all(row[1] == train_id)


# Errors


@pytest.mark.parametrize("folder", ["hha", "event", "lidar", "semantic"])
def test_a_missing_file_is_named_before_anything_is_read(copy, folder):
    victim = sorted((copy / folder / "sun/val").rglob("*.png"))[1]
    victim.unlink()
    with pytest.raises(DatasetError, match=f"{folder}/sun/val/MAP_5_point1/{victim.name} is missing"):
        Deliver(copy, "val")


def test_a_modality_that_is_not_asked_for_may_be_missing(copy):
    shutil.rmtree(copy / "lidar")
    assert len(Deliver(copy, "val", [CAMERA, DEPTH])) == 4


def test_labels_outside_the_space_are_named(copy):
    path = sorted((copy / "semantic/sun/val").rglob("*.png"))[0]
    cv2.imwrite(str(path), np.full(SIZE, 77, np.uint8))
    for read in (lambda d: d.survey(), lambda d: d.sample(0, [CAMERA])):
        with pytest.raises(LabelError, match=r"semantic/sun.*\[77\]"):
            read(Deliver(copy, "val", weather="sun"))


def test_sets_without_a_single_label_are_refused(copy):
    for path in (copy / "semantic/sun/val").rglob("*.png"):
        cv2.imwrite(str(path), np.zeros(SIZE, np.uint8))
    with pytest.raises(LabelError, match="all 2 label images have no labeled pixel"):
        Deliver(copy, "val", weather="sun").survey()


def test_pictures_of_different_sizes_are_named(copy):
    path = sorted((copy / "hha/sun/val").rglob("*.png"))[0]
    cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
    dataset = Deliver(copy, "val", weather="sun")
    with pytest.raises(DatasetError, match=r"000000_depth_front\.png is 64x64; the labels .* are 80x64"):
        dataset.batch([0], [DEPTH])
    assert dataset.batch([0], [CAMERA])


def test_a_damaged_picture_is_named(copy):
    path = sorted((copy / "img/sun/val").rglob("*.png"))[0]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DatasetError, match="000000_rgb_front"):
        Deliver(copy, "val", weather="sun").sample(0, [CAMERA])


def test_another_folder_is_refused_with_what_it_holds(tmp_path, written):
    (tmp_path / "DELIVER").mkdir()
    with pytest.raises(DatasetError, match=r"img, which is missing; .* contains DELIVER"):
        Deliver(tmp_path, "val")
    with pytest.raises(DatasetError, match=r"img/\*/test"):
        Deliver(written, "test")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"split": "valid"}, "train, val, test"), ({"split": "val", "weather": "snow"}, "snow"),
     ({"split": "val", "fault": "blur"}, "motionblur"), ({"split": "val", "modalities": ["radar"]}, "radar")],
)  # fmt: skip
def test_names_that_are_not_accepted(written, arguments, word):
    with pytest.raises(ConfigError, match=word):
        Deliver(written, **arguments)


def test_fingerprint_depends_on_the_content(written, val):
    assert Deliver(written, "val").fingerprint == val.fingerprint
    assert len({val.fingerprint, *(Deliver(written, "val", **f).fingerprint for f in (
        {"weather": "sun"}, {"modalities": [CAMERA]}))}) == 3  # fmt: skip


# The writer's own refusals


def test_existing_scene_is_not_overwritten(written):
    with pytest.raises(DatasetError, match="exists already"):
        write_deliver_scene(written, World(5, "sun", SIZE), "val", [9])


def test_unsupported_export_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="lidar dropped"):
        write_deliver_scene(tmp_path, World(5, "sun", SIZE, dropped=[LIDAR]), "val", [0])
    with pytest.raises(ConfigError, match="half"):
        write_deliver_scene(tmp_path, World(5, "sun", SIZE), "half", [0])
    assert not list(tmp_path.iterdir())


# open_dataset


def test_open_dataset_opens_deliver(written, val):
    assert open_dataset("deliver", "val", {"root": str(written)}).names == val.names
