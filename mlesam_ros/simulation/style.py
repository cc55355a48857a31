# SPDX-License-Identifier: Apache-2.0
"""Styles: distributions of the colors, shapes, camera responses and camera mountings of a street.

`plain` is the street of the shipped weights. `varied` does not reveal a class by its color: pavement, asphalt, walls,
plants and vehicles have overlapping reflectances and hues. A style is data; `draw_fields` draws the values of one
street. Fields without a distribution have the value of `plain`, the default of their dataclass.

Reflectances of `varied` cover published ranges of materials. Asphalt has 0.05 when new and 0.2 when worn, concrete
from 0.2 to 0.4 (H. Akbari, M. Pomerantz, H. Taha, Solar Energy 2001); light aggregates and paints extend to 0.45.
Leaves reflect 0.04 to 0.1 when green, and up to 0.5 when yellow or in blossom; bark and dry grass reflect 0.1 to 0.3.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from mlesam_ros.errors import ConfigError
from mlesam_ros.simulation.scene import Color

Span = tuple[float, float]
Shares = tuple[tuple[str, float], ...]
"""Names with their shares or probabilities."""


def linear(red: float, green: float, blue: float) -> Color:
    """Display RGB of 0 … 255 as linear light in 0 … 1 (gamma 2.2)."""
    return ((red / 255) ** 2.2, (green / 255) ** 2.2, (blue / 255) ** 2.2)


def vivid(rng: np.random.Generator) -> Color:
    """A random color of any hue."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.1, 0.9), rng.uniform(0.15, 0.95))
    return linear(*(255 * c for c in rgb))


def luminance(color: Color) -> float:
    """Relative luminance of linear RGB (ITU-R BT.709)."""
    return 0.2126 * color[0] + 0.7152 * color[1] + 0.0722 * color[2]


@dataclass(frozen=True)
class Palette:
    """Colors of one kind of object.

    Attributes:
        colors: linear RGB; none for any hue.
        luminance: range to which colors are scaled, log-uniform; None to keep their own.
    """

    colors: tuple[Color, ...] = ()
    luminance: Span | None = None

    def draw(self, rng: np.random.Generator, spread: float = 0.12) -> Color:
        """A random color, every channel scaled by 1 ± spread at most.

        The number of random numbers does not depend on colors and luminance, so that they do not change shapes.
        """
        if not self.colors:
            return vivid(rng)
        color = self.colors[int(rng.integers(len(self.colors)))]
        scales = rng.uniform(1 - spread, 1 + spread, 3).tolist()
        if self.luminance is not None:
            low, high = self.luminance
            level = low * (high / low) ** ((scales[1] - 1 + spread) / (2 * spread)) / luminance(color)
            scales = [scales[0] * level, level, scales[2] * level]
        r, g, b = (min(max(c * s, 0.004), 0.95) for c, s in zip(color, scales, strict=True))
        return (r, g, b)


def choose(shares: Shares, rng: np.random.Generator) -> str:
    """A random name; a single one is taken without a random number."""
    if len(shares) == 1:
        return shares[0][0]
    dice = rng.uniform() * sum(share for _, share in shares)
    for name, share in shares:
        dice -= share
        if dice < 0:
            return name
    return shares[-1][0]


def _palette(*colors: Color) -> Palette:
    return Palette(tuple(linear(*color) for color in colors))


