# SPDX-License-Identifier: Apache-2.0
"""The node with an exported file: masks, live exchange of the checkpoint, and refusals with their reason."""

import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
from listener import Listener
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from robot import Robot
from tiny_model import write_tiny_model

from mlesam_ros.model.exporter import export_checkpoint
from mlesam_ros.model.runtimes import OPENVINO, export_path, load_exported, write_archive
from mlesam_ros.types import MODALITIES


@pytest.fixture(scope="module")
def exported(weights):
    """Content of the OpenVINO file of the tiny checkpoint, and its metadata."""
    return export_checkpoint(weights["checkpoint"], OPENVINO, "fp32", None, weights["base_weights"])


@pytest.fixture
def file(exported, monkeypatch, tmp_path) -> Path:
    """The file where the node finds it."""
    monkeypatch.setenv("MLESAM_EXPORTS", str(tmp_path))
    content, info = exported
    path = export_path(info.checkpoint_sha256, OPENVINO, "fp32", info.size)
    path.write_bytes(content)
    return path


def given(weights, runtime):
    return {**weights, "runtime": runtime, "precision": "auto"}


def masks(graph, robot, listener, count=2):
    """Number of masks after a few more sets."""
    seen = len(listener.got["labels"])
    for _ in range(100):
        robot.sense()
        if graph.spin_until(lambda: len(listener.got["labels"]) >= seen + count, 0.1):
            return len(listener.got["labels"])
    pytest.fail("no masks")


def test_node_runs_the_chosen_file_and_keeps_it_when_an_exchange_is_refused(graph, weights, file, tmp_path):
    robot, listener = Robot(graph.node("robot")), Listener(graph.node("listener"))
    node = graph.perception_node(given(weights, OPENVINO))
    node.start()
    pipeline = node._runtime._pipeline
    assert "by openvino fp32 for 64x64" in node._runtime.summary
    masks(graph, robot, listener)
    with node._runtime._pipeline_lock:
        rng = np.random.default_rng(0)
        images = {m: rng.normal(size=(3, 64, 64)).astype(np.float32) for m in MODALITIES}
        assert np.array_equal(pipeline.infer(images).confidence, load_exported(file)(images).confidence)

    (tmp_path / "other").mkdir()
    other = write_tiny_model(tmp_path / "other", base=weights["base_weights"], seed=1)["checkpoint"]
    result = node.set_parameters([Parameter("checkpoint", value=other)])[0]
    assert not result.successful and re.search(r"has no file exported from .*Export it: mlesam export", result.reason)
    assert "\n" not in result.reason and pipeline.runtime.startswith("openvino fp32 for 64x64")
    masks(graph, robot, listener)


def test_auto_exchanges_the_checkpoint_by_pytorch_and_returns_to_the_file(graph, weights, file, exported, tmp_path):
    info = replace(exported[1], precision="int8")  # the only one that auto takes
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist() if name != "info.json"}
    export_path(info.checkpoint_sha256, OPENVINO, "int8", info.size).write_bytes(write_archive(parts, info))
    robot, listener = Robot(graph.node("robot")), Listener(graph.node("listener"))
    node = graph.perception_node(given(weights, "auto"))
    node.start()
    pipeline = node._runtime._pipeline
    (tmp_path / "other").mkdir()
    other = write_tiny_model(tmp_path / "other", base=weights["base_weights"], seed=1)["checkpoint"]
    for checkpoint, runtime in ((None, "openvino int8"), (other, "torch"), (weights["checkpoint"], "openvino int8")):
        assert checkpoint is None or node.set_parameters([Parameter("checkpoint", value=checkpoint)])[0].successful
        assert pipeline.runtime.startswith(runtime)
        masks(graph, robot, listener)
    status = listener.got["status"][-1]
    assert all(sensor.refused == 0 for sensor in status.sensors)


@pytest.mark.parametrize(("fault", "words"), [("missing", "has no file exported from"), ("damaged", "cannot be read")])
def test_configure_fails_with_the_reason_and_can_be_repeated(fault, words, graph, weights, file):
    content = file.read_bytes()
    file.unlink() if fault == "missing" else file.write_bytes(content[:1000])
    listener = Listener(graph.node("listener"))
    node = graph.perception_node({**given(weights, OPENVINO), "autostart": False})
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE and node.state == "unconfigured"
    assert graph.spin_until(lambda: words in listener.words("pipeline"))
    file.write_bytes(content)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert "by openvino fp32" in node._runtime.summary
