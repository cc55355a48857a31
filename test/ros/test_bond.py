# SPDX-License-Identifier: Apache-2.0
"""Bond of an active node with nav2's lifecycle manager."""

import pytest

pytest.importorskip("rclpy")
from mlesam_ros.ros import compat
from mlesam_ros.ros import node as node_module


def test_node_is_bonded_while_it_is_active(graph, weights, monkeypatch):
    """Whatever bondpy is: once per activation, broken before the next."""
    bonds: list[str] = []

    class Bond:
        def __init__(self, node):
            bonds.append(f"bonded {node.state}")

        def shutdown(self):
            bonds.append("broken")

    monkeypatch.setattr(node_module, "LifecycleBond", Bond)
    node = graph.perception_node({**weights, "autostart": False}, "bonded")
    node.trigger_configure()
    assert bonds == []
    for _ in range(2):
        node.trigger_activate()
        node.trigger_deactivate()
    node.trigger_activate()
    node.close()
    assert [entry.split()[0] for entry in bonds] == ["bonded", "broken"] * 3


@pytest.fixture
def manager(graph):
    """Bonds as nav2's lifecycle manager does: create_bond(node name), and waiting for half of bond_timeout."""
    bondpy = pytest.importorskip("bondpy.bondpy", reason="bondpy is not installed")
    bonds = []

    def bond(name: str):
        made = bondpy.Bond(graph.node(f"manager{len(bonds)}"), "bond", name)
        made.heartbeat_timeout, made.heartbeat_period = 4.0, 0.25
        made.start()
        bonds.append(made)
        return made

    yield bond
    for made in bonds:
        made.shutdown()


def reaches(graph, bond, state: str) -> bool:
    """Whether it does so within half of nav2's default bond_timeout."""
    return graph.spin_until(lambda: bond.sm.getState().getName() == f"SM.{state}", 2.0)


def test_nav2s_manager_finds_the_bond_and_its_end(graph, weights, manager):
    assert compat.LifecycleBond is not None
    node = graph.perception_node({**weights, "autostart": False}, "mlesam")
    node.trigger_configure()
    for _ in range(2):
        node.trigger_activate()
        bond = manager("mlesam")
        assert reaches(graph, bond, "Alive")
        graph.spin_for(5.0)
        assert reaches(graph, bond, "Alive"), "heartbeats came within its timeout of 4 s"
        node.trigger_deactivate()
        assert reaches(graph, bond, "Dead")


def test_a_dead_manager_leaves_the_node_active(graph, weights, manager):
    node = graph.perception_node(weights, "mlesam")
    node.start()
    first = manager("mlesam")
    assert reaches(graph, first, "Alive")
    first.is_shutdown = True  # it sends no heartbeat any more
    first.node.destroy_subscription(first.sub)
    graph.spin_for(5.0)
    assert node.state == "active" and reaches(graph, node._bond, "Alive")
