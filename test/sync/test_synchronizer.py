# SPDX-License-Identifier: Apache-2.0
"""What the synchronizer does in each situation that a robot meets."""

import itertools

import numpy as np
import pytest
from simulated_streams import MS, START, frame, play, sensors, skews

from mlesam_ros.errors import ConfigError
from mlesam_ros.sync import LATE, PENDING, REFUSED, SyncConfig, Synchronizer
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, PointCloud, SensorFrame

T = START


def primaries(sets):
    return [name for name, _ in itertools.groupby(t.primary for _, t in sets)]


def gap(sets):
    """Longest time without a set, ms."""
    return np.diff([now for now, _ in sets]).max() / MS


def test_healthy_streams_give_complete_sets():
    sync, sets = play(sensors())
    assert len(sets) == 100
    assert all(list(t.frames) == list(MODALITIES) for _, t in sets)
    assert all(t.primary == CAMERA and t.stamp == t.frames[CAMERA].stamp and t.skews[CAMERA] == 0 for _, t in sets)
    assert skews(sets).max() < 12
    for modality in (CAMERA, LIDAR, DEPTH):
        assert sync.counters[modality]["used"] == sync.counters[modality]["received"] == 100


def test_complete_set_is_emitted_immediately():
    sync = Synchronizer()
    for modality in (LIDAR, DEPTH, EVENT):
        assert sync.push(frame(modality, T), T + 10 * MS) == PENDING
        assert sync.take(T + 10 * MS) is None
    sync.push(frame(CAMERA, T), T + 20 * MS)
    assert set(sync.take(T + 20 * MS).frames) == set(MODALITIES)
    assert sync.take(T + 20 * MS) is None


def test_max_wait_ends_an_incomplete_set():
    sync = Synchronizer()
    sync.push(frame(CAMERA, T), T + 20 * MS)
    assert sync.next_deadline() == T + 70 * MS
    assert sync.take(T + 70 * MS - 1) is None
    assert list(sync.take(T + 70 * MS).frames) == [CAMERA]


def test_max_wait_may_differ_per_sensor():
    sync = Synchronizer(SyncConfig(modalities=(CAMERA, LIDAR, DEPTH), max_wait={LIDAR: 0.1, DEPTH: 0.01}))
    sync.push(frame(CAMERA, T), T)
    assert sync.next_deadline() == T + 100 * MS
    sync.push(frame(LIDAR, T), T + 5 * MS)
    assert sync.next_deadline() == T + 10 * MS


def test_nearest_event_window_is_chosen():
    _, sets = play(sensors(rates={CAMERA: 10, LIDAR: 10, DEPTH: 10, EVENT: 1000}, jitter=0.2))
    assert np.median([abs(t.skews[EVENT]) for _, t in sets[1:]]) <= 0.5 * MS
    assert max(abs(t.skews[EVENT]) for _, t in sets[1:]) <= 1.5 * MS


def test_expected_nearer_frame_is_awaited():
    # Depth at 30 Hz: a frame 33 ms old is within tolerance when the camera's comes, but the right one is under way.
    delays = {CAMERA: (5, 0), DEPTH: (15, 0)}
    _, sets = play(sensors(rates={CAMERA: 10, DEPTH: 30}, delays=delays, jitter=0), SyncConfig((CAMERA, DEPTH)))
    assert all(abs(t.skews[DEPTH]) < MS for _, t in sets[1:])
    assert max(now - t.stamp for now, t in sets[1:]) == 15 * MS


def test_slow_sensor_adds_no_latency_between_frames():
    delays = {CAMERA: (5, 0), LIDAR: (20, 0)}
    _, sets = play(sensors(rates={CAMERA: 30, LIDAR: 5}, delays=delays, jitter=0), SyncConfig((CAMERA, LIDAR)))
    alone = [now - t.stamp for now, t in sets[20:] if LIDAR not in t.frames]
    assert len(alone) > 100
    # The two frames on either side of a sweep wait until the next camera frame shows whose it is.
    assert np.median(alone) == 5 * MS


def test_sensor_later_than_its_period_is_awaited_within_max_wait():
    delays = {CAMERA: (5, 0), LIDAR: (130, 3)}
    _, sets = play(sensors(rates={CAMERA: 10, LIDAR: 10}, delays=delays), SyncConfig((CAMERA, LIDAR), max_wait=0.15))
    assert sum(LIDAR in t.frames for _, t in sets) >= 97
    assert skews(sets[3:]).max() < 12


