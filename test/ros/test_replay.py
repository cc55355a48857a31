# SPDX-License-Identifier: Apache-2.0
"""A recording played by one process to the node in another gives the masks that `mlesam evaluate` makes of it.

They are equal to the last pixel wherever a set consists of the same sensors' messages. What the robot's motion does to
points and events also depends on which transforms had arrived by then, so this robot's frames stand still.
"""

import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("rclpy")
from analytic_scene import LIDAR_FRAME, PERIOD, START, without_place, write

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.evaluation.bag_evaluator import evaluate
from mlesam_ros.evaluation.scores import MaskListener
from mlesam_ros.messages import stamp_ns
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.ros.subscribers import RawSubscriber
from mlesam_ros.types import LIDAR, MODALITIES

OUTPUTS = {
    "/mlesam/labels": "sensor_msgs/msg/Image",
    "/mlesam/status": "mlesam_ros/msg/Status",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}
SENSORS = ("/camera/image_raw", "/depth/image_raw", "/events", "/lidar/points")
STEPS, RATE = 20, 0.5


def mlesam(*arguments):
    return subprocess.Popen([sys.executable, "-m", "mlesam_ros.cli", *map(str, arguments)])


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """Bag in which the camera is silent for 0.5 s and one LiDAR message is damaged."""

    def change(entry):
        topic, kind, stamp, message = entry
        number = (stamp - START) // PERIOD
        if topic == "/camera/image_raw" and 8 <= number < 13:
            return []
        if topic == "/lidar/points" and number == 3:
            return [(topic, kind, stamp, {**message, "point_step": 7})]
        return [entry]

    return write(tmp_path_factory.mktemp("replay") / "bag", change, STEPS)


def node_outputs(bag, weights):
    """Topic → stamp → output of the node during playback."""
    heard = {topic: {} for topic in OUTPUTS}

    def hear(topic, _, raw):
        message = typestore().deserialize_cdr(raw, OUTPUTS[topic])
        heard[topic][stamp_ns(message.header)] = message

    settings = [part for name, value in weights.items() for part in ("-p", f"{name}:={value}")]
    processes = [mlesam("node", "--ros-args", "-p", "use_sim_time:=true", *settings)]
    try:
        with RawSubscriber(hear) as observer:
            deadline = time.monotonic() + 120
            while observer.lifecycle_state("/mlesam") != "active":
                assert processes[0].poll() is None and time.monotonic() < deadline
            for topic, name in OUTPUTS.items():
                observer.subscribe(topic, name, depth=100)
            wait = [part for topic in SENSORS for part in ("--listener", topic)]
            processes.append(mlesam("play", bag, "--clock", "--rate", RATE, "--wait", 60, *wait))
            while processes[1].poll() is None:
                observer.spin_for(0.1)
            observer.spin_for(1.0)
        assert processes[1].returncode == 0
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
    return heard


@pytest.fixture(scope="module")
def live(bag, weights):
    """Stamp → (labels, used sensors) of the node."""
    heard = node_outputs(bag, weights)
    labels, statuses = heard["/mlesam/labels"], heard["/mlesam/status"]
    used = {stamp: tuple(s.modality for s in status.sensors if s.used) for stamp, status in statuses.items()}
    return {stamp: (mask.data.reshape(mask.height, mask.width), used.get(stamp)) for stamp, mask in labels.items()}


@pytest.fixture(scope="module")
def offline(bag, weights):
    """The same from the bag's files."""

    class Keeper(MaskListener):
        def __init__(self):
            self.masks = {}

        def on_mask(self, made):
            self.masks[made.mask.stamp] = made.mask.labels, made.mask.used

    keeper = Keeper()
    files = weights["checkpoint"], weights["base_weights"]
    evaluate(bag, Pipeline.from_checkpoint(*files, "cpu", "fp32", 1), listeners=[keeper])
    return keeper.masks


def test_live_masks_are_the_offline_masks(live, offline):
    assert len(offline) >= STEPS - 4  # until the camera is given up some steps pass
    assert set(live) <= set(offline), "every mask has the stamp of a set that the files hold too"
    compared = [stamp for stamp in live if live[stamp][1] == offline[stamp][1]]
    # A busy machine may miss a step, and then a sensor's message may find no set; most are there and the same.
    assert len(compared) > STEPS // 2
    for stamp in compared:
        assert np.array_equal(live[stamp][0], offline[stamp][0])


def test_compared_sets_differ(live, offline):
    """The comparison covers several subsets of sensors and different masks."""
    others = tuple(m for m in MODALITIES if m != LIDAR)
    assert {used for _, used in offline.values()} == {MODALITIES, MODALITIES[1:], others}
    assert len({labels.tobytes() for labels, _ in offline.values()}) > STEPS // 2
    assert {used for _, used in live.values()} >= {MODALITIES, MODALITIES[1:]}


def test_live_counters_and_reasons_equal_offline_ones(weights, tmp_path):
    """Frames of a set that were not used for its mask are counted equally."""

    def change(entry):
        topic, kind, stamp, message = entry
        number = (stamp - START) // PERIOD
        if topic == "/lidar/points" and number == 9:
            message = {**message, "point_step": 7}
        if topic == "/depth/image_raw" and number == 11:
            message = {**message, "header": {**message["header"], "stamp": {"sec": 0, "nanosec": 0}}}
        return without_place(LIDAR_FRAME)((topic, kind, stamp, message))

    class Keeper(MaskListener):
        def __init__(self):
            self.used = {}

        def on_mask(self, made):
            self.used[made.mask.stamp] = {m: counts["used"] for m, counts in made.counters.items()}

    bag, keeper = write(tmp_path / "bag", change, STEPS), Keeper()
    files = weights["checkpoint"], weights["base_weights"]
    found = evaluate(bag, Pipeline.from_checkpoint(*files, "cpu", "fp32", 1), listeners=[keeper])
    assert found.counters["lidar"] == dict.fromkeys(found.counters["lidar"], 0) | {"received": 20, "refused": 20}
    assert found.counters["depth"] == dict.fromkeys(found.counters["depth"], 0) | {
        "received": 20, "used": 19, "refused": 1,
    }  # fmt: skip
    assert found.refusals["depth"] == {"stamp is zero": 1}

    heard = node_outputs(bag, weights)
    statuses = heard["/mlesam/status"]
    for status in statuses.values():
        for s in status.sensors:
            assert s.received >= s.used_total + s.superseded + s.late + s.unmatched + s.refused
    live = {stamp: {s.modality: s.used_total for s in status.sensors} for stamp, status in statuses.items()}
    offline = list(pairwise(keeper.used))
    both = [(one, other) for one, other in pairwise(live) if (one, other) in offline]
    assert len(both) > STEPS // 2  # a busy machine may miss a step
    for one, other in both:
        assert {m: live[other][m] - live[one][m] for m in MODALITIES} == {
            m: keeper.used[other][m] - keeper.used[one][m] for m in MODALITIES
        }
    last = {s.modality: s for s in list(statuses.values())[-1].sensors}
    assert last["lidar"].used_total == 0 and last["lidar"].refused > STEPS // 2
    reasons = {
        (status.name.rsplit("/")[-1].split()[-1], pair.key.removeprefix("refused: "))
        for array in heard["/diagnostics"].values()
        for status in array.status
        for pair in status.values
        if pair.key.startswith("refused: ")
    }
    assert {(modality, str(words)) for modality, known in found.refusals.items() for words in known} <= reasons
