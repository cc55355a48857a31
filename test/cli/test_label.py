# SPDX-License-Identifier: Apache-2.0
"""`mlesam label`: from a bag to proposals, corrected labels, training and evaluation."""

from __future__ import annotations

import json
from functools import partial

import cv2
import numpy as np
import pytest
import yaml
from full_disk import run_on_a_small_disk

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.cli import label_run
from mlesam_ros.config import load_parameters
from mlesam_ros.errors import BagError
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions, evaluate
from mlesam_ros.evaluation.ground_truth import decode_labels
from mlesam_ros.evaluation.scores import MaskListener
from mlesam_ros.files import exclusive_folder
from mlesam_ros.labels import load_label_space
from mlesam_ros.messages import label_image, stamp_ns
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.resources import resource_path
from mlesam_ros.simulation.export import LABELS_TOPIC, write_simulated_bag
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR
from mlesam_training.labeled_bags import BagOptions, prepare_bags
from mlesam_training.recipe import load_recipe
from mlesam_training.recipe_choice import fill_recipe
from mlesam_training.train_run import train

coco_mask = pytest.importorskip("pycocotools.mask")
SPACE = load_label_space("deliver")


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_simulated_bag(tmp_path_factory.mktemp("bags") / "street", World(8, "day", (64, 96)), range(12))


