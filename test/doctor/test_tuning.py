# SPDX-License-Identifier: Apache-2.0
"""The simulated synchronizer counts as the replay; proposals are simulated and improve the sets."""

import numpy as np
import pytest
from analytic_scene import PERIOD, START, on, restamped, write
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import load_parameters, sync_config
from mlesam_ros.doctor.content import message_findings
from mlesam_ros.doctor.diagnosis import diagnose_bag
from mlesam_ros.doctor.timing import TopicStats, rate_stats, timing_findings
from mlesam_ros.doctor.tuning import simulate_sync, tune_sync
from mlesam_ros.evaluation.bag_sensors import BagRig, TopicSource, find_topics
from mlesam_ros.evaluation.replay import Replay
from mlesam_ros.labels import load_label_space
from mlesam_ros.sync import OUTCOMES, SyncConfig, Synchronizer
from mlesam_ros.types import CAMERA, EVENT, LIDAR, NANOSECONDS, FrameSet, SensorFrame

BEGIN = 1_700_000_000 * NANOSECONDS
SOURCES = {
    CAMERA: TopicSource("/camera", "sensor_msgs/msg/Image"),
    LIDAR: TopicSource("/lidar", "sensor_msgs/msg/PointCloud2"),
    EVENT: TopicSource("/events", "event_camera_msgs/msg/EventPacket"),
}


def record(modality, seconds, delay=0.0):
    """A sensor that measured at these seconds; its messages arrive so much later."""
    made = TopicStats(modality, SOURCES[modality])
    delays = np.broadcast_to(delay, np.shape(seconds))
    for second, late in zip(seconds, delays, strict=True):
        stamp = BEGIN + round(second * NANOSECONDS)
        made.add(stamp, stamp, stamp + round(late * NANOSECONDS), modality)
        made.received += 1
    return made


def kinds(found):
    return [entry.message.split(" ")[0] for entry in found]


def plan(*records):
    spoken = {made.modality: made for made in records}
    return spoken, simulate_sync(spoken, SyncConfig(tuple(spoken)))


def test_simulation_counts_as_evaluate(tmp_path):
    """The same bag through the replay of `mlesam evaluate` and through the rehearsal."""
    bag = write(tmp_path / "bag", lambda entry: [] if entry[0] == "/lidar/points" and entry[2] % 3 else [entry])
    with BagReader(bag) as reader:
        topics = find_topics(reader.topics)
        replay = Replay(reader, topics, BagRig(reader, topics), load_label_space("deliver"))
        sets = [step for step in replay.steps() if isinstance(step, FrameSet)]
    report = diagnose_bag(bag)
    assert report.sets["sets"] == len(sets)
    assert report.sets["parts"] == {m: sum(m in s.frames for s in sets) for m in topics.sensors}
    for modality, counts in replay.counters.items():
        assert {fate: report.sensors[modality][fate] for fate in ("received", *OUTCOMES)} == counts


def strayed(topic, seconds, late=0, until=1000):
    """A change of `write`: a sensor's stamps are of another clock, and its messages come so many nanoseconds later."""

    def change(stamp, message):
        message = restamped(message, seconds) if stamp - START < until * PERIOD else message
        return stamp + late, message

    return on(topic, change)


@pytest.mark.parametrize("name", ["the other comes first", "set after 60 messages", "events lead"])
def test_simulation_uses_the_clock_of_evaluate(tmp_path, name):
    """Kind: criteria that are written twice. The clock before the first leader was zero, and messages were refused."""
    image, points, events, depth = "/camera/image_raw", "/lidar/points", "/events", "/depth/image_raw"

    def change(entry):
        if entry[0] == depth or (entry[0] == events and name != "events lead"):
            return []
        changes = {
            "the other comes first": [strayed(image, -3600, 30_000_000), strayed(points, -3602)],
            "set after 60 messages": [strayed(image, -3600, until=60), strayed(points, -3600, until=60)],
            "events lead": [strayed(image, -3600), strayed(points, -7200), strayed(events, -3600)],
        }[name]
        for one in changes:
            (entry,) = one(entry)
        return [entry]

    bag = write(tmp_path / "bag", change, moments=130 if name == "set after 60 messages" else 30)
    with BagReader(bag) as reader:
        topics = find_topics(reader.topics)
        replay = Replay(reader, topics, BagRig(reader, topics), load_label_space("deliver"))
        sets = [step for step in replay.steps() if isinstance(step, FrameSet)]
    report = diagnose_bag(bag)
    assert len(sets) >= 30 and report.sets["sets"] == len(sets)
    assert not any("clock is zero" in found.message for found in report.findings)
    for modality, counts in replay.counters.items():
        assert {fate: report.sensors[modality][fate] for fate in ("received", *OUTCOMES)} == counts


