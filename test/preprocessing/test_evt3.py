# SPDX-License-Identifier: Apache-2.0
"""The vectorised EVT3 decoder against published sums, a word-by-word decoder and every way of cutting the stream."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import PacketError
from mlesam_ros.preprocessing.event_codecs import MAX_RUN_WORDS
from mlesam_ros.preprocessing.evt3 import Evt3Decoder, encode_evt3


def word_by_word(words, width=2048, height=2048):
    """The format's rules, one word at a time, for a clock without faults: (events, trigger times)."""
    row, low, high, timed, base, sign = 0xFFFF, 0, None, False, 0xFFFF, False
    events, triggers = [], []

    def add(x, positive):
        if timed and x < width and row < height:
            events.append((x, row, high << 12 | low, bool(positive)))

    for word in map(int, words):
        code, value = word >> 12, word & 0xFFF
        if code == 0:
            row = value & 0x7FF
        elif code == 2:
            add(value & 0x7FF, value & 0x800)
        elif code == 3:
            base, sign = value & 0x7FF, value & 0x800
        elif code in (4, 5):
            length = 12 if code == 4 else 8
            for bit in range(length):
                if value >> bit & 1:
                    add(base + bit, sign)
            base += length
        elif code == 6:
            low, timed = value, timed or high is not None
        elif code == 8:
            wraps = 0 if high is None else (high >> 12) + (value < high & 0xFFF)
            high = wraps << 12 | value
        elif code == 10 and timed:
            triggers.append(high << 12 | low)
    return events, triggers


def as_list(decoded):
    return [(int(x), int(y), int(t), bool(p)) for x, y, t, p in zip(*decoded, strict=True)]


def joined(parts):
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def packet(*words):
    return np.array(words, "<u2").view(np.uint8)


WORD = st.one_of(
    st.integers(0, 0xFFFF).filter(lambda w: w >> 12 not in (6, 8)),
    st.integers(0x6000, 0x6FFF),
    st.builds(lambda k, v: k << 12 | v, st.sampled_from([2, 3, 4, 5]), st.integers(0, 0xFFF)),
)
FORWARD = st.lists(st.one_of(WORD, st.none()), max_size=60)


def with_forward_clock(draft):
    """Each None becomes a TIME_HIGH one tick after the last, starting short of the wrap."""
    high, words = 4090, []
    for word in draft:
        if word is None:
            high += 1
        words.append(0x8000 | high & 0xFFF if word is None else word)
    return words


def test_first_recording_gives_the_published_sums(event_packets):
    """The published sum of t counts external triggers as well (event_camera_py, tests)."""
    packets = event_packets("test_events_1")
    decoder = Evt3Decoder(640, 480)
    _, _, t, polarity = joined([decoder.decode(p.events) for p in packets])
    _, triggers = word_by_word(np.concatenate([p.events for p in packets]).view("<u2"))
    assert (np.count_nonzero(~polarity), np.count_nonzero(polarity)) == (218_291, 125_183)
    assert min(t[0], triggers[0]) == 7_139_840
    assert t.sum() + sum(triggers) == 2_885_601_049_874
    assert decoder.counters == {"unknown": 0, "triggers": 4157, "outside": 0, "untimed": 0, "clock_errors": 0}


def test_second_recording_gives_the_published_sums(event_packets):
    decoder = Evt3Decoder(1280, 720)
    x, y, _, polarity = joined([decoder.decode(p.events) for p in event_packets("test_data_evt3_trigger")])
    assert (np.count_nonzero(polarity), np.count_nonzero(~polarity)) == (41_439, 41_030)
    assert (x.sum(dtype=int), y.sum(dtype=int)) == (42_078_718, 31_656_267)
    assert decoder.counters["triggers"] == 2


def test_recordings_equal_reference_decoder(event_packets):
    for name in ("test_events_1", "test_data_evt3_trigger"):
        packets = event_packets(name)[:40]
        decoder = Evt3Decoder()
        fast = joined([decoder.decode(p.events) for p in packets])
        assert as_list(fast) == word_by_word(np.concatenate([p.events for p in packets]).view("<u2"))[0]


@settings(deadline=None)
@given(FORWARD)
def test_any_words_equal_reference_decoder(draft):
    words = with_forward_clock(draft)
    decoder = Evt3Decoder(1280, 720)
    assert as_list(decoder.decode(packet(*words))) == word_by_word(words, 1280, 720)[0]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0x3005, 0x3A10, 0x4FFF, 0x4123, 0x50F0, 0x2007, 0x0009, 0x600A]), max_size=60))
def test_vectors_between_single_events_equal_reference_decoder(draft):
    words = [0x8000, 0x6000, 0x0001, *draft]
    assert as_list(Evt3Decoder(1280, 720).decode(packet(*words))) == word_by_word(words, 1280, 720)[0]


def test_packet_longer_than_one_run():
    rng = np.random.default_rng(0)
    count = 3 * MAX_RUN_WORDS // 4
    t, x, y = np.sort(rng.integers(0, 60_000, count)), rng.integers(0, 1280, count), rng.integers(0, 720, count)
    polarity = rng.integers(0, 2, count)
    whole = Evt3Decoder().decode(encode_evt3(x, y, t, polarity))
    for column, expected in zip(whole, (x, y, t, polarity), strict=True):
        np.testing.assert_array_equal(column, expected)


