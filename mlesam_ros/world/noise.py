"""One tile of fractal noise from which every surface takes its grain."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mlesam_ros.world.vector import Floats

SIZE = 512
"""Texels per side; a power of two, the tile repeats."""


@lru_cache(maxsize=1)
def _tiles() -> tuple[Floats, Floats]:
    """A fine and a smooth tile, each (SIZE * SIZE,) float32 of mean 0 and deviation 1."""
    rng = np.random.default_rng(20241206)
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE)))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]) + 1 / SIZE
    tiles = []
    for slope in (0.6, 1.8):
        tile = np.fft.irfft2(spectrum * frequency**-slope, s=(SIZE, SIZE))
        tiles.append(((tile - tile.mean()) / tile.std()).astype(np.float32).ravel())
    return tiles[0], tiles[1]


def grain(u: Floats, v: Floats, per_meter: float) -> Floats:
    """Fine noise at (n,) positions in meters, `per_meter` texels to the meter: mean 0, deviation 1."""
    return _tiles()[0][_index(u * np.float32(per_meter), v * np.float32(per_meter))]


def cloudy(u: Floats, v: Floats, per_unit: float) -> Floats:
    """Smooth noise, interpolated between texels: mean 0, deviation 1."""
    tile = _tiles()[1]
    a, b = u * np.float32(per_unit), v * np.float32(per_unit)
    fa, fb = a - np.floor(a), b - np.floor(b)
    low = tile[_index(a, b)] * (1 - fb) + tile[_index(a, b + 1)] * fb
    high = tile[_index(a + 1, b)] * (1 - fb) + tile[_index(a + 1, b + 1)] * fb
    return low * (1 - fa) + high * fa


def hashed(a: Floats, b: Floats) -> Floats:
    """A number in [0, 1) for every pair of cell numbers, the same for the same pair."""
    x = np.floor(a).astype(np.int32).astype(np.uint32) * np.uint32(0x9E3779B1)
    x ^= np.floor(b).astype(np.int32).astype(np.uint32) * np.uint32(0x85EBCA77)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x2C1B3C6D)
    x ^= x >> np.uint32(13)
    return (x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _index(a: Floats, b: Floats) -> npt.NDArray[np.int32]:
    rows = np.floor(a).astype(np.int32) & (SIZE - 1)
    rows *= SIZE
    rows += np.floor(b).astype(np.int32) & (SIZE - 1)
    return rows