@pytest.mark.parametrize(
    ("rule", "seconds", "foreign"),
    [
        ("max_age:=0.0", -20, True),
        ("max_age:=60.0", -20, False),
        ("max_age:=3600.0", -3500, False),
        ("max_future:=0.5", 0.2, False),
        ("max_future:=0.05", 0.2, True),
        ("max_future:=60.0", 20, False),
    ],
)
def test_clocks_are_checked_with_the_limits_of_the_node(tmp_path, rule, seconds, foreign):
    """Kind: a default in place of the parameter. The right answer is what the synchronizer refuses."""
    bag = write(tmp_path / "bag", on("/lidar/points", lambda stamp, message: (stamp, restamped(message, seconds))))
    parameters = load_parameters(overrides=[rule])
    report = diagnose_bag(bag, parameters)
    said = [found for found in report.findings if "the node refuses every message" in found.message]
    assert [found.subject for found in said] == ["lidar"] * foreign
    sync = Synchronizer(sync_config(parameters, (CAMERA, LIDAR)))
    frame = SensorFrame(LIDAR, BEGIN + round(seconds * NANOSECONDS), "lidar", None)
    assert (sync.push(frame, BEGIN) == "refused") == foreign == bool(report.sensors["lidar"]["refused"])


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.integers(20, 180), min_size=2, max_size=40),
    delays=st.lists(st.integers(0, 120), min_size=2, max_size=40),
)
def test_every_message_has_one_outcome(steps, delays):
    seconds = np.cumsum(steps) / 1000
    camera = record(CAMERA, seconds, np.resize(delays, len(steps)) / 1000)
    _, done = plan(camera, record(LIDAR, np.arange(0, seconds[-1], 0.1)))
    for modality, counts in done.counters.items():
        assert counts["received"] == sum(counts[fate] for fate in OUTCOMES)
        assert done.parts[modality] == counts["used"] <= done.sets


def test_common_foreign_clock_becomes_the_clock():
    seconds = np.arange(0, 3, 0.1)
    _, done = plan(record(CAMERA, seconds, 9999.0), record(LIDAR, seconds, 9999.0))
    assert done.sets == done.complete == 30
    _, done = plan(record(CAMERA, seconds), record(LIDAR, seconds, 9999.0))
    assert done.parts == {CAMERA: 30, LIDAR: 0}


def test_wider_tolerance_is_proposed_if_it_helps():
    """Two sensors at 4 Hz, always 90 ms apart."""
    records, plain = plan(record(CAMERA, np.arange(0, 10, 0.25)), record(LIDAR, np.arange(0.09, 10, 0.25)))
    assert plain.parts[LIDAR] <= 1
    tuning = tune_sync(records, plain, {})
    assert 0.09 <= tuning.parameters["lidar.tolerance"] <= 0.11
    assert 0.09 <= tuning.parameters["lidar.max_wait"] <= 0.11  # the LiDAR comes 90 ms after the picture
    assert tuning.simulation.parts[LIDAR] == 40
    (found,) = tuning.findings
    assert (found.subject, found.severity) == (LIDAR, "warning") and "then it is part of 100 %" in found.remedy


