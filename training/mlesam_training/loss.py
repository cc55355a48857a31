"""The loss: cross-entropy on the pixels that are still hard, for both heads."""

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
"""A pixel is hard while its true class has a probability below 0.7."""
SHARE = 16
"""At least one labeled pixel in so many counts, however easy they all are."""


@dataclass(frozen=True)
class Selection:
    """Which pixels of a batch count, decided over all of its parts and all processes.

    Attributes:
        least: smallest loss that counts.
        hard: whether that one itself is too easy.
        weight: () float32, what the pixels that count weigh together; the loss is their sum over it.
    """

    least: Tensor
    hard: bool
    weight: Tensor

    def counts(self, losses: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """(B, H, W) float32: what each pixel weighs, 0 for one that does not count."""
        chosen = (losses > self.least if self.hard else losses >= self.least) & (labels != IGNORE)
        if weights is None:
            return chosen.float()
        return chosen.float() * weights.to(losses)[labels.long().clamp(max=len(weights) - 1)]

    def mean(self, losses: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """The part of the batch's loss that these pixels have."""
        return (losses * self.counts(losses.detach(), labels, weights)).sum() / self.weight.clamp(min=1e-6)


@dataclass(frozen=True)
class Grid:
    """Which pixels of a picture have labels: every n-th row and column.

    Attributes:
        size: (H, W) of the picture.
        stride: n.
        first: first row and column.
    """

    size: tuple[int, int] | torch.Size
    stride: int = 1
    first: tuple[int, int] = (0, 0)


def pixel_losses(logits: Tensor, labels: Tensor, grid: Grid | None = None) -> Tensor:
    """Cross-entropy per pixel, 0 where unlabeled.

    Args:
        logits: (B, C, h, w) of the whole picture; interpolated bilinearly at the centers of the labels' pixels.
        labels: (B, H', W') integer ids; 255 is ignored.
        grid: the pixels that they belong to; None for all of a picture of their size.

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
    """(B, C, h, w) at the pixels of a grid, without making the others: bilinear weights are a product of two."""
    rows, columns = (
        F.interpolate(torch.eye(have, device=logits.device)[None], size=want, mode="linear", align_corners=False)[0][
            :, first :: grid.stride
        ]
        for have, want, first in zip(logits.shape[-2:], grid.size, grid.first, strict=True)
    )
    with torch.autocast(logits.device.type, enabled=False):
        return rows.T @ logits @ columns


def select(losses: Sequence[Tensor], labels: Sequence[Tensor], weights: Tensor | None = None) -> Selection:
    """Choose the pixels that count.

    Args:
        losses: of every part of the batch that this process has, (B, H, W) without gradient.
        labels: of every part, (B, H, W).
        weights: (C,) factor per true class; None for all ones.
    """
    labeled = torch.cat([part[truth != IGNORE] for part, truth in zip(losses, labels, strict=True)])
    found, pixels = all_reduce_sum(
        torch.stack([(labeled > THRESHOLD).sum(), torch.tensor(len(labeled)).to(labeled.device)])
    ).tolist()
    few = math.ceil(pixels / SHARE)
    enough = found >= few
    least = labeled.new_tensor(THRESHOLD) if enough else global_topk(labeled, few)[-1]
    chosen = Selection(least, enough, labeled.new_zeros(()))
    weight = sum(chosen.counts(part, truth, weights).sum() for part, truth in zip(losses, labels, strict=True))
    return replace(chosen, weight=all_reduce_sum(torch.as_tensor(weight)))


def batch_loss(
    losses: Sequence[Tensor], labels: Tensor, weights: Tensor | None = None, chosen: Sequence[Selection] | None = None
) -> Tensor:
    """Cross-entropy by online hard example mining, as DELIVER's trainers have it, summed over the heads.

    Pixels whose cross-entropy exceeds -log 0.7 count; if these are fewer than a sixteenth of the labeled ones, the
    hardest sixteenth does. The mean is over the pixels that count. Where several processes share a batch, both are
    decided over all of it, and each process returns its part of the sum: what one process would return, split up.

    Args:
        losses: per head, (B, H, W) of `pixel_losses`.
        labels: (B, H, W) integer ids; 255 is ignored.
        weights: (C,) factor per true class, applied after the hard pixels are chosen; None for all ones.
        chosen: per head, what `select` chose over all parts of the batch; None for a batch in one part.

    Returns:
        A scalar in float32; zero, with a gradient of zero, when no pixel is labeled.
    """
    if chosen is None:
        chosen = [select([head.detach()], [labels], weights) for head in losses]
    return torch.stack([pick.mean(head, labels, weights) for pick, head in zip(chosen, losses, strict=True)]).sum()
