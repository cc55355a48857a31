# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation: metrics with stable keys (`docs/results.md`), labeled point clouds, the result bag."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.reader import Outage
from mlesam_ros.bags.serialization import pixels, transforms
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.config import NodeParameters
from mlesam_ros.corruptions import Subset
from mlesam_ros.evaluation.bag_evaluator import Evaluation, EvaluationOptions
from mlesam_ros.evaluation.ground_truth import Labels
from mlesam_ros.evaluation.scores import MaskListener, MaskMetrics, MaskRecord, Scores, percentiles_ms
from mlesam_ros.files import atomic_write, write_error
from mlesam_ros.labels import LabelSpace
from mlesam_ros.mask_messages import (
    LABEL_SPACE,
    MASK_TOPICS,
    STATUS,
    MaskReport,
    label_space,
    mask_messages,
    status,
)
from mlesam_ros.messages import TF_MESSAGE
from mlesam_ros.metrics import Reliability
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.semantic_points import MaskPoints
from mlesam_ros.sync import COUNTERS
from mlesam_ros.types import IMAGE, MODALITIES, Modality

_BLOCK_BYTES = 1 << 20
_STAGES = ("encode", "model", "decode")


def bag_metrics(evaluation: Evaluation, options: EvaluationOptions, pipeline: Pipeline) -> dict[str, Any]:
    """All figures of one bag, with JSON types. Scores are in percent, times in milliseconds."""
    return {
        "bag": str(evaluation.bag),
        "bag_sha256": bag_sha256(evaluation.bag),
        "interrupted": evaluation.interrupted,
        **_counts(evaluation.counters.values(), evaluation.sets),
        "sensors": _sensors(evaluation),
        **mask_metrics(evaluation.scores, pipeline.config.label_space),
        "warnings": evaluation.warnings,
        "config": {**configuration(options, pipeline), "truth": _ground_truth_source(evaluation, options)},
        "versions": versions(),
    }


def summary(parts: Mapping[str, Evaluation], options: EvaluationOptions, pipeline: Pipeline) -> dict[str, Any]:
    """Figures of several bags as one: all their counts and masks, in the order given.

    Args:
        parts: name of a bag → its evaluation.
        options: of all evaluations.
        pipeline: of all evaluations.
    """
    space = pipeline.config.label_space
    scores = Scores(len(space))
    for part in parts.values():
        scores.merge(part.scores)
    counters = [counts for part in parts.values() for counts in part.counters.values()]
    return {
        "interrupted": any(part.interrupted for part in parts.values()),
        **_counts(counters, sum(part.sets for part in parts.values())),
        **mask_metrics(scores, space),
        "warnings": [f"{name}: {warning}" for name, part in parts.items() for warning in part.warnings],
        "config": configuration(options, pipeline),
        "versions": versions(),
    }


def mask_metrics(scores: Scores, space: LabelSpace) -> dict[str, Any]:
    """Figures of the masks, and of their comparison with ground truth if there is any."""
    masks = scores.masks
    return {
        "masks": len(masks),
        "latency_ms": percentiles_ms(sum(mask.timings.values()) for mask in masks),
        "stages_ms": _stages(masks),
        **ground_truth_metrics(scores, space),
        "class_shares": _shares(scores, space),
        "confidence": _mean_percent([mask.confidence for mask in masks]),
        "consistency": _mean_percent([mask.consistency for mask in masks]),
        "router": _router(masks),
        "subsets": scores.robustness.rows(),
        **scores.robustness.summary(),
    }


def ground_truth_metrics(scores: Scores, space: LabelSpace) -> dict[str, Any]:
    """Scores against ground truth; None or empty without ground truth."""
    found = scores.confusion.summary(space.names) if scores.compared else None
    whole = Reliability()
    for part in scores.reliabilities.values():
        whole.merge(part)
    keys = ("macc", "fwiou", "pixel_accuracy", "miou_all")
    return {
        "compared": scores.compared,
        "miou": found["miou_present"] if found else None,
        **{key: found[key] if found else None for key in keys},
        "per_class": found["per_class"] if found else {},
        "confusion": scores.confusion.counts.tolist() if found else None,
        "calibration_error": whole.summary()["calibration_error"],
        "reliability": reliability_rows(scores.robustness.reliabilities or scores.reliabilities),
    }


def reliability_rows(found: Mapping[Subset, Reliability]) -> list[dict[str, Any]]:
    """A row per subset of the sensors, the largest first: `sensors` and the keys of `Reliability.summary`."""
    largest = sorted(found, key=len, reverse=True)
    return [{"sensors": list(subset), **found[subset].summary()} for subset in largest]