@pytest.mark.parametrize("rules", [[], ["lidar.max_wait:=0.02"], ["lidar.max_wait:=0.02", "max_wait:=0.3"]])
def test_proposed_max_wait_takes_effect_in_the_node(rules):
    """Kind: a remedy that changes nothing. A sensor's own max_wait counts before that of all."""
    seconds = np.arange(0, 10, 0.1)
    records = {made.modality: made for made in (record(CAMERA, seconds), record(LIDAR, seconds, 0.08))}
    plain = simulate_sync(records, sync_config(load_parameters(overrides=rules), tuple(records)))
    assert plain.parts[LIDAR] <= 1
    advised = [f"{name}:={value}" for name, value in tune_sync(records, plain, {}).parameters.items()]
    parameters = load_parameters(overrides=[*rules, *advised])
    assert simulate_sync(records, sync_config(parameters, tuple(records))).parts[LIDAR] >= 99
    assert parameters.max_wait == load_parameters(overrides=rules).max_wait


def test_no_proposal_if_the_rate_is_the_limit():
    records, plain = plan(record(CAMERA, np.arange(0, 10, 0.05)), record(LIDAR, np.arange(0, 10, 0.1)))
    tuning = tune_sync(records, plain, {})
    assert plain.parts[LIDAR] == 100 and (tuning.parameters, tuning.findings) == ({}, [])


def test_another_primary_is_proposed_if_sets_become_complete():
    """The camera speaks in bursts of three within 60 ms; the sweeps are even."""
    camera = record(CAMERA, (np.arange(0, 10, 0.3)[:, None] + [0, 0.02, 0.04]).ravel())
    records, plain = plan(camera, record(LIDAR, np.arange(0.1, 10, 0.1)))
    tuning = tune_sync(records, plain, {})
    if "primary_order" in tuning.parameters:
        assert tuning.simulation.complete > 1.1 * plain.complete
        assert tuning.parameters["primary_order"][0] == LIDAR
    assert tuning.simulation.complete >= plain.complete


@pytest.mark.parametrize(
    ("seconds", "delay", "words"),
    [
        (np.arange(0, 20, 0.1), 0.0, []),
        (np.arange(0, 20, 0.1) + np.random.default_rng(0).normal(0, 0.003, 200), 0.01, []),
        (np.delete(np.arange(0, 20, 0.1), [30, 31, 90, 120, 150]), 0.0, ["about"]),
        (np.delete(np.arange(0, 20, 0.1), range(50, 90)), 0.0, ["1"]),
        (np.arange(0, 20, 0.1), 0.3 + np.arange(200) * 1e-4, ["its"]),
        (np.arange(0, 20, 0.1), np.abs(np.random.default_rng(0).normal(0.02, 0.02, 200)), []),
        (np.arange(0, 20, 0.1), -0.05, ["stamps"]),
    ],
    ids=["even", "a little jitter", "some lost", "a gap", "drift", "uneven delay", "ahead"],
)
def test_timing_findings(seconds, delay, words):
    assert kinds(timing_findings(record(CAMERA, seconds, delay), BEGIN, SyncConfig())) == words


def test_event_packets_have_no_period():
    rng = np.random.default_rng(3)
    seconds = np.cumsum(rng.exponential(0.01, 500))
    seconds[250:] += 1.0
    (found,) = timing_findings(record(EVENT, seconds), BEGIN, SyncConfig())
    assert found.severity == "note" and found.message.startswith("1 gap without events;")


@settings(max_examples=30, deadline=None)
@given(period=st.integers(10, 500), count=st.integers(8, 60), lost=st.sets(st.integers(1, 58), max_size=3))
def test_period_is_robust_to_lost_messages(period, count, lost):
    times = np.arange(count) * period / 1000
    kept = np.delete(times, [at for at in lost if at < count - 1])
    measured = rate_stats(record(CAMERA, kept))
    if len(kept) > 3 * len(lost) + 4:
        assert measured.period == pytest.approx(period / 1000, rel=1e-6) and measured.jitter < 1e-6


def test_common_clock_lead_is_reported_once():
    seconds = np.arange(0, 3, 0.1)
    records, _ = plan(record(CAMERA, seconds, -0.1), record(LIDAR, seconds, -0.3))
    found = [*message_findings(records, BEGIN, SyncConfig())]
    assert [(entry.subject, entry.severity) for entry in found] == [("clock", "warning"), (LIDAR, "error")]
    assert "all sensors are 100 ms ahead" in found[0].message and "are 200 ms ahead" in found[1].message
