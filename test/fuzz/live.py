# SPDX-License-Identifier: Apache-2.0
"""The node's own way of a message, without the transport: bytes, conversion, decoder, synchronizer, pipeline, mask."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import seeds
import torch
from damage import damaged_bytes, damaged_message
from seeds import HEIGHT, NOW, WIDTH

from mlesam_ros.bags.serialization import deserialize
from mlesam_ros.errors import MlesamError
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import IGNORE
from mlesam_ros.messages import RAW_TYPES, FrameReader
from mlesam_ros.model.inference import Prediction
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS
from mlesam_ros.rig_builder import RigBuilder
from mlesam_ros.sync import SyncConfig, Synchronizer
from mlesam_ros.types import CAMERA, MESSAGE_TYPES, MODALITIES, FrameSet, Modality, Segmentation, SensorFrame

LONGEST_SENTENCE = 1_500
EVERY = 500
"""One set in so many is read by the network; the others' pictures are looked at and then answered at once."""
MOMENTS = (0, 60_000_000, 500_000_000)
"""Nanoseconds after the moment at which somebody asks for a set: at once, after max_wait, after the primary died."""
IMAGE, INFO, TRANSFORMS = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage"


class Quick(Pipeline):
    """A pipeline whose network answers seldom."""

    asked = 0

    def infer_batch(self, sets: Sequence[Mapping[Modality, Any]]) -> list[Prediction]:
        (images,) = sets
        for modality, picture in images.items():
            assert picture.dtype == np.float32 and picture.shape[0] == 3, modality
            assert np.isfinite(picture).all(), f"{modality}: numbers that a network cannot read"
        self.asked += 1
        if self.asked % EVERY == 1:
            return super().infer_batch(sets)
        blank = np.zeros(next(iter(images.values())).shape[1:], np.uint8)
        return [Prediction(blank, blank, {}, tuple(images), ())]


@cache
def pipeline() -> Quick:
    torch.manual_seed(0)
    model = MLESAM(MLESAMConfig(rank=2, image_size=64, preprocessors=DEFAULT_PREPROCESSORS))
    return Quick(model.eval(), "cpu", "fp32", 1)


def new_rig() -> Rig:
    """All four sensors, as good messages place them."""
    rig = RigBuilder(Rig("camera"))
    for modality in ("camera", "depth", "event"):
        rig.on_camera_info(modality, modality, deserialize(seeds.camera_info(modality), INFO))
    placed = seeds.transforms(*(("base", m) for m in MODALITIES))
    rig.on_transforms("/tf_static", deserialize(placed, TRANSFORMS))
    assert not rig.problems
    return rig.rig


RIG = new_rig()
GOOD = FrameReader(CAMERA, IMAGE).read(deserialize(seeds.camera_image(), IMAGE))


def check_sentence(error: object) -> None:
    text = str(error)
    assert "\n" not in text and 0 < len(text) < LONGEST_SENTENCE, f"no sentence: {text[:200]!r}"


def check_mask(mask: Segmentation, frame_set: FrameSet, rig: Rig) -> None:
    """Whatever is published was made of what was accepted, and of all of it."""
    refused = pipeline().refusals
    assert not set(mask.used) & set(refused), "a refused frame had a part in the mask"
    assert set(mask.used) | set(refused) == set(frame_set.frames)
    assert mask.labels.shape == mask.confidence.shape == (rig.camera.height, rig.camera.width)
    assert mask.labels.dtype == mask.confidence.dtype == np.uint8
    classes = len(pipeline().config.label_space)
    assert ((mask.labels < classes) | (mask.labels == IGNORE)).all()
    for words in refused.values():
        check_sentence(words)


