# SPDX-License-Identifier: Apache-2.0
"""Traffic of the node benchmark: `python -m mlesam_ros.bench.traffic large` publishes until it is stopped.

All messages are serialized before the first is published. While driving, only stamps, sequence numbers and sensor
clocks are patched into the bytes, which leaves the CPU to the node.
"""

from __future__ import annotations

import itertools
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.serialization import camera_info, event_packet, image, point_cloud, transforms, typestore
from mlesam_ros.bags.writer import build
from mlesam_ros.bench.sensor_benchmark import POINT, make_frames
from mlesam_ros.files import end_with_named_parent
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.messages import CAMERA_INFO, TF_MESSAGE
from mlesam_ros.preprocessing.evt3 import encode_evt3
from mlesam_ros.ros.publishers import RawPublisher
from mlesam_ros.simulation.export import INFO_TOPICS, TOPICS
from mlesam_ros.simulation.sensors import BASE_FRAME, CAMERA_FRAME
from mlesam_ros.simulation.world import World
from mlesam_ros.types import (
    CAMERA,
    DEPTH,
    EVENT,
    EVENT_PACKET,
    IMAGE,
    LIDAR,
    NANOSECONDS,
    POINT_CLOUD,
    EventWindow,
    Modality,
    PointCloud,
    RawImage,
    SensorFrame,
)

_TICK = 4_096_000  # ns per unit of EVT3's upper time words
PERIOD = 24 * _TICK
"""Nanoseconds per period: slightly less than 100 ms, so that only EVT3's upper time words change."""
_PACKET = 1_000_000  # ns of events per message
_SWEEP = 50_000_000  # ns; a LiDAR at 20 Hz whose stamp is the start of the sweep
_SPEED = 15.0  # m/s
_ODOMETRY = (80, 60, 40, 20, 0)  # ms before the stamp of the period
_HIGH = 0x8000  # EVT3 word type EVT_TIME_HIGH: upper 12 of 24 bits of time
_STAMP_MARK = 0x1122_3344_5566_7788  # stamp that is replaced in the serialized message before each publication
_TYPES: dict[type, str] = {
    CameraModel: CAMERA_INFO,
    RawImage: IMAGE,
    PointCloud: POINT_CLOUD,
    EventWindow: EVENT_PACKET,
}


@dataclass(frozen=True)
class Message:
    """A message that is published once per period.

    Attributes:
        topic, type_name: topic and message type.
        offset: nanoseconds from the stamp of the period to the stamp of the message.
        raw: CDR with encapsulation header; the message starts with a `std_msgs/Header`.
    """

    topic: str
    type_name: str
    offset: int
    raw: npt.NDArray[np.uint8]

    def at(self, stamp: int, number: int) -> bytes:
        """Return the bytes for period `number` at `stamp`; calls must be in order of the periods."""
        self.raw[4:12] = _bytes("<iI", *divmod(stamp + self.offset, NANOSECONDS))
        return self.raw.tobytes()


@dataclass(frozen=True)
class Packet(Message):
    """An event packet.

    Attributes:
        sequence: (first sequence number, packets per period).
        sequence_at: byte offset of the sequence number in `raw`.
        clock_at: byte offsets in `raw` of EVT3's upper time words.
    """

    sequence: tuple[int, int]
    sequence_at: int
    clock_at: npt.NDArray[np.intp]

    def at(self, stamp: int, number: int) -> bytes:
        """See `Message.at`; also advances the sensor clock and the sequence number."""
        first, each = self.sequence
        self.raw[self.sequence_at : self.sequence_at + 8] = _bytes("<Q", first + each * number)
        if number:
            low, high = self.raw[self.clock_at], self.raw[self.clock_at + 1].astype(np.uint16)
            ticks = (low | (high & 0x0F) << 8) + PERIOD // _TICK
            self.raw[self.clock_at] = ticks & 0xFF
            self.raw[self.clock_at + 1] = _HIGH >> 8 | ticks >> 8 & 0x0F
        return super().at(stamp, number)


@dataclass(frozen=True)
class TrafficGenerator:
    """Source of a robot's messages.

    Attributes:
        rig: camera models and transforms.
        frames: modality → frame that is published in every period.
        cameras: name → further camera, whose topics are below its name.
    """

    rig: Rig
    frames: Mapping[Modality, SensorFrame]
    cameras: Mapping[str, TrafficGenerator] = field(default_factory=dict)

    def messages(self) -> list[Message]:
        """Serialize the messages of one period, in the order of publication."""
        infos = [
            _message(INFO_TOPICS[m], CameraModel, 0, camera_info(1, f.frame_id, self.rig.model(f.frame_id)))
            for m, f in self.frames.items()
            if m in INFO_TOPICS
        ]
        own = [*infos, *(message for frame in self.frames.values() for message in _sensor(frame))]
        return own + [
            replace(message, topic=f"/{name}{message.topic}")
            for name, camera in self.cameras.items()
            for message in camera.messages()
        ]


def street() -> TrafficGenerator:
    """The robot of `mlesam demo`: 512 x 512 pixels, depth in the camera's frame."""
    world = World(9000, size=(512, 512))
    return TrafficGenerator(world.rig, world.sample(5).frames)