_PLAIN_FACADES = _palette(
    (196, 180, 152), (176, 106, 82), (150, 78, 62), (214, 204, 186), (168, 168, 166), (128, 128, 130),
    (202, 168, 120), (186, 148, 128), (140, 152, 158), (224, 216, 206), (110, 96, 88), (172, 186, 170),
    (206, 178, 142),
)  # fmt: skip
_PLAIN_TRIMS = _palette((235, 232, 225), (90, 84, 78), (60, 62, 66), (120, 84, 58), (160, 160, 158))
_PLAIN_ROOFS = _palette((122, 62, 48), (84, 82, 84), (66, 60, 58), (140, 88, 64))
_PLAIN_WALLS = _palette((150, 92, 74), (168, 164, 156), (130, 126, 120), (196, 186, 168), (120, 88, 72))
_PLAIN_FENCES = _palette((128, 100, 70), (210, 206, 198), (50, 62, 52), (60, 58, 58), (96, 76, 58))
_PLAIN_POLES = _palette((128, 132, 134), (84, 88, 90), (52, 66, 58), (168, 170, 170))
_PLAIN_LEAVES = _palette((74, 98, 46), (96, 112, 52), (60, 84, 44), (112, 118, 58), (134, 116, 52), (84, 106, 62))
_PLAIN_CARS = _palette(
    (225, 226, 228), (190, 194, 198), (120, 124, 130), (58, 60, 64), (24, 25, 28), (150, 24, 28), (30, 58, 120),
    (52, 92, 140), (44, 78, 60), (196, 164, 110), (214, 120, 40), (236, 232, 216), (96, 32, 40),
)  # fmt: skip
_PLAIN_TROUSERS = _palette(
    (60, 80, 66), (92, 94, 96), (40, 60, 110), (150, 40, 34), (120, 90, 60), (180, 176, 166),
    (120, 124, 130), (58, 60, 64), (24, 25, 28), (150, 24, 28), (30, 58, 120), (52, 92, 140),
)  # fmt: skip
_PLAIN_STATICS = _palette((60, 80, 66), (92, 94, 96), (40, 60, 110), (150, 40, 34), (120, 90, 60), (180, 176, 166))
_PLAIN_BARK = linear(96, 82, 68)
_ANY_HUE = Palette()


@dataclass(frozen=True, eq=False)
class Look:
    """Colors of one street, linear RGB; shapes do not depend on them.

    Attributes:
        facades, trims, roofs, walls, fences, poles, leaves, cars, coaches, tops, trousers, statics: palettes.
        bark: palette of stems and branches.
        asphalt: range of the albedo of the road; a street has one value.
        road: color of the road at albedo 1.
        pavement: range of the albedo of the sidewalks; each side of a tile has one value.
        paving: color of the sidewalks at albedo 1.
        slabs: length and width of the paving stones, meters.
        joints: darkness of the joints between paving stones, 0 … 1.
        curb: color of the curb stones.
        setts: contrast of cobblestones on the road; 0 for asphalt.
        marking: color of the road markings.
        lawn, straw, verge: colors of fresh and dry grass and of the ground beyond the road.
        water: color of water without reflections.
        posters: share of walls and ground floors with posters.
    """

    facades: Palette = _PLAIN_FACADES
    trims: Palette = _PLAIN_TRIMS
    roofs: Palette = _PLAIN_ROOFS
    walls: Palette = _PLAIN_WALLS
    fences: Palette = _PLAIN_FENCES
    poles: Palette = _PLAIN_POLES
    leaves: Palette = _PLAIN_LEAVES
    bark: Color = _PLAIN_BARK
    cars: Palette = _PLAIN_CARS
    coaches: Palette = _ANY_HUE
    tops: Palette = _ANY_HUE
    trousers: Palette = _PLAIN_TROUSERS
    statics: Palette = _PLAIN_STATICS
    asphalt: Span = (0.07, 0.15)
    road: Color = (1.0, 0.99, 0.96)
    pavement: Span = (0.2, 0.4)
    paving: Color = (1.0, 0.96, 0.9)
    slabs: Span = (0.6, 0.6)
    joints: float = 0.4
    curb: Color = (0.36, 0.36, 0.35)
    setts: float = 0.0
    marking: Color = (0.62, 0.62, 0.58)
    lawn: Color = (0.09, 0.15, 0.035)
    straw: Color = (0.17, 0.15, 0.07)
    verge: Color = (0.11, 0.13, 0.05)
    water: Color = (0.02, 0.03, 0.03)
    posters: float = 0.0


