# SPDX-License-Identifier: Apache-2.0
"""Restarts of the node at random times and checkpoint swaps, while a robot publishes."""

import itertools
import signal

import numpy as np
import pytest

pytest.importorskip("rclpy")
from offline import Offline
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from restart_stress import PHASES, Node, endings, summed_up
from ros_graph import Graph
from tiny_model import write_tiny_model
from watch import RobotProcess, Watch

from mlesam_ros.messages import stamp_ns
from mlesam_ros.types import MODALITIES


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    made = RobotProcess(tmp_path_factory.mktemp("robot") / "robot.jsonl")
    yield made
    made.close()


def test_signals_at_random_times_end_the_node_cleanly(robot, weights, tmp_path):
    """Exit code 0, no traceback, and only complete snapshots."""
    found = endings(6, tmp_path, weights, lambda ending: print(vars(ending)))
    assert all(ending.clean for ending in found), [vars(ending) for ending in found]
    assert {ending.phase for ending in found} == set(PHASES)
    assert summed_up(found).count(" s at most") == 2


def test_restarted_node_makes_masks_again(robot, weights, tmp_path):
    watch = Watch(robot, Offline(robot.log, weights))
    try:
        for number in range(2):
            watch.forget()
            node = Node(tmp_path / f"{number}.log", **weights)
            assert watch.until(watch.well, 300), node.log.read_text()
            node.process.kill()
            node.process.wait()
    finally:
        watch.close()


def test_checkpoint_swap_under_load_loses_no_mask(robot, weights, tmp_path):
    (tmp_path / "other").mkdir()
    other = write_tiny_model(tmp_path / "other", weights["base_weights"], seed=7)
    sets = {name: Offline(robot.log, files) for name, files in (("first", weights), ("second", other))}
    watch, graph, node = Watch(robot, sets["first"]), Graph(), Node(tmp_path / "node.log", **weights)
    try:
        client = graph.node("asker").create_client(SetParameters, "/mlesam/set_parameters")
        assert watch.until(watch.well, 300), node.log.read_text()
        watch.forget()
        for files in (other, weights) * 3:
            wanted = Parameter("checkpoint", value=files["checkpoint"]).to_parameter_msg()
            answer = client.call_async(SetParameters.Request(parameters=[wanted]))
            assert graph.spin_until(answer.done, 120) and answer.result().results[0].successful
            seen = len(watch.masks)
            assert watch.until(lambda seen=seen: len(watch.masks) > seen + 2, 60)
        numbers = [status.sequence for _, status in watch.statuses]
        assert all(b == a + 1 for a, b in itertools.pairwise(numbers)), "a mask is missing"
        masks = {stamp_ns(mask.header): mask.data.reshape(mask.height, mask.width) for _, mask in watch.masks}
        compared = [
            {name: offline.explains(status, masks[stamp_ns(status.header)]) for name, offline in sets.items()}
            for _, status in watch.statuses
            if stamp_ns(status.header) in masks
        ]
        assert len(compared) > 12 and all(True in found.values() for found in compared), compared
        assert {name for found in compared for name, same in found.items() if same} == set(sets)
        first, last = ({s.modality: s.refused for s in watch.statuses[at][1].sensors} for at in (0, -1))
        assert first == last and set(last) == set(MODALITIES), "a message was refused because of an exchange"
        assert node.end(signal.SIGTERM)[1] == 0
    finally:
        node.process.kill()
        node.process.wait()
        watch.close()
        graph.close()


def test_the_two_models_differ(weights, tmp_path):
    other = write_tiny_model(tmp_path, weights["base_weights"], seed=7)
    first, second = (np.fromfile(files["checkpoint"], np.uint8) for files in (weights, other))
    assert other["base_weights"] == weights["base_weights"] and not np.array_equal(first, second)
