# SPDX-License-Identifier: Apache-2.0
"""Every order of lifecycle transitions, and parameter changes under load."""

import gc
import threading
import weakref

import pytest

pytest.importorskip("rclpy")
import torch
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from listener import Listener
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from robot import Robot

from mlesam_ros.pipeline import Pipeline
from mlesam_ros.types import CAMERA, LIDAR, MODALITIES

MOVES = {
    ("unconfigured", "configure"): "inactive",
    ("inactive", "activate"): "active",
    ("active", "deactivate"): "inactive",
    ("inactive", "cleanup"): "unconfigured",
}
NUMBERS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "shutdown": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
}


class Manager:
    """Client of the lifecycle services."""

    def __init__(self, graph, node) -> None:
        self._graph, self._node = graph, graph.node("manager")
        self._change = self._node.create_client(ChangeState, f"/{node}/change_state")
        self._state = self._node.create_client(GetState, f"/{node}/get_state")
        self._available = self._node.create_client(GetAvailableTransitions, f"/{node}/get_available_transitions")
        assert graph.spin_until(lambda: all(c.service_is_ready() for c in (self._change, self._state, self._available)))

    def _call(self, client, request):
        future = client.call_async(request)
        assert self._graph.spin_until(future.done)
        return future.result()

    def ask(self, transition: str) -> bool:
        request = ChangeState.Request(transition=Transition(id=NUMBERS[transition], label=transition))
        return self._call(self._change, request).success

    @property
    def state(self) -> str:
        return self._call(self._state, GetState.Request()).current_state.label

    @property
    def offered(self) -> set:
        found = self._call(self._available, GetAvailableTransitions.Request()).available_transitions
        return {entry.transition.label for entry in found}


@pytest.fixture
def node(graph, weights):
    given = {**weights, "autostart": False, "snapshot_seconds": 5.0}
    return graph.perception_node(given)


def workers() -> int:
    return sum(thread.name == "mlesam_worker" for thread in threading.enumerate())


def orders(state="unconfigured", length=4):
    """Every order of transitions of that length, or that ends sooner with one that is not possible."""
    for transition in ("configure", "activate", "deactivate", "cleanup"):
        following = MOVES.get((state, transition))
        if following is None or length == 1:
            yield (transition,)
        else:
            yield from ((transition, *rest) for rest in orders(following, length - 1))


def test_every_order_of_four_transitions(graph, node):
    """Invalid transitions are refused without effect, and no resource is left over."""
    manager, robot = Manager(graph, "mlesam"), Robot(graph.node("robot"))
    empty = len(list(node.subscriptions)), len(list(node.publishers)), len(list(node.services))
    refused = 0
    for order in orders():
        state = "unconfigured"
        for transition in order:
            following = MOVES.get((state, transition))
            assert manager.ask(transition) == (following is not None), order
            state, refused = following or state, refused + (following is None)
            assert (node.state, workers()) == (state, state == "active"), order
            robot.sense()
        for transition in {"active": ("deactivate", "cleanup"), "inactive": ("cleanup",)}.get(state, ()):
            assert manager.ask(transition)
        assert manager.state == "unconfigured"
        assert (len(list(node.subscriptions)), len(list(node.publishers)), len(list(node.services))) == empty
    assert refused == 15


def test_available_transitions_succeed(graph, node):
    manager = Manager(graph, "mlesam")
    for transition, offered in (
        (None, {"configure", "shutdown"}),
        ("configure", {"activate", "cleanup", "shutdown"}),
        ("activate", {"deactivate", "shutdown"}),
    ):
        assert transition is None or manager.ask(transition)
        assert manager.offered == offered
    assert node.trigger_shutdown() and node.state == "finalized" and workers() == 0


def test_destroyed_node_leaves_no_thread_and_no_model(graph, weights):
    node = graph.perception_node(weights, "destroyed")
    node.start()
    model = weakref.ref(node._runtime._pipeline._torch.model)
    assert workers() == 1
    graph.executor.remove_node(node)
    graph._nodes.remove(node)
    node.destroy_node()
    gc.collect()
    assert workers() == 0 and model() is None and not list(node.publishers)


def test_lack_of_memory_names_the_need_and_configure_can_be_repeated(graph, node, monkeypatch):
    listener = Listener(graph.node("listener"))
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "warm_up", lambda self, batch: torch.empty(10**13))  # 40 TB, which torch refuses
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE and node.state == "unconfigured"
    assert graph.spin_until(lambda: "it needs at least 400000" in listener.words("pipeline"))
    assert "MB are free" in listener.words("pipeline")
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS


def test_cleanup_frees_the_memory_of_the_network(graph, node):
    robot, listener = Robot(graph.node("robot")), Listener(graph.node("listener"))
    node.trigger_configure()
    weights = [weakref.ref(weight) for weight in node._runtime._pipeline.network.parameters()]
    node.trigger_activate()
    for _ in range(100):
        robot.sense()
        if graph.spin_until(lambda: listener.got["labels"], 0.1):
            break
    assert listener.got["labels"]
    node.trigger_deactivate()
    assert all(weight() is not None for weight in weights)
    node.trigger_cleanup()
    gc.collect()
    assert not any(weight() is not None for weight in weights)


def test_parameters_and_transitions_under_load(graph, node):
    """Parameters and states change while messages arrive and masks are made."""
    robot, listener = Robot(graph.node("robot")), Listener(graph.node("listener"))
    node.trigger_configure()
    for round_ in range(8):
        node.set_parameters([Parameter("modalities", value=list(MODALITIES))])
        node.trigger_activate()
        assert graph.spin_until(lambda: robot.heard)
        for step in range(6):
            robot.sense()
            changes = {
                "modalities": [CAMERA, LIDAR] if step % 2 else list(MODALITIES),
                "confidence_threshold": 0.1 * step,
                "labels_resolution": "network" if step % 3 else "camera",
                "lidar.rate": float(step),
            }
            assert node.set_parameters_atomically([Parameter(n, value=v) for n, v in changes.items()]).successful
            wrong = node.set_parameters_atomically(
                [Parameter("overlay_alpha", value=0.9), Parameter("sensor_timeout", value=-1.0)]
            )
            assert not wrong.successful and node.get_parameter("overlay_alpha").value == 0.5
            graph.spin_for(0.03)
        node.trigger_deactivate()
        assert workers() == 0, round_
    node.trigger_activate()
    node.set_parameters([Parameter("modalities", value=list(MODALITIES))])
    listener.got["status"].clear()
    for _ in range(100):
        robot.sense()
        if graph.spin_until(lambda: listener.masks_from(*MODALITIES), 0.1):
            break
    assert listener.masks_from(*MODALITIES) and node.state == "active"
