"""Benchmark of a training step: against the plain loop, with activation checkpointing, and with two processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mlesam_ros.bench.row import BenchmarkResult
from mlesam_ros.bench.timing import Timing, interleaved, summary
from mlesam_ros.bench.trainer import PlainTrainer, Trainer, WorkerConfig
from mlesam_ros.errors import MlesamError
from mlesam_ros.files import child_environment
from mlesam_training.distributed import pick_device
from mlesam_training.recipe import BLOCKS

_REPEATS_PER_STEP = 12
_BOTH = 4  # samples per step where two processes share them
_MIB = 2**20


class WorkerError(MlesamError):
    """A training worker failed."""


def run(repeats: int, work: WorkerConfig | None = None) -> list[BenchmarkResult]:
    """Measure images per second of the step with its options on and off, its memory and its scaling.

    Args:
        repeats: twelve times the number of timed steps of each kind; at least two steps are timed.
        work: configuration of a step.
    """
    work = replace(work or WorkerConfig(), steps=max(repeats // _REPEATS_PER_STEP, 2))
    rows = [*_steps(work), *_memory(work)]
    return rows if pick_device(work.device).type == "cuda" else [*rows, *_scaling(replace(work, moments=_BOTH))]


def _steps(work: WorkerConfig) -> Iterator[BenchmarkResult]:
    torch.set_num_threads(work.threads)
    ours = {
        "bf16": Trainer(work),
        "fp32": Trainer(replace(work, precision="fp32")),
        "bf16, checkpointing of blocks": Trainer(replace(work, checkpointing=BLOCKS)),
    }
    timings = interleaved([*(trainer.step for trainer in ours.values()), PlainTrainer(work).step], work.steps)
    images = next(iter(ours.values())).images
    where = f"hiera_nano, {images} pictures of {work.side}x{work.side}, {_threads(work.threads)}"
    plain = "fp32, contiguous, PyTorch's attention, one modality after another"
    for name, timing in zip(ours, timings, strict=False):
        yield _rate(f"step, {name}; {where}", images, timing, (plain, timings[-1]))


def _rate(name: str, images: int, ours: Timing, other: tuple[str, Timing]) -> BenchmarkResult:
    return BenchmarkResult(
        name, "images/s", images / ours.median, images / ours.p99, ours.spread, ours.repeats,
        alternative=other[0], alternative_median=images / other[1].median, ratio=other[1].median / ours.median,
    )  # fmt: skip


def _memory(work: WorkerConfig) -> Iterator[BenchmarkResult]:
    """Measure the memory of each configuration in a new process, since freed memory stays with its process."""
    for precision in ("fp32", "bf16"):
        kinds = [replace(work, precision=precision, checkpointing=c, steps=1) for c in (BLOCKS, "none")]
        saving, plain = (found[0]["bytes"] / _MIB for found in map(workers, kinds))
        yield BenchmarkResult(
            f"memory of a step, {precision}, checkpointing of blocks", "MiB", saving, saving, 0.0, 1,
            alternative="none", alternative_median=plain, ratio=None,
        )  # fmt: skip


def _scaling(work: WorkerConfig) -> Iterator[BenchmarkResult]:
    """Measure one configuration after the other, since concurrent ones would share the cores."""
    images = work.moments * 4
    one = summary(workers(work)[0]["seconds"])
    single = f"one process, {_threads(1)}", one
    yield _rate(f"two processes, {_threads(1)} each; {images} pictures", images, _seconds(workers(work, 2)), single)
    two_threads = _seconds(workers(replace(work, threads=2)))
    yield _rate(f"one process, {_threads(2)}; {images} pictures", images, two_threads, single)


def _seconds(found: list[dict[str, Any]]) -> Timing:
    return summary(found[0]["seconds"])


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def workers(work: WorkerConfig, count: int = 1) -> list[dict[str, Any]]:
    """Run workers of one process group over the loopback interface, with the environment that torchrun sets.

    Args:
        work: configuration of every worker.
        count: number of workers.

    Returns:
        the JSON results; only the first worker prints one.

    Raises:
        WorkerError: a worker failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    checkout = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(map(str, (checkout, checkout / "training")))
    started = []
    for rank in range(count):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        environment = {**child_environment(), **{name: str(value) for name, value in variables.items()}}
        environment |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": path}
        command = [sys.executable, "-m", "mlesam_ros.bench.trainer", json.dumps(asdict(work))]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise WorkerError(f"a training process ended with {[p.returncode for p in started]}; its words stand above.")
    return [json.loads(line) for words in said for line in words.splitlines() if line.startswith("{")]
