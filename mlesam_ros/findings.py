"""What a check found: something that is wrong, something that looks wrong, something worth knowing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from mlesam_ros.errors import Problem, shorten

ERROR = "error"
"""It does not work, or the result is wrong."""
WARNING = "warning"
"""It works, but looks like a mistake."""
NOTE = "note"
"""Worth knowing."""
SEVERITIES = (ERROR, WARNING, NOTE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One of them.

    Attributes:
        severity: one of `SEVERITIES`.
        subject: what it is about, such as `camera front_optical_frame`.
        message: what is the matter, with the values.
        remedy: what to do about it; empty where nothing need be done.
    """

    severity: str
    subject: str
    message: str
    remedy: str = ""

    def __post_init__(self) -> None:
        """Shorten what quotes a long text of a file."""
        for name in ("subject", "message", "remedy"):
            object.__setattr__(self, name, shorten(getattr(self, name)))

    @classmethod
    def from_problem(cls, severity: str, subject: str, problem: Problem) -> Finding:
        """From an error's message and remedy."""
        return cls(severity, subject, problem.message.rstrip(".") + ".", problem.remedy)

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> str | None:
    """The gravest severity among some findings; None where there are none."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in found), None)