@pytest.fixture
def label(mlesam, tiny_checkpoint, tmp_path):
    weights = ("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base, "--device", "cpu")

    def run(*arguments: object):
        options = () if "--import" in arguments else (*weights, "-p", "precision:=fp32", "-p", "threads:=1")
        return mlesam("label", *arguments, "--out", tmp_path / "labels", *options)

    return run


def names(folder):
    return sorted(path.stem for path in folder.glob("*.png"))


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def truths(bag):
    """Stamp → ground-truth labels of a simulated bag."""
    with BagReader(bag) as reader:
        found = [m.message for m in reader.messages([LABELS_TOPIC])]
    return {stamp_ns(message.header): decode_labels(label_image(message), SPACE) for message in found}


class Recorder(MaskListener):
    """Keeps the network's images and the uncertainty of every mask."""

    def __init__(self):
        self.images, self.uncertainty = {}, {}

    def on_mask(self, record):
        self.images[record.mask.stamp] = record.images
        self.uncertainty[record.mask.stamp] = 1 - np.mean(record.mask.confidence / 255)


def recorded(bag, checkpoint, base):
    pipeline = Pipeline.from_checkpoint(checkpoint, base, "cpu", "fp32", 1)
    found = Recorder()
    evaluate(bag, pipeline, EvaluationOptions(), [found])
    return found


def test_proposals_are_the_masks_of_evaluate(label, mlesam, street, tiny_checkpoint, tmp_path):
    result = label(street, "--every", 2)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "labels"
    stamps = sorted(truths(street))[::2]
    expected = [f"street_{stamp}" for stamp in stamps]
    voc = folder / "proposals"
    assert names(folder / "images") == names(folder / "confidence") == names(voc / "SegmentationClass") == expected
    assert (voc / "ImageSets" / "Segmentation" / "default.txt").read_text().split() == expected
    weights = ("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base, "--device", "cpu")
    done = mlesam("evaluate", street, "--every", 2, "--precision", "fp32", "--threads", 1, "--no-report", *weights,
                  "--output", tmp_path / "runs")  # fmt: skip
    assert done.exit_code == 0, done.output
    with BagReader(tmp_path / "runs" / "latest" / "result") as reader:
        masks = {
            topic: [m.message for m in reader.messages([topic])] for topic in ("/mlesam/labels", "/mlesam/confidence")
        }
    with BagReader(street) as reader:
        images = {stamp_ns(m.message.header): m.message for m in reader.messages(["/camera/image_raw"])}
    for name, stamp, mask, confidence in zip(expected, stamps, *masks.values(), strict=True):
        ids = mask.data.reshape(64, 96)
        assert np.array_equal(read(voc / "SegmentationClass" / f"{name}.png")[..., ::-1], SPACE.palette[ids])
        assert np.array_equal(read(folder / "confidence" / f"{name}.png"), confidence.data.reshape(64, 96))
        assert images[stamp].encoding == "rgb8"
        assert np.array_equal(read(folder / "images" / f"{name}.png")[..., ::-1], images[stamp].data.reshape(64, 96, 3))


@pytest.mark.parametrize("format", ["png", "coco"])
def test_unchanged_proposals_come_back_exactly(label, street, tmp_path, format):
    folder = tmp_path / "labels"
    assert label(street, "--every", 5, "--format", format).exit_code == 0
    source = folder / ("proposals.json" if format == "coco" else "proposals")
    result = label("--import", source, "--json", tmp_path / "import.json")
    assert result.exit_code == 0, result.output
    assert "3 frames imported; 3 of 3 have labels" in result.stdout
    assert json.loads((tmp_path / "import.json").read_text())["imported"] == names(folder / "labels")
    if format == "png":
        for name in names(folder / "labels"):
            colors = read(folder / "proposals" / "SegmentationClass" / f"{name}.png")[..., ::-1]
            assert np.array_equal(SPACE.palette[read(folder / "labels" / f"{name}.png")], colors)
        return
    document = json.loads(source.read_text())
    for image in document["images"]:
        labels = read(folder / "labels" / image["file_name"])
        for entry in (e for e in document["annotations"] if e["image_id"] == image["id"]):
            mask = coco_mask.decode(entry["segmentation"]).astype(bool)
            assert (labels[mask] == entry["category_id"] - 1).all()
            labels[mask] = 255
        assert (labels == 255).all()


def test_the_most_uncertain_frames_are_chosen(mlesam, street, tmp_path):
    """By the shipped weights, whose confidence differs between frames."""
    out = ("--out", tmp_path / "labels", "--json", tmp_path / "out.json", "-p", "precision:=fp32", "--device", "cpu")
    result = mlesam("label", street, "--uncertain", 4, "--gap", 0.0, *out)
    assert result.exit_code == 0, result.output
    uncertainty = recorded(street, resource_path("weights/street.safetensors"), None).uncertainty
    frames = json.loads((tmp_path / "out.json").read_text())["frames"]
    assert [frame["stamp"] for frame in frames] == sorted(sorted(uncertainty, key=uncertainty.get)[-4:])
    assert all(abs(uncertainty[frame["stamp"]] - frame["uncertainty"]) < 1e-5 for frame in frames)
    assert names(tmp_path / "labels" / "images") == [frame["name"] for frame in frames]


def annotate(bag, folder, path):
    """Draw the ground truth over the proposals, with pycocotools."""
    document = json.loads((folder / "proposals.json").read_text())
    found, document["annotations"] = truths(bag), []
    for image in document["images"]:
        labels = found[int(image["file_name"].removesuffix(".png").rpartition("_")[2])]
        for value in np.unique(labels[labels != 255]):
            rle = coco_mask.encode(np.asfortranarray(labels == value, np.uint8))
            entry = {"image_id": image["id"], "category_id": int(value) + 1, "segmentation": rle}
            document["annotations"].append(entry | {"id": len(document["annotations"])})
            rle["counts"] = rle["counts"].decode()
    path.write_text(json.dumps(document))


def test_a_bag_is_labeled_trained_on_and_evaluated(label, mlesam, street, tiny_checkpoint, tmp_path):
    folder = tmp_path / "labels"
    assert label(street, "--every", 1, "--format", "coco").exit_code == 0
    result = mlesam("evaluate", street, "--labels", folder, "--output", tmp_path / "runs")
    assert result.exit_code == 2 and "has no labels yet" in result.stderr
    annotate(street, folder, tmp_path / "corrected.json")
    assert label("--import", tmp_path / "corrected.json").exit_code == 0
    for stamp, labels in truths(street).items():
        assert np.array_equal(read(folder / "labels" / f"street_{stamp}.png"), labels)

    base = resource_path("weights/hiera_nano.safetensors")
    recipe = {
        "stage": "experts", "steps": 100, "batch": 2, "threads": 1, "device": "cpu", "warmup": 5, "lr": 0.002,
        "model": {"backbone": "hiera_nano", "rank": 2}, "backbone": str(base),
        **yaml.safe_load((folder / "data.yaml").read_text()),
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    trained = train(tmp_path / "recipe.yaml", tmp_path / "trained")
    images = recorded(street, tiny_checkpoint.path, tiny_checkpoint.base).images
    rows = json.loads((folder / "encoded" / "train" / "manifest.json").read_text())["rows"]
    assert len(rows) == 10
    for modality in ("camera", "depth", "event", "lidar"):
        arrays = np.load(folder / "encoded" / "train" / f"{modality}.npy")
        for row, array in zip(rows, arrays, strict=True):
            assert np.array_equal(array, images[int(row.rpartition("/")[2])][modality].astype(np.float16)), modality

    def miou(*weights):
        done = mlesam("evaluate", street, "--labels", folder, "--no-bag", "--no-report", "--device", "cpu", *weights,
                      "--output", tmp_path / "runs", "--json", tmp_path / "out.json")  # fmt: skip
        assert done.exit_code == 0, done.output
        figures = json.loads((tmp_path / "out.json").read_text())
        assert figures["compared"] == 12
        return figures["miou"]

    before = miou("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base)
    assert miou("--checkpoint", trained.weights, "--base-weights", base) > before + 5


def test_bags_that_cannot_be_labeled_are_named(label, street, tmp_path):
    world = World(8, "day", (64, 96), dropped=[CAMERA])
    cases = {
        "blind": (
            write_simulated_bag(tmp_path / "blind", world, range(2)),
            "has no camera, whose images are annotated",
        ),
        "empty": (tmp_path / "empty", "no topic of the bag is a sensor"),
        "missing": (tmp_path / "missing", "does not exist"),
        "uncalibrated": (tmp_path / "uncalibrated", "no CameraInfo of /camera/image_raw, which training"),
    }
    with BagReader(street) as reader, BagWriter(tmp_path / "uncalibrated") as writer:
        for topic, kind, stamp, raw in reader.raw_messages(set(reader.topics) - {"/camera/camera_info"}):
            writer.add_raw(topic, kind, stamp, raw)
    with BagWriter(tmp_path / "empty"):
        pass
    for bag, words in cases.values():
        result = label(bag)
        assert result.exit_code == 2 and words in result.stderr.splitlines()[-1], result.stderr
        assert not (tmp_path / "labels").exists()


def test_labels_are_never_overwritten_and_bags_of_one_name_refused(label, street, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "mine.txt").write_text("")
    assert "never overwritten" in label(street).stderr
    (tmp_path / "labels" / "mine.txt").unlink()
    twin = write_simulated_bag(tmp_path / "street", World(8, "day", (64, 96)), range(1))
    assert "both called street" in label(street, twin).stderr
    assert "either bags or --import" in label().stderr


def test_space_of_ones_own(label, street, tmp_path):
    own = {"name": "own", "classes": [{"name": "Cone", "color": [9, 9, 9]}, {"name": "Road", "color": [1, 2, 3]}]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    assert label(street, "--every", 6, "--space", tmp_path / "own.yaml").exit_code == 0
    folder = tmp_path / "labels"
    colors = read(folder / "proposals" / "SegmentationClass" / f"{names(folder / 'images')[0]}.png").reshape(-1, 3)
    assert {tuple(color) for color in colors.tolist()} <= {(0, 0, 0), (3, 2, 1)}
    data = yaml.safe_load((folder / "data.yaml").read_text())["data"]
    assert load_label_space(data["space"]).names == ("Cone", "Road")
    label("--import", folder / "proposals")
    result = label(street)
    assert result.exit_code == 2 and "not empty" in result.stderr


def test_labels_of_another_space_are_not_compared(label, mlesam, street, tiny_checkpoint, tmp_path):
    test_space_of_ones_own(label, street, tmp_path)
    cv2.imwrite(str(tmp_path / "labels" / "labels" / "street_5.png"), np.zeros((64, 96), np.uint8))
    result = mlesam("evaluate", street, "--labels", tmp_path / "labels", "--checkpoint", tiny_checkpoint.path,
                    "--base-weights", tiny_checkpoint.base, "--output", tmp_path / "runs")  # fmt: skip
    assert result.exit_code == 2 and "of label space own with 2 classes; wanted is deliver with 25" in result.stderr


def test_parameters_of_the_sensors_reach_the_training(label, street, tmp_path):
    assert label(street, "--every", 6, "-p", "lidar.offset:=0.01", "-p", "threads:=2").exit_code == 0
    data = yaml.safe_load((tmp_path / "labels" / "data.yaml").read_text())["data"]
    assert data["parameters"] == {"lidar.offset": 0.01} and data["node"] == "/mlesam"
    assert load_parameters(None, (), data["node"], data["parameters"]).lidar.offset == 0.01
    file = tmp_path / "labels" / "data.yaml"  # as `mlesam train --data FILE --from street` reads it
    recipe = load_recipe(file, partial(fill_recipe, weights="street", leave_open=True))
    assert recipe.data.labels == str(tmp_path / "labels") and recipe.data.description().lidar.offset == 0.01
    with pytest.raises(BagError, match="has no labels yet"):  # before the first import
        prepare_bags(
            BagOptions((str(street),), str(tmp_path / "a"), (32, 64), labels=recipe.data.labels, split="train")
        )


def test_full_disk_leaves_nothing(street, tiny_checkpoint, tmp_path):
    (tmp_path / "disk").mkdir()
    weights = ("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base)
    arguments = [
        "-m",
        "mlesam_ros.cli",
        "label",
        street,
        "--every",
        "1",
        *weights,
        "--out",
        tmp_path / "disk" / "labels",
    ]
    done = run_on_a_small_disk(tmp_path / "disk", 60, *map(str, arguments))
    assert done.returncode == 2, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("mlesam: ") and "Free disk space" in said
    assert done.stdout.splitlines()[-1] == "left:"


@pytest.mark.parametrize("others", [(), ("notes.txt", "images/mine.png")])
def test_a_failed_run_leaves_nothing_of_its_own_and_everything_else(label, street, monkeypatch, tmp_path, others):
    def refuse(*_):
        for name in others:  # that came meanwhile
            (tmp_path / "labels" / name).write_text("mine")
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(label_run, "write_index", refuse)
    result = label(street, "--every", 6)
    assert result.exit_code == 2 and "Permission denied" in result.stderr
    assert (tmp_path / "labels").exists() == bool(others)
    left = [path for path in (tmp_path / "labels").rglob("*") if path.is_file()]
    assert sorted(left) == sorted(tmp_path / "labels" / name for name in others)


def test_two_runs_do_not_write_into_one_folder(label, street, tmp_path):
    with exclusive_folder(tmp_path / "labels", "labeling"):
        assert "in use by another labeling run" in label(street).stderr


def test_cameras_of_two_sizes_are_refused_before_a_bag_is_segmented(label, street, monkeypatch, tmp_path):
    monkeypatch.setattr(label_run, "evaluate", lambda *_: pytest.fail("a bag was segmented"))
    high = write_simulated_bag(tmp_path / "high", World(8, "day", (96, 64)), range(1))
    result = label(street, high)
    assert result.exit_code == 2, result.output
    assert f"images of {street} are " in result.stderr and f"those of {high} " in result.stderr
    assert not (tmp_path / "labels").exists()


def test_training_reads_the_sensors_that_every_bag_has(mlesam, tiny_checkpoint, tmp_path):
    for name, dropped in (("a", (EVENT,)), ("b", (DEPTH, EVENT))):
        write_simulated_bag(tmp_path / "bags" / name, World(8, "day", (64, 96), dropped=dropped), range(4))
    weights = ("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base)
    result = mlesam("label", tmp_path / "bags", "--out", tmp_path / "labels", "--every", 2, *weights)
    assert result.exit_code == 0, result.stderr
    assert yaml.safe_load((tmp_path / "labels" / "data.yaml").read_text())["model"] == {"modalities": [CAMERA, LIDAR]}
