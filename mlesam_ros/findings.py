"""Findings of a check: errors, warnings and notes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from mlesam_ros.errors import Problem, shorten

ERROR = "error"
"""Does not work, or the result is wrong."""
WARNING = "warning"
"""Works, but is probably a mistake."""
NOTE = "note"
"""Information."""
SEVERITIES = (ERROR, WARNING, NOTE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        severity: one of `SEVERITIES`.
        subject: the checked item, such as `camera front_optical_frame`.
        message: description of the problem, with the values.
        remedy: action to take; empty if none is needed.
    """

    severity: str
    subject: str
    message: str
    remedy: str = ""

    def __post_init__(self) -> None:
        """Shorten fields that quote long text of a file."""
        for name in ("subject", "message", "remedy"):
            object.__setattr__(self, name, shorten(getattr(self, name)))

    @classmethod
    def from_problem(cls, severity: str, subject: str, problem: Problem) -> Finding:
        """Build from an error's message and remedy."""
        return cls(severity, subject, problem.message.rstrip(".") + ".", problem.remedy)

    def to_dict(self) -> dict[str, str]:
        """Convert to a dictionary for JSON."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> str | None:
    """Highest severity among some findings; None without findings."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in found), None)
