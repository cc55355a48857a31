# SPDX-License-Identifier: Apache-2.0
"""The node live and its parts other than the network in one process, beside alternatives."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from bounds import least_seconds
from counting import asked_bytes
from rclpy.serialization import serialize_message

from mlesam_ros.bags.serialization import pixels, typestore
from mlesam_ros.bench.measurement import BenchmarkResult, measure
from mlesam_ros.bench.node_benchmark import drive, live_rows
from mlesam_ros.bench.traffic import PERIOD, Message, TrafficGenerator, large
from mlesam_ros.config import NodeParameters
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.mask_messages import MASK_TOPICS, mask_messages
from mlesam_ros.messages import FrameReader
from mlesam_ros.model.inference import argmax_with_confidence
from mlesam_ros.model.model_config import network_size
from mlesam_ros.pipeline import load_pipeline
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.ros.compat import message_class
from mlesam_ros.ros.process import tune_malloc
from mlesam_ros.ros.publishers import OUTPUTS, message_from
from mlesam_ros.sync import Synchronizer
from mlesam_ros.types import CAMERA, EVENT, MODALITIES, FrameSet, Modality, SensorFrame

_IMAGE = "sensor_msgs/msg/Image"
_EVERY_TOPIC = {f"/mlesam/{name}": output.type_name for name, output in OUTPUTS.items() if output.rate == "per mask"}
_SECONDS_PER_REPEAT = 0.3
_TRAFFIC = {"street": "512x512, street robot", "large": "1080p, 131072 points, 300000 events"}
_SIZES = (256, 1024)  # longer side of the network's images: shipped hiera_nano, and paper
_CLASSES = 25
_CAMERA = (1080, 1920)

compare = partial(measure, memory=asked_bytes)


def run(repeats: int) -> list[BenchmarkResult]:
    """Measure the shipped network live with two robots, then each part of the node at 1080p without transport."""
    live = [row for traffic, words in _TRAFFIC.items() for row in _live(traffic, words, repeats)]
    return [*live, *(row for rows in parts(repeats) for row in rows)]


def _live(traffic: str, words: str, repeats: int) -> Iterator[BenchmarkResult]:
    """Compare subscriptions to labels and status only with subscriptions to every topic."""
    robot = "mlesam_ros.bench.traffic", traffic
    seconds = _SECONDS_PER_REPEAT * repeats
    few, every = (live_rows(words, drive(robot, seconds, topics)) for topics in ({}, _EVERY_TOPIC))
    for ours, other in zip(few[:-1], every, strict=False):
        speedup = {"ms": other.median / ours.median, "Hz": ours.median / other.median} if ours.repeats > 1 else {}
        yield replace(
            ours, alternative="every topic listened to", alternative_median=other.median, ratio=speedup.get(ours.unit)
        )
    yield few[-1]


def parts(repeats: int) -> Iterator[list[BenchmarkResult]]:
    """Measure the parts of the node at 1080p."""
    robot = large()
    messages = [m for m in robot.messages() if "info" not in m.topic]
    camera = next(m for m in messages if m.type_name == _IMAGE)
    yield compare(
        "1080p message to a frame", partial(_read, FrameReader(CAMERA, _IMAGE), _unpacked(camera)), repeats,
        ("a copy, as cv_bridge makes it", partial(_copied, _unpacked(camera))), unit="us",
    )  # fmt: skip
    packets = [m for m in messages if m.type_name.endswith("EventPacket")]
    yield _events(packets, repeats)
    yield compare("four frames through the synchronizer", partial(_synchronize, robot.frames), repeats, unit="us")
    for longest in _SIZES:
        size = network_size(_CAMERA, longest)
        where = f"for {size[1]}x{size[0]}"
        yield from _encode(robot, size, where, repeats)
        yield _decode(size, where, repeats)
    yield _publish(repeats)


def _unpacked(message: Message) -> Any:
    return typestore().deserialize_cdr(message.at(PERIOD, 0), message.type_name)


def _read(reader: FrameReader, *messages: Any) -> SensorFrame:
    for message in messages:
        frame = reader.read(message)
    return frame


def _copied(message: Any) -> object:
    return np.array(message.data).reshape(message.height, -1, 3)


def _events(packets: list[Message], repeats: int) -> list[BenchmarkResult]:
    """Time the decoding of one window's packets; stamps, numbers and sensor clock advance with every repeat."""
    reader, periods = FrameReader(EVENT, packets[0].type_name), iter(range(1, 1 << 30))
    waiting: list[Any] = []

    def read() -> object:
        number = next(periods)
        waiting[:] = [typestore().deserialize_cdr(p.at(number * PERIOD, number), p.type_name) for p in packets]
        return _read(reader, *waiting)

    return compare(f"{len(packets)} packets to a window of events", read, repeats)


