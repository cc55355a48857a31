# SPDX-License-Identifier: Apache-2.0
"""A ROS graph per test, in this process."""

import gc
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("rclpy")
from rclpy.node import Node
from ros_graph import Graph


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item):
    """Collect the nodes of a finished test: until then the middleware lists them, and their names are in use."""
    yield
    if "graph" in getattr(item, "fixturenames", ()):
        item.funcargs.clear()
        gc.collect()


@pytest.fixture
def graph() -> Iterator[Graph]:
    made = Graph()
    yield made
    made.close()


@pytest.fixture
def other_graph() -> Iterator[Callable[[], Node]]:
    """Makes nodes in contexts of their own: one process of DDS knows only one type per topic."""
    graphs: list[Graph] = []

    def make() -> Node:
        graphs.append(Graph())
        return graphs[-1].node("driver")

    yield make
    for other in graphs:
        other.close()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The parameters that name a tiny model of random weights."""
    from tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("weights"))
