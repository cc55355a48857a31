# SPDX-License-Identifier: Apache-2.0
"""The `mlesam` command: entry point, exit codes, Ctrl-C and unexpected exceptions.

Each module is one subcommand. Heavy imports happen only inside the commands, after the interrupt handler is installed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from mlesam_ros.errors import Problem, format_error
from mlesam_ros.files import end_with_named_parent
from mlesam_ros.resources import limit_blas_threads

USER_ERROR, BUG, INTERRUPTED = 2, 70, 130
"""Exit codes: bad input or environment; unexpected exception; Ctrl-C."""
_CLOSED_PIPE = 1
_RETRY_S = 0.05
"""Seconds until an interrupt during an import is retried."""


def main() -> NoReturn:
    """Entry point of the console script."""
    end_with_named_parent()
    sys.exit(run_cli(_run_app))


def _run_app() -> None:
    limit_blas_threads()
    from mlesam_ros.cli.app import app

    app()


def run_cli(start: Callable[[], None]) -> int:
    """Run a command and map its outcome to an exit code.

    Without `--debug`, an unexpected exception becomes one line on stderr instead of a traceback.

    Args:
        start: parses the command line and runs the command; can raise `SystemExit`.

    Returns:
        the exit code.
    """
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        if _is_importing(frame):  # extension modules abort or fail to load when interrupted during their import
            if interrupts.count(signal.SIGINT) > 1:
                os._exit(INTERRUPTED)  # the second Ctrl-C exits at once
            signal.setitimer(signal.ITIMER_REAL, _RETRY_S)
        else:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise the caller ignores SIGINT
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGALRM, interrupt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # for characters that the terminal cannot encode
    try:
        code = _run(start)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if not interrupts and "--debug" in sys.argv:
            raise
        code = INTERRUPTED if interrupts else _report_error(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _flushed(INTERRUPTED if interrupts and code else code)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame or one of its callers."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _run(start: Callable[[], None]) -> int:
    try:
        start()
    except SystemExit as wanted:
        return wanted.code if isinstance(wanted.code, int) else int(wanted.code is not None)
    return 0


def _flushed(code: int) -> int:
    """Flush standard output and return the exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        with open(os.devnull, "w") as nowhere:  # otherwise Python flushes again at exit and reports the error
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return code or (_CLOSED_PIPE if isinstance(error, BrokenPipeError) else _report_error(error))
    return code


def _report_error(error: Exception) -> int:
    """Print an exception as one line on stderr and return the exit code."""
    code, message = USER_ERROR, ""
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("mlesam_ros"):
        message = f"the Python package {error.name} is required for this command and is not installed."
    elif isinstance(error, OSError) and error.strerror:
        path = f"{error.filename}: " if error.filename else ""
        message = f"{path}{error.strerror}. Choose another path, or free space or change permissions there."
    else:
        code = BUG
        message = Problem(
            f"unexpected error: {format_error(error)}",
            "Run again with --debug for the traceback, and please report it.",
        )
    print(f"mlesam: {message}", file=sys.stderr)
    return code
