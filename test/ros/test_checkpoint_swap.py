# SPDX-License-Identifier: Apache-2.0
"""Checkpoint swap while masks are made: between two sets, or refused with a reason."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
import torch
from listener import Listener
from rclpy.parameter import Parameter
from robot import Robot

from mlesam_ros.model.checkpoint import load_base, save_checkpoint
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, PREPROCESSORS
from mlesam_ros.types import CAMERA, LIDAR, MODALITIES


def trained(
    folder: Path, weights: dict, name: str, modalities=MODALITIES, base: bool = True, seed: int = 1, **changes
) -> str:
    """Write a checkpoint with random experts on the tiny base weights."""
    preprocessors = {m: DEFAULT_PREPROCESSORS[m] for m in modalities}
    normalization = {m: PREPROCESSORS[e]().normalization for m, e in preprocessors.items()}
    torch.manual_seed(seed)
    values = {
        "rank": 2,
        "image_size": 64,
        "modalities": modalities,
        "preprocessors": preprocessors,
        "normalization": normalization,
    }
    model = MLESAM(MLESAMConfig(**{**values, **changes}))
    if base:
        load_base(model, weights["base_weights"])
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, model)
    return str(path)


@pytest.fixture
def node(graph, weights):
    made = graph.perception_node(weights)
    made.start()
    return made


def masks_of(graph, robot, listener, count=2):
    """The newest labels after a few more sets."""
    seen = len(listener.got["labels"])
    for _ in range(100):
        robot.sense()
        if graph.spin_until(lambda: len(listener.got["labels"]) >= seen + count, 0.1):
            return np.frombuffer(listener.got["labels"][-1].data, np.uint8)
    pytest.fail("no masks")


def test_checkpoint_is_swapped_and_swapped_back_while_masks_are_made(graph, node, weights, tmp_path):
    robot, listener = Robot(graph.node("robot")), Listener(graph.node("listener"))
    other = trained(tmp_path, weights, "other", seed=7)
    assert graph.spin_until(lambda: robot.heard)
    masks_of(graph, robot, listener)
    pipeline = node._runtime._pipeline
    before = {n: t.clone() for n, t in pipeline.network.state_dict().items() if not n.startswith("backbone.")}

    assert node.set_parameters([Parameter("checkpoint", value=other)])[0].successful
    masks_of(graph, robot, listener)
    now = pipeline.network.state_dict()
    assert any(not torch.equal(before[n], now[n]) for n in before if n.startswith("experts."))
    assert any(not torch.equal(before[n], now[n]) for n in before if not n.startswith("experts."))

    assert node.set_parameters([Parameter("checkpoint", value=weights["checkpoint"])])[0].successful
    masks_of(graph, robot, listener)
    now = pipeline.network.state_dict()
    assert all(torch.equal(before[n], now[n]) for n in before)
    status = listener.got["status"][-1]
    for sensor in status.sensors:
        fates = sensor.used_total + sensor.superseded + sensor.late + sensor.unmatched + sensor.refused
        assert 0 <= sensor.received - fates <= 2, "nothing is lost in the exchange"
        assert sensor.refused == 0
    assert [s.sequence for s in listener.got["status"]] == list(range(1, status.sequence + 1))


@pytest.mark.parametrize(
    "changes",
    [{"top_k": 1}, {"fuse": "main"}, {"features": "routed"}, {"gate": "sigmoid"}, {"image_size": 96}],
    ids=str,
)
def test_swapped_checkpoint_gives_the_masks_of_a_new_node(graph, node, weights, tmp_path, changes):
    """The reference is a new pipeline with the same file."""
    robot, listener = Robot(graph.node("robot")), Listener(graph.node("listener"))
    other = trained(tmp_path, weights, "other", seed=7, **changes)
    assert graph.spin_until(lambda: robot.heard)
    masks_of(graph, robot, listener)
    pipeline = node._runtime._pipeline
    assert node.set_parameters([Parameter("checkpoint", value=other)])[0].successful
    fresh = Pipeline.from_checkpoint(other, weights["base_weights"], "cpu", "fp32", 1)
    masks_of(graph, robot, listener)
    with node._runtime._pipeline_lock:
        side = pipeline.config.image_size
        images = {m: np.random.default_rng(1).normal(size=(3, side, side)).astype(np.float32) for m in MODALITIES}
        ours, theirs = pipeline.infer(images), fresh.infer(images)
    assert side == fresh.config.image_size
    assert np.array_equal(ours.labels, theirs.labels) and np.array_equal(ours.confidence, theirs.confidence)
    assert ours.weights == theirs.weights


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modalities": (CAMERA, LIDAR)}, "modalities ('camera', 'lidar'), but the model has"),
        ({"base": False}, "but the ones loaded have"),
        (None, "there is no checkpoint"),
        (64, "truncated or not a weights file"),
    ],
    ids=["modalities", "base", "missing", "truncated"],
)
def test_incompatible_checkpoint_is_refused_and_the_old_one_stays(graph, node, weights, tmp_path, options, words):
    path = str(tmp_path / "nowhere.safetensors")
    if isinstance(options, dict):
        path = trained(tmp_path, weights, "wrong", **options)
    elif options:
        Path(path).write_bytes(Path(weights["checkpoint"]).read_bytes()[:options])
    before = {n: t.clone() for n, t in node._runtime._pipeline.network.state_dict().items()}
    both = [Parameter("overlay_alpha", value=0.1), Parameter("checkpoint", value=path)]
    result = node.set_parameters_atomically(both)
    assert not result.successful and words in result.reason and "\n" not in result.reason
    assert node.get_parameter("checkpoint").value == weights["checkpoint"]
    assert node.parameters.overlay_alpha == 0.5
    after = node._runtime._pipeline.network.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_checkpoint_set_before_configure_is_loaded_by_configure(graph, weights):
    node = graph.perception_node({**weights, "autostart": False})
    assert node.set_parameters([Parameter("checkpoint", value="/nowhere.safetensors")])[0].successful
