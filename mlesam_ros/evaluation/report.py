# SPDX-License-Identifier: Apache-2.0
"""Write `report.html`: samples of masks as data URIs, plots and tables in the template `config/report/page.html`.

Its page is that of one bag, of several bags, or of a data set and the training before.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mlesam_ros.evaluation.ground_truth import Labels
from mlesam_ros.evaluation.plots import Line, heat_map, line_plot, presence_plot, reliability_diagram, stacked_plot
from mlesam_ros.evaluation.scores import MaskListener, MaskMetrics, MaskRecord, resize_labels
from mlesam_ros.files import atomic_write
from mlesam_ros.labels import IGNORE, LabelSpace
from mlesam_ros.mask_messages import camera_rgb
from mlesam_ros.preprocessing.base import Normalization
from mlesam_ros.preprocessing.point_cloud import cloud_xyz
from mlesam_ros.resources import resource_path
from mlesam_ros.semantic_points import MaskPoints
from mlesam_ros.sync import COUNTERS, OUTCOMES
from mlesam_ros.types import CAMERA, LIDAR, MODALITIES, Modality, PointCloud
from mlesam_ros.visualization import RGBImage

Figures = Mapping[str, Any]

_STAGES = {"encode": ("encoding", LIDAR), "model": ("network", CAMERA), "decode": ("decoding", "depth")}
"""Stage of the pipeline → its name in the plot, and the modality whose color it has."""


def write_report(
    path: Path, figures: Figures, masks: Sequence[MaskMetrics], samples: Sequence[ReportSample], space: LabelSpace
) -> None:
    """Write the page of one bag.

    Args:
        path: the file.
        figures: as `bag_metrics` returns them.
        masks: metrics of every mask.
        samples: samples of masks to show.
        space: names and colors.

    Raises:
        FileError: the file cannot be written.
    """
    start = masks[0].stamp
    facts = {"bag": figures["bag"], "SHA-256": figures["bag_sha256"], **figures["config"], **figures["versions"]}
    data = {"samples": [sample.to_dict(start) for sample in samples], "palette": [list(c) for c in space.colors]}
    title = f"{Path(figures['bag']).name} – evaluation"
    _write(
        path, title, figures, space, facts, data, "mlesam evaluate", "metrics.json",
        samples=_sample_controls(samples, space), plots=_plots_over_time(masks, figures), router=_router_plots(masks),
    )  # fmt: skip


def write_overview(path: Path, figures: Figures, bags: Sequence[Mapping[str, Any]], space: LabelSpace) -> None:
    """Write the page of several bags: figures of all of them, and of each with a link to its own page.

    Args:
        path: the file.
        figures: as `summary` returns them.
        bags: per bag `bag`, and either `report` (a relative path), `masks`, `miou`, `latency_ms`, `consistency` and
            `warnings`, or `error`.
        space: names and colors.

    Raises:
        FileError: the file cannot be written.
    """
    facts = {**figures["config"], **figures["versions"]}
    data: dict[str, Any] = {"samples": [], "palette": []}
    title = f"{len(bags)} bags – evaluation"
    _write(path, title, figures, space, facts, data, "mlesam evaluate", "summary.json", bags=bags)


def write_dataset_report(
    path: Path,
    title: str,
    evaluation: Figures,
    confusion: npt.NDArray[np.int64],
    space: LabelSpace,
    facts: Mapping[str, Any],
    command: str,
    json_name: str,
    **parts: Any,
) -> None:
    """Write the page of a data set.

    Args:
        path: the file.
        title: of the page.
        evaluation: content of `evaluation.json`, and `warnings`.
        confusion: (C, C + 1) counts of the first subset of the sensors, see `metrics.Confusion`.
        space: names and colors.
        facts: data, weights and settings of the evaluation, name → value.
        command: that writes the page.
        json_name: name of the file beside it with the content of `evaluation`.
        parts: `cards` (value, name, remark) after those of the scores; `curves` title → SVG; `examples` title → dicts
            of `make_example`; `conditions`, a header row and rows.

    Raises:
        FileError: the file cannot be written.
    """
    rows, full = evaluation["subsets"], evaluation["subsets"][0]
    shares = confusion.sum(0) / max(int(confusion.sum()), 1)
    subset_rows = [{**row, "agreement": None, "masks": full["pixels"]} for row in rows] if len(rows) > 1 else []
    figures = {
        "compared": int(confusion.sum()), "per_class": full["per_class"], "confusion": confusion.tolist(),
        "class_shares": {name: round(100 * float(s), 2) for name, s in zip(space.names, shares, strict=False) if s},
        "subsets": subset_rows, "reliability": rows, "warnings": evaluation["warnings"],
        **{key: evaluation.get(key, {}) for key in ("any_modal", "emm", "rmm", "nm")},
    }  # fmt: skip
    cards = [
        (_number(full["miou"], 1, " %"), "mIoU", " + ".join(full["sensors"])),
        (_number(evaluation["mean_of_subsets"]["miou"], 1, " %"), "mIoU", f"mean over {len(rows)} sensor subsets"),
        (_number(full["pixel_accuracy"], 1, " %"), "of the pixels correct", evaluation["data"]),
        (_percent_or_none(full["calibration_error"]), "calibration error", "of the confidence"),
    ]
    cards += parts.pop("cards", [])
    data: dict[str, Any] = {"samples": [], "palette": []}
    _write(path, title, figures, space, facts, data, command, json_name, cards=cards, **parts)


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def _percent_or_none(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _bag_cards(figures: Figures) -> list[tuple[Any, str, str]]:
    """(value, name, remark) of the main figures of one bag or several."""
    latency, counters, warnings = figures["latency_ms"], figures["counters"], len(figures["warnings"])
    score = (_number(figures["miou"], 1, " %"), "mIoU", f"over {figures['compared']} masks with ground truth")
    used = 100 * counters["used"] / max(counters["received"], 1)
    return [
        score if figures["compared"] else (_number(figures["confidence"], 1, " %"), "confidence", "no ground truth"),
        (figures["masks"], "masks", f"of {figures['sets']} sets"),
        (
            _number(latency["p50"], 0, " ms"),
            "per mask",
            f"p95 {_number(latency['p95'], 0)}, p99 {_number(latency['p99'], 0)}",
        ),
        (f"{used:.1f} %", "of the messages used", f"of {counters['received']}"),
        (_number(figures["consistency"], 1, " %"), "consistency", "pixels that keep their class"),
        (warnings, "warning" if warnings == 1 else "warnings", "listed below" if warnings else "none"),
    ]


def _write(
    path: Path,
    title: str,
    figures: Figures,
    space: LabelSpace,
    facts: Mapping[str, Any],
    data: Mapping[str, Any],
    command: str,
    json_name: str,
    **parts: Any,
) -> None:
    """Fill the template; `parts` are its variables that not every kind of page has."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  # of the extra report

    folder = resource_path("config/report")
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    optional = dict.fromkeys(("samples", "plots", "router", "bags", "curves", "examples", "conditions"))
    optional["cards"] = None if "cards" in parts else _bag_cards(figures)  # type: ignore[assignment]
    page = environment.get_template("page.html").render(
        title=title,
        figures={"sensors": {}, **figures},
        classes=_class_rows(figures, space),
        has_iou=bool(_class_ious(figures)),
        confusion=_confusion_map(figures, space) if figures["compared"] else None,
        reliability=[_calibration(row) for row in figures["reliability"] if row["pixels"]],
        calibrated=[*dict.fromkeys(m for row in figures["reliability"] for m in row["sensors"])],
        coverages=_COVERAGES,
        sensors=max((row["sensors"] for row in figures["subsets"]), key=len, default=[]),
        protocols=_protocol_rows(figures) if figures["subsets"] else None,
        facts=facts,
        command=command,
        json_name=json_name,
        counters=COUNTERS,
        outcomes=OUTCOMES,
        style=(folder / "style.css").read_text(encoding="utf-8"),
        script=(folder / "page.js").read_text(encoding="utf-8"),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        **{**optional, **parts},
    )
    atomic_write(path, page)


