"""Sensor failures: corruptions of the input images, and scores under them.

EMM (entire-missing modality: all its values), RMM (random-missing modality: random values) and NM (noisy modality:
noise on all modalities) are defined in arXiv 2503.18445; the any-modal protocol, which runs only the present
modalities, by MAGIC (ECCV 2024). All apply to any number of modalities. Two points that the benchmark leaves open are
defined here: salt and pepper are the maximum and minimum of the image, and the Gaussian noise is added after them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from mlesam_ros.types import EVENT, Modality

Subset = tuple[Modality, ...]

FAILURE_RATES = (0.2, 0.1, 0.05)
"""Independent failure probabilities of each sensor, for the expected scores."""
RMM_RATES = (0.25, 0.5, 0.75)
"""RMM: shares of a corrupted modality's values that are set to zero."""
NM_LEVELS = {"low": (0.05, 0.1), "mid": (0.1, 0.2), "high": (0.2, 0.5)}
"""NM: level → density of salt and pepper, standard deviation of the Gaussian noise."""

ANY, EMM, RMM, NM = "any_modal", "emm", "rmm", "nm"


S = TypeVar("S")


class Features(Protocol):
    """Features of an image encoder; see `mlesam_ros.model.mlesam.Features`."""

    @property
    def modalities(self) -> Subset:
        """Modalities that are present."""

    def exchanged(self: S, other: S, chosen: Collection[Modality]) -> S:
        """Replace the chosen modalities' features by those of `other`."""


F = TypeVar("F", bound=Features)


@dataclass(frozen=True)
class Corruption:
    """One corruption of a set of images.

    Attributes:
        protocol: ANY, EMM, RMM or NM.
        intact: the modalities that are not corrupted; none with NM.
        level: of RMM or NM; empty with ANY and EMM.
    """

    protocol: str
    intact: Subset
    level: str = ""


def damages(modalities: Sequence[Modality]) -> list[Corruption]:
    """All corruptions of EMM, RMM and NM; EMM and RMM include the full subset, without corruption."""
    every = subsets(modalities)
    emm = [Corruption(EMM, subset) for subset in every]
    rmm = [Corruption(RMM, subset, f"{share:g}") for share in RMM_RATES for subset in every]
    return [*emm, *rmm, *(Corruption(NM, (), level) for level in NM_LEVELS)]


def damaged_features(
    encode: Callable[[dict[Modality, Tensor]], F],
    images: Mapping[Modality, Tensor],
    keys: Sequence[Any],
    intact: F,
) -> Iterator[tuple[Corruption, F]]:
    """Encode the images under each corruption of `damages`.

    A corrupted modality stays in the network's input, as in the benchmark's own scripts. Every image is encoded once
    per kind of corruption; subsets are combined from features, since no modality's features depend on another's image.

    Args:
        encode: the image encoder.
        images: modality → (B, 3, H, W) normalized.
        keys: per sample, the seed of its random corruption, which is then equal in every batch and process.
        intact: features of the uncorrupted images.
    """
    every = subsets(intact.modalities)
    for (protocol, level), damage in _KINDS.items():
        damaged = encode(damaged_images(images, keys, damage))
        if protocol == NM:
            yield Corruption(NM, (), level), damaged
            continue
        for subset in every:
            yield Corruption(protocol, subset, level), damaged.exchanged(intact, subset)


def figures(scores: Mapping[Corruption, float], sensors: Subset) -> dict[str, Any]:
    """Metrics of the protocols in percent.

    Args:
        scores: corruption → score from 0 to 1, such as mIoU; NaN without ground truth.
        sensors: the full set.

    Returns:
        `any_modal` and `emm` {average, expected}, `rmm` {share: {average, expected}}, `nm` {level: score}; a protocol
        that was not evaluated, or without ground truth, is empty.
    """
    known = {damage: 100 * score for damage, score in scores.items() if not math.isnan(score)}

    def sums(protocol: str, level: str = "") -> dict[str, Any]:
        tried = [Corruption(protocol, subset, level) for subset in subsets(sensors)]
        complete = tried and all(damage in known for damage in tried)
        return expectation({damage.intact: known[damage] for damage in tried}) if complete else {}

    rmm = {f"{share:g}": sums(RMM, f"{share:g}") for share in RMM_RATES}
    nm = {level: known.get(Corruption(NM, (), level)) for level in NM_LEVELS}
    return {
        ANY: sums(ANY), EMM: sums(EMM), RMM: {level: each for level, each in rmm.items() if each},
        NM: {level: round(score, 2) for level, score in nm.items() if score is not None},
    }  # fmt: skip


