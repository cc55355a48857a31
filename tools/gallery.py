# SPDX-License-Identifier: Apache-2.0
"""Images of masks for the documentation.

`python tools/gallery.py config/training/street.yaml OUT.png`: held-out samples, one row per weather: camera image,
ground truth, then the masks of subsets of the sensors, each with its mIoU.

`python tools/gallery.py RUN docs/images/navigation.jpg`: stills of a result folder of `mlesam demo` below each other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mlesam_ros.corruptions import Subset
from mlesam_ros.metrics import Confusion
from mlesam_ros.model.checkpoint import load_checkpoint
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.resources import resource_path
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES
from mlesam_ros.visualization import colorize
from mlesam_training.dataset_evaluation import most_likely, subset_predictor
from mlesam_training.encoded_dataset import EncodedDataset
from mlesam_training.recipe import StreetData, load_recipe
from mlesam_training.street_dataset import prepare

SHOWN: tuple[Subset, ...] = (
    MODALITIES,
    (DEPTH, EVENT, LIDAR),
    (CAMERA, DEPTH, EVENT),
    (CAMERA,),
    (DEPTH,),
    (EVENT,),
    (LIDAR,),
)
STILLS = ("day_all_sensors", "night_all_sensors", "day_camera_lost")
"""Phases of the demo in docs/images/navigation.jpg."""
_STILL_WIDTH, _JPEG_QUALITY = 1280, 85
_FOREGROUND = (255, 255, 255)
Rgb = npt.NDArray[np.uint8]


def gallery(model: MLESAM, dataset: EncodedDataset, rows: Sequence[int]) -> Rgb:
    """Draw camera image, ground truth and masks of some rows.

    Args:
        model: model in evaluation mode.
        dataset: held-out data.
        rows: rows to draw.

    Returns:
        (rows × S, (2 + subsets) × S, 3) uint8 RGB.
    """
    return np.vstack([_row(model, dataset, row) for row in rows])


def one_of_each_weather(dataset: EncodedDataset) -> list[int]:
    """Middle row of each weather, among its rows without a fault if there are any."""
    weathers = sorted({c["weather"] for c in dataset.conditions})
    rows = []
    for weather in weathers:
        every = [row for row, c in enumerate(dataset.conditions) if c["weather"] == weather]
        clean = [row for row in every if dataset.conditions[row].get("fault", "none") == "none"] or every
        rows.append(clean[len(clean) // 2])
    return rows


def _row(model: MLESAM, dataset: EncodedDataset, row: int) -> Rgb:
    images, ground_truth = dataset.batch([row], MODALITIES)
    camera = _tile(_camera_image(dataset, images[CAMERA][0]), dataset.conditions[row]["weather"])
    tiles = [camera, _tile(colorize(ground_truth[0].numpy(), dataset.space), "ground truth")]
    with torch.inference_mode():
        for subset, logits in subset_predictor(model, SHOWN)(images, [row]):
            mask = most_likely(logits, ground_truth.shape[-2:])[0][0]
            score = Confusion(len(dataset.space))
            score.add(ground_truth[0].numpy(), mask)
            name = "all" if subset == MODALITIES else " ".join(subset)
            tiles.append(_tile(colorize(mask, dataset.space), f"{name} {100 * score.miou_present:.0f}"))
    return np.hstack(tiles)


def _camera_image(dataset: EncodedDataset, image: torch.Tensor) -> Rgb:
    """Recover the camera image from the normalized network input."""
    mean, std = (np.asarray(part, np.float32)[:, None, None] for part in dataset.normalization[CAMERA])
    colors = np.clip((image.numpy() * std + mean) * 255, 0, 255)
    return np.ascontiguousarray(colors.transpose(1, 2, 0).astype(np.uint8))


def _tile(image: Rgb, caption: str) -> Rgb:
    cv2.putText(image, caption, (5, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, caption, (5, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _FOREGROUND, 1, cv2.LINE_AA)
    return image


def stills(run: Path) -> Rgb:
    """Stack the stills of `STILLS` in a result folder of `mlesam demo`, each `_STILL_WIDTH` pixels wide; BGR."""
    rows = []
    for name in STILLS:
        still = cv2.imread(str(run / f"{name}.png"))
        size = _STILL_WIDTH, round(still.shape[0] * _STILL_WIDTH / still.shape[1])
        rows.append(cv2.resize(still, size, interpolation=cv2.INTER_AREA))
    return np.vstack(rows)


def main() -> None:
    """Draw the shipped weights on the recipe's held-out streets, or the stills of a demo."""
    path = Path(sys.argv[2])
    if (run := Path(sys.argv[1])).is_dir():
        cv2.imwrite(str(path), stills(run), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        return
    recipe = load_recipe(run)
    assert isinstance(recipe.data, StreetData)
    dataset = prepare(recipe.data, "held_out")
    model = load_checkpoint(resource_path("weights/street.safetensors")).eval()
    cv2.imwrite(str(path), gallery(model, dataset, one_of_each_weather(dataset))[..., ::-1])


if __name__ == "__main__":
    main()
