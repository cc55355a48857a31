"""The loss: cross-entropy on the pixels that are still hard, for both heads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.labels import IGNORE

THRESHOLD = -math.log(0.7)
"""A pixel is hard while its true class has a probability below 0.7."""
SHARE = 16
"""At least one labelled pixel in so many counts, however easy they all are."""


def ohem_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy by online hard example mining, as DELIVER's trainers have it.

    Pixels whose cross-entropy exceeds -log 0.7 count; if these are fewer than a sixteenth of the labelled ones, the
    hardest sixteenth does. The mean is over the pixels that count.

    Args:
        logits: (B, C, h, w); resized bilinearly to the labels' size where that differs.
        labels: (B, H, W) integer ids; 255 is ignored.
        weights: (C,) factor per true class, applied after the hard pixels are chosen; None for all ones.

    Returns:
        A scalar in float32; zero, with a gradient of zero, when no pixel is labelled.
    """
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    labelled = labels != IGNORE
    truth = labels[labelled].long()
    if not len(truth):
        return logits.float().sum() * 0.0
    losses = F.cross_entropy(logits.permute(0, 2, 3, 1)[labelled].float(), truth, reduction="none")
    hard = _hard(losses.detach())
    if weights is None:
        return losses[hard].mean()
    factor = weights[truth[hard]]
    return (losses[hard] * factor).sum() / factor.sum()


def _hard(losses: Tensor) -> Tensor:
    """Mask of the (n,) losses that count."""
    least = math.ceil(len(losses) / SHARE)
    mask = losses > THRESHOLD
    if int(mask.sum()) >= least:
        return mask
    mask = torch.zeros_like(mask)
    mask[losses.topk(least).indices] = True
    return mask


def two_head_loss(logits: Tensor, auxiliary: Tensor | None, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of `ohem_cross_entropy` on the decoder's and, where there is one, the auxiliary head's logits."""
    loss = ohem_cross_entropy(logits, labels, weights)
    return loss if auxiliary is None else loss + ohem_cross_entropy(auxiliary, labels, weights)
