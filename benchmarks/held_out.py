# SPDX-License-Identifier: Apache-2.0
"""mIoU of a checkpoint on held-out simulated streets, for every subset of its sensors.

    python benchmarks/held_out.py [--weights FILE] [--recipe FILE] [--data FOLDER] [--json FILE]

Renders the held-out streets of the recipe first; with the default recipe that is 150 moments of the seeds 900 to 949.
The same file run in another checkout (PYTHONPATH=<checkout>) measures that one on what it renders itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from mlesam_ros.corruptions import subsets
from mlesam_ros.model.checkpoint import load_checkpoint
from mlesam_training.dataset_evaluation import EvalConfig, evaluate, subset_predictor, to_json
from mlesam_training.recipe import load_recipe
from mlesam_training.street_dataset import prepare


def main() -> None:
    """Render, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="weights/street.safetensors")
    parser.add_argument("--recipe", default="config/training/street.yaml")
    parser.add_argument("--data", default="", help="folder for the rendered streets; a temporary one by default")
    parser.add_argument("--json", type=Path, help="file for all scores, with the keys of evaluation.json")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"), help="as in training, by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = replace(load_recipe(given.recipe).data, folder=given.data or scratch, processes=2)
        dataset = prepare(data, "held_out")
        model = load_checkpoint(given.weights).eval()
        chosen = subsets(model.config.modalities)
        how = EvalConfig(precision=given.precision)
        scores = evaluate(subset_predictor(model, chosen), dataset, model.config.modalities, chosen, how)
    result = to_json(scores, dataset.space, f"{len(dataset)} moments of {given.recipe}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    for entry in result["subsets"]:
        print(f"{entry['miou']:6.2f}  {' '.join(entry['sensors'])}")
    print(f"{result['mean_of_subsets']['miou']:6.2f}  mean")


if __name__ == "__main__":
    main()
