# SPDX-License-Identifier: Apache-2.0
"""The SROS 2 policy allows what the node does on its graph, and nothing else."""

from xml.etree import ElementTree

import pytest

pytest.importorskip("rclpy")
from robot import Robot

from mlesam_ros.resources import resource_path

POLICY = "config/sros2/mlesam.policy.xml"
OWN = "policed"
"""The node's name here: the graph may still know a node of another test that had the policy's."""
ALLOWED = {"topics": ("topic", {"publish", "subscribe"}), "services": ("service", {"reply"})}


def allowed() -> dict[str, set[str]]:
    """publish, subscribe and reply → full names."""
    profile = ElementTree.parse(resource_path(POLICY)).getroot().find("enclaves/enclave/profiles/profile")
    namespace, node = profile.get("ns"), profile.get("node")
    found: dict[str, set[str]] = {}
    for group in profile:
        entry, verbs = ALLOWED[group.tag]
        ((verb, qualifier),) = group.attrib.items()
        assert verb in verbs and qualifier == "ALLOW" and {child.tag for child in group} == {entry}
        names = [child.text.replace("~", f"{namespace}{node}", 1) for child in group]
        assert len(set(names)) == len(names)
        found.setdefault(verb, set()).update(name if name.startswith("/") else f"{namespace}{name}" for name in names)
    return found


def test_policy_has_the_schema_of_sros_2():
    """Its schema, policy.xsd of version 0.2.0, in short: one list of enclaves, of profiles, of rules."""
    root = ElementTree.parse(resource_path(POLICY)).getroot()
    assert (root.tag, root.attrib) == ("policy", {"version": "0.2.0"})
    (enclave,) = root.find("enclaves")
    assert enclave.attrib == {"path": "/mlesam"} and [child.tag for child in enclave] == ["profiles"]
    (profile,) = enclave.find("profiles")
    assert (profile.tag, profile.attrib) == ("profile", {"ns": "/", "node": "mlesam"})
    assert allowed().keys() == {"publish", "subscribe", "reply"}


def test_policy_matches_the_graph_of_the_node(graph, weights):
    node = graph.perception_node({**weights, "snapshot_seconds": 5.0}, OWN)
    node.start()
    robot = Robot(graph.node("robot"))
    assert graph.spin_until(lambda: robot.heard)

    def told(ask) -> set[str]:
        return {name.replace(f"/{OWN}/", "/mlesam/") for name, _ in ask(OWN, "/")}

    asks = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
        "reply": node.get_service_names_and_types_by_node,
    }
    wanted = allowed()
    wanted["subscribe"].remove("/clock")  # heard with use_sim_time alone
    for verb, ask in asks.items():
        graph.spin_until(lambda ask=ask, verb=verb: told(ask) == wanted[verb], 20)
        assert told(ask) == wanted[verb], verb
