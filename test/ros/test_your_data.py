# SPDX-License-Identifier: Apache-2.0
"""The page on data of one's own, to the letter: 300 pictures in a foreign layout, its commands, and the node."""

import json
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("rclpy")
from listener import Listener
from node_process import NodeProcess
from robot import HEIGHT, WIDTH, Robot
from sensor_msgs.msg import Image

from mlesam_ros.cli.app import app
from mlesam_ros.labels import load_label_space
from mlesam_ros.messages import stamp_ns
from mlesam_ros.simulation.export import write_simulated_bag
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR

PAGE = (Path(__file__).parents[2] / "docs/your_data.md").read_text(encoding="utf-8")
CLASSES = {
    "Street": ("Road", "RoadLine", "SideWalk", "Ground"), "House": ("Building", "Wall"),
    "Green": ("Vegetation", "Terrain"),
    "Car": ("Cars", "Bus", "Truck", "TwoWheeler"), "Human": ("Pedestrian",), "Air": ("Sky",),
}  # fmt: skip
TINY = "steps: 3\nbatch: 2\nthreads: 1\ndevice: cpu\nlog_every: 1\n"


def block(name):
    """A marked block of the page."""
    return re.search(rf"<!-- your_data: {re.escape(name)} -->\n```\w*\n(.*?)```", PAGE, re.S)[1]


