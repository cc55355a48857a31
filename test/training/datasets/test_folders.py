# SPDX-License-Identifier: Apache-2.0
"""Folders as a team has them: layouts, splits, encodings, and wrong data, which is found before the first step."""

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from small_recipes import BACKBONE
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_ros.errors import ConfigError, DatasetError, LabelError, MlesamError
from mlesam_ros.preprocessing.depth import LogDepth
from mlesam_ros.preprocessing.lidar import RangeIntensityHeight
from mlesam_ros.preprocessing.preprocessors import RGB
from mlesam_training.augmentation import RandomCrops
from mlesam_training.data_config import open_files
from mlesam_training.datasets.folders import Folders
from mlesam_training.recipe import CropRecipe, FileData, from_mapping, load_data, load_recipe
from mlesam_training.train_run import train
from mlesam_training.trainer import LOG

SPACE = {"name": "yard", "classes": [{"path": [200, 0, 0]}, {"wall": [0, 200, 0]}, {"plant": [0, 0, 200]}]}
SIZES = ((40, 64), (48, 48), (64, 40), (40, 64))
RNG = np.random.default_rng(0)
DATA = {
    "kind": "folders", "images": {"camera": "rgb/{split}/*.png"}, "labels": "gt/{split}/{stem}.png", "space": SPACE,
}  # fmt: skip


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".npy", ".npz"):
        np.save(path, pixels) if path.suffix == ".npy" else np.savez(path, pixels)
    else:
        PIL.Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    """Images of unequal sizes: four to train on, two held out."""
    for split, count in (("train", 4), ("val", 2)):
        for i, size in enumerate(SIZES[:count]):
            write(tmp_path / f"rgb/{split}/{split[0]}{i}.png", RNG.integers(0, 256, (*size, 3), dtype=np.uint8))
            write(tmp_path / f"gt/{split}/{split[0]}{i}.png", RNG.integers(0, 3, size, dtype=np.uint8))
    return tmp_path


def opened(root, split="train", **options):
    fixed = {key: value for key, value in DATA.items() if key != "kind"}
    return Folders(root, split, **{**fixed, **options})


def pixels(path):
    return np.asarray(PIL.Image.open(path))


def test_images_and_labels_are_those_of_pillow(root):
    dataset = opened(root)
    assert list(dataset.names) == [f"train/t{i}" for i in range(4)] and dataset.preprocessors == {"camera": "rgb"}
    images, labels = dataset.sample(2, ["camera"])
    mean, std = (np.array(s)[:, None, None] for s in RGB.normalization)
    wanted = (pixels(root / "rgb/train/t2.png").transpose(2, 0, 1) / 255 - mean) / std
    assert np.allclose(images["camera"], wanted, atol=1e-5) and np.array_equal(labels, pixels(root / "gt/train/t2.png"))
    assert dataset.class_counts(3).tolist() == sum(
        np.bincount(pixels(path).ravel(), minlength=3) for path in (root / "gt/train").iterdir()
    ).tolist()  # fmt: skip


def test_images_of_unequal_sizes_are_cropped_to_one(root):
    dataset = opened(root)
    assert not dataset.one_size and opened(root, splits={"train": "t[03]"}).one_size
    crops = RandomCrops(CropRecipe(crop=32), dataset, 64)
    for (images, labels), size in zip(dataset.samples(range(4), ["camera"]), SIZES, strict=True):
        assert labels.shape == (1, *size)
        cut, part = crops(images, labels, torch.Generator().manual_seed(0))
        assert cut["camera"].shape == (1, 3, 32, 32) and part.shape == (1, 32, 32)
    with pytest.raises(DatasetError, match=r"t1.png is 48x48, .*t0.png and 1 more are 64x40"):
        dataset.batch([0, 1, 3], ["camera"])


def moved(root, files):
    """Move files, with * for their stem, to another layout."""
    for old, new in files.items():
        for path in sorted(root.glob(old)):
            target = root / new.replace("*", path.stem)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


