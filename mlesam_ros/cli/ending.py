"""Exit handling of `mlesam`: Ctrl-C, unexpected exceptions and closed pipes. Imports only the standard library."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

USER_ERROR, BUG, INTERRUPTED = 2, 70, 130
"""Exit codes: bad input or environment; unexpected exception; Ctrl-C."""
_READER_GONE = 1
_AGAIN = 0.05  # s until an interrupt during an import is retried


def run_cli(start: Callable[[], None]) -> int:
    """Run a command and map its outcome to an exit code.

    Without `--debug`, an unexpected exception becomes one line on stderr instead of a traceback.

    Args:
        start: parses the command line and runs the command; can raise `SystemExit`.

    Returns:
        the exit code.
    """
    struck: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        struck.append(number)
        if _loading(frame):  # extension modules abort or fail to load when interrupted during their import
            if struck.count(signal.SIGINT) > 1:
                os._exit(INTERRUPTED)  # the second Ctrl-C exits at once
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
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
        if not struck and "--debug" in sys.argv:
            raise
        code = INTERRUPTED if struck else _report_error(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _flushed(INTERRUPTED if struck and code else code)


def _loading(frame: FrameType | None) -> bool:
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
        return code or (_READER_GONE if isinstance(error, BrokenPipeError) else _report_error(error))
    return code


def _report_error(error: Exception) -> int:
    """Print an exception as one line on stderr and return the exit code."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("mlesam_ros"):
        said, code = f"the Python package {error.name} is needed for this and is not installed here.", USER_ERROR
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        said, code = f"{where}{error.strerror}; give another place, or make room or rights there.", USER_ERROR
    else:
        said = f"this should not have happened: {type(error).__name__}: {text}; --debug shows where, please report it."
        code = BUG
    print(f"mlesam: {said}", file=sys.stderr)
    return code
