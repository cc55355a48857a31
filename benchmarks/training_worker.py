# SPDX-License-Identifier: Apache-2.0
"""The training step beside the plain loop, and its memory and scaling in processes of their own.

`python benchmarks/training_worker.py '{"samples": 4}'` times one process; compare.py starts one or several of them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from counting import peak_bytes
from torch import Tensor

from mlesam_ros.bench.measurement import BenchmarkResult, row, summary
from mlesam_ros.bench.model_benchmark import synchronize
from mlesam_ros.bench.training_benchmark import (
    GRADIENT_CLIP,
    LABEL_STRIDE,
    LEARNING_RATE,
    WEIGHT_DECAY,
    TrainingStep,
)
from mlesam_ros.bench.training_benchmark import run as run_steps
from mlesam_ros.errors import MlesamError
from mlesam_ros.files import child_environment, end_with_named_parent
from mlesam_training.distributed import local_slice, pick_device, processes, world_size
from mlesam_training.loss import batch_loss, pixel_losses
from mlesam_training.recipe import BLOCKS, NONE

_SHARED = 4  # samples per step where two processes share them
_MIB = 2**20


class WorkerError(MlesamError):
    """A training worker failed."""


class PlainStep:
    """Baseline of the same step: float32, one modality after another, PyTorch's defaults."""

    def __init__(self, step: TrainingStep) -> None:
        """Take over the model and the batch of a step in fp32 without checkpointing."""
        self._device, self._batch, self.model = step.device, step.batch, step.stage.model
        self.model.to(memory_format=torch.contiguous_format)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def __call__(self) -> None:
        """Run forward, backward and the optimizer step."""
        self._optimizer.zero_grad()
        images = self._batch.stacked()
        pyramids = [self._encode(modality, images[modality]) for modality in images]
        pyramid = {level: torch.stack([each[level] for each in pyramids]) for level in pyramids[0]}
        fused, _ = self.model.fuse(pyramid)
        size = next(iter(images.values())).shape[-2:]
        stride = slice(None, None, LABEL_STRIDE)
        heads = [
            F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[..., stride, stride]
            for logits in self.model.decode(fused)
            if logits is not None
        ]
        labels = self._batch.labels
        batch_loss([pixel_losses(logits, labels) for logits in heads], labels).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, GRADIENT_CLIP)
        self._optimizer.step()
        synchronize(self._device.type)

    def _encode(self, modality: str, images: Tensor) -> dict[str, Tensor]:
        with self.model.experts.active((modality,)):
            return self.model.encode(images)


def run(repeats: int, side: int = 256) -> list[BenchmarkResult]:
    """Measure the step beside the plain loop, its memory, and two processes beside two threads."""
    plain = PlainStep(TrainingStep("fp32", side=side))
    rows = run_steps(repeats, ("fp32, contiguous, PyTorch's attention, one modality after another", plain), side=side)
    rows += _memory(side)
    return rows if torch.cuda.is_available() else [*rows, *_scaling(max(repeats // 12, 2), side)]


def _memory(side: int) -> Iterator[BenchmarkResult]:
    """Measure the memory of each configuration in a new process, since freed memory stays with its process."""
    for precision in ("fp32", "bf16"):
        kinds = [{"precision": precision, "checkpointing": kind, "side": side} for kind in (BLOCKS, NONE)]
        saving, plain = (workers(kind, steps=1)[0]["bytes"] / _MIB for kind in kinds)
        yield BenchmarkResult(
            f"memory of a step, {precision}, checkpointing of blocks", "MiB", saving, saving, 0.0, 1,
            alternative="none", alternative_median=plain,
        )  # fmt: skip


def _scaling(steps: int, side: int) -> Iterator[BenchmarkResult]:
    """Measure one configuration after the other, since concurrent ones would share the cores."""
    images, work = _SHARED * 4, {"samples": _SHARED, "side": side}
    one, two_processes, two_threads = (
        summary(workers(work, count, threads, steps)[0]["seconds"]) for count, threads in ((1, 1), (2, 1), (1, 2))
    )
    single = "one process, 1 thread", one
    yield row(f"two processes, 1 thread each; {images} images", "images/s", two_processes, single, images)
    yield row(f"one process, 2 threads; {images} images", "images/s", two_threads, single, images)


def workers(step: dict[str, Any], count: int = 1, threads: int = 1, steps: int = 4) -> list[dict[str, Any]]:
    """Run workers of one process group over the loopback interface, with the environment that torchrun sets.

    Args:
        step: arguments of `TrainingStep`.
        count: number of workers.
        threads: CPU threads per worker.
        steps: number of timed steps.

    Returns:
        the JSON results; only the first worker prints one.

    Raises:
        WorkerError: a worker failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        environment = {**child_environment(), **{name: str(value) for name, value in variables.items()}}
        environment |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # the same copy of the package
        environment["PYTHONSAFEPATH"] = ""  # the worker imports modules beside it
        command = [sys.executable, __file__, json.dumps({"threads": threads, "steps": steps, "step": step})]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        codes = [process.returncode for process in started]
        raise WorkerError(f"a training process ended with {codes}.", "See its output above.")
    return [json.loads(line) for output in outputs for line in output.splitlines() if line.startswith("{")]


def main() -> None:
    """Run the steps that are given as JSON; the first process prints seconds per step and peak bytes."""
    work = {"threads": 1, "steps": 4, "step": {}, **json.loads(sys.argv[1])}
    torch.set_num_threads(work["threads"])
    with processes(pick_device("auto")):
        step = TrainingStep(**work["step"])
        seconds: list[float] = []

        def steps() -> None:
            for _ in range(1 + work["steps"]):
                start = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - start)

        found = {"bytes": peak_bytes(steps), "seconds": seconds[1:], "processes": world_size(), **work}
        if local_slice(2).start == 0:
            print(json.dumps(found))


if __name__ == "__main__":
    end_with_named_parent()
    main()