@pytest.mark.parametrize(
    ("files", "options", "names"),
    [
        ({}, {"labels": "gt/{split}/*.png", "images": {"camera": "rgb/{split}/{stem}.png"}}, "train/t0"),
        ({}, {"images": {"camera": "rgb/{split}/*.*"}, "labels": "gt/{split}/{stem}.*"}, "train/t0"),
        ({"gt/train/*.png": "gt/*_mask.png"}, {"labels": "gt/{stem}_mask.png"}, "train/t0"),
        (
            {"rgb/train/*.png": "cam/day/*_left.png", "gt/train/*.png": "gt/day/*_ids.png"},
            {"images": {"camera": "cam/**/*_left.png"}, "labels": "gt/{stem}_ids.png", "splits": {"train": "*"}},
            "day/t0",
        ),
        (
            {"gt/train/*.png": "gt/*/labels.png", "rgb/train/*.png": "rgb/*/left.png"},
            {"images": {"camera": "rgb/*/left.png"}, "labels": "gt/{stem}/labels.png", "splits": {"train": 0.5}}, "t0",
        ),
    ],
)  # fmt: skip
def test_layouts(root, files, options, names):
    moved(root, files)
    dataset = opened(root, **options)
    assert dataset.names[0] == names and len(dataset) == (2 if names == "t0" else 4)
    assert dataset.survey().sum() == dataset.class_counts(3).sum() > 0


@pytest.mark.parametrize(
    ("splits", "train", "val"),
    [
        ({"train": "lists/train.txt", "val": "lists/val.txt"}, ["t3", "t1"], ["t0"]),
        ({"train": ["t0", "t1"], "val": "t[23]"}, ["t0", "t1"], ["t2", "t3"]),
        ({"train": 0.75, "val": 0.25}, ["t0", "t1", "t2"], ["t3"]),
    ],
)
def test_splits_by_lists_patterns_and_shares(root, splits, train, val):
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_text("t3\nt1.png\n")
    (root / "lists/val.txt").write_text("rgb/train/t0.png gt/train/t0.png\n")
    options = {"images": {"camera": "rgb/train/*.png"}, "labels": "gt/train/{stem}.png", "splits": splits}
    assert list(opened(root, "train", **options).names) == train and list(opened(root, "val", **options).names) == val


def test_lists_name_each_sample_once_with_spaces_and_other_columns(root):
    for folder in ("rgb", "gt"):
        (root / folder / "train/t1.png").rename(root / folder / "train/my photo 1.png")
    lines = ["\ufefft0", "t0.png", "my photo 1", "rgb/train/my photo 1.png gt/train/my photo 1.png", "t3\t0.5"]
    (root / "l.txt").write_text("\n".join(lines))
    assert list(opened(root, splits={"train": "l.txt"}).names) == ["train/t0", "train/my photo 1", "train/t3"]


def test_a_file_name_in_two_folders_is_ambiguous_in_a_list(root):
    options = {"images": {"camera": "rgb/**/*.png"}, "labels": "gt/{stem}.png", "splits": {"train": "l.txt"}}
    for folder in ("rgb", "gt"):
        (root / folder / "val/v0.png").rename(root / folder / "val/t0.png")
    (root / "l.txt").write_text("rgb/val/t0.png\ntrain/t1\nt2.png\n")
    assert list(opened(root, **options).names) == ["val/t0", "train/t1", "train/t2"]
    (root / "l.txt").write_text("t0.png\n")
    with pytest.raises(DatasetError, match=r"l.txt lists 't0.png', which is .*train/t0.png or .*val/t0.png"):
        opened(root, **options)