def _class_ious(figures: Figures) -> dict[str, float]:
    return {name: value for name, value in figures["per_class"].items() if value is not None}


def _class_rows(figures: Figures, space: LabelSpace) -> list[dict[str, Any]]:
    """A row per class that occurs, largest first: its IoU if there is ground truth, else its share of the pixels."""
    shares: Mapping[str, float] = figures["class_shares"]
    values = _class_ious(figures) or {name: share for name, share in shares.items() if name in space.names}
    colors = dict(zip(space.names, map(_css, space.colors), strict=True))
    return [
        {"name": name, "color": colors[name], "value": values[name], "share": shares.get(name, 0.0)}
        for name in sorted(values, key=lambda name: -values[name])
    ]


def _confusion_map(figures: Figures, space: LabelSpace) -> str:
    """Confusion matrix in shares of the row: rows are ground-truth classes, columns predicted ones.

    Classes that never occur are left out.
    """
    counts = np.array(figures["confusion"], np.int64)
    present = [c for c in range(len(space)) if counts[c].sum() or counts[:, c].sum()]
    columns = [*present, len(space)] if counts[:, len(space)].any() else present
    names = [*space.names, "no class"]
    rows = [c for c in present if counts[c].sum()]
    part = counts[np.ix_(rows, columns)]
    shares = part / counts[rows].sum(1, keepdims=True)
    titles = [
        [
            f"{100 * shares[r, c]:.1f} % of {names[row]} predicted as {names[column]} ({part[r, c]:,} pixels)"
            for c, column in enumerate(columns)
        ]
        for r, row in enumerate(rows)
    ]
    return heat_map(shares, [names[r] for r in rows], [names[c] for c in columns], titles)


