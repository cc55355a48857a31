# SPDX-License-Identifier: Apache-2.0
"""Evaluation of whole bags: masks equal the pipeline's, metrics follow from the masks."""

from __future__ import annotations

import gc
import shutil
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import yaml
from drive import CAMERA, PERIOD, POSE, START, STEPS, Recorder, write_drive
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from mlesam_ros.bags.reader import BagReader, parse_outage
from mlesam_ros.bags.serialization import transforms
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.config import NodeParameters, load_parameters
from mlesam_ros.doctor.diagnosis import diagnose_bag
from mlesam_ros.errors import BagError, ConfigError, LabelError, MlesamError
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions, evaluate
from mlesam_ros.evaluation.report import SampleCollector
from mlesam_ros.evaluation.results import ResultBag, bag_metrics
from mlesam_ros.evaluation.scores import MaskListener
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.label_map import RawLabels
from mlesam_ros.labels import load_label_space
from mlesam_ros.messages import FrameReader, stamp_ns
from mlesam_ros.metrics import Confusion
from mlesam_ros.simulation.export import LABELS_TOPIC
from mlesam_ros.types import MODALITIES, Segmentation


def described(*rules):
    return EvaluationOptions(load_parameters(overrides=rules))


class Resegmenter(Recorder):
    """Segments the set of every mask again, with the calibration of that time."""

    def __init__(self, pipeline):
        super().__init__()
        self.pipeline, self.labels = pipeline, []

    def on_mask(self, record):
        super().on_mask(record)
        self.labels.append(self.pipeline.segment(record.frame_set, record.rig).labels)


def truths_of(bag):
    with BagReader(bag) as reader:
        pictures = [(stamp_ns(m.message.header), m.message) for m in reader.messages([LABELS_TOPIC])]
    return {stamp: m.data.reshape(m.height, m.width) for stamp, m in pictures}


def test_masks_equal_the_pipelines_and_metrics_follow_from_them(street, pipeline):
    recorder = Resegmenter(pipeline)
    found = evaluate(street, pipeline, listeners=[recorder])
    assert len(recorder.records) == found.sets == STEPS
    labels_by_stamp, confusion = truths_of(street), Confusion(25)
    for record, labels in zip(recorder.records, recorder.labels, strict=True):
        assert np.array_equal(labels, record.mask.labels)
        assert record.mask.used == tuple(MODALITIES) == tuple(record.images)
        confusion.add(labels_by_stamp[record.mask.stamp], record.mask.labels)
    assert np.array_equal(found.scores.confusion.counts, confusion.counts)
    assert [pair[0] for pair in recorder.matches] == sorted(labels_by_stamp)
    assert found.scores.compared == STEPS
    assert found.warnings == []
    shares = np.bincount(np.concatenate([m.mask.labels.ravel() for m in recorder.records]), minlength=26)[:26]
    assert np.array_equal(found.scores.shares, shares)
    figures = bag_metrics(found, EvaluationOptions(), pipeline)
    assert figures["miou"] == round(100 * confusion.miou_present, 2)
    kept = [(a.mask.labels == b.mask.labels).mean() for a, b in pairwise(recorder.records)]
    assert figures["consistency"] == round(100 * np.mean(kept), 2)


def test_every_nth_set_is_segmented(street, pipeline):
    found = evaluate(street, pipeline, EvaluationOptions(every=5))
    stamps = [trace.stamp for trace in found.scores.masks]
    assert len(stamps) == found.sets == found.scores.compared == 3
    assert np.diff(stamps).tolist() == [5 * PERIOD] * 2
    camera = found.counters["camera"]
    assert (camera["received"], camera["used"], camera["superseded"]) == (STEPS, 3, STEPS - 3)


def test_sensor_is_missing_from_the_masks_during_its_outage(street, pipeline):
    found = evaluate(street, pipeline, EvaluationOptions(outages=(parse_outage("lidar@0.35..0.75"),)))
    without = [i for i, trace in enumerate(found.scores.masks) if "lidar" not in trace.used]
    assert without in (
        [4, 5, 6, 7],
        [4, 5, 6, 7, 8],
    )  # the first set after it need not wait for it
    levels = found.scores.masks[4].weights.values()
    assert all(set(weights) == {"camera", "depth", "event"} for weights in levels)


