"""What a run says while it goes: a progress bar with the time left, and a file of JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mlesam_ros.training.recipe import Recipe

Log = Callable[[int, float, float, float], None]
"""Takes (step, loss, gradient norm, learning rate) after every step."""


@contextmanager
def logging(path: Path, first: int, recipe: Recipe) -> Iterator[Log]:
    """A progress bar, and a JSON line with the mean loss every `recipe.log_every` steps.

    Args:
        path: of the JSON lines. Those of steps that a resumed run does again are dropped.
        first: the step that the run begins with.
        recipe: of the run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in old if json.loads(line)["step"] < first]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    begun = time.monotonic()
    losses: list[float] = []
    with path.open("a", encoding="utf-8") as file, _progress() as progress:
        task = progress.add_task(recipe.stage, total=recipe.steps, completed=first, loss="")

        def log(step: int, loss: float, norm: float, rate: float) -> None:
            losses.append(loss)
            progress.update(task, completed=step + 1, loss=f"{loss:.3f}")
            if (step + 1) % recipe.log_every and step + 1 != recipe.steps:
                return
            mean = sum(losses) / len(losses)
            losses.clear()
            elapsed = time.monotonic() - begun
            entry = {"step": step, "loss": mean, "gradient_norm": norm, "lr": rate, "elapsed_s": elapsed}
            file.write(json.dumps({k: round(v, 7) for k, v in entry.items()}) + "\n")
            file.flush()
            if not progress.console.is_terminal:
                left = elapsed / (step + 1 - first) * (recipe.steps - step - 1) / 60
                print(f"{recipe.stage} {step + 1}/{recipe.steps}: loss {mean:.3f}, {left:.1f} min left", flush=True)

        yield log


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns)
    progress.disable = not progress.console.is_terminal
    return progress
