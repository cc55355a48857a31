# SPDX-License-Identifier: Apache-2.0
"""Does a figure grow? Least squares over the blocks of a long run, with what the slope is uncertain by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCKS = 12
_T95 = 2.228  # Student's t with BLOCKS - 2 degrees of freedom, two-sided 95 %


@dataclass(frozen=True)
class Trend:
    """A straight line through the medians of equal blocks of a run.

    Medians of blocks, because neighboring samples resemble each other: taken one by one they would promise an
    accuracy that is not there.

    Attributes:
        slope: units per hour.
        error: half of the slope's 95 % interval, units per hour.
        median: of all samples.
        begin, end: medians of the first and of the last block.
        total: what the line rises by over the run.
    """

    slope: float
    error: float
    median: float
    begin: float
    end: float
    total: float

    def grows(self, grain: float) -> bool:
        """Whether it rises beyond doubt, and by more than a grain over the run, below which nobody would care."""
        return self.slope > self.error and self.total > grain


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """The trend of a sampled figure.

    Args:
        seconds: when each sample was taken, rising.
        values: the samples.

    Raises:
        ValueError: fewer samples than blocks.
    """
    at, figures = np.asarray(seconds, float), np.asarray(values, float)
    if len(figures) < BLOCKS:
        raise ValueError(f"{len(figures)} samples cannot be divided into {BLOCKS} blocks; run longer.")
    x = np.array([block.mean() for block in np.array_split(at, BLOCKS)]) / 3600
    y = np.array([np.median(block) for block in np.array_split(figures, BLOCKS)])
    centered = x - x.mean()
    slope = float(centered @ y / (centered @ centered))
    rest = y - y.mean() - slope * centered
    error = _T95 * math.sqrt(float(rest @ rest) / (BLOCKS - 2) / float(centered @ centered))
    total = slope * float(at[-1] - at[0]) / 3600
    return Trend(slope, error, float(np.median(figures)), float(y[0]), float(y[-1]), total)
