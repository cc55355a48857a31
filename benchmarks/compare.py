# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of `mlesam bench` beside alternatives, bounds and memory; the source of benchmarks/results/.

    python benchmarks/compare.py NAME [--repeats N] [--json FILE]

NAME is `sensors` (OpenCV, NumPy), `sync` (the policy of message_filters), `model` (one sensor after the other with LoRA
wrappers; the frozen encoder), `runtimes` (exported files of the shipped experts; SegFormer-B0), `encoders` (SAM 2's of
Meta's package), `paths`, `node` (every topic subscribed), `publishing` (a wide overlay), `views` (a node per
camera) or `training` (a plain loop). With `model`, `runtimes` and `paths` go the options of `mlesam bench model`.
Alternatives take turns in one process.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from mlesam_ros.resources import limit_blas_threads

limit_blas_threads()  # as `mlesam` does, before NumPy is imported

import sensor_operations
import torch
import training_worker
from baseline_model import BaselineModel
from bounds import ceilings, network_work
from counting import asked_bytes
from segformer import SegFormerB0
from stock_policy import StockPolicy

from mlesam_ros.bench import model_benchmark
from mlesam_ros.bench.measurement import BenchmarkResult
from mlesam_ros.bench.model_benchmark import ModelBenchmark, Options, run_paths, synchronize
from mlesam_ros.bench.sensor_benchmark import Push, run_sync
from mlesam_ros.cli.bench import report
from mlesam_ros.cli.common import prepare_own_domain
from mlesam_ros.model.inference import PRECISIONS, InferenceOptions, argmax_with_confidence, prepare
from mlesam_ros.pipeline import pick_device, pick_precision
from mlesam_ros.types import MODALITIES

_SLOP = 60_000_000  # ns


def sensors(repeats: int) -> list[BenchmarkResult]:
    """Preprocessing beside OpenCV and NumPy."""
    return sensor_operations.run(repeats)


def sync(repeats: int) -> list[BenchmarkResult]:
    """The synchronizer beside the policy of message_filters on the same stream."""

    def stock() -> Push:
        policy = StockPolicy(MODALITIES, _SLOP)
        return lambda now, frame: policy.push(frame.modality, frame.stamp)

    return run_sync(repeats, ("stock greedy policy", stock))


def encoders(repeats: int) -> list[BenchmarkResult]:
    """SAM 2's encoders beside those of Meta's package, with the same weights."""
    import meta_encoder  # needs the package sam2

    return meta_encoder.run(repeats)


def model(repeats: int, options: Options) -> list[BenchmarkResult]:
    """The network beside one sensor after the other, and the frozen encoder alone."""
    network = options.network()
    plain, frozen = BaselineModel(network, pick_device(options.device)), copy.deepcopy(network)
    benchmark = ModelBenchmark(options, network)
    device, dtype = benchmark.pipeline.device, PRECISIONS[benchmark.pipeline.precision]
    prepare(frozen, device, dtype, InferenceOptions(merged=False))
    batch = torch.stack(list(benchmark.images.values())).to(dtype)

    def encoder_alone() -> None:
        with torch.inference_mode():
            frozen.backbone(batch)
        synchronize(device)

    top = ceilings(device, dtype, torch.get_num_threads())
    frame = benchmark.frame(
        repeats,
        ("one sensor after the other, eager, LoRA wrappers, fp32", lambda: plain.infer(benchmark.images)),
        ("the frozen encoder alone, same batch and precision", encoder_alone),
        bound=top.least_seconds(*network_work(benchmark.pipeline.config, len(benchmark.images), dtype.itemsize)),
        memory=partial(asked_bytes, device=device),
    )
    return [*frame, *benchmark.parts(repeats)]


def runtimes(repeats: int, options: Options) -> list[BenchmarkResult]:
    """PyTorch and each exported file in turn, and a camera-only network of hiera_nano's size class for one image."""
    torch.manual_seed(0)
    precision = pick_precision(options.precision, "cpu")
    network = SegFormerB0(25).eval().to(PRECISIONS[precision], memory_format=torch.channels_last)
    image = torch.rand(1, 3, options.size, options.size).to(memory_format=torch.channels_last)

    def segment() -> None:
        with torch.inference_mode():
            argmax_with_confidence(network(image.to(PRECISIONS[precision])), (options.size, options.size))

    other = f"SegFormer-B0 {options.size}x{options.size}, camera alone, torch {precision}"
    return model_benchmark.runtimes(repeats, options, (other, segment))


def paths(repeats: int, options: Options) -> list[BenchmarkResult]:
    """Each inference optimization, with memory."""
    return run_paths(repeats, options, partial(asked_bytes, device=pick_device(options.device)))


def node(repeats: int) -> list[BenchmarkResult]:
    """The node live, at two sizes, and its parts."""
    prepare_own_domain()
    import node_parts

    return node_parts.run(repeats)


def publishing(repeats: int) -> list[BenchmarkResult]:
    """The messages of a mask at 1080p, beside an overlay of its width."""
    import node_parts

    return node_parts.publishing(repeats)


def views(repeats: int) -> list[BenchmarkResult]:
    """Three cameras in one node, beside a node for each."""
    prepare_own_domain()
    import camera_views

    return camera_views.run(repeats)


def training(repeats: int) -> list[BenchmarkResult]:
    """The training step beside the plain loop, its memory and scaling."""
    return training_worker.run(repeats)


def measured_ceilings(options: Options) -> dict[str, Any]:
    """Peak rates of the device in units of 10⁹ per second."""
    device = pick_device(options.device)
    dtype = PRECISIONS[pick_precision(options.precision, device)]
    top = ceilings(device, dtype, torch.get_num_threads())
    return {"ceilings": {"gflops": round(top.flops / 1e9, 1), "gbytes": round(top.bytes / 1e9, 2)}}


BENCHMARKS: dict[str, Callable[[int], list[BenchmarkResult]]] = {
    "sensors": sensors, "sync": sync, "encoders": encoders, "node": node, "publishing": publishing,
    "views": views, "training": training,
}  # fmt: skip
NETWORK: dict[str, Callable[[int, Options], list[BenchmarkResult]]] = {
    "model": model, "runtimes": runtimes, "paths": paths,
}  # fmt: skip


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in (*BENCHMARKS, *NETWORK):
        options = names.add_parser(name)
        options.add_argument("--repeats", type=int, default=60)
        options.add_argument("--json", help="file for the result, - for standard output; as text by default")
    for name in NETWORK:
        options = names.choices[name]
        for option, value in vars(Options()).items():
            options.add_argument(f"--{option}", type=int if option in ("size", "threads") else str, default=value)
    given = vars(parser.parse_args())
    name, repeats, target = given.pop("name"), given.pop("repeats"), given.pop("json")
    if repeats < 1:
        parser.error("--repeats must be at least 1")
    command = f"python benchmarks/compare.py {name}"
    if name in BENCHMARKS:
        report(command, BENCHMARKS[name], repeats, target)
        return
    chosen = Options(**given)
    run = partial(NETWORK[name], options=chosen)
    report(command, run, repeats, target, chosen, partial(measured_ceilings, chosen))


if __name__ == "__main__":
    main()
