"""The errors that bad input raises.

Every message is one sentence that names the value, what is accepted and the remedy, so that the command line can print
it bare and the node can put it into a diagnostic. Anything else that escapes a decoder is a bug.
"""

LONGEST = 1_000
"""Characters of a message, whatever it quotes; the remedy stands at the end, so that it is the middle that goes."""


class MlesamError(ValueError):
    """Base of every error that a user's input can cause."""

    def __str__(self) -> str:
        """One line of bearable length, whatever is in the names that it quotes."""
        return one_line(super().__str__())


class ConfigError(MlesamError):
    """A parameter, YAML key or command-line value that is not accepted."""


class LabelError(MlesamError):
    """A label space that is malformed, or a label outside it."""


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


def sentence(error: Exception) -> str:
    """An error in one line; one that is not about the input keeps its type's name, for whoever has to look for it."""
    text = one_line(str(error))
    return text if isinstance(error, MlesamError) else f"{type(error).__name__}: {text}"


def one_line(text: str) -> str:
    """A text without line breaks, shortened in the middle beyond `LONGEST` characters."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[3 - LONGEST // 2 :]}"
