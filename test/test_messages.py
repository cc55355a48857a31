# SPDX-License-Identifier: Apache-2.0
"""Frames from messages of rclpy, of rosbags, and from random bytes."""

import array
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from event_camera_msgs.msg import EventPacket
from geometry_msgs.msg import TransformStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from tf2_msgs.msg import TFMessage

from mlesam_ros.errors import CalibrationError, CloudError, ConfigError, ImageError, MlesamError, PacketError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.messages import RAW_TYPES, FrameReader, stamp_ns, transforms
from mlesam_ros.preprocessing.evt3 import encode_evt3
from mlesam_ros.resources import resource_path
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MESSAGE_TYPES, EventWindow, PointCloud, RawImage
from mlesam_ros.types import CompressedImage as CompressedPayload

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CLOUD, PACKET = "sensor_msgs/msg/PointCloud2", "event_camera_msgs/msg/EventPacket"
STAMP = 1_700_000_000_123_456_789


@pytest.fixture(scope="module")
def store():
    store = get_typestore(Stores.ROS2_JAZZY)
    definition = resource_path("mlesam_ros/interfaces/event_camera_msgs/msg/EventPacket.msg").read_text()
    store.register(get_types_from_msg(definition, PACKET))
    return store


def stamped(message, frame="/front"):
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(STAMP, 10**9)
    message.header.frame_id = frame
    return message


def image(encoding="rgb8", height=2, width=3, step=12):
    message = stamped(Image(height=height, width=width, encoding=encoding, step=step))
    message.data = array.array("B", range(height * step))
    return message


def cloud():
    message = stamped(PointCloud2(height=1, width=3, point_step=16, row_step=48, is_dense=True))
    names = ("x", "y", "z", "intensity")
    message.fields = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate(names)]
    message.data = array.array("B", np.arange(12, dtype="<f4").tobytes())
    return message


def packet(seq=0):
    message = stamped(EventPacket(height=480, width=640, seq=seq, encoding="evt3"))
    message.events = array.array("B", encode_evt3([1, 2], [3, 4], [500, 1500], [1, 0]).tobytes())
    return message


def both(message, type_name, store):
    """The message of rclpy, and of rosbags from its serialized bytes."""
    return message, store.deserialize_cdr(serialize_message(message), type_name)


def test_images(store):
    for message in both(image(), IMAGE, store):
        frame = FrameReader(CAMERA, IMAGE).read(message)
        assert (frame.modality, frame.stamp, frame.frame_id) == (CAMERA, STAMP, "front")
        picture = frame.payload
        assert isinstance(picture, RawImage)
        assert (picture.height, picture.width, picture.encoding, picture.step) == (2, 3, "rgb8", 12)
        assert picture.data.dtype == np.uint8
        assert picture.data.tolist() == list(range(24))
        assert picture.is_bigendian is False


def test_compressed_images(store):
    message = stamped(CompressedImage(format="jpeg", data=array.array("B", b"\xff\xd8\xff")))
    for each in both(message, COMPRESSED, store):
        payload = FrameReader(CAMERA, COMPRESSED).read(each).payload
        assert isinstance(payload, CompressedPayload)
        assert (payload.format, payload.data.tobytes()) == ("jpeg", b"\xff\xd8\xff")


def test_clouds(store):
    for message in both(cloud(), CLOUD, store):
        payload = FrameReader(LIDAR, CLOUD).read(message).payload
        assert isinstance(payload, PointCloud)
        assert payload.points["y"].tolist() == [1, 5, 9]
        assert payload.points["intensity"].tolist() == [3, 7, 11]


def test_event_packets(store):
    for message in both(packet(), PACKET, store):
        reader = FrameReader(EVENT, PACKET)
        frame = reader.read(message)
        assert isinstance(frame.payload, EventWindow)
        assert frame.stamp == frame.payload.end == STAMP + 1_000_000
        assert frame.payload.x.tolist() == [1, 2]
        assert frame.payload.polarity.tolist() == [True, False]
        assert reader.counters["packets"] == 1