@dataclass(frozen=True, eq=False)
class Shapes:
    """Dimensions of a street, and its kinds of objects with their shares.

    Attributes:
        lanes: numbers of lanes per direction, in equal shares.
        lane: range of the width of a lane, meters.
        parking: share of streets where cars park.
        pavement: range of the width of the sidewalks, meters.
        urban: range of the share of plots with buildings.
        avenue: share of trees among the objects along a curb, in tiles with many and with few of them.
        spacing: range of the distance between objects along a curb, meters.
        trees: "crown", "bare" or "conifer".
        lamps: "arm", "curved", "post" or "double".
        signs, clutter, builds: kinds in equal shares.
        signals: housings of traffic lights, "upright", "wide" or "small".
        cars, trucks, buses: kinds of vehicles in equal shares.
        fleet: shares of cars, trucks and buses.
        curbside: objects along a curb, with cumulative shares; trees take the first part of them.
        grown: half the difference of people's heights, as a share.
        crowd: factor on the number of people.
        group: share of people in groups.
        scenery: probability of each extra in a tile: "canal", "railway", "forecourt", "viaduct", "gantry",
            "guard_rail", "movables", "oddities".
        tramway: whether rails lie in the road.
        awnings: share of buildings with awnings and projecting signs.
    """

    lanes: tuple[int, ...] = (1, 1, 2)
    lane: Span = (3.1, 3.7)
    parking: float = 0.65
    pavement: Span = (2.2, 5.0)
    urban: Span = (0.25, 0.9)
    avenue: Span = (0.5, 0.15)
    spacing: Span = (4.5, 10.0)
    trees: Shares = (("crown", 1.0),)
    lamps: Shares = (("arm", 1.0),)
    signs: tuple[str, ...] = ("round", "triangle", "octagon", "square", "board")
    signals: Shares = (("upright", 1.0),)
    clutter: tuple[str, ...] = ("bin", "bench", "column", "cabinet", "crates")
    builds: tuple[str, ...] = ("adult", "tall", "child", "coat", "bag")
    cars: tuple[str, ...] = ("hatchback", "saloon", "estate", "suv", "van")
    trucks: tuple[str, ...] = ("box", "flat")
    buses: tuple[str, ...] = ("long", "short")
    fleet: tuple[float, float, float] = (0.86, 0.08, 0.06)
    curbside: Shares = (("sign", 0.68), ("clutter", 0.82), ("bollards", 0.88), ("bicycles", 0.95), ("shelter", 1.0))
    grown: float = 0.0
    crowd: float = 1.0
    group: float = 0.0
    scenery: Shares = ()
    tramway: bool = False
    awnings: float = 0.0


@dataclass(frozen=True)
class Response:
    """Conversion of radiance to 8-bit codes by one camera.

    Noise follows EMVA 1288: photon noise is the root of the electrons, read noise is constant. Illumination falls off
    with the fourth power of the cosine of the field angle, more with mechanical vignetting.

    Attributes:
        key: log-average luminance of the image after exposure (E. Reinhard et al., "Photographic tone reproduction for
            digital images", 2002); 0 for the exposure of the weather.
        warmth: ln of the ratio of red to blue gain, the error of the white balance.
        green: ln of the green gain.
        saturation: distance of colors from gray, 1 for that of the scene.
        falloff: loss of light in the corners of the image.
        blur: standard deviation of the lens's point spread in pixels of an image 512 pixels wide.
        fringe: magnification of red and inverse magnification of blue, lateral chromatic aberration.
        full_well: electrons at saturation; 0 for the noise of the weather.
        read_noise: electrons.
        film: whether the signal saturates exponentially as on film, instead of at the full well.
        shoulder: compression of the highlights by the tone curve, 0 for none.
        gamma: exponent of the display.
        contrast: strength of the S-shaped tone curve.
        black: signal that is shown as 0, after `flare`.
        flare: share of the mean light that is spread over the image by the lens.
        chroma: standard deviation of the blur of the color differences in pixels, from demosaicing and 4:2:0 coding.
        sharpening: gain of an unsharp mask.
    """

    key: float = 0.0
    warmth: float = 0.0
    green: float = 0.0
    saturation: float = 1.0
    falloff: float = 0.0
    blur: float = 0.45
    fringe: float = 1.0
    full_well: float = 0.0
    read_noise: float = 0.0
    film: bool = True
    shoulder: float = 0.0
    gamma: float = 2.2
    contrast: float = 0.0
    black: float = 0.0
    flare: float = 0.0
    chroma: float = 0.0
    sharpening: float = 0.0


