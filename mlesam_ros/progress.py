"""Progress reports on stderr: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SOON, _LATE = 1.0, 30.0  # s between lines: minimum, and maximum where a tenth takes longer
_PARTS = 10  # approximate number of lines in total


class Show(Protocol):
    """Callback that reports progress."""

    def __call__(self, done: float, of: float, note: str = "") -> None:
        """Report the number done, the total, and an optional note."""


@contextmanager
def track(doing: str, total: float | None, unit: str, lines: bool = True, transient: bool = False) -> Iterator[Show]:
    """Report progress on stderr.

    Args:
        doing: description, such as "rendering".
        total: number of items; None if unknown.
        unit: of the items, in the plural.
        lines: whether to print lines where stderr is not a terminal.
        transient: whether the bar disappears at the end.

    Yields:
        callback for the number done and the total.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, doing, unit) if lines else _nothing
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=transient) as progress:
        task = progress.add_task(doing, total=total, note="")

        def show(done: float, of: float, note: str = "") -> None:
            said = f"{done:.0f}/{of:.0f} {unit}  {note}" if total is not None else f"{done:.1f} {unit}  {note}"
            progress.update(task, completed=done, total=None if total is None else of, note=said)

        yield show


def _nothing(done: float, of: float, note: str = "") -> None:
    """Show nothing."""


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Report an operation of unknown duration on stderr: a spinner on a terminal, a line elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.print(doing)
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(doing, total=None)
        yield


def _lines(console: Console, doing: str, unit: str) -> Show:
    last, told = -_LATE, 0.0

    def show(done: float, of: float, note: str = "") -> None:
        nonlocal last, told
        since = time.monotonic() - last
        if done == of or since >= _LATE or (since >= _SOON and _PARTS * (done - told) >= of):
            last, told = time.monotonic(), done
            console.print(f"{doing}: {done:.0f} of {of:.0f} {unit}", highlight=False)

    return show
