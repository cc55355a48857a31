# SPDX-License-Identifier: Apache-2.0
"""The topics and services of the node are those in `OUTPUTS` and `SERVICES`."""

import pytest

pytest.importorskip("rclpy")
from mlesam_ros.ros.publishers import OUTPUTS
from mlesam_ros.ros.snapshot import SERVICES


def test_node_has_exactly_the_documented_topics_and_services(graph, weights):
    # By a name of its own: under mlesam the middleware may still know a node of an earlier test.
    node = graph.perception_node(weights, "documented")
    node.start()
    space = (node.get_name(), node.get_namespace())

    def ours() -> dict:
        found = dict(node.get_publisher_names_and_types_by_node(*space))
        return {n: t for n, t in found.items() if n.startswith("/documented/") and n != "/documented/transition_event"}

    expected = {f"/documented/{name}": [output.type_name] for name, output in OUTPUTS.items()}
    graph.spin_until(lambda: ours() == expected, 20)  # the middleware tells of a node's own topics a little later
    assert ours() == expected
    wanted = {f"/documented/{name}": [service.type_name] for name, service in SERVICES.items()}
    offered = lambda: dict(node.get_service_names_and_types_by_node(*space))  # noqa: E731
    assert graph.spin_until(lambda: wanted.items() <= offered().items(), 20), offered()
