# SPDX-License-Identifier: Apache-2.0
"""Experts that start from the shipped checkpoint beside experts that start cold, at equal steps.

    python benchmarks/warm_start.py [--steps N] [--size PIXELS] [--data FOLDER] [--json FILE]

A robot with a camera and a LiDAR in streets of the style `varied`: 120 samples to train on, 60 of other streets to
measure. Three seeds; data, frozen backbone and steps are the same, the rest is as `mlesam train --data` chooses it. The
result is weights/warm_start.json by default, of which docs/training.md has the table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mlesam_ros.corruptions import subsets
from mlesam_ros.model.checkpoint import load_checkpoint
from mlesam_training.dataset_evaluation import EvalConfig, evaluate, subset_predictor
from mlesam_training.recipe import Recipe, Split, StreetData, from_mapping
from mlesam_training.recipe_choice import fill_recipe
from mlesam_training.street_dataset import prepare
from mlesam_training.train_run import VALIDATION, headline, train

SEEDS = (1, 2, 3)
STARTS = {"cold": "hiera_nano", "from street": "street"}
SENSORS = ("camera", "lidar")


def make_recipe(folder: Path, size: int, steps: int, start: str, seed: int) -> Recipe:
    """Recipe of one run."""
    split = partial(Split, moments=3, weathers={"sun": 0.5, "night": 0.5}, styles={"varied": 1.0})
    data = StreetData(str(folder), split(100, 40), split(900, 20), size, 2 * size)
    content = {
        "data": asdict(data), "model": {"modalities": list(SENSORS)}, "seed": seed, "steps": steps,
        "validate_every": steps // 4,
    }  # fmt: skip
    return from_mapping(Recipe, fill_recipe(content, start, leave_open=True), "recipe")


def run(recipe: Recipe, out: Path) -> dict[int, float]:
    """Train; mIoU in percent of both sensors by step."""
    result = train(recipe, out)
    found = [json.loads(line) for line in (out / VALIDATION).read_text(encoding="utf-8").splitlines()]
    return {**{entry["step"]: entry["miou"] for entry in found}, recipe.steps: headline(result.scores, "")["miou"]}


def untrained(recipe: Recipe) -> float:
    """MIoU in percent of the shipped checkpoint as it is, with the same two sensors."""
    assert isinstance(recipe.data, StreetData)
    model, chosen = load_checkpoint("street"), subsets(SENSORS)[:1]
    dataset = prepare(recipe.data, "held_out", {m: model.config.preprocessors[m] for m in SENSORS})
    scores = evaluate(subset_predictor(model, chosen), dataset, SENSORS, chosen, EvalConfig())
    return float(headline(scores, "")["miou"])


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--data", type=Path, help="folder for the rendered streets; a temporary one by default")
    parser.add_argument("--json", type=Path, default=Path("weights/warm_start.json"))
    given = parser.parse_args()
    begun, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.data or Path(scratch) / "data"
        for name, start in STARTS.items():
            recipes = [make_recipe(folder, given.size, given.steps, start, seed) for seed in SEEDS]
            runs = [run(recipe, Path(scratch) / f"{name} {recipe.seed}") for recipe in recipes]
            at = {step: [each[step] for each in runs] for step in runs[0]}
            rows.append({"start": name, "miou": {step: round(mean(values), 2) for step, values in at.items()},
                         "spread": round(stdev(at[given.steps]), 2)})  # fmt: skip
        rows[1]["miou"] = {0: untrained(recipes[0]), **rows[1]["miou"]}
    result: dict[str, Any] = {
        "command": "python benchmarks/warm_start.py", "steps": given.steps, "size": given.size, "seeds": list(SEEDS),
        "minutes": round((time.monotonic() - begun) / 60, 1), "rows": rows,
    }  # fmt: skip
    given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
