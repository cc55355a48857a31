# SPDX-License-Identifier: Apache-2.0
"""Data with another scale, field name, unit or bit depth give the usual images, detected or configured.

The oracle is the same street in the usual form, in `evaluate` and in training.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drive import Recorder
from rosbags.typesys import Stores, get_typestore

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.config import load_parameters
from mlesam_ros.doctor.diagnosis import diagnose_bag
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions, evaluate
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES
from mlesam_training.labeled_bags import BagOptions, prepare_bags

SIZE = (64, 96)
FIELD = get_typestore(Stores.ROS2_JAZZY).types["sensor_msgs/msg/PointField"]
F4, U2 = 7, 4


def changed(street, path, topic, change):
    with BagReader(street) as source, BagWriter(path) as bag:
        for entry in source.messages():
            message = change(entry.message) if entry.topic == topic else entry.message
            bag.add_message(entry.topic, entry.type, entry.stamp, message, latched=entry.topic in source.latched)
    return path


def intensity(factor, name="intensity", kind=F4):
    """Sweeps with intensities in another scale, type and field."""

    def change(message):
        points = np.array(message.data).reshape(-1, message.point_step)
        (field,) = (f for f in message.fields if f.name == "intensity")
        end = field.offset + 4
        values = np.ascontiguousarray(points[:, field.offset : end]).view("<f4").ravel() * factor
        if kind == U2:
            points[:, field.offset : end - 2] = values.round().astype("<u2").reshape(-1, 1).view(np.uint8)
        else:
            points[:, field.offset : end] = values.astype("<f4").reshape(-1, 1).view(np.uint8)
        fields = [f if f is not field else FIELD(name, f.offset, kind, 1) for f in message.fields]
        return replace(message, fields=fields, data=points.ravel())

    return change


def fifths(message):
    """16UC1 in fifths of a millimeter, as in the TUM RGB-D data set; values beyond 13 m are holes."""
    counts = np.array(message.data).view("<u2").astype(np.int64) * 5
    return replace(message, data=np.where(counts < 65536, counts, 0).astype("<u2").view(np.uint8))


def near(message):
    counts = np.array(message.data).view("<u2")
    return replace(message, data=np.where(counts.astype(np.int64) * 5 < 65536, counts, 0).astype("<u2").view(np.uint8))


def twelve_bits(message):
    samples = np.array(message.data).astype("<u2") << 4
    return replace(message, encoding="rgb16", step=2 * message.step, data=samples.view(np.uint8))


CASES = {
    "0 to 1": ("/lidar/points", LIDAR, intensity(1 / 255), None, ()),
    "signal": ("/lidar/points", LIDAR, intensity(257, "Signal", U2), None, ()),
    "a name of its own": (
        "/lidar/points", LIDAR, intensity(1 / 2.55, "power"), None,
        ("lidar.intensity_field:=power", "lidar.intensity_scale:=100.0"),
    ),
    "unit of depth": ("/depth/image_raw", DEPTH, fifths, near, ("depth.unit:=0.0002",)),
    "12 bits": ("/camera/image_raw", CAMERA, twelve_bits, None, ()),
    "12 bits as set": ("/camera/image_raw", CAMERA, twelve_bits, None, ("camera.significant_bits:=12",)),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def case(request, street, tmp_path_factory):
    topic, modality, change, usual, rules = CASES[request.param]
    folder = tmp_path_factory.mktemp("bags")
    plain = street if usual is None else changed(street, folder / "plain", topic, usual)
    return plain, changed(street, folder / "other", topic, change), modality, load_parameters(None, rules)


def test_evaluation_gives_the_same_images(case, pipeline):
    plain, other, modality, parameters = case
    usual, found = Recorder(), Recorder()
    evaluate(plain, pipeline, listeners=[usual])
    result = evaluate(other, pipeline, EvaluationOptions(parameters=parameters), listeners=[found])
    assert result.warnings == []
    for theirs, ours in zip(usual.records, found.records, strict=True):
        assert theirs.images[modality].any()
        np.testing.assert_allclose(ours.images[modality], theirs.images[modality], atol=0.02)


def test_training_gives_the_same_arrays(case, tmp_path):
    plain, other, modality, parameters = case
    usual = prepare_bags(BagOptions((str(plain),), str(tmp_path / "usual"), SIZE))
    found = prepare_bags(BagOptions((str(other),), str(tmp_path / "found"), SIZE, parameters=parameters))
    assert len(usual) == len(found) > 0
    rows = range(len(usual))
    theirs, ours = (dataset.batch(rows, [modality])[0][modality].numpy() for dataset in (usual, found))
    assert theirs.any()
    np.testing.assert_allclose(ours, theirs, atol=0.02)


@pytest.mark.parametrize(("rule", "share"), [("event.window:=0.015", 0.5), ("event.window:=0.06", 2.0)])
def test_event_window_applies_in_evaluation_and_training(street, pipeline, tmp_path, rule, share):
    """At a constant rate half of the window has half as many events; the last window is limited to 10."""
    parameters, listener = load_parameters(None, [rule]), Recorder()
    usual = Recorder()
    evaluate(street, pipeline, listeners=[usual])
    window = float(rule.partition(":=")[2])
    other = Pipeline(pipeline.network, "cpu", "fp32", 1, settings=replace(pipeline.preprocessing, event_window=window))
    found = evaluate(street, other, EvaluationOptions(parameters=parameters), listeners=[listener])
    assert f"event.window is {window:g} s, but the expert was trained on 0.03 s" in " ".join(found.warnings)
    few, many = (sum(record.images[EVENT].sum() for record in each.records[2:]) for each in (listener, usual))
    assert few / many == pytest.approx(share, rel=0.35)
    dataset = prepare_bags(BagOptions((str(street),), str(tmp_path / "arrays"), (32, 64), parameters=parameters))
    arrays = dataset.batch(range(len(dataset)), [EVENT])[0][EVENT].numpy()
    for row, record in enumerate(listener.records):
        np.testing.assert_allclose(arrays[row], record.images[EVENT], atol=0.01)


def test_doctor_finds_the_depth_unit_and_its_remedy_helps(street, tmp_path):
    bag = changed(street, tmp_path / "bag", "/depth/image_raw", fifths)
    checkup = diagnose_bag(bag)
    (found,) = (entry for entry in checkup.findings if entry.subject == DEPTH and entry.severity == "error")
    assert found.remedy == "Set depth.unit: 0.0002." and checkup.parameters["depth.unit"] == 0.0002
    mended = diagnose_bag(bag, load_parameters(None, ["depth.unit:=0.0002"]))
    assert not [entry for entry in mended.findings if entry.subject == DEPTH and entry.severity == "error"]


def test_doctor_and_status_report_the_detected_intensity(street, pipeline, tmp_path):
    bag = changed(street, tmp_path / "bag", "/lidar/points", intensity(257, "reflectivity", U2))
    description = "field reflectivity, uint16, scale 65535"
    checkup = diagnose_bag(bag)
    assert f"intensity: {description}." in [entry.message for entry in checkup.findings]
    assert checkup.sensors[LIDAR]["intensity"] == description
    listener = Recorder()
    evaluate(bag, pipeline, listeners=[listener])
    assert listener.records[-1].found[LIDAR]["intensity"].text == description


def test_missing_intensity_is_a_warning(street, pipeline, tmp_path):
    bag = changed(street, tmp_path / "bag", "/lidar/points", intensity(1, "gain"))
    found = evaluate(bag, pipeline)
    assert found.scores.masks[-1].used == tuple(MODALITIES)
    (warning,) = found.warnings
    assert warning.startswith("lidar: intensity is taken as 0: no field of a known name among x, y, z, gain")
