"""Chance: whatever is random in a step follows from the seed, the step and the sample's place in its batch.

So a run that was killed goes on as if it had not been, and many processes draw for their share of a batch what one
process draws for all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PLACES = 65_537  # places in a batch, plus one for the step as a whole


def sample_generator(seed: int, step: int, place: int | None = None) -> torch.Generator:
    """A fresh generator of a step as a whole, or of the sample at a place of its batch."""
    number = (seed * 1_000_003 + step) * _PLACES + (0 if place is None else 1 + place)
    return torch.Generator().manual_seed(number % 2**63)


class SeededDropout2d(TorchFunctionMode):
    """Within it 2-D dropout draws every sample's channels from that sample's generator."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        """One generator per sample of the batch."""
        super().__init__()
        self._generators = generators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Stand in for `F.dropout2d`."""
        if func is F.dropout2d:
            return self._drop(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _drop(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not p:
            return x
        keep = torch.stack([torch.rand(x.shape[1], generator=each) >= p for each in self._generators])
        return x * (keep.to(x) / (1 - p))[:, :, None, None]
