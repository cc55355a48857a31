# SPDX-License-Identifier: Apache-2.0
"""The window of events on the host's clock: through jitter, loss, restarts, loops and garbage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import MlesamError, PacketError
from mlesam_ros.preprocessing.event_codecs import EventArray
from mlesam_ros.preprocessing.event_stream import EventWindower
from mlesam_ros.preprocessing.evt3 import Evt3Decoder, encode_evt3

SIZE = (480, 640)
START = 1_700_000_000_000_000_000
MS = 1_000_000


def ramp(first_ms, count=10, sensor_zero_ms=5000):
    """One packet with an event per millisecond of the sensor's clock, columns telling which."""
    ms = np.arange(first_ms, first_ms + count)
    return encode_evt3(ms % 640, ms % 480, (sensor_zero_ms + ms) * 1000, ms % 2)


def test_window_ends_with_newest_event():
    stream = EventWindower()
    for seq in range(8):
        events = stream.push(ramp(10 * seq), "evt3", SIZE, START + 10 * seq * MS, seq)
    assert (events.width, events.height) == (640, 480)
    assert events.end == START + 79 * MS
    assert events.start == START + 49 * MS
    assert events.t.tolist() == [START + ms * MS for ms in range(49, 80)]
    assert events.x.tolist() == list(range(49, 80))
    assert events.polarity.tolist() == [bool(ms % 2) for ms in range(49, 80)]
    assert stream.counters["packets"] == 8


def test_packet_longer_than_window_is_cut():
    events = EventWindower().push(ramp(0, 100), "evt3", SIZE, START, 0)
    assert events.x.tolist() == list(range(69, 100))


def test_clock_offset_is_estimated_per_packet():
    stream = EventWindower()
    stream.push(ramp(0), "evt3", SIZE, START, 0)
    drifted = stream.push(ramp(10, sensor_zero_ms=9000), "evt3", SIZE, START + 10 * MS, 1)
    assert np.diff(drifted.t).tolist() == [MS] * 19


def test_stamp_jitter_keeps_times_ordered():
    stream = EventWindower()
    stream.push(ramp(0), "evt3", SIZE, START, 0)
    events = stream.push(ramp(10), "evt3", SIZE, START + 7 * MS, 1)
    assert len(events.t) == 20
    assert np.diff(events.t).min() >= 0


def test_returned_windows_are_never_overwritten():
    stream = EventWindower(window=0.2)
    handed = []
    for seq in range(300):
        events = stream.push(ramp(10 * seq, 10), "evt3", SIZE, START + 10 * seq * MS, seq)
        handed.append((events, events.x.copy(), events.t.copy()))
    for events, x, t in handed:
        np.testing.assert_array_equal(events.x, x)
        np.testing.assert_array_equal(events.t, t)


def test_quiet_scene_gives_empty_window():
    stream = EventWindower()
    stream.push(ramp(0), "evt3", SIZE, START, 0)
    quiet = np.array([0x8000, 0x6000, 0x8001], "<u2").view(np.uint8)
    events = stream.push(quiet, "evt3", SIZE, START + 100 * MS, 1)
    assert len(events.t) == 0
    assert (events.start, events.end) == (START + 70 * MS, START + 100 * MS)


def test_lost_packets_are_counted_and_reset_decoder():
    stream = EventWindower()
    stream.push(np.array([0x8000, 0x6000, 0x0005, 0x2001], "<u2").view(np.uint8), "evt3", SIZE, START, 7)
    events = stream.push(np.array([0x2002, 0x8000, 0x6001, 0x2003], "<u2").view(np.uint8), "evt3", SIZE, START, 10)
    assert stream.counters["lost"] == 2
    assert events.x.tolist() == [1]
    assert stream.counters["untimed"] == 1


def test_constant_sequence_number_is_not_a_loss():
    stream = EventWindower()
    for n in range(3):
        stream.push(ramp(10 * n), "evt3", SIZE, START + 10 * n * MS, 0)
    assert stream.counters["lost"] == 0


def test_looped_bag_resets_window():
    stream = EventWindower()
    stream.push(ramp(0), "evt3", SIZE, START + 1000 * MS, 100)
    events = stream.push(ramp(0), "evt3", SIZE, START, 1)
    assert events.t[0] == START
    assert len(events.t) == 10
    assert stream.counters["resets"] == 1


def test_other_sensor_size_resets_window():
    stream = EventWindower()
    stream.push(ramp(0), "evt3", SIZE, START, 0)
    events = stream.push(ramp(0), "evt3", (720, 1280), START, 1)
    assert (events.width, len(events.t)) == (1280, 10)


