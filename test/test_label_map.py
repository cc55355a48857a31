# SPDX-License-Identifier: Apache-2.0
"""Label images as other tools write them: against Pillow and OpenCV on the same files, and NumPy tables by hand."""

import io
from dataclasses import replace

import cv2
import numpy as np
import PIL.Image
import pytest
import yaml
from PIL.PngImagePlugin import PngInfo

from mlesam_ros.errors import ConfigError, ImageError, LabelError
from mlesam_ros.label_map import LabelMap, RawLabels, make_label_map, read_raw_labels
from mlesam_ros.labels import ForeignLabelError, LabelSpace, load_label_space

SPACE = LabelSpace("yard", ("path", "wall", "plant"), ((200, 0, 0), (0, 200, 0), (0, 0, 200)))
IDS = np.random.default_rng(0).integers(0, 3, (6, 8)).astype(np.uint8)
IDS[0, 0] = 255
COLORS = np.array([*SPACE.colors, *[(9, 9, 9)] * 253], np.uint8)
PALETTE = {"path": [200, 0, 0], "wall": [[0, 200, 0], [1, 1, 1]], "plant": [0, 0, 200], "ignore": [9, 9, 9]}


def png(pixels, mode=None, **options):
    """Encoded by Pillow."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels, mode).save(file, "PNG", **options)
    return file.getvalue()


def indexed(pixels, colors=COLORS, **options):
    image, file = PIL.Image.fromarray(pixels, "P"), io.BytesIO()
    image.putpalette(colors.tobytes())
    image.save(file, "PNG", **options)
    return file.getvalue()


def decoded(data, **raw):
    return make_label_map(SPACE, RawLabels(**raw)).decode(data, "gt/a.png")


def rgba(alpha):
    return np.dstack([COLORS[IDS], alpha])


@pytest.mark.parametrize(
    ("data", "raw"),
    [
        (png(IDS), {}),
        (cv2.imencode(".png", IDS)[1].tobytes(), {}),
        (png(IDS.astype(np.uint16)), {}),
        (indexed(IDS), {}),
        (png(COLORS[IDS]), {"palette": PALETTE}),
        (png(COLORS[IDS]), {"palette": "space", "ignore": ()} | {"palette": PALETTE}),
        (indexed(IDS), {"palette": PALETTE}),
        (cv2.imencode(".png", COLORS[IDS][..., ::-1])[1].tobytes(), {"palette": PALETTE}),
        (png(rgba(np.where(IDS == 255, 0, 255).astype(np.uint8))), {"palette": "space"}),
        (png(np.dstack([IDS, np.where(IDS == 255, 0, 255).astype(np.uint8)]), "LA"), {}),
        (
            png(np.where(IDS == 255, 65535, IDS.astype(np.uint16) + 26000)),
            {"map": {26000: "path", 26001: "wall", 26002: 2}, "ignore": [65535]},
        ),
        (png(IDS[::-1]), {"map": {0: "path", 1: "wall", 2: "plant"}}),
    ],
)  # fmt: skip
def test_every_layout_of_the_same_labels_gives_the_same_ids(data, raw):
    wanted = IDS[::-1] if list(raw.get("map", {})) == [0, 1, 2] else IDS
    assert np.array_equal(decoded(data, **raw), wanted)


@pytest.mark.parametrize(
    ("data", "raw"),
    [
        (indexed(IDS, transparency=1), {}),
        (png(IDS, transparency=1), {}),
        (png(COLORS[IDS], transparency=tuple(COLORS[1].tolist())), {"palette": PALETTE}),
    ],
)
def test_transparent_value_is_unlabeled(data, raw):
    assert np.array_equal(decoded(data, **raw), np.where(IDS == 1, 255, IDS))


def test_map_is_the_table_by_hand():
    raw = np.random.default_rng(1).integers(0, 6, (9, 7)).astype(np.uint8)
    found = decoded(png(raw), map={0: "ignore", 1: "plant", 2: "plant", 3: "path", 4: None, 5: 1})
    assert np.array_equal(found, np.array([255, 2, 2, 0, 255, 1], np.uint8)[raw])


def test_255_may_be_a_class_of_binary_masks():
    assert np.array_equal(decoded(png(np.uint8([[0, 255]])), map={0: "ignore", 255: "path"}), [[255, 0]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_opencv_does(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = png(IDS, exif=exif)
    upright = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(decoded(data), upright)


@pytest.mark.parametrize(
    ("data", "raw", "words"),
    [
        (png(np.uint8([[0, 7, 7, 9]])), {}, r"a.png has the ids \[7, 9\] \(2, 1 pixels\); label space yard has 0 to 2"),
        (png(np.uint8([[0, 7, 7]])), {"map": {0: 0}}, r"\[7\] \(2 pixels\); map lacks them. Add each to map"),
        (png(np.uint16([[0, 300]])), {}, r"\[300\]"),
        (png(COLORS[IDS]), {"palette": {"path": [1, 2, 3]}}, r"colors \[\[0, 0, 200\], .* palette lacks"),
        (png(COLORS[IDS]), {}, "has colors, not ids. Add palette"),
        (png(rgba(np.full_like(IDS, 128))), {"palette": "space"}, "48 partly transparent pixels"),
        (cv2.imencode(".jpg", IDS)[1].tobytes(), {}, "is a JPEG"),
        (png(IDS[:1, :1] % 2 > 0), {}, "gray with 1 bits per sample"),
        (cv2.imencode(".png", COLORS[IDS].astype(np.uint16))[1].tobytes(), {"palette": "space"}, "color with 16 bits"),
        (indexed(np.uint8([[1, 0]]), COLORS[[1, 0, 2]]), {}, "those of other classes of label space yard"),
        (indexed(np.uint8([[0, 1]]), np.uint8([[0, 0, 0], COLORS[0]])), {}, "those of other classes of"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_named(data, raw, words):
    with pytest.raises(LabelError, match=words):
        decoded(data, **raw)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", png(IDS)[:60], b"GIF89a"])
def test_damaged_file_is_an_image_error(data):
    with pytest.raises(ImageError, match=r"gt/a.png cannot be decoded"):
        decoded(data)


def test_foreign_space_maps_equal_names_and_the_rest_by_map(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text("name: theirs\nclasses: [wall: [7, 7, 7], street: [8, 8, 8], path: [6, 6, 6]]\n")
    raw = RawLabels(raw_space=str(path), map={"street": "path"}, palette="space")
    assert make_label_map(SPACE, raw).ids == {0: 1, 1: 0, 2: 0, 255: 255}
    assert make_label_map(SPACE, raw).colors == {(7, 7, 7): 1, (8, 8, 8): 0, (6, 6, 6): 0}
    with pytest.raises(LabelError, match=r"yard has no street of label space theirs.* map: {street: ignore}"):
        make_label_map(SPACE, RawLabels(raw_space=str(path)))


def test_classes_of_one_list_are_compared_as_the_first():
    space = load_label_space("cityscapes")
    label_map = make_label_map(space, RawLabels(map={0: ["car", "truck", "bus"], 1: "road"}), merge=True)
    car, truck, bus, road, sky = (space.names.index(name) for name in ("car", "truck", "bus", "road", "sky"))
    assert np.array_equal(label_map.of_ids(np.uint8([[0, 1]]), "a"), [[car, road]])
    assert np.array_equal(label_map.merge(np.uint8([truck, bus, car, road, sky])), [car, car, car, road, sky])
    raw = RawLabels(raw_space="cityscapes", map={"car": ["car", "truck", "bus"]})  # the others by equal names
    for palette in (None, "space"):
        label_map = make_label_map(space, replace(raw, palette=palette), merge=True)
        ids = np.uint8([[truck, bus, car, road, sky]])
        truth = label_map.of_ids(ids, "a") if palette is None else label_map.of_colors(np.uint8(space.colors)[ids], "a")
        assert np.array_equal(truth, label_map.merge(ids))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"map": {0: "pat"}}, "did you mean path"),
        ({"map": {0: 3}}, "3 is unknown"),
        ({"map": {0: ["path", "wall"]}}, "must be one class"),
        ({"map": {-1: "path"}}, "raw id -1"),
        ({"map": {"street": "path"}}, "has the name 'street'"),
        ({"map": {"street": "path"}, "palette": {"path": [1, 1, 1]}}, "palette has no color of"),
        ({"map": []}, "must be a mapping"),
        ({"ignore": [1.5]}, "raw id 1.5"),
        ({"palette": "colors"}, "palette is 'colors'"),
        ({"palette": {"path": [1, 2]}}, r"color \[1, 2\] of path"),
        ({"palette": {"street": [1, 2, 3]}}, "palette: class 'street' is unknown"),
        ({"palette": {"path": [1, 2, 3], "wall": [1, 2, 3]}}, r"color \[1, 2, 3\] for wall and for another"),
        ({"raw_space": "nowhere.yaml"}, "nowhere.yaml"),
        ({"raw_space": "cityscapes", "map": {"rod": "path"}}, "did you mean road"),
    ],
)
def test_description_that_does_not_fit_is_refused(raw, words):
    with pytest.raises((ConfigError, LabelError), match=words):
        make_label_map(SPACE, RawLabels(**raw))


def test_file_has_the_keys_of_the_description(tmp_path):
    path = tmp_path / "foreign.yaml"
    path.write_text(yaml.safe_dump({"map": {7: "path"}, "ignore": [0]}))
    assert make_label_map(SPACE, read_raw_labels(path)) == LabelMap(SPACE, {7: 0, 0: 255, 255: 255})
    for text, words in (("maps: {}", "did you mean map"), ("3", "not a mapping"), ("{", "cannot be read")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_raw_labels(path)


def test_error_of_several_files_adds_their_pixels():
    first, second = (ForeignLabelError(name, {7: 2, n: 1}, "yard has 0") for name, n in (("a", 8), ("b", 9)))
    assert str(first.merged([second])).startswith("a and 1 more files have the ids [7, 8, 9] (4, 1, 1 pixels); yard")


def test_text_chunks_do_not_matter():
    note = PngInfo()
    note.add_text("tool", "any")
    assert np.array_equal(decoded(png(IDS, pnginfo=note)), IDS)