def bag_sha256(bag: Path) -> str:
    """SHA-256 of a bag's files in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(bag.iterdir()) if bag.is_dir() else [bag]:
        if file.is_file():
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK_BYTES):
                    digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and packages, and the machine's architecture."""
    packages = {name: version(name) for name in ("mlesam_ros", "torch", "numpy", "rosbags")}
    return {"python": platform.python_version(), "machine": platform.machine(), **packages}


def configuration(options: EvaluationOptions, pipeline: Pipeline) -> dict[str, Any]:
    """Configuration that the figures depend on besides the bag."""
    config = pipeline.config
    return {
        "device": pipeline.device, "precision": pipeline.precision, "runtime": pipeline.runtime,
        "backbone": config.backbone, "modalities": list(config.modalities), "label_space": config.label_space.name,
        "image_size": config.image_size, "every": options.every, "real_time": options.real_time,
        "start": options.start, "duration": options.duration,
        "drops": [_format_outage(outage) for outage in options.outages], "robustness": options.robustness,
        "parameters": options.parameters.values(),
    }  # fmt: skip


def _format_outage(outage: Outage) -> str:
    """Format an outage as `--drop` reads it."""
    end = "" if math.isinf(outage.end) else f"{outage.end:g}"
    return f"{outage.target}@{outage.start:g}..{end}"


def _counts(counters: Iterable[Mapping[str, int]], sets: int) -> dict[str, Any]:
    totals = dict.fromkeys(COUNTERS, 0)
    for counts in counters:
        for outcome in COUNTERS:
            totals[outcome] += counts[outcome]
    return {"frames": totals["received"], "sets": sets, "counters": totals}


def _ground_truth_source(evaluation: Evaluation, options: EvaluationOptions) -> str | None:
    return evaluation.topics.ground_truth if options.labels is None else str(options.labels)


def _sensors(evaluation: Evaluation) -> dict[Modality, Any]:
    out = {}
    for modality, counts in evaluation.counters.items():
        skews = [mask.skews[modality] for mask in evaluation.scores.masks if modality in mask.skews]
        source = evaluation.topics.sensors[modality]
        out[modality] = {
            "topic": source.topic, "type": source.type, **counts, "unusable": evaluation.rejected.get(modality, 0),
            "refusals": dict(evaluation.refusals[modality]),
            "skew_ms": {**percentiles_ms(map(abs, skews)), "mean": _mean_ms(skews)},
        }  # fmt: skip
    return out


def _stages(masks: Sequence[MaskMetrics]) -> dict[str, float]:
    return {
        stage: round(float(np.median([t.timings[stage] for t in masks if stage in t.timings])) * 1e3, 2)
        for stage in _STAGES
        if any(stage in mask.timings for mask in masks)
    }


def _shares(scores: Scores, space: LabelSpace) -> dict[str, float]:
    total = max(int(scores.shares.sum()), 1)
    names = (*space.names, "unlabeled")
    return {n: round(100 * int(c) / total, 2) for n, c in zip(names, scores.shares, strict=True) if c}


def _router(masks: Sequence[MaskMetrics]) -> dict[str, dict[Modality, float]]:
    """Level → modality → mean weight over the masks that used it."""
    out: dict[str, dict[Modality, float]] = {}
    for level in masks[0].weights if masks else ():
        rows: dict[Modality, list[float]] = {}
        for mask in masks:
            for modality, weight in mask.weights[level].items():
                rows.setdefault(modality, []).append(weight)
        out[level] = {m: round(float(np.mean(rows[m])), 4) for m in MODALITIES if m in rows}
    return out


def _mean_percent(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(100 * float(np.mean(known)), 2) if known else None


def _mean_ms(seconds: Sequence[float]) -> float | None:
    return round(float(np.mean(seconds)) * 1e3, 3) if seconds else None


CLOUD_FORMATS = ("ply", "pcd")

_PLY = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("label", "u1"), ("red", "u1"), ("green", "u1"),
     ("blue", "u1")]
)  # fmt: skip
_PLY_NAMES = {"f": "float", "u": "uchar"}


class CloudWriter(MaskListener):
    """Writes the labeled point cloud of every mask that used a LiDAR, with the stamp as file name."""

    def __init__(self, folder: Path, space: LabelSpace, file_format: str = "ply") -> None:
        """Create the folder.

        Args:
            folder: for the files.
            space: label space with the colors.
            file_format: one of `CLOUD_FORMATS`.

        Raises:
            FileError: the folder cannot be created.
        """
        self._folder, self._space, self._file_format = folder, space, file_format
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error, 0) from error

    def on_mask(self, record: MaskRecord) -> None:
        """Write a point cloud.

        Raises:
            FileError: the disk is full.
        """
        points = labeled_points(record, self._space)
        if points is None:
            return
        write = write_ply if self._file_format == "ply" else write_pcd
        path = self._folder / f"{record.mask.stamp}.{self._file_format}"
        write(path, points)