_COVERAGES = (1.0, 0.9, 0.8, 0.7)
"""Parts of the pixels whose accuracy is in the table."""


def _calibration(row: Mapping[str, Any]) -> dict[str, Any]:
    """Row of the table of the confidence, and its two diagrams.

    Args:
        row: `sensors` and the keys of `metrics.Reliability.summary`.
    """
    share, confidence, accuracy = (_column(row["bins"][key]) for key in ("share", "confidence", "accuracy"))
    threshold, kept, correct = (_column(row["coverage"][key]) for key in ("threshold", "share", "accuracy"))
    at = [int((kept >= level).sum()) - 1 for level in _COVERAGES]
    lines, floor = [Line("", "var(--accent)", 100 * correct[::-1])], 10 * np.floor(10 * correct.min())
    return {
        "sensors": row["sensors"], "error": 100 * row["calibration_error"],
        "before": None if row.get("calibration_error_before") is None else 100 * row["calibration_error_before"],
        "accuracies": [(100 * correct[i], threshold[i]) for i in at],
        "diagrams": {
            "Accuracy by confidence": reliability_diagram(share, confidence, accuracy),
            "Accuracy of the most confident pixels": line_plot(
                100 * kept[::-1], lines, "% correct", floor, 100.0, "% of the pixels kept"
            ),
        },
    }  # fmt: skip


def _protocol_rows(figures: Figures) -> list[list[Any]]:
    """A header row, then the averages over the subsets by each published protocol; empty without results."""
    entries = {"left out, as on a robot": figures["any_modal"], "EMM: empty images": figures["emm"]}
    entries |= {
        f"RMM: {100 * float(level):g} % of their values zeroed": found for level, found in figures["rmm"].items()
    }
    known = {name: found for name, found in entries.items() if found}
    if not known:
        return []
    rates = next(iter(known.values()))["expected"]
    head = ["failed sensors are", "average", *(f"each fails {100 * float(p):g} % of the time" for p in rates)]
    return [head, *([name, found["average"], *found["expected"].values()] for name, found in known.items())]


