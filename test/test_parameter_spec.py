# SPDX-License-Identifier: Apache-2.0
"""Topic names: validation and messages compared with those of rclpy."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")
from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name

from mlesam_ros.parameter_file import topic_fault

NAMES = [
    "", "/", "a/", "a//b", "9a", "/9a", "~", "~a", "~ab", "~/a", "a~", "{a}", "{node}", "{ns}/x", "{9}", "{a/b}", "{{",
    "}", "{", "a b", "ä", "_a", "/_a", "a/_b", "__a", "x" * 246, "x" * 247, "{namespace}", "a/{ns}9", "~/9", "{}", "\n",
    "{a}}", "a-b", "~/{node}", "a{node}9", "²", "/{node}/", "~{ns}", "{ä}", "{a~}", "camera/image_raw",
]  # fmt: skip


def by_rclpy(name: str) -> str | None:
    try:
        validate_topic_name(name)
        validate_full_topic_name(expand_topic_name(name, "mlesam", "/"))
    except InvalidTopicNameException as error:
        return str(error).partition(": ")[2].partition(":\n")[0]
    except ValueError as error:
        return re.sub(r"(, at \S+:\d+)+$", "", str(error).partition(" is invalid: ")[2])
    return None


@pytest.mark.parametrize("name", NAMES)
def test_invalid_topic_has_the_message_of_rcl(name):
    assert topic_fault(name) == by_rclpy(name)


@settings(max_examples=3000, deadline=None)
@given(st.text("a9_/~{} node-", max_size=12))
@example("{ns}{node}")
def test_any_topic_is_validated_as_by_rcl(name):
    assert topic_fault(name) == by_rclpy(name)