def test_sensor_later_than_max_wait_is_not_awaited():
    delays = {CAMERA: (5, 0), LIDAR: (130, 3)}
    sync, sets = play(sensors(rates={CAMERA: 10, LIDAR: 10}, delays=delays), SyncConfig((CAMERA, LIDAR)))
    assert np.median([now - t.stamp for now, t in sets]) == 5 * MS
    assert sync.counters[LIDAR]["late"] > 50  # the counter that says what to change


@pytest.mark.parametrize("early", [-58, -52, -48, 0, 30])
def test_sensor_half_a_period_away_is_awaited(early):
    """A sweep with the stamp of its begin may lie in the middle between two pictures; the next is as near, and late."""
    delays = {CAMERA: (7, 0), LIDAR: (20, 1)}
    sent = sensors(rates={CAMERA: 10, LIDAR: 10}, delays=delays, jitter=0)
    moved = [(arrival, m, stamp + early * MS if m == LIDAR else stamp) for arrival, m, stamp in sent]
    _, sets = play(moved, SyncConfig((CAMERA, LIDAR)))
    assert sum(LIDAR in t.frames for _, t in sets) >= 98
    assert max(now - t.stamp for now, t in sets[3:]) < 25 * MS


def test_dead_lidar_is_not_awaited():
    _, sets = play(sensors(dead={LIDAR: (3, 99)}))
    assert len(sets) == 100
    after = [(now, t) for now, t in sets if t.stamp > T + 3500 * MS]
    assert all(set(t.frames) == {CAMERA, DEPTH, EVENT} for _, t in after)
    assert max(now - t.stamp for now, t in after) < 40 * MS  # nothing but the sensors' own delays
    assert gap(sets) < 200


def test_primary_fails_over_and_back():
    sync, sets = play(sensors(seconds=12, dead={CAMERA: (3, 8)}))
    assert primaries(sets) == [CAMERA, LIDAR, CAMERA]
    assert len(sets) >= 117
    assert gap(sets) < 450
    assert all(set(t.frames) == {LIDAR, DEPTH, EVENT} for _, t in sets if t.primary == LIDAR)
    assert sync.counters[CAMERA]["used"] == 70


def test_failover_selects_next_living_modality():
    order = (CAMERA, LIDAR, DEPTH, EVENT)
    _, sets = play(sensors(dead={CAMERA: (3, 99), LIDAR: (5, 99)}), SyncConfig(primary_order=order))
    assert primaries(sets) == [CAMERA, LIDAR, DEPTH]


def test_failover_does_not_go_back_in_time():
    sync = Synchronizer(SyncConfig(modalities=(CAMERA, LIDAR)))
    sync.push(frame(CAMERA, T), T)
    assert sync.take(T + 50 * MS).stamp == T
    assert sync.push(frame(LIDAR, T - 20 * MS), T + 60 * MS) == PENDING  # the next camera frame may still want it
    assert sync.take(T + 351 * MS) is None
    assert sync.primary == LIDAR
    sync.push(frame(LIDAR, T + 360 * MS), T + 370 * MS)
    assert sync.take(T + 500 * MS).stamp == T + 360 * MS


def test_start_without_camera():
    _, sets = play(sensors(rates={LIDAR: 10, DEPTH: 10}))
    assert primaries(sets) == [LIDAR]
    assert len(sets) >= 95


def test_slow_primary_is_not_dead():
    _, sets = play(sensors(seconds=20, rates={CAMERA: 2, LIDAR: 10}))
    assert primaries(sets[2:])[-1] == CAMERA
    assert {t.primary for _, t in sets[6:]} == {CAMERA}


def test_all_dead_and_alive_again():
    messages = [m for m in sensors(seconds=20) if not T + 5000 * MS < m[2] < T + 12000 * MS]
    sync, sets = play(messages)
    assert len(sets) >= 125
    assert sync.jumps == 0


def test_no_set_without_required_modality():
    sync, sets = play(sensors(dead={LIDAR: (3, 6)}), SyncConfig(required=(CAMERA, LIDAR)))
    assert all(LIDAR in t.frames and CAMERA in t.frames for _, t in sets)
    assert 65 <= len(sets) <= 70
    assert sync.counters[CAMERA]["unmatched"] == 100 - len(sets)