def test_real_time_skips_sets_while_the_pipeline_is_busy(street, pipeline, monkeypatch):
    segment = pipeline.segment
    monkeypatch.setattr(pipeline, "segment", lambda *a: replace(segment(*a), timings={"model": 0.25}))
    found = evaluate(street, pipeline, EvaluationOptions(real_time=True))
    assert found.sets <= STEPS / 2
    assert found.counters["camera"]["superseded"] >= STEPS / 2 - 1


def test_progress_is_in_seconds_from_the_start(street, pipeline):
    done = []
    evaluate(street, pipeline, EvaluationOptions(start=0.5, duration=0.4), progress=done.append)
    assert done == sorted(done)
    assert 0 <= done[0] < done[-1] <= 0.4


def test_ctrl_c_keeps_the_results_so_far(street, pipeline):
    def interrupt(seconds):
        if seconds > 0.55:
            raise KeyboardInterrupt

    found = evaluate(street, pipeline, progress=interrupt)
    assert found.interrupted
    assert 4 <= len(found.scores.masks) < STEPS
    assert "interrupted after 0.6 s" in found.warnings[-1]


def test_full_disk_keeps_the_results_so_far(street, pipeline, tmp_path, monkeypatch):
    add, room = BagWriter.add_raw, iter(range(60))

    def until_full(self, *arguments):
        if next(room, None) is None:
            raise BagError("the disk is full.")
        add(self, *arguments)

    monkeypatch.setattr(BagWriter, "add_raw", until_full)
    topics, parameters = {m: m for m in MODALITIES}, NodeParameters()
    with ResultBag(tmp_path / "result", pipeline.config.label_space, topics, parameters) as result:
        found = evaluate(street, pipeline, listeners=[result])
    assert found.interrupted
    assert found.warnings[-2:] == ["the disk is full.", found.warnings[-1]]
    assert 4 <= len(found.scores.masks) <= 6
    with BagReader(tmp_path / "result") as reader:
        assert reader.warnings == [] and sum(1 for _ in reader) == 60


def test_labels_from_a_folder_equal_those_from_the_topic(street, pipeline, tmp_path):
    for stamp, truth in truths_of(street).items():
        cv2.imwrite(str(tmp_path / f"{stamp + 1000}.png"), truth)
    ours = evaluate(street, pipeline, EvaluationOptions(labels=tmp_path))
    assert np.array_equal(ours.scores.confusion.counts, evaluate(street, pipeline).scores.confusion.counts)


def test_unreadable_label_file_is_a_warning(street, pipeline, tmp_path):
    first, second, *_ = truths_of(street)
    cv2.imwrite(str(tmp_path / f"{first}.png"), np.zeros((64, 96), np.uint8))
    (tmp_path / f"{second}.png").write_bytes(b"no image")
    found = evaluate(street, pipeline, EvaluationOptions(labels=tmp_path, duration=0.5))
    assert found.scores.compared == 1
    assert any(f"{second}.png: compressed image" in warning for warning in found.warnings), found.warnings


def test_bag_without_ground_truth_has_no_ground_truth_metrics(tmp_path, pipeline):
    found = evaluate(write_drive(tmp_path / "bag", truth=False), pipeline)
    figures = bag_metrics(found, EvaluationOptions(), pipeline)
    assert figures["compared"] == 0
    assert figures["miou"] is figures["confusion"] is figures["macc"] is None
    assert figures["per_class"] == {}
    assert sum(figures["class_shares"].values()) == pytest.approx(100, abs=0.2)


# Storage


def copy_connections(reader, writer):
    return {
        c.id: writer.add_connection(
            c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01=c.digest,
            offered_qos_profiles=c.ext.offered_qos_profiles,
        )
        for c in reader.connections
    }  # fmt: skip


