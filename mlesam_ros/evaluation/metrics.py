"""`metrics.json`: an evaluation as numbers with stable keys; `docs/results.md` documents them."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mlesam_ros.evaluation.evaluate import Evaluation, Options
from mlesam_ros.evaluation.scores import Scores, Trace, percentiles_ms
from mlesam_ros.frame import MODALITIES
from mlesam_ros.labels import LabelSpace
from mlesam_ros.pipeline import Pipeline

_FATES = ("received", "used", "superseded", "late", "unmatched", "refused")
_BLOCK = 1 << 20


def metrics(evaluation: Evaluation, options: Options, pipeline: Pipeline) -> dict[str, Any]:
    """Everything about one bag, with JSON types. Scores are in percent, times in milliseconds."""
    scores, space = evaluation.scores, pipeline.config.label_space
    counters = evaluation.counters.values()
    return {
        "bag": str(evaluation.bag),
        "bag_sha256": bag_sha256(evaluation.bag),
        "frames": sum(counts["received"] for counts in counters),
        "sets": evaluation.sets,
        "masks": len(scores.traces),
        "counters": {fate: sum(counts[fate] for counts in counters) for fate in _FATES},
        "sensors": _sensors(evaluation),
        "latency_ms": percentiles_ms(sum(trace.timings.values()) for trace in scores.traces),
        "stages_ms": _stages(scores.traces),
        **quality(scores, space),
        "class_shares": _shares(scores, space),
        "confidence": _percent(np.mean([trace.confidence for trace in scores.traces])),
        "consistency": _mean_percent([trace.consistency for trace in scores.traces]),
        "router": _router(scores.traces),
        "subsets": subset_rows(scores),
        "warnings": evaluation.warnings,
        "config": _config(evaluation, options, pipeline),
        "versions": versions(),
    }


def quality(scores: Scores, space: LabelSpace) -> dict[str, Any]:
    """Comparison with the truth; every figure None where there was none."""
    found = scores.confusion.summary(space.names) if scores.compared else None
    keys = ("miou", "macc", "fwiou", "pixel_accuracy")
    out = {key: found[key] if found else None for key in keys}
    out["miou"] = found["miou_present"] if found else None
    return {"compared": scores.compared, **out, "per_class": found["per_class"] if found else {}}


def subset_rows(scores: Scores) -> list[dict[str, Any]]:
    """One row per subset of the sensors, the largest first."""
    order = sorted(scores.agreements, key=lambda subset: (-len(subset), [MODALITIES.index(m) for m in subset]))
    rows = []
    for subset in order:
        equal, pixels = scores.agreements[subset]
        confusion = scores.subsets.get(subset)
        miou = None if confusion is None else _percent(confusion.miou_present)
        rows.append({"sensors": list(subset), "miou": miou, "agreement": _percent(equal / pixels)})
    return rows


def bag_sha256(bag: Path) -> str:
    """SHA-256 over a bag's files in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(bag.iterdir()) if bag.is_dir() else [bag]:
        if file.is_file():
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What ran here."""
    packages = {name: version(name) for name in ("mlesam_ros", "torch", "numpy", "rosbags")}
    return {"python": platform.python_version(), "machine": platform.machine(), **packages}


def _sensors(evaluation: Evaluation) -> dict[str, Any]:
    out = {}
    for modality, counts in evaluation.counters.items():
        skews = [trace.skews[modality] for trace in evaluation.scores.traces if modality in trace.skews]
        source = evaluation.topics.sensors[modality]
        rejected = evaluation.rejected.get(modality, 0)
        out[modality] = {
            "topic": source.topic, "type": source.type, **counts, "unusable": rejected,
            "skew_ms": {**percentiles_ms(map(abs, skews)), "mean": _mean_ms(skews)},
        }  # fmt: skip
    return out


def _stages(traces: Sequence[Trace]) -> dict[str, float]:
    stages = {name for trace in traces for name in trace.timings}
    order = [name for name in ("encode", "model", "decode") if name in stages]
    return {name: round(float(np.median([t.timings[name] for t in traces])) * 1e3, 2) for name in order}


def _shares(scores: Scores, space: LabelSpace) -> dict[str, float | None]:
    total = max(int(scores.shares.sum()), 1)
    names = (*space.names, "unlabelled")
    return {name: _percent(count / total) for name, count in zip(names, scores.shares, strict=True) if count}


def _router(traces: Sequence[Trace]) -> dict[str, dict[str, float]]:
    """Level → modality → mean weight over the masks that it took part in."""
    out: dict[str, dict[str, float]] = {}
    for level in traces[0].weights:
        names = [m for m in MODALITIES if any(m in trace.weights[level] for trace in traces)]
        rows = {m: [trace.weights[level][m] for trace in traces if m in trace.weights[level]] for m in names}
        out[level] = {m: round(float(np.mean(row)), 4) for m, row in rows.items()}
    return out


def _config(evaluation: Evaluation, options: Options, pipeline: Pipeline) -> dict[str, Any]:
    return {
        "device": pipeline.device, "precision": pipeline.precision, "backbone": pipeline.config.backbone,
        "modalities": list(pipeline.config.modalities), "label_space": pipeline.config.label_space.name,
        "image_size": pipeline.config.image_size, "truth": evaluation.topics.truth,
        "every": options.every, "real_time": options.real_time, "start": options.start, "duration": options.duration,
        "drops": [str(drop) for drop in options.drops], "robustness": options.robustness,
    }  # fmt: skip


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * float(value), 2)


def _mean_percent(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _percent(float(np.mean(known))) if known else None


def _mean_ms(seconds: Sequence[float]) -> float | None:
    return round(float(np.mean(seconds)) * 1e3, 3) if seconds else None
