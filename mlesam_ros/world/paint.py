"""Colors that things of a kind come in. They overlap between kinds on purpose: gray is a car, a wall and a road."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from mlesam_ros.world.scene import Color


def linear(red: float, green: float, blue: float) -> Color:
    """Display RGB of 0 … 255 as linear light in 0 … 1 (gamma 2.2)."""
    return ((red / 255) ** 2.2, (green / 255) ** 2.2, (blue / 255) ** 2.2)


def pick(rng: np.random.Generator, palette: Sequence[Color], spread: float = 0.12) -> Color:
    """One color of a palette, every channel scaled by up to ± spread."""
    color = palette[int(rng.integers(len(palette)))]
    r, g, b = (
        float(np.clip(c * s, 0.004, 0.95)) for c, s in zip(color, rng.uniform(1 - spread, 1 + spread, 3), strict=True)
    )
    return (r, g, b)


def vivid(rng: np.random.Generator) -> Color:
    """Any hue, as clothes and vans come in."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.1, 0.9), rng.uniform(0.15, 0.95))
    return linear(*(255 * c for c in rgb))


CARS = [linear(*c) for c in (
    (225, 226, 228), (190, 194, 198), (120, 124, 130), (58, 60, 64), (24, 25, 28), (150, 24, 28), (30, 58, 120),
    (52, 92, 140), (44, 78, 60), (196, 164, 110), (214, 120, 40), (236, 232, 216), (96, 32, 40),
)]  # fmt: skip
FACADES = [linear(*c) for c in (
    (196, 180, 152), (176, 106, 82), (150, 78, 62), (214, 204, 186), (168, 168, 166), (128, 128, 130), (202, 168, 120),
    (186, 148, 128), (140, 152, 158), (224, 216, 206), (110, 96, 88), (172, 186, 170), (206, 178, 142),
)]  # fmt: skip
TRIMS = [linear(*c) for c in ((235, 232, 225), (90, 84, 78), (60, 62, 66), (120, 84, 58), (160, 160, 158))]
ROOFS = [linear(*c) for c in ((122, 62, 48), (84, 82, 84), (66, 60, 58), (140, 88, 64))]
WALLS = [linear(*c) for c in ((150, 92, 74), (168, 164, 156), (130, 126, 120), (196, 186, 168), (120, 88, 72))]
POLES = [linear(*c) for c in ((128, 132, 134), (84, 88, 90), (52, 66, 58), (168, 170, 170))]
FENCES = [linear(*c) for c in ((128, 100, 70), (210, 206, 198), (50, 62, 52), (60, 58, 58), (96, 76, 58))]
LEAVES = [
    linear(*c) for c in ((74, 98, 46), (96, 112, 52), (60, 84, 44), (112, 118, 58), (134, 116, 52), (84, 106, 62))
]
SKINS = [linear(*c) for c in ((224, 178, 150), (196, 142, 110), (140, 96, 70), (92, 62, 46))]
STATICS = [
    linear(*c) for c in ((60, 80, 66), (92, 94, 96), (40, 60, 110), (150, 40, 34), (120, 90, 60), (180, 176, 166))
]
SIGNALS = [linear(*c) for c in ((255, 40, 30), (255, 170, 30), (40, 240, 120))]
