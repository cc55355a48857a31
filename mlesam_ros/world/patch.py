"""Surface points of one material, as a texture sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlesam_ros.world.plan import StreetLayout
from mlesam_ros.world.vector import Floats


@dataclass(frozen=True, slots=True)
class ShadingBatch:
    """The points of one material, in the frame of the thing that they belong to; all (n,) unless said otherwise.

    Attributes:
        plan: the street.
        lamps: whether it is dark enough for lamps.
        world: (n, 3) meters.
        x, y, z: meters in the thing's own frame.
        normal: (n, 3) in the thing's own frame; textures may roughen it in place.
        blur: meters that a pixel covers there.
        seed, lit: of the thing.
        first, second: (n, 3) its colors.
        albedo, emission, gloss, classes: views of the `Surface` to fill; albedo is unset, the others hold defaults.
    """

    plan: StreetLayout
    lamps: bool
    world: Floats
    x: Floats
    y: Floats
    z: Floats
    normal: Floats
    blur: Floats
    seed: Floats
    lit: Floats
    first: Floats
    second: Floats
    albedo: Floats
    emission: Floats
    gloss: Floats
    classes: npt.NDArray[np.uint8]

    def fade(self, size: float) -> Floats:
        """How much of a detail `size` meters wide survives at this distance, 1 near to 0 far: it must not alias."""
        return 1 / (1 + (self.blur * np.float32(2 / size)) ** 2)

    def tint(self, base: Floats, factor: Floats) -> None:
        """Set the albedo to a color, (n, 3) or (3,), times a factor (n,)."""
        np.multiply(base, np.maximum(factor, 0.05)[:, None], out=self.albedo)

    def put(self, where: npt.NDArray[np.bool_], color: npt.ArrayLike) -> None:
        """Set the albedo where a mask (n,) holds, to one color (3,) or to rows of (n, 3) colors."""
        value = np.asarray(color, np.float32)
        self.albedo[where] = value[where] if value.ndim == 2 else value

    def along(self) -> Floats:
        """The horizontal coordinate along an upright face."""
        return np.where(np.abs(self.normal[:, 0]) > np.abs(self.normal[:, 1]), self.y, self.x)
