"""The demo's other processes: started, watched, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mlesam_ros.errors import MlesamError
from mlesam_ros.ownership import child_environment

_PATIENCE = 5.0  # s for each way of asking a process to end


class ProcessError(MlesamError):
    """A process of the demo ended before its time."""


class ChildProcess:
    """One `mlesam` command in a process of its own, its output in a log file."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        """Start it.

        Args:
            name: for messages.
            arguments: what follows `mlesam`.
            log: takes stdout and stderr.
        """
        self.name = name
        self.log = log
        command = [sys.executable, "-m", "mlesam_ros.cli", *arguments]
        with log.open("wb") as out:
            # A session of its own: Ctrl-C reaches only the demo, which then ends its children in the right order.
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, start_new_session=True, env=_environment()
            )

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """End it if it has not ended by itself."""
        for ask in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.ended:
                return
            self._process.send_signal(ask)
            self.wait(_PATIENCE)

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def wait(self, seconds: float) -> None:
        """Give it this long to end."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def check(self, may_be_done: bool = False) -> None:
        """Make sure that all is well.

        Args:
            may_be_done: ending with exit code 0 is well.

        Raises:
            ProcessError: it ended otherwise; with its last words.
        """
        code = self._process.poll()
        if code is None or (may_be_done and code == 0):
            return
        raise ProcessError(f"the {self.name} ended with code {code}: {self.log_tail()} (all its words: {self.log}).")

    def log_tail(self, lines: int = 3) -> str:
        """The end of its log, on one line."""
        said = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return " / ".join([line.strip() for line in said if line.strip()][-lines:]) or "none"


def _environment() -> dict[str, str]:
    """This process's, with the very package that runs here before any other copy, whatever the working directory."""
    package = str(Path(__file__).resolve().parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**child_environment(), "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
