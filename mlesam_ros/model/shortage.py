"""What to say when a network does not fit into a device's memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mlesam_ros.errors import ConfigError

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")
"""How torch's allocators name what they were asked for, the CPU's and CUDA's."""


@contextmanager
def explain_oom(model: torch.nn.Module, device: str) -> Iterator[None]:
    """Within it, an allocation that fails says how much the network needs.

    Args:
        model: on the CPU still; its weights are counted before they move.
        device: where it is to run.

    Raises:
        ConfigError: there is too little memory; with what the network needs at least and what is free.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        asked = _ASKED.search(str(error))
        if asked is None and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        more = float(asked[1]) * _UNITS[asked[2]] if asked else 0.0
        raise ConfigError(_words(device, weights, more)) from error


def _words(device: str, weights: int, more: float) -> str:
    held, free = _held_and_free(device)
    needed = max(held, weights) + more
    return (
        f"the network does not fit into the memory of {device}: it needs at least {needed / 1e6:.0f} MB there, "
        f"{weights / 1e6:.0f} MB of them weights in fp32, and {free / 1e6:.0f} MB are free; end what else uses it, or "
        "set device to another, precision to bf16, or checkpoint to one on a smaller backbone."
    )


def _held_and_free(device: str) -> tuple[int, int]:
    """Bytes that this process's tensors hold on a device, as far as is known, and what is free there."""
    if device.startswith("cuda"):
        held, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
        torch.cuda.empty_cache()
        return int(held), int(free)
    return 0, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