def test_other_sensors_have_the_values_of_the_live_preprocessors(root):
    shape = SIZES[0]
    for split, count in (("train", 4), ("val", 2)):
        for i, size in enumerate(SIZES[:count]):
            depth = RNG.integers(0, 30_000, size).astype(np.uint16)
            depth[:8] = 0
            depth[9, 9] = 1000
            write(root / f"depth/{split}/{split[0]}{i}.png", depth)
            cloud = np.zeros((*size, 3), np.float32)
            cloud[10:20] = (7.0, 300.0, -1.5)
            write(root / f"lidar/{split}/{split[0]}{i}.npz", cloud)
            write(root / f"event/{split}/{split[0]}{i}.npy", RNG.integers(0, 20, (*size, 2)))
            write(root / f"nir/{split}/{split[0]}{i}.png", RNG.integers(0, 256, size, dtype=np.uint8))
    images = {"camera": "rgb/{split}/*.png", "depth": "depth/{split}/{stem}.png", "lidar": "lidar/{split}/{stem}.npz",
              "event": "event/{split}/{stem}.npy", "nir": "nir/{split}/{stem}.png"}  # fmt: skip
    dataset = opened(root, images=images)
    found, _ = dataset.sample(0, tuple(images))
    raw = cv2.imread(str(root / "depth/train/t0.png"), cv2.IMREAD_UNCHANGED) / 1000
    logs = np.where(raw > 0, np.log(np.clip(raw, 0.1, 200, where=raw > 0, out=np.ones_like(raw))) - 2, 0)
    assert (
        np.allclose(found["depth"], logs, atol=1e-5)
        and found["depth"][0, 9, 9] == -2
        and not found["depth"][:, 0].any()
    )
    mean, std = (np.array(s) for s in RangeIntensityHeight.normalization)
    assert np.allclose(found["lidar"][:, 15, 3], ([7, 255, -1.5] - mean) / std, atol=1e-5)
    assert not found["lidar"][:, :10].any()
    events = np.minimum(np.load(root / "event/train/t0.npy"), 10).transpose(2, 0, 1)
    assert np.allclose(found["event"][:2], events) and not found["event"][2].any()
    assert np.allclose(found["nir"], pixels(root / "nir/train/t0.png") / 255) and found["nir"].shape == (3, *shape)
    assert dataset.preprocessors == {
        "camera": "rgb", "depth": LogDepth.name, "lidar": "range_intensity_height", "event": "event_counts",
    }  # fmt: skip
    assert set(dataset.sparse) == {"depth", "lidar", "event"}
    assert opened(root, images=images, depth_unit=0.002).fingerprint != dataset.fingerprint
    assert opened(root, images=images, modalities=("lidar",)).modalities == ("lidar",)


@pytest.mark.parametrize("splits", [{"train": "t[01]", "val": "v*"}, {"train": "lists/t.txt", "val": "lists/v.txt"}])
def test_split_folders_may_be_thinned_by_lists_and_patterns(root, splits):
    (root / "lists").mkdir()
    (root / "lists/t.txt").write_text("t0\nt1\n")
    (root / "lists/v.txt").write_text("v0\nv1\n")
    names = [[e.name for e in opened(root, split, splits=splits).entries] for split in ("train", "val")]
    assert names == [["train/t0", "train/t1"], ["val/v0", "val/v1"]]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_photographs_are_upright_as_in_every_viewer(root, orientation):
    path, exif = root / "rgb/train/t0.jpg", PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.open(root / "rgb/train/t0.png").save(path, exif=exif, quality=100)
    (root / "rgb/train/t0.png").unlink()
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(path))
    write(root / "gt/train/t0.png", np.zeros(upright.size[::-1], np.uint8))
    dataset = opened(root, images={"camera": "rgb/{split}/*.*", "nir": "rgb/{split}/{stem}.*"})
    dataset.survey()
    mean, std = (np.array(s)[:, None, None] for s in RGB.normalization)
    found = dataset.sample(0, ["camera", "nir"])[0]
    for image in (found["camera"] * std + mean, found["nir"]):
        assert np.abs(image - np.asarray(upright).transpose(2, 0, 1) / 255).max() < 0.02


def _exif(root):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.open(root / "rgb/train/t0.png").save(root / "rgb/train/t0.jpg", exif=exif)
    (root / "rgb/train/t0.png").unlink()


def _foreign(root, value=7, kind=np.uint8):
    for name in ("t1", "t3"):
        labels = pixels(root / f"gt/train/{name}.png").astype(kind)
        labels[:2, :5] = value
        write(root / f"gt/train/{name}.png", labels)


def _unlabeled(root):
    for path in (root / "gt").rglob("*.png"):
        write(path, np.full_like(pixels(path), 255))


def _cut(root):
    path = root / "rgb/train/t3.png"
    path.write_bytes(path.read_bytes()[:-20])


def _label(value, channels=()):
    return lambda root: write(root / "gt/train/t0.png", np.full((*SIZES[0], *channels), value, np.uint8))


def _sensor(name, wrong):
    """A sensor whose last file is wrong, and how it is described."""
    kind = wrong.dtype if name == "depth" else np.float32

    def spoil(root):
        for path in (root / "rgb").rglob("*.png"):
            size = pixels(path).shape[:2]
            good = np.full(size, 9, np.uint16) if name == "depth" else np.ones((*size, 3), kind)
            write(root / name / path.parent.name / f"{path.stem}.npy", good)
        write(root / name / "train/t3.npy", wrong)

    images = {**DATA["images"], name: f"{name}/{{split}}/{{stem}}.npy"}
    return spoil, {"images": images}


