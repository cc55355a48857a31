"""Errors are one line, whatever they quote."""

import pytest

from mlesam_ros import errors
from mlesam_ros.errors import MlesamError

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MlesamError)]


@pytest.mark.parametrize("kind", ALL)
def test_a_name_with_line_breaks_does_not_break_the_sentence(kind):
    error = kind("known frames are a\nb, c\r\u2028d; publish it.")
    assert str(error) == "known frames are a b, c d; publish it."
    assert isinstance(error, ValueError)
