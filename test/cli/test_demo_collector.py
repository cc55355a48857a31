# SPDX-License-Identifier: Apache-2.0
"""Phases and scores of the demo."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.bags.reader import parse_outage
from mlesam_ros.cli.demo.collector import STEP_NS, Score, latency_ms, make_phases, phase_at
from mlesam_ros.errors import ConfigError
from mlesam_ros.types import NANOSECONDS


def test_phases_of_forty_seconds():
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
def test_phases_are_contiguous_and_aligned_to_steps(seconds):
    phases = make_phases(seconds)
    assert phases[0].start == 0
    assert abs(phases[-1].end - seconds * NANOSECONDS) <= STEP_NS
    for phase, following in pairwise(phases):
        assert phase.start < phase.end == following.start
        assert phase.end % STEP_NS == 0


@given(seconds=st.floats(3, 500), moment=st.integers(0, 5000))
def test_player_drops_exactly_the_steps_of_the_phase(seconds, moment):
    phases = make_phases(seconds)
    phase = phase_at(phases, moment * STEP_NS)
    seconds = moment * STEP_NS / NANOSECONDS
    dropped = {p.dropped for p in phases if p.drop and parse_outage(p.drop).suppresses(f"/{p.dropped}/x", seconds)}
    assert dropped == ({phase.dropped} - {None} if phase else set())
    if phase:
        assert phase.dropped not in phase.sensors


def test_no_phase_before_the_first_and_after_the_last():
    phases = make_phases(6)
    assert phase_at(phases, -1) is None
    assert phase_at(phases, phases[-1].end) is None


def test_too_short_demo_is_refused():
    with pytest.raises(ConfigError, match="six phases"):
        make_phases(2.9)


START = 1_700_000_000_000_000_000
PHASES = make_phases(10)  # 2 s, 1.5 s, 1.5 s, twice
MS = 1_000_000


def image(*rows):
    return np.array(rows, np.uint8)


@pytest.fixture
def score():
    made = Score(PHASES, classes=3)
    made.begin(START)
    return made


def test_mask_is_compared_with_ground_truth_of_the_same_stamp(score):
    score.add_ground_truth(START, image([0, 0, 1, 1]))
    score.add_mask(START, START + 50 * MS, image([0, 1, 1, 1]))
    score.add_mask(START + STEP_NS, START + STEP_NS, image([2, 2, 2, 2]))  # its truth is late
    assert score.phases[0].miou == pytest.approx(100 * (1 / 2 + 2 / 3) / 2, abs=0.01)
    score.add_ground_truth(START + STEP_NS, image([2, 2, 2, 255]))
    assert score.phases[0].miou == pytest.approx(100 * (1 / 2 + 2 / 3 + 1) / 3, abs=0.01)
    assert score.miou == score.phases[0].miou
    assert score.phases[1].miou is None


def test_mask_counts_in_the_phase_of_its_stamp(score):
    # The third is a nanosecond early, which is still its moment.
    for stamp in (START, PHASES[1].start + START, PHASES[1].start + START - 1, PHASES[5].end + START - STEP_NS):
        score.add_mask(stamp, stamp + MS, image([0]))
    assert [len(entry.arrivals) for entry in score.phases] == [1, 2, 0, 0, 0, 1]
    score.add_mask(START + PHASES[5].end, START + PHASES[5].end, image([0]))
    score.add_mask(START - STEP_NS, START, image([0]))
    assert score.summary()["masks"] == 4


def test_gap_at_a_phase_change_belongs_to_the_later_phase(score):
    arrivals = [0.1, 0.2, 0.5, 1.9, 2.4, 2.5]  # s; the second phase begins at 2
    for time in arrivals:
        score.add_mask(START + round(time * NANOSECONDS), START + round(time * NANOSECONDS), image([0]))
    assert score.longest_gap(score.phases[0]) == pytest.approx(1.4)
    assert score.longest_gap(score.phases[1]) == pytest.approx(0.5)
    assert score.longest_gap(score.phases[2]) == pytest.approx(5.0 - 2.5)  # not one mask: to its very end
    assert score.longest_gap(score.phases[3]) == pytest.approx(7.0 - 2.5)


def test_summary_has_the_documented_keys(score):
    for index in range(100):
        stamp = START + index * STEP_NS
        score.add_ground_truth(stamp, image([0, 1]))
        if index % 2 == 0:
            score.add_mask(stamp, stamp + 80 * MS, image([0, 1]))
    result = score.summary()
    assert (result["sets_offered"], result["masks"], result["rate_hz"]) == (100, 50, 5.0)
    assert result["latency_ms"] == {"p50": 80.0, "p95": 80.0, "p99": 80.0}
    assert [phase["name"] for phase in result["phases"]] == [phase.name for phase in PHASES]
    first = result["phases"][1]
    assert (first["sensors"], first["miou"], first["longest_gap_s"]) == (["depth", "event", "lidar"], 100.0, 0.2)
    score.published = 101
    assert score.summary()["sets_offered"] == 101


def test_ground_truth_before_the_start_is_known_counts():
    made = Score(PHASES, classes=3)
    made.add_ground_truth(START - STEP_NS, image([0]))
    made.add_ground_truth(START, image([0]))
    made.begin(START)
    made.add_mask(START, START + MS, image([0]))
    assert (made.phases[0].offered, made.phases[0].miou) == (1, 100.0)


def test_empty_score_has_no_numbers():
    result = Score(PHASES, classes=3).summary()
    assert (result["masks"], result["rate_hz"], result["miou"]) == (0, 0.0, None)
    assert latency_ms([]) == {"p50": None, "p95": None, "p99": None}


def test_unpaired_images_are_discarded(score):
    for index in range(300):
        score.add_ground_truth(START + index, image([0]))
    assert len(score._ground_truths) < 50
