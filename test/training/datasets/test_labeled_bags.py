# SPDX-License-Identifier: Apache-2.0
"""Labeled bags: encoded rows equal the input of the node."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.config import load_parameters
from mlesam_ros.errors import BagError, ConfigError, DatasetError, FileError, LabelError, MlesamError
from mlesam_ros.files import exclusive_folder
from mlesam_ros.model.checkpoint import describe_checkpoint
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, encode, image_settings, make_preprocessors
from mlesam_ros.resources import resource_path
from mlesam_ros.simulation.export import TOPICS, write_simulated_bag
from mlesam_ros.simulation.sensors import CAMERA_FRAME
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, LIDAR, MODALITIES, FrameSet
from mlesam_training.encoded_dataset import EncodedDataset
from mlesam_training.labeled_bags import BagOptions, prepare_bags
from mlesam_training.recipe import BagData
from mlesam_training.train_run import train

WORLD_SIZE, SIZE = (128, 192), (64, 96)


@pytest.fixture(scope="module")
def street():
    return World(8, "rain", WORLD_SIZE)


@pytest.fixture(scope="module")
def bag(street, tmp_path_factory):
    return str(write_simulated_bag(tmp_path_factory.mktemp("bags") / "drive", street, range(6)))


@pytest.fixture(scope="module")
def options(bag, tmp_path_factory):
    return BagOptions((bag,), str(tmp_path_factory.mktemp("arrays") / "drive"), SIZE)


@pytest.fixture(scope="module")
def dataset(options):
    return prepare_bags(options)


def test_rows_are_the_labeled_sets(dataset, street):
    assert len(dataset) == 6 and dataset.modalities == MODALITIES and dataset.preprocessors == DEFAULT_PREPROCESSORS
    assert dataset.names[2] == f"drive/{street.sample(2).stamp}"
    assert dataset.conditions[0] == {"bag": "drive"} and dataset.space.name == "deliver"


def test_a_row_is_what_the_pipeline_would_encode(dataset, street):
    moment = street.sample(3)
    images, labels = dataset.batch([3], MODALITIES)
    frame_set = FrameSet(moment.stamp, CAMERA, moment.frames, dict.fromkeys(moment.frames, 0))
    expected = encode(frame_set, street.rig, SIZE, make_preprocessors(DEFAULT_PREPROCESSORS))
    for modality in (CAMERA, DEPTH):
        assert np.allclose(images[modality][0].numpy(), expected[modality], atol=5e-3), modality
    # The bag knows how the car moved, so its sweep is taken apart by time; the returns stay about where they were.
    there, here = images[LIDAR][0].numpy().any(0), expected[LIDAR].any(0)
    assert (there & here).sum() > 0.7 * here.sum()
    assert np.mean(labels[0].numpy() == moment.labels[1::2, 1::2]) > 0.8


def test_it_is_encoded_once(options, dataset):
    told = []
    again = prepare_bags(options, lambda done, of: told.append(done))
    assert not told and again.fingerprint == dataset.fingerprint and again.class_counts(25).sum() == 6 * 64 * 96


def test_a_folder_with_something_else_is_refused(options, dataset):
    with pytest.raises(DatasetError, match="another size"):
        prepare_bags(BagOptions(options.bags, options.folder, (32, 32)))


def test_rows_without_a_modality_are_left_out(street, tmp_path):
    write_simulated_bag(tmp_path / "all", street, range(3))
    write_simulated_bag(tmp_path / "blind", World(8, "rain", WORLD_SIZE, dropped=[LIDAR]), range(3))
    with pytest.raises(DatasetError, match="no topic for lidar"):
        prepare_bags(BagOptions((str(tmp_path / "blind"),), str(tmp_path / "out"), SIZE))
    assert not (tmp_path / "out").exists()
    bags = (str(tmp_path / "all"), str(tmp_path / "blind"))
    both = prepare_bags(BagOptions(bags, str(tmp_path / "out"), SIZE, modalities=(CAMERA, DEPTH)))
    assert [c["bag"] for c in both.conditions] == ["all"] * 3 + ["blind"] * 3


def test_a_sensor_that_the_parameters_disable_is_not_called_missing(bag, tmp_path):
    """A remedy that leaves the fault as it is. The bag has every sensor."""
    parameters = load_parameters(None, ["modalities:=[camera, depth]", "lidar.topic:=/lidar/points"])
    options = BagOptions((bag,), str(tmp_path / "out"), SIZE, modalities=(CAMERA, LIDAR), parameters=parameters)
    with pytest.raises(DatasetError, match=r"parameter modalities is .*or add lidar to the parameter modalities"):
        prepare_bags(options)


def test_labels_outside_the_space_and_bags_without_labels_are_named(bag, tmp_path):
    with pytest.raises((LabelError, DatasetError), match="ground_truth/labels"):
        prepare_bags(BagOptions((bag,), str(tmp_path / "a"), SIZE, space="muses"))
    with pytest.raises(BagError, match="/nowhere"):
        prepare_bags(BagOptions((bag,), str(tmp_path / "b"), SIZE, truth="/nowhere"))
    with pytest.raises(BagError):
        prepare_bags(BagOptions(("nowhere",), str(tmp_path / "c"), SIZE))


def bag_recipe(tmp_path, street, **data):
    """Trains on one bag and measures on another."""
    bags = [str(write_simulated_bag(tmp_path / name, street, range(3))) for name in ("one", "two")]
    fields = {
        "stage": "experts", "steps": 1, "batch": 2, "threads": 1, "device": "cpu",
        "model": {"backbone": "hiera_nano", "rank": 2},
        "backbone": str(resource_path("weights/hiera_nano.safetensors")),
        "data": {
            "kind": "bags", "folder": str(tmp_path / "arrays"), "train": bags[:1], "held_out": bags[1:],
            "size": [64, 96], **data,
        },
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_bags_are_trained_on_and_measured(tmp_path, street):
    result = train(bag_recipe(tmp_path, street), tmp_path / "out")
    described = describe_checkpoint(result.weights)
    assert described["config"]["image_size"] == 96 and described["config"]["preprocessors"] == DEFAULT_PREPROCESSORS
    assert described["config"]["settings"] == image_settings(make_preprocessors(DEFAULT_PREPROCESSORS))
    assert described["config"]["settings"]["event"]["window"] == 0.03
    assert described["metrics"]["data"] == "held-out bags" and len(result.scores) == 15
    assert set(result.scores[MODALITIES].conditions) == {"bag"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"held_out": []}, "held_out names no bag"),
        ({"train": ["a"], "held_out": ["a"]}, "a is in held_out and in train;"),
        ({"size": [64, 90]}, "size is 90; it must be a multiple of 32"),
        ({"train": ["a", 3]}, r"train\[1\] is 3"),
        ({"space": "delivr"}, "delivr"),
        ({"size": [96, 96]}, r"size is \[96, 96\], but of the 192x128 camera .* makes images of \[64, 96\]"),
        ({"train": ["nowhere"]}, "nowhere"),
    ],
)
def test_bags_that_cannot_be_trained_on_are_refused(tmp_path, street, data, words):
    with pytest.raises(MlesamError, match=words):
        train(bag_recipe(tmp_path, street, **data), tmp_path / "out")


@pytest.mark.parametrize("spelled", ["relative", "link", "file", "folder of links"])
def test_bag_in_both_splits_is_refused_for_any_spelling(tmp_path, bag, monkeypatch, spelled):
    """Paths compared as text. The same recording by another path is still no test."""
    monkeypatch.chdir(Path(bag).parent)
    (tmp_path / "link").symlink_to(bag)
    (stored,) = Path(bag).glob("*.mcap")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "other.mcap").symlink_to(stored)
    other = {
        "relative": Path(bag).name, "link": str(tmp_path / "link"), "file": str(stored),
        "folder of links": str(tmp_path / "links"),
    }[spelled]  # fmt: skip
    for train_on, held_out in ((bag, other), (other, bag)):
        with pytest.raises(ConfigError, match="in held_out and in train, there as"):
            BagData("bags", "arrays", ("elsewhere", train_on), (held_out,), SIZE)
    BagData("bags", "arrays", (bag,), (f"{bag}2",), SIZE)


def test_size_named_by_the_error_is_accepted(tmp_path, street):
    """A printed remedy that does not help: the refusal had left a folder of its own size behind."""
    recipe = bag_recipe(tmp_path, street, size=[96, 96])
    with pytest.raises(ConfigError) as refused:
        train(recipe, tmp_path / "out")
    size = json.loads(refused.value.remedy.removeprefix("Set size to ").removesuffix("."))
    assert not (tmp_path / "arrays").exists() or not any((tmp_path / "arrays").rglob("*.npy"))
    train(bag_recipe(tmp_path / "again", street, size=size, folder=str(tmp_path / "arrays")), tmp_path / "out")


def test_empty_folder_is_reused_for_another_manifest(options, tmp_path, monkeypatch):
    """Leftover arrays of a failed command are replaced."""
    own = replace(options, folder=str(tmp_path / "arrays"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("mlesam_training.labeled_bags.encode", interrupted)
        prepare_bags(own)
    assert (tmp_path / "arrays" / "lidar.npy").exists()
    other = prepare_bags(replace(own, modalities=(CAMERA, DEPTH)))
    assert other.modalities == (CAMERA, DEPTH) and len(other) == 6 and other.images[CAMERA][5].any()
    assert not (tmp_path / "arrays" / "lidar.npy").exists()
    with pytest.raises(DatasetError, match="other preprocessors"):
        prepare_bags(own)


def interrupted(*_):
    raise KeyboardInterrupt


def test_rerecorded_bag_is_detected(tmp_path):
    """The manifest has every input that determines the content."""
    write_simulated_bag(tmp_path / "bag", World(8, "rain", WORLD_SIZE), range(2))
    options = BagOptions((str(tmp_path / "bag"),), str(tmp_path / "arrays"), SIZE)
    first = prepare_bags(options)
    shutil.rmtree(tmp_path / "bag")
    assert prepare_bags(options).fingerprint == first.fingerprint, "arrays outlive their bag"
    write_simulated_bag(tmp_path / "bag", World(9, "rain", WORLD_SIZE), range(2))
    with pytest.raises(DatasetError, match=rf"made with another {tmp_path / 'bag'}"):
        prepare_bags(options)


def test_killed_encoding_resumes(tmp_path, street, monkeypatch):
    write_simulated_bag(tmp_path / "bag", street, range(3))
    options = BagOptions((str(tmp_path / "bag"),), str(tmp_path / "arrays"), SIZE)
    whole = prepare_bags(replace(options, folder=str(tmp_path / "whole")))

    def interrupt(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_bags(options, interrupt)
    with pytest.raises(DatasetError, match="1 of 3 samples"):
        EncodedDataset(tmp_path / "arrays")
    camera = np.load(tmp_path / "arrays" / "camera.npy", "r+")
    camera[0] = 0
    camera.flush()
    again = prepare_bags(options)
    assert not again.images[CAMERA][0].any(), "a finished row was encoded again"
    assert np.array_equal(again.images[CAMERA][1:], whole.images[CAMERA][1:])
    assert again.fingerprint == whole.fingerprint


def test_two_encodings_in_one_folder_are_refused(options, tmp_path):
    own = replace(options, folder=str(tmp_path / "arrays"))
    with exclusive_folder(tmp_path / "arrays", "encoding"), pytest.raises(FileError, match="another encoding run"):
        prepare_bags(own)


def test_rectified_bag_is_encoded_as_rectified(tmp_path, monkeypatch):
    """Images without distortion, with the D of the raw lens.

    The same images with a CameraInfo without D are the reference.
    """
    street = World(8, "rain", WORLD_SIZE)
    street.sample(0)
    plain = prepare_bags(
        BagOptions((str(write_simulated_bag(tmp_path / "plain", street, range(2))),), str(tmp_path / "a"), SIZE)
    )
    street.rig.models[CAMERA_FRAME] = replace(street.rig.camera, D=np.array([-0.25, 0.05, 0.0, 0.0, 0.0]))
    monkeypatch.setattr("mlesam_ros.simulation.export.TOPICS", {**TOPICS, CAMERA: "/camera/image_rect"})
    bag = str(write_simulated_bag(tmp_path / "rectified", street, range(2)))
    rules = ["camera.rectified:=true", "depth.rectified:=true"]
    told = prepare_bags(BagOptions((bag,), str(tmp_path / "b"), SIZE, parameters=load_parameters(overrides=rules)))
    assert np.array_equal(told.images[LIDAR], plain.images[LIDAR]) and not told.warnings
    untold = prepare_bags(BagOptions((bag,), str(tmp_path / "c"), SIZE))
    assert not np.array_equal(untold.images[LIDAR], plain.images[LIDAR])
    assert any("camera.rectified" in warning for warning in untold.warnings)
    with pytest.raises(DatasetError, match=r"another (parameters: )?camera.rectified"):
        prepare_bags(BagOptions((bag,), str(tmp_path / "c"), SIZE, parameters=load_parameters(overrides=rules[:1])))


@pytest.fixture
def labels(bag, street, tmp_path):
    """Labels of four of the six frames in a plain folder, by their stamps."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for index in range(4):
        sample = street.sample(index)
        cv2.imwrite(str(folder / f"{sample.stamp}.png"), np.full_like(sample.labels, index))
    return folder


