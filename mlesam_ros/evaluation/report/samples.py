"""Collect samples of masks for the report: images, overlays, network inputs and labeled points as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mlesam_ros.evaluation.scores import Labels, MaskListener, MaskMetrics, MaskRecord, resized
from mlesam_ros.labels import IGNORE, LabelSpace
from mlesam_ros.preprocessing.point_cloud import cloud_xyz
from mlesam_ros.types import CAMERA, LIDAR, Modality, PointCloud
from mlesam_ros.visualization import placed_cloud

MOST = 40
"""Maximum number of samples; of a long bag every second, fourth, … mask is kept."""
_SIDE, _SMALL = 640, 256  # px, the longer side of camera images and of the experts' input images
_POINTS = 4000
_CENTIMETERS = 100
_RED = (230, 30, 50)
_FARTHEST = 300.0  # m; the range of int16 centimeters is 327 m

Rgb = npt.NDArray[np.uint8]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass
class ReportSample:
    """One sample; images are data URIs.

    Attributes:
        trace: metrics of the mask.
        picture: camera image; None without a camera frame.
        layers: overlays of the image: `mask`, `confidence`, and with ground truth `truth` and `wrong`.
        inputs: modality → input image of its expert.
        cloud: labeled points, see `_cloud`; None without a LiDAR.
        size: (height, width) of the layers.
        labels: the mask's labels at that size; None once they are compared with ground truth.
        classes: class ids that occur in the mask.
    """

    trace: MaskMetrics
    picture: str | None
    layers: dict[str, str]
    inputs: dict[Modality, str]
    cloud: str | None
    size: tuple[int, int]
    labels: Labels | None = field(repr=False)
    classes: list[int]

    def to_dict(self, start: int) -> dict[str, Any]:
        """Convert to JSON types for the page's script.

        Args:
            start: nanoseconds of 0 s on the page.
        """
        trace = self.trace
        return {
            "t": round((trace.stamp - start) / 1e9, 3), "stamp": str(trace.stamp), "used": list(trace.used),
            "miou": None if trace.miou is None else round(100 * trace.miou, 1),
            "confidence": round(100 * trace.confidence, 1), "ms": round(1e3 * sum(trace.timings.values()), 1),
            "picture": self.picture, "layers": self.layers, "inputs": self.inputs, "cloud": self.cloud,
            "size": list(self.size[::-1]),
        }  # fmt: skip


class SampleCollector(MaskListener):
    """Keeps samples evenly spread over a bag of unknown length.

    Attributes:
        moments: samples in the order of time, at most `MOST`.
    """

    def __init__(self, space: LabelSpace, normalization: Mapping[Modality, Statistics] | None = None) -> None:
        """Start without samples.

        Args:
            space: names and colors.
            normalization: modality → mean and standard deviation of its normalization; only the camera's is undone, to
                show its original colors.
        """
        self._space, self._normalization = space, dict(normalization or {})
        self._stride = 1
        self.moments: list[ReportSample] = []

    def take(self, made: MaskRecord) -> None:
        """Keep every n-th mask; double n when `MOST` is exceeded."""
        if (made.sequence - 1) % self._stride:
            return
        self.moments.append(self._moment(made))
        if len(self.moments) > MOST:
            self.moments = self.moments[::2]
            self._stride *= 2

    def compare(self, stamp: int, labels: Labels, truth: Labels) -> None:
        """Add the layers `truth` and `wrong` to the sample with this stamp, if it was kept."""
        for moment in reversed(self.moments):
            if moment.trace.stamp == stamp and moment.labels is not None:
                true = resized(_smaller(truth), moment.size)
                wrong = (true != moment.labels) & (true != IGNORE)
                moment.layers["truth"] = _mask_uri(true, self._space)
                moment.layers["wrong"] = _flag_uri(wrong)
                moment.labels = None
                return

    def _moment(self, made: MaskRecord) -> ReportSample:
        labels = _smaller(made.mask.labels)
        picture = made.picture()
        seen = None if picture is None else _webp(_shrunk(picture, _SIDE))
        confidence = cv2.applyColorMap(resized(made.mask.confidence, labels.shape), cv2.COLORMAP_VIRIDIS)
        layers = {"mask": _mask_uri(labels, self._space), "confidence": _webp(_rgb(confidence), 60)}
        inputs = {m: _webp(_shrunk(visible(image, self._known(m)), _SMALL), 65) for m, image in made.images.items()}
        size = labels.shape[0], labels.shape[1]
        classes = np.unique(labels).tolist()
        return ReportSample(made.trace, seen, layers, inputs, _cloud(made, self._space), size, labels, classes)

    def _known(self, modality: Modality) -> Statistics | None:
        return self._normalization.get(modality) if modality == CAMERA else None


def visible(image: npt.NDArray[np.float32], normalization: Statistics | None = None) -> Rgb:
    """Convert an expert's input image to RGB for display.

    Args:
        image: (3, h, w) float32, exactly 0 where the sensor has no data.
        normalization: mean and standard deviation to undo, for a result in 0 … 1; None stretches each channel from its
            1st to its 99th percentile, and applies a color map to an image of three equal channels.

    Returns:
        (h, w, 3) uint8 RGB, black where the sensor has no data.
    """
    silent = np.asarray(~image.any(0))
    if normalization is not None:
        mean, deviation = (np.array(s, np.float32)[:, None, None] for s in normalization)
        shown = image * deviation + mean
    else:
        shown = np.stack([_stretched(channel, ~silent) for channel in image])
    pixels = np.ascontiguousarray((shown.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))
    if normalization is None and np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2]):
        pixels = _rgb(cv2.applyColorMap(pixels[:, :, 0], cv2.COLORMAP_TURBO))
    pixels[silent] = 0
    return pixels


def _stretched(channel: npt.NDArray[np.float32], said: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    if not said.any():
        return np.zeros_like(channel)
    low, high = np.percentile(channel[said], (1, 99))
    return np.asarray((channel - low) / max(high - low, 1e-6), np.float32)


def _cloud(made: MaskRecord, space: LabelSpace) -> str | None:
    """Pack points in the label camera's frame in base64: int16 x y z in centimeters of each, then their uint8 classes.

    At most `_POINTS` random points; None without a LiDAR or labeled points.
    """
    sweep = made.frame_set.frames.get(LIDAR)
    if sweep is None or not isinstance(sweep.payload, PointCloud):
        return None
    points, optical = placed_cloud(sweep.payload, made.mask, made.rig, space, sweep)
    if not len(points):
        return None
    chosen = np.random.default_rng(0).permutation(len(points))[:_POINTS]
    xyz = cloud_xyz(PointCloud(points[chosen]))
    inside = np.abs(xyz).max(1) < _FARTHEST
    packed = np.clip(optical[chosen][inside] * _CENTIMETERS, -32767, 32767).astype("<i2").tobytes()
    return base64.b64encode(packed + points["label"][chosen][inside].tobytes()).decode()


def _smaller(labels: Labels) -> Labels:
    height, width = labels.shape
    scale = min(1.0, _SIDE / max(height, width))
    return resized(labels, (max(1, round(height * scale)), max(1, round(width * scale))))


def _shrunk(pixels: Rgb, side: int) -> Rgb:
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1.0:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _rgb(bgr: Any) -> Rgb:
    return np.ascontiguousarray(bgr[:, :, ::-1], np.uint8)


def _webp(pixels: Rgb, quality: int = 75) -> str:
    return _uri(Image.fromarray(pixels), "webp", quality=quality, method=2)


def _mask_uri(labels: Labels, space: LabelSpace) -> str:
    """Encode labels as a PNG in the classes' colors, transparent where there is no class."""
    return _palette_uri(labels, space.palette, len(space))


def _flag_uri(flags: npt.NDArray[np.bool_]) -> str:
    """Encode flags as a PNG, red where set, transparent elsewhere."""
    palette = np.zeros((256, 3), np.uint8)
    palette[0] = _RED
    return _palette_uri((~flags).astype(np.uint8), palette, 1)


def _palette_uri(ids: npt.NDArray[np.uint8], palette: Rgb, opaque: int) -> str:
    picture = Image.fromarray(ids, "L")
    picture.putpalette(palette.tobytes())  # changes its mode to P
    return _uri(picture, "png", optimize=True, transparency=bytes([255] * opaque + [0] * (256 - opaque)))


def _uri(picture: Image.Image, form: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
