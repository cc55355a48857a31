# SPDX-License-Identifier: Apache-2.0
"""Heartbeats of an active node. Where bondpy is installed, it is the manager's end of the bond."""

import threading
import time

import pytest

pytest.importorskip("rclpy")
from bond.msg import Status
from rclpy.parameter import Parameter
from ros_graph import Graph

from mlesam_ros.ros import node as node_module

NAME = "bonded"
"""The node's name here: the graph may still know a node of another test that had the default name."""


@pytest.fixture
def manager():
    """A graph that spins in a thread of its own, as another process does."""
    made, ended = Graph(), threading.Event()
    made.bonds = []

    def spin() -> None:
        while not ended.is_set():
            made.executor.spin_once(timeout_sec=0.02)

    thread = threading.Thread(target=spin)
    thread.start()
    yield made
    ended.set()
    thread.join()
    for bond in made.bonds:
        bond.shutdown()
    made.close()


@pytest.fixture
def heard(manager):
    """Heartbeats, in the order of their arrival."""
    heartbeats: list[Status] = []
    manager.node("listener").create_subscription(Status, "bond", heartbeats.append, 10)
    return heartbeats


@pytest.fixture
def node(graph, weights):
    """A configured node whose heartbeats are subscribed to."""
    made = graph.perception_node({**weights, "autostart": False}, NAME)
    made.trigger_configure()
    return made


def joined(graph, node) -> bool:
    return graph.spin_until(lambda: node.count_subscribers("bond"), 10)


def long_swap(monkeypatch, node, load):
    """Exchange the checkpoint in a callback of the node, which lasts as long as `load`."""
    monkeypatch.setattr(node._runtime, "swap_checkpoint", lambda checkpoint: load())
    return node.set_parameters([Parameter("checkpoint", value="other")])[0]


def test_heartbeats_last_from_activate_to_deactivate(graph, node, heard):
    assert joined(graph, node)
    graph.spin_for(0.6)
    assert not heard
    instances = set()
    for _ in range(2):
        heard.clear()
        node.trigger_activate()
        assert graph.spin_until(lambda: len(heard) >= 4, 30)
        node.trigger_deactivate()
        assert graph.spin_until(lambda: not heard[-1].active, 30)
        graph.spin_for(0.6)
        assert [message.active for message in heard] == [True] * (len(heard) - 1) + [False]
        assert {(m.id, m.heartbeat_period, m.heartbeat_timeout) for m in heard} == {(NAME, 0.25, 4.0)}
        instances |= {message.instance_id for message in heard}
    assert len(instances) == 2, "one per activation, as bond_core requires"


@pytest.mark.parametrize("end", ["trigger_shutdown", "destroy_node"])
def test_last_message_of_a_node_breaks_the_bond(graph, node, heard, end):
    assert joined(graph, node)
    node.trigger_activate()
    assert graph.spin_until(lambda: heard, 30)
    if end == "destroy_node":
        graph.executor.remove_node(node)
        graph._nodes.remove(node)
    getattr(node, end)()
    assert graph.spin_until(lambda: not heard[-1].active, 30)
    assert sum(not message.active for message in heard) == 1


def test_heartbeats_go_on_while_a_checkpoint_is_loaded(graph, node, heard, monkeypatch):
    assert joined(graph, node)
    node.trigger_activate()
    assert graph.spin_until(lambda: heard, 30)
    counts = []

    def load():
        """Last for some heartbeats."""
        counts.append(len(heard))
        end = time.monotonic() + 30
        while len(heard) < counts[0] + 5 and time.monotonic() < end:
            time.sleep(0.01)
        counts.append(len(heard))

    assert long_swap(monkeypatch, node, load).successful
    before, after = counts
    assert after >= before + 5
    assert graph.spin_until(lambda: len(heard) >= after + 3, 30), "the timer goes on"
    assert all(message.active for message in heard)


def test_missing_package_is_named_once(graph, weights, monkeypatch, capfd):
    monkeypatch.setattr(node_module, "message_class", lambda name: None)
    node = graph.perception_node({**weights, "autostart": False}, NAME)
    node.trigger_configure()
    for _ in range(2):
        node.trigger_activate()
        assert node.state == "active" and not node.count_publishers("bond")
        node.trigger_deactivate()
    assert capfd.readouterr().err.count("package bond is not installed") == 1


@pytest.fixture
def bond(manager):
    """Bonds as nav2's lifecycle manager does: id = name of the node, heartbeat timeout = bond_timeout."""
    bondpy = pytest.importorskip("bondpy.bondpy", reason="bondpy is not installed")

    def make():
        made = bondpy.Bond(manager.node(f"manager{len(manager.bonds)}"), "bond", NAME)
        made.heartbeat_timeout, made.heartbeat_period = 4.0, 0.1
        made.start()
        manager.bonds.append(made)
        return made

    return make


def reaches(graph, bond, state: str) -> bool:
    """Whether it does so before bondpy gives up connecting. A broken bond does not come alive again."""
    return graph.spin_until(lambda: bond.sm.getState().getName() == f"SM.{state}", 10.0)


def test_bond_with_nav2s_manager_lasts_from_activate_to_deactivate(graph, node, bond):
    for _ in range(2):
        node.trigger_activate()
        made = bond()
        assert reaches(graph, made, "Alive")
        graph.spin_for(5.0)
        assert reaches(graph, made, "Alive"), "heartbeats came within its timeout of 4 s"
        node.trigger_deactivate()
        assert reaches(graph, made, "Dead")


def test_bond_outlasts_the_exchange_of_a_checkpoint_but_not_a_blocked_executor(graph, node, bond, monkeypatch):
    node.trigger_activate()
    made = bond()
    assert reaches(graph, made, "Alive")
    assert long_swap(monkeypatch, node, lambda: time.sleep(6.0)).successful
    assert reaches(graph, made, "Alive")
    time.sleep(6.0)  # a callback that does not return
    assert made.is_broken()


def test_ended_manager_leaves_the_node_active(graph, node, bond):
    node.trigger_activate()
    first = bond()
    assert reaches(graph, first, "Alive")
    first.break_bond()
    graph.spin_for(3.0)
    assert node.state == "active" and reaches(graph, bond(), "Alive")
