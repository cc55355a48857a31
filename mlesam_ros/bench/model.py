"""Benchmark of the network with all sensors in one batch.

Alternatives: one sensor after the other, the frozen encoder alone, and a single sensor. Also measures the stages, the
memory and the startup.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mlesam_ros.bench.ceilings import Roofline, ceilings, network_work, wait
from mlesam_ros.bench.memory import asked_bytes
from mlesam_ros.bench.plain import BaselineModel
from mlesam_ros.bench.row import BenchmarkResult, row
from mlesam_ros.bench.timing import Timing, interleaved
from mlesam_ros.model.inference import ALL, InferenceOptions, postprocess, prepare
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.pipeline import PRECISIONS, Pipeline, pick_device, pick_precision
from mlesam_ros.types import AUTO, MODALITIES, Modality

_FEW = 5  # repeats; up to this number there is no warm-up


@dataclass(frozen=True)
class Options:
    """Options of the network benchmarks. The weights are random, which does not affect the duration.

    Attributes:
        backbone: a name in `BACKBONES`.
        size: side in pixels of the square images.
        modalities: the sensors; the first one is also measured alone.
        precision: precision of the pipeline; the plain implementation runs in fp32.
        device: torch device; None for the first GPU, or the CPU without one.
        threads: CPU threads; None for the default of `Pipeline`.
    """

    backbone: str = "hiera_nano"
    size: int = 256
    modalities: tuple[Modality, ...] = MODALITIES
    precision: str = AUTO
    device: str | None = None
    threads: int | None = None

    def config(self) -> MLESAMConfig:
        """Configuration of the network.

        Raises:
            ConfigError: a value is not accepted.
        """
        return MLESAMConfig(
            backbone=self.backbone,
            image_size=self.size,
            modalities=self.modalities,
            rank=16 if self.backbone == "hiera_nano" else 32,  # shipped checkpoint; paper
        )

    def network(self) -> MLESAM:
        """Build the network with random weights, not prepared for inference."""
        torch.manual_seed(0)
        return MLESAM(self.config())

    def pipeline(self, network: MLESAM, inference: InferenceOptions) -> Pipeline:
        """Create the pipeline that runs the network."""
        return Pipeline(network, self.device, self.precision, self.threads, inference)

    def images(self) -> dict[Modality, Tensor]:
        """Random images: modality → (3, h, w) float32 on the device."""
        device = pick_device(self.device)
        return {m: torch.rand(3, self.size, self.size, device=device) for m in self.modalities}

    @property
    def name(self) -> str:
        """Backbone and image size as text."""
        return f"{self.backbone} {self.size}x{self.size}"


def facts(options: Options) -> dict[str, Any]:
    """Return the configuration and the measured ceilings of the device, in units of 10⁹ per second."""
    device = pick_device(options.device)
    precision = pick_precision(options.precision, device)
    top = ceilings(device, PRECISIONS[precision], torch.get_num_threads())
    config = {**asdict(options), "device": device, "precision": precision, "threads": torch.get_num_threads()}
    return {
        "config": {**config, "modalities": list(options.modalities)},
        "ceilings": {"gflops": round(top.flops / 1e9, 1), "gbytes": round(top.bytes / 1e9, 2)},
    }


def run(repeats: int, options: Options | None = None) -> list[BenchmarkResult]:
    """Measure all comparisons, the stages, the memory and the startup.

    Args:
        repeats: number of timed calls of each.
        options: options of the benchmark.
    """
    return list(_Bench(options or Options()).rows(repeats))


def warm_up(repeats: int) -> int:
    """Number of untimed warm-up calls; none for few repeats, where the calls before suffice."""
    return 2 if repeats > _FEW else 0


class _Bench:
    def __init__(self, options: Options) -> None:
        self.options, network = options, options.network()
        self.plain = BaselineModel(network, pick_device(options.device))
        frozen = copy.deepcopy(network)
        begun = time.perf_counter()
        self.pipeline = options.pipeline(network, ALL)
        self.pipeline.warm_up()
        self.start = time.perf_counter() - begun
        self.device = self.pipeline.device
        self.dtype = PRECISIONS[self.pipeline.precision]
        self.frozen = prepare(frozen, self.device, self.dtype, InferenceOptions(merged=False))
        self.images = options.images()
        self.batch = torch.stack(list(self.images.values())).to(self.dtype)

    def rows(self, repeats: int) -> Iterator[BenchmarkResult]:
        first = self.options.modalities[0]
        sensors, precision = len(self.images), self.pipeline.precision
        name = f"{self.options.name}, {sensors} sensors, {precision}"
        contenders: dict[str, Callable[[], object]] = {
            "": self.ours,
            "one sensor after the other, eager, LoRA wrappers, fp32": self.one_by_one,
            "the frozen encoder alone, same batch and precision": self.encoder_alone,
            f"the {first} alone": lambda: self.pipeline.infer({first: self.images[first]}),
        }
        memory, *theirs = [asked_bytes(work, self.device) for work in contenders.values()]
        ours, *others = interleaved(list(contenders.values()), repeats, warm_up(repeats))
        least = self._least(sensors)
        for words, timing, bytes_ in zip(list(contenders)[1:], others, theirs, strict=True):
            yield row(name, "ms", 1e3, ours, (words, timing), least, (memory, bytes_))
        yield from self._stages(name, repeats)
        yield row(f"{name}: from weights in memory to ready", "ms", 1e3, Timing(self.start, self.start, 0.0, 1))

    def ours(self) -> object:
        return self.pipeline.infer(self.images)

    def one_by_one(self) -> object:
        return self.plain.infer(self.images)

    def encoder_alone(self) -> None:
        with torch.inference_mode():
            self.frozen.backbone(self.batch)
        wait(self.device)

    def _least(self, sensors: int) -> float:
        top: Roofline = ceilings(self.device, self.dtype, torch.get_num_threads())
        return top.least_seconds(*network_work(self.options.config(), sensors, self.dtype.itemsize))

    def _stages(self, name: str, repeats: int) -> Iterator[BenchmarkResult]:
        """Time each stage with a device synchronization after it; on a GPU the sum exceeds the whole."""
        network, size = self.pipeline.network, (self.options.size, self.options.size)
        images: Mapping[Modality, Tensor] = {m: image[None].to(self.dtype) for m, image in self.images.items()}
        with torch.inference_mode():
            features = network.features(images)
            fused, _ = network.fuse(features.pyramid)
            output = network.decode_heads(features)
        stages: dict[str, Callable[[], object]] = {
            "encode": lambda: network.features(images),
            "route": lambda: network.fuse(features.pyramid),
            "decode": lambda: network.decode(fused),
            "decide and read": lambda: postprocess(output, size),
        }
        timings = interleaved([self._waited(s) for s in stages.values()], repeats, warm_up(repeats))
        for stage, timing in zip(stages, timings, strict=True):
            yield row(f"{name}: {stage}", "ms", 1e3, timing)

    def _waited(self, stage: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                stage()
            wait(self.device)

        return work
