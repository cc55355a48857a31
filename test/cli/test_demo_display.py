# SPDX-License-Identifier: Apache-2.0
"""Collector, view, images and result bag of the demo."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bags.writer import build
from mlesam_ros.cli.demo.collector import (
    GROUND_TRUTH,
    IMAGE,
    LATCHED,
    RECORDED_TOPICS,
    STEP_NS,
    DemoCollector,
    make_phases,
)
from mlesam_ros.cli.demo.display import Gallery, View
from mlesam_ros.cli.demo.runner import Recorder
from mlesam_ros.errors import BagError
from mlesam_ros.labels import load_label_space

LABELS, STATUS = "/mlesam/labels", "/mlesam/status"
PHASES = make_phases(40)


def serialized(kind: str, **fields) -> bytes:
    return bytes(typestore().serialize_cdr(build(typestore(), kind, fields), kind))


def image(stamp: int, rows: np.ndarray, padding: int = 0) -> bytes:
    height, width = rows.shape
    data = np.pad(rows, ((0, 0), (0, padding))).ravel()
    header = {"stamp": {"sec": stamp // 10**9, "nanosec": stamp % 10**9}}
    return serialized(
        IMAGE, header=header, height=height, width=width, step=width + padding, encoding="mono8", data=data
    )


def status() -> bytes:
    weights = [{"level": "semantic", "weight": 0.75}, {"level": "high_res_0", "weight": 0.5}]
    sensors = [
        {"modality": "camera", "used": True, "age": 0.081, "weights": weights},
        {"modality": "lidar", "used": False, "age": float("nan")},
    ]
    return serialized(RECORDED_TOPICS[STATUS], sensors=sensors, latencies=[{"stage": "model", "seconds": 0.05}])


@pytest.fixture
def collector():
    """Ten moments seen, half of every mask wrong, as if the playback had begun a second ago."""
    heard = DemoCollector(PHASES, 25, lambda *message: None)
    start = time.time_ns() - 10**9
    heard.score.begin(start)
    truth = np.repeat(np.array([[2], [3]], np.uint8), 8, axis=1)
    for index in range(10):
        stamp = start + index * STEP_NS
        heard.add(GROUND_TRUTH, stamp, image(stamp, truth, padding=3))
        heard.add(LABELS, stamp + 80_000_000, image(stamp, np.full((2, 8), 2, np.uint8)))
        heard.add(STATUS, stamp + 81_000_000, status())
    return heard


def test_row_padding_is_removed(collector):
    assert collector.score.phases[0].miou == pytest.approx(100 * (0.5 + 0) / 2)
    assert len(collector.masks) == 5
    assert set(collector.masks) == set(collector.ground_truths)
    assert {mask.shape for mask in collector.masks.values()} == {(2, 8)}
    assert collector.stages_ms() == {"model": 50.0}


def test_one_line_per_second_without_a_terminal(collector):
    out = io.StringIO()
    with View(Console(file=out, width=60), collector, live=False) as view:
        view.show()
        view.show()
    (line,) = out.getvalue().splitlines()
    assert "day, all sensors" in line
    assert "3.3 Hz" in line
    assert "p50 80.0 ms" in line
    assert line.endswith("camera")


def test_live_view_shows_used_sensors_and_router_weights(collector):
    out = io.StringIO()
    console = Console(file=out, width=110, height=40, force_terminal=True, color_system=None)
    with View(console, collector, live=True) as view:
        view.show()
    shown = {line.split()[1]: line for line in out.getvalue().splitlines() if line.startswith("│   ")}
    assert "● used" in shown["camera"]
    assert "81 ms" in shown["camera"]
    assert "████████░░ 0.75" in shown["camera"]
    assert "○ missing" in shown["lidar"]
    assert "○ missing" in shown["event"]


def test_recorder_writes_messages_unchanged(tmp_path):
    raw = image(5, np.ones((2, 2), np.uint8))
    with Recorder(tmp_path / "bag", RECORDED_TOPICS, LATCHED) as recorder:
        for time_ns in range(100):
            recorder.record(LABELS, time_ns, raw)
        recorder.record("/mlesam/label_info", 100, serialized(RECORDED_TOPICS["/mlesam/label_info"], name="deliver"))
    with BagReader(tmp_path / "bag") as reader:
        assert reader.counts == {LABELS: 100, "/mlesam/label_info": 1}
        assert reader.latched == {"/mlesam/label_info"}
        assert all(found[3] == raw for found in reader.raw_messages([LABELS]))


def test_recorder_raises_its_failure(tmp_path):
    recorder = Recorder(tmp_path / "bag", {LABELS: "no_such_msgs/msg/Thing"}, LATCHED)
    with pytest.raises(Exception, match="no_such_msgs"), recorder:
        recorder.record(LABELS, 1, b"")
    with pytest.raises(BagError, match="exists"):
        Recorder(tmp_path / "bag", RECORDED_TOPICS, LATCHED)


def test_images_show_camera_mask_points_and_ground_truth(tmp_path):
    space = load_label_space("deliver")
    road, sky = (space.names.index(name) for name in ("Road", "Sky"))
    stamps = range(1, 6)
    masks = dict.fromkeys(stamps, np.full((64, 64), road, np.uint8))
    ground_truths = dict.fromkeys(stamps, np.full((64, 64), sky, np.uint8))
    camera = {stamp: np.full((64, 64, 3), 100 + 30 * stamp, np.uint8) for stamp in stamps if stamp != 3}
    ahead = np.array([[10.0, 0, 0]], np.float32)  # in the middle of the panel
    points = {3: {"/mlesam/obstacle_points": ahead}}
    frames = Gallery(space, camera, points).save(tmp_path, "day", "day", masks, ground_truths, fps=5)
    panels = np.asarray(Image.open(tmp_path / "day.png"))[28:]  # below the captions; stamp 3, without a camera image
    assert panels.shape == (64, 256, 3)
    assert panels[:, :64].max() < 40
    assert (panels[:, 64:128] == space.colors[road]).all()
    red = panels[:, 128:192].astype(int)
    assert np.abs(np.argwhere(red[..., 0] - red[..., 1] > 100).mean(0) - 32).max() < 1.5
    assert (panels[:, 192:] == space.colors[sky]).all()
    with Image.open(tmp_path / "day.webp") as film:
        assert film.n_frames == len(frames) == 5
        film.seek(0)
        assert np.abs(np.asarray(film.convert("RGB"))[40:340, 10:310].astype(int) - 130).max() < 12


def test_no_images_without_masks(tmp_path):
    assert Gallery(load_label_space("deliver"), {}, {}).save(tmp_path, "day", "day", {}, {}, fps=5) == []
