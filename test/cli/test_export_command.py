# SPDX-License-Identifier: Apache-2.0
"""`mlesam export`: calibration on a bag, the file where the node finds it, and refusals in one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlesam_ros.model import exporter
from mlesam_ros.model.checkpoint import load_checkpoint
from mlesam_ros.model.runtimes import ExportFinder
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.simulation.export import write_simulated_bag
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, FrameSet

STEPS = 4


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("MLESAM_EXPORTS", str(tmp_path / "exports"))
    return tmp_path / "exports"


@pytest.fixture(scope="module")
def world():
    """A street with a robot that has a camera and a LiDAR."""
    return World(3, "sun", (72, 128), dropped=(DEPTH, EVENT))


@pytest.fixture(scope="module")
def bag(world, tmp_path_factory):
    return write_simulated_bag(tmp_path_factory.mktemp("bag") / "drive", world, range(STEPS))


def test_int8_is_calibrated_on_a_bag(mlesam, tiny_checkpoint, world, bag, folder, monkeypatch):
    given, export = [], exporter.export_checkpoint
    monkeypatch.setattr(exporter, "export_checkpoint", lambda *args: given.extend(args[-1]) or export(*args))
    words = ("--format", "openvino", "--precision", "int8", "--calibrate", bag, "--base-weights", tiny_checkpoint.base)
    done = mlesam("export", tiny_checkpoint.path, *words, "--json", folder.parent / "result.json")
    assert done.exit_code == 0, done.output
    assert f"{bag} has no images of depth, event: their encoders stay in fp32" in done.stderr

    plain = Pipeline(load_checkpoint(tiny_checkpoint.path, tiny_checkpoint.base), "cpu", "fp32", 1)
    frames = [world.sample(step) for step in range(STEPS)]
    expected = [plain.encode(FrameSet(f.stamp, CAMERA, f.frames, {}), world.rig)[CAMERA] for f in frames]
    assert len(given) == STEPS
    for images, image in zip(given, expected, strict=True):
        assert set(images) == {CAMERA, LIDAR}
        np.testing.assert_array_equal(images[CAMERA], image)

    result = json.loads((folder.parent / "result.json").read_text())
    path, size = Path(result["path"]), expected[0].shape[1:]
    assert (path.parent, tuple(result["size"]), result["bytes"]) == (folder, size, path.stat().st_size)
    assert {name.partition(" ")[0] for name in result["layers"]} == {CAMERA, LIDAR}
    assert {layer["precision"] for layer in result["layers"].values()} == {"int8", "fp"}

    model = load_checkpoint(tiny_checkpoint.path, tiny_checkpoint.base)
    node = Pipeline(model, "cpu", "fp32", 1, exports=ExportFinder("auto"), checkpoint=tiny_checkpoint.path)
    assert node.runtime == f"openvino int8 for {size[0]}x{size[1]}, torch fp32 for other sizes"
    segmentation = node.segment(FrameSet(frames[0].stamp, CAMERA, frames[0].frames, {}), world.rig)
    assert segmentation.used == (CAMERA, LIDAR) and segmentation.labels.shape == (72, 128)


def test_file_goes_where_output_says(mlesam, tiny_checkpoint, tmp_path, folder):
    words = ("--format", "onnx", "--image-size", "32", "64", "--base-weights", tiny_checkpoint.base)
    done = mlesam("export", tiny_checkpoint.path, *words, "--output", tmp_path / "mine.onnx")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "mine.onnx")
    assert " MB in " in done.stderr and (tmp_path / "mine.onnx").stat().st_size > 1e6
    assert not folder.exists()


INT8 = ("--format", "openvino", "--precision", "int8")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--format", "tensorrt"), "format 'tensorrt' is unknown; accepted are onnx, openvino"),
        (("--format", "onnx", "--precision", "int8"), "format onnx has no precision int8"),
        (("--format", "onnx", "--image-size", "250", "256"), "image size is 250x256; both sides must be multiples"),
        ((*INT8, "--calibrate", "missing_bag"), "missing_bag"),
        ((*INT8, "--calibrate", "BAG", "--image-size", "64", "64"), "have 32x64, not 64x64"),
        (("--format", "onnx", "--output", "/proc/mine.onnx"), "/proc/mine.onnx"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_refusals_are_one_line(mlesam, tiny_checkpoint, bag, words, reason):
    words = [bag if word == "BAG" else word for word in words]
    done = mlesam("export", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base, *words)
    assert done.exit_code == 2
    error = [line for line in done.stderr.splitlines() if not line.startswith("reading")]
    assert len(error) == 1 and reason in error[0]
