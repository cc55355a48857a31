"""What a recipe trains on and is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from mlesam_ros.frame import CAMERA
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.training.dataset import Report, prepare
from mlesam_ros.training.datasets.frames import LabelledFrames
from mlesam_ros.training.distributed import is_first, wait
from mlesam_ros.training.evaluate import Fit
from mlesam_ros.training.feed import Vary
from mlesam_ros.training.recipe import Recipe
from mlesam_ros.training.transforms import Augment


@dataclass(frozen=True)
class Source:
    """Data for a run.

    Attributes:
        train, held_out: the rows; no row of one is in the other.
        vary: augmentation.
        fit: brings held-out pictures to the network's size; None where they have it.
        words: what the held-out rows are, for who reads the figures.
    """

    train: LabelledFrames
    held_out: LabelledFrames
    vary: Vary
    fit: Fit | None
    words: str


def open_source(recipe: Recipe, config: MLESAMConfig) -> Source:
    """Render what is missing of the street, and open it. Of many processes the first renders, the others wait.

    Raises:
        DatasetError: the folder holds something else.
    """
    if is_first():
        with _rendering() as report:
            for part in ("train", "held_out"):
                prepare(recipe.data, part, config.encoders, report(part))
    wait()
    train, held_out = (prepare(recipe.data, part, config.encoders) for part in ("train", "held_out"))
    mean, std = config.statistics.get(CAMERA, ((0.0,) * 3, (1.0,) * 3))
    vary = Augment(recipe.augmentation, (torch.tensor(mean), torch.tensor(std)))
    return Source(train, held_out, vary, None, "held-out simulated streets")


@contextmanager
def _rendering() -> Iterator[Callable[[str], Report]]:
    """Progress bars, made when the first street of a part is done."""
    with Progress(transient=True, console=Console(stderr=True)) as progress:

        def report(part: str) -> Report:
            tasks: list[Any] = []

            def told(done: int, count: int) -> None:
                if not tasks:
                    tasks.append(progress.add_task(f"rendering streets ({part.replace('_', ' ')})", total=count))
                progress.update(tasks[0], completed=done)

            return told

        yield report