def test_mono_packets_of_both_byte_orders():
    x, y, dt, p = np.array([3, 700, 5]), np.array([4, 5, 479]), np.array([10, 20, 2_000_000]), np.array([1, 0, 0])
    words = (p.astype(np.uint64) << 63) | (y.astype(np.uint64) << 48) | (x.astype(np.uint64) << 32) | dt.astype("u8")
    for order in "<>":
        data = words.astype(f"{order}u8").view(np.uint8)
        events = EventWindower().push(data, "mono", SIZE, START, 0, is_bigendian=order == ">")
        assert events.x.tolist() == [3, 5]
        assert events.y.tolist() == [4, 479]
        assert events.t.tolist() == [START, START + 1_999_990]
        assert events.polarity.tolist() == [True, False]


def test_newest_events_are_kept_at_capacity(monkeypatch):
    monkeypatch.setattr("mlesam_ros.preprocessing.event_stream._MAX_EVENTS", 15)
    stream = EventWindower()
    stream.push(ramp(0), "evt3", SIZE, START, 0)
    events = stream.push(ramp(10), "evt3", SIZE, START + 10 * MS, 1)
    assert events.x.tolist() == list(range(5, 20))
    events = stream.push(ramp(20, 20), "evt3", SIZE, START + 20 * MS, 2)
    assert events.x.tolist() == list(range(25, 40))
    assert stream.counters["overflow"] == 5 + 16  # 5 to 8 ms had left the window by themselves


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "evt2"}, "'evt2' is not decoded; accepted are evt3, libcaer_cmp, libcaer, mono"),
        ({"encoding": "libcaer", "time_base": 1 << 63}, "time_base is 9223372036854775808 ns"),
        ({"encoding": "libcaer"}, "libcaer packet has 4 bytes"),
        ({"encoding": "mono"}, "whole number of 64-bit events"),
        ({"size": (0, 640)}, "640x0 pixels"),
        ({"data": np.zeros(3, np.uint8)}, "3 bytes"),
    ],
)
def test_undecodable_packet_is_rejected(change, message):
    packet = {"data": np.zeros(4, np.uint8), "encoding": "evt3", "size": SIZE, "stamp": START, "seq": 0}
    with pytest.raises(PacketError, match=message):
        EventWindower().push(**(packet | change))


def test_packet_spanning_minutes_is_rejected():
    stream = EventWindower()
    stream.push(ramp(0), "evt3", SIZE, START, 0)
    wild = np.array([0x8000, 0x6000, 0x0001, 0x2001, 0x8AAA, 0x8AAA, 0x2001, 0x8555, 0x8555, 0x2001], "<u2").view(
        np.uint8
    )
    with pytest.raises(PacketError, match="spans"):
        stream.push(wild, "evt3", SIZE, START + 10 * MS, 1)
    assert len(stream.push(ramp(20), "evt3", SIZE, START + 20 * MS, 2).t) == 20


def test_invalid_window_is_rejected():
    with pytest.raises(PacketError, match=r"window is 0\.0 s"):
        EventWindower(0.0)


PUSH = st.fixed_dictionaries(
    {
        "data": st.binary(max_size=64).map(lambda b: np.frombuffer(b, np.uint8)),
        "encoding": st.sampled_from(["evt3", "evt3", "evt3", "mono", "libcaer", "libcaer_cmp", "libcaer_cmp", ""]),
        "size": st.sampled_from([SIZE, SIZE, (0, 0), (2048, 2048)]),
        "stamp": st.integers(0, 50).map(lambda ms: START + ms * MS) | st.integers(-(2**31) * 10**9, 2**31 * 10**9),
        "seq": st.integers(0, 5) | st.integers(0, 2**64 - 1),
        "is_bigendian": st.booleans(),
        "time_base": st.integers(0, 10**10) | st.integers(0, 2**64 - 1),
    }
)


@settings(deadline=None)
@given(st.lists(PUSH, max_size=8))
def test_any_bytes_give_ordered_window_or_error(packets):
    stream = EventWindower()
    for packet in packets:
        try:
            events = stream.push(**packet)
        except MlesamError:
            continue
        assert events.end - events.start == 30 * MS
        assert len(events.x) == len(events.y) == len(events.t) == len(events.polarity)
        if len(events.t):
            assert events.start <= events.t[0]
            assert events.t[-1] <= events.end
            assert np.diff(events.t).min(initial=0) >= 0
            assert events.x.max() < events.width
            assert events.y.max() < events.height


def stamp_of(packet):
    return packet.header.stamp.sec * 10**9 + packet.header.stamp.nanosec


def streamed(packets):
    """The windows of all packets in one, and the stream."""
    stream = EventWindower(window=10)
    for p in packets:
        events = stream.push(
            p.events, p.encoding, (p.height, p.width), stamp_of(p), p.seq, p.is_bigendian, int(p.time_base)
        )
    assert stream.counters["lost"] == stream.counters["resets"] == stream.counters["clock_jumps"] == 0
    return events, stream


def test_recorded_packets_are_streamed(event_packets):
    """The host times of the recording span what its stamps span, and the packets are complete."""
    packets = event_packets("test_events_1")
    events, _ = streamed(packets)
    assert len(events.t) == 218_291 + 125_183
    assert events.t[0] == stamp_of(packets[0])
    assert (events.t[-1] - events.t[0]) * 1e-9 == pytest.approx(2.08, abs=0.01)


