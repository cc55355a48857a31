# SPDX-License-Identifier: Apache-2.0
"""A short demo from beginning to end: renderers, node, player and observer over real DDS."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.model.checkpoint import load_checkpoint, save_checkpoint

PHASES = [f"{light}_{what}" for light in ("day", "night") for what in ("all_sensors", "camera_lost", "lidar_lost")]
SECONDS, HEIGHT, WIDTH = 6, 48, 64
SMALL = ("--seconds", SECONDS, "--image-size", HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    model = load_checkpoint("street")
    model.config = replace(model.config, image_size=WIDTH)  # faster, and good enough for ground and obstacles
    save_checkpoint(folder / "small.safetensors", model)
    command = [
        *(sys.executable, "-m", "mlesam_ros.cli", "demo", *SMALL, "--json", "-"),
        *("--checkpoint", folder / "small.safetensors", "--cache", folder / "cache", "--output", folder / "runs"),
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


def test_result_has_documented_keys_and_plausible_values(demo):
    _, result, _ = demo
    assert result["sets_offered"] == SECONDS * 10
    assert 0 < result["masks"] <= result["sets_offered"]
    assert 0 < result["rate_hz"] < 11
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p95"] <= result["latency_ms"]["p99"]
    assert [phase["name"] for phase in result["phases"]] == PHASES
    assert sum(phase["masks"] for phase in result["phases"]) == result["masks"]
    seen = [phase for phase in result["phases"] if phase["masks"]]  # a machine with much else to do may skip one
    assert any("camera" not in phase["sensors"] for phase in seen)
    assert any("lidar" not in phase["sensors"] for phase in seen)
    assert all(0 <= phase["miou"] <= 100 for phase in seen)
    assert result["phases"][1]["sensors"] == ["depth", "event", "lidar"]


def test_result_folder_has_images_and_metrics(demo):
    folder, result, said = demo
    out = Path(result["output_dir"])
    assert (folder / "runs" / "latest").resolve() == out.resolve()
    assert str(out) in said.strip().splitlines()[-1]
    assert json.loads((out / "metrics.json").read_text()) == result
    seen = [phase["name"] for phase in result["phases"] if phase["masks"]]
    assert {path.stem for path in out.glob("*.png")} == set(seen)
    assert {path.stem for path in out.glob("*.webp")} == {*seen, "demo"}
    with Image.open(out / "demo.webp") as film:
        assert film.n_frames >= len(seen)
    for phase in seen:
        panels = np.asarray(Image.open(out / f"{phase}.png"))
        assert panels.shape == (HEIGHT + 28, 4 * WIDTH, 3)
        red, green, _ = panels[28:, 2 * WIDTH : 3 * WIDTH].reshape(-1, 3).astype(int).T
        assert (green > red + 50).any() and (red > green + 100).any(), "ground and obstacles"


def test_result_bag_has_masks_and_ground_truth(demo):
    _, result, _ = demo
    with BagReader(Path(result["output_dir"]) / "result") as reader:
        counts, latched = reader.counts, reader.latched
        status = [message.message for message in reader.messages(["/mlesam/status"])]
        masks = {stamp(m.message.header): m.message for m in reader.messages(["/mlesam/labels"])}
        ground_truths = {stamp(m.message.header) for m in reader.messages(["/ground_truth/labels"])}
    assert set(counts) == {
        *(f"/mlesam/{name}" for name in ("labels", "confidence", "status", "label_info", "overlay")),
        *(f"/mlesam/{name}_points" for name in ("semantic", "ground", "obstacle")),
        *("/ground_truth/labels", "/camera/camera_info", "/tf", "/tf_static"),
    }
    assert latched == {"/mlesam/label_info", "/tf_static"}
    assert len(masks) == counts["/mlesam/confidence"] >= result["masks"]
    assert set(masks) <= ground_truths
    assert {(mask.height, mask.width, mask.encoding) for mask in masks.values()} == {(HEIGHT, WIDTH, "mono8")}
    used = {tuple(sorted(s.modality for s in message.sensors if s.used)) for message in status}
    assert any("camera" not in sensors for sensors in used)
    assert any("lidar" not in sensors for sensors in used)
    assert any("camera" in sensors and "lidar" in sensors for sensors in used)


def test_street_is_rendered_once(demo):
    folder, _, said = demo
    assert "rendering" in said
    assert len([path for path in (folder / "cache").iterdir() if path.is_dir()]) == 2


def test_failed_node_ends_the_demo_with_its_error(demo, tiny_checkpoint, mlesam, tmp_path):
    folder, _, _ = demo
    result = mlesam(
        *("demo", *SMALL, "--cache", folder / "cache", "--output", tmp_path),
        *("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.path),
    )
    assert result.exit_code == 2
    said = result.stderr.strip().splitlines()[-1]
    assert said.startswith("mlesam: the node is unconfigured")
    assert "experts.safetensors" in said
    assert "Traceback" not in result.stderr


def stamp(header) -> int:
    return header.stamp.sec * 10**9 + header.stamp.nanosec