def write_pictures(root, palette):
    """300 pictures of unequal sizes from 75 moments; every second label image has a palette."""
    names, rng = load_label_space("deliver").names, np.random.default_rng(0)
    table = np.zeros((256, 3), np.uint8)
    for name, members in CLASSES.items():
        table[[names.index(member) for member in members]] = palette[name]
    for moment in range(75):
        frame = World(moment % 5, "sun", (96, 128)).sample(moment)
        picture = frame.frames[CAMERA].payload
        rgb = np.asarray(picture.data).reshape(picture.height, -1)[:, : 3 * picture.width].reshape(96, 128, 3)
        for part in range(4):
            top, left = rng.integers(0, (32, 48))
            height, width = rng.integers(48, 64), rng.integers(64, 80)
            inside = slice(top, top + height), slice(left, left + width)
            split, stem = "val" if moment % 5 == 4 else "train", f"{moment:03d}_{part}"
            for folder in ("rgb", "gt"):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(rgb[inside]).save(
                root / f"rgb/{split}/{stem}.{'jpg' if part % 2 else 'png'}", quality=95
            )
            labels = PIL.Image.fromarray(table[frame.labels[inside]])
            (labels.quantize(colors=16) if part % 2 else labels).save(root / f"gt/{split}/{stem}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder in which the commands of the page for pictures were run, and the command of the node."""
    folder = tmp_path_factory.mktemp("yard")
    description = block("yard.yaml")
    write_pictures(folder / "photos", yaml.safe_load(description)["data"]["palette"])
    (folder / "yard_space.yaml").write_text(block("yard_space.yaml"))
    (folder / "yard.yaml").write_text(description + TINY)
    commands, (node,) = block("commands").splitlines(), block("node_commands").splitlines()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            program, *arguments = shlex.split(command)
            done = CliRunner().invoke(app, arguments)
            assert program == "mlesam" and done.exit_code == 0, (command, done.output, done.exception)
    return folder, dict(word.split(":=") for word in shlex.split(node) if ":=" in word)


def test_page_keeps_its_promise_of_length():
    blocks = re.findall(r"<!-- your_data: (\S+) -->\n```\w*\n(.*?)```", PAGE, re.S)
    lines = {name: len(text.splitlines()) for name, text in blocks}
    assert lines["yard_space.yaml"] + lines["yard.yaml"] <= 15
    theirs = [len(text.splitlines()) for text in re.findall(r"```python\n(.*?)```", PAGE, re.S)]
    assert f"| {lines['yard_space.yaml'] + lines['yard.yaml']}, with roles for costmaps | {theirs[0]} |" in PAGE
    assert f"| 0 | {theirs[1]} |" in PAGE and len(theirs) == 2
    assert sum(count for name, count in lines.items() if name.endswith("commands")) <= 10


def test_classes_of_the_page_are_learned_from_the_foreign_layout(trained):
    folder, _ = trained
    pictures = sorted((folder / "photos/rgb").rglob("*.*"))
    assert len(pictures) == 300 and len({PIL.Image.open(path).size for path in pictures}) > 50
    found = json.loads(next((folder / "runs").glob("evaluate*/metrics.json")).read_text())
    space = load_label_space(folder / "yard_space.yaml")
    assert found["label_space"] == "yard" and list(found["subsets"][0]["per_class"]) == list(space.names)
    trained_on = json.loads((folder / "runs/yard/evaluation.json").read_text())["subsets"]
    assert found["subsets"][0]["miou"] == pytest.approx(trained_on[0]["miou"], abs=1)


def test_bags_are_labeled_and_trained_on_by_the_page(tmp_path, monkeypatch):
    """The proposals are the corrected masks, and the training is short."""
    write_simulated_bag(tmp_path / "drive", World(8, "day", (64, 96), dropped=(DEPTH, EVENT, LIDAR)), range(21))
    monkeypatch.chdir(tmp_path)
    for command in block("bag_commands").splitlines():
        program, *arguments = shlex.split(command)
        if "--import" in arguments:
            shutil.copytree("labels/proposals", "corrected")
        if arguments[0] == "train":
            Path("labels/data.yaml").write_text(Path("labels/data.yaml").read_text() + TINY)
        done = CliRunner().invoke(app, arguments)
        assert program == "mlesam" and done.exit_code == 0, (command, done.output, done.exception)
    for path in Path("labels/labels").iterdir():
        masks = [np.asarray(PIL.Image.open(each)) for each in (path, Path("corrected/SegmentationClass") / path.name)]
        assert np.array_equal(load_label_space("deliver").palette[masks[0]], masks[1])
    described = json.loads(Path("runs/yard/evaluation.json").read_text())
    assert [entry["sensors"] for entry in described["subsets"]] == [["camera"]]


def test_own_label_space_on_every_topic_of_the_node(trained, graph, tmp_path):
    folder, parameters = trained
    space = load_label_space(folder / "yard_space.yaml")
    checkpoint = folder / parameters["checkpoint"]
    node = NodeProcess(tmp_path / "node.log", checkpoint=checkpoint)
    try:
        robot, listener, pictures = Robot(graph.node("robot")), Listener(graph.node("listener")), {}
        topic = parameters["camera_topic"]
        keep = lambda m: pictures.setdefault(stamp_ns(m.header), np.frombuffer(m.data, np.uint8))  # noqa: E731
        graph.node("viewer").create_subscription(Image, topic, keep, 10)
        got = listener.got
        seen = lambda: {*listener.stamps("labels")} & {*listener.stamps("overlay")} & {*pictures}  # noqa: E731
        for _ in range(600):
            robot.sense((CAMERA,))
            if graph.spin_until(lambda: seen() and got["label_info"] and len(seen()) > 2, 0.1):
                break
        assert seen() and got["label_info"], (tmp_path / "node.log").read_text()
    finally:
        node.end(signal.SIGINT)
    named = got["label_info"][0]
    assert (named.name, [c.name for c in named.classes]) == ("yard", list(space.names))
    stamp = max(seen())
    labels, shown = (
        np.frombuffer(next(m for m in got[name] if stamp_ns(m.header) == stamp).data, np.uint8)
        for name in ("labels", "overlay")
    )
    assert labels.max() < len(space)
    mixed = (pictures[stamp].reshape(-1, 3).astype(int) + space.palette[labels]) / 2
    assert np.abs(shown.reshape(-1, 3) - mixed).max() <= 1 and labels.shape == (HEIGHT * WIDTH,)


def test_report_has_the_classes_of_the_page(trained, tmp_path):
    """A bag with DELIVER's labels, mapped by a file as the page describes it."""
    folder, parameters = trained
    bag = write_simulated_bag(tmp_path / "street", World(3, "day", (64, 96)), range(3))
    own = dict(zip(CLASSES, ("ground", "building", "plant", "vehicle", "person", "sky"), strict=True))
    named = {member: own[name] for name, members in CLASSES.items() for member in members}
    others = {name: "ignore" for name in load_label_space("deliver").names if name not in named}
    (tmp_path / "foreign.yaml").write_text(yaml.safe_dump({"raw_space": "deliver", "map": {**named, **others}}))
    asked = [
        "evaluate",
        str(bag),
        "--checkpoint",
        str(folder / parameters["checkpoint"]),
        "--output",
        str(tmp_path / "runs"),
    ]
    done = CliRunner().invoke(app, [*asked, "--map", str(tmp_path / "foreign.yaml")])
    assert done.exit_code == 0, (done.output, done.exception)
    page = (tmp_path / "runs/latest/report.html").read_text()
    figures = json.loads((tmp_path / "runs/latest/metrics.json").read_text())
    assert list(figures["per_class"]) == list(own.values()) and figures["compared"] == 3
    assert all(name in page for name in own.values()) and "TwoWheeler" not in page
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code and "label space yard has 0 to 5" in refused.output
