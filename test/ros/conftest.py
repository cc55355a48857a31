"""A ROS graph per test, in this process."""

import os
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("rclpy")
from rclpy.node import Node
from ros_graph import Graph

from mlesam_ros.ros.process import transport_environment


@pytest.fixture(scope="session", autouse=True)
def transport() -> None:
    """The profile that carries images, for this process and the ones it starts."""

    os.environ.update(transport_environment())


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
    import torch

    from mlesam_ros.encoding.encoders import DEFAULT_ENCODERS, ENCODERS
    from mlesam_ros.model.checkpoint import save_checkpoint
    from mlesam_ros.model.config import MLESAMConfig
    from mlesam_ros.model.mlesam import build_mlesam
    from mlesam_ros.model.weights import save_backbone

    torch.manual_seed(0)
    statistics = {m: ENCODERS[name]().statistics for m, name in DEFAULT_ENCODERS.items()}
    model = build_mlesam(MLESAMConfig(rank=2, image_size=64, encoders=DEFAULT_ENCODERS, statistics=statistics))
    folder = tmp_path_factory.mktemp("weights")
    save_backbone(folder / "base.safetensors", model.backbone)
    save_checkpoint(folder / "experts.safetensors", model)
    return {
        "checkpoint": str(folder / "experts.safetensors"),
        "base_weights": str(folder / "base.safetensors"),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    }
