# SPDX-License-Identifier: Apache-2.0
"""The loss: cross-entropy with online hard example mining, summed over the heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.labels import IGNORE
from mlesam_training.distributed import all_reduce_sum, global_topk

THRESHOLD = -math.log(0.7)
"""A pixel is hard if the probability of its ground-truth class is below 0.7."""
SHARE = 16
"""At least one in `SHARE` labeled pixels is selected, also if none is hard."""


@dataclass(frozen=True)
class Selection:
    """Selected pixels of a batch, chosen over all of its parts and all processes.

    Attributes:
        least: threshold on the pixel loss.
        hard: whether the threshold is exclusive (loss > least) or inclusive (loss >= least).
        weight: () float32, total weight of the selected pixels, by which their weighted sum is divided.
    """

    least: Tensor
    hard: bool
    weight: Tensor

    def counts(self, losses: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """(B, H, W) float32 weight of each pixel; 0 for a pixel that is not selected."""
        chosen = (losses > self.least if self.hard else losses >= self.least) & (labels != IGNORE)
        if weights is None:
            return chosen.float()
        return chosen.float() * weights.to(losses)[labels.long().clamp(max=len(weights) - 1)]

    def mean(self, losses: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Share of these pixels in the loss of the batch."""
        return (losses * self.counts(losses.detach(), labels, weights)).sum() / self.weight.clamp(min=1e-6)


@dataclass(frozen=True)
class Grid:
    """Labeled pixels of an image: every n-th row and column.

    Attributes:
        size: (H, W) of the image.
        stride: n.
        first: first row and column.
    """

    size: tuple[int, int] | torch.Size
    stride: int = 1
    first: tuple[int, int] = (0, 0)


def pixel_losses(logits: Tensor, labels: Tensor, grid: Grid | None = None) -> Tensor:
    """Cross-entropy per pixel, 0 where unlabeled.

    Args:
        logits: (B, C, h, w) of the whole image; interpolated bilinearly at the centers of the labeled pixels.
        labels: (B, H', W') integer ids; 255 is ignored.
        grid: pixels of the labels; None if the image has the size of the labels.

    Returns:
        (B, H', W') float32.
    """
    grid, logits = grid or Grid(labels.shape[-2:]), logits.float()
    if grid.stride > 1:
        logits = _interpolated(logits, grid)
    elif logits.shape[-2:] != grid.size:
        logits = F.interpolate(logits, size=grid.size, mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="none")


def _interpolated(logits: Tensor, grid: Grid) -> Tensor:
    """Interpolate (B, C, h, w) bilinearly at the pixels of a grid only. Bilinear weights are separable."""
    rows, columns = (
        F.interpolate(torch.eye(have, device=logits.device)[None], size=want, mode="linear", align_corners=False)[0][
            :, first :: grid.stride
        ]
        for have, want, first in zip(logits.shape[-2:], grid.size, grid.first, strict=True)
    )
    with torch.autocast(logits.device.type, enabled=False):
        return rows.T @ logits @ columns


def select(losses: Sequence[Tensor], labels: Sequence[Tensor], weights: Tensor | None = None) -> Selection:
    """Select the hard pixels of a batch.

    Args:
        losses: per part of the batch in this process, (B, H, W) without gradient.
        labels: per part, (B, H, W).
        weights: (C,) factor per ground-truth class; None for all ones.
    """
    labeled = torch.cat([part[ground_truth != IGNORE] for part, ground_truth in zip(losses, labels, strict=True)])
    found, pixels = all_reduce_sum(
        torch.stack([(labeled > THRESHOLD).sum(), torch.tensor(len(labeled)).to(labeled.device)])
    ).tolist()
    few = math.ceil(pixels / SHARE)
    enough = found >= few
    least = labeled.new_tensor(THRESHOLD) if enough else global_topk(labeled, few)[-1]
    chosen = Selection(least, enough, labeled.new_zeros(()))
    weight = sum(
        chosen.counts(part, ground_truth, weights).sum() for part, ground_truth in zip(losses, labels, strict=True)
    )
    return replace(chosen, weight=all_reduce_sum(torch.as_tensor(weight)))


def batch_loss(
    losses: Sequence[Tensor], labels: Tensor, weights: Tensor | None = None, chosen: Sequence[Selection] | None = None
) -> Tensor:
    """Cross-entropy with online hard example mining, as in DELIVER's trainers, summed over the heads.

    Pixels with a cross-entropy above -log 0.7 are selected; if these are fewer than a sixteenth of the labeled pixels,
    the hardest sixteenth is selected. The mean is over the selected pixels. If several processes share a batch,
    selection and mean are over the whole batch, and each process returns its share of the sum.

    Args:
        losses: per head, (B, H, W) of `pixel_losses`.
        labels: (B, H, W) integer ids; 255 is ignored.
        weights: (C,) factor per ground-truth class, applied after the selection; None for all ones.
        chosen: per head, selection over all parts of the batch by `select`; None for a batch in one part.

    Returns:
        A scalar in float32; zero, with a gradient of zero, when no pixel is labeled.
    """
    if chosen is None:
        chosen = [select([head.detach()], [labels], weights) for head in losses]
    return torch.stack([pick.mean(head, labels, weights) for pick, head in zip(chosen, losses, strict=True)]).sum()
