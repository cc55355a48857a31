# SPDX-License-Identifier: Apache-2.0
"""Against the rule of the stock Python `ApproximateTimeSynchronizer`, on the same streams."""

from types import SimpleNamespace

import numpy as np
import pytest
from simulated_streams import MS, sensors, skews
from simulated_streams import play as play_ours
from stock_policy import StockPolicy

from mlesam_ros.sync import SyncConfig
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, NANOSECONDS

SLOP = 60 * MS


def play_stock(messages, topics=MODALITIES):
    policy = StockPolicy(topics, SLOP)
    return [s for _, topic, stamp in messages if (s := policy.push(topic, stamp))]


def stock_skews(sets):
    return np.array([abs(s - t[CAMERA]) / MS for t in sets for m, s in t.items() if m != CAMERA])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("event_rate", [10, 100])
def test_as_many_and_as_close_sets_as_stock_policy(seed, event_rate):
    rates = {CAMERA: 10, LIDAR: 10, DEPTH: 10, EVENT: event_rate}
    messages = sensors(rates=rates, jitter=8, seed=seed)
    stock = play_stock(messages)
    _, ours = play_ours(messages)
    assert len(stock) > 50
    assert sum(len(t.frames) == 4 for _, t in ours) >= len(stock)
    assert np.median(skews(ours)) <= np.median(stock_skews(stock))


def test_a_looped_bag():
    once = sensors(seconds=20)
    stock = [len(play_stock(once * passes)) for passes in (1, 2)]
    assert stock[1] - stock[0] < 0.2 * stock[0], "the stock rule loses the second pass"
    _, ours = play_ours(once * 3)
    passes = np.array_split([len(t.frames) for _, t in ours], 3)
    assert [len(counts) for counts in passes] == [200, 200, 200]
    assert all((counts == 4).all() for counts in passes), "every set of every pass has every sensor"
    assert [t.stamp for _, t in ours[:200]] == [t.stamp for _, t in ours[200:400]] == [t.stamp for _, t in ours[400:]]


def test_a_dead_lidar():
    messages = sensors(seconds=20, dead={LIDAR: (5, 99)})
    assert len(play_stock(messages)) <= 51, "the stock rule stops with the LiDAR"
    _, ours = play_ours(messages)
    assert len(ours) == 200
    assert np.diff([now for now, _ in ours]).max() < 200 * MS


def test_a_dead_camera():
    messages = sensors(seconds=20, dead={CAMERA: (5, 10)})
    assert len(play_stock(messages)) <= 151
    _, ours = play_ours(messages, SyncConfig())
    assert len(ours) >= 197


def test_policy_emits_a_set_once():
    policy = StockPolicy(("a", "b"), slop=10)
    assert policy.push("a", 100) is None
    assert policy.push("b", 120) is None
    assert policy.push("b", 105) == {"a": 100, "b": 105}
    assert policy.push("b", 101) is None


@pytest.mark.parametrize("jitter", [8, 40])
def test_policy_equals_that_of_message_filters(jitter):
    message_filters = pytest.importorskip("message_filters", reason="message_filters is not installed")
    from builtin_interfaces.msg import Time

    sources, sets = {m: message_filters.SimpleFilter() for m in MODALITIES}, []
    theirs = message_filters.ApproximateTimeSynchronizer(list(sources.values()), 10, SLOP / NANOSECONDS)
    theirs.registerCallback(lambda *found: sets.append(dict(zip(sources, (m.number for m in found), strict=True))))
    messages = sensors(jitter=jitter, dead={DEPTH: (4, 5)})
    for _, topic, stamp in messages:
        seconds, nanoseconds = divmod(stamp, NANOSECONDS)
        header = SimpleNamespace(stamp=Time(sec=seconds, nanosec=nanoseconds))
        sources[topic].signalMessage(SimpleNamespace(number=stamp, header=header))
    assert sets == play_stock(messages) and len(sets) > 50
