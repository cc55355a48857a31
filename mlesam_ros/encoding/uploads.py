"""Arrays on their way to a device, without anybody waiting for them."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch


class AsyncUploader:
    """Brings NumPy arrays to one device.

    To a GPU they go from page-locked memory on a stream of their own, while this thread reads the next sensor and the
    device still works on the one before; the device's own queue waits for each before it is used.

    Attributes:
        device: such as `cuda`.
    """

    def __init__(self, device: str) -> None:
        """Nothing is allocated yet but a stream, on a GPU."""
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.startswith("cuda") else None

    def __call__(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """The array as a tensor there; on the CPU it shares the array's memory."""
        here = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch knows no memory to read only
        if self._stream is None:
            return here.to(self.device)
        with torch.cuda.stream(self._stream):
            there = here.pin_memory().to(self.device, non_blocking=True)
        queue = torch.cuda.current_stream(self.device)
        queue.wait_stream(self._stream)
        there.record_stream(queue)  # its memory is not given to the next upload before the queue has read it
        return there