def test_labels_of_a_folder_take_the_place_of_the_topic(bag, dataset, labels, tmp_path):
    """The images are those of the same frames with a topic of labels; corrected labels are encoded again."""
    options = BagOptions((bag,), str(tmp_path / "arrays"), SIZE, labels=str(labels))
    found = prepare_bags(options)
    assert found.names == dataset.names[:4]
    assert (found.labels == np.arange(4)[:, None, None]).all()
    for modality in MODALITIES:
        assert np.array_equal(found.images[modality], dataset.images[modality][:4]), modality
    for path in labels.glob("*.png"):
        cv2.imwrite(str(path), np.full(WORLD_SIZE, 9, np.uint8))
    again = prepare_bags(options)
    assert (again.labels == 9).all() and again.fingerprint != found.fingerprint


def test_lists_of_a_folder_split_a_bag(bag, dataset, labels, tmp_path):
    stamps = [name.rpartition("/")[2] for name in dataset.names]
    data = {
        "kind": "bags",
        "folder": "arrays",
        "train": (bag,),
        "held_out": (bag,),
        "size": SIZE,
        "labels": str(labels),
    }
    with pytest.raises(ConfigError, match="in held_out and in train"):
        BagData(**data)
    (labels / "held_out.txt").write_text(stamps[3] + "\n")
    with pytest.raises(ConfigError, match=r"has held_out\.txt, but no train\.txt"):
        prepare_bags(BagOptions((bag,), str(tmp_path / "a"), SIZE, labels=str(labels), split="train"))
    (labels / "train.txt").write_text("\n".join(stamps[:3]))
    assert BagData(**data).labels == str(labels)
    with pytest.raises(ConfigError, match="truth names a topic and labels a folder"):
        BagData(**data, truth="/labels")
    options = BagOptions((bag,), str(tmp_path / "a"), SIZE, labels=str(labels), split="train")
    assert len(prepare_bags(options)) == 3
    assert prepare_bags(replace(options, folder=str(tmp_path / "b"), split="held_out")).names == dataset.names[3:4]
    (labels / "held_out.txt").write_text("")
    with pytest.raises(DatasetError, match=r"no labels of .*held_out\.txt"):
        prepare_bags(replace(options, folder=str(tmp_path / "c"), split="held_out"))
    (labels / "held_out.txt").write_text(stamps[0])
    with pytest.raises(ConfigError, match=f"{stamps[0]} is in train.txt and in held_out.txt"):
        prepare_bags(replace(options, folder=str(tmp_path / "d")))


def test_labeled_frames_without_a_sensor_are_counted(street, labels, tmp_path):
    """The LiDAR begins with the third frame."""
    whole = write_simulated_bag(tmp_path / "whole", street, range(4))
    with BagReader(whole) as reader, BagWriter(tmp_path / "late") as writer:
        for topic, kind, stamp, raw in reader.raw_messages():
            if topic != TOPICS[LIDAR] or stamp >= street.sample(2).stamp:
                writer.add_raw(topic, kind, stamp, raw)
    found = prepare_bags(BagOptions((str(tmp_path / "late"),), str(tmp_path / "arrays"), SIZE, labels=str(labels)))
    assert len(found) == 2
    assert any("2 labeled frames are left out" in warning for warning in found.warnings)
