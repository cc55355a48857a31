"""What leaves the device after each frame: one transfer, so one wait, for everything that the network has to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mlesam_ros.model.backbones import LEVELS
from mlesam_ros.model.mlesam import Output
from mlesam_ros.types import Modality

Labels = npt.NDArray[np.uint8]

_FAR = 1e30


@dataclass(frozen=True)
class Prediction:
    """What the network says of one moment, on the host.

    Attributes:
        labels: (h, w) uint8, the likeliest class.
        confidence: (h, w) uint8, 255 times its probability.
        weights: level → modality → router weight.
        modalities: those that took part.
        spoilt: those whose picture held NaN or infinite values, so that the rest of the answer is worth nothing.
    """

    labels: Labels
    confidence: Labels
    weights: dict[str, dict[Modality, float]]
    modalities: tuple[Modality, ...]
    nonfinite_modalities: tuple[Modality, ...]


def read(output: Output, size: tuple[int, int], images: Mapping[Modality, Tensor] | None = None) -> Prediction:
    """Decide, and bring everything to the host at once; see `pack` and `unpack`."""
    return unpack(pack(output, size, images), size, output.modalities, tuple(output.weights))


def pack(output: Output, size: tuple[int, int], images: Mapping[Modality, Tensor] | None = None) -> Tensor:
    """Decide, on the device.

    Args:
        output: of one moment.
        size: (h, w) of the labels.
        images: modality → (…, h, w), what the network read, if nobody has looked at the values yet.

    Returns:
        (n,) uint8, all of an `Prediction`: the bytes of some float32 numbers, labels, confidence.
    """
    weights = torch.stack([w[0] for w in output.weights.values()]).float()  # (levels, M)
    sums = [images[m].sum(dtype=torch.float32) for m in output.modalities] if images else []
    numbers = torch.cat([weights.flatten(), *(s[None] for s in sums)])  # a NaN or infinite value passes into its sum
    return torch.cat([numbers.view(torch.uint8), argmax_with_confidence(output.fused, size).flatten()])


def unpack(
    packet: Tensor, size: tuple[int, int], modalities: tuple[Modality, ...], levels: Sequence[str] = LEVELS
) -> Prediction:
    """Bring what `pack` gives to the host, and wait for it.

    Args:
        packet: it.
        size: (h, w) of the labels.
        modalities: that took part, in the order of the output.
        levels: that the router weighed, in its order.
    """
    whole = packet.cpu().numpy()
    pixels = 2 * size[0] * size[1]
    numbers = whole[:-pixels].view(np.float32)
    labels, confidence = whole[-pixels:].reshape(2, *size)
    weights, sums = np.split(numbers, [len(levels) * len(modalities)])
    rows = zip(levels, weights.reshape(len(levels), -1).tolist(), strict=True)
    told = zip(modalities, np.isfinite(sums), strict=False)
    return Prediction(
        labels,
        confidence,
        {level: dict(zip(modalities, row, strict=True)) for level, row in rows},
        modalities,
        tuple(m for m, fine in told if not fine),
    )


def argmax_with_confidence(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, C, h', w') logits of a smaller picture to (2, h, w) uint8: the likeliest class, and 255 times how likely."""
    logits = logits.float().contiguous()
    logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0]  # (C, h, w)
    logits -= logits.amax(0)
    # The winner's index, without an arg max over the first axis or a comparison, which are both slow on a CPU: whatever
    # is below zero falls far below any index.
    ids = torch.arange(len(logits), dtype=torch.float32, device=logits.device)[:, None, None]
    labels = torch.add(ids, logits, alpha=_FAR).amax(0).byte()  # (h, w)
    confidence = (255 / logits.exp_().sum(0)).round().byte()  # softmax of the winner alone
    return torch.stack([labels, confidence])