def _flipped(root):
    path = root / "rgb/train/t3.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _lossy(root):
    with PIL.Image.open(root / "gt/train/t0.png") as image:
        image.save(root / "gt/train/t0.png", "JPEG")


ONE_FOLDER = {"images": {"camera": "rgb/train/*.png"}, "labels": "gt/train/{stem}.png"}
WRONG = {
    "no image": (lambda root: [p.unlink() for p in (root / "rgb/val").iterdir()], {}, "split val is empty: .* rgb/val"),
    "another stem": (
        lambda root: (root / "gt/val/v1.png").rename(root / "gt/val/v1_mask.png"), {},
        "gt/val/v1.png is missing, as are 0 more of 4 files. .*gt/val has v1_mask.png",
    ),
    "foreign id": (_foreign, {}, r"train/t1.png and 1 more files have the ids \[7\] \(20 pixels\); label space yard"),
    "id that the map lacks": (_foreign, {"map": {0: "path", 1: "wall", 2: 2}}, r"t1.png .*\[7\] .*map lacks them"),
    "16-bit id": (lambda root: _foreign(root, 26001, np.uint16), {}, r"t1.png and 1 more files have .*\[26001\]"),
    "colors": (_label(0, (3,)), {}, "t0.png has colors"),
    "unknown color": (None, {"palette": "space"}, r"colors \[\[0, 0, 0\], \[1, 1, 1\], \[2, 2, 2\]\]"),
    "smooth edges": (_label(100, (4,)), {"palette": "space"}, "t0.png has 2560 partly transparent pixels"),
    "another size": (
        lambda root: write(root / "gt/train/t2.png", np.zeros((40, 64), np.uint8)), {},
        "rgb/train/t2.png is 40x64; the labels .*gt/train/t2.png are 64x40",
    ),
    "rotated by EXIF": (_exif, {"images": {"camera": "rgb/{split}/*.*"}}, "t0.jpg is 40x64; the labels .* are 64x40"),
    "cut short": (_cut, {}, "rgb/train/t3.png is damaged or cut short"),
    "damaged": (_flipped, {}, "rgb/train/t3.png is damaged or cut short: .*checksum"),
    "LiDAR without height": (
        *_sensor("lidar", np.ones((*SIZES[3], 2), np.float32)), r"lidar/train/t3.npy has the shape \(40, 64, 2\)",
    ),
    "depth in color": (*_sensor("depth", np.ones((*SIZES[3], 3), np.uint16)), "depth/train/t3.npy .*a depth image is"),
    "depth of 8 bits": (*_sensor("depth", np.ones(SIZES[3], np.uint8)), "t3.npy has 8 bits per pixel.* depth_unit"),
    "lossy labels": (_lossy, {}, "t0.png"),
    "no labels": (_unlabeled, {}, "all 4 label images have no labeled pixel"),
    "splits overlap": (None, {**ONE_FOLDER, "splits": {"train": "t*", "val": "t0"}}, "1 samples are in train and in"),
    "empty selection": (None, {"splits": {"train": "x*", "val": "*"}}, r"train is empty: 'x\*' selects none of 4"),
    "unlisted": (
        lambda root: (root / "l.txt").write_text("t9\n"), {"splits": {"train": "l.txt", "val": "*"}},
        "l.txt lists 't9', which has no file",
    ),
    "no root": (None, {"root": "nowhere"}, "root .*nowhere is no folder"),
    "no pattern of a sensor": (None, {"model": ["camera", "lidar"]}, "modality of images 'lidar'"),
    "unknown class": (None, {"map": {0: "pathway"}}, "did you mean path"),
    "unknown key": (None, {"image": {}}, "did you mean images"),
    "no wildcard": (None, {"images": {"camera": "rgb/{split}/{stem}.png"}}, "none of images and labels has"),
    "two wildcards": (None, {"labels": "gt/{split}/*.png"}, "camera and labels of images and labels has"),
    "no split": (None, {**ONE_FOLDER}, "has no {split}, and splits is missing"),
    "no label space": (None, {"space": "nowhere.yaml"}, "nowhere.yaml"),
}  # fmt: skip


