# SPDX-License-Identifier: Apache-2.0
"""Augmentation of training samples, and their resizing for evaluation.

`Augment` varies encoded images of the network's input size. Horizontal flips are valid for every encoding, as none
depends on left and right. A magnified crop matches a longer focal length: ranges and heights are unchanged. Measured
values are resampled by nearest neighbor, so that a sparse return does not blend into its empty neighbors. Only the
camera image is interpolated bilinearly and changes its colors.

`RandomCrops` varies larger images by the published recipes. It follows the loaders of DELIVER and MCubeS, which the
papers on those data sets share (jamycheung/DELIVER, semseg/augmentations_mm.py and semseg/datasets/mcubes.py), with two
differences: no crop begins one pixel outside the image, and every blur kernel is 3x3. Modalities that a data set lists
as sparse are resampled by nearest neighbor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.geometry.pixels import nearest_pixels
from mlesam_ros.labels import IGNORE
from mlesam_ros.model.model_config import network_size
from mlesam_ros.types import CAMERA, EVENT, LIDAR
from mlesam_training.labeled_dataset import LabeledDataset
from mlesam_training.recipe import Augmentation, CropRecipe

Images = dict[str, Tensor]
SPARSE = (LIDAR, EVENT)


class Augment:
    """Augments a batch, reproducibly for a given generator state."""

    def __init__(self, options: Augmentation, camera_statistics: tuple[Tensor, Tensor]) -> None:
        """Set the options, and the (3,) mean and standard deviation of the camera normalization."""
        self.options = options
        self.mean, self.std = (torch.as_tensor(s, dtype=torch.float32).view(3, 1, 1) for s in camera_statistics)

    def __call__(
        self, images: Images, labels: Tensor, generator: torch.Generator, shared: float = 0.0
    ) -> tuple[Images, Tensor]:
        """Augment every sample of a batch independently, with the same geometry for all its modalities.

        Args:
            images: modality → (B, 3, H, W) float32 normalized.
            labels: (B, H, W) uint8.
            generator: source of randomness.
            shared: random number in [0, 1) that chooses one of the option `heights`.

        Returns:
            New tensors of the same shapes, or of the chosen height.
        """
        heights = self.options.heights or (labels.shape[-2],)
        sample = partial(self._sample, out=heights[int(shared * len(heights))])
        return _augment_each(sample, images, labels, generator)

    def _sample(self, images: Images, labels: Tensor, generator: torch.Generator, out: int) -> tuple[Images, Tensor]:
        draw = torch.rand(6, generator=generator).tolist()
        height, width = labels.shape[-2:]
        zoom = 1 + draw[0] * (self.options.zoom - 1)
        h, w = max(1, round(out / zoom)), max(1, round(width / zoom))
        top, left = int(draw[1] * (height - h + 1)), int(draw[2] * (width - w + 1))
        flip = draw[3] < self.options.flip

        def cut(image: Tensor, mode: str) -> Tensor:
            image = image[..., top : top + h, left : left + w]
            if flip:
                image = image.flip(-1)
            return resized(image, (out, width), mode)

        cuts = {name: cut(image, "bilinear" if name == CAMERA else "nearest") for name, image in images.items()}
        if CAMERA in cuts:
            cuts[CAMERA] = self._recolor(cuts[CAMERA], generator)
        for name in SPARSE:
            if name in cuts and self.options.thin:
                cuts[name] = random_drop(cuts[name], draw[4] * self.options.thin, generator)
        return cuts, cut(labels[None], "nearest")[0]

    def _recolor(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Scale brightness, contrast and saturation of a normalized (3, H, W) image by a random factor each."""
        if not self.options.jitter:
            return image
        change = 2 * torch.rand(3, generator=generator) - 1
        brightness, contrast, saturation = (1 + self.options.jitter * change).tolist()
        linear = (image * self.std + self.mean) * brightness
        linear = (linear - linear.mean()) * contrast + linear.mean()
        gray = linear.mean(0, keepdim=True)
        return (((linear - gray) * saturation + gray).clamp(0, 1) - self.mean) / self.std


