"""How `mlesam` ends: Ctrl-C, an error that nobody foresaw, a reader that went away. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

USER_ERROR, BUG, INTERRUPTED = 2, 70, 130
"""Exit codes: what the input or the machine caused; what should not have happened; Ctrl-C."""
_READER_GONE = 1
_AGAIN = 0.05  # s until an interrupt that came at a bad moment is tried again


def run_cli(start: Callable[[], None]) -> int:
    """Run a command line to its end.

    No end leaves a traceback, unless `--debug` asks for it: what was not foreseen becomes a sentence on stderr.

    Args:
        start: parses the command line and runs the command; it may raise `SystemExit`.

    Returns:
        the exit code.
    """
    struck: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        struck.append(number)
        if _loading(frame):  # extension modules abort, or seem broken, when they are interrupted while they load
            if struck.count(signal.SIGINT) > 1:
                os._exit(INTERRUPTED)  # who asks twice does not want to wait
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it was told to ignore Ctrl-C
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGALRM, interrupt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a dash that the terminal does not know
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
    """Whether a module is being imported here."""
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
    """The exit code once all that was said is out."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        with open(os.devnull, "w") as nowhere:  # or Python tries again at its very end, and complains
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return code or (_READER_GONE if isinstance(error, BrokenPipeError) else _report_error(error))
    return code


def _report_error(error: Exception) -> int:
    """Say on stderr what came up; the exit code."""
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
