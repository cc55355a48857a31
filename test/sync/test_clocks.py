# SPDX-License-Identifier: Apache-2.0
"""A foreign clock has one criterion and one name, live and in recordings.

Kind: criteria that are written twice. The distances are those of IERS Bulletin C and of the GPS epoch, counted by hand.
"""

import re

import pytest
from simulated_streams import MS, START, frame

from mlesam_ros.sync import CLOCK_SAMPLES, ReplayClock, SyncConfig, Synchronizer, foreign_clock, judge_clocks
from mlesam_ros.types import CAMERA, DEPTH, LIDAR, NANOSECONDS

NOW = START / NANOSECONDS
CONFIG = SyncConfig((CAMERA, DEPTH, LIDAR))


@pytest.mark.parametrize(
    ("ahead", "cause", "offset"),
    [
        (37.0, "TAI", 37.0),
        (18.0, "GPS time", 18.0),
        (-37.0, "host's clock is TAI", -37.0),
        (-18.0, "host's clock is GPS time", -18.0),
        (-315_964_782.0, "since 1980", -315_964_782.0),
        (7200.0, "time zone", 7200.0),
        (-3600.0, "time zone", -3600.0),
        (20_700.0, "time zone", 20_700.0),  # Nepal, +05:45
        (81.0 - NOW, "since the start", None),
        (25.0, "not synchronized", None),
        (-86_400.0, "not synchronized", None),
    ],
)
@pytest.mark.parametrize("delay", [0.0, 0.08, 0.9])
@pytest.mark.parametrize("known", [0.0, 0.3])
def test_clock_is_identified_and_remedy_works(ahead, cause, offset, delay, known):
    clock = foreign_clock(ahead - delay, NOW + ahead - delay, CONFIG)
    assert cause in clock.cause and clock.offset == offset
    remedy = clock.remedy(LIDAR, known)
    assert ("lidar.offset" in remedy) == (offset is not None)

    # Live: the refusal has the same name and remedy, and with the remedy's offset the same stamp is used.
    stamp, arrival = START + round((ahead + known) * NANOSECONDS), START + round(delay * NANOSECONDS)
    sync = Synchronizer(SyncConfig((LIDAR,), primary_order=(LIDAR,), offset={LIDAR: known}))
    assert sync.push(frame(LIDAR, stamp), arrival) == "refused"
    (reason,) = sync.refusals[LIDAR]
    assert clock.cause in reason.message and reason.remedy == remedy
    if offset is not None:
        told = float(re.search(r"-p lidar.offset:=(\S+)\)", remedy)[1])
        sync = Synchronizer(SyncConfig((LIDAR,), primary_order=(LIDAR,), offset={LIDAR: told}))
        assert sync.push(frame(LIDAR, stamp), arrival) == "pending"


@pytest.mark.parametrize("ahead", [0.0, -0.3, 0.49, -4.9])
def test_accepted_stamps_are_not_a_foreign_clock(ahead):
    assert foreign_clock(ahead, NOW, CONFIG) is None
    assert Synchronizer(CONFIG).push(frame(LIDAR, START + round(ahead * 1000) * MS), START) == "pending"


def test_remedy_resets_wrong_offset():
    clock = foreign_clock(-37.02, NOW - 37.02, CONFIG)
    assert "lidar.offset to 0.0" in clock.remedy(LIDAR, known=37.0)


def test_simulated_time_and_the_wall_clock():
    assert "use_sim_time" in foreign_clock(12.0 - NOW, 12.0, CONFIG).remedy(LIDAR)
    assert "Unset use_sim_time" in foreign_clock(NOW - 12.0, NOW, CONFIG).remedy(LIDAR)


@pytest.mark.parametrize(
    ("ahead", "leaders", "foreign"),
    [
        ({CAMERA: -0.01, LIDAR: 36.9}, (), (LIDAR,)),
        ({CAMERA: 37.0, LIDAR: -0.01}, (), (CAMERA,)),
        ({CAMERA: -1e6, LIDAR: -1e6, DEPTH: -1e6 + 0.1}, (CAMERA, LIDAR, DEPTH), ()),
        ({CAMERA: -1e6, LIDAR: -1e6 + 37, DEPTH: -1e6}, (CAMERA, DEPTH), (LIDAR,)),
        ({CAMERA: -1e6, LIDAR: -1e6 + 37}, (CAMERA,), (LIDAR,)),  # of two the first of the primary_order
        ({CAMERA: -1e6 + 37, LIDAR: -1e6, DEPTH: -1e6}, (LIDAR, DEPTH), (CAMERA,)),
        ({LIDAR: -1e9}, (LIDAR,), ()),
        ({}, (), ()),
    ],
)
def test_sensors_of_recording_are_judged_separately(ahead, leaders, foreign):
    pairs = {m: [(START + round(value * NANOSECONDS), START)] for m, value in ahead.items()}
    clocks = judge_clocks(pairs, dict.fromkeys(pairs, 0), CONFIG)
    assert clocks.leaders == frozenset(leaders) and set(clocks.foreign) == set(foreign)
    if LIDAR in foreign:
        assert "TAI" in clocks.foreign[LIDAR].cause


def test_replay_clock_is_positive_and_monotone():
    """Kind: criteria that are written twice. The camera, 100 s behind, leads; the LiDAR's messages come before its."""
    second = NANOSECONDS
    pairs = {CAMERA: [(START - 100 * second, START + MS)], LIDAR: [(START - 50 * second, START)]}
    clock = ReplayClock(judge_clocks(pairs, {CAMERA: MS, LIDAR: 0}, CONFIG))
    lead = -100 * second - 2 * MS  # by hand: its stamp less the offset of 1 ms, recorded 1 ms later
    assert clock.advance(START, LIDAR, START - 50 * second) == START + lead
    assert clock.advance(START + MS) == START + lead
    assert clock.advance(START + MS, CAMERA, START - 100 * second - MS) == START - 100 * second - MS
    assert clock.advance(START + 9 * MS, CAMERA, START - 101 * second) == START - 100 * second - MS
    plain = ReplayClock(judge_clocks({CAMERA: [(START, START)]}, {CAMERA: 0}, CONFIG))
    assert [plain.advance(at, CAMERA, 5) for at in (START, START - 1)] == [START, START - 1]


def test_clock_is_judged_by_first_stamped_messages():
    rows = [(0, START), *((START + 37 * NANOSECONDS, START),) * (CLOCK_SAMPLES - 1), *((START, START),) * 1000]
    assert "TAI" in judge_clocks({LIDAR: rows, CAMERA: rows[-1:]}, {LIDAR: 0, CAMERA: 0}, CONFIG).foreign[LIDAR].cause
