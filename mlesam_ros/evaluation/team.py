"""Several processes that share the work, as `torchrun` starts them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from mlesam_ros.ownership import end_with_torchrun

_PATIENCE = timedelta(days=7)
"""A process that has finished its bags waits for the others, however long theirs are."""


class ProcessGroup:
    """The processes. Without `torchrun` it is this one alone.

    Attributes:
        rank: number of this process.
        size: how many there are.
    """

    def __init__(self) -> None:
        """Join, if `torchrun` says that there are others."""
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1:
            end_with_torchrun()
            distributed.init_process_group("gloo", timeout=_PATIENCE)

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1:
            distributed.destroy_process_group()

    @property
    def device(self) -> str | None:
        """This process's GPU where each has one; None leaves the choice to the pipeline."""
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return f"cuda:{local}" if self.size > 1 and torch.cuda.device_count() > local else None

    def told(self, value: Any) -> Any:
        """What the first process says."""
        box = [value]
        if self.size > 1:
            distributed.broadcast_object_list(box)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """What every process says, in the order of their ranks."""
        everything = [value]
        if self.size > 1:
            everything = [None] * self.size
            distributed.all_gather_object(everything, value)
        return everything
