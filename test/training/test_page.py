"""The tables of docs/training.md are those of the shipped weights."""

from __future__ import annotations

import json

import pytest

from mlesam_ros.errors import ConfigError
from mlesam_ros.resources import resource_path
from mlesam_training.page_tables import class_table, condition_table, filled, protocol_table, subset_table


def test_the_page_is_up_to_date():
    page = resource_path("docs/training.md").read_text(encoding="utf-8")
    assert page.count("<!-- table:") == page.count("<!-- /table -->") == 5
    assert filled(page, resource_path("weights")) == page, "run python -m mlesam_training.page_tables"


def entry(sensors, miou):
    figures = dict.fromkeys(("miou_all", "macc", "fwiou", "pixel_accuracy"), 2 * miou)
    conditions = {"weather": {"night": {"miou": miou - 1}, "sun": {"miou": miou + 1}}}
    return {"sensors": sensors, "miou": miou, **figures, "conditions": conditions,
            "per_class": {"Bus": 2 * miou, "Road": 90.0, "Water": None}}  # fmt: skip


FAILING = {"average": 20.0, "expected": {"0.2": 25.0, "0.1": 30.0}}
EVALUATION = {
    "subsets": [entry(["camera", "lidar"], 30.0), entry(["camera"], 20.0), entry(["lidar"], 10.0)],
    "any_modal": FAILING,
    "emm": FAILING,
    "rmm": {"0.25": FAILING},
    "nm": {"low": 7.0},
}


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_row_per_subset_and_the_mean():
    rows = cells(subset_table(EVALUATION))[2:]
    assert [row[:2] for row in rows] == [
        ["camera + lidar", "30.0"], ["camera", "20.0"], ["lidar", "10.0"], ["mean of the 3", "20.0"],
    ]  # fmt: skip


def test_conditions_and_classes_of_all_but_one_and_one():
    headings, _, night, sun = cells(condition_table(EVALUATION))
    assert headings == ["condition", "all", "no camera", "no lidar", "camera", "lidar"]
    assert night == ["weather: night", "29.0", "9.0", "19.0", "19.0", "9.0"] and sun[1] == "31.0"
    assert [row[:2] for row in cells(class_table(EVALUATION))[2:]] == [["Road", "90.0"], ["Bus", "60.0"]]


def test_every_protocol():
    rows = cells(protocol_table(EVALUATION))
    assert rows[0] == ["sensors that fail are", "average", "p = 0.2", "p = 0.1"]
    assert rows[2:] == [
        ["left out (any-modal)", "20.0", "25.0", "30.0"],
        ["empty (EMM)", "20.0", "25.0", "30.0"],
        ["25% holes (RMM)", "20.0", "25.0", "30.0"],
        ["low noise in all (NM)", "7.0", "", ""],
    ]


def test_a_table_without_its_file_and_an_unknown_one_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="known are subsets"):
        filled("<!-- table:other -->\n<!-- /table -->", tmp_path)
    with pytest.raises(ConfigError, match=r"evaluation\.json"):
        filled("<!-- table:subsets -->\n<!-- /table -->", tmp_path)
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    page = "a\n<!-- table:subsets -->\nold\n<!-- /table -->\nb\n"
    new = filled(page, tmp_path)
    assert new.startswith("a\n<!-- table:subsets -->\n| sensors") and new.endswith("<!-- /table -->\nb\n")
    assert filled(new, tmp_path) == new
