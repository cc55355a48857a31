"""Figures of an evaluation for `metrics.json`, with stable keys; `docs/results.md` documents them."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mlesam_ros.bags.outage import Outage
from mlesam_ros.evaluation.bag_evaluator import Evaluation, Options
from mlesam_ros.evaluation.scores import MaskMetrics, Scores, percentiles_ms
from mlesam_ros.labels import LabelSpace
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.sync import COUNTERS
from mlesam_ros.types import MODALITIES, Modality

_BLOCK = 1 << 20
_STAGES = ("encode", "model", "decode")


def metrics(evaluation: Evaluation, options: Options, pipeline: Pipeline) -> dict[str, Any]:
    """All figures of one bag, with JSON types. Scores are in percent, times in milliseconds."""
    return {
        "bag": str(evaluation.bag),
        "bag_sha256": bag_sha256(evaluation.bag),
        "interrupted": evaluation.interrupted,
        **_counts(evaluation.counters.values(), evaluation.sets),
        "sensors": _sensors(evaluation),
        **figures(evaluation.scores, pipeline.config.label_space),
        "warnings": evaluation.warnings,
        "config": {**configuration(options, pipeline), "truth": _truth(evaluation, options)},
        "versions": versions(),
    }


def summary(parts: Mapping[str, Evaluation], options: Options, pipeline: Pipeline) -> dict[str, Any]:
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
        **figures(scores, space),
        "warnings": [f"{name}: {warning}" for name, part in parts.items() for warning in part.warnings],
        "config": configuration(options, pipeline),
        "versions": versions(),
    }


def figures(scores: Scores, space: LabelSpace) -> dict[str, Any]:
    """Figures of the masks, and of their comparison with ground truth if there is any."""
    traces = scores.traces
    return {
        "masks": len(traces),
        "latency_ms": percentiles_ms(sum(trace.timings.values()) for trace in traces),
        "stages_ms": _stages(traces),
        **quality(scores, space),
        "class_shares": _shares(scores, space),
        "confidence": _mean_percent([trace.confidence for trace in traces]),
        "consistency": _mean_percent([trace.consistency for trace in traces]),
        "router": _router(traces),
        "subsets": scores.trials.rows(),
        **scores.trials.summary(),
    }


def quality(scores: Scores, space: LabelSpace) -> dict[str, Any]:
    """Scores against ground truth; None or empty without ground truth."""
    found = scores.confusion.summary(space.names) if scores.compared else None
    keys = ("macc", "fwiou", "pixel_accuracy", "miou_all")
    return {
        "compared": scores.compared,
        "miou": found["miou_present"] if found else None,
        **{key: found[key] if found else None for key in keys},
        "per_class": found["per_class"] if found else {},
        "confusion": scores.confusion.counts.tolist() if found else None,
    }


def bag_sha256(bag: Path) -> str:
    """SHA-256 of a bag's files in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(bag.iterdir()) if bag.is_dir() else [bag]:
        if file.is_file():
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and packages, and the machine's architecture."""
    packages = {name: version(name) for name in ("mlesam_ros", "torch", "numpy", "rosbags")}
    return {"python": platform.python_version(), "machine": platform.machine(), **packages}


def configuration(options: Options, pipeline: Pipeline) -> dict[str, Any]:
    """Configuration that the figures depend on besides the bag."""
    config = pipeline.config
    return {
        "device": pipeline.device, "precision": pipeline.precision, "backbone": config.backbone,
        "modalities": list(config.modalities), "label_space": config.label_space.name,
        "image_size": config.image_size, "every": options.every, "real_time": options.real_time,
        "start": options.start, "duration": options.duration, "drops": [_written(drop) for drop in options.drops],
        "robustness": options.robustness, "parameters": options.parameters.values(),
    }  # fmt: skip


def _written(drop: Outage) -> str:
    """Format an outage as `--drop` reads it."""
    end = "" if math.isinf(drop.end) else f"{drop.end:g}"
    return f"{drop.target}@{drop.start:g}..{end}"


def _counts(counters: Iterable[Mapping[str, int]], sets: int) -> dict[str, Any]:
    totals = dict.fromkeys(COUNTERS, 0)
    for counts in counters:
        for fate in COUNTERS:
            totals[fate] += counts[fate]
    return {"frames": totals["received"], "sets": sets, "counters": totals}


def _truth(evaluation: Evaluation, options: Options) -> str | None:
    return evaluation.topics.truth if options.labels is None else str(options.labels)


def _sensors(evaluation: Evaluation) -> dict[Modality, Any]:
    out = {}
    for modality, counts in evaluation.counters.items():
        skews = [trace.skews[modality] for trace in evaluation.scores.traces if modality in trace.skews]
        source = evaluation.topics.sensors[modality]
        out[modality] = {
            "topic": source.topic, "type": source.type, **counts, "unusable": evaluation.rejected.get(modality, 0),
            "refusals": dict(evaluation.refusals[modality]),
            "skew_ms": {**percentiles_ms(map(abs, skews)), "mean": _mean_ms(skews)},
        }  # fmt: skip
    return out


def _stages(traces: Sequence[MaskMetrics]) -> dict[str, float]:
    return {
        stage: round(float(np.median([t.timings[stage] for t in traces if stage in t.timings])) * 1e3, 2)
        for stage in _STAGES
        if any(stage in trace.timings for trace in traces)
    }


def _shares(scores: Scores, space: LabelSpace) -> dict[str, float]:
    total = max(int(scores.shares.sum()), 1)
    names = (*space.names, "unlabelled")
    return {n: round(100 * int(c) / total, 2) for n, c in zip(names, scores.shares, strict=True) if c}


def _router(traces: Sequence[MaskMetrics]) -> dict[str, dict[Modality, float]]:
    """Level → modality → mean weight over the masks that used it."""
    out: dict[str, dict[Modality, float]] = {}
    for level in traces[0].weights if traces else ():
        rows: dict[Modality, list[float]] = {}
        for trace in traces:
            for modality, weight in trace.weights[level].items():
                rows.setdefault(modality, []).append(weight)
        out[level] = {m: round(float(np.mean(rows[m])), 4) for m in MODALITIES if m in rows}
    return out


def _mean_percent(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(100 * float(np.mean(known)), 2) if known else None


def _mean_ms(seconds: Sequence[float]) -> float | None:
    return round(float(np.mean(seconds)) * 1e3, 3) if seconds else None
