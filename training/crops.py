"""The published recipes' augmentation, for pictures that are larger than what the network sees.

As in the loaders of DELIVER and MCubeS (jamycheung/DELIVER, semseg/augmentations_mm.py and semseg/datasets/mcubes.py),
which the papers on those sets share; but no crop begins a pixel beyond the picture, and every blur is 3x3. Data sets
say which modalities are measurements: those are copied, never blended.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import CAMERA
from mlesam_ros.labels import IGNORE
from mlesam_ros.training.datasets.frames import LabelledFrames

Images = dict[str, Tensor]
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class CropRecipe:
    """How samples are varied and cut.

    Attributes:
        base: short side in pixels to which a scale of 1 brings a picture.
        crop: height and width of what the network sees in training.
        scales: smallest and largest scale.
        flip: probability of a mirrored sample.
        jitter: probability that the camera's brightness, contrast and saturation change, each by 0.5 … 1.5.
        blur: probability of a blurred picture.
        blurred: modalities that are blurred.
        sigma: of the blur in pixels; None for one drawn from 0 … 1.
        fit: how whole pictures are brought to size for evaluation: `multiple` enlarges both sides to the next multiple
            of 32, `centre` cuts a square out.
        whole: short side in evaluation.
    """

    base: int
    crop: int
    scales: tuple[float, float]
    flip: float
    jitter: float
    blur: float
    blurred: tuple[str, ...]
    sigma: float | None
    fit: str
    whole: int


CROP_RECIPES = {
    "deliver": CropRecipe(1024, 1024, (0.5, 2.0), 0.5, 0.2, 0.2, (CAMERA,), 0.8, "multiple", 1024),
    "mcubes": CropRecipe(512, 512, (0.5, 2.0), 0.5, 0.0, 0.5, (CAMERA, "nir"), None, "centre", 1024),
}
"""Published recipes by name. For MUSES take deliver's, as CMNeXt's authors do for every set of streets."""


def crop_recipe(name: str) -> CropRecipe:
    """A published recipe.

    Raises:
        ConfigError: no such recipe.
    """
    if name not in CROP_RECIPES:
        raise ConfigError(f"augmentation {name!r} is not known; accepted are {', '.join(CROP_RECIPES)}.")
    return CROP_RECIPES[name]


class RandomCrops:
    """Varies a batch of large pictures; the same generator state gives the same result."""

    def __init__(self, recipe: CropRecipe, dataset: LabelledFrames) -> None:
        """Remember how much to vary, and what the data set says of its modalities."""
        self.recipe, self._sparse, self._blanks = recipe, dataset.sparse, dict(dataset.blanks)
        mean, std = dataset.statistics.get(CAMERA, ((0.0,) * 3, (1.0,) * 3))
        self._mean, self._std = (torch.tensor(s).view(3, 1, 1) for s in (mean, std))

    def __call__(self, images: Images, labels: Tensor, generator: torch.Generator) -> tuple[Images, Tensor]:
        """Vary every sample of a batch on its own, all its modalities alike.

        Args:
            images: modality → (B, 3, H, W) float32 normalised.
            labels: (B, H, W) uint8.
            generator: where the chance comes from.

        Returns:
            modality → (B, 3, crop, crop), and (B, crop, crop); beyond the picture blank and unlabelled.
        """
        samples = [self._sample({m: p[b] for m, p in images.items()}, labels[b], generator) for b in range(len(labels))]
        varied = {name: torch.stack([sample[name] for sample, _ in samples]) for name in images}
        return varied, torch.stack([label for _, label in samples])

    def _sample(self, images: Images, labels: Tensor, generator: torch.Generator) -> tuple[Images, Tensor]:
        draw = torch.rand(10, generator=generator).tolist()
        recipe, crop = self.recipe, self.recipe.crop
        if CAMERA in images and draw[0] < recipe.jitter:
            images = {**images, CAMERA: self._recoloured(images[CAMERA], draw[1:4])}
        if draw[4] < recipe.flip:
            images, labels = {m: picture.flip(-1) for m, picture in images.items()}, labels.flip(-1)
        if draw[5] < recipe.blur:
            sigma = draw[6] if recipe.sigma is None else recipe.sigma
            images = {m: _blurred(p, sigma) if m in recipe.blurred else p for m, p in images.items()}
        short = recipe.base * (recipe.scales[0] + draw[7] * (recipe.scales[1] - recipe.scales[0]))
        height, width = _scaled(labels.shape, round(short))
        top, left = (int(draw[8 + axis] * (max(side - crop, 0) + 1)) for axis, side in enumerate((height, width)))
        corner = (top, left)
        cut = {m: self._cut(p, m, (height, width), corner) for m, p in images.items()}
        large = resized(labels[None], (height, width), "nearest")[0]
        return cut, _padded(large[top : top + crop, left : left + crop], crop, float(IGNORE))

    def _cut(self, picture: Tensor, modality: str, size: tuple[int, int], corner: tuple[int, int]) -> Tensor:
        crop, (top, left) = self.recipe.crop, corner
        large = resized(picture, size, "nearest" if modality in self._sparse else "bilinear")
        part = large[:, top : top + crop, left : left + crop]
        blank = self._blanks.get(modality, (0.0, 0.0, 0.0))
        return torch.stack([_padded(channel, crop, value) for channel, value in zip(part, blank, strict=True)])

    def _recoloured(self, picture: Tensor, draw: list[float]) -> Tensor:
        """Brightness, then contrast about the mean grey, then saturation, each clipped to 0 … 1."""
        brightness, contrast, saturation = (0.5 + d for d in draw)
        colours = ((picture * self._std + self._mean) * brightness).clamp(0, 1)
        weights = torch.tensor(_GREY).view(3, 1, 1)
        mean = (colours * weights).sum(0).mean()
        colours = ((colours - mean) * contrast + mean).clamp(0, 1)
        grey = (colours * weights).sum(0, keepdim=True)
        return (((colours - grey) * saturation + grey).clamp(0, 1) - self._mean) / self._std


class WholePictures:
    """Brings whole pictures to the size at which they are evaluated, with nothing left to chance."""

    def __init__(self, recipe: CropRecipe, dataset: LabelledFrames) -> None:
        """Remember the recipe, and which of the data set's modalities are measurements."""
        self.recipe, self._sparse = recipe, dataset.sparse

    def __call__(self, images: Images, labels: Tensor) -> tuple[Images, Tensor]:
        """(B, 3, H, W) pictures and (B, H, W) labels, resized."""
        size = _scaled(labels.shape[-2:], self.recipe.whole)
        if self.recipe.fit == "multiple":
            size = (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32)
        large = {m: resized(p, size, "nearest" if m in self._sparse else "bilinear") for m, p in images.items()}
        truth = resized(labels, size, "nearest")
        if self.recipe.fit == "centre":
            top, left = ((side - self.recipe.whole) // 2 for side in size)
            window = (slice(top, top + self.recipe.whole), slice(left, left + self.recipe.whole))
            return {m: p[..., window[0], window[1]] for m, p in large.items()}, truth[..., window[0], window[1]]
        return large, truth


def resized(picture: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(..., H, W) brought to (h, w): `nearest`, or `bilinear` without anti-aliasing as the published loaders do."""
    if picture.shape[-2:] == size:
        return picture
    if mode == "nearest":
        rows, columns = (
            ((torch.arange(to) + 0.5) * (of / to)).long().clamp(max=of - 1)
            for of, to in zip(picture.shape[-2:], size, strict=True)
        )
        return picture[..., rows, :][..., columns]
    stack = picture if picture.ndim == 4 else picture[None]
    out = F.interpolate(stack, size=size, mode="bilinear", align_corners=False)
    return out if picture.ndim == 4 else out[0]


def _scaled(shape: torch.Size | tuple[int, ...], short: int) -> tuple[int, int]:
    """(height, width) of a picture whose short side becomes `short`."""
    height, width = shape[-2], shape[-1]
    factor = short / min(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _padded(picture: Tensor, side: int, value: float) -> Tensor:
    """(h, w) filled up to (side, side) on the right and below."""
    return F.pad(picture, (0, side - picture.shape[1], 0, side - picture.shape[0]), value=value)


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    """A 3x3 Gaussian over (3, H, W), the edges repeated."""
    if sigma <= 0:
        return picture
    side = torch.exp(torch.tensor(-0.5 / sigma**2))
    kernel = torch.stack([side, torch.tensor(1.0), side]) / (1 + 2 * side)
    framed = F.pad(picture[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(framed, torch.outer(kernel, kernel)[None, None])[:, 0]
