# SPDX-License-Identifier: Apache-2.0
"""Kind: half-pixel conventions. Oracles: OpenCV, PyTorch, and edges whose place is known."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mlesam_ros.geometry.pixels import nearest_pixels, resize_nearest


@given(source=st.integers(1, 2000), target=st.integers(1, 600))
def test_indices_equal_torch_and_opencv(source, target):
    line = np.arange(source, dtype=np.float32)
    exact = cv2.resize(line[None], (target, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
    clear = (2 * np.arange(target) + 1) * source % (2 * target) != 0
    for alternate in (True, False):
        ours = line[nearest_pixels(source, target, alternate)]
        assert np.array_equal(ours[clear], exact[clear])
        # A center on an edge is as near to either pixel: OpenCV and PyTorch decide it differently.
        centers = (np.arange(target) + 0.5) * source / target - 0.5
        assert np.all(np.abs(ours - centers) <= 0.5 + 1e-9)
    theirs = F.interpolate(torch.from_numpy(line)[None, None], size=target, mode="nearest-exact")[0, 0].numpy()
    assert np.abs(line[nearest_pixels(source, target, False)] - theirs)[clear].max(initial=0) <= 1e-9 or source > 1000


@pytest.mark.parametrize("source", [256, 512, 640, 720, 1024, 1080, 1920])
@pytest.mark.parametrize("target", [144, 160, 192, 256, 640, 1824])
def test_mean_shift_is_zero(source, target):
    centers = (np.arange(target) + 0.5) * source / target - 0.5
    assert abs((nearest_pixels(source, target) - centers).mean()) * target / source < 0.02


@pytest.mark.parametrize(("source", "target"), [(512, 256), (640, 256), (1920, 256), (256, 512), (256, 640)])
def test_edges_are_kept(source, target):
    """Left of a known place the label is 0, right of it 1; the edge of the resized labels, over many places."""
    off = []
    for edge in range(source // 8, source - source // 8):
        row = np.zeros((3, source), np.uint8)
        row[:, edge:] = 1
        found = resize_nearest(row, (3, target))[1].argmax() * source / target
        off.append(found - edge)
    assert abs(np.mean(off)) < 0.02 * max(1, source / target)
    assert np.abs(off).max() <= max(1, source / target)


def test_extra_axes_are_kept_and_equal_sizes_not_copied():
    image = np.random.default_rng(0).random((8, 6, 3))
    assert resize_nearest(image, (8, 6)) is image
    assert resize_nearest(image, (4, 12)).shape == (4, 12, 3)
    with pytest.raises(ValueError, match="read-only"):
        nearest_pixels(8, 4)[0] = 1
