# SPDX-License-Identifier: Apache-2.0
"""Data-parallel training and evaluation under `torchrun`: each process takes its share of every batch.

Gradients are summed once per step in a single all-reduce. The trainable part is small beside the frozen backbone, so
bucketed communication gains little, and the model needs no DDP wrapper. Without `torchrun` all functions work as for
one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from mlesam_ros.errors import ConfigError
from mlesam_ros.files import end_with_torchrun

_BARRIER_TIMEOUT = timedelta(hours=12)  # barrier timeout: the first process renders while the others wait


def rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _is_distributed() else 1


def is_first() -> bool:
    """Whether this process has rank 0 and writes files; valid without a process group as well."""
    return rank() == 0 and int(os.environ.get("RANK", "0")) == 0


def local_slice(count: int) -> range:
    """Slice of `count` items for this process; sizes differ by at most one."""
    here, every = rank(), world_size()
    return range(count * here // every, count * (here + 1) // every)


def barrier() -> None:
    """Wait for all processes."""
    if _is_distributed():
        dist.barrier()


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum a tensor over all processes, without gradient."""
    value = value.detach().clone()
    if _is_distributed():
        dist.all_reduce(value)
    return value


def global_topk(values: Tensor, count: int) -> Tensor:
    """Largest values over all processes in descending order: (count,), or all values if there are fewer."""
    mine = values.flatten().topk(min(count, values.numel())).values
    if not _is_distributed():
        return mine
    padded = mine.new_full((count,), -torch.inf)
    padded[: len(mine)] = mine
    found = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(found, padded)
    best = torch.cat(found).topk(count).values
    return best[best != -torch.inf]  # NaN, which `topk` ranks highest, is kept


def all_reduce_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes. Requires gradients of the same parameters in each."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not _is_distributed() or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    place = 0
    for gradient in gradients:
        gradient.copy_(flat[place : place + gradient.numel()].view_as(gradient))
        place += gradient.numel()


def pick_device(wanted: str) -> torch.device:
    """Select the device of this process.

    Args:
        wanted: `auto`, `cpu` or `cuda`; under `torchrun` every process of a host gets its own GPU.

    Raises:
        ConfigError: `cuda` is requested, but there is no GPU for this process.
    """
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if wanted == "cuda" and local >= there:
        raise ConfigError(
            f"device is cuda, but process {local} of this machine finds {there} GPUs.",
            "Start fewer processes, or take device cpu.",
        )
    return torch.device("cuda", local) if wanted != "cpu" and local < there else torch.device("cpu")


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Context with a process group if `torchrun` started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _is_distributed():
        yield
        return
    end_with_torchrun()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_BARRIER_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
