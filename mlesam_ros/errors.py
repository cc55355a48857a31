"""The errors that bad input raises.

The message is one sentence that names the value and what is accepted; the remedy is a field of its own. `str` joins the
two, so that the command line can print an error bare. Anything else that escapes a decoder is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 1_000
"""Maximum number of characters of a message, of a remedy and of both; longer ones are cut in the middle."""


class Problem(str):
    """A message and its remedy in one line of at most `LONGEST` characters, with the two as fields of their own.

    Attributes:
        message: one sentence that names the value at fault and what is accepted.
        remedy: one imperative sentence that mends it; empty where there is none.
    """

    message: str
    remedy: str

    def __new__(cls, message: str, remedy: str = "") -> Problem:
        """Join the two."""
        message, remedy = shorten(message), shorten(remedy)
        end = "" if message.endswith((".", "?", "!", "…")) else "."
        problem = super().__new__(cls, shorten(f"{message}{end} {remedy}" if remedy else message))
        problem.message, problem.remedy = message, remedy
        return problem


class MlesamError(ValueError):
    """Base of every error that a user's input can cause.

    Attributes:
        message: one sentence that names the value at fault and what is accepted.
        remedy: one imperative sentence that mends it; empty where there is none.
    """

    def __init__(self, message: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = shorten(message)
        self.remedy = shorten(remedy)

    def __str__(self) -> str:
        """Message and remedy in one line of at most `LONGEST` characters."""
        return str(self.problem)

    @property
    def problem(self) -> Problem:
        """Message and remedy without the exception, for where they are kept."""
        return Problem(self.message, self.remedy)


class ConfigError(MlesamError):
    """A parameter, YAML key or command-line value that is not accepted."""


class LabelError(MlesamError):
    """A label space that is malformed, or a label outside it."""


class FileError(MlesamError):
    """A file or folder that cannot be written."""


class ImageError(MlesamError):
    """An image whose encoding, size, step or payload is not what it claims to be."""


class CloudError(MlesamError):
    """A point cloud whose fields, layout or payload is not what it claims to be."""


class PacketError(MlesamError):
    """An event packet that cannot be decoded."""


class CalibrationError(MlesamError):
    """A camera model, transform or rig that is missing, malformed or contradicts the data."""


class CheckpointError(MlesamError):
    """A weights file that is missing, truncated, or made for another architecture or label space."""


class BagError(MlesamError):
    """A bag that cannot be read or written."""


class DatasetError(MlesamError):
    """A data set whose files are not where its published layout puts them."""


def format_error(error: Exception) -> Problem:
    """An error in one line; one that is not about the input keeps its type's name."""
    return error.problem if isinstance(error, MlesamError) else Problem(f"{type(error).__name__}: {error}")


def together(problems: Iterable[Problem], separator: str = " ") -> Problem:
    """Several problems as one, what they share named once."""
    known = list(problems)
    messages = dict.fromkeys(problem.message for problem in known)
    remedies = dict.fromkeys(problem.remedy for problem in known if problem.remedy)
    return Problem(separator.join(messages), " ".join(remedies))


def shorten(text: str) -> str:
    """A text without line breaks, shortened in the middle beyond `LONGEST` characters."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[3 - LONGEST // 2 :]}"