def _synchronize(frames: Mapping[Modality, SensorFrame]) -> FrameSet | None:
    synchronizer, stamp = Synchronizer(), frames[CAMERA].stamp
    for frame in frames.values():
        synchronizer.push(replace(frame, stamp=stamp), stamp)
    return synchronizer.take(stamp)


def _encode(
    robot: TrafficGenerator, size: tuple[int, int], where: str, repeats: int
) -> Iterator[list[BenchmarkResult]]:
    """Time the preprocessors of all sensors together and of each sensor alone.

    Events alone are projected at infinity, since no sensor provides their depth.
    """
    preprocessors = make_preprocessors(DEFAULT_PREPROCESSORS)
    image, few = np.empty((3, *size), np.float32), max(repeats // 2, 3)
    for chosen in (MODALITIES, *((m,) for m in MODALITIES)):
        frames = {m: robot.frames[m] for m in chosen}
        frame_set = FrameSet(robot.frames[CAMERA].stamp, CAMERA, frames, dict.fromkeys(frames, 0))
        name = "four sensors to images" if len(chosen) > 1 else f"{chosen[0]} to an image"
        work = partial(encode, frame_set, robot.rig, size, preprocessors)
        yield compare(f"{name} {where}", work, few, bound=least_seconds(*[image] * len(chosen)))


def _decode(size: tuple[int, int], where: str, repeats: int) -> list[BenchmarkResult]:
    torch.manual_seed(0)
    logits = torch.randn(1, _CLASSES, size[0] // 4, size[1] // 4)
    return compare(
        f"logits {where} to 1080p labels and confidence",
        partial(_labels, logits, size),
        repeats,
        ("enlarge the logits to 1080p, softmax, arg max", partial(_plain_labels, logits)),
        bound=least_seconds(np.empty(_CAMERA, np.uint8), np.empty(_CAMERA, np.uint8)),
    )


@torch.inference_mode()
def _labels(logits: torch.Tensor, size: tuple[int, int]) -> object:
    return [resize_nearest(image, _CAMERA) for image in argmax_with_confidence(logits, size).numpy()]


@torch.inference_mode()
def _plain_labels(logits: torch.Tensor) -> object:
    large = torch.nn.functional.interpolate(logits, _CAMERA, mode="bilinear", align_corners=False)
    confidence, labels = large.softmax(1).max(1)
    return labels[0].byte().numpy(), (255 * confidence[0]).byte().numpy()


def _publish(repeats: int) -> list[BenchmarkResult]:
    labels = np.zeros(_CAMERA, np.uint8)
    kind = message_class(_IMAGE)
    assert kind is not None

    def assigned() -> None:
        kind().data = labels.reshape(-1)

    return compare(
        "1080p labels to a message",
        lambda: message_from(kind, pixels(1, "camera", labels, "mono8")),
        repeats,
        ("a NumPy array assigned to the field", assigned),
        bound=least_seconds(labels, labels),
    )


_ALIGNED = frozenset(name for name in MASK_TOPICS if name.startswith("aligned/"))
_COSTMAP = frozenset(("obstacle_points", "ground_points"))


def publishing(repeats: int) -> list[BenchmarkResult]:
    """Time the messages of a mask at 1080p, from the mask to serialized bytes, each topic alone and several together.

    Allocation is tuned as in the node, and transport is left out.
    """
    tune_malloc()
    robot, pipeline = large(), load_pipeline(NodeParameters())
    frames = dict(robot.frames)
    frame_set = FrameSet(frames[CAMERA].stamp, CAMERA, frames, dict.fromkeys(frames, 0))
    mask, space = pipeline.segment(frame_set, robot.rig), pipeline.config.label_space
    kinds = {name: message_class(topic.type_name) for name, topic in MASK_TOPICS.items()}

    def publish(topics: Collection[str], width: int = NodeParameters().overlay_width) -> None:
        parameters = replace(NodeParameters(), overlay_width=width)
        made = mask_messages(mask, frame_set, robot.rig, space, parameters)
        for name in topics:
            serialize_message(message_from(kinds[name], made[name]()))  # type: ignore[type-var]

    alone = {f"~/{name}": (name,) for name in MASK_TOPICS}
    every = frozenset(MASK_TOPICS)
    together = {
        "all but ~/aligned/* and the points for costmaps": every - _ALIGNED - _COSTMAP,
        "all but ~/aligned/*": every - _ALIGNED,
        "~/aligned/*": _ALIGNED,
        "all": every,
    }
    rows = []
    for name, topics in {**alone, **together}.items():
        wide = "overlay_width 0", partial(publish, topics, 0)
        rows += compare(name, partial(publish, topics), repeats, *([wide] if len(topics) > 1 else []))
    return rows
