"""Small models with lively weights, and the pictures they read."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from mlesam_ros.frame import MODALITIES
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.mlesam import MLESAM, build_mlesam


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


@pytest.fixture
def make_model() -> Callable[..., MLESAM]:
    """A nano model in evaluation mode whose experts are not the identity that fresh ones are."""

    def make(**changes: object) -> MLESAM:
        model = build_mlesam(MLESAMConfig(**{"rank": 4, **changes})).eval()
        with torch.no_grad():
            for modality in model.experts.modalities:
                for b in model.experts.expert(modality).b:
                    b.normal_(std=0.1)
        return model

    return make


@pytest.fixture
def make_images() -> Callable[..., dict[str, Tensor]]:
    def make(
        modalities: Iterable[str] = MODALITIES, batch: int = 2, size: tuple[int, int] = (64, 96)
    ) -> dict[str, Tensor]:
        return {m: torch.randn(batch, 3, *size) for m in modalities}

    return make


@pytest.fixture
def distance() -> Callable[[Tensor, Tensor], float]:
    """Largest difference relative to the largest value."""
    return lambda a, b: float((a - b).abs().max() / b.abs().max())