def labeled_points(record: MaskRecord, space: LabelSpace) -> npt.NDArray[np.void] | None:
    """(M,) of `semantic_points.POINT`, the points inside the label camera's image; None without a LiDAR."""
    points = MaskPoints(record.mask, record.frame_set, record.rig)
    return points.labeled(space)[0] if points.lidar else None


def write_ply(path: Path, points: npt.NDArray[np.void]) -> None:
    """Write a binary PLY file: x y z intensity (float), label red green blue (uchar).

    Args:
        path: the file.
        points: (M,) of `semantic_points.POINT`.
    """
    rows = np.zeros(len(points), _PLY)
    for name in ("x", "y", "z", "intensity", "label"):
        rows[name] = points[name]
    rgb = points["rgb"].astype(np.float32).view(np.uint32)
    rows["red"], rows["green"], rows["blue"] = rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255
    properties = [f"property {_PLY_NAMES[kind.kind]} {name}" for name, kind in _columns(_PLY)]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}", *properties, "end_header", ""]
    atomic_write(path, "\n".join(head).encode() + rows.tobytes())


def write_pcd(path: Path, points: npt.NDArray[np.void]) -> None:
    """Write a binary PCD 0.7 file with the fields x y z intensity label rgb, as PCL and RViz read them.

    Args:
        path: the file.
        points: (M,) of `semantic_points.POINT`.
    """
    columns = _columns(points.dtype)
    packed_type = np.dtype([(name, kind.newbyteorder("<")) for name, kind in columns])  # PCD has no padding
    rows = np.zeros(len(points), packed_type)
    for name, _ in columns:
        rows[name] = points[name]
    lines = {
        "VERSION": "0.7", "FIELDS": " ".join(name for name, _ in columns),
        "SIZE": " ".join(str(kind.itemsize) for _, kind in columns),
        "TYPE": " ".join(kind.kind.upper() for _, kind in columns), "COUNT": " ".join("1" for _ in columns),
        "WIDTH": str(len(rows)), "HEIGHT": "1", "VIEWPOINT": "0 0 0 1 0 0 0", "POINTS": str(len(rows)),
        "DATA": "binary",
    }  # fmt: skip
    head = "".join(f"{key} {value}\n" for key, value in lines.items())
    atomic_write(path, head.encode() + rows.tobytes())


def _columns(kind: np.dtype[Any]) -> list[tuple[str, np.dtype[Any]]]:
    return [(name, kind[name]) for name in kind.names or ()]


_NODE = "/mlesam"


class ResultBag(MaskListener):
    """Writes the messages that the node would publish for every mask, and ground truth, to a bag; a context manager."""

    def __init__(
        self, path: str | Path, space: LabelSpace, topics: dict[Modality, str], parameters: NodeParameters
    ) -> None:
        """Create the bag.

        Args:
            path: its folder, which must not exist.
            space: label space of the masks.
            topics: modality → topic, for the status.
            parameters: of the images and points; see `mask_messages`.

        Raises:
            BagError: the folder exists, or cannot be created.
        """
        self._writer = BagWriter(path)
        self._space, self._topics, self._parameters = space, topics, parameters
        self._written_frames: set[str] = set()
        self._frame_id = ""

    def __enter__(self) -> ResultBag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def on_mask(self, record: MaskRecord) -> None:
        """Write all messages of one mask.

        Raises:
            BagError: the disk is full.
        """
        stamp, self._frame_id = record.mask.stamp, record.mask.frame_id
        add = self._writer.add
        if record.sequence == 1:
            add(f"{_NODE}/label_info", LABEL_SPACE, stamp, label_space(self._space, stamp), latched=True)
        self._add_static_transforms(record)
        makers = mask_messages(record.mask, record.frame_set, record.rig, self._space, self._parameters)
        for name, make in makers.items():
            add(f"{_NODE}/{name}", MASK_TOPICS[name].type_name, stamp, make())
        report = MaskReport(record.mask, record.frame_set, record.sequence)
        add(f"{_NODE}/status", STATUS, stamp, status(report, self._topics, record.counters, record.found))

    def on_match(self, stamp: int, labels: Labels, ground_truth: Labels) -> None:
        """Write the ground truth of a mask.

        Raises:
            BagError: the disk is full.
        """
        self._writer.add(f"{_NODE}/truth", IMAGE, stamp, pixels(stamp, self._frame_id, ground_truth, "mono8"))

    def _add_static_transforms(self, record: MaskRecord) -> None:
        """Write new static transforms; dynamic ones are in the evaluated bag."""
        new = [entry for entry in record.rig.tree.static_transforms() if entry[1] not in self._written_frames]
        if new:
            self._written_frames.update(child for _, child, _ in new)
            stamp = record.mask.stamp
            self._writer.add("/tf_static", TF_MESSAGE, stamp, transforms(new, stamp), latched=True)
