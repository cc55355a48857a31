"""docs/node.md is what the code says."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy")
from mlesam_ros.config import iter_parameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.ros import node_page as reference
from mlesam_ros.ros.diagnostics import PIPELINE_MESSAGES, SENSOR_MESSAGES
from mlesam_ros.ros.topics import OUTPUTS, SERVICES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "node.md"


def test_the_tables_are_fresh():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert reference.refreshed(text) == text, "make them anew: python -m mlesam_ros.ros.node_page docs/node.md"


def test_nothing_is_left_out():
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, _, _ in iter_parameters():
        sensor, _, short = name.rpartition(".")
        assert (f"`<sensor>.{short}`" if sensor else f"`{name}`") in text
    for name in (*OUTPUTS, *SERVICES):
        assert f"`~/{name}`" in text
    for saying in (*SENSOR_MESSAGES.values(), *PIPELINE_MESSAGES.values()):
        assert saying.message.replace(".message}", "}") in text and saying.cause.endswith(".")
        assert saying.remedy or saying.level == b"\0"


def test_every_cell_is_within_its_row():
    for make in reference.TABLES.values():
        widths = {line.replace("\\|", "").count("|") for line in make().splitlines()}
        assert len(widths) == 1


def test_a_document_without_a_place_is_refused():
    with pytest.raises(ConfigError, match="begin published"):
        reference.refreshed("# The node")


def test_the_node_has_these_topics_and_services_and_no_others(graph, weights):
    from rclpy.parameter import Parameter

    from mlesam_ros.ros.node import PerceptionNode

    given = [Parameter(name, value=value) for name, value in weights.items()]
    # By a name of its own: under mlesam the middleware may still know a node of an earlier test.
    node = graph.node("documented", PerceptionNode, parameter_overrides=given)
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