def random_drop(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Drop a share of the pixels of a (3, H, W) sparse image, as dust and rain drop returns."""
    keep = torch.rand(image.shape[-2:], generator=generator) >= share
    return image * keep.to(image.device)


_GRAY = (0.299, 0.587, 0.114)


def full_size(shape: torch.Size | tuple[int, ...], image_size: int, square: bool) -> tuple[int, int]:
    """(h, w) to which a full image is resized, so that the long side of the network input is `image_size`.

    Args:
        shape: (…, H, W) of the image.
        image_size: of the model, see `MLESAMConfig`.
        square: the network input is a center square, see `LabeledDataset`; its side is the short side of the image.
    """
    height, width = shape[-2], shape[-1]
    if not square:
        return network_size((height, width), image_size)
    return _times((height, width), image_size / min(height, width))


class RandomCrops:
    """Augments and crops a batch of large images, reproducibly for a given generator state."""

    def __init__(self, recipe: CropRecipe, dataset: LabeledDataset, image_size: int) -> None:
        """Set the options, the modality properties of the data set, and the model's `image_size`."""
        self.recipe, self._image_size, self._square = recipe, image_size, dataset.square
        self._sparse, self._blanks = dataset.sparse, dict(dataset.blanks)
        mean, std = dataset.normalization.get(CAMERA, ((0.0,) * 3, (1.0,) * 3))
        self._mean, self._std = (torch.tensor(s).view(3, 1, 1) for s in (mean, std))

    def __call__(
        self, images: Images, labels: Tensor, generator: torch.Generator, shared: float = 0.0
    ) -> tuple[Images, Tensor]:
        """Augment every sample of a batch independently, with the same geometry for all its modalities.

        Args:
            images: modality → (B, 3, H, W) float32 normalized.
            labels: (B, H, W) uint8.
            generator: source of randomness.
            shared: not used; every crop has the same size.

        Returns:
            Modality → (B, 3, crop, crop), and labels (B, crop, crop). Padding is blank and unlabeled.
        """
        return _augment_each(self._sample, images, labels, generator)

    def _sample(self, images: Images, labels: Tensor, generator: torch.Generator) -> tuple[Images, Tensor]:
        draw = torch.rand(10, generator=generator).tolist()
        recipe, crop = self.recipe, self.recipe.crop
        if CAMERA in images and draw[0] < recipe.jitter:
            images = {**images, CAMERA: self._recolored(images[CAMERA], draw[1:4])}
        if draw[4] < recipe.flip:
            images, labels = {m: image.flip(-1) for m, image in images.items()}, labels.flip(-1)
        if draw[5] < recipe.blur:
            sigma = draw[6] if recipe.sigma is None else recipe.sigma
            images = {m: _blurred(i, sigma) if m in recipe.blurred else i for m, i in images.items()}
        scale = recipe.scales[0] + draw[7] * (recipe.scales[1] - recipe.scales[0])
        height, width = _times(full_size(labels.shape, self._image_size, self._square), scale)
        top, left = (int(draw[8 + axis] * (max(side - crop, 0) + 1)) for axis, side in enumerate((height, width)))
        corner = (top, left)
        cut = {m: self._cut(i, m, (height, width), corner) for m, i in images.items()}
        large = resized(labels[None], (height, width), "nearest")[0]
        return cut, _padded(large[top : top + crop, left : left + crop], crop, float(IGNORE))

    def _cut(self, image: Tensor, modality: str, size: tuple[int, int], corner: tuple[int, int]) -> Tensor:
        crop, (top, left) = self.recipe.crop, corner
        large = resized(image, size, "nearest" if modality in self._sparse else "bilinear")
        part = large[:, top : top + crop, left : left + crop]
        blank = self._blanks.get(modality, (0.0, 0.0, 0.0))
        return torch.stack([_padded(channel, crop, value) for channel, value in zip(part, blank, strict=True)])

    def _recolored(self, image: Tensor, draw: list[float]) -> Tensor:
        """Change brightness, then contrast about the mean gray, then saturation, each clipped to 0 … 1."""
        brightness, contrast, saturation = (0.5 + d for d in draw)
        colors = ((image * self._std + self._mean) * brightness).clamp(0, 1)
        weights = torch.tensor(_GRAY).view(3, 1, 1)
        mean = (colors * weights).sum(0).mean()
        colors = ((colors - mean) * contrast + mean).clamp(0, 1)
        gray = (colors * weights).sum(0, keepdim=True)
        return (((colors - gray) * saturation + gray).clamp(0, 1) - self._mean) / self._std


class ResizeForEval:
    """Resizes full images to their evaluation size, without randomness."""

    def __init__(self, dataset: LabeledDataset, image_size: int) -> None:
        """Set the sparse modalities of the data set, and the model's `image_size`."""
        self._sparse, self._square, self._image_size = dataset.sparse, dataset.square, image_size

    def __call__(self, images: Images, labels: Tensor) -> tuple[Images, Tensor]:
        """Resize (B, 3, H, W) images and (B, H, W) labels; crop the center square if the data set is `square`."""
        size = full_size(labels.shape, self._image_size, self._square)
        large = {m: resized(i, size, "nearest" if m in self._sparse else "bilinear") for m, i in images.items()}
        ground_truth = resized(labels, size, "nearest")
        if not self._square:
            return large, ground_truth
        rows, columns = (slice(edge, edge + self._image_size) for edge in ((n - self._image_size) // 2 for n in size))
        return {m: i[..., rows, columns] for m, i in large.items()}, ground_truth[..., rows, columns]


def _augment_each(
    augment: Callable[[Images, Tensor, torch.Generator], tuple[Images, Tensor]],
    images: Images,
    labels: Tensor,
    generator: torch.Generator,
) -> tuple[Images, Tensor]:
    """Augment the samples of a batch one after the other, and stack the results."""
    samples = [augment({m: i[b] for m, i in images.items()}, labels[b], generator) for b in range(len(labels))]
    augmented = {m: torch.stack([sample[m] for sample, _ in samples]) for m in images}
    return augmented, torch.stack([label for _, label in samples])


def resized(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize (..., H, W) to (h, w): `nearest` by `nearest_pixels`, else bilinear without anti-aliasing as published."""
    if image.shape[-2:] == size:
        return image
    if mode == "nearest":
        rows, columns = (torch.tensor(nearest_pixels(*pair)) for pair in zip(image.shape[-2:], size, strict=True))
        return image[..., rows, :][..., columns]
    stack = image if image.ndim == 4 else image[None]
    out = F.interpolate(stack, size=size, mode="bilinear", align_corners=False)
    return out if image.ndim == 4 else out[0]


def _times(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _padded(image: Tensor, side: int, value: float) -> Tensor:
    """Pad (h, w) to (side, side) at the right and bottom."""
    return F.pad(image, (0, side - image.shape[1], 0, side - image.shape[0]), value=value)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Blur (3, H, W) with a 3x3 Gaussian and replicated edges."""
    if sigma <= 0:
        return image
    side = torch.exp(torch.tensor(-0.5 / sigma**2))
    kernel = torch.stack([side, torch.tensor(1.0), side]) / (1 + 2 * side)
    framed = F.pad(image[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(framed, torch.outer(kernel, kernel)[None, None])[:, 0]