def _sample_controls(samples: Sequence[ReportSample], space: LabelSpace) -> dict[str, Any] | None:
    """Contents of the section with the samples; None without any."""
    if not samples:
        return None
    classes = sorted({c for sample in samples for c in sample.classes if c < len(space)})
    layers = ("mask", "truth", "wrong", "confidence")
    return {
        "count": len(samples),
        "layers": [layer for layer in layers if any(layer in sample.layers for sample in samples)],
        "inputs": [m for m in MODALITIES if any(m in sample.inputs for sample in samples)],
        "legend": {space.names[c]: _css(space.colors[c]) for c in classes},
        "has_cloud": any(sample.cloud for sample in samples),
    }


def _plots_over_time(masks: Sequence[MaskMetrics], figures: Figures) -> dict[str, str]:
    times, sensors = _times(masks), figures["sensors"]
    quality = [
        Line("mIoU of the mask alone", "var(--accent)", _column(m.miou for m in masks)),
        Line("confidence", "var(--event)", _column(m.confidence for m in masks)),
        Line("consistency", "var(--faint)", _column(m.consistency for m in masks)),
    ]
    quality = [Line(q.name, q.color, 100 * q.values) for q in quality if np.isfinite(q.values).any()]
    used = [Line(s, f"var(--{s})", _column(float(s in m.used) for m in masks)) for s in sensors]
    stages = [
        Line(name, f"var(--{color})", _column(1e3 * m.timings.get(stage, 0.0) for m in masks))
        for stage, (name, color) in _STAGES.items()
    ]
    skews = [Line(s, f"var(--{s})", 1e3 * _column(m.skews.get(s) for m in masks)) for s in sensors]
    return {
        "Quality": line_plot(times, quality, "%", 0.0, 100.0),
        "Sensors used": presence_plot(times, used),
        "Time per mask": stacked_plot(times, stages, "ms"),
        "Skew to the mask's timestamp": line_plot(times, skews, "ms", -1.0, 1.0),
    }


def _router_plots(masks: Sequence[MaskMetrics]) -> dict[str, str]:
    plots = {}
    for level in masks[0].weights:
        sensors = [s for s in MODALITIES if any(s in m.weights[level] for m in masks)]
        lines = [Line(s, f"var(--{s})", _column(m.weights[level].get(s) for m in masks)) for s in sensors]
        plots[level] = stacked_plot(_times(masks), lines, "share", 1.0)
    return plots


def _times(masks: Sequence[MaskMetrics]) -> npt.NDArray[np.float64]:
    stamps = np.array([mask.stamp for mask in masks], np.int64)
    return (stamps - stamps[0]) / 1e9


