# SPDX-License-Identifier: Apache-2.0
"""Shipped weights beside those of an earlier commit, on streets that do not change with the simulator.

    python benchmarks/yardstick.py [--weights FILE] [--json FILE] [--work FOLDER]

The earlier commit renders the 150 moments of its seeds 900 to 949 and evaluates its own weights on them, in a process
of its own; the weights of this checkout see the same moments at their own size. The result is weights/yardstick.json by
default, of which docs/training.md has the table. Takes about 15 minutes on two idle cores; `--work` keeps the first
part for the next run. Labels are those of the earlier commit, which sampled them at the upper left corners of pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from mlesam_ros.corruptions import subsets
from mlesam_ros.model.checkpoint import load_checkpoint
from mlesam_training.dataset_evaluation import EvalConfig, evaluate, robustness, subset_predictor, summary, to_json
from mlesam_training.encoded_dataset import EncodedDataset

COMMIT = "9403c1f41c"
BATCH, PRECISION = 5, "bf16"

_EARLIER = """
import json, sys
from dataclasses import replace
from mlesam_ros.model.checkpoint import load_checkpoint
from mlesam_ros.robustness import subsets
from mlesam_ros.training.dataset import prepare
from mlesam_ros.training.evaluate import How, evaluate, subset_predictor
from mlesam_ros.training.recipe import load_recipe
from mlesam_ros.training.report import to_json
from mlesam_ros.training.robustness import robustness, summary

if __name__ == "__main__":
    folder, size, out, precision, batch = sys.argv[1:]
    data = replace(load_recipe("config/training/street.yaml").data, processes=2)
    prepare(replace(data, folder=folder + "/later", size=int(size)), "held_out")
    dataset = prepare(replace(data, folder=folder + "/earlier"), "held_out")
    model, how = load_checkpoint("weights/street.safetensors").eval(), How(int(batch), precision)
    chosen = subsets(model.config.modalities)
    scores = evaluate(subset_predictor(model, chosen), dataset, model.config.modalities, chosen, how)
    found = to_json(scores, dataset.space, "earlier") | summary(robustness(model, dataset, how))
    open(out, "w").write(json.dumps(found))
"""
"""Program that renders and evaluates with the code of `COMMIT`, whose names differ from those of this checkout."""


def extract(commit: str, folder: Path) -> None:
    """Write the package of a commit, its recipes and weights to a folder."""
    parts = ("mlesam_ros", "training", "config", "weights")
    packed = subprocess.run(["git", "archive", commit, *parts], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    (folder / "training").rename(folder / "mlesam_ros" / "training")


def run_earlier(commit: str, work: Path, size: int) -> dict[str, Any]:
    """Render both sizes and evaluate the earlier weights, unless done; content of its evaluation.json."""
    program, out = work / "earlier.py", work / "earlier.json"
    if out.exists():
        return dict(json.loads(out.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as scratch:
        extract(commit, Path(scratch))
        program.write_text(_EARLIER, encoding="utf-8")
        arguments = [str(work), str(size), str(out), PRECISION, str(BATCH)]
        environment = {**os.environ, "PYTHONPATH": scratch}
        subprocess.run([sys.executable, str(program), *arguments], cwd=scratch, env=environment, check=True)
    return dict(json.loads(out.read_text(encoding="utf-8")))


def open_earlier(folder: Path) -> EncodedDataset:
    """Open samples that the earlier commit encoded, whose manifest has other names for the same entries."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    names = {"encoders": "preprocessors", "statistics": "normalization"}
    path.write_text(json.dumps({names.get(key, key): value for key, value in manifest.items()}), encoding="utf-8")
    return EncodedDataset(folder)


def run_later(weights: str, folder: Path) -> dict[str, Any]:
    """Evaluate weights of this checkout; content of its evaluation.json."""
    model, how = load_checkpoint(weights).eval(), EvalConfig(BATCH, PRECISION)
    dataset, chosen = open_earlier(folder), subsets(model.config.modalities)
    scores = evaluate(subset_predictor(model, chosen), dataset, model.config.modalities, chosen, how)
    return to_json(scores, dataset.space, "later") | summary(robustness(model, dataset, how))


def rows(found: dict[str, Any]) -> dict[str, float]:
    """Figures of the table, in percent; `found` is the content of an evaluation.json."""
    of = {"+".join(entry["sensors"]): entry for entry in found["subsets"]}
    full = max(of.values(), key=lambda entry: len(entry["sensors"]))
    return {
        "all sensors": full["miou"], "camera alone": of["camera"]["miou"],
        "mean of the 15 subsets": found["mean_of_subsets"]["miou"],
        "night": full["conditions"]["weather"]["night"]["miou"],
        "poles": full["per_class"]["Pole"], "pedestrians": full["per_class"]["Pedestrian"],
        "EMM average": found["emm"]["average"],
        **{f"RMM average, {share}": values["average"] for share, values in found["rmm"].items()},
        **{f"NM, {level}": value for level, value in found["nm"].items()},
    }  # fmt: skip


def main() -> None:
    """Render, evaluate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="weights/street.safetensors")
    parser.add_argument("--work", type=Path, help="folder for the rendered streets; a temporary one by default")
    parser.add_argument("--json", type=Path, default=Path("weights/yardstick.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (given.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        earlier = run_earlier(COMMIT, work, load_checkpoint(given.weights).config.image_size)
        later = run_later(given.weights, work / "later" / "held_out")
    before, after = rows(earlier), rows(later)
    of_class, own = (found["subsets"][0]["per_class"] for found in (earlier, later))
    result = {
        "command": "python benchmarks/yardstick.py", "commit": COMMIT,
        "figures": {name: [value, after[name]] for name, value in before.items()},
        "classes": {name: [value, own[name]] for name, value in of_class.items() if value is not None},
        "calibration_error": {" ".join(entry["sensors"]): entry["calibration_error"] for entry in later["subsets"]},
    }  # fmt: skip
    given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
