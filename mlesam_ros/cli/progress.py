"""Progress for people: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EVERY = 1.0  # s between lines


@contextmanager
def track(doing: str, total: int, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far something is, on stderr.

    Args:
        doing: such as "rendering".
        total: how many there are.
        unit: what they are, in the plural.

    Yields:
        to be called with how many are done and how many there are.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, doing, unit)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _lines(console: Console, doing: str, unit: str) -> Callable[[int, int], None]:
    last = -_EVERY

    def show(done: int, of: int) -> None:
        nonlocal last
        if done == of or time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            console.print(f"{doing}: {done} of {of} {unit}", highlight=False)

    return show