@dataclass(frozen=True)
class Mounting:
    """Position and lens of the camera.

    Attributes:
        height: meters above the road.
        pitch, yaw, roll: degrees; positive pitch looks down, positive yaw to the left.
        view: horizontal field of view without distortion, degrees.
        distortion: relative shift of the image's corners by radial distortion; negative for a barrel.
        lidar: height of the LiDAR above the camera, meters.
    """

    height: float = 1.62
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0
    view: float = 90.0
    distortion: float = 0.0
    lidar: float = 0.3


class Distribution(Protocol):
    """A value that is drawn once per street."""

    def draw(self, rng: np.random.Generator) -> Any:
        """A random value."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Uniform from `low` to `high`; with a probability of `off`, `rest` instead."""

    low: float
    high: float
    off: float = 0.0
    rest: float = 0.0

    def draw(self, rng: np.random.Generator) -> float:
        """A random number."""
        value, dice = float(rng.uniform(self.low, self.high)), rng.uniform()
        return self.rest if dice < self.off else value


@dataclass(frozen=True)
class LogUniform:
    """Uniform in the logarithm, from `low` to `high`."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """A random number."""
        return float(self.low * (self.high / self.low) ** rng.uniform())


@dataclass(frozen=True)
class Constant:
    """The same value for every street."""

    value: Any

    def draw(self, rng: np.random.Generator) -> Any:
        """The value."""
        return self.value


@dataclass(frozen=True)
class OneOf:
    """One of several values, in equal shares."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """A random value."""
        return self.values[int(rng.integers(len(self.values)))]


@dataclass(frozen=True)
class Level:
    """A range of luminance: a factor of `width` to either side of a log-uniform center."""

    center: LogUniform
    width: float = 1.0

    def draw(self, rng: np.random.Generator) -> Span:
        """A random range."""
        center = self.center.draw(rng)
        return (center / self.width, center * self.width)


@dataclass(frozen=True)
class Colors:
    """Some of many hues, at the luminance of the street: a street has few kinds of brick, or of leaves."""

    hues: Palette
    count: int
    level: Distribution

    def draw(self, rng: np.random.Generator) -> Palette:
        """A random palette."""
        picked = rng.choice(len(self.hues.colors), self.count, replace=False)
        return Palette(tuple(self.hues.colors[int(i)] for i in picked), self.level.draw(rng))


@dataclass(frozen=True)
class Tint:
    """A hue at a luminance."""

    hues: Palette
    level: LogUniform

    def draw(self, rng: np.random.Generator) -> Color:
        """A random color."""
        level = self.level.draw(rng)
        return Palette(self.hues.colors, (level, level)).draw(rng, 0.06)


T = TypeVar("T")


def draw_fields(kind: type[T], distributions: Mapping[str, Distribution], rng: np.random.Generator) -> T:
    """An instance of a dataclass with random values for some of its fields."""
    return kind(**{name: distribution.draw(rng) for name, distribution in distributions.items()})


@dataclass(frozen=True)
class Style:
    """Distributions by field of `Look`, `Shapes`, `Response` and `Mounting`."""

    look: Mapping[str, Distribution] = field(default_factory=dict)
    shapes: Mapping[str, Distribution] = field(default_factory=dict)
    response: Mapping[str, Distribution] = field(default_factory=dict)
    mounting: Mapping[str, Distribution] = field(default_factory=dict)


_EARTHS = _palette(  # stone, plaster, brick, paint; asphalt, concrete and paving of every origin
    (150, 150, 150), (158, 150, 140), (140, 146, 152), (168, 152, 128), (164, 128, 110), (150, 106, 88),
    (120, 112, 100), (176, 164, 120), (146, 152, 132), (132, 140, 120), (126, 132, 146), (170, 140, 96), (110, 96, 84),
    (160, 156, 150),
)  # fmt: skip
_FACADES = Palette(
    _EARTHS.colors
    + _palette(
        (178, 98, 70),
        (190, 160, 90),
        (104, 124, 84),
        (140, 90, 84),
        (108, 130, 110),
        (150, 130, 60),
        (170, 136, 100),
        (190, 170, 120),
        (120, 104, 70),
    ).colors
)
_LEAVES = _palette(
    (86, 112, 54), (72, 96, 56), (104, 116, 70), (128, 128, 84), (120, 110, 86), (132, 120, 104), (140, 118, 90),
    (170, 150, 60), (176, 128, 54), (160, 98, 56), (142, 80, 56), (116, 92, 70), (128, 130, 120), (150, 132, 116),
    (96, 100, 80), (170, 146, 140), (110, 84, 70), (76, 84, 60), (112, 124, 122), (136, 140, 140), (164, 150, 156),
    (120, 112, 112),
)  # fmt: skip
_BARKS = _palette((120, 108, 96), (96, 92, 84), (150, 146, 138), (110, 84, 64), (100, 104, 92))
_GRASSES = _palette((96, 110, 60), (120, 116, 70), (140, 128, 92), (110, 104, 88), (80, 100, 50), (150, 140, 110))
_CLOTHES = _palette(
    (40, 40, 44), (60, 62, 70), (30, 36, 56), (90, 88, 84), (130, 124, 116), (190, 186, 178), (232, 230, 224),
    (120, 84, 60), (70, 84, 60), (150, 40, 40), (60, 90, 150), (200, 180, 60), (214, 110, 40), (170, 90, 130),
)  # fmt: skip
_CARS = _palette(
    (240, 240, 240), (200, 203, 206), (150, 152, 156), (96, 98, 102), (60, 62, 64), (40, 41, 44), (20, 20, 22),
    (12, 12, 14), (150, 24, 28), (30, 50, 100), (60, 96, 150), (50, 70, 56), (190, 170, 130), (120, 90, 70),
    (206, 110, 40), (90, 30, 40), (220, 190, 60), (110, 116, 110),
)  # fmt: skip
_SURFACE = LogUniform(0.05, 0.45)
_SURFACE_HUES = OneOf(
    ((1.0, 1.0, 1.0), (1.06, 1.0, 0.92), (0.96, 1.0, 1.08), (1.16, 0.97, 0.86), (1.02, 1.0, 0.9), (1.0, 1.0, 0.96))
)

PLAIN = Style()
# fmt: off
VARIED = Style(
    look={
        "asphalt": Level(_SURFACE, 1.1),
        "road": _SURFACE_HUES,
        "pavement": Level(_SURFACE, 1.15),
        "paving": _SURFACE_HUES,
        "slabs": OneOf(((0.6, 0.6), (0.3, 0.3), (0.2, 0.1), (1.0, 0.5), (3.0, 2.0), (0.12, 0.12))),
        "joints": Uniform(0.1, 0.55, off=0.35),
        "curb": Tint(_EARTHS, _SURFACE),
        "setts": Uniform(0.2, 0.5, off=0.85),
        "marking": OneOf(((0.7, 0.7, 0.68), (0.5, 0.5, 0.47), (0.36, 0.35, 0.33), (0.62, 0.46, 0.12), (0.8, 0.8, 0.8))),
        "facades": Colors(_FACADES, 5, Level(LogUniform(0.05, 0.4), 1.7)),
        "trims": Colors(_FACADES, 5, Level(LogUniform(0.08, 0.5), 2.2)),
        "roofs": Colors(_FACADES, 4, Level(LogUniform(0.05, 0.3), 1.5)),
        "walls": Colors(_FACADES, 5, Level(LogUniform(0.06, 0.45), 1.8)),
        "fences": Colors(_FACADES, 5, Level(LogUniform(0.05, 0.4), 2.2)),
        "poles": Colors(_EARTHS, 4, Level(LogUniform(0.04, 0.4), 1.6)),
        "leaves": Colors(_LEAVES, 4, Level(LogUniform(0.07, 0.5), 1.5)),
        "bark": Tint(_BARKS, LogUniform(0.04, 0.3)),
        "lawn": Tint(_GRASSES, LogUniform(0.05, 0.3)),
        "straw": Tint(_GRASSES, LogUniform(0.06, 0.35)),
        "verge": Tint(_GRASSES, LogUniform(0.05, 0.3)),
        "water": Tint(_GRASSES, LogUniform(0.01, 0.08)),
        "cars": Colors(_CARS, 13, Constant((0.015, 0.95))),
        "coaches": Colors(_CARS, 6, Level(LogUniform(0.08, 0.4), 2.5)),
        "tops": Colors(_CLOTHES, 10, Level(LogUniform(0.08, 0.2), 3.5)),
        "trousers": Colors(_CLOTHES, 8, Level(LogUniform(0.05, 0.15), 3.0)),
        "statics": Colors(_CARS, 8, Level(LogUniform(0.1, 0.2), 3.0)),
        "posters": Uniform(0.1, 0.7, off=0.3),
    },
    shapes={
        "lanes": Constant((1, 1, 1, 2)),
        "lane": Constant((2.9, 3.7)),
        "parking": Constant(0.45),
        "pavement": Constant((1.6, 6.5)),
        "urban": Constant((0.05, 0.95)),
        "avenue": OneOf(((0.55, 0.2), (0.45, 0.1), (0.6, 0.4))),
        "spacing": OneOf(((2.5, 7.0), (3.5, 9.0))),
        "trees": OneOf(
            (
                (("crown", 0.9), ("conifer", 0.1)), (("crown", 0.6), ("bare", 0.3), ("conifer", 0.1)),
                (("crown", 0.3), ("bare", 0.6), ("conifer", 0.1)), (("bare", 0.85), ("conifer", 0.15)),
                (("crown", 0.7), ("bare", 0.3)),
            )
        ),
        "lamps": OneOf(
            ((("arm", 1.0),), (("curved", 1.0),), (("post", 1.0),), (("double", 1.0),), (("arm", 0.5), ("post", 0.5)))
        ),
        "signs": OneOf(
            (
                ("round", "triangle", "octagon", "square", "board", "arrow", "pair", "diamond", "tall", "plate"),
                ("round", "round", "triangle", "square", "pair", "arrow", "plate", "tall"),
                ("diamond", "octagon", "board", "square", "plate", "pair", "arrow"),
            )
        ),
        "signals": OneOf(((("upright", 1.0),), (("wide", 1.0),), (("upright", 0.5), ("small", 0.5)))),
        "clutter": OneOf(
            (
                ("bin", "bench", "column", "cabinet", "crates", "hydrant", "planter", "mailbox", "meter", "rack"),
                ("bin", "bench", "cabinet", "planter", "meter", "hydrant", "mailbox"),
            )
        ),
        "builds": Constant(
            ("adult", "adult", "adult", "child", "child", "coat", "coat", "bag", "bag", "skirt", "skirt", "hood",
             "hood", "umbrella", "case", "phone", "phone", "pram", "dog")
        ),
        "cars": OneOf(
            (
                ("hatchback", "saloon", "estate", "suv", "van", "compact", "coupe", "pickup", "minivan", "offroader"),
                ("hatchback", "compact", "suv", "van", "minivan", "estate"),
                ("saloon", "suv", "pickup", "offroader", "coupe"),
            )
        ),
        "trucks": Constant(("box", "flat", "tipper", "tank", "small")),
        "buses": Constant(("long", "short", "double", "coach")),
        "fleet": OneOf(((0.82, 0.1, 0.08), (0.74, 0.13, 0.13), (0.88, 0.06, 0.06))),
        "curbside": OneOf(
            (
                (
                    ("sign", 0.74), ("pole", 0.84), ("clutter", 0.9), ("bollards", 0.92), ("bicycles", 0.95),
                    ("movable", 0.975), ("shelter", 1.0),
                ),
                (
                    ("sign", 0.68), ("pole", 0.76), ("clutter", 0.86), ("bollards", 0.89), ("bicycles", 0.94),
                    ("movable", 0.98), ("shelter", 1.0),
                ),
            )
        ),
        "grown": Uniform(0.05, 0.14),
        "crowd": LogUniform(0.5, 1.6),
        "group": Uniform(0.1, 0.5),
        "scenery": OneOf(
            (
                (
                    ("canal", 0.15), ("railway", 0.08), ("forecourt", 0.2), ("viaduct", 0.06), ("gantry", 0.1),
                    ("guard_rail", 0.12), ("movables", 0.4), ("oddities", 0.25),
                ),
                (
                    ("canal", 0.06), ("railway", 0.16), ("forecourt", 0.3), ("viaduct", 0.1), ("gantry", 0.16),
                    ("guard_rail", 0.25), ("movables", 0.3), ("oddities", 0.15),
                ),
                (
                    ("canal", 0.3), ("railway", 0.05), ("forecourt", 0.2), ("viaduct", 0.05), ("gantry", 0.05),
                    ("guard_rail", 0.08), ("movables", 0.5), ("oddities", 0.35),
                ),
            )
        ),
        "tramway": OneOf((True, False, False, False, False)),
        "awnings": Uniform(0.1, 0.6),
    },
    response={  # pixels of 1 to 6 um hold 4,000 to 100,000 electrons
        "key": LogUniform(0.08, 0.45),
        "warmth": Uniform(-0.35, 0.35),
        "green": Uniform(-0.1, 0.08),
        "saturation": Uniform(0.35, 1.35),
        "falloff": Uniform(0.05, 0.6, off=0.3),
        "blur": Uniform(0.3, 1.1),
        "fringe": Uniform(0.9985, 1.0015),
        "full_well": LogUniform(4e3, 1e5),
        "read_noise": LogUniform(1.5, 20.0),
        "film": Constant(False),
        "shoulder": Uniform(0.3, 3.0, off=0.4),
        "gamma": Uniform(1.7, 2.6),
        "contrast": Uniform(0.0, 1.0),
        "black": Uniform(0.0, 0.08, off=0.3),
        "flare": Uniform(0.0, 0.06, off=0.4),
        "chroma": Uniform(0.5, 2.5, off=0.3),
        "sharpening": Uniform(0.2, 1.0, off=0.4),
    },
    mounting={
        "height": LogUniform(0.7, 2.6),
        "pitch": Uniform(-5.0, 7.0),
        "yaw": Uniform(-4.0, 4.0),
        "roll": Uniform(-2.0, 2.0),
        "view": LogUniform(48.0, 108.0),
        "distortion": Uniform(-0.15, 0.04, off=0.4),
        "lidar": Uniform(0.1, 0.6),
    },
)

# fmt: on

PLAIN_STYLE = "plain"
STYLES = {PLAIN_STYLE: PLAIN, "varied": VARIED}


def style_named(name: str) -> Style:
    """One of `STYLES`.

    Raises:
        ConfigError: the style does not exist.
    """
    if name not in STYLES:
        raise ConfigError(f"style {name!r} is not known; the street has {', '.join(STYLES)}.")
    return STYLES[name]


def draw_parts(style: Style, seeds: Sequence[int]) -> tuple[Look, Shapes, Response, Mounting]:
    """Values of one street; each part has its own random numbers."""
    looks, shapes, responses, mountings = (np.random.default_rng([*seeds, part]) for part in range(4))
    return (
        draw_fields(Look, style.look, looks), draw_fields(Shapes, style.shapes, shapes),
        draw_fields(Response, style.response, responses), draw_fields(Mounting, style.mounting, mountings),
    )  # fmt: skip
