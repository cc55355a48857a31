"""What `/diagnostics` says, for those who look at the log: once when it begins, once when it is over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.impl.rcutils_logger import RcutilsLogger

from mlesam_ros.ros.words import ERROR, OK

_STEADY = 2
"""Reports in a row that make a change worth a line: what passes by itself within a second is none."""


@dataclass
class _Part:
    """What of a part was logged, and how many reports in a row have been at another level since."""

    logged: bytes = OK
    level: bytes = OK
    times: int = 0


class DiagnosticLogger:
    """Logs changes of level that last.

    Args:
        logger: the node's.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._parts: dict[str, _Part] = {}

    def hear(self, reports: Iterable[DiagnosticStatus], at_once: bool = False) -> None:
        """Take one round of reports; a part that is not among them any more begins anew.

        Args:
            reports: the statuses.
            at_once: log them whatever was said before.
        """
        known, self._parts = self._parts, {}
        for status in reports:
            part = self._parts[status.name] = known.get(status.name) or _Part()
            part.times = part.times + 1 if status.level == part.level else 1
            part.level = status.level
            if at_once or (part.level != part.logged and part.times >= _STEADY):
                part.logged = part.level
                self._log(status)

    def _log(self, status: DiagnosticStatus) -> None:
        words = f"{status.name.rpartition(': ')[2]}: {status.message}"
        # One call per severity: rclpy insists that a line of code keeps to its own.
        if status.level == ERROR:
            self._logger.error(words)
        elif status.level == OK:
            self._logger.info(words)
        else:
            self._logger.warning(words)
