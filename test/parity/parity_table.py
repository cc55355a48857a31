# SPDX-License-Identifier: Apache-2.0
"""For every sensor parameter a value that changes the result, and the result expected from geometry or arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
from parity_outcome import Due, Mask, Outcome
from parity_scene import (
    ASIDE,
    BLOB,
    BLOCK_MIDDLE,
    CENTER,
    CLOUD,
    FAR,
    FOCAL,
    HEIGHT,
    IMAGE,
    INFO,
    LEFT,
    NEAR,
    PACKET,
    PERIOD,
    POINTS,
    START,
    TOPICS,
    TURN,
    WIDTH,
    Scene,
    cloud,
    depth_image,
    half,
    in_units,
    info,
    left_out,
    lens,
    mono16,
    packet,
    picture,
    samples,
    with_columns,
)

from mlesam_ros.bags import serialization as fields
from mlesam_ros.config import NodeParameters, iter_parameters
from mlesam_ros.parameter_groups import NavigationParameters
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES

Pixels = set[tuple[int, int]]
Projection = Callable[..., tuple[np.ndarray, np.ndarray]]
"""(N, 3) meters ahead, left, up, and of which lens → (N,) columns and (N,) rows, int."""
Rows = dict[int, dict[str, np.ndarray]]
"""Milliseconds from START → modality → (3, H, W), the arrays that training reads."""
ALL = set(MODALITIES)
SHORT = 60.0  # pixels, another focal length
_DEFAULTS = NodeParameters()
_SLACK = 20  # ms of the clock that a set may be late
DISTORTION = (-0.5, 0.1, 0.02, -0.04, 0.0)  # k1, k2, p1, p2, k3


@dataclass(frozen=True)
class Entry:
    """One case.

    Attributes:
        scene: the recording.
        set: the parameters that it is about, with their values.
        check: what the outcome must be, live and offline.
        arrays: what training's arrays must be.
        beside: further parameters, which the run without `set` has as well.
        preprocessors: modality → encoder of the network's image that is not the default one.
        unheard: topics to which the node does not listen.
        since: milliseconds from which on both outcomes have to be the same: at first the node waits for a primary
            that is not there, where `evaluate` knows what a bag lacks; when another takes over, a busy machine may be
            late for the first of its sets.
        judged: whether `evaluate` without `set` has to come to another outcome.
    """

    scene: Scene
    set: dict[str, Any]
    check: Callable[[Outcome], None]
    arrays: Callable[[Rows], None] = lambda rows: None
    beside: dict[str, Any] = field(default_factory=dict)
    preprocessors: dict[str, str] = field(default_factory=dict)
    unheard: frozenset[str] = frozenset()
    since: int = 0
    judged: bool = True

    def due(self, offline: Outcome) -> Due:
        """The messages that have to come live → when their sets are ready; later ones might be superseded meanwhile.

        A set is ready with its last message, or when the max_wait ends for a sensor that is missing or older than the
        mask, of which a nearer message might come.
        """
        given = self.beside | self.set
        max_wait = max([_DEFAULTS.max_wait, *(v for name, v in given.items() if name.endswith("max_wait"))])
        wait = self.scene.behind + max([0.0, *self.scene.delay.values()]) + given.get("lidar.gather", 0.0)
        return {
            (name, stamp): stamp + round(1e3 * (wait + max_wait * _waits(mask))) + _SLACK
            for stamp, mask in offline.items()
            if stamp >= self.since
            for name in ("status", *mask.images)
        }

    @property
    def changes_arrays(self) -> bool:
        """Whether training's arrays may depend on the parameters that it is about."""
        return any(entry.metadata["encoding"] for name, entry, _ in iter_parameters() if name in self.set)


def _waits(mask: Mask) -> bool:
    return mask.used != ALL or any(sensor.skew < -1e-3 for sensor in mask.sensors.values())


# What is seen in an outcome


def lit(mask: Mask, image: np.ndarray | None = None) -> Pixels:
    """(column, row) of the pixels in which a point of the LiDAR is drawn."""
    drawn = mask.images["projected_lidar"]
    image = picture(drawn.shape[1::-1]) if image is None else image
    rows, columns = np.nonzero((drawn != image).any(-1))
    return set(zip(columns.tolist(), rows.tolist(), strict=True))


