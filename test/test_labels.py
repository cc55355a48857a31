# SPDX-License-Identifier: Apache-2.0
"""Label spaces: the shipped ones against the published class lists, and everything a broken one must be refused for."""

import numpy as np
import pytest
import yaml

from mlesam_ros.errors import ConfigError, LabelError
from mlesam_ros.labels import IGNORE, LabelSpace, load_label_space

SHIPPED = {"deliver": 25, "muses": 19, "cityscapes": 19, "mcubes": 20}


@pytest.mark.parametrize(("name", "classes"), SHIPPED.items())
def test_shipped_spaces_have_the_published_number_of_classes(name, classes):
    space = load_label_space(name)
    assert (space.name, len(space), space.ignore) == (name, classes, 255)


@pytest.mark.parametrize(
    ("space", "index", "name", "color"),
    [
        ("deliver", 6, "Road", (128, 64, 128)),
        ("deliver", 24, "Truck", (0, 0, 70)),
        ("cityscapes", 13, "car", (0, 0, 142)),
        ("muses", 18, "bicycle", (119, 11, 32)),
        ("mcubes", 0, "asphalt", (44, 160, 44)),
        ("mcubes", 19, "sky", (99, 121, 57)),
    ],
)
def test_ids_names_and_colors_follow_the_data_sets(space, index, name, color):
    space = load_label_space(space)
    assert space.names[index] == name
    assert tuple(space.palette[index]) == color


def test_label_space_round_trip_through_dict():
    space = load_label_space("deliver")
    assert LabelSpace.from_dict(space.to_dict()) == space


def test_pixels_outside_the_palette_are_black():
    space = load_label_space("mcubes")
    assert not space.palette[len(space) :].any()


def test_a_user_file_is_read_by_its_path(tmp_path):
    path = tmp_path / "field.yaml"
    path.write_text(yaml.safe_dump({"name": "field", "classes": [{"name": "crop", "color": [0, 255, 0]}]}))
    assert load_label_space(path).names == ("crop",)


def test_classes_may_be_written_short():
    fields = yaml.safe_load("{name: x, classes: [b: [1, 2, 3], a: [4, 5, 6]], ground: [a], obstacles: [b]}")
    space = LabelSpace.from_dict(fields)
    assert space == LabelSpace("x", ("b", "a"), ((1, 2, 3), (4, 5, 6)), ground=("a",), obstacles=("b",))
    assert LabelSpace.from_dict(space.to_dict()) == space


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ground": ["rod"]}, "ground of label space x has 'rod'; accepted are road, wall"),
        ({"ground": "road"}, "ground of label space x is 'road'; it must be a list"),
        ({"ground": ["wall"], "obstacles": ["wall"]}, "has wall in ground and in obstacles"),
        ({"grounds": []}, "did you mean ground"),
    ],
)
def test_roles_and_keys_that_do_not_fit_are_refused(changes, words):
    with pytest.raises((ConfigError, LabelError), match=words):
        LabelSpace.from_dict({"name": "x", "classes": [{"road": [1, 2, 3]}, {"wall": [4, 5, 6]}], **changes})


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x", "classes": []},
        {"name": "x", "classes": [{"name": "a", "color": [0, 0, 0]}, {"name": "a", "color": [0, 0, 1]}]},
        {"name": "x", "classes": [{"name": "a", "color": [0, 0]}]},
        {"name": "x", "classes": [{"name": "a", "color": [0, 0, 256]}]},
        {"name": "x", "classes": [{"name": "a"}]},
        {"name": "x", "classes": 3},
        {"classes": [{"name": "a", "color": [0, 0, 0]}]},
        {"name": "x", "classes": [{"name": str(i), "color": [0, 0, 0]} for i in range(256)]},
    ],
)
def test_a_broken_space_is_a_label_error(fields):
    with pytest.raises(LabelError):
        LabelSpace.from_dict(fields)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match="cityscapes, deliver, mcubes, muses"):
        load_label_space("kitti")


@pytest.mark.parametrize("content", ["a: [", "\x00"])
def test_a_file_that_is_no_yaml_is_a_config_error(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_label_space(path)


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_label_space(tmp_path / "absent.yaml")


def test_labels_outside_the_space_are_named():
    space = load_label_space("deliver")
    space.check(np.array([0, 24, IGNORE], np.uint8))
    with pytest.raises(LabelError, match=r"\[25, 99\]"):
        space.check(np.array([0, 25, 99], np.uint8))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{name: car, color: 0xff0000}", "color 16711680 of class car is not three .* Write it as \\[255, 0, 0\\]"),
        ("{name: car, color: '#00ff10'}", "color '#00ff10' of class car is not three .* Write it as \\[0, 255, 16\\]"),
        ("{name: car, color: red}", "color 'red' of class car is not three .* Write it as"),
        ("{name: car, color: null}", "color None of class car"),
        ("{name: car, color: [1, 2]}", "is not three integers"),
        ("{name: car, color: [true, false, true]}", "is not three integers"),
        ("{name: car, color: [0.5, 0, 0]}", "is not three integers"),
        ("{name: off, color: [1, 2, 3]}", "class 0 is called False; a name must be a string"),
        ("car", "class 0 of label space x is 'car'"),
        ("{name: car}", "class 0 of label space x is"),
    ],
)
def test_invalid_class_is_refused_with_a_remedy(tmp_path, entry, words):
    """An error that ends in a sentence of Python's."""
    path = tmp_path / "labels.yaml"
    path.write_text(f"name: x\nclasses: [{entry}]\n")
    with pytest.raises(LabelError, match=words) as refused:
        load_label_space(path)
    assert "object" not in str(refused.value) and "iterable" not in str(refused.value)


@pytest.mark.parametrize("text", ["classes: []", "name: x", "name: x\nclasses: 3", "name: x\nclasses: {}"])
def test_a_file_without_classes_is_refused(tmp_path, text):
    (tmp_path / "labels.yaml").write_text(text)
    with pytest.raises(LabelError, match="label space"):
        load_label_space(tmp_path / "labels.yaml")
