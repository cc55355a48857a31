"""What the demo looked like: a still and an animation per phase."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mlesam_ros.cli.demo.score import Labels
from mlesam_ros.labels import LabelSpace
from mlesam_ros.render import colorize, overlay

Picture = npt.NDArray[np.uint8]

_SIDE = 320  # pixels of one panel in an animation
_CAPTION = 28  # pixels
_INK, _PAPER = (235, 235, 235), (24, 24, 28)


class Gallery:
    """Draws one moment as three panels: what the camera saw, what the node made of it, what is true."""

    def __init__(self, label_space: LabelSpace, camera: Mapping[int, Picture]) -> None:
        """Prepare.

        Args:
            label_space: names and colors.
            camera: stamp → (H, W, 3) RGB as the node got it; absent where the camera was silent.
        """
        self._space = label_space
        self._camera = camera

    def save(
        self,
        folder: Path,
        name: str,
        caption: str,
        masks: Mapping[int, Labels],
        truths: Mapping[int, Labels],
        fps: float,
    ) -> list[Path]:
        """Write `<name>.png`, the moment in the middle, and `<name>.webp`, all of them; nothing without masks.

        Args:
            folder: where to.
            name: of the files.
            caption: written into the pictures.
            masks, truths: stamp → (H, W) uint8.
            fps: frames per second of the animation.

        Returns:
            the files.
        """
        stamps = [stamp for stamp in sorted(masks) if stamp in truths]
        if not stamps:
            return []
        still, animation = folder / f"{name}.png", folder / f"{name}.webp"
        middle = stamps[len(stamps) // 2]
        Image.fromarray(self._panels(middle, masks, truths, caption, masks[middle].shape[1])).save(still)
        frames = [Image.fromarray(self._panels(stamp, masks, truths, caption, _SIDE)) for stamp in stamps]
        frames[0].save(
            animation, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, quality=70, method=1
        )
        return [still, animation]

    def _panels(
        self, stamp: int, masks: Mapping[int, Labels], truths: Mapping[int, Labels], caption: str, width: int
    ) -> Picture:
        mask, camera = masks[stamp], self._camera.get(stamp)
        size = (width, round(mask.shape[0] * width / mask.shape[1]))
        seen = np.full((*mask.shape, 3), _PAPER, np.uint8) if camera is None else camera
        panels = [
            _panel(seen, size, "camera" if camera is not None else "camera lost"),
            _panel(overlay(camera, mask, self._space), size, caption),
            _panel(colorize(truths[stamp], self._space), size, "truth"),
        ]
        return np.concatenate(panels, axis=1)


def _panel(picture: Picture, size: tuple[int, int], caption: str) -> Picture:
    panel = np.full((size[1] + _CAPTION, size[0], 3), _PAPER, np.uint8)
    panel[_CAPTION:] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    cv2.putText(panel, caption, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.48, _INK, 1, cv2.LINE_AA)
    return panel
