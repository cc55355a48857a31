# SPDX-License-Identifier: Apache-2.0
"""mIoU of a checkpoint on held-out simulated streets, for every subset of its sensors.

    python benchmarks/held_out.py [--weights FILE] [--recipe FILE] [--data FOLDER] [--json FILE] [--export FILE]
    python benchmarks/held_out.py --calibration

Renders the held-out streets of the recipe first; with the default recipe that is 150 samples of the seeds 900 to 949.
`--calibration` fits temperatures on every second street, whatever the checkpoint has, and prints the expected
calibration error on the other streets without and with them.
The same file run in another checkout (PYTHONPATH=<checkout>) measures that one on what it renders itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mlesam_ros.corruptions import Subset, subsets
from mlesam_ros.model.checkpoint import load_checkpoint
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.runtimes import Runtime, load_exported
from mlesam_ros.types import Modality
from mlesam_training.dataset_evaluation import EvalConfig, evaluate, most_likely, subset_predictor, to_json
from mlesam_training.recipe import load_recipe
from mlesam_training.street_dataset import prepare
from mlesam_training.temperature import fit_temperatures


class ExportPredictor:
    """Predictor of an exported file, which also counts the pixels that have the labels of the model in float32."""

    def __init__(self, runtime: Runtime, model: MLESAM, chosen: Sequence[Subset]) -> None:
        self._runtime, self._model, self._chosen = runtime, model, chosen
        self.equal: dict[Subset, list[float]] = {subset: [] for subset in chosen}

    def __call__(self, images: dict[Modality, Tensor], rows: Sequence[int]) -> Iterator[tuple[Subset, Tensor]]:
        """Yield the labels as logits, 1 for the class and 0 for the others."""
        with torch.autocast("cpu", enabled=False):
            features = self._model.features(images)
        for subset in self._chosen:
            found = [self._runtime({m: images[m][i].numpy() for m in subset}).labels for i in range(len(rows))]
            labels = torch.from_numpy(np.stack(found)).long()
            with torch.autocast("cpu", enabled=False):
                logits = self._model.decode_heads(features.select(subset)).fused
            self.equal[subset].append(float((most_likely(logits, labels.shape[-2:]) == labels.numpy()).mean()))
            yield subset, F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2)


def main() -> None:
    """Render, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="weights/street.safetensors")
    parser.add_argument("--recipe", default="config/training/street.yaml")
    parser.add_argument("--data", default="", help="folder for the rendered streets; a temporary one by default")
    parser.add_argument("--json", type=Path, help="file for all scores, with the keys of evaluation.json")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"), help="as in training, by default")
    parser.add_argument("--export", type=Path, help="file of mlesam export that makes the masks in the model's place")
    parser.add_argument("--calibration", action="store_true", help="calibration error before and after temperatures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = replace(load_recipe(given.recipe).data, folder=given.data or scratch, processes=2)
        dataset = prepare(data, "held_out")
        model = load_checkpoint(given.weights).eval()
        chosen = subsets(model.config.modalities)
        model.config = replace(model.config, temperatures={} if given.calibration else model.config.temperatures)
        how = EvalConfig(precision=given.precision)
        exported = given.export and ExportPredictor(load_exported(given.export), model, chosen)
        predictor = exported or subset_predictor(model, chosen)
        if given.calibration:
            fitted = [row for row in range(len(dataset)) if row // data.held_out.moments % 2 == 0]
            how = replace(how, fitted=fitted)
            found = fit_temperatures(predictor, dataset, model.config.modalities, chosen, how)
            how = replace(how, temperatures=found)
        scores = evaluate(predictor, dataset, model.config.modalities, chosen, how)
    result = to_json(scores, dataset.space, f"{len(dataset)} samples of {given.recipe}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    for subset, entry in zip(chosen, result["subsets"], strict=True):
        equal = f"  {100 * np.mean(exported.equal[subset]):6.2f} % of fp32's labels" if exported else ""
        if given.calibration:
            before, after = (100 * found.error for found in (scores[subset].uncalibrated, scores[subset].reliability))
            equal += f"  error {before:.1f} %, at temperature {how.temperatures[subset]:.2f} {after:.1f} %"
        print(f"{entry['miou']:6.2f}  {' '.join(entry['sensors'])}{equal}")
    print(f"{result['mean_of_subsets']['miou']:6.2f}  mean")


if __name__ == "__main__":
    main()
