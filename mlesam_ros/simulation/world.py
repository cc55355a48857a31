# SPDX-License-Identifier: Apache-2.0
"""The simulated world: one `SimFrame` of all sensors per simulation step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError
from mlesam_ros.extras import require_extra
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.evt3 import encode_evt3
from mlesam_ros.simulation.scene import Batch, Floats, Hits, Label, Layer, Snapshot, as_float32, merge
from mlesam_ros.simulation.sensors import (
    BASE_FRAME,
    CAMERA_FRAME,
    EVENT_FRAME,
    LIDAR_FRAME,
    Camera,
    EventBatch,
    SpinningLidar,
    draw_thresholds,
    jitter_pose,
    log_light,
    pixel_rays,
    rotate,
    simulate_depth,
    simulate_events,
    simulate_sweep,
    street_rig,
)
from mlesam_ros.simulation.street import draw_streams, furnish_tile, place_movers
from mlesam_ros.simulation.street_layout import TILE, Ego, StreetLayout
from mlesam_ros.simulation.style import PLAIN_STYLE, draw_parts, style_named
from mlesam_ros.simulation.textures import Surface, shade_hits
from mlesam_ros.simulation.weather import (
    NO_FAULT,
    add_rain_streaks,
    draw_fault,
    draw_weather,
    flow,
    motion_blur,
    radiance,
    weather_name,
    wet_surfaces,
)
from mlesam_ros.types import (
    CAMERA,
    DEPTH,
    EVENT,
    LIDAR,
    NANOSECONDS,
    EventWindow,
    Modality,
    Payload,
    PointCloud,
    RawImage,
    SensorFrame,
)

EPOCH = 1_700_000_000_000_000_000
"""ROS time in nanoseconds of simulation step 0."""
PERIOD = 100_000_000
"""Nanoseconds between simulation steps: 10 Hz."""
SENSOR_ZERO = EPOCH - 1_000_000_000
"""Host time in nanoseconds at which the event camera's microsecond clock is 0."""


