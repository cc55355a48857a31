# SPDX-License-Identifier: Apache-2.0
"""The examples of CONTRIBUTING.md, applied to a copy of the package and used; files that each takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Reader, Writer
from rosbags.rosbag2.enums import StoragePlugin
from small_bag import PERIOD, START, STORE, image, info

CHECKOUT = Path(__file__).resolve().parents[2]
COPIED = ("mlesam_ros", "training", "config")
LINKED = ("launch", "msg", "pyproject.toml", "test", "tools", "weights")
EXAMPLE = re.compile(r'^```(python|diff) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SECTIONS = re.split(r"^### (.+)\n", (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
EXAMPLES = {
    heading: EXAMPLE.findall(text) for heading, text in zip(SECTIONS[1::2], SECTIONS[2::2], strict=True)
}  # fmt: skip
"""Heading → (form, path, content) of its examples."""
MOST_FILES = {"A data set": 1, "A modality": 5, "A backbone": 1, "An output topic": 3, "A command": 2}
"""Files that are written by hand; tables of docs/ follow by `python tools/pages.py`, and a data set has a recipe."""


def apply(root: Path, form: str, name: str, content: str) -> None:
    """Write a new file, or replace the context and removed lines of each hunk by the context and added lines."""
    path = root / name
    if form == "python":
        assert not path.exists()
        path.write_text(content, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    for hunk in content.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
        assert text.count(old) == 1, f"{name} has these lines {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def changed(request, tmp_path) -> Path:
    """A copy of the package with the examples of a section."""
    for name in COPIED:
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LINKED:
        (tmp_path / name).symlink_to(CHECKOUT / name)
    for example in EXAMPLES[request.param]:
        apply(tmp_path, *example)
    return tmp_path


def run(root: Path, *arguments: object) -> str:
    """Standard output of Python with the changed package."""
    paths = os.pathsep.join(str(path) for path in (root, root / "training", CHECKOUT / "test"))
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("heading", MOST_FILES)
def test_addition_takes_few_files(heading):
    files = {name for _, name, _ in EXAMPLES[heading]}
    assert 0 < len(files) <= MOST_FILES[heading]


@pytest.mark.parametrize("changed", ["A data set"], indirect=True)
def test_added_data_set_is_read(changed):
    folder = changed / "VALLEY" / "train"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "one_image.png"), np.full((6, 8, 3), 255, np.uint8))
    cv2.imwrite(str(folder / "one_labels.png"), np.full((6, 8), 3, np.uint8))
    use = """
from mlesam_training.datasets import open_dataset
data = open_dataset("valley", "train", {"root": "VALLEY"})
images, labels = data.sample(0, data.modalities)
print(len(data), images["camera"].shape, labels.max())
"""
    assert run(changed, "-c", use).split() == ["1", "(3,", "6,", "8)", "3"]


def write_bag(path: Path) -> None:
    """Camera and thermal images of 8 x 6 pixels at 10 Hz."""
    types = {"/camera/image_raw": "Image", "/thermal/image_raw": "Image", "/camera/camera_info": "CameraInfo"}
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        names = {topic: f"sensor_msgs/msg/{name}" for topic, name in types.items()}
        connections = {topic: writer.add_connection(topic, name, typestore=STORE) for topic, name in names.items()}
        for stamp in range(START, START + 5 * PERIOD, PERIOD):
            sent = image(stamp, "rgb8", 3, 100), image(stamp, "mono8", 1, 200), info(stamp)
            for topic, message in zip(types, sent, strict=True):
                writer.write(connections[topic], stamp, STORE.serialize_cdr(message, names[topic]))


def evaluate(root: Path) -> dict:
    """Result of `mlesam evaluate` with a tiny model that has an expert for every modality."""
    write_bag(root / "drive")
    make = "from pathlib import Path; from tiny_model import write_tiny_model; write_tiny_model(Path('.'))"
    run(root, "-c", make)
    weights = ["--checkpoint", "experts.safetensors", "--base-weights", "base.safetensors"]
    return json.loads(run(root, "-m", "mlesam_ros.cli", "evaluate", "drive", *weights, "--no-report", "--json", "-"))


@pytest.mark.parametrize("changed", ["A modality"], indirect=True)
def test_added_modality_is_in_masks(changed):
    result = evaluate(changed)
    assert result["sensors"]["thermal"]["topic"] == "/thermal/image_raw"
    assert result["sensors"]["camera"]["topic"] == "/camera/image_raw"
    assert result["sensors"]["thermal"]["used"] == result["masks"] == 5
    assert result["router"]["semantic"].keys() == {"camera", "thermal"}


@pytest.mark.parametrize("changed", ["An output topic"], indirect=True)
def test_added_topic_is_in_the_result_bag(changed):
    output = changed / evaluate(changed)["output_dir"]
    with Reader(output / "result") as reader:
        (connection,) = (c for c in reader.connections if c.topic == "/mlesam/borders")
        images = [STORE.deserialize_cdr(data, connection.msgtype) for _, _, data in reader.messages([connection])]
    assert [(m.encoding, m.height, m.width) for m in images] == [("mono8", 6, 8)] * 5


@pytest.mark.parametrize("changed", ["A backbone"], indirect=True)
def test_added_backbone_encodes(changed):
    use = """
import torch
from mlesam_ros.model.backbones import build_backbone
print(build_backbone("hiera_pico")(torch.zeros(1, 3, 64, 96))["semantic"].shape)
"""
    assert run(changed, "-c", use).strip() == "torch.Size([1, 64, 4, 6])"


@pytest.mark.parametrize("changed", ["A command"], indirect=True)
def test_added_command_prints(changed):
    assert run(changed, "-m", "mlesam_ros.cli", "classes", "street").split()[:2] == ["Building", "Fence"]
    assert "Print the names" in run(changed, "-m", "mlesam_ros.cli", "classes", "--help")


@pytest.mark.parametrize(
    ("changed", "test"),
    [
        ("A modality", "test_parameters.py::test_default_file_has_every_default_and_nothing_else"),
        ("An output topic", "test_policy.py"),
    ],
    indirect=["changed"],
)
def test_files_that_follow_agree_with_the_node(changed, test):
    """By the checkout's tests of the parameter file and the policy, in the copy."""
    pytest.importorskip("rclpy")
    run(changed, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test/ros/{test}")
