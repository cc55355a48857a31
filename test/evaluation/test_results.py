# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation: the result bag, the point clouds, the metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest
import yaml
from drive import STEPS
from rosbags.highlevel import AnyReader

from mlesam_ros.bags.calibrated_frame import read_pcd
from mlesam_ros.bags.reader import BagReader, parse_outage
from mlesam_ros.errors import ConfigError
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions
from mlesam_ros.evaluation.bag_outputs import Outputs, evaluate_to_folder
from mlesam_ros.labels import load_label_space
from mlesam_ros.metrics import Confusion
from mlesam_ros.resources import resource_path
from mlesam_ros.types import MODALITIES

SPACE = load_label_space("deliver")
OPTIONS = EvaluationOptions(outages=(parse_outage("camera@0.55..0.95"),))


@pytest.fixture(scope="module")
def made(street, pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("result")
    evaluation, figures = evaluate_to_folder(folder, street, pipeline, OPTIONS, Outputs(report=False, clouds="ply"))
    return folder, evaluation, figures


@pytest.fixture(scope="module")
def by_topic(made):
    topics = {}
    with BagReader(made[0] / "result") as reader:
        assert reader.warnings == []
        for entry in reader:
            topics.setdefault(entry.topic, []).append(entry)
    return topics


def pixels(message):
    return message.data.reshape(message.height, message.width, -1).squeeze()


def test_result_bag_has_the_nodes_topics(made, by_topic):
    pictures = ("labels", "confidence", "overlay", "overlay/compressed", "projected_lidar", "truth")
    clouds = ("semantic_points", "obstacle_points", "ground_points")
    per_mask = (*pictures, *clouds, "aligned/labels", "aligned/confidence", "aligned/points", "camera_info", "status")
    masks = made[2]["masks"]
    assert masks >= STEPS - 3  # steps until the LiDAR is the primary
    assert {topic: len(entries) for topic, entries in by_topic.items()} == {
        **{f"/mlesam/{name}": masks for name in per_mask}, "/mlesam/label_info": 1, "/tf_static": 1,
    }  # fmt: skip


def test_rviz_configuration_matches_the_result_bag(by_topic):
    text = resource_path("config/rviz/perception.rviz").read_text()
    displays = yaml.safe_load(text)["Visualization Manager"]["Displays"]
    shown = {d["Topic"]["Value"] for d in displays if "Topic" in d and "mlesam" in d["Topic"]["Value"]}
    live_only = {"mlesam/sensor_health"}
    assert live_only < shown and {f"/{topic}" for topic in shown - live_only} <= set(by_topic)


def test_rosbags_reads_the_result_bag(made):
    with AnyReader([made[0] / "result"]) as reader:
        assert reader.message_count == 14 * made[2]["masks"] + 2
        latched = [c.topic for c in reader.connections if _durability(c) == "TRANSIENT_LOCAL"]
        assert sorted(latched) == ["/mlesam/label_info", "/tf_static"]


def _durability(connection):
    return connection.ext.offered_qos_profiles[0].durability.name


def test_metrics_follow_from_the_result_bag(made, by_topic):
    confusion = Confusion(25)
    for labels, truth in zip(by_topic["/mlesam/labels"], by_topic["/mlesam/truth"], strict=True):
        assert labels.message.header == truth.message.header
        confusion.add(pixels(truth.message), pixels(labels.message))
    assert confusion.counts.tolist() == made[2]["confusion"]


def test_status_counters_are_complete(made, by_topic):
    last = by_topic["/mlesam/status"][-1].message
    assert last.sequence == made[2]["masks"]
    sensors = {sensor.modality: sensor for sensor in last.sensors}
    assert set(sensors) == set(MODALITIES)
    assert sensors["lidar"].received == STEPS
    assert sensors["camera"].received == made[2]["sensors"]["camera"]["received"] == 8
    used = [{s.modality: s.used for s in entry.message.sensors} for entry in by_topic["/mlesam/status"]]
    assert [s["camera"] for s in used].count(False) >= 2 and used[0]["camera"] and used[-1]["camera"]


def test_open3d_reads_the_ply_files(made, by_topic):
    files = sorted((made[0] / "clouds").glob("*.ply"))
    assert [int(file.stem) for file in files] == [entry.stamp for entry in by_topic["/mlesam/semantic_points"]]
    cloud = o3d.t.io.read_point_cloud(str(files[3]))
    message = by_topic["/mlesam/semantic_points"][3].message
    points = message.data.reshape(-1, message.point_step)
    assert np.array_equal(cloud.point.positions.numpy(), points[:, :12].copy().view("<f4"))
    labels = points[:, 16]
    assert np.array_equal(cloud.point.label.numpy()[:, 0], labels)
    assert np.array_equal(cloud.point.colors.numpy(), SPACE.palette[labels])


def test_pcd_files_are_written(street, pipeline, tmp_path):
    evaluate_to_folder(
        tmp_path, street, pipeline, EvaluationOptions(duration=0.15), Outputs(bag=False, report=False, clouds="pcd")
    )
    first = sorted((tmp_path / "clouds").glob("*.pcd"))[0]
    points = read_pcd(first)
    assert points.dtype.names == ("x", "y", "z", "intensity", "label", "rgb")
    packed = points["rgb"].copy().view(np.uint32)
    assert np.array_equal(np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1), SPACE.palette[points["label"]])
    theirs = o3d.t.io.read_point_cloud(str(first))
    assert np.allclose(theirs.point.positions.numpy(), np.stack([points[a] for a in "xyz"], 1))
    assert not (tmp_path / "result").exists()


def test_unknown_cloud_format_is_rejected():
    with pytest.raises(ConfigError, match="'las'; accepted are ply and pcd"):
        Outputs(clouds="las")


def test_metrics_are_json_and_documented(made):
    json.dumps(made[2], allow_nan=False)
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    section = page.split("## `mlesam evaluate`")[1].split("\n## ")[0]
    undocumented = [key for key in made[2] if f"`{key}`" not in section]
    assert not undocumented


def test_counters_match_the_messages_of_the_bag(made, street):
    figures = made[2]
    with BagReader(street) as reader:
        for modality, entry in figures["sensors"].items():
            assert entry["received"] + (4 if modality == "camera" else 0) == reader.counts[entry["topic"]]
    fates = [figures["counters"][fate] for fate in ("used", "superseded", "late", "unmatched", "refused")]
    assert sum(fates) == figures["counters"]["received"] == figures["frames"]
    assert figures["masks"] == figures["sets"]
    assert figures["config"]["drops"] == ["camera@0.55..0.95"]
