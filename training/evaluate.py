"""How good a model is on streets it has never seen, with every subset of its sensors, by day and at night."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.frame import Modality
from mlesam_ros.metrics import Confusion
from mlesam_ros.training.dataset import StreetDataset

CONDITIONS = ("all", "day", "night")
Subset = tuple[Modality, ...]
Result = dict[Subset, dict[str, Confusion]]


def subsets(modalities: Sequence[Modality]) -> list[Subset]:
    """Every non-empty subset in the given order of names, the largest first."""
    return [chosen for size in range(len(modalities), 0, -1) for chosen in combinations(modalities, size)]


def evaluate(
    predict: Callable[[dict[Modality, Tensor]], Tensor],
    classes: int,
    dataset: StreetDataset,
    chosen: Iterable[Subset],
    batch: int = 8,
    precision: str = "fp32",
    report: Callable[[Subset, float], None] | None = None,
) -> Result:
    """Compare predictions with the labels at the size of the data set.

    Args:
        predict: modality → (B, 3, H, W) pictures in, (B, C, h, w) logits out.
        classes: C.
        dataset: moments it was not trained on.
        chosen: the subsets of sensors to try.
        batch: moments at a time.
        precision: `fp32` or `bf16` (autocast).
        report: told (subset, mIoU over all moments) after each.

    Returns:
        Subset → condition (`all`, `day`, `night`) → confusion matrix.
    """
    results: Result = {}
    for subset in chosen:
        parts = {part: Confusion(classes) for part in ("day", "night")}
        for first in range(0, len(dataset), batch):
            rows = range(first, min(first + batch, len(dataset)))
            images, truth = dataset.batch(rows, subset)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                predicted = most_likely(predict(images), truth.shape[-2:])
            for row, labels, mask in zip(rows, truth.numpy(), predicted, strict=True):
                parts["night" if dataset.night[row] else "day"].add(labels, mask)
        whole = Confusion(classes)
        for part in parts.values():
            whole.merge(part)
        results[subset] = {"all": whole, **parts}
        if report:
            report(subset, whole.miou_present)
    return results


def most_likely(logits: Tensor, size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """(B, H, W) ids of the best class of (B, C, h, w) logits, interpolated bilinearly to the (H, W) of `size`."""
    large = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    return large.argmax(1).to(torch.uint8).numpy()


def to_json(results: Result, names: Sequence[str]) -> list[dict[str, Any]]:
    """One entry per subset: `sensors`, and per condition the percentages of `Confusion.summary`."""
    return [
        {"sensors": list(subset), **{part: matrix.summary(names) for part, matrix in parts.items()}}
        for subset, parts in results.items()
    ]


def subset_table(results: Result) -> str:
    """Markdown: a row per subset; mIoU over the classes present and over all classes of the space, in percent."""
    lines = [
        "| Sensors | mIoU | day | night | over all classes | pixel accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for subset, parts in results.items():
        scores = [parts[c].miou_present for c in CONDITIONS] + [parts["all"].miou_all, parts["all"].pixel_accuracy]
        lines.append(f"| {' + '.join(subset)} | " + " | ".join(f"{100 * s:.1f}" for s in scores) + " |")
    return "\n".join(lines)


def class_table(results: Result, names: Sequence[str], chosen: Sequence[Subset]) -> str:
    """Markdown: a row per class that occurs, its share of the pixels and its IoU in percent for the chosen subsets."""
    lines = [
        "| Class | share | " + " | ".join(" + ".join(subset) for subset in chosen) + " |",
        "|---|---|" + "---|" * len(chosen),
    ]
    pixels = results[chosen[0]]["all"].pixels
    for number in np.argsort(-pixels):
        if pixels[number]:
            scores = [results[subset]["all"].iou[number] for subset in chosen]
            share = f"{100 * pixels[number] / pixels.sum():.2f}"
            lines.append(f"| {names[number]} | {share} | " + " | ".join(f"{100 * s:.1f}" for s in scores) + " |")
    return "\n".join(lines)
