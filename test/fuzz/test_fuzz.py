# SPDX-License-Identifier: Apache-2.0
"""Whatever fields a message has, every encoder reads it or refuses it in one sentence; nothing else is ever raised.

Here messages are made up field by field, so that what is found comes as the shortest message that shows it. Bytes,
files and the node's whole way are test_damage.py's. 1,000 cases by default, the same ones every time; of MLESAM_FUZZ a
fiftieth, new ones every time.
"""

import math
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import cv2
import malformed_messages
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import MlesamError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import TransformTree
from mlesam_ros.messages import RAW_TYPES, FrameReader, transforms
from mlesam_ros.preprocessing.preprocessors import PREPROCESSORS
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MESSAGE_TYPES, SensorFrame

DEFAULT = 1_000
CASES = max(int(os.environ.get("MLESAM_FUZZ", "0")) // 50, DEFAULT)
LONGEST = timedelta(seconds=20)
"""For one case of a few hundred bytes, on a machine with much else to do."""
LONGEST_SENTENCE = 1_500
SIZE = (32, 64)
ENCODER_NAMES = {m: [name for name, cls in PREPROCESSORS.items() if cls.modality == m] for m in MESSAGE_TYPES}


class Target(NamedTuple):
    """What is attacked, with what, and how many shares of all cases it gets."""

    inputs: st.SearchStrategy
    read: Callable[[Any], None]
    shares: int = 2


def rig() -> Rig:
    fields = {
        "camera": "camera",
        "cameras": {
            name: {"width": width, "height": height, "K": [width / 2, width / 2, width / 2 - 0.5, height / 2 - 0.5]}
            for name, width, height in (("camera", 8, 6), ("depth", 8, 6), ("event", 40, 30))
        },
        "transforms": [
            {"parent": "base", "child": name, "translation": [1, y, 1], "quaternion": [-0.5, 0.5, -0.5, 0.5]}
            for name, y in (("camera", 0), ("depth", 0.1), ("event", -0.1))
        ]
        + [{"parent": "base", "child": "lidar", "translation": [1, 0, 2], "rpy": [0, 0, 0]}],
    }
    return Rig.from_dict(fields)


RIG = rig()


def encode_all(frame: SensorFrame) -> None:
    """Every encoder of the frame's modality; not each of them reads every payload."""
    refusals = []
    for name in ENCODER_NAMES[frame.modality]:
        context = FrameContext(frame.stamp, {frame.modality: frame})
        try:
            image = PREPROCESSORS[name]()(frame, RIG, SIZE, context)
        except MlesamError as error:
            refusals.append(error)
            continue
        assert (image.shape, image.dtype) == ((3, *SIZE), np.float32)
        assert np.isfinite(image).all(), f"{name} made numbers that a network cannot read"
    if len(refusals) == len(ENCODER_NAMES[frame.modality]):
        raise refusals[0]


def reads(modality: str, kind: str, encode: bool = True) -> Callable[[Any], None]:
    """One or several messages of a topic, each read and encoded though another was refused."""

    def read(messages: Any) -> None:
        reader, refusals = FrameReader(modality, kind), []
        for message in messages if isinstance(messages, list) else [messages]:
            try:
                frame = reader.read(message)
                if encode and frame is not None:
                    encode_all(frame)
            except MlesamError as error:
                refusals.append(error)
        assert all(count >= 0 for count in reader.counters.values())
        if refusals:
            raise refusals[0]

    return read


def read_camera_info(info: Any) -> None:
    refusals = []
    for rectified in (False, True):
        try:
            camera = CameraModel.from_info(info, rectified)
        except MlesamError as error:
            refusals.append(error)
            continue
        points = np.array([[0.0, 0, 1], [0.1, -0.2, 2], [3, 1, 0.5], [0, 0, -1], [np.nan, 0, 1], [1e300, 0, 1e-300]])
        uv, valid = camera.project(points)
        assert np.isfinite(uv[valid]).all()
        assert camera.scaled(6, 8).rays.shape == (6, 8, 2)
    if len(refusals) == 2:
        raise refusals[0]


def read_transforms(message: Any) -> None:
    tree = TransformTree()
    for parent, child, transform, stamp in transforms(message):
        tree.set(parent, child, transform, stamp if stamp % 2 else None)
    for frame in tree.frames:
        assert np.isfinite(tree.lookup(tree.frames[0], frame).rotation).all()


def little(kind: str, samples: np.ndarray) -> bytes:
    return cv2.imencode(kind, samples)[1].tobytes()


NOISE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
PNG = little(".png", NOISE)
FILES = [
    PNG,
    little(".jpg", NOISE),
    little(".png", NOISE[..., 0].astype(np.uint16) * 99),
    little(".png", NOISE[..., 0]),
]


@pytest.fixture(scope="module")
def targets() -> dict[str, Target]:
    inputs = {
        "sensor_msgs/msg/Image": malformed_messages.pictures(),
        "sensor_msgs/msg/CompressedImage": malformed_messages.files(FILES),
        "sensor_msgs/msg/PointCloud2": malformed_messages.clouds(),
        "event_camera_msgs/msg/EventPacket": malformed_messages.packets(),
        **dict.fromkeys(RAW_TYPES, malformed_messages.event_arrays()),
    }
    found = {
        f"{modality} {kind}": Target(inputs[kind], reads(modality, kind), 6 if modality in (EVENT, LIDAR) else 3)
        for modality, kinds in MESSAGE_TYPES.items()
        for kind in kinds
    }
    found["CameraInfo"] = Target(malformed_messages.camera_infos(), read_camera_info, 4)
    found["TFMessage"] = Target(malformed_messages.TRANSFORMS, read_transforms, 3)
    return found


NAMES = [
    *(f"{modality} {kind}" for modality, kinds in MESSAGE_TYPES.items() for kind in kinds),
    *("CameraInfo", "TFMessage"),
]


@pytest.mark.parametrize("name", NAMES)
def test_outside_bytes_are_read_or_refused_in_one_sentence(name, targets):
    target = targets[name]
    cases = math.ceil(CASES * target.shares / sum(t.shares for t in targets.values()))
    tried = refused = 0

    @settings(
        max_examples=cases, deadline=LONGEST, derandomize=CASES <= DEFAULT, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.inputs)
    def attack(data: Any) -> None:
        nonlocal tried, refused
        tried += 1
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                target.read(data)
            except MlesamError as error:
                refused += 1
                assert "\n" not in str(error) and 0 < len(str(error)) < LONGEST_SENTENCE

    attack()
    assert tried >= cases
    assert cases < 100 or 0 < refused < tried, "the attack never got through, or was never noticed: it tests nothing"


def test_all_targets_are_named_and_the_shares_cover_every_case(targets):
    assert list(targets) == NAMES


def test_every_modality_has_an_encoder():
    assert all(ENCODER_NAMES[modality] for modality in (CAMERA, DEPTH, EVENT, LIDAR))
