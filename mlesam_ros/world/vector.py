"""The arrays that the street is computed with: single precision throughout."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
"""float32 in fact; the type checker takes arithmetic with Python numbers for double precision."""


def as_float32(values: npt.ArrayLike) -> Floats:
    """Numbers as a float32 array."""
    return np.asarray(values, np.float32)