def pinhole(points: np.ndarray, focal: float = FOCAL, left: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Through a pinhole that looks ahead, so many meters to the left of the points' origin."""
    x, y, z = points.T
    return _nearest(CENTER[0] - focal * (y - left) / x), _nearest(CENTER[1] - focal * z / x)


def distorted(points: np.ndarray, focal: float = FOCAL) -> tuple[np.ndarray, np.ndarray]:
    """Through the lens with `DISTORTION`, by OpenCV."""
    optical = np.stack([-points[:, 1], -points[:, 2], points[:, 0]], 1)
    k = np.array([[focal, 0, CENTER[0]], [0, focal, CENTER[1]], [0, 0, 1]])
    uv = cv2.projectPoints(optical, np.zeros(3), np.zeros(3), k, np.array(DISTORTION))[0].reshape(-1, 2)
    return _nearest(uv[:, 0]), _nearest(uv[:, 1])


def _nearest(pixels: np.ndarray) -> np.ndarray:
    return np.floor(pixels + 0.5).astype(int)


def land(points: np.ndarray = POINTS, project: Projection = pinhole, **lens: float) -> Pixels:
    """Pixels of points, through a pinhole by default."""
    u, v = project(points, **lens)
    return set(zip(u.tolist(), v.tolist(), strict=True))


def every(masks: Outcome, stamps: list[int] | None = None, used: set[str] = ALL) -> list[Mask]:
    """The masks, which have these stamps and sensors."""
    assert sorted(masks) == ([0, 100, 200, 300] if stamps is None else stamps)
    assert [mask.used for mask in masks.values()] == [used] * len(masks), [mask.used for mask in masks.values()]
    return [masks[stamp] for stamp in sorted(masks)]


def points_at(pixels: Pixels, masks: Outcome) -> None:
    for mask in every(masks):
        assert lit(mask) == pixels


def all_used(masks: Outcome) -> None:
    every(masks)


def not_used(sensor: str, masks: Outcome) -> None:
    every(masks, used=ALL - {sensor})


def stamps(expected: list[int], masks: Outcome) -> None:
    assert sorted(masks) == expected


def skewed(sensor: str, seconds: float, masks: Outcome, at: list[int] | None = None) -> None:
    for mask in every(masks, at):
        assert abs(mask.sensors[sensor].skew - seconds) < 2e-3, mask.sensors[sensor].skew


def center_of(weights: np.ndarray) -> np.ndarray:
    """(column, row) of the center of gravity."""
    rows, columns = np.indices(weights.shape)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


def events_at(column: float, row: float, rows: Rows) -> None:
    assert rows
    for images in rows.values():
        brighter = images[EVENT][0]
        assert np.abs(center_of(brighter) - (column, row)).max() < 0.3, center_of(brighter)


def block_at(column: float, row: float, rows: Rows, near: float = NEAR) -> None:
    """Logarithms of meters, minus 2 (the encoder's stated statistics): the near block's middle."""
    assert rows
    for images in rows.values():
        is_near = np.abs(images[DEPTH][0] - (np.log(near) - 2)) < 0.02
        assert np.abs(center_of(is_near) - (column, row)).max() < 1.0, center_of(is_near)


def depths(near: float, far: float, rows: Rows) -> None:
    assert rows
    for images in rows.values():
        assert abs(images[DEPTH][0, BLOCK_MIDDLE[1], BLOCK_MIDDLE[0]] - (np.log(near) - 2)) < 2e-3
        assert abs(images[DEPTH][0, 5, 5] - (np.log(far) - 2)) < 2e-3


def ranges(project: Projection, rows: Rows) -> None:
    """Meters from the camera, minus 20, over 16 (the encoder's stated statistics) where each point lands."""
    assert rows
    u, v = project(POINTS)
    for images in rows.values():
        found = images[LIDAR][0, v, u]
        assert np.abs(found - (np.linalg.norm(POINTS, axis=1) - 20) / 16).max() < 5e-3


# The entries

_OTHER = {s: f"/{s}/rear" for s in MODALITIES}
# `evaluate` guesses topics that are not named; these names are not the ones it would guess.
_OTHER_INFO = {s: f"/{s}/a_rear_info" for s in (CAMERA, DEPTH, EVENT)}
_OTHER_BLOB, _OTHER_BLOCK = (70, 40), 5.0


def _moment(index: int) -> int:
    return START + index * PERIOD


def _other_camera(index: int) -> tuple[str, Any]:
    return IMAGE, fields.pixels(_moment(index), "camera_optical", picture(seed=1), "rgb8")


def _other_depth(index: int) -> tuple[str, Any]:
    return IMAGE, depth_image(_moment(index), "depth_optical", unit=0.001 * NEAR / _OTHER_BLOCK)


def _other_event(index: int) -> tuple[str, Any]:
    return PACKET, packet(_moment(index), "event_optical", index, _OTHER_BLOB)


def _other_lidar(index: int) -> tuple[str, Any]:
    return CLOUD, fields.point_cloud(_moment(index), "lidar", cloud(POINTS * [1, 0.5, 1]))


def _other_info(sensor: str, index: int) -> tuple[str, Any]:
    raw = {"d": DISTORTION} if sensor == CAMERA else {}
    return INFO, info(_moment(index), f"{sensor}_optical", focal=SHORT, **raw)


def _background(masks: Outcome) -> None:
    """The image behind the points is that of the other topic."""
    for mask in every(masks):
        assert lit(mask, picture(seed=1)) == land()


def _scaled(middle: tuple[int, int]) -> tuple[float, float]:
    """A direction that the other lens sees at a pixel, on the camera's pixels."""
    u, v = (c + FOCAL / SHORT * (m - c) for m, c in zip(middle, CENTER, strict=True))
    return u, v


def _aside(near: float) -> tuple[float, float]:
    """Where the block's middle is for the camera if the depth camera sits to the left of it."""
    return BLOCK_MIDDLE[0] - FOCAL * LEFT[DEPTH] / near, BLOCK_MIDDLE[1]


def _moving(masks: Outcome) -> None:
    """The wall is 10 m ahead at step 0, and 2 m nearer from one step to the next."""
    for index, mask in enumerate(every(masks, [0, 100, 200])):
        assert lit(mask) == land(POINTS - [2.0 * index, 0, 0])
        assert abs(mask.sensors[LIDAR].skew) < 1e-6


def _frame_of(masks: Outcome) -> None:
    points_at(land(left=LEFT[CAMERA]), masks)
    assert {mask.frame_id for mask in masks.values()} == {ASIDE[CAMERA]}


def _camera_offset(masks: Outcome) -> None:
    """Published stamps are the driver's; the others are compared with the corrected one."""
    for mask in every(masks, [30, 130, 230, 330]):
        assert all(abs(sensor.skew) < 2e-3 for sensor in mask.sensors.values())


def _other_primary(masks: Outcome) -> None:
    for mask in every(masks, [30, 130, 230, 330]):
        assert mask.primary == LIDAR and abs(mask.sensors[CAMERA].skew + 0.03) < 1e-6


def _sooner(masks: Outcome) -> None:
    """From 0.15 s after the camera's last image on, every sweep makes a mask."""
    assert {0, 100, 300, 400, 500, 600, 700} <= set(masks)
    assert {masks[t].primary for t in (300, 400, 500, 600)} == {LIDAR}


def _only(sensors: set[str], masks: Outcome) -> None:
    every(masks, used=sensors)


def _network_size(masks: Outcome) -> None:
    for mask in every(masks):
        assert mask.images["labels"].shape == mask.images["confidence"].shape == (HEIGHT, WIDTH)
        assert mask.images["overlay"].shape == (HEIGHT, WIDTH, 3)  # camera_info is that of all images


def _unlabeled(threshold: float, masks: Outcome) -> None:
    for mask in every(masks):
        unsure = mask.images["confidence"] < round(255 * threshold)
        assert unsure.any() and np.array_equal(mask.images["labels"] == 255, unsure)


def _no_colors(masks: Outcome) -> None:
    for mask in every(masks):
        assert np.array_equal(mask.images["overlay"], picture())


def _unused_without_type(sensor: str, masks: Outcome) -> None:
    assert masks and all(sensor not in mask.used for mask in masks.values())


def _to_the_left(meters: float) -> np.ndarray:
    """The points of a LiDAR that sits there."""
    return POINTS + np.array([0.0, meters, 0.0])


def _gray(masks: Outcome) -> None:
    """The upper 8 of 12 bits."""
    gray = np.repeat((samples() >> 4).astype(np.uint8)[..., None], 3, 2)
    for mask in every(masks):
        assert lit(mask, gray) == land()


def _dark(rows: Rows) -> None:
    """Counts over 255, minus ImageNet's mean, over its deviation, as in torchvision."""
    assert rows
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((samples() >> 4)[..., None] / 255 - mean) / deviation
    for images in rows.values():
        assert np.abs(images[CAMERA].transpose(1, 2, 0) - expected).max() < 2e-3


def _echo(strength: float, rows: Rows) -> None:
    """Strength from 0 to 255, minus 45, over 32 (the encoder's stated statistics)."""
    assert rows
    u, v = pinhole(POINTS)
    for images in rows.values():
        assert np.abs(images[LIDAR][1, v, u] - (strength - 45) / 32).max() < 5e-3


def _facing_down(rows: Rows) -> None:
    """Degrees between the wall's normal and gravity, which is ahead, plus 38 (Gupta et al. 2014): none."""
    assert rows
    for images in rows.values():
        assert abs(images[DEPTH][2, 50, 20] - 38 / 255) < 2e-3


def _counts(rows: Rows) -> None:
    """Of 25 events in each packet those of 150 ms: the last packet's and the one's before."""
    assert {stamp: round(float(images[EVENT][0].sum())) for stamp, images in rows.items()} == {
        0: 25, 100: 50, 200: 50, 300: 50,
    }  # fmt: skip


def _ages(rows: Rows) -> None:
    """exp(-age / 10 ms) (Lagorce et al. 2017, equation 3) of events that come row by row within 5 ms."""
    assert rows
    age = 5e-3 * (1 - np.arange(25) / 24).reshape(5, 5)
    for images in rows.values():
        blob = images[EVENT][0, BLOB[1] - 2 : BLOB[1] + 3, BLOB[0] - 2 : BLOB[0] + 3]
        assert np.abs(blob - np.exp(-age / 10e-3)).max() < 2e-3


def _at_once(masks: Outcome) -> None:
    """Points that were measured within 30 microseconds of the stamp, which motion of 20 m/s does not move."""
    for index, mask in enumerate(every(masks, [0, 100, 200])):
        assert lit(mask) == land(POINTS - [2.0 * index, 0, 0])


def _whole(masks: Outcome) -> None:
    for mask in every(masks):
        assert lit(mask) == land()


def _first_half(index: int) -> tuple[str, Any]:
    return CLOUD, half(True, _moment(index) - 30_000_000)


def _times(points: np.ndarray) -> dict[str, np.ndarray]:
    """Every other point is 30,000 of some unit later."""
    return {"t": np.where(np.arange(len(points)) % 2, 30_000, 0).astype("<u4")}


def _signal(points: np.ndarray) -> dict[str, np.ndarray]:
    return {"signal": np.full(len(points), 200, "<f4")}


def _changed(sensor: str, change: Callable[[Any, int], Any], **more: Any) -> Scene:
    return Scene(messages={TOPICS[sensor]: change}, **more)


def _lagging(sensor: str, seconds: float, **more: Any) -> Scene:
    """A sensor whose stamps are late, and which is recorded 10 ms before its own stamps."""
    return Scene(lag={sensor: seconds}, delay={sensor: seconds - 0.01}, **more)


def _fitted(sensor: str, **calibrated: Any) -> Scene:
    return Scene(infos={f"/{'events' if sensor == EVENT else sensor}/camera_info": lens(**calibrated)})


_SQUARE, _TWICE = (WIDTH, WIDTH), (2 * WIDTH, 2 * HEIGHT)
_SIZE = (WIDTH, HEIGHT)
_MIDDLE_OF_TWICE = (2 * CENTER[0] + 0.5, 2 * CENTER[1] + 0.5)  # pixel edges on pixel edges
_ORDER = (LIDAR, CAMERA, DEPTH, EVENT)
_REPLACED = int(_DEFAULTS.primary_timeout * 1e9) // PERIOD + 3
"""Moments of which the last is after the next sensor has replaced a camera that never sends."""
_RAW = {"d": DISTORTION, "p": (SHORT, *CENTER)}


ENTRIES = [
    # topics
    Entry(Scene(others={_OTHER[CAMERA]: _other_camera}), {"camera.topic": _OTHER[CAMERA]}, _background),
    Entry(Scene(others={_OTHER[DEPTH]: _other_depth}), {"depth.topic": _OTHER[DEPTH]}, all_used,
          partial(depths, _OTHER_BLOCK, FAR * _OTHER_BLOCK / NEAR)),
    Entry(Scene(others={_OTHER[EVENT]: _other_event}), {"event.topic": _OTHER[EVENT]}, all_used,
          partial(events_at, *_OTHER_BLOB)),
    Entry(Scene(others={_OTHER[LIDAR]: _other_lidar}), {"lidar.topic": _OTHER[LIDAR]},
          partial(points_at, land(POINTS * [1, 0.5, 1]))),
    # types: none of that type is there
    *(Entry(Scene(steps=_REPLACED), {f"{s}.type": "sensor_msgs/msg/CompressedImage"},
            partial(_unused_without_type, s), unheard=frozenset({TOPICS[s]}), since=400 * (s == CAMERA))
      for s in (CAMERA, DEPTH, EVENT)),
    # frames
    Entry(Scene(), {"camera.frame_id": ASIDE[CAMERA]}, _frame_of),
    Entry(Scene(), {"depth.frame_id": ASIDE[DEPTH]}, all_used, partial(block_at, *_aside(NEAR))),
    Entry(Scene(), {"event.frame_id": ASIDE[EVENT]}, all_used,
          partial(events_at, CENTER[0] + FOCAL * np.tan(np.arctan((BLOB[0] - CENTER[0]) / FOCAL) - TURN),
                  CENTER[1] + FOCAL * (BLOB[1] - CENTER[1]) / FOCAL)),
    Entry(Scene(), {"lidar.frame_id": ASIDE[LIDAR]}, partial(points_at, land(_to_the_left(LEFT[LIDAR])))),
    # required
    Entry(Scene(steps=_REPLACED + 1, absent={CAMERA: range(2, _REPLACED + 1)}), {"camera.required": True},
          partial(stamps, [0, 100])),
    *(Entry(Scene(absent={s: (2,)}), {f"{s}.required": True}, partial(stamps, [0, 100, 300]))
      for s in (DEPTH, EVENT, LIDAR)),
    # tolerance: 30 ms are too far now
    *(Entry(_lagging(s, 0.03), {f"{s}.tolerance": 0.02}, partial(not_used, s), beside={"primary_order": (CAMERA,)})
      for s in (DEPTH, EVENT, LIDAR)),
    Entry(_lagging(CAMERA, 0.03), {"camera.tolerance": 0.02}, partial(not_used, CAMERA),
          beside={"primary_order": (LIDAR,)}),
    # offset
    Entry(_lagging(CAMERA, 0.03), {"camera.offset": 0.03}, _camera_offset),
    *(Entry(_lagging(s, 0.03), {f"{s}.offset": 0.03}, partial(skewed, s, 0.0)) for s in (DEPTH, EVENT)),
    Entry(_lagging(LIDAR, 0.05, steps=3, speed=20.0), {"lidar.offset": 0.05}, _moving),
    # max_wait: recorded 120 ms after its stamp
    *(Entry(Scene(delay={s: 0.12}), {f"{s}.max_wait": 0.2}, all_used) for s in (DEPTH, EVENT, LIDAR)),
    Entry(Scene(delay={CAMERA: 0.12}), {"camera.max_wait": 0.2}, all_used, beside={"primary_order": _ORDER}),
    Entry(Scene(delay={LIDAR: 0.12}), {"max_wait": 0.2}, all_used),
    # lenses
    Entry(Scene(others={_OTHER_INFO[CAMERA]: partial(_other_info, CAMERA)}),
          {"camera.info_topic": _OTHER_INFO[CAMERA]}, partial(points_at, land(project=distorted, focal=SHORT)),
          partial(ranges, partial(distorted, focal=SHORT))),
    Entry(Scene(others={_OTHER_INFO[DEPTH]: partial(_other_info, DEPTH)}),
          {"depth.info_topic": _OTHER_INFO[DEPTH]}, all_used, partial(block_at, *_scaled(BLOCK_MIDDLE))),
    Entry(Scene(others={_OTHER_INFO[EVENT]: partial(_other_info, EVENT)}),
          {"event.info_topic": _OTHER_INFO[EVENT]}, all_used, partial(events_at, *_scaled(BLOB))),
    Entry(_fitted(CAMERA, **_RAW), {"camera.rectified": True}, partial(points_at, land(focal=SHORT)),
          partial(ranges, partial(pinhole, focal=SHORT))),
    Entry(_fitted(DEPTH, **_RAW), {"depth.rectified": True}, all_used, partial(block_at, *_scaled(BLOCK_MIDDLE))),
    Entry(_fitted(EVENT, **_RAW), {"event.rectified": True}, all_used, partial(events_at, *_scaled(BLOB))),
    Entry(_fitted(CAMERA, size=_SQUARE, focal=FOCAL, center=(CENTER[0], CENTER[1] + 32)),
          {"camera.fit": "crop_bottom", "camera.picture_size": _SIZE}, partial(points_at, land())),
    Entry(_fitted(DEPTH, size=_TWICE, focal=2 * FOCAL, center=_MIDDLE_OF_TWICE),
          {"depth.fit": "rescale", "depth.picture_size": _SIZE}, all_used, partial(block_at, *BLOCK_MIDDLE)),
    Entry(_fitted(EVENT, size=_SQUARE, focal=FOCAL, center=CENTER),
          {"event.fit": "crop_top", "event.picture_size": _SIZE}, all_used, partial(events_at, *BLOB)),
    # what the numbers mean
    Entry(_changed(CAMERA, mono16), {"camera.significant_bits": 12}, _gray, _dark),
    Entry(_changed(DEPTH, partial(in_units, 0.002)), {"depth.unit": 0.002}, all_used, partial(depths, NEAR, FAR)),
    Entry(Scene(), {"depth.gravity": "0, 0, 1"}, all_used, _facing_down, preprocessors={DEPTH: "hha"}),
    Entry(Scene(), {"event.window": 0.15}, all_used, _counts),
    Entry(Scene(), {"event.representation": "time_surface"}, all_used, _ages),
    Entry(_changed(LIDAR, partial(with_columns, _signal)), {"lidar.intensity_field": "signal"}, all_used,
          partial(_echo, 200.0)),
    Entry(Scene(), {"lidar.intensity_scale": 200.0}, all_used, partial(_echo, 127.5)),
    Entry(_changed(LIDAR, partial(with_columns, _times), steps=3, speed=20.0, delay={LIDAR: 0.04}),
          {"lidar.time_unit": "ns"}, _at_once),
    Entry(_changed(LIDAR, left_out, others={TOPICS[LIDAR]: _first_half}), {"lidar.gather": 0.05}, _whole),
    # all sensors
    Entry(Scene(frames={LIDAR: "loose"}), {"calibration_file": "{rig}"},
          partial(points_at, land(_to_the_left(1.0)))),
    Entry(Scene(), {"modalities": (CAMERA, LIDAR)}, partial(_only, {CAMERA, LIDAR})),
    Entry(_lagging(LIDAR, 0.03), {"primary_order": _ORDER}, _other_primary),
    Entry(Scene(steps=8, absent={CAMERA: range(2, 8)}), {"primary_timeout": 0.15}, _sooner,
          since=300),
    Entry(Scene(delay={CAMERA: 1.3}), {"history": 2.0}, all_used, beside={"primary_order": (CAMERA,)}),
    Entry(Scene(behind=7.0), {"max_age": 10.0}, all_used, judged=False),
    Entry(Scene(behind=-0.8), {"max_future": 2.0}, all_used, judged=False),
    # outputs
    Entry(Scene(size=_TWICE), {"labels_resolution": "network"}, _network_size),
    Entry(Scene(), {"confidence_threshold": 0.5}, partial(_unlabeled, 0.5)),
    Entry(Scene(), {"overlay_alpha": 0.0}, _no_colors),
]  # fmt: skip

"""A value `{rig}` stands for the path of the test's calibration file."""

ELSEWHERE = {
    **dict.fromkeys(
        ("autostart", "checkpoint", "base_weights", "device", "precision", "runtime", "threads"),
        "of the process and the network: test/ros/test_node.py, test_checkpoint_swap.py, test/test_pipeline.py",
    ),
    **dict.fromkeys(
        (
            "overlay_width",
            "aligned.width",
            *(f"navigation.{f.name}" for f in dataclasses.fields(NavigationParameters)),
        ),
        "of clouds and images from one code for node and files: test/test_semantic_points.py, test_mask_messages.py",
    ),
    **dict.fromkeys(
        ("snapshot_seconds", "snapshot_megabytes", "snapshot_folder"), "what is recorded: test/ros/test_snapshot.py"
    ),
    **dict.fromkeys(
        (
            "sensor_timeout",
            "calibration_timeout",
            *(f"{sensor}.{name}" for sensor in MODALITIES for name in ("rate", "skew")),
        ),
        "act on /diagnostics, never on a mask: test/ros/test_diagnostics.py",
    ),
    "cameras": "one at a time in files: test/ros/test_runtime.py, test/test_config.py",
    "lidar.type": "has one value beside auto, which changes nothing",
}
"""Parameters that are tested elsewhere, and where."""