def test_event_reader_keeps_previous_packets():
    reader = FrameReader(EVENT, PACKET)
    reader.read(packet(0))
    later = packet(1)
    later.header.stamp.nanosec += 10_000_000
    assert reader.read(later).payload.x.tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize("type_name", sorted(RAW_TYPES))
def test_event_arrays_are_read_from_their_bytes(type_name):
    package = type_name.partition("/")[0]
    types = import_module(f"{package}.msg")
    message = stamped(types.EventArray(height=480, width=640), "/dvs")
    stamp = message.header.stamp
    for ms in range(4):
        time = Time(sec=stamp.sec, nanosec=stamp.nanosec + ms * 1_000_000)
        message.events.append(types.Event(x=ms, y=2 * ms, ts=time, polarity=ms % 2 == 0))
    reader = FrameReader(EVENT, type_name)
    frame = reader.read(serialize_message(message))
    assert (frame.modality, frame.frame_id, frame.stamp) == (EVENT, "dvs", STAMP + 3_000_000)
    assert frame.payload.x.tolist() == [0, 1, 2, 3]
    assert frame.payload.t.tolist() == [STAMP + ms * 1_000_000 for ms in range(4)]
    assert frame.payload.polarity.tolist() == [True, False, True, False]
    assert reader.counters["packets"] == 1


def test_event_image_is_a_frame_without_counters():
    reader = FrameReader(EVENT, IMAGE)
    assert isinstance(reader.read(image("mono8", 2, 3, 3)).payload, RawImage)
    assert reader.counters == {}


@pytest.mark.parametrize(
    ("message", "modality", "type_name", "read"),
    [
        (image(), CAMERA, IMAGE, lambda f: f.payload.data),
        (cloud(), LIDAR, CLOUD, lambda f: f.payload.points),
        (stamped(CompressedImage(data=array.array("B", b"abc"))), DEPTH, COMPRESSED, lambda f: f.payload.data),
    ],
)
def test_payloads_are_views_of_the_message(message, modality, type_name, read, store):
    for each in both(message, type_name, store):
        assert np.shares_memory(read(FrameReader(modality, type_name).read(each)), np.asarray(each.data))


def test_bytes_payload_is_accepted():
    message = SimpleNamespace(header=image().header, height=1, width=2, encoding="mono8", step=2, is_bigendian=0)
    message.data = b"\x01\x02"
    assert FrameReader(CAMERA, IMAGE).read(message).payload.data.tolist() == [1, 2]


def test_empty_messages_are_refused_with_a_reason():
    for modality, types in MESSAGE_TYPES.items():
        for type_name, message in ((IMAGE, Image()), (CLOUD, PointCloud2()), (PACKET, EventPacket())):
            if type_name in types:
                with pytest.raises((ImageError, CloudError, PacketError), match=r"accepted|needs"):
                    FrameReader(modality, type_name).read(message)


def test_depth_image_is_refused_as_camera_image():
    with pytest.raises(ImageError, match="'16UC1' is not a camera image"):
        FrameReader(CAMERA, IMAGE).read(image("16UC1", 2, 3, 12))
    assert FrameReader(DEPTH, IMAGE).read(image("16UC1", 2, 3, 12)).payload.encoding == "16UC1"


def test_unsupported_type_is_refused():
    with pytest.raises(ConfigError, match="'sonar' has no messages; accepted are camera, depth, event, lidar"):
        FrameReader("sonar", IMAGE)
    with pytest.raises(ConfigError, match=r"cannot be read from sensor_msgs/msg/Image\. Use sensor_msgs/msg/Point"):
        FrameReader(LIDAR, IMAGE)


