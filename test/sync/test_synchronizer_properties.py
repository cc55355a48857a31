# SPDX-License-Identifier: Apache-2.0
"""What holds of the synchronizer whatever arrives, in whatever order, at whatever time."""

from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_streams import MS, START, frame

from mlesam_ros.sync import OUTCOMES, SyncConfig, Synchronizer
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES

STEPS = st.one_of(
    st.tuples(st.just("wait"), st.integers(0, 120)),  # ms
    st.tuples(st.just("send"), st.sampled_from(MODALITIES), st.integers(-20, 200)),  # ms of delay
    st.tuples(st.just("send"), st.sampled_from(MODALITIES), st.integers(-20, 200)),
    st.tuples(st.just("send"), st.sampled_from(MODALITIES), st.integers(-20, 200)),
    st.tuples(st.just("burst"), st.sampled_from(MODALITIES), st.integers(2, 40)),  # frames, 2 ms apart
    st.tuples(st.just("again"), st.sampled_from(MODALITIES)),  # the stamp that it sent last
    st.tuples(st.just("bad"), st.sampled_from(MODALITIES), st.sampled_from([0, -1, 1, START - 60_000 * MS, 2 * START])),
    st.tuples(st.just("jump"), st.sampled_from([-20_000, -3000, -300, 1500, 3_600_000])),  # ms
)
CONFIGS = st.builds(
    SyncConfig,
    tolerance=st.sampled_from([0.06, 0.0, 0.2, {LIDAR: 0.01}]),
    offset=st.sampled_from([None, 0.0, {LIDAR: 0.04, CAMERA: -0.01}, {LIDAR: 37.0, CAMERA: -8.0, EVENT: -1.7e9}]),
    max_wait=st.sampled_from([0.05, 0.0, {DEPTH: 0.2}]),
    required=st.sampled_from([(), (CAMERA,), (DEPTH, LIDAR)]),
    primary_order=st.sampled_from([(CAMERA, LIDAR, DEPTH, EVENT), (LIDAR, CAMERA), (EVENT,)]),
    history=st.sampled_from([1.0, 0.15]),
    capacity=st.sampled_from([256, 3]),
)


class Witness:
    """Drives a synchronizer and holds it to its promises at every step."""

    def __init__(self, config, prompt):
        self.sync = Synchronizer(config)
        self.config, self.prompt = config, prompt
        self.now = START
        self.sent, self.last_stamp = {}, {}  # id of a frame → (frame, arrival, primary by then); modality → time
        self.used = set()
        self.stamp, self.time, self.jumps, self.leapt = 0, 0, 0, 0
        self.offsets = {m: config.offset_of(m) or 0 for m in MODALITIES}

    def advance(self, milliseconds):
        until = self.now + milliseconds * MS
        while self.prompt and (deadline := self.sync.next_deadline()) is not None and deadline <= until:
            self.now = max(deadline, self.now)
            self.take()
            assert self.sync.next_deadline() != deadline, "it would be woken for ever"
        self.now = until

    def send(self, modality, time):
        item = frame(modality, time + self.offsets[modality], self.offsets[modality])
        self.last_stamp[modality] = time
        fate = self.sync.push(item, self.now)
        assert fate in ("pending", "late", "refused")
        if self.prompt:
            self.take()
        self.sent[id(item)] = item, self.now, self.sync.primary
        self.check_counts()

    def take(self):
        taken = self.sync.take(self.now)
        self.check_counts()
        if taken is not None:
            self.check_set(taken)
        return taken

    def check_counts(self):
        for modality, counts in self.sync.counters.items():
            waiting = self.sync.waiting[modality]
            assert 0 <= waiting <= self.config.capacity
            assert counts["received"] == sum(counts[fate] for fate in OUTCOMES) + waiting
            assert min(counts.values()) >= 0
            assert counts["refused"] == sum(self.sync.refusals[modality].values())

    def check_set(self, taken):
        if self.sync.jumps != self.jumps:
            self.jumps, self.stamp, self.time = self.sync.jumps, 0, 0
        assert taken.time > self.time, "sets come in the order of their times"
        if max(self.offsets.values()) - min(self.offsets.values()) < 350 * MS:
            assert taken.stamp > self.stamp, "sets come in the order of their stamps"
        self.stamp, self.time = taken.stamp, taken.time
        assert taken.frames[taken.primary].stamp == taken.stamp
        assert set(self.config.required) <= set(taken.frames)
        assert list(taken.frames) == [m for m in MODALITIES if m in taken.frames]
        for modality, member in taken.frames.items():
            assert member.modality == modality
            assert id(member) not in self.used, "no frame is used twice"
            self.used.add(id(member))
            skew = (member.stamp - self.offsets[modality]) - (taken.stamp - self.offsets[taken.primary])
            assert taken.skews[modality] == skew
            assert abs(skew) <= (self.config.nanoseconds("tolerance", modality) if modality != taken.primary else 0)
        _, arrived, primary = self.sent.get(id(taken.frames[taken.primary]), (None, self.now, taken.primary))
        if self.prompt and primary == taken.primary and arrived >= self.leapt:
            max_wait = max(self.config.nanoseconds("max_wait", m) for m in MODALITIES)
            assert self.now - arrived <= max_wait, "no set is later than max_wait after its primary came"


def perform(witness, step):
    kind, *rest = step
    if kind == "wait":
        witness.advance(rest[0])
    elif kind == "send":
        witness.advance(3)
        witness.send(rest[0], witness.now - rest[1] * MS)
    elif kind == "burst":
        for _ in range(rest[1]):
            witness.advance(2)
            witness.send(rest[0], witness.now - 5 * MS)
    elif kind == "again":
        witness.send(rest[0], witness.last_stamp.get(rest[0], witness.now))
    elif kind == "bad":
        witness.send(*rest)
    else:
        witness.now += rest[0] * MS
        witness.leapt = witness.now


@given(CONFIGS, st.booleans(), st.lists(st.tuples(STEPS, st.booleans()), max_size=60))
@settings(max_examples=400, deadline=None)
def test_invariants_hold_for_any_input(config, prompt, steps):
    witness = Witness(config, prompt)
    for step, take in steps:
        perform(witness, step)
        if take:
            witness.take()
    witness.sync.flush()
    witness.check_counts()
    assert not any(witness.sync.waiting.values())
    assert sum(c["used"] for c in witness.sync.counters.values()) == len(witness.used)
    assert sum(c["received"] for c in witness.sync.counters.values()) == len(witness.sent)


@given(st.lists(st.tuples(st.sampled_from(MODALITIES), st.integers(0, 30)), min_size=1, max_size=120), st.randoms())
@settings(max_examples=100, deadline=None)
def test_recovery_after_any_history(steps, random):
    """No arrival order leaves a state in which good frames are turned away for ever."""
    witness = Witness(SyncConfig(), prompt=True)
    for modality, gap in steps:
        witness.advance(gap)
        witness.send(modality, witness.now + random.randint(-4000, 400) * MS)
    for _ in range(20):  # two seconds: longer than history, time-out and the farthest accepted future
        witness.advance(100)
        for modality in MODALITIES:
            witness.send(modality, witness.now)
    used = witness.sync.counters[CAMERA]["used"]
    for _ in range(10):
        witness.advance(100)
        for modality in (DEPTH, LIDAR, EVENT, CAMERA):
            witness.send(modality, witness.now)
    assert witness.sync.counters[CAMERA]["used"] == used + 10
