"""Benchmark of the network's inference optimizations: all of them against all but one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

from mlesam_ros.bench.memory import asked_bytes
from mlesam_ros.bench.model import Options, facts, warm_up
from mlesam_ros.bench.row import BenchmarkResult, row
from mlesam_ros.bench.timing import interleaved
from mlesam_ros.model.backbones import HieraSpec, backbone_size
from mlesam_ros.model.inference import ALL, REFERENCE, InferenceOptions
from mlesam_ros.pipeline import pick_device, pick_precision

__all__ = ["Options", "facts", "run"]

_WORDS = {
    "merged": "low-rank products beside the frozen ones",
    "cache_pos_embed": "Hiera's positional code made for each picture",
    "fused_rel_pos": "SAM 1's attention as Meta writes it",
    "channels_last": "feature maps channel by channel",
    "graphs": "every kernel launched by the host",
    "precision": "fp32",
    "all of these": "none of them, fp32, same batch",
}


def run(repeats: int, options: Options | None = None) -> list[BenchmarkResult]:
    """Measure every optimization that applies to the backbone and the device.

    Args:
        repeats: number of timed calls of each.
        options: options of the benchmark.
    """
    options = options or Options()
    ways = {name: (options, replace(ALL, **{name: False})) for name in _switches(options)}  # type: ignore[arg-type]
    if pick_precision(options.precision, pick_device(options.device)) != "fp32":
        ways["precision"] = replace(options, precision="fp32"), ALL
    ways["all of these"] = replace(options, precision="fp32"), REFERENCE
    frames = [_frame(*way) for way in ((options, ALL), *ways.values())]
    memory, *theirs = [asked_bytes(frame, pick_device(options.device)) for frame in frames]
    ours, *others = interleaved(frames, repeats, warm_up(repeats))
    return [
        row(f"{options.name}: {name}", "ms", 1e3, ours, (_WORDS[name], timing), memory=(memory, bytes_))
        for name, timing, bytes_ in zip(ways, others, theirs, strict=True)
    ]


def _switches(options: Options) -> list[str]:
    """Names of the inference options that affect this backbone on this device."""
    hiera = isinstance(backbone_size(options.backbone), HieraSpec)
    gpu = pick_device(options.device).startswith("cuda")
    matters = {"cache_pos_embed": hiera, "fused_rel_pos": not hiera, "graphs": gpu}
    return [field.name for field in fields(InferenceOptions) if matters.get(field.name, True)]


def _frame(options: Options, paths: InferenceOptions) -> Callable[[], object]:
    pipeline, images = options.pipeline(options.network(), paths), options.images()
    return lambda: pipeline.infer(images)
