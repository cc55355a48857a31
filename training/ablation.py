"""The paper's ablation: one recipe, four models, the same budget for each, one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlesam_ros.errors import ConfigError
from mlesam_ros.files import atomic_write
from mlesam_ros.training.distributed import is_first, pick_device, processes
from mlesam_ros.training.recipe import Recipe
from mlesam_ros.training.train import Result, train

ROWS: dict[str, dict[str, Any]] = {
    "average": {"features": "average", "auxiliary": False},
    "routed": {"features": "routed", "auxiliary": False},
    "both": {"features": "both", "auxiliary": False},
    "both_and_auxiliary": {"features": "both", "auxiliary": True},
}
"""Name → what it changes of the recipe's model."""
ABLATION = "ablation.json"


def ablate(recipe: Recipe, out: str | Path, resume: bool = True) -> Path:
    """Train and measure the four rows, each in a folder of its own; what is finished is not done again.

    Args:
        recipe: of stage `experts`.
        out: folder of the four, and of `ablation.json`.
        resume: go on with rows that were killed.

    Returns:
        Path of `ablation.json`.

    Raises:
        ConfigError: a recipe of another stage.
        MlesamError: see `train`.
    """
    if recipe.stage != "experts":
        raise ConfigError(
            f"stage is {recipe.stage}; an ablation compares fusions, which stage experts trains.",
            "Give a recipe of stage experts.",
        )
    with processes(pick_device(recipe.device)):
        models = {name: {**recipe.model, **change} for name, change in ROWS.items()}
        results = {
            name: train(replace(recipe, model=model), Path(out) / name, resume) for name, model in models.items()
        }
    path, rows = Path(out) / ABLATION, [_row(name, result) for name, result in results.items()]
    if is_first():
        atomic_write(path, json.dumps({"steps": recipe.steps, "epochs": recipe.epochs, "rows": rows}, indent=1))
        Console(stderr=True).print(_table(rows))
    return path


def _row(name: str, result: Result) -> dict[str, Any]:
    full = next(iter(result.scores.values()))
    kinds = full.conditions.values()
    return {
        "name": name,
        "model": ROWS[name],
        "miou": _percent(full.whole.miou_present),
        "conditions": {condition: _percent(part.miou_present) for parts in kinds for condition, part in parts.items()},
        "mean_of_subsets": _percent(sum(s.whole.miou_present for s in result.scores.values()) / len(result.scores)),
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Of the conditions, which are in the file, a terminal has no room for all."""
    made = Table(title="ablation, mIoU", title_justify="left")
    for heading in ("features", "all sensors", "mean of all subsets"):
        made.add_column(heading, justify="left" if heading == "features" else "right")
    for row in rows:
        values = (row["miou"], row["mean_of_subsets"])
        made.add_row(row["name"].replace("_", " "), *(f"{value:.1f}" for value in values))
    return made


def _percent(value: float) -> float:
    return round(100 * value, 2)