def large() -> TrafficGenerator:
    """1080p images, 131,072 points with individual times, 300,000 events in 30 ms, and a separate depth camera."""
    rig, frames = make_frames()
    lidar = frames[LIDAR]
    assert isinstance(lidar.payload, PointCloud)
    points = lidar.payload.points.astype(POINT)
    points["t"] //= 2
    return TrafficGenerator(rig, {**frames, LIDAR: replace(lidar, payload=PointCloud(points))})


TURNS = {"front": 0.0, "left": 70.0, "right": -70.0}
"""Camera of `views` → its turn to the left in degrees."""


def views(without: str = "") -> TrafficGenerator:
    """A LiDAR and the cameras of `TURNS`, 512 x 512 pixels each, without one of them."""
    size = (512, 512)
    street = World(9000, size=size, dropped=(CAMERA, DEPTH, EVENT))
    cameras = {}
    for name, yaw in TURNS.items():
        turned = World(9000, size=size, dropped=(DEPTH, EVENT, LIDAR), yaw=yaw)
        street.rig.tree.set(BASE_FRAME, name, turned.rig.tree.lookup(BASE_FRAME, CAMERA_FRAME))
        frames = {CAMERA: replace(turned.sample(5).frames[CAMERA], frame_id=name)}
        cameras[name] = TrafficGenerator(Rig(name, {name: turned.rig.camera}), frames)
    cameras.pop(without, None)
    return TrafficGenerator(street.rig, street.sample(5).frames, cameras)


ROBOTS: dict[str, Callable[..., TrafficGenerator]] = {"street": street, "large": large, "views": views}


def _sensor(frame: SensorFrame) -> Iterator[Message]:
    payload, topic = frame.payload, TOPICS[frame.modality]
    if isinstance(payload, EventWindow):
        yield from _packets(frame, payload)
    elif isinstance(payload, PointCloud):
        yield _message(topic, PointCloud, -_SWEEP, point_cloud(1, frame.frame_id, payload.points))
    elif isinstance(payload, RawImage):
        yield _message(topic, RawImage, 0, image(1, frame.frame_id, payload))


def _packets(frame: SensorFrame, events: EventWindow) -> Iterator[Packet]:
    microseconds = (events.t - events.start) // 1000
    edges = np.searchsorted(events.t, np.arange(events.start, events.end + _PACKET, _PACKET))
    parts = [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]
    size = events.height, events.width
    for number, part in enumerate(parts):
        evt3 = encode_evt3(events.x[part], events.y[part], microseconds[part], events.polarity[part])
        packet = _message(
            TOPICS[EVENT], EventWindow, int(events.t[part.start]) - events.end,
            event_packet(1, frame.frame_id, size, _STAMP_MARK, evt3),
        )  # fmt: skip
        found = packet.raw.tobytes()
        words = found.index(evt3.tobytes()) + 2 * np.flatnonzero(evt3.view("<u2") & 0xF000 == _HIGH)
        at = found.index(_STAMP_MARK.to_bytes(8, "little"))
        yield Packet(packet.topic, packet.type_name, packet.offset, packet.raw, (number, len(parts)), at, words)


def _message(topic: str, kind: type, offset: int, content: Mapping[str, Any]) -> Message:
    return Message(topic, _TYPES[kind], offset, np.frombuffer(bytearray(_packed(_TYPES[kind], content)), np.uint8))


def _bytes(layout: str, *values: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(struct.pack(layout, *values), np.uint8)


def _packed(type_name: str, content: Mapping[str, Any]) -> bytes:
    store = typestore()
    return bytes(store.serialize_cdr(build(store, type_name, content), type_name))


def _odometry(end: int, start: int) -> bytes:
    """Serialize the poses of the car during the period before `end` as a TFMessage."""
    entries = []
    for early in _ODOMETRY:
        stamp = end - early * 1_000_000
        meters = _SPEED * (stamp - start) / NANOSECONDS
        pose = Transform(np.eye(3), np.array([meters, 0.0, 0.0]))
        entries += transforms([("odom", "base_link", pose)], stamp)["transforms"]
    return _packed(TF_MESSAGE, {"transforms": entries})


def drive(robot: TrafficGenerator) -> None:
    """Publish the robot's messages once per period, without end."""
    messages = robot.messages()
    types = {"/tf": TF_MESSAGE, "/tf_static": TF_MESSAGE, **{m.topic: m.type_name for m in messages}}
    with RawPublisher(types, latched=("/tf_static",), depth=64) as speaker:
        speaker.publish("/tf_static", _packed(TF_MESSAGE, transforms(robot.rig.tree.static_transforms(), 1)))
        start = time.time_ns()
        for number, stamp in enumerate(_periods(start)):
            speaker.publish("/tf", _odometry(stamp, start))
            for message in messages:
                speaker.publish(message.topic, message.at(stamp, number))


def _periods(start: int) -> Iterator[int]:
    """Yield the stamp of every period when it is due; a late period is yielded at once."""
    due = start
    while True:
        time.sleep(max(due - time.time_ns(), 0) / NANOSECONDS)
        yield due
        due += PERIOD


def main() -> None:
    """Run the robot named on the command line, with its arguments, until SIGTERM or SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    drive(ROBOTS[sys.argv[1]](*sys.argv[2:]))


if __name__ == "__main__":
    end_with_named_parent()
    main()
