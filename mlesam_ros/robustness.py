"""Failing sensors: what is done to their pictures, and what a score under such damage is worth.

EMM (entire modalities missing), RMM (random values of them missing) and NM (noise on all of them) are defined in
arXiv 2503.18445; the any-modal protocol, which runs only what is there, by MAGIC (ECCV 2024). All of it is for any
number of modalities. Two things that the benchmark leaves open are decided here: salt and pepper are the largest and
smallest value of the picture they fall on, and the Gaussian noise comes after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mlesam_ros.frame import Modality

Subset = tuple[Modality, ...]

FAILING = (0.2, 0.1, 0.05)
"""Probabilities with which every sensor fails by itself, of the expected scores."""
MISSING = (0.25, 0.5, 0.75)
"""RMM: shares of a damaged modality's values that are zeroed."""
NOISE = {"low": (0.05, 0.1), "mid": (0.1, 0.2), "high": (0.2, 0.5)}
"""NM: level → density of salt and pepper, deviation of the Gaussian noise."""


def subsets(modalities: Sequence[Modality]) -> list[Subset]:
    """Every non-empty subset in the given order of names, the largest first."""
    return [chosen for size in range(len(modalities), 0, -1) for chosen in combinations(modalities, size)]


def average(scores: Mapping[Subset, float]) -> float:
    """The plain mean over the subsets, the full one included: any two damages are equally likely."""
    return sum(scores.values()) / len(scores)


def expected(scores: Mapping[Subset, float], failing: float) -> float:
    """The score to expect when every modality fails by itself, given that not all of them do.

        E(p) = Σ_S p^(M - |S|) (1 - p)^|S| score_S / Σ_S p^(M - |S|) (1 - p)^|S|

    Args:
        scores: intact subset S → score, of every non-empty subset of the M modalities.
        failing: p, in (0, 1).
    """
    count = max(map(len, scores))
    chances = {subset: failing ** (count - len(subset)) * (1 - failing) ** len(subset) for subset in scores}
    return sum(chances[subset] * score for subset, score in scores.items()) / sum(chances.values())


def expectation(scores: Mapping[Subset, float]) -> dict[str, Any]:
    """`average`, and `expected` by probability; in the scores' unit, two decimals."""
    return {
        "average": round(average(scores), 2),
        "expected": {f"{failing:g}": round(expected(scores, failing), 2) for failing in FAILING},
    }


def with_holes(picture: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """RMM: every value of a (3, H, W) picture, channels apart, is zeroed with that probability."""
    return picture * (torch.rand(picture.shape, generator=generator) >= share).to(picture)


def with_noise(picture: Tensor, density: float, sigma: float, generator: torch.Generator) -> Tensor:
    """NM: half of `density` of a (3, H, W) picture's values become its largest, half its smallest; then noise is added.

    Args:
        picture: normalised.
        density: share of the values that salt and pepper hit.
        sigma: deviation of the Gaussian noise, 0 for none.
        generator: on the CPU.
    """
    draw = torch.rand(picture.shape, generator=generator).to(picture.device)
    noisy = picture.where(draw >= density / 2, picture.max())
    noisy = noisy.where((draw < density / 2) | (draw >= density), picture.min())
    return noisy + sigma * torch.randn(picture.shape, generator=generator).to(picture) if sigma else noisy