@dataclass(frozen=True)
class SimFrame:
    """Output of all sensors at one simulation step.

    Attributes:
        index: index of the simulation step.
        stamp: nanoseconds, `EPOCH + index * PERIOD`.
        frames: modality → frame. The event frame contains the last 30 ms.
        labels: (H, W) uint8 DELIVER ids of the camera's pixels.
        pose: odom_from_base_link.
        simulate_period: renders `period_events`.
    """

    index: int
    stamp: int
    frames: dict[Modality, SensorFrame]
    labels: npt.NDArray[np.uint8]
    pose: Transform
    simulate_period: Callable[[], EventWindow]

    @cached_property
    def period_events(self) -> EventWindow:
        """All events since the previous simulation step, with those of the event frame. Rendered on first access."""
        return self.simulate_period()

    @property
    def packet_stamp(self) -> int:
        """Host time in nanoseconds of the first of `period_events`, the stamp in the header of their packet."""
        events = self.period_events
        return int(events.t[0]) if len(events.t) else events.start

    @cached_property
    def evt3(self) -> npt.NDArray[np.uint8]:
        """`period_events` as the bytes of one EVT3 packet, with the sensor's microsecond clock (see `SENSOR_ZERO`)."""
        events = self.period_events
        return encode_evt3(events.x, events.y, (events.t - SENSOR_ZERO) // 1000, events.polarity)


_EVENT_SEGMENTS_MS = ((-100, -30), (-30, 0))
"""Segments of event simulation, milliseconds relative to the stamp; the last one is the window of the event frame."""
_MAX_EVENT_RENDER_SIDE_PX = 256
"""Maximum side in pixels of the event camera's renderings; larger sensors interpolate."""
_TILES = (-1, 4)
"""Range of tiles around the vehicle's tile that are in the scene."""
_MIN_IMAGE_SIDE_PX = 32
_FRAMES = {CAMERA: CAMERA_FRAME, DEPTH: CAMERA_FRAME, EVENT: EVENT_FRAME, LIDAR: LIDAR_FRAME}
_LENS_DROP_STEPS = 12
"""Number of consecutive simulation steps with the same drops on the lens."""


class World:
    """An endless street with a vehicle that carries the sensors.

    The output is a function of (seed, weather, fault, size, style, index), so simulation steps can be rendered in any
    order and process. Weather and fault change the sensor data, but not the street.

    Attributes:
        seed, size, length, dropped, style: arguments of the constructor.
        weather: the light and the air.
        fault: the sensor fault.
        event_size: (height, width) of the event camera.
        rig: poses and intrinsics of the sensors.
    """

    def __init__(
        self,
        seed: int = 0,
        weather: str = "sun",
        size: tuple[int, int] = (512, 512),
        length: int = 600,
        threads: int = 0,
        fault: str = NO_FAULT,
        dropped: Sequence[Modality] = (),
        style: str = PLAIN_STYLE,
        yaw: float = 0.0,
    ) -> None:
        """Draw the layout of a street; its tiles are furnished when the vehicle approaches them.

        Args:
            seed: seed of the street, at least 0.
            weather: one of `WEATHERS`; "day" is a synonym of "sun".
            size: (height, width) of the camera, depth and event images, at least 32 pixels each.
            length: number of simulation steps for `len()` and players, 0.1 s each.
            threads: threads of the ray caster, 0 for all cores.
            fault: one of `FAULTS`.
            dropped: modalities without any output; the output of the others does not change.
            style: one of `STYLES`, the distributions of shapes, colors, cameras and mountings.
            yaw: turn of the camera, depth and event sensor to the left in degrees; the LiDAR stays as it is.

        Raises:
            ConfigError: a value is out of range or does not exist.
            PackageError: Open3D is not installed.
        """
        require_extra("open3d", "the simulated street")
        if seed < 0 or length < 1 or min(size) < _MIN_IMAGE_SIDE_PX:
            raise ConfigError(
                f"invalid street: seed {seed}, {length} steps, {size[1]}x{size[0]} pixels; the seed must be 0 or more, "
                f"the length at least 1 and each side at least {_MIN_IMAGE_SIDE_PX} pixels."
            )
        self.seed, self.size, self.length, self.dropped = seed, size, length, _check_dropped(dropped)
        self.style = style
        rng = np.random.default_rng([seed, 7])
        look, shapes, response, mounting = draw_parts(style_named(style), (seed, 11))
        self.layout = StreetLayout.draw(rng, shapes, look)
        self.ego = Ego.draw(self.layout, rng)
        self.streams = draw_streams(self.layout, self.ego, rng)
        self.weather = draw_weather(weather_name(weather), np.random.default_rng([seed, 9]))
        self.fault = draw_fault(fault, np.random.default_rng([seed, 10]))
        self.event_size = (round(size[0] * self.fault.event_share), round(size[1] * self.fault.event_share))
        self.rig = street_rig(size, self.event_size, replace(mounting, yaw=mounting.yaw + yaw))
        self.lidar = SpinningLidar()
        self._lidar_rays = self.lidar.rays()
        self._threads = threads
        self._rays, self._cosine = pixel_rays(self.rig.camera, size)
        self._camera = Camera(response, size, self._cosine)
        shrink = min(1.0, _MAX_EVENT_RENDER_SIDE_PX / max(size))
        self._event_detail = (round(size[0] * shrink), round(size[1] * shrink))
        self._event_rays, _ = pixel_rays(self.rig.camera, self._event_detail)
        self._thresholds = draw_thresholds(self.event_size, np.random.default_rng([seed, 8]))
        self._base_from_camera = self.rig.tree.lookup(BASE_FRAME, CAMERA_FRAME)
        self._base_from_lidar = self.rig.tree.lookup(BASE_FRAME, LIDAR_FRAME)
        self._tile = lru_cache(maxsize=8)(self._populate_tile)
        self._static_layer = lru_cache(maxsize=2)(self._build_static_layer)
        self._snapshot = lru_cache(maxsize=4)(self._build_snapshot)
        self._log_light = lru_cache(maxsize=4)(self._render_log_light)

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int) -> SimFrame:
        """Simulate all sensors at step `index`, any integer from 0; it can exceed `length`.

        Raises:
            ConfigError: `index` is negative.
        """
        if index < 0:
            raise ConfigError(f"simulation step {index} is negative; the first is 0.")
        stamp = EPOCH + index * PERIOD
        snapshot, pose = self._snapshot(index * PERIOD), self.ego.pose(index * PERIOD / NANOSECONDS)
        with ThreadPoolExecutor(1) as helper:
            other_payloads = helper.submit(self._other_payloads, index, snapshot)
            image, depth, labels = self._camera_payloads(index, snapshot, pose)
            payloads: dict[Modality, Payload] = {CAMERA: image, DEPTH: depth, **other_payloads.result()}
        frames = {m: SensorFrame(m, stamp, _FRAMES[m], payloads[m]) for m in _FRAMES if m not in self.dropped}
        return SimFrame(index, stamp, frames, labels, pose, lambda: self._events(index, _EVENT_SEGMENTS_MS))

    def _other_payloads(self, index: int, snapshot: Snapshot) -> dict[Modality, Payload]:
        """Payloads of event camera and LiDAR; a dropped sensor is not simulated."""
        payloads: dict[Modality, Payload] = {}
        if EVENT not in self.dropped:
            payloads[EVENT] = self._events(index, _EVENT_SEGMENTS_MS[-1:])
        if LIDAR not in self.dropped:
            payloads[LIDAR] = self._sweep(index, snapshot)
        return payloads

    # Scene at a time

    def _populate_tile(self, number: int) -> Batch:
        return furnish_tile(self.layout, self.seed, number)

    def _build_static_layer(self, tile_index: int) -> Layer:
        tiles = [self._tile(tile_index + offset) for offset in range(*_TILES)]
        return Layer(merge(tiles), self._threads)

    def _build_snapshot(self, time: int) -> Snapshot:
        seconds = time / NANOSECONDS
        static = self._static_layer(int(self.ego.along(seconds) // TILE))
        moving = place_movers(self.layout, self.ego, self.streams, self.seed, seconds)
        return Snapshot([static, Layer(moving, self._threads)])

    def _rng(self, index: int, sensor: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 303, index, sensor])

    # Sensors

    def _render(self, snapshot: Snapshot, pose: Transform, rays: Floats, pixel: float) -> tuple[Hits, Surface, Floats]:
        """Cast the camera's rays; return the hits, their surface, and the radiance (n, 3) of every ray."""
        eye = pose @ self._base_from_camera
        directions = rotate(rays, eye)
        hits = snapshot.cast(eye.translation.astype(np.float32), directions)
        shading = shade_hits(hits, self.layout, pixel, self.weather.lamps > 0)
        if self.weather.rain:
            wet_surfaces(shading, hits, self.weather.rain)
        return hits, shading, radiance(hits, shading, directions, snapshot, self.weather, self.layout, pose)

    def _camera_payloads(
        self, index: int, snapshot: Snapshot, pose: Transform
    ) -> tuple[RawImage, RawImage, npt.NDArray[np.uint8]]:
        """Camera image, depth image and labels."""
        hits, shading, light = self._render(snapshot, pose, self._rays, 1 / self.rig.camera.K[0, 0])
        labels = np.full(self._rays.shape[0], Label.SKY, np.uint8)
        labels[hits.ray] = shading.classes
        gloss = np.zeros(labels.shape, np.float32)
        gloss[hits.ray] = shading.gloss
        depth = (hits.distance * self._cosine).reshape(self.size)
        image = self._camera_image(index, pose, hits, light.reshape(*self.size, 3))
        measured = simulate_depth(depth, gloss.reshape(self.size), self.weather, self._rng(index, 1))
        return image, measured, labels.reshape(self.size)

    def _camera_image(self, index: int, pose: Transform, hits: Hits, light: Floats) -> RawImage:
        """Camera image of the radiance, with the effects of fault and rain."""
        if self.fault.shutter:
            now, half = index * PERIOD / NANOSECONDS, self.fault.shutter / 2
            opens, closes = (self.ego.pose(now + shift) @ self._base_from_camera for shift in (-half, half))
            directions = rotate(self._rays, pose @ self._base_from_camera)
            light = motion_blur(light, flow(hits, directions, self.rig.camera, (opens, closes), self.fault.shutter))
        if self.weather.rain:
            lens = np.random.default_rng([self.seed, 304, index // _LENS_DROP_STEPS])
            light = add_rain_streaks(light, self.weather, self._rng(index, 3), lens)
        return self._camera.expose(light, self.weather, self.fault, self._rng(index, 0))

    def _sweep(self, index: int, snapshot: Snapshot) -> PointCloud:
        """LiDAR sweep. The vehicle moves during the turn; every 16 columns of the sweep have their own pose."""
        rays, times = self._lidar_rays
        parts = rays.reshape(-1, 16 * self.lidar.beams, 3)
        now = index * PERIOD / NANOSECONDS
        turns, positions = self.ego.poses(now + times.reshape(len(parts), -1).mean(axis=1).astype(np.float64))
        turns, positions = turns @ self._base_from_lidar.rotation, positions + turns @ self._base_from_lidar.translation
        if any(self.fault.shake):
            jitter_rng = self._rng(index, 4)
            errors = [jitter_pose(self.fault.shake, jitter_rng) for _ in parts]
            positions = positions + np.einsum("nij,nj->ni", turns, [error.translation for error in errors])
            turns = turns @ np.array([error.rotation for error in errors])
        origins, directions = np.repeat(as_float32(positions), parts.shape[1], axis=0), np.empty_like(rays)
        x, y, z = np.moveaxis(parts, -1, 0)
        for axis, row in enumerate(np.moveaxis(turns.astype(np.float32), 1, 0)):
            directions[:, axis] = (x * row[:, :1] + y * row[:, 1:2] + z * row[:, 2:]).ravel()
        hits = snapshot.cast(origins, directions)
        shading = shade_hits(hits, self.layout, 0.003, False)
        return simulate_sweep(
            self.lidar, rays, times, directions, hits, shading, self.weather, self.fault, self._rng(index, 2)
        )

    def _render_log_light(self, time: int) -> Floats:
        pose = self.ego.pose(time / NANOSECONDS)
        pixel = self.size[1] / self._event_detail[1] / self.rig.camera.K[0, 0]
        _, _, light = self._render(self._snapshot(time), pose, self._event_rays, pixel)
        image = log_light(light.reshape(*self._event_detail, 3), self.weather)
        height, width = self.event_size
        return as_float32(cv2.resize(cv2.GaussianBlur(image, (3, 3), 0.5), (width, height)))

    def _events(self, index: int, segments: tuple[tuple[int, int], ...]) -> EventWindow:
        parts = [self._segment(index, segment) for segment in segments]
        start, end = (EPOCH + index * PERIOD + edge * 1_000_000 for edge in (segments[0][0], segments[-1][1]))
        return EventWindow(
            self.event_size[1], self.event_size[0],
            np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]),
            np.concatenate([part.t for part in parts]), np.concatenate([part.polarity for part in parts]), start, end,
        )  # fmt: skip

    def _segment(self, index: int, edges: tuple[int, int]) -> EventBatch:
        start, end = (index * PERIOD + edge * 1_000_000 for edge in edges)
        before, after = self._log_light(start), self._log_light(end)
        rng = self._rng(index, 10 - edges[0])
        found = simulate_events(before, after, self._thresholds, end - start, self.weather, rng)
        return EventBatch(found.x, found.y, found.t + (EPOCH + start), found.polarity)


def _check_dropped(dropped: Sequence[Modality]) -> tuple[Modality, ...]:
    for modality in dropped:
        if modality not in _FRAMES:
            raise ConfigError(f"dropped sensor {modality!r} is not known; the vehicle has {', '.join(_FRAMES)}.")
    if len(set(dropped)) == len(_FRAMES):
        raise ConfigError(f"all of {', '.join(_FRAMES)} are dropped; at least one sensor must remain.")
    return tuple(modality for modality in _FRAMES if modality in dropped)