@settings(deadline=None)
@given(st.lists(st.integers(0, 0xFFFF), max_size=60), st.data())
def test_stream_may_be_split_between_any_words(words, data):
    """Random words: the clock jumps, codes are unknown, vectors have no base."""
    words = [0x8000, 0x6000, 0x0001, *words]
    cuts = data.draw(st.lists(st.integers(0, len(words)), max_size=8).map(sorted))
    whole, split = Evt3Decoder(1280, 720), Evt3Decoder(1280, 720)
    expected = as_list(whole.decode(packet(*words)))
    parts = [split.decode(packet(*words[a:b])) for a, b in pairwise([0, *cuts, len(words)])]
    assert as_list(joined(parts)) == expected
    assert split.now == whole.now
    assert split.counters == whole.counters


def test_the_clock_wraps_without_going_back():
    decoder = Evt3Decoder()
    _, _, t, _ = decoder.decode(packet(0x8FFF, 0x6FFF, 0x0001, 0x2001, 0x8000, 0x6000, 0x2001, 0x8001, 0x6000, 0x2001))
    assert t.tolist() == [(1 << 24) - 1, 1 << 24, (1 << 24) + 4096]


@pytest.mark.parametrize("bit", range(4, 12))
def test_bit_error_in_time_high_is_rejected(bit):
    wrong = 0x8000 | (0x321 ^ (1 << bit))
    decoder = Evt3Decoder()
    _, _, t, _ = decoder.decode(packet(0x8321, 0x6005, 1, 0x2001, wrong, 0x2002, 0x8321, 0x2003, 0x8322, 0x2004))
    assert t.tolist() == [0x321005, 0x321005, 0x321005, 0x322005]
    assert decoder.counters["clock_errors"] == 1


def test_small_step_back_of_time_high_is_not_a_wrap():
    decoder = Evt3Decoder()
    decoder.decode(packet(0x8321, 0x6005, 0x831E, 0x6006))
    assert decoder.now == 0x321006


@pytest.mark.parametrize("jump", [0x331, 0x621, 0x123])
def test_clock_jump_is_followed(jump):
    """0x331 is one flipped bit away and so believed at the second word; 0x123 lies behind, beyond the wrap."""
    decoder = Evt3Decoder()
    decoder.decode(packet(0x8321, 0x6000, 0x8000 | jump, 0x8000 | jump))
    assert decoder.now == ((jump if jump > 0x321 else jump + 0x1000) << 12)


def test_ignored_words_are_counted():
    decoder = Evt3Decoder(640, 480)
    decoded = decoder.decode(
        packet(
            0x0001,
            0x2001,
            0x8000,
            0x2001,
            0x6000,
            0x1000,
            0xD000,
            0xA001,
            0x2000 | 640,
            0x0000 | 480,
            0x2001,
            0x0001,
            0x2001,
        )
    )
    assert as_list(decoded) == [(1, 1, 0, False)]
    assert decoder.counters == {"unknown": 2, "triggers": 1, "outside": 2, "untimed": 2, "clock_errors": 0}


def test_vector_without_base_is_outside_sensor():
    decoder = Evt3Decoder()
    x, *_ = decoder.decode(packet(0x8000, 0x6000, 0x0001, 0x4FFF, 0x50FF))
    assert len(x) == 0
    assert decoder.counters["outside"] == 20


def test_partial_word_is_rejected_without_state_change():
    decoder = Evt3Decoder()
    decoder.decode(packet(0x8000, 0x6001))
    with pytest.raises(PacketError, match="5 bytes"):
        decoder.decode(np.zeros(5, np.uint8))
    assert decoder.now == 1


def test_decodes_a_read_only_view_at_an_odd_address():
    data = np.frombuffer(b"\0" + packet(0x8000, 0x6000, 1, 0x2001).tobytes(), np.uint8)[1:]
    assert as_list(Evt3Decoder().decode(data)) == [(1, 1, 0, False)]


EVENT = st.tuples(st.integers(0, 2047), st.integers(0, 2047), st.integers(0, 2_000_000), st.booleans())


@settings(deadline=None)
@given(st.lists(EVENT, max_size=50), st.integers(0, 1 << 24))
def test_encoded_events_round_trip(events, start):
    x, y, gaps, polarity = (np.array([e[i] for e in events], np.int64) for i in range(4))
    t = start + np.cumsum(gaps)
    decoded = Evt3Decoder().decode(encode_evt3(x, y, t, polarity))
    shift = (t[0] >> 24 << 24) if len(t) else 0
    assert as_list(decoded) == [(a, b, c - shift, bool(d)) for a, b, c, d in zip(x, y, t, polarity, strict=True)]


def test_encoded_packets_are_self_contained():
    first = encode_evt3([1], [2], [5_000_000], [1])
    second = encode_evt3([3], [2], [5_000_000], [0])
    assert as_list(Evt3Decoder().decode(second)) == [(3, 2, 5_000_000, False)]
    both = Evt3Decoder()
    assert as_list(joined([both.decode(first), both.decode(second)]))[1] == (3, 2, 5_000_000, False)


@pytest.mark.parametrize(
    ("x", "y", "t", "p", "message"),
    [
        ([2048], [0], [0], [1], "x runs from 2048 to 2048"),
        ([0], [-1], [0], [1], "y runs from -1 to -1"),
        ([0, 0], [0, 0], [5, 4], [1, 1], "Sort the events"),
        ([0, 0], [0, 0], [0, 16_777_216], [1, 1], "µs apart"),
        ([0, 0], [0], [0], [1], "2, 1, 1, 1 values"),
        ([0.5], [0], [0], [1], "x is a 1-d array of float64"),
    ],
)
def test_unencodable_events_are_rejected(x, y, t, p, message):
    with pytest.raises(PacketError, match=message):
        encode_evt3(x, y, t, p)
