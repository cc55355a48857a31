# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights, and their input images."""

import importlib
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from torch import Tensor

from mlesam_ros.model.backbones import BACKBONES, ViTSpec
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.types import MODALITIES


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


@pytest.fixture(scope="session")
def sam1() -> ModuleType:
    """Meta's `segment_anything.build_sam`, without the package's `__init__`, which needs torchvision."""
    found = find_spec("segment_anything")
    assert found is not None
    parent = ModuleType("_reference_segment_anything")
    parent.__path__ = list(found.submodule_search_locations or ())
    sys.modules[parent.__name__] = parent
    return importlib.import_module(f"{parent.__name__}.build_sam")


@pytest.fixture(scope="session")
def shrunk_size() -> ViTSpec:
    """A small SAM 1 with a decoder of full size."""
    return ViTSpec(64, 4, 2, (1, 3))


@pytest.fixture
def shrunk_vit(monkeypatch, shrunk_size) -> str:
    """Name of the small SAM 1, registered during the test."""
    monkeypatch.setitem(BACKBONES, "vit_shrunk", shrunk_size)
    return "vit_shrunk"


@pytest.fixture(params=["hiera_nano", "vit_shrunk"])
def family(request, shrunk_vit) -> str:
    """One small backbone of each family."""
    return request.param


@pytest.fixture
def make_model() -> Callable[..., MLESAM]:
    """A small model in evaluation mode; experts and skips are random, not the identity and zero as in a new one."""

    def make(**changes: object) -> MLESAM:
        model = MLESAM(MLESAMConfig(**{"rank": 4, **changes})).eval()
        with torch.no_grad():
            for modality in model.experts.modalities:
                for b in model.experts.expert(modality).b:
                    b.normal_(std=0.1)
            for parameter in [*model.decoder.conv_s0.parameters(), *model.decoder.conv_s1.parameters()]:
                if not parameter.any():
                    parameter.normal_(std=0.1)
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