def test_camera_info(store):
    message = stamped(CameraInfo(height=480, width=640, distortion_model="plumb_bob", d=[0.1, 0, 0, 0, 0]))
    message.k = [500.0, 0, 320, 0, 510, 240, 0, 0, 1]
    for each in both(message, "sensor_msgs/msg/CameraInfo", store):
        camera = CameraModel.from_info(each)
        assert (camera.width, camera.height, camera.K[1, 1], camera.D[0]) == (640, 480, 510, 0.1)
    with pytest.raises(CalibrationError):
        CameraModel.from_info(CameraInfo())


def test_transforms(store):
    one = stamped(TransformStamped(child_frame_id="/lidar"), "base_link")
    one.transform.translation.x = 2.0
    one.transform.rotation.z = one.transform.rotation.w = 0.5**0.5
    for message in both(TFMessage(transforms=[one]), "tf2_msgs/msg/TFMessage", store):
        [(parent, child, transform, stamp)] = transforms(message)
        assert (parent, child, stamp) == ("base_link", "lidar", STAMP)
        np.testing.assert_allclose(transform.apply(np.array([[1.0, 0, 0]])), [[2, 1, 0]], atol=1e-12)
    one.transform.rotation.w = 5.0
    with pytest.raises(CalibrationError, match="not a rotation"):
        transforms(TFMessage(transforms=[one]))


def test_stamp_ns():
    assert stamp_ns(image().header) == STAMP


SMALL = st.integers(0, 40) | st.integers(0, 2**32 - 1)
BYTES = st.binary(max_size=200)
NAMES = st.sampled_from(["x", "y", "z", "intensity", "ring", ""]) | st.text(max_size=3)
HEADER = st.builds(
    lambda sec, nanosec: SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id="f"),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
)
FIELDS = st.lists(
    st.builds(
        SimpleNamespace,
        name=NAMES,
        offset=SMALL,
        datatype=st.integers(0, 9),
        count=st.sampled_from([0, 1, 1, 1, 2, 2**32 - 1]),
    ),
    max_size=6,
)
XYZ = FIELDS.map(
    lambda rest: [SimpleNamespace(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate("xyz")] + rest
)
ANY = {
    IMAGE: st.builds(
        SimpleNamespace,
        header=HEADER,
        height=SMALL,
        width=SMALL,
        encoding=st.sampled_from(["rgb8", "mono16", "32FC1", "bayer_rggb8", "uyvy"]) | st.text(max_size=5),
        step=SMALL,
        is_bigendian=st.booleans(),
        data=BYTES,
    ),
    COMPRESSED: st.builds(SimpleNamespace, header=HEADER, format=st.text(max_size=9), data=BYTES),
    CLOUD: st.builds(
        SimpleNamespace,
        header=HEADER,
        height=st.sampled_from([0, 1, 2]) | SMALL,
        width=SMALL,
        fields=FIELDS | XYZ,
        is_bigendian=st.booleans(),
        point_step=st.sampled_from([12, 16, 20]) | SMALL,
        row_step=SMALL,
        data=BYTES,
    ),
    PACKET: st.builds(
        SimpleNamespace,
        header=HEADER,
        height=SMALL,
        width=SMALL,
        seq=st.integers(0, 2**64 - 1),
        time_base=st.integers(0, 2**64 - 1),
        encoding=st.sampled_from(["evt3", "mono", "libcaer", "libcaer_cmp"]) | st.text(max_size=5),
        is_bigendian=st.booleans(),
        events=BYTES,
    ),
    **{name: BYTES | BYTES.map(lambda tail: bytes([0, 1, 0, 0]) + bytes(12) + tail) for name in RAW_TYPES},
}


@pytest.mark.parametrize(("modality", "type_name"), [(m, t) for m, types in MESSAGE_TYPES.items() for t in types])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_message_is_a_frame_or_an_error(modality, type_name, data):
    reader = FrameReader(modality, type_name)
    for message in data.draw(st.lists(ANY[type_name], min_size=1, max_size=3)):
        try:
            frame = reader.read(message)
        except MlesamError as error:
            assert str(error).endswith((".", "?"))
        else:
            assert frame.modality == modality
