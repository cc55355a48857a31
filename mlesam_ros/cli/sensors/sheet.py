"""Images drawn by `mlesam sensors show`."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.cli.sensors.scenes import Scene
from mlesam_ros.errors import MlesamError
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, make_preprocessors
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import Modality

Picture = npt.NDArray[np.uint8]

_INK, _PAPER = (235, 235, 235), (24, 24, 28)
_NEAREST, _FARTHEST = 2.0, 100.0
"""Meters at the two ends of the color map; fixed, so that images of different scenes are comparable."""
_TICKS = (2, 5, 10, 20, 50, 100)
_DIM = 0.65
"""Brightness factor of the image under the points."""
_LEAST_WIDTH = 1000
"""Pixels; narrower images are enlarged by an integer factor, so that points stay small relative to objects."""
_LONG_SIDE = 768
"""Pixels of the longer side of an encoded image, close to the input size of the experts."""


def projection_sheet(scene: Scene) -> Picture:
    """Draw the points over the image, nearest on top, with caption and legend: (H, W, 3) uint8 RGB."""
    factor = -(-_LEAST_WIDTH // scene.rgb.shape[1])
    canvas = (np.repeat(np.repeat(scene.rgb, factor, axis=0), factor, axis=1) * _DIM).astype(np.uint8)
    rows, cols, meters = scene.projected
    order = np.argsort(-meters)
    _dots(canvas, rows[order] * factor + factor // 2, cols[order] * factor + factor // 2, _colors(meters[order]))
    unit = canvas.shape[1] / 1920
    added = f", {scene.added} added" if scene.added else ""
    score = scene.scores[0.0]
    caption = f"{scene.name}: {scene.landed} of {len(scene.points)} points land{added}"
    if score.segments:
        caption += f"; spread of depth inside {scene.segments_from} {score.score:.3f}"
    return np.concatenate([_caption(caption, canvas.shape[1], unit), canvas, _legend(canvas.shape[1], unit)])


def encoding_sheets(scene: Scene) -> dict[str, Picture]:
    """Draw the input of each expert: name, such as `camera_rgb` → (h, w, 3) uint8.

    Colors span the 0.5th to the 99.5th percentile of each channel. A sensor that cannot be encoded gives an image with
    the error message.
    """
    height, width = scene.rgb.shape[:2]
    size = (round(height * _LONG_SIDE / max(height, width)), round(width * _LONG_SIDE / max(height, width)))
    names = {m: DEFAULT_PREPROCESSORS[m] for m in scene.frames.frames if m in DEFAULT_PREPROCESSORS}
    return {f"{m}_{name}": _encoded(scene, m, name, size) for m, name in names.items()}


def _encoded(scene: Scene, modality: Modality, name: str, size: tuple[int, int]) -> Picture:
    preprocessor = make_preprocessors({modality: name})[modality]
    try:
        image = preprocessor(
            scene.frames.frames[modality], scene.rig, size, FrameContext(scene.frames.time, scene.frames.frames)
        ).transpose(1, 2, 0)
    except MlesamError as error:
        return _caption(str(error), size[1], 0.5)
    mean, std = np.array(preprocessor.normalization[0]), np.array(preprocessor.normalization[1])
    said = (image != 0).any(axis=2)
    values = image * std + mean
    low, high = np.percentile(values[said], (0.5, 99.5), axis=0) if said.any() else (mean, mean + 1)
    shown = np.clip((values - low) / np.maximum(high - low, 1e-6), 0, 1) * 255
    shown[~said] = 0
    spans = " ".join(f"{least:.3g}..{most:.3g}" for least, most in zip(low, high, strict=True))
    caption = _caption(f"{name}: {spans}; {100 * said.mean():.1f} % of pixels", size[1], 0.5)
    return np.concatenate([caption, shown.astype(np.uint8)])


def _dots(canvas: Picture, rows: npt.NDArray[np.intp], cols: npt.NDArray[np.intp], colors: Picture) -> None:
    """Draw round dots in order, later ones on top; their radius is proportional to the width of the canvas."""
    height, width = canvas.shape[:2]
    radius = max(width / 1200, 1.5)
    reach = int(radius)
    around = [
        (dy, dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if dy * dy + dx * dx <= radius * radius
    ]
    y = (rows[:, None] + [dy for dy, _ in around]).clip(0, height - 1)
    x = (cols[:, None] + [dx for _, dx in around]).clip(0, width - 1)
    canvas[y.ravel(), x.ravel()] = np.repeat(colors, len(around), axis=0)


def _colors(meters: npt.NDArray[np.floating]) -> Picture:
    """Return (N, 3) uint8 RGB colors by the logarithm of the distance: red near, blue far."""
    place = np.log(np.clip(meters, _NEAREST, _FARTHEST) / _NEAREST) / np.log(_FARTHEST / _NEAREST)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    return np.asarray(table[np.round(255 * (1 - place)).astype(np.intp)], np.uint8)


def _legend(width: int, unit: float) -> Picture:
    bar = np.full((round(56 * unit), width, 3), _PAPER, np.uint8)
    left, right = round(0.04 * width), round(0.96 * width)
    steps = np.geomspace(_NEAREST, _FARTHEST, right - left)
    bar[: round(22 * unit), left:right] = _colors(steps)
    for tick in _TICKS:
        x = left + round((right - left - 1) * np.log(tick / _NEAREST) / np.log(_FARTHEST / _NEAREST))
        cv2.line(bar, (x, 0), (x, round(28 * unit)), _INK, max(round(2 * unit), 1))
        _write(bar, f"{tick} m", (x - round(20 * unit), round(50 * unit)), unit)
    return bar


def _caption(text: str, width: int, unit: float) -> Picture:
    bar = np.full((round(44 * unit), width, 3), _PAPER, np.uint8)
    _write(bar, text.encode("ascii", "replace").decode(), (round(16 * unit), round(31 * unit)), unit)
    return bar


def _write(picture: Picture, text: str, at: tuple[int, int], unit: float) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.8 * unit, _INK, max(round(2 * unit), 1), cv2.LINE_AA)