def test_recorded_jitter_keeps_event_intervals(event_packets):
    """Its driver stamps pairs of packets with one arrival, 4 ms after the first of them began.

    Once the clocks are known the sensor's own intervals come through, to what clocks may part in the meantime.
    """
    packets = event_packets("test_events_1")
    events, _ = streamed(packets)
    decoder = Evt3Decoder(640, 480)
    times = [decoder.decode(p.events)[2] * 1000 for p in packets]
    stamps_alone = [stamp_of(p) - t[0] for p, t in zip(packets, times, strict=True)]
    assert np.ptp(stamps_alone) > 4 * MS
    sensor = np.concatenate(times)
    offsets = (events.t - sensor)[np.searchsorted(sensor, sensor[0] + 500 * MS) :]
    assert np.ptp(offsets) < 0.5 * MS


def test_libcaer_recording_is_streamed(event_packets):
    """libcaer's times are the host's as the driver found it at its start; they reach the host 1 to 3 ms later."""
    packets = event_packets("test_events_2/test_events_2_0.mcap")
    events, stream = streamed(packets)
    assert len(events.t) == 360_223 + 211_043
    assert np.diff(events.t).min() >= 0
    late = events.t[0] - 1_744_227_144_732_712_000, events.t[-1] - packets[-1].time_base - 9_999_000
    assert 0.5 * MS < late[1] <= late[0] < 3 * MS
    assert stream.counters["outside"] == stream.counters["unknown"] == 0


def libcaer(ms, x=5):
    """One libcaer event per given millisecond after the time base."""
    words = np.array([(x << 17 | 7 << 2 | 3, m * 1000) for m in ms], "<u4")
    return words.view(np.uint8).ravel()


def test_libcaer_stamp_refers_to_first_container():
    """A driver that was told to wait longer puts several containers into a message, stamped like the first."""
    for count in (10, 40):
        events = EventWindower(window=1).push(
            libcaer(range(count + 1)), "libcaer", SIZE, START + 10 * MS, 0, time_base=10**18
        )
        assert events.t[0] == START
        assert events.t[-1] == START + count * MS


def test_loss_keeps_clock_offset():
    stream = EventWindower(window=1)
    stream.push(ramp(0, sensor_zero_ms=16_700), "evt3", SIZE, START + 1 * MS, 0)
    stream.push(ramp(10, sensor_zero_ms=16_700), "evt3", SIZE, START + 10 * MS, 1)
    events = stream.push(ramp(100, sensor_zero_ms=16_700), "evt3", SIZE, START + 103 * MS, 5)
    assert events.t[-10] == pytest.approx(START + 100 * MS, abs=0.1 * MS)
    assert stream.counters["clock_jumps"] == 0


def array_of(ms, stamp, clock):
    """One event per millisecond; `clock` is the time of millisecond 0."""
    raw = np.zeros(len(ms), [("x", "u2"), ("y", "u2"), ("sec", "i4"), ("nanosec", "u4"), ("polarity", "u1")])
    raw["x"], (raw["sec"], raw["nanosec"]) = ms, np.divmod(clock + np.array(ms) * MS, 10**9)
    return EventArray(stamp, "dvs", *SIZE, raw, (ms[0], 0))


def test_array_times_are_used_unless_restamped():
    stream = EventWindower()
    stream.push_array(array_of(range(10), START + 9 * MS, START))
    events = stream.push_array(array_of(range(10, 20), START + 19 * MS, START))
    assert events.t.tolist() == [START + ms * MS for ms in range(20)]
    restamped = EventWindower()
    hour = 3600 * 10**9
    restamped.push_array(array_of(range(10), START + hour, START))
    events = restamped.push_array(array_of(range(10, 20), START + hour + 12 * MS, START))
    assert events.t[-1] == pytest.approx(START + hour + 19 * MS, abs=0.1 * MS)
    assert np.diff(events.t).min() >= 0
    assert stream.counters["packets"] == 2


def test_other_encoding_resets_window():
    stream = EventWindower()
    stream.push(ramp(0), "evt3", SIZE, START, 0)
    assert len(stream.push_array(array_of(range(3), START + 10 * MS, START + 10 * MS)).t) == 3


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-50, 50), st.integers(0, 2**32 - 1)), min_size=1, max_size=9))
def test_any_array_gives_ordered_window_or_error(drafts):
    stream = EventWindower()
    for count, ms, nanosec in drafts:
        raw = np.zeros(count, [("x", "u2"), ("y", "u2"), ("sec", "i4"), ("nanosec", "u4"), ("polarity", "u1")])
        raw["sec"], raw["nanosec"] = np.arange(count) + ms, nanosec
        try:
            events = stream.push_array(EventArray(START + ms * MS, "", *SIZE, raw, (700, 3)))
        except PacketError:
            continue
        assert np.diff(events.t).min(initial=0) >= 0
        assert (events.x < 640).all()
