# SPDX-License-Identifier: Apache-2.0
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

_MIN_INTERVAL_S, _MAX_INTERVAL_S = 1.0, 30.0  # between lines
_NUM_LINES = 10  # approximate, unless they are further apart than the maximum interval


class ProgressCallback(Protocol):
    """Callback that reports progress."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Report the number done, the total, and an optional note."""


@contextmanager
def track(
    description: str, total: float | None, unit: str, lines: bool = True, transient: bool = False
) -> Iterator[ProgressCallback]:
    """Report progress on stderr.

    Args:
        description: of the operation, such as "rendering".
        total: number of items; None if unknown.
        unit: of the items, in the plural.
        lines: whether to print lines where stderr is not a terminal.
        transient: whether the bar disappears at the end.

    Yields:
        callback for the number done and the total.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, description, unit) if lines else _ignore
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=transient) as progress:
        task, is_known = progress.add_task(description, total=total, note=""), total is not None

        def show(done: float, total: float, note: str = "") -> None:
            count = f"{done:.0f}/{total:.0f}" if is_known else f"{done:.1f}"
            progress.update(task, completed=done, total=total if is_known else None, note=f"{count} {unit}  {note}")

        yield show


def _ignore(done: float, total: float, note: str = "") -> None:
    """Report nothing."""


@contextmanager
def spinner(description: str) -> Iterator[None]:
    """Report an operation of unknown duration on stderr: a spinner on a terminal, a line elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.print(description)
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(description, total=None)
        yield


def _lines(console: Console, description: str, unit: str) -> ProgressCallback:
    last, reported = -_MAX_INTERVAL_S, 0.0

    def show(done: float, total: float, note: str = "") -> None:
        nonlocal last, reported
        since = time.monotonic() - last
        is_step = since >= _MIN_INTERVAL_S and _NUM_LINES * (done - reported) >= total
        if done == total or since >= _MAX_INTERVAL_S or is_step:
            last, reported = time.monotonic(), done
            console.print(f"{description}: {done:.0f} of {total:.0f} {unit}", highlight=False)

    return show