def subsets(modalities: Sequence[Modality]) -> list[Subset]:
    """Every non-empty subset in the given order of names, the largest first."""
    return [chosen for size in range(len(modalities), 0, -1) for chosen in combinations(modalities, size)]


def average(scores: Mapping[Subset, float]) -> float:
    """Mean over all subsets, including the full one: all corruptions have equal probability."""
    return sum(scores.values()) / len(scores)


def expected(scores: Mapping[Subset, float], failing: float) -> float:
    """Expected score when every modality fails independently, given that not all of them fail.

        E(p) = Σ_S p^(M - |S|) (1 - p)^|S| score_S / Σ_S p^(M - |S|) (1 - p)^|S|

    Args:
        scores: intact subset S → score, of every non-empty subset of the M modalities.
        failing: p, in (0, 1).
    """
    count = max(map(len, scores))
    chances = {subset: failing ** (count - len(subset)) * (1 - failing) ** len(subset) for subset in scores}
    return sum(chances[subset] * score for subset, score in scores.items()) / sum(chances.values())


def expectation(scores: Mapping[Subset, float]) -> dict[str, Any]:
    """`average`, and `expected` by failure rate; in the scores' unit, two decimals."""
    return {
        "average": round(average(scores), 2),
        "expected": {f"{failing:g}": round(expected(scores, failing), 2) for failing in FAILURE_RATES},
    }


def drop_pixels(picture: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """RMM: set each value of a (3, H, W) image to zero with probability `share`, channels independently."""
    return picture * (torch.rand(picture.shape, generator=generator) >= share).to(picture)


def add_noise(picture: Tensor, density: float, sigma: float, generator: torch.Generator) -> Tensor:
    """NM: set half of `density` of a (3, H, W) image's values to its maximum, half to its minimum; then add noise.

    Args:
        picture: normalized.
        density: share of the values that salt and pepper replace.
        sigma: standard deviation of the Gaussian noise, 0 for none.
        generator: on the CPU.
    """
    draw = torch.rand(picture.shape, generator=generator).to(picture.device)
    noisy = picture.where(draw >= density / 2, picture.max())
    noisy = noisy.where((draw < density / 2) | (draw >= density), picture.min())
    return noisy + sigma * torch.randn(picture.shape, generator=generator).to(picture) if sigma else noisy


Inflict = Callable[[Modality, Tensor, torch.Generator], Tensor]
"""Modality, its (3, H, W) image and a random generator to the corrupted image."""


def damaged_images(images: Mapping[Modality, Tensor], keys: Sequence[Any], damage: Inflict) -> dict[Modality, Tensor]:
    """Corrupt every sample and modality with its own random generator; see `damaged_features`."""
    return {
        name: torch.stack([damage(name, image, chance(key, name)) for key, image in zip(keys, batch, strict=True)])
        for name, batch in images.items()
    }


def chance(key: Any, modality: Modality) -> torch.Generator:
    """Random generator of a sample's corruption, seeded by its key and modality."""
    digest = hashlib.sha256(f"{key} {modality}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _emptied(modality: Modality, image: Tensor, generator: torch.Generator) -> Tensor:
    return torch.zeros_like(image)


def _holed(share: float, modality: Modality, image: Tensor, generator: torch.Generator) -> Tensor:
    return drop_pixels(image, share, generator)


def _noisy(density: float, sigma: float, modality: Modality, image: Tensor, generator: torch.Generator) -> Tensor:
    return add_noise(image, density, 0.0 if modality == EVENT else sigma, generator)


_KINDS: dict[tuple[str, str], Inflict] = {
    (EMM, ""): _emptied,
    **{(RMM, f"{share:g}"): partial(_holed, share) for share in RMM_RATES},
    **{(NM, level): partial(_noisy, *amounts) for level, amounts in NM_LEVELS.items()},
}
"""Protocol and level → corruption of an image."""
