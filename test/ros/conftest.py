"""A ROS graph per test, in this process."""

import os
import time
from collections.abc import Callable, Iterator

import pytest

rclpy = pytest.importorskip("rclpy")
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

from mlesam_ros.ros.process import transport_environment  # noqa: E402


class Graph:
    """A context with an executor that a test spins by hand."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list = []

    def node(self, name: str = "test", make: Callable | None = None, **options):
        make = make or rclpy.create_node
        node = make(name, context=self.context, **options)
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def spin_until(self, condition: Callable[[], object], timeout: float = 60.0) -> bool:
        """Spin until the condition holds; whether it did."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if condition():
                return True
            self.executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def spin_for(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def close(self) -> None:
        self.executor.shutdown()
        for node in self._nodes:
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture(scope="session", autouse=True)
def transport() -> None:
    """The profile that carries images, for this process and the ones it starts."""

    os.environ.update(transport_environment())


@pytest.fixture
def graph() -> Iterator[Graph]:
    made = Graph()
    yield made
    made.close()


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
