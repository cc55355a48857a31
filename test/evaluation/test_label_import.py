# SPDX-License-Identifier: Apache-2.0
"""Corrected masks: the forms in which annotation tools export them, and their faults."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from mlesam_ros.coco import CocoWriter
from mlesam_ros.errors import MlesamError
from mlesam_ros.evaluation.label_folder import CLASSES, NewFiles, read_splits, write_data
from mlesam_ros.evaluation.label_import import import_labels
from mlesam_ros.labels import IGNORE, load_label_space
from mlesam_ros.types import CAMERA

SPACE = load_label_space("deliver")
NAMES = [f"drive_{1_700_000_000_000_000_000 + index * 10**9}" for index in range(10)]
SHAPE = (30, 40)
LABELS = np.random.default_rng(3).choice(np.array([*range(len(SPACE)), IGNORE], np.uint8), SHAPE)
RGB = SPACE.palette[LABELS]
UNLABELED = (LABELS == IGNORE)[..., None]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "labels"
    (folder / "images").mkdir(parents=True)
    for name in NAMES:
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.zeros((*SHAPE, 3), np.uint8))
    write_data(NewFiles(folder), [tmp_path / "drive"], (32, 32), SPACE, {}, (CAMERA,))
    return folder


@pytest.fixture
def export(tmp_path):
    (tmp_path / "export").mkdir()
    return tmp_path / "export"


def imported(folder, name=NAMES[0]):
    return cv2.imread(str(folder / "labels" / f"{name}.png"), cv2.IMREAD_UNCHANGED)


def palette_png(path):
    """Indices that are not the ids."""
    order = np.random.default_rng(0).permutation(256).astype(np.uint8)
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[LABELS], "P")
    image.putpalette(SPACE.palette[order].ravel().tolist())
    image.save(path)


FORMS = {
    "ids": lambda path: cv2.imwrite(str(path), LABELS),
    "16-bit ids": lambda path: cv2.imwrite(str(path), LABELS.astype(np.uint16)),
    "colors": lambda path: Image.fromarray(RGB).save(path),
    "opaque": lambda path: Image.fromarray(np.dstack([RGB, np.full(SHAPE, 255, np.uint8)])).save(path),
    "unlabeled pixels transparent": lambda path: Image.fromarray(
        np.dstack([np.where(UNLABELED, np.uint8(77), RGB), np.where(UNLABELED, 0, 255)[..., :1].astype(np.uint8)])
    ).save(path),
    "palette": palette_png,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_png_is_read_exactly(folder, export, form):
    FORMS[form](export / f"{NAMES[0]}.png")
    found = import_labels(export, folder)
    assert found.names == NAMES[:1] and (found.frames, found.labeled, found.foreign) == (10, 1, [])
    assert np.array_equal(imported(folder), LABELS)


def test_cvat_export_has_its_own_colors(folder, export):
    """Of `Segmentation mask 1.1`: masks of instances beside those of classes, colors in labelmap.txt."""
    colors = np.random.default_rng(5).permutation(256)[: len(SPACE) + 1].astype(np.uint8)
    lines = [f"{name}:{c},{255 - c},7::" for name, c in zip((*SPACE.names, "background"), colors.tolist(), strict=True)]
    (export / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\nunused:1,2,3::\n")
    index = np.where(LABELS == IGNORE, len(SPACE), LABELS)
    mask = np.dstack([colors[index], 255 - colors[index], np.full(SHAPE, 7, np.uint8)])
    for inside in ("SegmentationClass", "SegmentationObject"):
        (export / inside).mkdir()
        Image.fromarray(mask if inside == "SegmentationClass" else 255 - mask).save(export / inside / f"{NAMES[0]}.png")
    import_labels(export, folder)
    assert np.array_equal(imported(folder), LABELS)


def test_coco_of_other_folders_and_of_label_studio(folder, export):
    writer = CocoWriter(SPACE)
    writer.add(f"0a1b2c3d-{NAMES[0]}.png", LABELS, LABELS)
    writer.add(f"default/images/{NAMES[1]}.png", LABELS, LABELS)
    writer.add("holiday.png", LABELS, LABELS)
    (export / "instances_default.json").write_text(json.dumps(writer.document()))
    found = import_labels(export / "instances_default.json", folder)
    assert found.names == NAMES[:2] and found.foreign == ["holiday.png"]
    assert np.array_equal(imported(folder, NAMES[1]), LABELS)


def test_masks_that_nobody_drew_are_left_out(folder, export):
    for name in NAMES[:2]:
        cv2.imwrite(str(export / f"{name}.png"), LABELS if name == NAMES[0] else np.zeros((*SHAPE, 3), np.uint8))
    assert import_labels(export, folder).names == NAMES[:1]


def test_the_last_fifth_is_held_out_and_frames_stay_in_their_split(folder, export):
    cv2.imwrite(str(export / f"{NAMES[4]}.png"), LABELS)
    import_labels(export, folder)
    assert read_splits(folder) == {"train": {NAMES[4]}, "held_out": set()}
    for name in NAMES[:5]:
        cv2.imwrite(str(export / f"{name}.png"), LABELS)
    import_labels(export, folder)
    assert read_splits(folder) == {"train": {*NAMES[:3], NAMES[4]}, "held_out": {NAMES[3]}}
    for name in NAMES:
        cv2.imwrite(str(export / f"{name}.png"), LABELS)
    import_labels(export, folder)
    assert read_splits(folder)["held_out"] == {NAMES[3], NAMES[9]}


def resized(path):
    cv2.imwrite(str(path), cv2.resize(LABELS, (80, 60), interpolation=cv2.INTER_NEAREST))


def foreign_id(path):
    cv2.imwrite(str(path), np.where(LABELS == 3, np.uint8(99), LABELS))


def foreign_color(path):
    mask = RGB.copy()
    mask[4, 5:8] = 250, 1, 2
    Image.fromarray(mask).save(path)


def transparent(path):
    alpha = np.full(SHAPE, 255, np.uint8)
    alpha[0, 0] = 100
    Image.fromarray(np.dstack([RGB, alpha])).save(path)


def four_bits(path):
    image = Image.fromarray(np.minimum(LABELS, 9), "P")
    image.putpalette([v for v in range(10) for _ in range(3)])
    image.save(path, bits=4)
    data = bytearray(path.read_bytes())
    data[25] = 0  # the same samples as gray values
    path.write_bytes(data)


FAULTS = {
    "resized": (resized, "80x60 pixels, its frame 40x30"),
    "unknown id": (foreign_id, r"\[99\]"),
    "unknown color": (foreign_color, r"\[250, 1, 2\]\] \(3 pixels\)"),
    "transparent": (transparent, "1 partly transparent pixels"),
    "4 bits": (four_bits, "4 bits per sample"),
    "empty": (lambda path: path.write_bytes(b""), "neither JPEG nor PNG"),
    "text": (lambda path: path.write_text("a mask"), "neither JPEG nor PNG"),
    "JPEG": (lambda path: path.write_bytes(cv2.imencode(".jpg", RGB)[1].tobytes()), "JPEG"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_nothing_is_written(folder, export, fault):
    write, words = FAULTS[fault]
    cv2.imwrite(str(export / f"{NAMES[0]}.png"), LABELS)
    write(export / f"{NAMES[1]}.png")
    with pytest.raises(MlesamError, match=words) as caught:
        import_labels(export, folder)
    assert NAMES[1] in str(caught.value) and caught.value.remedy
    assert not (folder / "labels").exists() and read_splits(folder) == {}


def sources(export, folder):
    (export / "a.zip").write_bytes(b"PK\x03\x04")
    (export / "annotations.xml").write_text("<?xml version='1.0'?>")
    (export / "other").mkdir()
    cv2.imwrite(str(export / "other" / "holiday.png"), LABELS)
    (export / "twice" / "b").mkdir(parents=True)
    for inside in ("twice", "twice/b"):
        cv2.imwrite(str(export / inside / f"{NAMES[0]}.png"), LABELS)
    (export / "coco" / "annotations").mkdir(parents=True)
    (export / "coco" / "annotations" / "instances_default.json").write_text("{}")
    (export / "map").mkdir()
    (export / "map" / "labelmap.txt").write_text("Road:1,2::\n")
    cv2.imwrite(str(export / "map" / f"{NAMES[0]}.png"), LABELS)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing", "is missing"),
        ("a.zip", "a ZIP archive"),
        ("annotations.xml", "COCO file .* or a folder"),
        ("missing.json", "cannot be read"),
        ("other", "no mask of a frame .*holiday.png"),
        ("twice", "two masks"),
        ("coco", "instances_default.json"),
        ("map", "labelmap.txt has the line 'Road:1,2::'"),
    ],
)
def test_sources_that_are_none_are_named(folder, export, source, words):
    sources(export, folder)
    with pytest.raises(MlesamError, match=words):
        import_labels(export / source, folder)
    assert not (folder / "labels").exists()


def test_other_folders_and_damaged_frames_are_named(folder, export, tmp_path):
    cv2.imwrite(str(export / f"{NAMES[0]}.png"), LABELS)
    with pytest.raises(MlesamError, match="no folder of mlesam label"):
        import_labels(export, tmp_path)
    (folder / "images" / f"{NAMES[0]}.png").write_bytes(b"")
    with pytest.raises(MlesamError, match=f"{NAMES[0]}.png cannot be read"):
        import_labels(export, folder)
    assert (folder / CLASSES).exists()
