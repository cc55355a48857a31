# SPDX-License-Identifier: Apache-2.0
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

    def replace(self: S, other: S, chosen: Collection[Modality]) -> S:
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


def all_corruptions(modalities: Sequence[Modality]) -> list[Corruption]:
    """All corruptions of EMM, RMM and NM; EMM and RMM include the full subset, without corruption."""
    every = subsets(modalities)
    emm = [Corruption(EMM, subset) for subset in every]
    rmm = [Corruption(RMM, subset, f"{share:g}") for share in RMM_RATES for subset in every]
    return [*emm, *rmm, *(Corruption(NM, (), level) for level in NM_LEVELS)]


def corrupted_features(
    encode: Callable[[dict[Modality, Tensor]], F],
    images: Mapping[Modality, Tensor],
    keys: Sequence[Any],
    intact: F,
) -> Iterator[tuple[Corruption, F]]:
    """Encode the images under each corruption of `all_corruptions`.

    A corrupted modality stays in the network's input, as in the benchmark's own scripts. Every image is encoded once
    per kind of corruption; subsets are combined from features, since no modality's features depend on another's image.

    Args:
        encode: the image encoder.
        images: modality → (B, 3, H, W) normalized.
        keys: per sample, the seed of its random corruption, which is then equal in every batch and process.
        intact: features of the uncorrupted images.
    """
    every = subsets(intact.modalities)
    for (protocol, level), corrupt in _KINDS.items():
        corrupted = encode(corrupted_images(images, keys, corrupt))
        if protocol == NM:
            yield Corruption(NM, (), level), corrupted
            continue
        for subset in every:
            yield Corruption(protocol, subset, level), corrupted.replace(intact, subset)


def protocol_scores(scores: Mapping[Corruption, float], sensors: Subset) -> dict[str, Any]:
    """Metrics of the protocols in percent.

    Args:
        scores: corruption → score from 0 to 1, such as mIoU; NaN without ground truth.
        sensors: the full set.

    Returns:
        `any_modal` and `emm` {average, expected}, `rmm` {share: {average, expected}}, `nm` {level: score}; a protocol
        that was not evaluated, or without ground truth, is empty.
    """
    known = {corruption: 100 * score for corruption, score in scores.items() if not math.isnan(score)}

    def sums(protocol: str, level: str = "") -> dict[str, Any]:
        tried = [Corruption(protocol, subset, level) for subset in subsets(sensors)]
        complete = tried and all(corruption in known for corruption in tried)
        return average_and_expected({corruption.intact: known[corruption] for corruption in tried}) if complete else {}

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


def expected(scores: Mapping[Subset, float], rate: float) -> float:
    """Expected score when every modality fails independently, given that not all of them fail.

        E(p) = Σ_S p^(M - |S|) (1 - p)^|S| score_S / Σ_S p^(M - |S|) (1 - p)^|S|

    Args:
        scores: intact subset S → score, of every non-empty subset of the M modalities.
        rate: p, in (0, 1).
    """
    count = max(map(len, scores))
    chances = {subset: rate ** (count - len(subset)) * (1 - rate) ** len(subset) for subset in scores}
    return sum(chances[subset] * score for subset, score in scores.items()) / sum(chances.values())


def average_and_expected(scores: Mapping[Subset, float]) -> dict[str, Any]:
    """`average`, and `expected` by failure rate; in the scores' unit, two decimals."""
    return {
        "average": round(average(scores), 2),
        "expected": {f"{rate:g}": round(expected(scores, rate), 2) for rate in FAILURE_RATES},
    }


def drop_pixels(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """RMM: set each value of a (3, H, W) image to zero with probability `share`, channels independently."""
    return image * (torch.rand(image.shape, generator=generator) >= share).to(image)


def add_noise(image: Tensor, density: float, sigma: float, generator: torch.Generator) -> Tensor:
    """NM: set half of `density` of a (3, H, W) image's values to its maximum, half to its minimum; then add noise.

    Args:
        image: normalized.
        density: share of the values that salt and pepper replace.
        sigma: standard deviation of the Gaussian noise, 0 for none.
        generator: on the CPU.
    """
    draw = torch.rand(image.shape, generator=generator).to(image.device)
    noisy = image.where(draw >= density / 2, image.max())
    noisy = noisy.where((draw < density / 2) | (draw >= density), image.min())
    return noisy + sigma * torch.randn(image.shape, generator=generator).to(image) if sigma else noisy


Corrupt = Callable[[Modality, Tensor, torch.Generator], Tensor]
"""Modality, its (3, H, W) image and a random generator to the corrupted image."""


def corrupted_images(
    images: Mapping[Modality, Tensor], keys: Sequence[Any], corruption: Corrupt
) -> dict[Modality, Tensor]:
    """Corrupt every sample and modality with its own random generator; see `corrupted_features`."""
    return {
        name: torch.stack(
            [corruption(name, image, corruption_generator(key, name)) for key, image in zip(keys, batch, strict=True)]
        )
        for name, batch in images.items()
    }


def corruption_generator(key: Any, modality: Modality) -> torch.Generator:
    """Random generator of a sample's corruption, seeded by its key and modality."""
    digest = hashlib.sha256(f"{key} {modality}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _zero(modality: Modality, image: Tensor, generator: torch.Generator) -> Tensor:
    return torch.zeros_like(image)


def _drop(share: float, modality: Modality, image: Tensor, generator: torch.Generator) -> Tensor:
    return drop_pixels(image, share, generator)


def _add_noise(density: float, sigma: float, modality: Modality, image: Tensor, generator: torch.Generator) -> Tensor:
    return add_noise(image, density, 0.0 if modality == EVENT else sigma, generator)


_KINDS: dict[tuple[str, str], Corrupt] = {
    (EMM, ""): _zero,
    **{(RMM, f"{share:g}"): partial(_drop, share) for share in RMM_RATES},
    **{(NM, level): partial(_add_noise, *amounts) for level, amounts in NM_LEVELS.items()},
}
"""Protocol and level → corruption of an image."""