def _column(values: Iterable[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _css(color: tuple[int, int, int]) -> str:
    return "rgb({},{},{})".format(*color)


MAX_SAMPLES = 40
"""Maximum number of samples; of a long bag every second, fourth, … mask is kept."""
_CAMERA_SIDE_PX, _INPUT_SIDE_PX = 640, 256
"""Maximum length of the longer side of camera images and of the experts' input images."""
_MAX_POINTS = 4000
_MAX_RANGE_M = 300.0  # the range of int16 centimeters is 327 m
_RED = (230, 30, 50)


@dataclass
class ReportSample:
    """One sample; images are data URIs.

    Attributes:
        metrics: metrics of the mask.
        image: camera image; None without a camera frame.
        layers: overlays of the image: `mask`, `confidence`, and with ground truth `truth` and `wrong`.
        inputs: modality → input image of its expert.
        cloud: labeled points, see `_pack_cloud`; None without a LiDAR.
        size: (height, width) of the layers.
        labels: the mask's labels at that size; None once they are compared with ground truth.
        classes: class ids that occur in the mask.
    """

    metrics: MaskMetrics
    image: str | None
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
        metrics = self.metrics
        return {
            "t": round((metrics.stamp - start) / 1e9, 3), "stamp": str(metrics.stamp), "used": list(metrics.used),
            "miou": None if metrics.miou is None else round(100 * metrics.miou, 1),
            "confidence": round(100 * metrics.confidence, 1), "ms": round(1e3 * sum(metrics.timings.values()), 1),
            "image": self.image, "layers": self.layers, "inputs": self.inputs, "cloud": self.cloud,
            "size": list(self.size[::-1]),
        }  # fmt: skip


class SampleCollector(MaskListener):
    """Keeps samples evenly spread over a bag of unknown length.

    Attributes:
        samples: in the order of time, at most `MAX_SAMPLES`.
    """

    def __init__(self, space: LabelSpace, camera_normalization: Normalization | None = None) -> None:
        """Start without samples.

        Args:
            space: names and colors.
            camera_normalization: undone to show the original colors of the camera's input images.
        """
        self._space, self._camera_normalization = space, camera_normalization
        self._stride = 1
        self.samples: list[ReportSample] = []

    def on_mask(self, record: MaskRecord) -> None:
        """Keep every n-th mask; double n when `MAX_SAMPLES` is exceeded."""
        if (record.sequence - 1) % self._stride:
            return
        self.samples.append(self._make_sample(record))
        if len(self.samples) > MAX_SAMPLES:
            self.samples = self.samples[::2]
            self._stride *= 2

    def on_match(self, stamp: int, labels: Labels, ground_truth: Labels) -> None:
        """Add the layers `truth` and `wrong` to the sample with this stamp, if it was kept."""
        for sample in reversed(self.samples):
            if sample.metrics.stamp == stamp and sample.labels is not None:
                expected = resize_labels(_shrink_labels(ground_truth), sample.size)
                wrong = (expected != sample.labels) & (expected != IGNORE)
                sample.layers["truth"] = _mask_uri(expected, self._space)
                sample.layers["wrong"] = _flags_uri(wrong)
                sample.labels = None
                return

    def _make_sample(self, record: MaskRecord) -> ReportSample:
        labels = _shrink_labels(record.mask.labels)
        rgb = camera_rgb(record.frame_set)
        camera_image = None if rgb is None else _webp_uri(_shrink_image(rgb, _CAMERA_SIDE_PX))
        confidence = cv2.applyColorMap(resize_labels(record.mask.confidence, labels.shape), cv2.COLORMAP_VIRIDIS)
        layers = {"mask": _mask_uri(labels, self._space), "confidence": _webp_uri(_bgr_to_rgb(confidence), 60)}
        inputs = {}
        for modality, image in record.images.items():
            shown = input_to_rgb(image, self._camera_normalization if modality == CAMERA else None)
            inputs[modality] = _webp_uri(_shrink_image(shown, _INPUT_SIDE_PX), 65)
        size = labels.shape[0], labels.shape[1]
        classes = np.unique(labels).tolist()
        return ReportSample(
            record.metrics, camera_image, layers, inputs, _pack_cloud(record, self._space), size, labels, classes
        )


def make_example(
    name: str, camera: RGBImage | None, labels: Labels, ground_truth: Labels, space: LabelSpace, remark: str
) -> dict[str, Any]:
    """Example of a data set for the page: `name`, `remark`, and `images`, title → data URIs of its layers.

    Args:
        name: of the row.
        camera: (H, W, 3) image; None without a camera.
        labels, ground_truth: (H, W) uint8 class ids.
        space: colors.
        remark: text beside the name, such as the score.
    """
    truth, mask = _shrink_labels(ground_truth), resize_labels(labels, ground_truth.shape)
    mask = resize_labels(mask, truth.shape)
    wrong = (mask != truth) & (truth != IGNORE)
    image = [] if camera is None else [_webp_uri(_shrink_image(camera, _INPUT_SIDE_PX))]
    layers = {
        "camera": image, "ground truth": [_mask_uri(truth, space)], "mask": [_mask_uri(mask, space)],
        "wrong": [*image, _flags_uri(wrong)],
    }  # fmt: skip
    shown = {title: uris for title, uris in layers.items() if uris}
    return {"name": name, "remark": remark, "shape": f"{truth.shape[1]} / {truth.shape[0]}", "images": shown}


def input_to_rgb(image: npt.NDArray[np.float32], normalization: Normalization | None = None) -> RGBImage:
    """Convert an expert's input image to RGB for display.

    Args:
        image: (3, h, w) float32, exactly 0 where the sensor has no data.
        normalization: mean and standard deviation to undo, for a result in 0 … 1; None stretches each channel from its
            1st to its 99th percentile, and applies a color map to an image of three equal channels.

    Returns:
        (h, w, 3) uint8 RGB, black where the sensor has no data.
    """
    no_data = np.asarray(~image.any(0))
    if normalization is not None:
        mean, deviation = (np.array(s, np.float32)[:, None, None] for s in normalization)
        shown = image * deviation + mean
    else:
        shown = np.stack([_stretch_contrast(channel, ~no_data) for channel in image])
    pixels = np.ascontiguousarray((shown.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))
    if normalization is None and np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2]):
        pixels = _bgr_to_rgb(cv2.applyColorMap(pixels[:, :, 0], cv2.COLORMAP_TURBO))
    pixels[no_data] = 0
    return pixels