def test_slow_consumer_gets_newest_set():
    sync = Synchronizer(SyncConfig(modalities=(CAMERA, LIDAR)))
    for i in range(5):
        for modality in (LIDAR, CAMERA):
            sync.push(frame(modality, T + i * 100 * MS), T + i * 100 * MS + 10 * MS)
    taken = sync.take(T + 420 * MS)
    assert taken.stamp == T + 400 * MS
    assert sync.take(T + 420 * MS) is None
    assert sync.counters[CAMERA]["superseded"] == sync.counters[LIDAR]["superseded"] == 4


def test_expired_frames_are_counted():
    behind = Synchronizer(SyncConfig(modalities=(CAMERA, LIDAR)))
    for modality in (LIDAR, CAMERA):
        behind.push(frame(modality, T), T)
    assert behind.take(T + 1001 * MS) is None
    assert behind.counters[CAMERA]["superseded"] == behind.counters[LIDAR]["superseded"] == 1
    alone = Synchronizer(SyncConfig(modalities=(CAMERA, LIDAR), primary_order=(CAMERA,)))
    alone.push(frame(LIDAR, T), T)
    assert alone.take(T + 1001 * MS) is None
    assert alone.counters[LIDAR]["unmatched"] == 1


def test_ready_set_does_not_wait_for_open_set():
    sync = Synchronizer(SyncConfig(modalities=(CAMERA, LIDAR)))
    sync.push(frame(LIDAR, T), T + 5 * MS)
    sync.push(frame(CAMERA, T), T + 5 * MS)
    sync.push(frame(CAMERA, T + 100 * MS), T + 105 * MS)
    assert sync.take(T + 106 * MS).stamp == T
    assert sync.take(T + 155 * MS).stamp == T + 100 * MS


def test_partner_is_kept_for_nearest_set():
    sync = Synchronizer(SyncConfig(modalities=(CAMERA, LIDAR, DEPTH), max_wait={LIDAR: 0.03, DEPTH: 0.2}))
    sync.push(frame(CAMERA, T), T)
    sync.push(frame(CAMERA, T + 50 * MS), T + 50 * MS)
    sync.push(frame(LIDAR, T + 45 * MS), T + 60 * MS)
    sync.push(frame(DEPTH, T), T + 61 * MS)
    first = sync.take(T + 62 * MS)
    assert (first.stamp, set(first.frames)) == (T, {CAMERA, DEPTH})
    second = sync.take(T + 250 * MS)
    assert (second.stamp, set(second.frames)) == (T + 50 * MS, {CAMERA, LIDAR})


def test_offsets_are_subtracted():
    shifted = [(a, m, s + 40 * MS) if m == LIDAR else (a, m, s) for a, m, s in sensors()]
    _, sets = play(shifted, SyncConfig(offset={LIDAR: 0.04}))
    assert all(abs(t.skews[LIDAR]) < 12 * MS for _, t in sets if LIDAR in t.frames)
    assert sum(LIDAR in t.frames for _, t in sets) == 100
    assert sets[5][1].frames[LIDAR].stamp - sets[5][1].stamp > 28 * MS


@pytest.mark.parametrize("offset", [0.8, 5.0, -3.0, -8.0, 18.0, 37.0, -3600.0, 3600.0, -1.69e9])
@pytest.mark.parametrize("by", ["the frame", "the configuration"])
def test_offset_is_subtracted_before_stamp_check(offset, by):
    """Kind: a correction that one consumer of time applies and another does not; here admission, ages and failover."""
    late = round(offset * 1000) * MS
    config = SyncConfig((CAMERA, LIDAR), offset={LIDAR: offset} if by == "the configuration" else None)
    sync = Synchronizer(config)
    for i in range(40):
        now = T + i * 100 * MS
        if not 10 <= i < 20:  # the camera is silent for a second, and the LiDAR opens the sets
            sync.push(frame(CAMERA, now), now + 1 * MS)
        sync.push(frame(LIDAR, now + late, late if by == "the frame" else 0), now + 2 * MS)
        taken = sync.take(now + 52 * MS)
        if taken is not None and i >= 3:
            assert taken.time == now and taken.skews[LIDAR] == 0 and taken.frames[LIDAR].time == now
            assert taken.frames[LIDAR].stamp == now + late  # as the driver has it
            assert taken.stamp == (now if taken.primary == CAMERA else now + late)
    assert sync.refusals[LIDAR] == {} and sync.primary == CAMERA
    assert sync.counters[LIDAR]["used"] >= 32
    assert sync.counters[CAMERA]["used"] >= 24  # it is primary again at once, whatever the stamps of the sets between