class Sensor:
    """Damaged messages of one sensor beside a good camera picture, or alone where it is the camera."""

    def __init__(self, modality: Modality, kind: str) -> None:
        self.modality, self.kind = modality, kind

    def case(self, rng: random.Random) -> list[bytes]:
        """One message, or three of an event camera, of which at least one is damaged."""
        good = list(rng.choice(seeds.series(self.modality, self.kind)))
        for at in {rng.randrange(len(good)) for _ in range(rng.choice((1, 1, 2)))}:
            good[at] = self._damaged(rng, good[at])
        return good

    def _damaged(self, rng: random.Random, raw: bytes) -> bytes:
        way = rng.random()
        if self.kind in RAW_TYPES:
            return damaged_bytes(rng, raw) if way < 0.9 else raw
        if way < 0.6:
            return damaged_message(rng, raw, self.kind)
        return damaged_bytes(rng, raw if way < 0.9 else damaged_message(rng, raw, self.kind))

    def run(self, case: list[bytes]) -> bool:
        """Whether something was refused."""
        reader, sync, accepted, refused = FrameReader(self.modality, self.kind), Synchronizer(SyncConfig()), [], False
        for raw in case:
            try:
                frame = reader.read(raw if self.kind in RAW_TYPES else deserialize(raw, self.kind))
            except MlesamError as error:
                check_sentence(error)
                refused = True
                continue
            refused |= sync.push(frame, NOW) == "refused"
            accepted.append(frame)
        if self.modality != CAMERA:
            accepted.append(GOOD)
            sync.push(GOOD, NOW)
        for after in MOMENTS:
            if frame_set := sync.take(NOW + after):
                refused |= self._segment(frame_set, accepted)
        assert all(sum(counts.values()) - counts["received"] + sync.waiting[m] == counts["received"]
                   for m, counts in sync.counters.items()), "a frame has no fate"  # fmt: skip
        return refused

    def _segment(self, frame_set: FrameSet, accepted: list[SensorFrame]) -> bool:
        assert all(any(frame is one for one in accepted) for frame in frame_set.frames.values())
        try:
            mask = pipeline().segment(frame_set, RIG)
        except MlesamError as error:
            check_sentence(error)
            assert GOOD not in frame_set.frames.values(), f"a good picture lost its mask: {error}"
            return True
        check_mask(mask, frame_set, RIG)
        assert GOOD is not frame_set.frames.get(CAMERA) or CAMERA in mask.used, "a good picture was refused"
        return bool(pipeline().refusals)


class Calibration:
    """A damaged CameraInfo or transform after good ones, then a picture and a cloud."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def case(self, rng: random.Random) -> bytes:
        pairs = [("base", "camera"), ("base", "lidar"), ("camera", "event")]
        good = rng.choice(seeds.infos()) if self.kind == INFO else seeds.transforms(*pairs)
        if rng.random() < 0.25:
            return damaged_bytes(rng, good)
        return damaged_message(rng, good, self.kind)

    def run(self, case: bytes) -> bool:
        learner = RigBuilder(new_rig())
        try:
            message = deserialize(case, self.kind)
        except MlesamError as error:
            check_sentence(error)
            return True
        if self.kind == INFO:
            learner.on_camera_info("info", CAMERA, message)
        else:
            learner.on_transforms("/tf", message)
        for words in learner.problems.values():
            check_sentence(words)
        refused, frame_set = bool(learner.problems), two_sensors()
        try:
            mask = pipeline().segment(frame_set, learner.rig)
        except MlesamError as error:
            check_sentence(error)
            return True
        check_mask(mask, frame_set, learner.rig)
        return refused or bool(pipeline().refusals)


@cache
def two_sensors() -> FrameSet:
    sweep = FrameReader("lidar", MESSAGE_TYPES["lidar"][0]).read(
        deserialize(seeds.clouds()[1], MESSAGE_TYPES["lidar"][0])
    )
    return FrameSet(NOW, CAMERA, {CAMERA: GOOD, "lidar": sweep}, {CAMERA: 0, "lidar": 0})


def targets() -> dict[str, Any]:
    """Name → what is attacked."""
    assert (RIG.camera.height, RIG.camera.width) == (HEIGHT, WIDTH)
    found: dict[str, Any] = {
        f"{modality} {kind.replace('/msg/', '/')}": Sensor(modality, kind)
        for modality, kinds in MESSAGE_TYPES.items()
        for kind in kinds
    }
    found["sensor_msgs/CameraInfo"] = Calibration(INFO)
    found["tf2_msgs/TFMessage"] = Calibration(TRANSFORMS)
    return found