def recipe_file(root, options):
    model = {"backbone": "hiera_nano", "rank": 2, "image_size": 64}
    model |= {"modalities": options.pop("model")} if "model" in options else {}
    data = {**DATA, "root": str(root), "crops": {"crop": 64}, **options}
    fields = {"stage": "experts", "data": data, "model": model, "backbone": str(BACKBONE), "steps": 2, "batch": 2,
              "threads": 1, "device": "cpu", "precision": "fp32", "log_every": 1}  # fmt: skip
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_is_named_before_the_first_step(root, name):
    spoil, options, words = WRONG[name]
    if spoil:
        spoil(root)
    path = recipe_file(root, dict(options))
    with pytest.raises(MlesamError, match=words):
        train(path, root / "out")
    assert not (root / "out" / LOG).exists()


def test_train_evaluate_and_notes(root):
    """Unequal sizes through the trainer, its evaluation, and `evaluate --dataset FILE`."""
    write(root / "gt/train/extra.png", np.zeros((4, 4), np.uint8))
    for path in (root / "gt/val").iterdir():
        write(path, np.minimum(pixels(path), 1))
    path, runner = recipe_file(root, {}), CliRunner()
    done = runner.invoke(app, ["train", str(path), "--out", str(root / "out")])
    assert done.exit_code == 0, done.output
    assert "note: 1 label images have no image of camera, such as " in done.output
    assert "note: no pixel of plant in held out." in done.output, done.output
    assert "no pixel of plant in train" not in done.output
    asked = ["evaluate", str(root), "--dataset", str(path), "--checkpoint", str(root / "out/experts.safetensors"),
             "--output", str(root / "runs"), "--json", "-"]  # fmt: skip
    done = runner.invoke(app, asked)
    assert done.exit_code == 0, done.output
    found = yaml.safe_load(done.stdout)
    assert found["label_space"] == "yard" and found["data"] == "folders val"
    assert (root / "out/evaluation.json").exists()
    classes = [{"wall": [1, 0, 0]}, {"street": [0, 1, 0]}, {"plant": [0, 0, 1]}]
    for split in ("train", "val"):
        for file in (root / "gt" / split).iterdir():
            write(file, np.uint8([1, 0, 2])[pixels(file)])
    recipe_file(root, {"space": {"name": "theirs", "classes": classes}})
    refused = runner.invoke(app, asked)
    assert refused.exit_code and "yard (3 classes), not on theirs (3 classes)" in refused.output
    (root / "foreign.yaml").write_text("map: {street: path}")
    done = runner.invoke(app, [*asked, "--map", str(root / "foreign.yaml")])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.stdout)["subsets"] == found["subsets"]


def test_options_stand_beside_the_keys_or_below_options(root):
    beside = from_mapping(FileData, {**DATA, "root": str(root)}, "data")
    below = {key: value for key, value in DATA.items() if key != "kind"}
    assert beside == from_mapping(FileData, {"kind": "folders", "root": str(root), "options": below}, "data")
    with pytest.raises(ConfigError, match="labels in options and beside it"):
        from_mapping(FileData, {**DATA, "options": {"labels": "x"}}, "data")
    path = recipe_file(root, {})
    assert load_data(path) == load_recipe(path).data
    assert open_files(load_data(path), {"image_size": 64}).augment.recipe.crop == 64
    path.write_text("kind: folders")
    with pytest.raises(ConfigError, match="has no key data"):
        load_data(path)


def test_files_of_one_stem_are_ambiguous(root):
    write(root / "rgb/train/t0.jpg", pixels(root / "rgb/train/t0.png"))
    with pytest.raises(DatasetError, match="have the same stem"):
        opened(root, images={"camera": "rgb/{split}/*.*"})


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("depth/train/t0.png", np.zeros((*SIZES[0], 3), np.uint8), {}, "a depth image is .height, width.*hha"),
        ("lidar/train/t0.npy", np.zeros((*SIZES[0], 2)), {}, "range_intensity_height reads .*height, width, 3"),
        ("lidar/train/t0.npy", np.zeros(3), {"preprocessors": {"lidar": "hha"}}, "preprocessor of lidar"),
    ],
)  # fmt: skip
def test_files_of_another_preprocessor_are_refused(root, name, content, options, words):
    write(root / name, content)
    sensor = Path(name).parts[0]
    images = {"camera": "rgb/{split}/*.png", sensor: f"{sensor}/{{split}}/{{stem}}{Path(name).suffix}"}
    with pytest.raises((ConfigError, DatasetError, LabelError), match=words):
        opened(root, images=images, splits={"train": "t0"}, **options).sample(0, [sensor])
