# SPDX-License-Identifier: Apache-2.0
"""The offset between two clocks: through delays of any kind, drift, wraps, and clocks that are set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.preprocessing.event_stream import MAX_DEVIATION_NS, MAX_DRIFT, SensorClock

S, MS = 10**9, 10**6
START = 1_700_000_000 * S


def errors(times, delays, drift, clock=None):
    """Host time minus true time of each packet's event; the sensor's clock starts at 5 s."""
    clock = clock or SensorClock()
    found = []
    for time, delay in zip(times, delays, strict=True):
        sensor = 5 * S + round(time * (1 + drift))
        found.append(sensor + clock.offset(START + time + delay, sensor) - START - time)
    return np.array(found)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200 * MS), st.integers(0, 5 * MS)), min_size=1, max_size=100),
    st.floats(-100e-6, 100e-6),
)
def test_host_times_are_bounded_by_delay(packets, drift):
    gaps, delays = (np.array(column) for column in zip(*packets, strict=True))
    found = errors(np.cumsum(gaps), delays, drift)
    assert found.min() >= -MAX_DRIFT * 5 * MS - 1
    assert (found <= np.maximum.accumulate(delays) + 1).all()


@pytest.mark.parametrize("drift", [-100e-6, 0.0, 100e-6])
def test_jitter_is_reduced(drift):
    """Once the first second is over no packet's own delay shows."""
    times = np.arange(0, 80 * S, 4 * MS)
    found = errors(times, np.random.default_rng(0).integers(0, 5 * MS, len(times)), drift)[250:]
    assert found.min() > -1000
    assert found.max() < 0.4 * MS
    assert np.median(found) < 0.15 * MS


def test_host_clock_step_is_followed():
    clock = SensorClock()
    times = np.arange(0, S, 10 * MS)
    errors(times, np.zeros_like(times), 0.0, clock)
    for step in (50 * MS, -50 * MS, 3600 * S):
        assert abs(errors(times + 2 * S, np.full_like(times, step), 0.0, clock)[0] - step) < MS
    assert clock.jumps == 3


def test_late_packets_do_not_affect_later_ones():
    delays = np.zeros(300, int)
    delays[100], delays[200] = MAX_DEVIATION_NS // 2, 30 * MAX_DEVIATION_NS
    clock = SensorClock()
    found = errors(np.arange(300) * 10 * MS, delays, 0.0, clock)
    assert found[100] < 0.01 * MS
    assert found[200] == 30 * MAX_DEVIATION_NS
    assert np.delete(found, 200).max() < 0.01 * MS
    assert clock.jumps == 2


def test_missed_wrap_is_corrected():
    wrap = (1 << 24) * 1000
    clock = SensorClock(wrap)
    for packet in range(4000):
        time = packet * 10 * MS
        sensor = time % wrap
        assert sensor + clock.offset(START + time, sensor) == START + time
    assert clock.jumps == 0


def test_reset_adopts_next_stamp():
    clock = SensorClock()
    clock.offset(START, 0)
    clock.reset()
    assert clock.offset(START + 7 * MS, 0) == START + 7 * MS