@pytest.mark.parametrize(("max_wait", "delay"), [(0.9, 800), (1.5, 1300), (3.0, 2500), (6.0, 5500), (10.0, 9000)])
@pytest.mark.parametrize("required", [(), (LIDAR,)])
def test_any_max_wait_gives_sets(max_wait, delay, required):
    """Kind: two limits that must agree; max_wait against the history, the time-out, the age and the capacity."""
    config = SyncConfig((CAMERA, LIDAR), max_wait=max_wait, required=required)
    rates, delays = {CAMERA: 10, LIDAR: 10}, {CAMERA: (20, 3), LIDAR: (delay, 4)}
    sync, sets = play(sensors(30, rates=rates, delays=delays), config)
    assert sum(LIDAR in t.frames for _, t in sets) >= 300 - (2 * delay + 1000) // 100
    assert sync.refusals == {CAMERA: {}, LIDAR: {}}


@pytest.mark.parametrize("tolerance", [2.0, 8.0])
def test_partner_within_wide_tolerance_is_kept(tolerance):
    """Kind: two limits that must agree; tolerance against the history and the age."""
    behind = round(0.9 * tolerance * 1000)
    messages = [(a, m, s - behind * MS if m == LIDAR else s) for a, m, s in sensors(20, rates={CAMERA: 10, LIDAR: 10})]
    _, sets = play(messages, SyncConfig((CAMERA, LIDAR), tolerance={LIDAR: tolerance}))
    assert sum(LIDAR in t.frames for _, t in sets) >= 190


@pytest.mark.parametrize("limit", ["history", "max_age"])
def test_limits_below_longest_wait_are_raised(limit):
    _, sets = play(sensors(rates={CAMERA: 10, LIDAR: 10}), SyncConfig((CAMERA, LIDAR), **{limit: 0.0}))
    assert sum(LIDAR in t.frames for _, t in sets) == 100


def test_frames_outside_tolerance_are_unmatched():
    far = [(a, m, s - 80 * MS) if m == LIDAR else (a, m, s) for a, m, s in sensors()]
    sync, sets = play(far, SyncConfig(tolerance={LIDAR: 0.015}))
    assert len(sets) == 100
    assert sync.counters[LIDAR]["used"] == 0
    assert sync.counters[LIDAR]["unmatched"] + sync.counters[LIDAR]["late"] == 100


@pytest.mark.parametrize("back", ["clock and stamps", "only the camera's stamps"])
def test_looped_bag_gives_all_sets(back):
    once = sensors(seconds=4)
    if back == "clock and stamps":
        sync, sets = play(once * 3)
        assert len(sets) == 120
        assert sync.jumps == 2
    else:
        # A recording shorter than max_age, looped under a clock that goes on.
        loops = [(a + i * 4000 * MS, m, s) for i in range(2) for a, m, s in sensors(seconds=4)]
        sync, sets = play(loops, SyncConfig(max_age=10.0))
        assert len(sets) >= 78
        assert sync.jumps == 1


def test_dead_modalities_stay_dead_after_clock_jump():
    once = sensors(seconds=4, dead={CAMERA: (1, 99)})
    again = sensors(seconds=4, dead={CAMERA: (0, 99)})
    _, sets = play(once + again)
    second = [(now, t) for now, t in sets[-39:] if t.primary == LIDAR]
    assert len(second) == 39
    assert second[0][0] - START < 250 * MS


def test_a_forward_jump_does_not_stall():
    hour = 3600 * 1000 * MS
    once = sensors(seconds=4)
    sync, sets = play(once + [(a + hour, m, s + hour) for a, m, s in once])
    assert len(sets) >= 79
    assert sync.jumps == 0
    assert sets[-1][1].stamp > START + hour


