"""Device-to-host transfer of the prediction: one packed tensor, so one synchronization per frame."""

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
    """Output of the network for one frame set, on the host.

    Attributes:
        labels: (h, w) uint8, the class of highest probability.
        confidence: (h, w) uint8, 255 times its probability.
        weights: level → modality → router weight.
        modalities: those that took part.
        nonfinite_modalities: those whose image has NaN or infinite values, which make the whole prediction invalid.
    """

    labels: Labels
    confidence: Labels
    weights: dict[str, dict[Modality, float]]
    modalities: tuple[Modality, ...]
    nonfinite_modalities: tuple[Modality, ...]


def read(output: Output, size: tuple[int, int], images: Mapping[Modality, Tensor] | None = None) -> Prediction:
    """Postprocess and copy to the host in one transfer; see `pack` and `unpack`."""
    return unpack(pack(output, size, images), size, output.modalities, tuple(output.weights))


def pack(output: Output, size: tuple[int, int], images: Mapping[Modality, Tensor] | None = None) -> Tensor:
    """Pack labels, confidence and router weights into one tensor on the device.

    Args:
        output: of one frame set (batch size 1).
        size: (h, w) of the labels.
        images: modality → (…, h, w) input images to check for non-finite values; None where they are already checked.

    Returns:
        (n,) uint8, all of a `Prediction`: the bytes of the float32 router weights and image sums, labels, confidence.
    """
    weights = torch.stack([w[0] for w in output.weights.values()]).float()  # (levels, M)
    sums = [images[m].sum(dtype=torch.float32) for m in output.modalities] if images else []
    numbers = torch.cat([weights.flatten(), *(s[None] for s in sums)])  # a NaN or infinite value passes into its sum
    return torch.cat([numbers.view(torch.uint8), argmax_with_confidence(output.fused, size).flatten()])


def unpack(
    packet: Tensor, size: tuple[int, int], modalities: tuple[Modality, ...], levels: Sequence[str] = LEVELS
) -> Prediction:
    """Copy the result of `pack` to the host, which synchronizes, and split it.

    Args:
        packet: the result of `pack`.
        size: (h, w) of the labels.
        modalities: that took part, in the order of the output.
        levels: of the router weights, in their order.
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
    """(1, C, h', w') logits to (2, h, w) uint8: the class of highest probability, and 255 times its probability."""
    logits = logits.float().contiguous()
    logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0]  # (C, h, w)
    logits -= logits.amax(0)
    # Index of the maximum, without an argmax over the first axis or a comparison, which are both slow on a CPU: every
    # logit below the maximum (0) is pushed far below any index.
    ids = torch.arange(len(logits), dtype=torch.float32, device=logits.device)[:, None, None]
    labels = torch.add(ids, logits, alpha=_FAR).amax(0).byte()  # (h, w)
    confidence = (255 / logits.exp_().sum(0)).round().byte()  # softmax of the maximum alone
    return torch.stack([labels, confidence])
