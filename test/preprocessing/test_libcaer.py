# SPDX-License-Identifier: Apache-2.0
"""iniVation's two encodings against published totals, a word-by-word decoder and every way of cutting a packet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import PacketError
from mlesam_ros.preprocessing.event_codecs import MAX_RUN_WORDS, LibcaerCmpDecoder, decode_libcaer


def word_by_word(words, column=0x7FF0):
    """The rules of `libcaer_cmp`, one word at a time, for times without a wrap."""
    high = low = 0
    row, sign = 0x7FF0, False
    events = []
    for word in map(int, words):
        kind, value = word >> 12, word & 0xFFF
        if kind == 0:
            high = value
        elif kind == 1:
            low = value
        elif kind == 2:
            column = value & 0x7FF
        elif kind == 3:
            events.append((column, value & 0x7FF, (high << 12 | low) * 1000, bool(value & 0x800)))
        elif kind == 4:
            row, sign = value & 0x7FF, bool(value & 0x800)
        elif kind == 5:
            events += [
                (column, min(row, 0x7FF0) + bit, (high << 12 | low) * 1000, sign)
                for bit in range(8)
                if value >> bit & 1
            ]
            row += 8
    return events


def driver(x, y, t_us, polarity):
    """One event per three words, in the way the driver writes times: only their lowest 16 bits."""
    words, high, low = [], 0, 0
    for column, row, time, sign in zip(x, y, t_us, polarity, strict=True):
        if time >> 12 != high:
            high = time >> 12
            words.append(high & 0xF)
        if time & 0xFFF != low:
            low = time & 0xFFF
            words.append(0x1000 | low)
        words += [0x2000 | column, 0x3000 | sign << 11 | row]
    return np.array(words, "<u2").view(np.uint8)


def as_list(decoded):
    return [(int(x), int(y), int(t), bool(p)) for x, y, t, p in zip(*decoded, strict=True)]


def packet(*words):
    return np.array(words, "<u2").view(np.uint8)


def test_recording_has_published_totals(event_packets):
    """event_camera_py, tests/test_2.py: counts, the first time and the sum of times in µs since the first event."""
    decoder, parts = LibcaerCmpDecoder(), []
    for each in event_packets("test_events_2/test_events_2_0.mcap"):
        x, y, t, polarity = decoder.decode(each.events, each.is_bigendian)
        parts.append((x, y, t + each.time_base, polarity))
    x, y, t, polarity = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    assert (np.count_nonzero(~polarity), np.count_nonzero(polarity)) == (360_223, 211_043)
    assert t[0] == 1_744_227_144_732_712_000
    assert ((t - t[0]) // 1000).sum() == 335_555_680_277
    assert np.diff(t).min() == 0
    assert (x.max(), y.max()) == (345, 259)
    assert decoder.counters == {"unknown": 0}


def test_recording_equals_reference_decoder(event_packets):
    decoder = LibcaerCmpDecoder()
    for each in event_packets("test_events_2/test_events_2_0.mcap")[:3]:
        assert as_list(decoder.decode(each.events)) == word_by_word(each.events.view("<u2"))


WORD = st.one_of(
    st.builds(lambda k, v: k << 12 | v, st.sampled_from([1, 2, 3, 4, 5, 5]), st.integers(0, 0xFFF)),
    st.integers(0x1000, 0xFFFF),
)


@settings(deadline=None)
@given(st.lists(WORD, max_size=60))
def test_any_words_equal_reference_decoder(words):
    assert as_list(LibcaerCmpDecoder().decode(packet(*words))) == word_by_word(words)


def test_big_endian_words():
    words = [0x0001, 0x1002, 0x2003, 0x3804]
    swapped = np.array(words, ">u2").view(np.uint8)
    assert as_list(LibcaerCmpDecoder().decode(swapped, is_bigendian=True)) == [(3, 4, 4_098_000, True)]


def test_column_and_vector_base_persist_across_packets():
    decoder = LibcaerCmpDecoder()
    decoder.decode(packet(0x0002, 0x1003, 0x2007, 0x4805, 0x5001))
    assert as_list(decoder.decode(packet(0x3009, 0x5003))) == [(7, 9, 0, False), (7, 13, 0, True), (7, 14, 0, True)]
    decoder.reset()
    assert as_list(decoder.decode(packet(0x3009))) == [(0x7FF0, 9, 0, False)]


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=200))
def test_packet_longer_than_16_bits_of_time(gaps):
    t = np.cumsum(np.minimum(gaps, 4096 * 15))
    rows = np.arange(len(t)) % 200
    decoded = LibcaerCmpDecoder().decode(driver(rows, rows, t, rows % 2))
    assert (decoded[2] // 1000).tolist() == t.tolist()


def test_packet_longer_than_one_run():
    count = MAX_RUN_WORDS
    rng = np.random.default_rng(0)
    x, y, polarity = rng.integers(0, 346, count), rng.integers(0, 260, count), rng.integers(0, 2, count)
    t = np.sort(rng.integers(0, 60_000, count))
    for column, expected in zip(
        LibcaerCmpDecoder().decode(driver(x, y, t, polarity)), (x, y, t * 1000, polarity), strict=True
    ):
        np.testing.assert_array_equal(column, expected)


def test_unknown_words_are_counted():
    decoder = LibcaerCmpDecoder()
    assert len(decoder.decode(packet(0x6FFF, 0xF000, 0x2001))[0]) == 0
    assert decoder.counters == {"unknown": 2}


def encode_libcaer(x, y, t_us, polarity):
    words = np.empty((len(x), 2), "<u4")
    words[:, 0] = np.array(x) << 17 | np.array(y) << 2 | np.array(polarity, int) << 1 | 1
    words[:, 1] = t_us
    return words.view(np.uint8).ravel()


EVENT = st.tuples(st.integers(0, 0x7FFF), st.integers(0, 0x7FFF), st.integers(0, 10**6), st.booleans())


@given(st.lists(EVENT, max_size=40), st.integers(0, (1 << 31) - 1))
def test_libcaer_clock_wrap(events, start):
    x, y, gaps, polarity = (np.array([event[i] for event in events], np.int64) for i in range(4))
    t = start + np.cumsum(gaps)
    decoded = as_list(decode_libcaer(encode_libcaer(x, y, t % (1 << 31), polarity)))
    shift = t[0] >> 31 << 31 if len(t) else 0
    assert decoded == [(a, b, (c - shift) * 1000, bool(d)) for a, b, c, d in zip(x, y, t, polarity, strict=True)]


def test_small_step_back_is_not_a_wrap():
    _, _, t, _ = decode_libcaer(encode_libcaer([1, 1], [1, 1], [500, 497], [0, 1]))
    assert t.tolist() == [500_000, 497_000]


@pytest.mark.parametrize("decode", [decode_libcaer, LibcaerCmpDecoder().decode])
def test_partial_event_is_rejected(decode):
    with pytest.raises(PacketError, match="7 bytes; it must be a whole number"):
        decode(np.zeros(7, np.uint8))
