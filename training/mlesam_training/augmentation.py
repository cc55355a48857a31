"""Physically plausible augmentation of encoded images.

Horizontal flips are valid for every encoding, as none depends on left and right. A magnified crop matches a longer
focal length: ranges and heights are unchanged. Measured values are resampled by nearest neighbor, so that a sparse
return does not blend into its empty neighbors. Only the camera image is interpolated bilinearly and changes its colors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlesam_ros.types import CAMERA, EVENT, LIDAR
from mlesam_training.crops import resized
from mlesam_training.recipe import Augmentation

Images = dict[str, Tensor]
SPARSE = (LIDAR, EVENT)


class Augment:
    """Augments a batch, reproducibly for a given generator state."""

    def __init__(self, options: Augmentation, camera_statistics: tuple[Tensor, Tensor]) -> None:
        """Set the options, and the (3,) mean and standard deviation of the camera normalization."""
        self.options = options
        self.mean, self.std = (torch.as_tensor(s, dtype=torch.float32).view(3, 1, 1) for s in camera_statistics)

    def __call__(self, images: Images, labels: Tensor, generator: torch.Generator) -> tuple[Images, Tensor]:
        """Augment every sample of a batch independently, with the same geometry for all its modalities.

        Args:
            images: modality → (B, 3, H, W) float32 normalized.
            labels: (B, H, W) uint8.
            generator: source of randomness.

        Returns:
            New tensors of the same shapes.
        """
        samples = [self._sample(images, labels, b, generator) for b in range(len(labels))]
        varied = {name: torch.stack([sample[name] for sample, _ in samples]) for name in images}
        return varied, torch.stack([label for _, label in samples])

    def _sample(self, images: Images, labels: Tensor, b: int, generator: torch.Generator) -> tuple[Images, Tensor]:
        draw = torch.rand(6, generator=generator).tolist()
        height, width = labels.shape[-2:]
        zoom = 1 + draw[0] * (self.options.zoom - 1)
        h, w = max(1, round(height / zoom)), max(1, round(width / zoom))
        top, left = int(draw[1] * (height - h + 1)), int(draw[2] * (width - w + 1))
        flip = draw[3] < self.options.flip

        def cut(picture: Tensor, mode: str) -> Tensor:
            picture = picture[..., top : top + h, left : left + w]
            if flip:
                picture = picture.flip(-1)
            return resized(picture, (height, width), mode)

        out = {name: cut(picture[b], "bilinear" if name == CAMERA else "nearest") for name, picture in images.items()}
        if CAMERA in out:
            out[CAMERA] = self._recolor(out[CAMERA], generator)
        for name in SPARSE:
            if name in out and self.options.thin:
                out[name] = random_drop(out[name], draw[4] * self.options.thin, generator)
        return out, cut(labels[b : b + 1], "nearest")[0]

    def _recolor(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        """Scale brightness, contrast and saturation of a normalized (3, H, W) image by a random factor each."""
        if not self.options.jitter:
            return picture
        change = 2 * torch.rand(3, generator=generator) - 1
        brightness, contrast, saturation = (1 + self.options.jitter * change).tolist()
        linear = (picture * self.std + self.mean) * brightness
        linear = (linear - linear.mean()) * contrast + linear.mean()
        gray = linear.mean(0, keepdim=True)
        return (((linear - gray) * saturation + gray).clamp(0, 1) - self.mean) / self.std


def random_drop(picture: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Drop a share of the pixels of a (3, H, W) sparse image, as dust and rain drop returns."""
    keep = torch.rand(picture.shape[-2:], generator=generator) >= share
    return picture * keep
