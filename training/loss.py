"""The loss: cross-entropy on the pixels that are still hard, for both heads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.labels import IGNORE
from mlesam_ros.training.distributed import largest, total

THRESHOLD = -math.log(0.7)
"""A pixel is hard while its true class has a probability below 0.7."""
SHARE = 16
"""At least one labelled pixel in so many counts, however easy they all are."""


def ohem_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy by online hard example mining, as DELIVER's trainers have it.

    Pixels whose cross-entropy exceeds -log 0.7 count; if these are fewer than a sixteenth of the labelled ones, the
    hardest sixteenth does. The mean is over the pixels that count. Where several processes share a batch, both are
    decided over all of it, and each process returns its part of the sum: what one process would return, split up.

    Args:
        logits: (B, C, h, w); resized bilinearly to the labels' size where that differs.
        labels: (B, H, W) integer ids; 255 is ignored.
        weights: (C,) factor per true class, applied after the hard pixels are chosen; None for all ones.

    Returns:
        A scalar in float32; zero, with a gradient of zero, when no pixel is labelled.
    """
    logits = logits.float()
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    labels = labels.long()
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    counted = _hard(losses.detach(), labels != IGNORE).float()
    if weights is not None:
        counted = counted * weights.to(counted)[labels.clamp(max=len(weights) - 1)]
    return (losses * counted).sum() / total(counted.sum()).clamp(min=1e-6)


def _hard(losses: Tensor, labelled: Tensor) -> Tensor:
    """Mask of the (B, H, W) losses that count."""
    hard = (losses > THRESHOLD) & labelled
    found, pixels = total(torch.stack([hard.sum(), labelled.sum()])).tolist()
    least = math.ceil(pixels / SHARE)
    if found >= least:
        return hard
    return (losses >= largest(losses[labelled], least)[-1]) & labelled


def two_head_loss(logits: Tensor, auxiliary: Tensor | None, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of `ohem_cross_entropy` on the decoder's and, where there is one, the auxiliary head's logits."""
    loss = ohem_cross_entropy(logits, labels, weights)
    return loss if auxiliary is None else loss + ohem_cross_entropy(auxiliary, labels, weights)
