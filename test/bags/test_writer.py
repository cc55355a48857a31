# SPDX-License-Identifier: Apache-2.0
"""Messages from plain fields: complete, typed, with clear errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.bags.serialization import camera_info, typestore
from mlesam_ros.bags.writer import build
from mlesam_ros.errors import BagError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.resources import resource_path

STORE, INFO = typestore(), "sensor_msgs/msg/CameraInfo"
# Types whose fields refer to types outside the store cannot be built; the store must have none.
NAMES = sorted(
    name for name in STORE.fielddefs if name.split("/")[0] in ("sensor_msgs", "mlesam_ros", "tf2_msgs", "dvs_msgs")
)


@pytest.mark.parametrize("name", NAMES)
def test_every_type_can_be_built_empty_and_round_trips(name):
    raw = STORE.serialize_cdr(build(STORE, name, {}), name)
    again = STORE.deserialize_cdr(raw, name)
    assert bytes(STORE.serialize_cdr(again, name)) == bytes(raw)


def test_own_and_foreign_types_are_known():
    ours = {f"mlesam_ros/msg/{path.stem}" for path in resource_path("msg").glob("*.msg")}
    assert len(ours) >= 6 and ours <= set(STORE.fielddefs)
    for name in ("event_camera_msgs/msg/EventPacket", "tf2_msgs/msg/TFMessage", "vision_msgs/msg/LabelInfo"):
        assert name in STORE.fielddefs


@given(st.binary(max_size=40), st.integers(0, 2**32 - 1), st.text(max_size=10))
def test_values_round_trip(data, width, frame):
    fields = {"header": {"frame_id": frame}, "width": width, "data": np.frombuffer(data, np.uint8)}
    message = build(STORE, "sensor_msgs/msg/Image", fields)
    raw = STORE.serialize_cdr(message, "sensor_msgs/msg/Image")
    again = STORE.deserialize_cdr(raw, "sensor_msgs/msg/Image")
    assert (again.header.frame_id, again.width, bytes(again.data)) == (frame, width, data)


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"hight": 3}, ["hight", "did you mean height"]),
        ({"height": -1}, ["Image.height", "-1", "0 to 4294967295"]),
        ({"height": "tall"}, ["Image.height", "tall"]),
        ({"header": {"stamp": {"secs": 1}}}, ["Time", "secs", "sec"]),
    ],
)
def test_error_names_the_invalid_field(fields, texts):
    with pytest.raises(BagError) as error:
        build(STORE, "sensor_msgs/msg/Image", fields)
    assert all(word in str(error.value) for word in texts)


def test_fixed_arrays_keep_their_length():
    with pytest.raises(BagError, match=r"CameraInfo\.k.*8 values, not 9"):
        build(STORE, "sensor_msgs/msg/CameraInfo", {"k": np.zeros(8)})


def test_unknown_types_are_refused():
    with pytest.raises(BagError, match="no_msgs/msg/Such"):
        build(STORE, "no_msgs/msg/Such", {})


def test_event_packet_definition_matches_recorded_bags(shared_data):
    """The type hash that a recorder wrote beside its packets."""
    metadata = (shared_data / "events/test_events_1/metadata.yaml").read_text()
    assert STORE.hash_rihs01("event_camera_msgs/msg/EventPacket") in metadata


@pytest.mark.parametrize(("model", "coefficients"), [("pinhole", 0), ("plumb_bob", 5), ("equidistant", 4)])
def test_camera_info_round_trips(model, coefficients):
    k = np.array([[40.0, 0, 19.5], [0, 41.0, 14.5], [0, 0, 1]])
    camera = CameraModel(40, 30, k, np.linspace(0.01, 0.02, coefficients), model)
    message = STORE.deserialize_cdr(
        STORE.serialize_cdr(build(STORE, INFO, camera_info(1, "front", camera)), INFO), INFO
    )
    again = CameraModel.from_info(message)
    pixels = np.array([[0.1, 0.2, 1.0], [-0.3, 0.1, 2.0]])
    np.testing.assert_allclose(again.project(pixels)[0], camera.project(pixels)[0], atol=1e-9)


def test_camera_info_of_a_rectified_camera_round_trips():
    k = np.array([[40.0, 0, 19.5], [0, 41.0, 14.5], [0, 0, 1]])
    turned = Transform.from_quaternion([0.1, 0.0, 0.0], [0.0, 0.02, 0.0, np.sqrt(1 - 0.02**2)])
    camera = CameraModel(40, 30, k, np.zeros(0), "pinhole", turned)
    again = CameraModel.from_info(build(STORE, INFO, camera_info(1, "front", camera)), rectified=True)
    points = np.array([[0.1, 0.2, 1.0], [-0.3, 0.1, 2.0]])
    np.testing.assert_allclose(again.project(points)[0], camera.project(points)[0], atol=1e-9)
