# SPDX-License-Identifier: Apache-2.0
"""The node as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


class NodeProcess:
    """`perception_node` with its output in a file.

    Args:
        log: that file.
        environment: variables that differ from this process's.
        start: arguments with which Python starts the node.
        **parameters: of the node.
    """

    def __init__(
        self,
        log: Path,
        environment: dict[str, str] | None = None,
        start: Sequence[str] = ("-m", "mlesam_ros.ros.node"),
        **parameters: object,
    ) -> None:
        settings = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        command = [sys.executable, *start, "--ros-args", *settings]
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def said(self, words: str) -> bool:
        """Whether its log has these words."""
        return words in self.log.read_text()

    def end(self, *signals: int) -> int:
        """Send these in quick succession; the exit code."""
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.05)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it the hard way, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
