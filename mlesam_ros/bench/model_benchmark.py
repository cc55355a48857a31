# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of the network: all sensors in one batch, its stages and startup, and each inference optimization."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlesam_ros.bench.measurement import (
    BenchmarkResult,
    PeakMemory,
    Timing,
    Work,
    interleaved,
    measure,
    row,
    summary,
)
from mlesam_ros.extras import is_installed
from mlesam_ros.metrics import Confusion
from mlesam_ros.model.backbones import HieraSpec, backbone_size
from mlesam_ros.model.checkpoint import load_checkpoint
from mlesam_ros.model.inference import ALL, PRECISIONS, REFERENCE, InferenceOptions, postprocess
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.model.runtimes import ORDER, Runtime, export_path, file_sha256, load_exported
from mlesam_ros.model.weights import resolve_weights
from mlesam_ros.pipeline import Pipeline, pick_device, pick_precision, pick_threads
from mlesam_ros.simulation.samples import HELD_OUT_SEED, street_samples
from mlesam_ros.types import AUTO, MODALITIES, Modality

SHIPPED_EXPERTS = "street"
"""Name of the checkpoint whose exported files are measured."""


@dataclass(frozen=True)
class Options:
    """Options of the network benchmarks, as in `mlesam bench model`; random weights do not affect the duration."""

    backbone: str = "hiera_nano"
    size: int = 256
    precision: str = AUTO
    device: str | None = None
    threads: int | None = None

    def pick_threads(self) -> int:
        """CPU threads that the options select."""
        return pick_threads(self.threads)

    def network(self) -> MLESAM:
        """Build the network with random weights, not prepared for inference."""
        torch.manual_seed(0)
        rank = 16 if self.backbone == "hiera_nano" else 32  # shipped checkpoint; paper
        return MLESAM(MLESAMConfig(backbone=self.backbone, image_size=self.size, rank=rank))

    def pipeline(self, network: MLESAM, inference: InferenceOptions) -> Pipeline:
        """Create the pipeline that runs the network."""
        return Pipeline(network, self.device, self.precision, self.threads, inference)

    def images(self) -> dict[Modality, Tensor]:
        """Random images: modality → (3, h, w) float32 on the device."""
        device = pick_device(self.device)
        return {m: torch.rand(3, self.size, self.size, device=device) for m in MODALITIES}

    def config(self) -> dict[str, Any]:
        """Return the options with the device, precision and threads that they select."""
        device = pick_device(self.device)
        used = {"device": device, "precision": pick_precision(self.precision, device)}
        return {**asdict(self), **used, "threads": torch.get_num_threads(), "modalities": list(MODALITIES)}

    @property
    def name(self) -> str:
        """Backbone and image size as text."""
        return f"{self.backbone} {self.size}x{self.size}"


