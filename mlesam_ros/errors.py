# SPDX-License-Identifier: Apache-2.0
"""Errors raised for invalid input and findings of a check, each with a message and a remedy.

The message is one sentence with the value and the accepted ones; the remedy is a separate field. `str` of an error
joins the two for the command line. Any other exception that a decoder raises is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

MAX_TEXT_LENGTH = 1_000
"""Maximum number of characters of a message, of a remedy and of both together; longer text is cut in the middle."""


class Problem(str):
    """One line of at most `MAX_TEXT_LENGTH` characters: message and remedy joined; both are also attributes.

    Attributes:
        message: one sentence with the value at fault and the accepted ones.
        remedy: one imperative sentence; empty if there is none.
    """

    message: str
    remedy: str

    def __new__(cls, message: str, remedy: str = "") -> Problem:
        """Join message and remedy."""
        message, remedy = shorten(message), shorten(remedy)
        end = "" if message.endswith((".", "?", "!", "…")) else "."
        problem = super().__new__(cls, shorten(f"{message}{end} {remedy}" if remedy else message))
        problem.message, problem.remedy = message, remedy
        return problem


class MlesamError(ValueError):
    """Base class of all errors that a user's input can cause.

    Attributes:
        message: one sentence with the value at fault and the accepted ones.
        remedy: one imperative sentence; empty if there is none.
    """

    def __init__(self, message: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = shorten(message)
        self.remedy = shorten(remedy)

    def __str__(self) -> str:
        """Message and remedy in one line of at most `MAX_TEXT_LENGTH` characters."""
        return str(self.problem)

    @property
    def problem(self) -> Problem:
        """Message and remedy without the exception, to store them."""
        return Problem(self.message, self.remedy)


class ConfigError(MlesamError):
    """An invalid parameter, YAML key or command-line value."""


class LabelError(MlesamError):
    """A malformed label space, or a label outside it."""


class FileError(MlesamError):
    """A file or folder that cannot be written."""


class ImageError(MlesamError):
    """An image whose payload contradicts its encoding, size or step."""


class CloudError(MlesamError):
    """A point cloud whose payload contradicts its fields or layout."""


class PacketError(MlesamError):
    """An event packet that cannot be decoded."""


class CalibrationError(MlesamError):
    """A camera model, transform or rig that is missing, malformed or contradicts the data."""


class CheckpointError(MlesamError):
    """A weights file that is missing, truncated, or made for another architecture or label space."""


class PackageError(MlesamError):
    """An optional Python package that is not installed."""


class BagError(MlesamError):
    """A bag that cannot be read or written."""


class DatasetError(MlesamError):
    """A data set whose files do not follow its published layout."""


def format_error(error: Exception) -> Problem:
    """Format an error in one line; errors other than `MlesamError` keep their type's name."""
    return error.problem if isinstance(error, MlesamError) else Problem(f"{type(error).__name__}: {error}")


def join_problems(problems: Iterable[Problem], separator: str = " ") -> Problem:
    """Join several problems into one; equal messages and remedies appear once."""
    known = list(problems)
    messages = dict.fromkeys(problem.message for problem in known)
    remedies = dict.fromkeys(problem.remedy for problem in known if problem.remedy)
    return Problem(separator.join(messages), " ".join(remedies))


def shorten(text: str) -> str:
    """Remove line breaks, and cut text beyond `MAX_TEXT_LENGTH` characters in the middle."""
    text = " ".join(text.split())
    half = MAX_TEXT_LENGTH // 2
    return text if len(text) <= MAX_TEXT_LENGTH else f"{text[:half]} … {text[3 - half :]}"


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