def stored_again(source, target, storage, mode=CompressionMode.NONE):
    with Reader(source) as reader:
        writer = Writer(target, version=8, storage_plugin=storage)
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            known = copy_connections(reader, writer)
            for connection, stamp, raw in reader.messages():
                writer.write(known[connection.id], stamp, raw)
    return target


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
    ],
    ids=lambda value: value.name.lower(),
)
def test_every_storage_gives_the_same_result(street, pipeline, tmp_path, storage, mode):
    ours = evaluate(stored_again(street, tmp_path / "bag", storage, mode), pipeline, EvaluationOptions(duration=0.5))
    reference = evaluate(street, pipeline, EvaluationOptions(duration=0.5))
    assert np.array_equal(ours.scores.confusion.counts, reference.scores.confusion.counts)
    assert ours.counters == reference.counters
    assert ours.warnings == []


def test_split_bag_is_evaluated_as_one(street, pipeline, tmp_path):
    """Two files with one metadata.yaml, as `ros2 bag record --max-bag-duration` writes them."""
    whole, folder = tmp_path / "whole", tmp_path / "split"
    stored_again(street, whole, StoragePlugin.MCAP)
    folder.mkdir()
    parts = []
    with Reader(whole) as reader:
        middle = (reader.start_time + reader.end_time) // 2
        for number, span in enumerate(((0, middle), (middle, 1 << 62))):
            part = tmp_path / f"part{number}"
            with Writer(part, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
                known = copy_connections(reader, writer)
                for connection, stamp, raw in reader.messages(start=span[0], stop=span[1]):
                    writer.write(known[connection.id], stamp, raw)
            parts.append(yaml.safe_load((part / "metadata.yaml").read_text())["rosbag2_bagfile_information"])
            shutil.copy(part / f"part{number}.mcap", folder / f"drive_{number}.mcap")
    about = dict(parts[0])
    about["relative_file_paths"] = ["drive_0.mcap", "drive_1.mcap"]
    about["message_count"] = sum(part["message_count"] for part in parts)
    about["duration"]["nanoseconds"] += parts[1]["duration"]["nanoseconds"]
    about["files"] = []
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": about}))
    ours, reference = evaluate(folder, pipeline), evaluate(street, pipeline)
    assert np.array_equal(ours.scores.confusion.counts, reference.scores.confusion.counts)
    assert ours.counters == reference.counters


# Calibration

RIG = """
camera: camera
cameras:
  camera: {{width: {width}, height: {height}, model: plumb_bob, K: {k}, D: {d}}}
transforms:
  - {{parent: camera, child: lidar, translation: [0, 0, 0], quaternion: [0.5, -0.5, 0.5, -0.5]}}
"""


def test_bag_without_calibration_uses_an_assumed_lens_with_a_warning(tmp_path, pipeline):
    recorder = Recorder()
    found = evaluate(write_drive(tmp_path / "bag", calibrated=False), pipeline, listeners=[recorder])
    assert {record.mask.used for record in recorder.records} == {("camera",)}
    assert recorder.records[0].mask.labels.shape == (24, 32)
    assert any("assumed field of view of 70 degrees" in warning for warning in found.warnings)
    assert any(warning.startswith("lidar: ") for warning in found.warnings)
    assert found.rejected == {"lidar": 10}
    for counts in (found.counters["lidar"], recorder.records[-1].counters["lidar"]):
        assert counts["used"] == 0 and counts["refused"] >= 9 and not counts["unmatched"]


def test_calibration_file_replaces_missing_calibration(tmp_path, pipeline):
    camera = {"k": [20.0, 20.0, 15.5, 11.5], "d": CAMERA.D.tolist(), "width": CAMERA.width, "height": CAMERA.height}
    (tmp_path / "rig.yaml").write_text(RIG.format(**camera))
    recorder = Recorder()
    bag = write_drive(tmp_path / "bag", calibrated=False, lidar_late=0)
    found = evaluate(bag, pipeline, described(f"calibration_file:={tmp_path}/rig.yaml"), [recorder])
    assert {record.mask.used for record in recorder.records} == {("camera", "lidar")}
    assert found.warnings == []
    reference = evaluate(write_drive(tmp_path / "all", lidar_late=0), pipeline)
    assert np.array_equal(found.scores.confusion.counts, reference.scores.confusion.counts)


@pytest.mark.parametrize("topic", ["/tf", "/tf_static"])
def test_topic_overrides_a_calibration_file_without_a_warning(tmp_path, pipeline, topic):
    """A transform that is published once and differs from the file by 5 mm."""
    camera = {"k": [20.0, 20.0, 15.5, 11.5], "d": CAMERA.D.tolist(), "width": CAMERA.width, "height": CAMERA.height}
    (tmp_path / "rig.yaml").write_text(RIG.format(**camera))
    bag = tmp_path / "bag"
    write_drive(bag, calibrated=False, lidar_late=0)
    again = tmp_path / "again"
    with BagReader(bag) as reader, BagWriter(again) as writer:
        first = reader.start
        mounting = transforms([("camera", "lidar", Transform(POSE.rotation, [0, 0, 0.005]))], first)
        writer.add(topic, "tf2_msgs/msg/TFMessage", first, mounting)
        for name, kind, stamp, raw in reader.raw_messages():
            writer.add_raw(name, kind, stamp, raw)
    recorder = Recorder()
    found = evaluate(again, pipeline, described(f"calibration_file:={tmp_path}/rig.yaml"), [recorder])
    assert {record.mask.used for record in recorder.records} == {("camera", "lidar")} and len(recorder.records) == 10
    assert all(record.mask.placements["lidar"].translation[2] == 0.005 for record in recorder.records)
    assert found.warnings == []


def test_camera_info_of_another_size_is_a_warning_and_masks_use_the_other_sensors(tmp_path, pipeline):
    def lie(topic, index, made):
        if topic == "/camera/image_raw" and index >= 5:
            made.update(height=12, data=made["data"][: 12 * made["step"]])
        return made

    found = evaluate(write_drive(tmp_path / "bag", change=lie), pipeline)
    assert [trace.used for trace in found.scores.masks] == [("camera", "lidar")] * 5 + [("lidar",)] * 5
    assert found.rejected == {"camera": 5}
    assert any("camera: " in warning and "12" in warning for warning in found.warnings)


def test_rectified_images_use_the_projection_matrix(tmp_path, pipeline):
    def crooked(topic, index, made):
        if topic == "/camera/camera_info":
            made["d"], made["p"] = (
                np.array([-0.3, 0.1, 0, 0, 0]),
                np.array([[15.0, 0, 15, 0], [0, 15, 11, 0], [0, 0, 1, 0]]),
            )
        return made

    path, recorder = write_drive(tmp_path / "bag", change=crooked), Recorder()
    evaluate(path, pipeline, described("camera.rectified:=true"), [recorder])
    model = recorder.records[0].rig.camera
    assert model.K[0, 0] == 15 and not model.D.any()
    evaluate(path, pipeline, EvaluationOptions(), [recorder])
    assert recorder.records[-1].rig.camera.D.any()


def test_distortion_of_a_rectified_topic_is_a_warning(tmp_path, pipeline):
    def crooked(topic, index, made):
        if topic == "/camera/camera_info":
            made["d"] = np.array([-0.3, 0.1, 0, 0, 0])
        return made

    path = write_drive(tmp_path / "bag", 3, change=crooked, camera_topic="/camera/image_rect", lidar_late=0)
    (warning,) = evaluate(path, pipeline).warnings
    assert warning.startswith("/camera/image_rect: ") and "camera.rectified" in warning
    assert evaluate(path, pipeline, described("camera.rectified:=true")).warnings == []


def test_events_alone_are_segmented_in_the_event_cameras_view(shared_data, pipeline):
    recorder = Recorder()
    found = evaluate(shared_data / "events" / "test_events_1", pipeline, EvaluationOptions(every=60), [recorder])
    assert {record.mask.used for record in recorder.records} == {("event",)}
    assert recorder.records[0].mask.labels.shape == (480, 640)
    assert any("in the view of event" in warning for warning in found.warnings)


# What is refused


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"start": -1.0}, "start is -1 s"),
        ({"start": float("nan")}, "start is nan s"),
        ({"duration": 0.0}, "duration is 0 s"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_options_out_of_range_are_rejected(change, text):
    with pytest.raises(ConfigError, match=text):
        EvaluationOptions(**change)


def test_start_after_the_end_is_rejected(street, pipeline):
    with pytest.raises(ConfigError, match=r"the bag lasts 1\.1 s"):
        evaluate(street, pipeline, EvaluationOptions(start=60.0))


def test_missing_bag_is_an_error(tmp_path, pipeline):
    with pytest.raises(BagError, match="does not exist"):
        evaluate(tmp_path / "nowhere", pipeline)


def test_error_without_masks_has_the_reason(tmp_path, pipeline):
    def blind(topic, index, made):
        if topic == "/camera/image_raw":
            made["encoding"] = "rgb17"
        return None if topic == "/lidar/points" else made

    with pytest.raises(MlesamError, match=r"no mask could be made from .*rgb17"):
        evaluate(write_drive(tmp_path / "bag", change=blind), pipeline)


def test_synchronization_parameters_are_used(street, pipeline):
    options = described("max_wait:=0.2", "lidar.offset:=0.3", "primary_order:=[depth, camera]")
    found = evaluate(street, pipeline, options)
    assert all("lidar" not in trace.used for trace in found.scores.masks[:2])


# Memory


def test_memory_does_not_grow_with_the_bag(tmp_path, pipeline, monkeypatch):
    """Of a mask only its metrics stay, some kilobytes; its pixels are half a megabyte."""
    size = (600, 800)

    def segment(frame_set, rig, enlarge=True):
        return Segmentation(
            frame_set.stamp, "camera", np.full(size, frame_set.stamp % 23, np.uint8), np.zeros(size, np.uint8),
            {"semantic": {"camera": 1.0}}, ("camera",), {}, {"model": 0.01},
        )  # fmt: skip

    monkeypatch.setattr(pipeline, "segment", segment)
    used = []

    class Scale(MaskListener):
        def on_mask(self, made):
            if made.sequence in (104, 208):  # the collector has the same number of samples
                gc.collect()
                used.append(tracemalloc.get_traced_memory()[0])

    bag = write_drive(tmp_path / "bag", 210)
    collector = SampleCollector(pipeline.config.label_space)
    topics, parameters = {"camera": "/camera/image_raw"}, NodeParameters()
    with ResultBag(tmp_path / "result", pipeline.config.label_space, topics, parameters) as result:
        tracemalloc.start()
        try:
            evaluate(bag, pipeline, listeners=[collector, result, Scale()])
        finally:
            tracemalloc.stop()
    assert (used[1] - used[0]) / 104 < 20_000


def with_labels(street, path, change):
    """The street with changed ground-truth labels: (H, W) uint8 → (encoding, array)."""
    with BagReader(street) as source, BagWriter(path) as bag:
        for entry in source.messages():
            message = entry.message
            if entry.topic == LABELS_TOPIC:
                encoding, pixels = change(message.data.reshape(message.height, message.width))
                data = np.frombuffer(pixels.tobytes(), np.uint8)
                height, width = pixels.shape[:2]
                message = replace(
                    message, height=height, width=width, encoding=encoding, step=len(data) // height, data=data
                )
            bag.add_message(entry.topic, entry.type, entry.stamp, message, latched=entry.topic in source.latched)
    return path


def test_labels_of_16_bits_are_compared(street, pipeline, tmp_path):
    """Camera images and class ids have different decoders."""
    bag = with_labels(street, tmp_path / "bag", lambda ids: ("16UC1", ids.astype("<u2")))
    found, expected = evaluate(bag, pipeline), evaluate(street, pipeline)
    assert np.array_equal(found.scores.confusion.counts, expected.scores.confusion.counts)
    assert found.scores.compared == STEPS and found.warnings == []


def test_ids_outside_the_label_space_end_the_evaluation(street, pipeline, tmp_path):
    """As they end training: figures over the rest would hide the wrong label space."""
    bag = with_labels(street, tmp_path / "bag", lambda ids: ("mono8", np.where(ids == 6, np.uint8(77), ids)))
    with pytest.raises(
        LabelError, match=rf"bag: {LABELS_TOPIC} at \d+: .*mono8. has the ids \[77\] \(\d+ pixels\); label"
    ):
        evaluate(bag, pipeline)
    cv2.imwrite(str(tmp_path / f"{next(iter(truths_of(street)))}.png"), np.full((64, 96), 77, np.uint8))
    with pytest.raises(LabelError, match=r"\.png has the ids \[77\] \(6144 pixels\)"):
        evaluate(street, pipeline, EvaluationOptions(labels=tmp_path))


NAMES = load_label_space("deliver").names


@pytest.mark.parametrize("encoding", ["16UC1", "rgb8", "bgr8"])
def test_mapped_ground_truth_gives_the_same_scores(street, pipeline, tmp_path, encoding):
    """The same labels as ids from 500 on, and as colors."""
    colors = np.array([*((9 * i, 255 - i, i) for i in range(25)), *[(1, 1, 1)] * 231], np.uint8)
    raw = RawLabels(map={500 + i: name for i, name in enumerate(NAMES)} | {755: "ignore"})
    if encoding == "16UC1":
        bag = with_labels(street, tmp_path / "bag", lambda ids: (encoding, ids.astype("<u2") + 500))
    else:
        raw = RawLabels(palette={name: colors[i].tolist() for i, name in enumerate(NAMES)} | {"ignore": [1, 1, 1]})
        order = slice(None) if encoding == "rgb8" else slice(None, None, -1)
        bag = with_labels(street, tmp_path / "bag", lambda ids: (encoding, colors[ids][..., order]))
    found, expected = evaluate(bag, pipeline, EvaluationOptions(raw_labels=raw)), evaluate(street, pipeline)
    assert np.array_equal(found.scores.confusion.counts, expected.scores.confusion.counts)


def test_classes_of_one_list_are_scored_as_one(street, pipeline):
    """Road, markings and pavement are one class of this ground truth."""
    names = {i: name for i, name in enumerate(NAMES) if name not in ("Road", "RoadLine", "SideWalk")}
    one = {NAMES.index(name): ["Road", "RoadLine", "SideWalk"] for name in ("Road", "RoadLine", "SideWalk")}
    options = EvaluationOptions(raw_labels=RawLabels(map={**names, **one}), robustness=True)
    found, whole = evaluate(street, pipeline, options).scores, evaluate(street, pipeline).scores.confusion.counts
    merged, road = whole.copy(), NAMES.index("Road")
    for other in (NAMES.index("RoadLine"), NAMES.index("SideWalk")):
        merged[road] += merged[other]
        merged[other] = 0
        merged[:, road] += merged[:, other]
        merged[:, other] = 0
    assert np.array_equal(found.confusion.counts, merged)
    assert found.robustness.rows()[0]["miou"] == round(100 * found.confusion.miou_present, 2)


def test_another_label_space_without_a_foreign_id_is_a_warning(street, pipeline, tmp_path):
    """Every id is within the space."""
    recorder = Recorder()
    evaluate(street, pipeline, listeners=[recorder])
    for right in (True, False):
        folder = tmp_path / str(right)
        folder.mkdir()
        for record in recorder.records:
            labels = record.mask.labels
            cv2.imwrite(str(folder / f"{record.mask.stamp}.png"), labels if right else (labels + 7) % 25)
        warnings = evaluate(street, pipeline, EvaluationOptions(labels=folder)).warnings
        assert bool([w for w in warnings if "ground truth in label space deliver? Give --map" in w]) == (not right)


def test_labels_of_another_aspect_ratio_are_a_warning(street, pipeline, tmp_path):
    """Labels are not stretched to fit."""
    bag = with_labels(street, tmp_path / "bag", lambda ids: ("mono8", ids[: len(ids) // 2]))
    found = evaluate(bag, pipeline)
    assert found.scores.compared == 0 and found.scores.confusion.counts.sum() == 0
    (warning,) = found.warnings
    assert "ground-truth labels are 96x32 pixels, but the camera has 96x64" in warning


@pytest.mark.parametrize("robustness", [False, True])
def test_masks_at_network_and_camera_resolution_have_the_same_scores(street, pipeline, robustness):
    """The network's 64x32 of a 96x64 camera has another aspect ratio than the ground truth; masks are resized to the
    ground truth as to the camera's image."""
    options = [
        replace(described(f"labels_resolution:={size}"), robustness=robustness) for size in ("network", "camera")
    ]
    recorder = Recorder()
    found, expected = evaluate(street, pipeline, options[0], [recorder]), evaluate(street, pipeline, options[1])
    assert recorder.records[0].mask.labels.shape == (32, 64) and truths_of(street).popitem()[1].shape == (64, 96)
    assert found.scores.compared == STEPS and found.warnings == []
    assert np.array_equal(found.scores.confusion.counts, expected.scores.confusion.counts)
    assert found.scores.robustness.rows() == expected.scores.robustness.rows()


def test_labels_are_checked_against_the_camera_size_at_network_resolution(street, pipeline, tmp_path):
    """Including those of the network's own ratio 2:1."""
    bag = with_labels(street, tmp_path / "bag", lambda ids: ("mono8", ids[:32, :64].copy()))
    found = evaluate(bag, pipeline, described("labels_resolution:=network"))
    assert found.scores.compared == 0
    assert "ground-truth labels are 64x32 pixels, but the camera has 96x64" in found.warnings[0]


@pytest.mark.parametrize("where", ["topic", "folder"])
@pytest.mark.parametrize("modalities", ["[lidar]", "[camera, lidar]"])
def test_camera_offset_applies_to_labels_even_without_the_camera(tmp_path, pipeline, where, modalities):
    """The camera's stamps, and with them the labels', are 50 ms late."""

    def late(topic, index, made):
        if topic in ("/camera/image_raw", "/ground_truth/labels"):
            made["header"]["stamp"]["nanosec"] += 50_000_000
        return made

    bag = write_drive(tmp_path / "bag", lidar_late=0, change=late)
    options = described(f"modalities:={modalities}", "camera.offset:=0.05")
    if where == "folder":
        for index in range(10):
            cv2.imwrite(
                str(tmp_path / f"{START + index * PERIOD + 50_000_000}.png"), np.full((24, 32), index, np.uint8)
            )
        options = replace(options, labels=tmp_path)
    found = evaluate(bag, pipeline, options)
    assert found.scores.compared == len(found.scores.masks) >= 9
    recorder = Recorder()
    evaluate(bag, pipeline, options, [recorder])
    assert all((truth == (stamp - START) // PERIOD).all() for stamp, _, truth in recorder.matches)


def test_unexpected_decoder_error_costs_one_frame(tmp_path, pipeline, monkeypatch):
    """As in the node, the evaluation continues."""
    bag = write_drive(tmp_path / "bag", lidar_late=0)
    read = FrameReader.read

    def fail(self, message):
        if self.modality == "lidar" and stamp_ns(message.header) == START + 3 * PERIOD:
            raise IndexError("unforeseen")
        return read(self, message)

    monkeypatch.setattr(FrameReader, "read", fail)
    found = evaluate(bag, pipeline)
    assert len(found.scores.masks) == 10 and found.counters["lidar"]["used"] == 9
    assert found.refusals["lidar"] == {"IndexError: unforeseen": 1}
    assert "/lidar/points: IndexError: unforeseen" in found.warnings
    assert any("IndexError: unforeseen" in finding.message for finding in diagnose_bag(bag).findings)


def test_unexpected_pipeline_error_costs_one_mask(tmp_path, pipeline, monkeypatch):
    """As in the node, the evaluation continues."""
    segment, calls = pipeline.segment, []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise RuntimeError("unforeseen")
        return segment(*arguments)

    monkeypatch.setattr(pipeline, "segment", fail)
    found = evaluate(write_drive(tmp_path / "bag", lidar_late=0), pipeline)
    assert len(found.scores.masks) == 9 and "RuntimeError: unforeseen" in found.warnings
    assert found.counters["camera"]["used"] == 9
