# SPDX-License-Identifier: Apache-2.0
"""Which messages a scheduled failure withholds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.bags.reader import Outage, parse_outage
from mlesam_ros.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "drop"),
    [
        ("camera@10..16", Outage("camera", 10, 16)),
        ("camera@10..", Outage("camera", 10, math.inf)),
        ("lidar@..2.5", Outage("lidar", 0, 2.5)),
        ("lidar", Outage("lidar", 0, math.inf)),
        ("/front/image_raw@1..2", Outage("/front/image_raw", 1, 2)),
    ],
)
def test_outage_syntax(text, drop):
    assert parse_outage(text) == drop


@pytest.mark.parametrize(
    "text", ["", "camera@", "camera@3", "camera@a..b", "camera@5..3", "camera@2..2", "camera@1.2.3..4", "@1..2"]
)
def test_invalid_outage_is_named(text):
    with pytest.raises(ConfigError, match="drop"):
        parse_outage(text)


@pytest.mark.parametrize(
    ("target", "topic", "concerned"),
    [
        ("camera", "/camera/image_raw", True),
        ("camera", "/camera/camera_info", True),
        ("camera", "/depth/camera_info", False),
        ("camera", "/event_camera/events", False),
        ("event", "/events", True),
        ("lidar", "/robot/lidar/points", True),
        ("/camera", "/camera/image_raw", True),
        ("/camera", "/camera_left/image_raw", False),
        ("/lidar/points", "/lidar/points", True),
    ],
)
def test_outage_matches_topics(target, topic, concerned):
    assert Outage(target).matches(topic) is concerned


@given(start=st.floats(0, 100), length=st.floats(0.01, 100), at=st.floats(0, 300))
def test_outage_suppresses_until_before_its_end(start, length, at):
    drop = Outage("camera", start, start + length)
    assert drop.suppresses("/camera/image_raw", at) is (start <= at < start + length)
    assert not drop.suppresses("/lidar/points", at)
