"""Errors are one line, whatever they quote."""

import pytest

from mlesam_ros import errors
from mlesam_ros.errors import LONGEST, MlesamError, sentence

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MlesamError)]


@pytest.mark.parametrize("kind", ALL)
def test_a_name_with_line_breaks_does_not_break_the_sentence(kind):
    error = kind("known frames are a\nb, c\r\u2028d; publish it.")
    assert str(error) == "known frames are a b, c d; publish it."
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("kind", [MlesamError, RuntimeError])
def test_a_name_of_any_length_leaves_beginning_and_remedy(kind):
    text = sentence(kind(f"model {'x' * 100_000} is unknown; use plumb_bob."))
    assert len(text) < LONGEST + 50 and "model xxx" in text and text.endswith("xxx is unknown; use plumb_bob.")
    exact = "y" * LONGEST
    assert str(MlesamError(exact)) == exact and len(str(MlesamError(exact + "y"))) == LONGEST
