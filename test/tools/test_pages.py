# SPDX-License-Identifier: Apache-2.0
"""tools/pages.py: the generated tables of docs/ are up to date."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("rclpy")
import pages
from pages import (
    TABLES,
    benchmark_table,
    classes,
    conditions,
    fill,
    networks,
    node_parts,
    node_stages,
    protocols,
    runtimes,
    subsets,
    write_recorded,
)

from mlesam_ros.config import iter_parameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.ros.diagnostics import PIPELINE_MESSAGES, SENSOR_MESSAGES
from mlesam_ros.ros.publishers import OUTPUTS
from mlesam_ros.ros.snapshot import SERVICES
from mlesam_ros.types import MODALITIES


def test_docs_are_up_to_date():
    assert [page.name for page, _ in pages.stale_pages()] == [], "run python tools/pages.py"


def test_every_table_is_on_one_page():
    names = [name for page in pages.DOCS.glob("*.md") for name in re.findall(r"<!-- begin (\w+) -->", page.read_text())]
    sources = [path.stem for kind in ("paths*", "model_*") for path in pages.RESULTS.glob(f"{kind}.json")]
    unused = {f"bench_{name}" for name in sources}  # of the tables `switches` and `bench_model`
    assert sorted(names) == sorted(TABLES.keys() - unused | pages.RECORDED)


@pytest.mark.parametrize("name", sorted(TABLES.keys() - {"backbones"}))
def test_every_row_has_every_column(name):
    rows = [line for line in TABLES[name]().splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_node_tables_are_complete():
    text = (pages.DOCS / "node.md").read_text(encoding="utf-8")
    for name, _, _ in iter_parameters():
        group, _, short = name.rpartition(".")
        assert (f"`<sensor>.{short}`" if group in MODALITIES else f"`{name}`") in text
    assert all(f"`~/{name}`" in text for name in (*OUTPUTS, *SERVICES))
    for template in (*SENSOR_MESSAGES.values(), *PIPELINE_MESSAGES.values()):
        assert template.message.replace(".message}", "}") in text and template.cause.endswith(".")
        assert template.remedy or template.level == b"\0"


def test_fill_replaces_tables_and_keeps_the_rest():
    page = "a\n<!-- begin one -->\nold\n<!-- end one -->\nb\n<!-- begin soak -->\nrecorded\n<!-- end soak -->\n"
    filled = fill(page, {"one": lambda: "| new |\n\n"})
    assert filled == page.replace("old", "| new |")
    assert fill(filled, {"one": lambda: "| new |"}) == filled


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("<!-- begin other -->\n<!-- end other -->", "table other is unknown"),
        ("<!-- begin one -->\n", "no counterpart"),
        ("<!-- begin one -->\n<!-- end two -->", "no counterpart"),
    ],
)
def test_wrong_markers_are_refused(page, error):
    with pytest.raises(ConfigError, match=error):
        fill(page, {"one": lambda: ""})


def test_recorded_table_is_written_into_its_place(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin soak -->\nold\n<!-- end soak -->\nafter\n")
    for text in ("new", "newer\n"):
        write_recorded(page, "soak", text)
    assert page.read_text() == "before\n<!-- begin soak -->\nnewer\n<!-- end soak -->\nafter\n"
    with pytest.raises(ConfigError, match="begin faults"):
        write_recorded(page, "faults", "new")


ROW = {"name": "work", "unit": "ms", "median": 1.23456, "p99": 2.0, "spread": 0.1, "repeats": 9}
ROW |= {"alternative": "other", "alternative_median": 3.0, "ratio": 2.44}
RESULT = {"device": "a machine", "versions": {"python": "3"}, "date": "2026-11-28", "load": 1.0, "command": "bench x"}


def test_benchmark_table_leaves_out_empty_columns():
    text = benchmark_table({**RESULT, "rows": [ROW]})
    assert text.startswith("|  | median (CPU) | compared with |\n")
    assert "compared" not in benchmark_table({**RESULT, "rows": [{**ROW, "alternative": None}]})
    assert "| work | 1.23 ms | other: 3 (×2.44) |\n\na machine, 2026-11-28, load 1. `bench x`.\n" in text
    by_cpu = {**ROW, "cpu": 1.0, "alternative_cpu": 5.0}
    assert "| work | 1.23 ms (1) | other: 3 (×5) |" in benchmark_table({**RESULT, "rows": [by_cpu]})
    alike = {**ROW, "cpu": 1.23, "alternative_cpu": 6.15}
    assert "| work | 1.23 ms | other: 3 (×5) |" in benchmark_table({**RESULT, "rows": [alike]})


def test_networks_are_columns():
    stage = {**ROW, "name": "small 64x64, bf16: encode", "median": 0.5, "alternative": None}
    rows = [{**ROW, "name": "small 64x64, bf16"}, stage]
    large = {**RESULT, "rows": [{**row, "name": row["name"].replace("small", "large")} for row in rows]}
    text = networks({"model": {**RESULT, "rows": rows}, "model_large": large, "paths": {}})
    assert cells(text)[:1] == [["ms", "small 64x64", "large 64x64"]]
    assert cells(text)[2:5] == [
        ["four sensors as one batch", *2 * ["1.23"]],
        ["other", "3", "3"],
        ["encode", *2 * ["0.5"]],
    ]


def test_rigs_of_the_node_are_columns():
    rows = [{**ROW, "name": f"{rig}: publish"} for rig in ("street", "1080p")] + [ROW]
    text = node_stages({"node": {**RESULT, "rows": rows}})
    assert cells(text)[0] == ["", "street", "every topic", "1080p", "every topic"]
    assert cells(text)[2] == ["publish, ms", "1.23 (2)", "3", "1.23 (2)", "3"]
    assert cells(node_parts({"node": {**RESULT, "rows": rows}}))[2][0] == "work"


def entry(sensors, miou):
    figures = dict.fromkeys(("miou_all", "macc", "fwiou", "pixel_accuracy"), 2 * miou)
    by_condition = {"weather": {"night": {"miou": miou - 1}, "sun": {"miou": miou + 1}}}
    errors = {
        "calibration_error_before": miou / 100,
        "calibration_error": miou / 200,
    }
    return {"sensors": sensors, "miou": miou, **figures, **errors, "conditions": by_condition,
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


def test_subset_table_has_a_row_per_subset_and_the_mean():
    rows = cells(subsets(EVALUATION))[2:]
    assert rows == [
        ["camera + lidar", "30.0", "30.0", "15.0"], ["camera", "20.0", "20.0", "10.0"],
        ["lidar", "10.0", "10.0", "5.0"], ["mean of the 3", "20.0", "20.0", "10.0"],
    ]  # fmt: skip


def test_condition_and_class_tables_have_columns_for_camera_and_lidar():
    headings, _, night, sun = cells(conditions(EVALUATION))
    assert headings == ["condition", "all", "no camera", "no lidar", "camera", "lidar"]
    assert night == ["weather: night", "29.0", "9.0", "19.0", "19.0", "9.0"] and sun[1] == "31.0"
    assert cells(classes(EVALUATION))[0] == ["class", "all", "no lidar", "camera"]
    assert cells(classes(EVALUATION))[2:] == [["Road", "90.0", "90.0", "90.0"], ["Bus", "60.0", "40.0", "40.0"]]


def test_protocol_table_has_a_row_per_failure():
    rows = cells(protocols(EVALUATION))
    assert rows[0] == ["sensors that fail are", "average", "p = 0.2", "p = 0.1"]
    assert rows[2:] == [
        ["left out (any-modal)", "20.0", "25.0", "30.0"],
        ["empty (EMM)", "20.0", "25.0", "30.0"],
        ["25% holes (RMM)", "20.0", "25.0", "30.0"],
        ["low noise in all (NM)", "7.0", "", ""],
    ]


def test_runtimes_have_a_row_each():
    def row(name, median, **values):
        none = dict.fromkeys(("alternative", "alternative_median", "ratio", "cpu", "alternative_cpu"))
        return {"name": name, "median": median, **none, **values}

    rows = [
        row(
            "net, fast", 5.0, cpu=4.0, alternative_cpu=8.0, ratio=2.0, alternative="torch fp32", alternative_median=9.0
        ),
        row("net, fast: labels of fp32", 99.4),
        row("net, fast: mIoU on held-out streets", 44.0, alternative="torch fp32", alternative_median=45.0),
        row("net, fast: its file", 15.2),
        row("other", 3.0, ratio=3.0, alternative="torch fp32", alternative_median=9.0),
    ]
    result = {"rows": rows, "device": "CPU", "date": "today", "load": 0.1, "command": "measure"}
    assert runtimes({"runtimes": result}).splitlines() == [
        "|  | median, ms | CPU, ms | beside torch fp32 | labels of fp32, % | mIoU (fp32), % | file, MB |",
        "| --- | --: | --: | --: | --: | --: | --: |",
        "| net, fast | 5 | 4 | ×2.00 | 99.4 | 44 (45) | 15.2 |",
        "| other | 3 |  | ×3.00 |  |  |  |",
        "",
        "CPU, today, load 0.1. `measure`.",
    ]
