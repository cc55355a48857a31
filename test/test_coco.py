# SPDX-License-Identifier: Apache-2.0
"""COCO annotations: pycocotools decodes what is written to equal pixels, and what it encodes is read."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlesam_ros.coco import CocoWriter, decode_rle, encode_rle, read_coco
from mlesam_ros.errors import LabelError
from mlesam_ros.labels import IGNORE, load_label_space

coco_mask = pytest.importorskip("pycocotools.mask")
coco_api = pytest.importorskip("pycocotools.coco")
SPACE = load_label_space("deliver")
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(arrays(bool, SHAPES))
@settings(max_examples=200, deadline=None)
def test_rle_is_that_of_pycocotools(mask):
    ours, theirs = encode_rle(mask), coco_mask.encode(np.asfortranarray(mask, np.uint8))
    assert ours == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    assert np.array_equal(coco_mask.decode(ours), mask)
    assert np.array_equal(decode_rle(ours, "x"), mask)


def test_long_runs_and_uncompressed_counts():
    mask = np.zeros((3000, 2000), bool)
    mask[5:2990, 7] = mask[0, 1999] = True
    assert np.array_equal(coco_mask.decode(encode_rle(mask)), mask)
    flat, runs = mask.ravel(order="F"), []
    for value in flat:  # counted one by one
        if not runs or (len(runs) - 1) % 2 != value:
            runs += [0] if runs else ([0, 0] if value else [0])
        runs[-1] += 1
    assert np.array_equal(decode_rle({"size": [3000, 2000], "counts": runs}, "x"), mask)


def hard_labels():
    """Two instances of a class, a ring, a hole within a hole, single pixels, and unlabeled pixels."""
    labels = np.full((60, 80), 6, np.uint8)
    labels[5:20, 5:20] = labels[5:20, 40:70] = 9
    labels[8:17, 8:17] = IGNORE
    labels[10:15, 10:15] = 9
    labels[12, 12] = 3
    labels[30:50, 30:50] = 0
    labels[35:45, 35:45] = 6
    labels[::13, ::17] = 4
    return labels


@pytest.fixture
def written(tmp_path):
    writer = CocoWriter(SPACE)
    images = {
        "hard": hard_labels(),
        "noise": np.random.default_rng(0).choice(np.array([0, 7, 24, IGNORE], np.uint8), (50, 70)),
        "one": np.full((4, 5), 11, np.uint8),
        "none": np.full((4, 5), IGNORE, np.uint8),
    }
    for name, labels in images.items():
        writer.add(f"{name}.png", labels, np.full(labels.shape, 51, np.uint8))
    path = tmp_path / "proposals.json"
    path.write_text(json.dumps(writer.document()))
    return path, images


def test_pycocotools_reads_equal_pixels(written):
    path, images = written
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_api.COCO(str(path))
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    for image in coco.loadImgs(coco.getImgIds()):
        labels = images[image["file_name"].removesuffix(".png")]
        seen = np.full(labels.shape, IGNORE, np.uint8)
        for entry in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(entry).astype(bool)
            assert (seen[mask] == IGNORE).all(), "regions overlap"
            seen[mask] = SPACE.names.index(names[entry["category_id"]])
            assert entry["area"] == coco_mask.area(entry["segmentation"]) == mask.sum()
            assert entry["bbox"] == coco_mask.toBbox(entry["segmentation"]).tolist()
            assert entry["score"] == 0.2
        assert np.array_equal(seen, labels)
    large = [e for e in coco.loadAnns(coco.getAnnIds(1)) if names[e["category_id"]] == "Cars" and e["area"] > 20]
    assert len(large) == 3, "regions of a class have an annotation each"


def read(path, shapes):
    return read_coco(path, SPACE, shapes.get)


def test_read_labels_are_those_written(written):
    path, images = written
    found = read(path, {f"{name}.png": labels.shape for name, labels in images.items()})
    assert found.keys() == {"hard.png", "noise.png", "one.png"}
    for file, labels in found.items():
        assert np.array_equal(labels, images[file.removesuffix(".png")])


def document(**annotation):
    entry = {
        "id": 7,
        "image_id": 1,
        "category_id": 3,
        "segmentation": encode_rle(np.ones((40, 60), bool)),
        **annotation,
    }
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "categories": [{"id": 3, "name": "Road"}, {"id": 4, "name": "Sky"}, {"id": 5, "name": "Moon"}],
        "annotations": [entry],
    }


def read_document(tmp_path, content, shape=(40, 60)):
    (tmp_path / "a.json").write_text(json.dumps(content))
    return read(tmp_path / "a.json", {"a.png": shape})["a.png"]


def test_polygons_are_filled_up_to_their_border(tmp_path):
    polygon = [3.2, 4.0, 50.7, 9.5, 41.0, 36.3, 12.4, 30.0]
    labels = read_document(tmp_path, document(segmentation=[polygon]))
    theirs = coco_mask.decode(coco_mask.frPyObjects([polygon], 40, 60))[..., 0].astype(bool)
    differ = (labels == SPACE.names.index("Road")) != theirs
    padded = np.pad(theirs, 1, mode="edge")
    around = np.stack([padded[y : y + 40, x : x + 60] for y in range(3) for x in range(3)])
    assert theirs.sum() > 900 and not (differ & (around.all(0) | ~around.any(0))).any()


def test_later_annotations_count_and_category_ids_are_the_tools(tmp_path):
    content = document()
    upper = np.zeros((40, 60), bool)
    upper[:10] = True
    content["annotations"].append({**content["annotations"][0], "category_id": 4, "segmentation": encode_rle(upper)})
    labels = read_document(tmp_path, content)
    assert (labels[:10] == SPACE.names.index("Sky")).all() and (labels[10:] == SPACE.names.index("Road")).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segmentation": {"size": [40, 60], "counts": "0"}}, "do not fit"),
        ({"segmentation": {"size": [40, 60], "counts": "o"}}, "do not fit"),
        ({"segmentation": {"size": [40, 60], "counts": "o" * 99}}, "do not fit"),
        ({"segmentation": {"size": [40, 60], "counts": "\N{SNOWMAN}"}}, "do not fit"),
        ({"segmentation": {"size": [40, 60], "counts": [2500, -100]}}, "do not fit"),
        ({"segmentation": {"size": [40, 60], "counts": [10**9]}}, "do not fit"),
        ({"segmentation": {"size": [20, 30], "counts": [600]}}, r"size \[20, 30\], its image \[40, 60\]"),
        ({"segmentation": []}, "no mask or polygon"),
        ({"segmentation": [[1, 2, 3]]}, "no mask or polygon"),
        ({"segmentation": [[float("nan")] * 6]}, "no mask or polygon"),
        ({"category_id": 5}, "category 'Moon'"),
        ({"category_id": 6}, "category_id 6, which the file lacks"),
        ({"image_id": 2}, "image_id 2, which the file lacks"),
        ({"image_id": None}, r"annotations\[0\] lacks a valid"),
    ],
)
def test_malformed_annotations_are_named(tmp_path, change, words):
    with pytest.raises(LabelError, match=words):
        read_document(tmp_path, document(**change))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"images": []}', "PK\x03\x04", "[" * 100_000])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(LabelError, match=r"a\.json"):
        read(tmp_path / "a.json", {})


def test_resized_images_are_refused(tmp_path):
    with pytest.raises(LabelError, match="60x40 pixels; the frame has 120x80"):
        read_document(tmp_path, document(), (80, 120))