@pytest.mark.parametrize(
    ("stamp", "reason"),
    [
        (0, "stamp is zero"),
        (T + 3200 * MS, "stamp 3 s in the future: a clock that is not synchronized with the host's. Synchronize"),
        (T - 54_000 * MS, "stamp 50 s old: a clock that is not synchronized"),
        (7_139_840_000, "stamp 2e+09 s old: time since the start of the sensor or of a simulation. Set use_sim_time"),
    ],
)
def test_invalid_stamps_are_refused_with_reason(stamp, reason):
    sync = Synchronizer()
    assert sync.push(frame(LIDAR, stamp), T) == REFUSED
    (told,) = sync.refusals[LIDAR]
    assert told.startswith(reason) and sync.refusals[LIDAR] == {told: 1}
    assert sync.counters[LIDAR]["refused"] == 1
    assert not sync.alive(LIDAR, T)


def test_zero_clock_is_refused():
    sync = Synchronizer()
    assert sync.push(frame(LIDAR, T), 0) == REFUSED
    assert sync.refusals[LIDAR] == {"the clock is zero: is /clock published?": 1}


def test_number_of_reasons_is_bounded():
    sync, rng = Synchronizer(), np.random.default_rng(0)
    for age in 10 ** rng.uniform(0.8, 9, 3000):
        sync.push(frame(LIDAR, T - int(age * 1000 * MS)), T)
    assert len(sync.refusals[LIDAR]) < 90


def test_sensor_with_invalid_stamps_is_dead():
    messages = [(a, m, 0 if m == CAMERA else s) for a, m, s in sensors()]
    sync, sets = play(messages)
    assert primaries(sets) == [LIDAR]
    assert sync.refusals[CAMERA] == {"stamp is zero": 100}


def test_duplicate_and_late_frames():
    sync = Synchronizer(SyncConfig(modalities=(CAMERA, LIDAR)))
    sync.push(frame(LIDAR, T), T + 1 * MS)
    assert sync.push(frame(LIDAR, T), T + 2 * MS) == REFUSED
    assert sync.refusals[LIDAR] == {"duplicate stamp": 1}
    sync.push(frame(CAMERA, T), T + 3 * MS)
    assert sync.take(T + 3 * MS) is not None
    assert sync.push(frame(CAMERA, T), T + 4 * MS) == REFUSED
    assert sync.refusals[CAMERA] == {"duplicate stamp": 1}
    assert sync.push(frame(CAMERA, T - 20 * MS), T + 4 * MS) == LATE
    assert sync.push(frame(LIDAR, T - 1 * MS), T + 4 * MS) == LATE
    assert sync.counters[LIDAR]["late"] == 1


@pytest.mark.parametrize("frozen", [CAMERA, LIDAR])
def test_repeated_stamp_counts_as_silence(frozen):
    since, until = T + 3000 * MS, T + 7000 * MS
    messages = [(a, m, since if m == frozen and since < s < until else s) for a, m, s in sensors()]
    sync, sets = play(messages)
    assert primaries(sets) == ([CAMERA, LIDAR, CAMERA] if frozen == CAMERA else [CAMERA])
    assert gap(sets) < 450
    without = [t for now, t in sets if since + 500 * MS < now < until]
    assert len(without) >= 34 and all(set(t.frames) == {*MODALITIES} - {frozen} for t in without)
    assert sync.refusals[frozen]["duplicate stamp"] >= 38


@pytest.mark.parametrize(("delay", "order"), [(250, [CAMERA, LIDAR, CAMERA]), (1500, [CAMERA, LIDAR])])
def test_late_primary_returns_only_if_it_can_catch_up(delay, order):
    """It is silent for two seconds, and from then on late."""
    messages = [
        (a + (delay * MS if m == CAMERA and s > T + 4500 * MS else 0), m, s)
        for a, m, s in sensors(dead={CAMERA: (3, 5)})
    ]
    sync, sets = play(sorted(m for m in messages if m[0] < T + 10_000 * MS))
    assert primaries(sets) == order
    assert gap(sets) < 500
    assert sync.counters[CAMERA]["late"] >= (1 if order[-1] == CAMERA else 30)


def test_sudden_delay_leaves_no_gap_longer_than_time_out():
    since = T + 3000 * MS
    messages = [(a + (1500 * MS if m == CAMERA and s > since else 0), m, s) for a, m, s in sensors()]
    _, sets = play(sorted(m for m in messages if m[0] < T + 10_000 * MS))
    assert primaries(sets) == [CAMERA, LIDAR] and gap(sets) < 450


