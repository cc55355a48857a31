"""Generated tables of docs/training.md: `python -m mlesam_training.page_tables` rewrites them.

The text between `<!-- table:NAME -->` and `<!-- /table -->` on the page is one of `TABLES`, made from
weights/evaluation.json or weights/ablation.json as written by a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlesam_ros.errors import ConfigError
from mlesam_ros.resources import resource_path

_BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
_SCORES = {"miou": "mIoU", "miou_all": "over all classes", "macc": "mAcc", "fwiou": "fwIoU", "pixel_accuracy": "pixels"}
Json = Mapping[str, Any]


def subset_table(evaluation: Json) -> str:
    """Scores of every subset of the sensors, in percent, and their mean."""
    rows = [[_named(entry["sensors"]), *(entry[key] for key in _SCORES)] for entry in evaluation["subsets"]]
    means = [sum(column) / len(rows) for column in zip(*(row[1:] for row in rows), strict=True)]
    return _table(["sensors", *_SCORES.values()], [*rows, [f"mean of the {len(rows)}", *means]])


def condition_table(evaluation: Json) -> str:
    """Mean IoU per weather and fault with all sensors, all but one, and a single one."""
    shown = _shown(evaluation)
    kinds = shown["all"]["conditions"]
    rows = [
        [f"{kind}: {name}", *(entry["conditions"][kind][name]["miou"] for entry in shown.values())]
        for kind, names in kinds.items()
        for name in names
    ]
    return _table(["condition", *shown], rows)


def class_table(evaluation: Json) -> str:
    """IoU of every class in the ground truth, in descending order."""
    shown = _shown(evaluation)
    best = sorted(shown["all"]["per_class"].items(), key=lambda item: -(item[1] or 0))
    names = [name for name, iou in best if iou is not None]
    return _table(["class", *shown], [[name, *(e["per_class"][name] for e in shown.values())] for name in names])


def protocol_table(evaluation: Json) -> str:
    """Average and expected mIoU with failing sensors: left out, empty, with holes or noisy."""
    emm = evaluation["emm"]
    unknown = [None] * len(emm["expected"])
    rows: list[list[str | float | None]] = [
        ["left out (any-modal)", *_failing(evaluation["any_modal"])],
        ["empty (EMM)", *_failing(emm)],
    ]
    rows += [[f"{float(r):.0%} holes (RMM)", *_failing(found)] for r, found in evaluation["rmm"].items()]
    rows += [[f"{level} noise in all (NM)", miou, *unknown] for level, miou in evaluation["nm"].items()]
    return _table(["sensors that fail are", "average", *(f"p = {p}" for p in emm["expected"])], rows)


def ablation_table(ablation: Json) -> str:
    """The four rows of the paper's ablation."""
    rows = ablation["rows"]
    names = rows[0]["conditions"]
    cells = [
        [row["name"].replace("_", " "), row["miou"], *(row["conditions"][n] for n in names), row["mean_of_subsets"]]
        for row in rows
    ]
    return _table(["features", "all sensors", *names, "mean of all subsets"], cells)


TABLES: dict[str, tuple[str, Callable[[Json], str]]] = {
    "subsets": ("evaluation.json", subset_table),
    "conditions": ("evaluation.json", condition_table),
    "classes": ("evaluation.json", class_table),
    "protocols": ("evaluation.json", protocol_table),
    "ablation": ("ablation.json", ablation_table),
}
"""Table name → source file, and function that formats it."""


def filled(page: str, folder: Path) -> str:
    """Fill the tables of a page from the files in a folder.

    Raises:
        ConfigError: a table of the page is unknown, or its file is missing.
    """

    def block(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ConfigError(f"the page shows table:{match[2]}; known are {', '.join(TABLES)}.")
        name, made = TABLES[match[2]]
        if not (folder / name).is_file():
            raise ConfigError(f"table:{match[2]} is made of {folder / name}, which is missing; training leaves one.")
        return match[1] + made(json.loads((folder / name).read_text(encoding="utf-8"))) + match[3]

    return _BLOCK.sub(block, page)


def _shown(evaluation: Json) -> dict[str, Json]:
    """Heading → entry: all sensors, all but one, and each single sensor."""
    entries = {frozenset(entry["sensors"]): entry for entry in evaluation["subsets"]}
    full = max(entries, key=len)
    names = sorted(full)
    wanted = {"all": full, **{f"no {n}": full - {n} for n in names}, **{n: frozenset({n}) for n in names}}
    return {heading: entries[subset] for heading, subset in wanted.items() if subset in entries}


def _failing(found: Json) -> list[float]:
    return [found["average"], *found["expected"].values()]


def _named(sensors: Sequence[str]) -> str:
    return " + ".join(sensors)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> str:
    rule = ["---"] + ["--:"] * (len(headings) - 1)
    cells = [[_cell(value) for value in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in [headings, rule, *cells])


def _cell(value: str | float | None) -> str:
    return value if isinstance(value, str) else "" if value is None else f"{value:.1f}"


def main() -> None:
    """Rewrite the tables of docs/training.md."""
    page = Path(__file__).resolve().parents[2] / "docs" / "training.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), resource_path("weights")), encoding="utf-8")


if __name__ == "__main__":
    main()
