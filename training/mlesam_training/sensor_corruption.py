# SPDX-License-Identifier: Apache-2.0
"""Corruption of sensor images in training: dead and dirty sensors, exposure, blur, lost returns, shot noise, clutter.

The noise of the NM protocol (extreme values of single channels, and Gaussian noise of one deviation everywhere) is not
among them, so that NM measures robustness against a corruption never trained on. Clutter and shot noise are those of
sensors: measured values at wrong places, in all channels of a pixel, and noise that grows with the signal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.types import CAMERA
from mlesam_training.augmentation import random_drop, resized
from mlesam_training.labeled_dataset import Blank

Images = dict[str, Tensor]


def corrupted(images: Images, blanks: Mapping[str, Blank], generator: torch.Generator) -> Images:
    """Corrupt a random non-empty subset of the sensors of a sample, each in one random way.

    Args:
        images: modality → (3, H, W) normalized.
        blanks: modality → normalized value per channel of an empty pixel.
        generator: source of randomness, on the CPU.

    Returns:
        New images on the device of the given ones; those of the other sensors are the given ones.
    """
    chosen = int(torch.randint(1, 2 ** len(images), (), generator=generator))
    out = dict(images)
    for place, (modality, image) in enumerate(images.items()):
        if chosen >> place & 1:
            kinds = (*_EVERY, _expose) if modality == CAMERA else _EVERY
            corrupt = kinds[int(torch.randint(len(kinds), (), generator=generator))]
            blank = image.new_tensor(blanks[modality])[:, None, None]
            out[modality] = blank + corrupt(image - blank, generator)
    return out


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _silence(image: Tensor, generator: torch.Generator) -> Tensor:
    """Empty the image: a dead sensor that still sends."""
    return torch.zeros_like(image)


def _cover(image: Tensor, generator: torch.Generator) -> Tensor:
    """Empty one to four rectangles with sides from 10 to 60 % of the image's: dirt, and lost packets."""
    image = image.clone()
    height, width = image.shape[-2:]
    for _ in range(int(torch.randint(1, 5, (), generator=generator))):
        h, w = (int(side * _uniform(0.1, 0.6, generator)) for side in (height, width))
        top, left = (int(_uniform(0, room, generator)) for room in (height - h, width - w))
        image[..., top : top + h, left : left + w] = 0
    return image


def _thin(image: Tensor, generator: torch.Generator) -> Tensor:
    """Empty 20 to 95 % of the pixels: lost returns."""
    return random_drop(image, _uniform(0.2, 0.95, generator), generator)


def _blur(image: Tensor, generator: torch.Generator) -> Tensor:
    """Average blocks of 2 to 6 pixels: defocus, and motion."""
    side, size = int(torch.randint(2, 7, (), generator=generator)), image.shape[-2:]
    return resized(F.avg_pool2d(image, side, ceil_mode=True, count_include_pad=False), (size[0], size[1]), "bilinear")


def _displace(image: Tensor, generator: torch.Generator) -> Tensor:
    """Move by up to 6 % of the width and scale by up to 6 %: a wrong calibration, or an old image in motion."""
    height, width = image.shape[-2:]
    scale = _uniform(0.94, 1.06, generator)
    x, y = (_uniform(-0.06, 0.06, generator) * width for _ in range(2))
    rows, columns = (
        ((torch.arange(side) - (side - 1) / 2) * scale + (side - 1) / 2 + shift).round().long()
        for side, shift in ((height, y), (width, x))
    )
    inside = ((rows >= 0) & (rows < height))[:, None] & (columns >= 0) & (columns < width)
    return image[:, rows.clamp(0, height - 1)][:, :, columns.clamp(0, width - 1)] * inside.to(image)


def _expose(image: Tensor, generator: torch.Generator) -> Tensor:
    """Scale the brightness by 0.05 to 0.6, or by 1.5 to 4 and clip at the brightest value of the image."""
    if float(torch.rand((), generator=generator)) < 0.5:
        return image * _uniform(0.05, 0.6, generator)
    return torch.minimum(image * _uniform(1.5, 4.0, generator), image.amax((-2, -1), keepdim=True))


def _clutter(image: Tensor, generator: torch.Generator) -> Tensor:
    """Give 2 to 25 % of the pixels the values of other pixels: returns of rain and dust, cross-talk, stray events."""
    height, width = image.shape[-2:]
    wrong = torch.rand((height, width), generator=generator) < _uniform(0.02, 0.25, generator)
    source = torch.randint(height * width, (height, width), generator=generator).to(image.device)
    return image.where(~wrong.to(image.device), image.flatten(1)[:, source])


def _shot_noise(image: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise with a variance proportional to the value, at the brightest one a deviation of 5 to 35 % of it."""
    brightest = image.amax((-2, -1), keepdim=True)
    deviation = _uniform(0.05, 0.35, generator) * (image.abs() * brightest.abs()).sqrt()
    noisy = image + deviation * torch.randn(image.shape, generator=generator).to(image)
    return torch.minimum(torch.maximum(noisy, image.amin((-2, -1), keepdim=True)), brightest)


_EVERY: tuple[Callable[[Tensor, torch.Generator], Tensor], ...] = (
    _silence, _cover, _thin, _blur, _displace, _clutter, _shot_noise,
)  # fmt: skip
"""Corruptions of every sensor; they take an image whose empty pixels are 0."""