def test_corrected_clock_is_adopted_immediately():
    """Its stamps were two seconds behind, so nobody waited for it any more."""
    since, until = T + 3000 * MS, T + 6000 * MS
    messages = [(a, m, s - 2000 * MS if m == LIDAR and since < s < until else s) for a, m, s in sensors()]
    _, sets = play(messages)
    assert all(LIDAR not in t.frames for now, t in sets if since + 200 * MS < now < until)
    assert all(LIDAR in t.frames for _, t in sets if t.stamp > until + 150 * MS)


def test_frames_out_of_order():
    messages = sensors()
    depth = [i for i, m in enumerate(messages) if m[1] == DEPTH][20:22]
    (a, m, s), (b, _, t) = (messages[i] for i in depth)
    messages[depth[0]], messages[depth[1]] = (a, m, t - 60 * MS), (b, m, s)
    sync, sets = play(messages)
    assert len(sets) == 100
    assert sum(sync.counters[DEPTH][fate] for fate in ("used", "superseded", "late", "unmatched")) == 100


def test_faulty_sensor_does_not_affect_others():
    # Every second stamp of the LiDAR is two seconds old.
    lidar = itertools.count()
    messages = [(a, m, s - 2000 * MS * (next(lidar) % 2) if m == LIDAR else s) for a, m, s in sensors()]
    sync, sets = play(messages)
    assert len(sets) == 100
    assert sync.jumps == 0
    assert all({CAMERA, DEPTH} <= set(t.frames) for _, t in sets)


def test_alive_depends_on_silence():
    sync, _ = play(sensors(seconds=2, dead={LIDAR: (1, 99)}), flush=False)
    end = T + 2000 * MS
    assert sync.alive(CAMERA, end)
    assert not sync.alive(LIDAR, end)
    assert not sync.alive(CAMERA, end + 500 * MS)


def test_no_deadline_without_open_sets():
    assert Synchronizer().next_deadline() is None
    sync, _ = play(sensors(seconds=2))
    sync.take(T + 60_000 * MS)
    assert sync.next_deadline() is None


def test_custom_modality():
    config = SyncConfig(modalities=(CAMERA, "nir"), primary_order=(CAMERA, "nir"))
    messages = [(a, "nir" if m == LIDAR else m, s) for a, m, s in sensors(rates={CAMERA: 10, LIDAR: 10})]
    _, sets = play(messages, config)
    assert len(sets) == 100
    assert all(list(t.frames) == [CAMERA, "nir"] for _, t in sets)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"modalities": ()}, "Name at least one"),
        ({"modalities": (CAMERA, CAMERA)}, "each once"),
        ({"modalities": (DEPTH,), "primary_order": (CAMERA,)}, "contains none of the modalities"),
        ({"primary_order": ("cemara",)}, "primary_order contains 'cemara'; the modalities are camera, depth"),
        ({"required": ("radar",)}, "required contains 'radar'"),
        ({"tolerance": {"lidra": 0.1}}, "tolerance contains 'lidra'"),
        ({"tolerance": -0.1}, "tolerance is -0.1; a time in seconds must be a finite number and not negative"),
        ({"max_wait": {LIDAR: float("nan")}}, "max_wait is nan"),
        ({"offset": float("inf")}, "offset is inf; a time in seconds must be a finite number"),
        ({"history": "long"}, "history is 'long'"),
        ({"capacity": 0}, "capacity is 0; it must be at least 1"),
    ],
)
def test_invalid_configuration_is_rejected(fields, says):
    with pytest.raises(ConfigError, match=says):
        SyncConfig(**fields)


def test_unknown_modality_raises():
    with pytest.raises(ConfigError, match="'radar' is not synchronized; the modalities are camera, lidar"):
        Synchronizer(SyncConfig(modalities=(CAMERA, LIDAR))).push(frame("radar", T), T)


def test_frames_with_equal_stamps_are_distinguished():
    """Kind: identity taken for equality. Pieces of a sweep share a stamp, and arrays have no truth value."""
    sync = Synchronizer(SyncConfig((CAMERA, LIDAR), primary_order=(LIDAR, CAMERA), required=(CAMERA,)))
    for number in range(3):
        cloud = PointCloud(np.zeros(5, [("x", "f4"), ("y", "f4"), ("z", "f4")]))
        piece = SensorFrame(LIDAR, T, "lidar", cloud, lag=-number)
        assert sync.push(piece, T + number * MS) == PENDING
    assert sync.take(T + 900 * MS) is None
    assert sync.counters[LIDAR]["unmatched"] == 3 and sync.waiting[LIDAR] == 0
