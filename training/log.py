"""What a run says while it goes: a progress bar with the time left, JSON lines, and TensorBoard's scalars."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlesam_ros.files import write_error
from mlesam_ros.progress import Show, track
from mlesam_ros.training.distributed import is_first
from mlesam_ros.training.recipe import Recipe
from mlesam_ros.training.tensorboard import ScalarFile

Log = Callable[[int, float, float, float], None]
"""Takes (step, loss, gradient norm, learning rate) after every step."""
LOG = "log.jsonl"
SCALARS = "tensorboard"


@contextmanager
def logging(out: Path, first: int, recipe: Recipe) -> Iterator[Log]:
    """A progress bar, and figures every `recipe.log_every` steps. Of many processes only the first says anything.

    Args:
        out: folder of `log.jsonl`, whose lines of steps that a resumed run does again are dropped, and of
            `tensorboard/`.
        first: the step that the run begins with.
        recipe: of the run.

    Raises:
        FileError: the disk is full.
    """
    if not is_first():
        yield lambda *_: None
        return
    try:
        with track(recipe.stage, recipe.steps, "steps", lines=False) as show:
            yield _Writer(out, first, recipe, show)
    except OSError as error:
        raise write_error(out / LOG, error, 0) from error


class _Writer:
    """Keeps the mean loss since the last line."""

    def __init__(self, out: Path, first: int, recipe: Recipe, show: Show) -> None:
        self._recipe, self._first, self._show = recipe, first, show
        self._path = out / LOG
        _forget(self._path, first)
        self._scalars = ScalarFile(out / SCALARS, first)
        self._begun = self._since = time.monotonic()
        self._losses: list[float] = []

    def __call__(self, step: int, loss: float, norm: float, rate: float) -> None:
        recipe, now = self._recipe, time.monotonic()
        self._losses.append(loss)
        speed = recipe.batch * len(self._losses) / max(now - self._since, 1e-9)
        note = f"loss {loss:.3f}  lr {rate:.1e}  {speed:.1f} moments/s"
        self._show(step + 1, recipe.steps, note)
        if (step + 1) % recipe.log_every and step + 1 != recipe.steps:
            return
        mean = sum(self._losses) / len(self._losses)
        entry = {"step": step, "loss": mean, "gradient_norm": norm, "lr": rate, "moments_per_s": speed}
        self._scalars.add(step, {tag: value for tag, value in entry.items() if tag != "step"})
        entry["elapsed_s"] = now - self._begun
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 7) for k, v in entry.items()}) + "\n")
        if not sys.stderr.isatty():
            left = (now - self._begun) / (step + 1 - self._first) * (recipe.steps - step - 1) / 60
            said = f"{recipe.stage} {step + 1}/{recipe.steps}: {note}, {left:.1f} min left"
            print(said, file=sys.stderr, flush=True)  # standard output is for results
        self._losses, self._since = [], now


def _forget(path: Path, first: int) -> None:
    """Drop the lines of steps that are done again, and one that was cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] < first:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
