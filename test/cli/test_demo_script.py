"""The demo's script: whole moments, no holes, and drops that the player understands."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.bags.reader import parse_outage
from mlesam_ros.cli.demo.collector import STEP_NS, make_phases, phase_at
from mlesam_ros.errors import ConfigError
from mlesam_ros.types import NANOSECONDS


def test_forty_seconds():
    told = [(phase.name, phase.start / NANOSECONDS, phase.end / NANOSECONDS) for phase in make_phases(40)]
    assert told == [
        ("day_all_sensors", 0, 8),
        ("day_camera_lost", 8, 14),
        ("day_lidar_lost", 14, 20),
        ("night_all_sensors", 20, 28),
        ("night_camera_lost", 28, 34),
        ("night_lidar_lost", 34, 40),
    ]


@given(seconds=st.floats(3, 500))
def test_phases_follow_one_another_on_whole_moments(seconds):
    phases = make_phases(seconds)
    assert phases[0].start == 0
    assert abs(phases[-1].end - seconds * NANOSECONDS) <= STEP_NS
    for phase, following in pairwise(phases):
        assert phase.start < phase.end == following.start
        assert phase.end % STEP_NS == 0


@given(seconds=st.floats(3, 500), moment=st.integers(0, 5000))
def test_player_drops_exactly_the_moments_of_the_phase(seconds, moment):
    phases = make_phases(seconds)
    phase = phase_at(phases, moment * STEP_NS)
    seconds = moment * STEP_NS / NANOSECONDS
    dropped = {p.dropped for p in phases if p.drop and parse_outage(p.drop).suppresses(f"/{p.dropped}/x", seconds)}
    assert dropped == ({phase.dropped} - {None} if phase else set())
    if phase:
        assert phase.dropped not in phase.sensors


def test_nothing_before_and_after():
    phases = make_phases(6)
    assert phase_at(phases, -1) is None
    assert phase_at(phases, phases[-1].end) is None


def test_too_short_is_said():
    with pytest.raises(ConfigError, match="six phases"):
        make_phases(2.9)