def synchronize(device: str) -> None:
    """Wait for a CUDA device; return immediately on the CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


class ModelBenchmark:
    """The pipeline of a network and images of all sensors."""

    def __init__(self, options: Options, network: MLESAM | None = None) -> None:
        """Create and warm up the pipeline; it takes over `network`, by default that of the options."""
        network = network or options.network()
        begun = time.perf_counter()
        self.pipeline = options.pipeline(network, ALL)
        self.pipeline.warm_up()
        self._startup = time.perf_counter() - begun
        self.images = options.images()
        self._name = f"{options.name}, {len(self.images)} sensors, {self.pipeline.precision}"

    def frame(
        self, repeats: int, *others: tuple[str, Work], bound: float | None = None, memory: PeakMemory | None = None
    ) -> list[BenchmarkResult]:
        """Measure a frame of all sensors beside other implementations and the first sensor alone; see `measure`."""
        first, image = next(iter(self.images.items()))
        alone = f"the {first} alone", lambda: self.pipeline.infer({first: image})
        work = partial(self.pipeline.infer, self.images)
        return measure(self._name, work, repeats, *others, alone, bound=bound, memory=memory)

    def parts(self, repeats: int) -> list[BenchmarkResult]:
        """Measure the startup, and each stage with a device synchronization; on a GPU their sum exceeds the frame."""
        network, dtype = self.pipeline.network, PRECISIONS[self.pipeline.precision]
        images: Mapping[Modality, Tensor] = {m: image[None].to(dtype) for m, image in self.images.items()}
        with torch.inference_mode():
            features = network.features(images)
            fused, _ = network.fuse(features.pyramid)
            output, size = network.decode_heads(features), next(iter(self.images.values())).shape[-2:]
        stages: dict[str, Work] = {
            "encode": lambda: network.features(images),
            "route": lambda: network.fuse(features.pyramid),
            "decode": lambda: network.decode(fused),
            "decide and read": lambda: postprocess(output, (size[0], size[1])),
        }

        def synchronized(stage: Work) -> None:
            with torch.inference_mode():
                stage()
            synchronize(self.pipeline.device)

        timings = interleaved([partial(synchronized, stage) for stage in stages.values()], repeats)
        start = Timing(self._startup, self._startup, 0.0, 1)
        parts = {**dict(zip(stages, timings, strict=True)), "from weights in memory to ready": start}
        return [row(f"{self._name}: {part}", "ms", timing) for part, timing in parts.items()]


_HELD_OUT_SETS = 24


def runtimes(repeats: int, options: Options, *others: tuple[str, Work]) -> list[BenchmarkResult]:
    """Measure the shipped experts in PyTorch and in each runtime that has an exported file of the options' size.

    All of them take turns, beside PyTorch in fp32 as the alternative. Files are those of `exports_folder`. Their size,
    start-up and masks are measured as well.

    Args:
        repeats: of each.
        options: of a CPU.
        others: name and call of other networks.

    Returns:
        rows; none where the shipped experts have another backbone, or there is neither a file nor another.
    """
    model, size = load_checkpoint(SHIPPED_EXPERTS), (options.size, options.size)
    digest, threads = file_sha256(resolve_weights(SHIPPED_EXPERTS)), options.pick_threads()
    files = [path for pair in ORDER if (path := export_path(digest, *pair, size)).exists()]
    if model.config.backbone != options.backbone or not (files or others):
        return []
    images = {m: image.numpy() for m, image in options.images().items()}

    def pytorch(precision: str) -> Runtime:
        return Pipeline(load_checkpoint(SHIPPED_EXPERTS), "cpu", precision, threads).torch_runtime

    weights = [resolve_weights(SHIPPED_EXPERTS), *filter(None, [model.base_weights])]
    loaders: list[tuple[Callable[[], Runtime], list[Path]]] = [
        (partial(pytorch, options.precision), weights),
        *((partial(load_exported, path, threads), [path]) for path in files),
    ]
    reference = pytorch("fp32")
    found: dict[str, Runtime] = {}
    starts: list[BenchmarkResult] = []
    for load, paths in loaders:
        begun, worked = time.perf_counter(), time.process_time()
        runtime = load()
        runtime(images)
        start = summary([time.perf_counter() - begun])
        start = replace(start, cpu=time.process_time() - worked)
        name = f"{options.name}, {len(images)} sensors, {runtime.name} {runtime.precision}"
        found[name] = runtime
        starts += [
            row(f"{name}: from its file to the first mask", "ms", start),
            _figure(f"{name}: its file", "MB", sum(path.stat().st_size for path in paths) / 1e6),
        ]
    works: dict[str, Work] = {name: partial(runtime, images) for name, runtime in found.items()} | dict(others)
    plain, *timings = interleaved([partial(reference, images), *works.values()], repeats)
    times = [row(name, "ms", timing, ("torch fp32", plain)) for name, timing in zip(works, timings, strict=True)]
    return [*times, *starts, *masks(found, reference, model.config, size)]


def masks(
    found: Mapping[str, Runtime], reference: Runtime, config: MLESAMConfig, size: tuple[int, int]
) -> list[BenchmarkResult]:
    """Compare masks of held-out streets by some runtimes with those of PyTorch in fp32.

    Args:
        found: name of the row → runtime.
        reference: PyTorch in fp32.
        config: of the model.
        size: (h, w) of the images.

    Returns:
        two rows each: equal labels, and the mIoU over the classes in the ground truth; none without the simulation.
    """
    if not is_installed("open3d"):
        return []
    confusions = {runtime: Confusion(len(config.label_space)) for runtime in (reference, *found.values())}
    equal: dict[Runtime, list[float]] = {runtime: [] for runtime in confusions}
    for images, truth in street_samples(config, size, _HELD_OUT_SETS, HELD_OUT_SEED, "varied"):
        expected = reference(images).labels
        for runtime, confusion in confusions.items():
            labels = runtime(images).labels
            confusion.add(truth, labels)
            equal[runtime].append(100 * float((labels == expected).mean()))
    miou = {runtime: 100 * confusion.miou_present for runtime, confusion in confusions.items()}
    rows = []
    for name, runtime in found.items():
        rows.append(_figure(f"{name}: labels of fp32", "%", float(np.mean(equal[runtime])), _HELD_OUT_SETS))
        scored = _figure(f"{name}: mIoU on held-out streets", "%", miou[runtime], _HELD_OUT_SETS)
        rows.append(replace(scored, alternative="torch fp32", alternative_median=miou[reference]))
    return rows


def _figure(name: str, unit: str, value: float, repeats: int = 1) -> BenchmarkResult:
    """Row of a figure that does not vary."""
    return BenchmarkResult(name, unit, value, value, 0.0, repeats)


def run(repeats: int, options: Options) -> list[BenchmarkResult]:
    """Measure a frame of all sensors and of one, the stages and the startup, and each runtime."""
    benchmark = ModelBenchmark(options)
    exported = runtimes(repeats, options) if benchmark.pipeline.device == "cpu" else []
    return [*benchmark.frame(repeats), *benchmark.parts(repeats), *exported]


_DISABLED = {
    "merged": "low-rank products beside the frozen ones",
    "cache_pos_embed": "Hiera's positional code made for each image",
    "fused_rel_pos": "SAM 1's attention as Meta writes it",
    "channels_last": "feature maps channel by channel",
    "graphs": "every kernel launched by the host",
    "precision": "fp32",
    "all of these": "none of them, fp32, same batch",
}
"""Inference optimization → the implementation without it."""


def run_paths(repeats: int, options: Options, memory: PeakMemory | None = None) -> list[BenchmarkResult]:
    """Measure the inference optimizations that apply to backbone and device: all of them against all but one."""
    images = options.images()
    gpu = pick_device(options.device).startswith("cuda")
    hiera = isinstance(backbone_size(options.backbone), HieraSpec)
    applies = {"cache_pos_embed": hiera, "fused_rel_pos": not hiera, "graphs": gpu}
    names = [field.name for field in fields(ALL) if applies.get(field.name, True)]
    fp32 = replace(options, precision="fp32")
    variants = {name: (options, replace(ALL, **{name: False})) for name in names}  # type: ignore[arg-type]
    if options.config()["precision"] != "fp32":
        variants["precision"] = fp32, ALL
    variants["all of these"] = fp32, REFERENCE

    def frame(options: Options, inference: InferenceOptions) -> Work:
        pipeline = options.pipeline(options.network(), inference)
        return lambda: pipeline.infer(images)

    frames = [frame(options, ALL), *(frame(*variant) for variant in variants.values())]
    ours, *peaks = [memory(work) for work in frames] if memory else [0] * len(frames)
    timing, *others = interleaved(frames, repeats)
    return [
        row(f"{options.name}: {name}", "ms", timing, (_DISABLED[name], other), memory=[ours, peak] if memory else [])
        for name, other, peak in zip(variants, others, peaks, strict=True)
    ]