def _stretch_contrast(channel: npt.NDArray[np.float32], has_data: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    if not has_data.any():
        return np.zeros_like(channel)
    low, high = np.percentile(channel[has_data], (1, 99))
    return np.asarray((channel - low) / max(high - low, 1e-6), np.float32)


def _pack_cloud(record: MaskRecord, space: LabelSpace) -> str | None:
    """Pack points in the label camera's frame in base64: int16 x y z in centimeters of each, then their uint8 classes.

    At most `_MAX_POINTS` random points; None without a LiDAR or labeled points.
    """
    points, optical = MaskPoints(record.mask, record.frame_set, record.rig).labeled(space)
    if not len(points):
        return None
    chosen = np.random.default_rng(0).permutation(len(points))[:_MAX_POINTS]
    xyz = cloud_xyz(PointCloud(points[chosen]))
    inside = np.abs(xyz).max(1) < _MAX_RANGE_M
    packed = np.clip(optical[chosen][inside] * 100, -32767, 32767).astype("<i2").tobytes()
    return base64.b64encode(packed + points["label"][chosen][inside].tobytes()).decode()


def _shrink_labels(labels: Labels) -> Labels:
    height, width = labels.shape
    scale = min(1.0, _CAMERA_SIDE_PX / max(height, width))
    return resize_labels(labels, (max(1, round(height * scale)), max(1, round(width * scale))))


def _shrink_image(pixels: RGBImage, side: int) -> RGBImage:
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1.0:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _bgr_to_rgb(bgr: Any) -> RGBImage:
    return np.ascontiguousarray(bgr[:, :, ::-1], np.uint8)


def _webp_uri(pixels: RGBImage, quality: int = 75) -> str:
    return _data_uri(Image.fromarray(pixels), "webp", quality=quality, method=2)


def _mask_uri(labels: Labels, space: LabelSpace) -> str:
    """Encode labels as a PNG in the classes' colors, transparent where there is no class."""
    return _palette_uri(labels, space.palette, len(space))


def _flags_uri(flags: npt.NDArray[np.bool_]) -> str:
    """Encode flags as a PNG, red where set, transparent elsewhere."""
    palette = np.zeros((256, 3), np.uint8)
    palette[0] = _RED
    return _palette_uri((~flags).astype(np.uint8), palette, 1)


def _palette_uri(ids: npt.NDArray[np.uint8], palette: RGBImage, opaque: int) -> str:
    image = Image.fromarray(ids, "L")
    image.putpalette(palette.tobytes())  # changes its mode to P
    return _data_uri(image, "png", optimize=True, transparency=bytes([255] * opaque + [0] * (256 - opaque)))


def _data_uri(image: Image.Image, image_format: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return f"data:image/{image_format};base64,{base64.b64encode(file.getvalue()).decode()}"
