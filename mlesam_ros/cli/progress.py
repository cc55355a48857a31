"""Progress for people: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SOON, _LATE = 1.0, 30.0  # s between lines: at least, and at most where a tenth takes longer
_PARTS = 10  # lines for the whole, more or less


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


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Say on stderr that something goes on of which nobody knows how far it is: a spinner, elsewhere a line."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.print(doing)
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(doing, total=None)
        yield


def _lines(console: Console, doing: str, unit: str) -> Callable[[int, int], None]:
    last, told = -_LATE, 0

    def show(done: int, of: int) -> None:
        nonlocal last, told
        since = time.monotonic() - last
        if done == of or since >= _LATE or (since >= _SOON and _PARTS * (done - told) >= of):
            last, told = time.monotonic(), done
            console.print(f"{doing}: {done} of {of} {unit}", highlight=False)

    return show
