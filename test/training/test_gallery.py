# SPDX-License-Identifier: Apache-2.0
"""The gallery: ground truth and masks in the label space's colors."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from gallery import SHOWN, STILLS, gallery, one_of_each_weather, stills

from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.types import CAMERA, MODALITIES


def test_row_has_camera_image_ground_truth_and_masks(street):
    torch.manual_seed(0)
    model = MLESAM(MLESAMConfig(rank=2)).eval()
    rows = one_of_each_weather(street)
    assert {street.conditions[row]["weather"] for row in rows} == {c["weather"] for c in street.conditions}
    drawn, side = gallery(model, street, rows), street.labels.shape[-1]
    assert drawn.shape == (len(rows) * side, (2 + len(SHOWN)) * side, 3) and drawn.dtype == np.uint8
    clear = slice(side - 20, side)  # below the captions
    truth = drawn[:side][clear, side : 2 * side]
    assert np.array_equal(truth, street.space.palette[street.labels[rows[0]][clear]])
    mean, std = (np.asarray(part)[:, None] for part in street.normalization[CAMERA])
    seen = street.images[CAMERA][rows[0]].astype(float)[:, -1]  # the last row of pixels
    assert np.abs(drawn[side - 1, :side].T - np.clip((seen * std + mean) * 255, 0, 255)).max() <= 1
    assert SHOWN[0] == MODALITIES


def test_stills_of_a_demo_are_below_each_other(tmp_path):
    for number, name in enumerate(STILLS):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((27, 128, 3), 40 * number, np.uint8))
    drawn = stills(tmp_path)
    assert drawn.shape == (3 * 270, 1280, 3)
    assert [int(drawn[270 * row + 100].mean()) for row in range(3)] == [0, 40, 80]
