"""The few calls that NumPy's arrays and torch's tensors spell differently, so that a formula is written once.

This room knows nothing of torch: whatever is not a NumPy array is taken to have a tensor's methods.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def to_float64(values: Any) -> Any:
    """As float64."""
    return values.astype(np.float64) if isinstance(values, np.ndarray) else values.double()


def indices(mask: Any) -> Any:
    """(M,) where an (N,) mask is true, rising."""
    return np.flatnonzero(mask) if isinstance(mask, np.ndarray) else mask.nonzero()[:, 0]


def ones_like(values: Any) -> Any:
    """Ones of the same shape and type, in the same place."""
    return np.ones_like(values) if isinstance(values, np.ndarray) else values.new_ones(values.shape)


def arctan(values: Any) -> Any:
    """Radians."""
    return np.arctan(values) if isinstance(values, np.ndarray) else values.arctan()
