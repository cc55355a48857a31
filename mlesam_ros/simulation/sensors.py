# SPDX-License-Identifier: Apache-2.0
"""The simulated camera, depth sensor, event camera and LiDAR, and their rig.

Each sensor model turns rendered light or ray hits into measurements: `expose` (camera), `simulate_depth`,
`simulate_sweep` (LiDAR) and `simulate_events` (event camera).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.simulation.scene import REFLECTANCE, Floats, Hits, Material, as_float32
from mlesam_ros.simulation.street_layout import rotation
from mlesam_ros.simulation.style import Mounting, Response
from mlesam_ros.simulation.textures import Surface
from mlesam_ros.simulation.weather import Fault, Weather, splash_events
from mlesam_ros.types import PointCloud, RawImage

BASE_FRAME = "base_link"
ODOM_FRAME = "odom"
CAMERA_FRAME = "camera_optical_frame"
EVENT_FRAME = "event_camera_optical_frame"
LIDAR_FRAME = "lidar"

_RIGHT_ANGLE = 90.0
# x forward, y left, z up → optical x right, y down, z forward (REP 103).
_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def street_rig(
    size: tuple[int, int], event_size: tuple[int, int] | None = None, mounting: Mounting | None = None
) -> Rig:
    """The rig for images of (height, width) pixels; `event_size` is the size of the event camera.

    The camera and the registered depth share `camera_optical_frame`. The event camera shares the lens of the camera by
    a beam splitter, so its frame coincides. The LiDAR is mounted on the roof behind them.
    """
    height, width = size
    mounting = mounting or Mounting()
    focal = width / 2 / np.tan(np.radians(mounting.view / 2)) if mounting.view != _RIGHT_ANGLE else width / 2
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    rig = Rig(CAMERA_FRAME)
    shift = mounting.distortion
    coefficient = shift * (1 + shift) ** 2 / (np.hypot(width, height) / 2 / focal) ** 2
    camera = CameraModel(width, height, intrinsics, np.array([coefficient, 0, 0, 0, 0]), "plumb_bob")
    rig.models[CAMERA_FRAME] = camera
    rig.models[EVENT_FRAME] = camera.scaled(*event_size) if event_size else camera
    turn = rotation(*np.radians([mounting.yaw, mounting.pitch, mounting.roll]))
    rig.tree.set(BASE_FRAME, CAMERA_FRAME, Transform(turn @ _OPTICAL, np.array([0.6, 0.0, mounting.height])))
    rig.tree.set(CAMERA_FRAME, EVENT_FRAME, Transform.identity())
    rig.tree.set(BASE_FRAME, LIDAR_FRAME, Transform(np.eye(3), np.array([0.1, 0.0, mounting.height + mounting.lidar])))
    return rig


DEPTH_RANGE = 40.0
"""Range of the depth sensor in meters; pixels beyond it are holes."""
_LEVELS = 4096
_LUMA = as_float32([0.2126, 0.7152, 0.0722])
_METER_RANGE = 4.0
"""Largest factor between the exposures of the light meter and of the weather."""
_DAYLIGHT_SHOT_NOISE = 0.012
"""Photon noise of the weather `sun`; more of it in other weather is amplification of less light."""
_LEAST_ELECTRONS = 250.0


def pixel_rays(model: CameraModel, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Unit rays (h * w, 3) of a camera's pixels at a given size, optical frame, and their z (h * w,)."""
    height, width = size
    if model.D.any():
        distorted = np.concatenate([model.scaled(height, width).rays, np.ones((height, width, 1))], 2).reshape(-1, 3)
        distorted /= np.linalg.norm(distorted, axis=1, keepdims=True)
        return distorted.astype(np.float32), distorted[:, 2].astype(np.float32)
    u, v = np.meshgrid(
        (np.arange(width) + 0.5) * model.width / width, (np.arange(height) + 0.5) * model.height / height
    )
    intrinsics = model.K
    x = (u - 0.5 - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (v - 0.5 - intrinsics[1, 2]) / intrinsics[1, 1]
    rays = np.stack([x, y, np.ones_like(x)], 2).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return rays.astype(np.float32), rays[:, 2].astype(np.float32)


def rotate(rays: Floats, pose: Transform) -> Floats:
    """(n, 3) directions rotated into the pose's target frame, without BLAS, as its rounding differs by platform."""
    out = np.empty_like(rays)
    x, y, z = rays.T
    for axis, row in enumerate(pose.rotation.astype(np.float32)):
        out[:, axis] = x * row[0] + y * row[1] + z * row[2]
    return out


class Camera:
    """A camera with its response; converts radiance to images."""

    def __init__(self, response: Response, size: tuple[int, int], cosine: Floats) -> None:
        """Compute the tone curve and the falloff.

        Args:
            response: the camera.
            size: (height, width) of the images.
            cosine: (height * width,) cosine of the angle between each pixel's ray and the optical axis.
        """
        self.response, self.size = response, size
        self.codes = _tone_codes(response)
        fourth = cosine.reshape(size) ** 4
        corner = float(fourth.min())
        share = (1 - fourth) / max(1 - corner, 1e-6)
        self.transmission = as_float32(1 - response.falloff * share)[..., None] if response.falloff else None
        gains = np.exp([response.warmth / 2, response.green, -response.warmth / 2])
        gains /= gains.min()  # white stays white where the sensor is saturated
        mix = response.saturation * np.eye(3) + (1 - response.saturation) * _LUMA
        self.colors = as_float32(gains[:, None] * mix) if response.saturation != 1 or np.ptp(gains) else None

    def expose(self, light: Floats, weather: Weather, fault: Fault, rng: np.random.Generator) -> RawImage:
        """Image of (H, W, 3) linear radiance; `rgb8`.

        Args:
            light: (H, W, 3) radiance.
            weather: exposure and noise.
            fault: its exposure and read noise.
            rng: random generator of this frame.
        """
        height, width = self.size
        look = self.response
        # Optics: point spread, lateral color, veiling glare, falloff.
        signal = as_float32(cv2.GaussianBlur(light, (3, 3), look.blur * max(width / 512, 0.5)))
        if look.fringe != 1:
            _magnify(signal, 0, look.fringe)
            _magnify(signal, 2, 1 / look.fringe)
        if look.flare:
            glare = look.flare * signal[::4, ::4].mean((0, 1))
            signal *= 1 - look.flare
            signal += glare
        signal *= self._exposure(signal, weather) * fault.exposure
        if self.transmission is not None:
            signal *= self.transmission
        # Sensor: saturation and noise.
        if look.film:
            np.negative(signal, out=signal)
            np.expm1(signal, out=signal)
            np.negative(signal, out=signal)
        else:
            np.minimum(signal, 1, out=signal)
        read, shot = self._noise(weather)
        spread = signal * shot**2
        spread += (read * fault.gain_noise) ** 2
        np.sqrt(spread, out=spread)
        noise: Floats = rng.standard_normal(signal.shape, np.float32)
        noise *= spread
        signal += noise
        # Processor: colors, tone curve, sharpening, color differences.
        if self.colors is not None:
            signal = as_float32(cv2.transform(signal, self.colors))
        signal *= _LEVELS - 1
        image = self.codes.take(np.clip(signal, 0, _LEVELS - 1, out=signal).astype(np.uint16))
        return RawImage(height, width, "rgb8", 3 * width, self._process(image).reshape(-1))

    def _exposure(self, signal: Floats, weather: Weather) -> float:
        """Exposure by the log-average luminance, within two stops of the exposure of the weather."""
        if not self.response.key:
            return weather.exposure
        luma = signal[::4, ::4] @ _LUMA
        average = float(np.exp(np.log(luma + np.float32(1e-4)).mean()))
        return float(np.clip(self.response.key / average, weather.exposure / _METER_RANGE, weather.exposure * 2))

    def _noise(self, weather: Weather) -> tuple[float, float]:
        """Read noise, and photon noise per root of the signal, as shares of the full well."""
        if not self.response.full_well:
            return weather.camera_noise, weather.shot_noise
        amplification = (weather.shot_noise / _DAYLIGHT_SHOT_NOISE) ** 2
        electrons = max(self.response.full_well / amplification, _LEAST_ELECTRONS)
        return max(self.response.read_noise / electrons, 1 / _LEVELS), electrons**-0.5

    def _process(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        look = self.response
        if look.sharpening:
            soft = cv2.GaussianBlur(image, (3, 3), 0.8)
            image = np.asarray(cv2.addWeighted(image, 1 + look.sharpening, soft, -look.sharpening, 0), np.uint8)
        if look.chroma:
            parts = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
            coarse = cv2.GaussianBlur(parts[::2, ::2], (3, 3), look.chroma / 2)
            soft = cv2.resize(coarse, self.size[::-1])
            soft[..., 0] = parts[..., 0]
            image = np.asarray(cv2.cvtColor(soft, cv2.COLOR_YCrCb2RGB), np.uint8)
        return image


def _tone_codes(look: Response) -> npt.NDArray[np.uint8]:
    """8-bit code of each of `_LEVELS` levels: black point, shoulder, gamma, and an S-shaped curve about the middle."""
    level = np.arange(_LEVELS) / (_LEVELS - 1)
    if look.black:
        level = np.maximum(level - look.black, 0) / (1 - look.black)
    if look.shoulder:
        level = np.expm1(-look.shoulder * level) / np.expm1(-look.shoulder)
    shown = level ** (1 / look.gamma)
    if look.contrast:
        shown = shown + look.contrast * (shown * shown * (3 - 2 * shown) - shown)
    return (255.0 * shown + 0.5).astype(np.uint8)


def _magnify(signal: Floats, channel: int, factor: float) -> None:
    """Scale one channel about the middle of the image, in place."""
    height, width = signal.shape[:2]
    matrix = np.array([[factor, 0, (1 - factor) * (width - 1) / 2], [0, factor, (1 - factor) * (height - 1) / 2]])
    part = np.ascontiguousarray(signal[..., channel])
    signal[..., channel] = cv2.warpAffine(part, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def simulate_depth(depth: Floats, gloss: Floats, weather: Weather, rng: np.random.Generator) -> RawImage:
    """A depth image in millimeters, `16UC1`, 0 for holes.

    Noise grows with the square of the distance, as in stereo. Holes occur beyond `DEPTH_RANGE`, at depth edges, on
    glossy surfaces, in fog and rain, and at random.

    Args:
        depth: (H, W) ground truth z in meters, inf without a surface.
        gloss: (H, W) reflected share of the sky at normal incidence.
        weather: share of failing pixels, and extinction of fog and rain.
        rng: random generator of this frame.
    """
    height, width = depth.shape
    z = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    noise = rng.standard_normal(z.shape, np.float32) * (0.004 + 0.0011 * z * z)
    chance = rng.random(z.shape, np.float32)
    near, far = cv2.erode(z, np.ones((3, 3), np.uint8)), cv2.dilate(z, np.ones((3, 3), np.uint8))
    edge = (far - near > 0.12 * z + 0.15) & (chance < 0.5)
    lost = weather.depth_holes + 2.5 * gloss
    if weather.murk:  # scattered light has no contrast for stereo matching
        lost = lost + (1 - np.exp(-weather.murk * z)) ** 2
    hole = (z <= 0.3) | (z > DEPTH_RANGE) | edge | (chance < lost)
    millimeters = np.where(hole, 0, np.clip(1000 * (z + noise), 1, 65535)).astype("<u2")
    return RawImage(height, width, "16UC1", 2 * width, millimeters.view(np.uint8).reshape(-1))


POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<u2"), ("time", "<f4")])
"""One return: meters in the sensor frame, intensity 0 … 255, beam number from below, seconds after the stamp."""


@dataclass(frozen=True)
class SpinningLidar:
    """Geometry of the LiDAR.

    Attributes:
        beams: number of lasers, evenly spaced over `lowest` … `highest`.
        steps: firings per turn.
        lowest, highest: elevations in degrees.
        turn: seconds per turn. The front is measured at the stamp, the rear half a turn before and after.
        reach: maximum range in meters.
    """

    beams: int = 32
    steps: int = 1024
    lowest: float = -25.0
    highest: float = 11.0
    turn: float = 0.1
    reach: float = 100.0

    def rays(self) -> tuple[Floats, Floats]:
        """Unit rays (steps * beams, 3) in the sensor frame and their times (steps * beams,) in seconds."""
        share = (np.arange(self.steps) + 0.5) / self.steps - 0.5
        azimuth = -2 * np.pi * share[:, None]
        elevation = np.radians(np.linspace(self.lowest, self.highest, self.beams))[None]
        flat = np.cos(elevation)
        up = np.broadcast_to(np.sin(elevation), (self.steps, self.beams))
        rays = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), up], 2).reshape(-1, 3)
        times = np.repeat(share * self.turn, self.beams)
        return rays.astype(np.float32), times.astype(np.float32)


def simulate_sweep(
    lidar: SpinningLidar,
    rays: Floats,
    times: Floats,
    world_rays: Floats,
    hits: Hits,
    shading: Surface,
    weather: Weather,
    fault: Fault,
    rng: np.random.Generator,
) -> PointCloud:
    """Point cloud of one turn.

    The signal is reflectance over squared range; weak signals are lost at random. Intensity is calibrated for range.

    Args:
        lidar: geometry of the sensor.
        rays: rays of `spinner.rays()`, all firings.
        times: times of `spinner.rays()`.
        world_rays: (steps * beams, 3) the same directions in the world.
        hits: nearest hits of the rays.
        shading: surface of the hits.
        weather: attenuation by the air and by wet ground.
        fault: lost sectors, clutter and cross-talk.
        rng: random generator of this turn.
    """
    distance = hits.distance[hits.ray]
    facing = -np.einsum("ij,ij->i", world_rays[hits.ray], hits.normal)
    shade = 0.55 + 0.9 * shading.albedo.mean(axis=1)
    reflectance = REFLECTANCE[hits.material] * shade * (0.3 + 0.7 * facing)
    if weather.rain:
        reflectance = reflectance * _wet_ground_share(hits, weather.rain)
    budget = reflectance * (40.0 / np.maximum(distance, 5.0)) ** 2
    if weather.murk:
        budget = budget * np.exp(-2 * weather.murk * distance)
    kept = (distance < lidar.reach) & (rng.random(len(distance)) > 0.015 + np.exp(np.minimum(-5 * budget, 0)))
    kept &= distance > 1.0
    ray = hits.ray[kept]
    measured = distance[kept] + rng.normal(0, 0.018, len(ray))
    speckle = rng.normal(1, 0.06, len(ray))
    strength = np.clip(255 * np.minimum(reflectance[kept] * speckle, 1.0), 1, 255).round()
    if weather.murk:
        share = 1 - np.exp(-weather.murk - 0.02 * weather.rain)
        spread = 1.5 + 4.0 / (1 + 40 * weather.murk)
        ray, measured, strength = _add_drop_echoes(ray, measured, strength, hits.distance, (share, spread), rng)
    if fault.clutter:
        drops = (fault.clutter, _CLUTTER_SPREAD_M)
        ray, measured, strength = _add_drop_echoes(ray, measured, strength, hits.distance, drops, rng)
    if fault.crosstalk:
        ray, measured, strength = _add_crosstalk(lidar, ray, measured, strength, fault.crosstalk, rng)
    for first, last in fault.sectors:
        share = (ray // lidar.beams) / lidar.steps
        seen = np.mod(share - first, 1.0) > last - first
        ray, measured, strength = ray[seen], measured[seen], strength[seen]
    points = np.zeros(len(ray), POINT)
    xyz = rays[ray] * measured[:, None].astype(np.float32)
    points["x"], points["y"], points["z"] = xyz.T
    points["intensity"] = strength
    points["ring"] = ray % lidar.beams
    points["time"] = times[ray]
    return PointCloud(points[np.argsort(ray, kind="stable")])


def jitter_pose(spread: tuple[float, float], rng: np.random.Generator) -> Transform:
    """Random pose error of a loose mounting, absent from the calibration: a small rotation and translation.

    Args:
        spread: standard deviations about and along each axis, radians and meters.
        rng: random generator.
    """
    x, y, z = rng.normal(0, spread[0], 3)
    turn = np.array([[1, -z, y], [z, 1, -x], [-y, x, 1]])
    rotation, _ = np.linalg.qr(turn)  # orthonormal, up to the signs of the columns
    return Transform(rotation * np.sign(np.diag(rotation)), rng.normal(0, spread[1], 3))


def _wet_ground_share(hits: Hits, rain: float) -> Floats:
    """Remaining share (k,) of each echo; water on flat ground reflects the beam away from the sensor."""
    paved = np.isin(hits.material, (Material.GROUND, Material.SLAB, Material.PAVING))
    return 1 - np.float32(0.65 * rain) * (paved & (hits.normal[:, 2] > 0.7))


Echoes = tuple[npt.NDArray[np.int64], Floats, Floats]
_CLUTTER_SPREAD_M = 5.0


def _add_drop_echoes(
    ray: npt.NDArray[np.int64], measured: Floats, strength: Floats, distance: Floats, drops: tuple[float, float],
    rng: np.random.Generator,
) -> Echoes:  # fmt: skip
    """Add weak echoes of drops in the air; each replaces the echo of its ray.

    Args:
        ray, measured, strength: echoes without drops: ray index, range in meters, intensity.
        distance: (n,) range of the nearest hit of every ray, meters.
        drops: share of the rays that meet a drop, and mean distance of the drops beyond 1 m, meters.
        rng: random generator of this turn.

    Returns:
        `ray`, `measured` and `strength` with the echoes of drops.
    """
    share, spread = drops
    ghost = np.flatnonzero(rng.random(len(distance)) < share)
    near = 1.0 + rng.exponential(spread, len(ghost))
    ghost, near = ghost[near < distance[ghost]], near[near < distance[ghost]]
    lost = np.zeros(len(distance), bool)
    lost[ghost] = True
    kept = ~lost[ray]
    weak = rng.integers(1, 14, len(ghost)).astype(np.float64)
    return (
        np.concatenate([ray[kept], ghost]), np.concatenate([measured[kept], near]),
        np.concatenate([strength[kept], weak]),
    )  # fmt: skip


def _add_crosstalk(
    lidar: SpinningLidar, ray: npt.NDArray[np.int64], measured: Floats, strength: Floats, bursts: int,
    rng: np.random.Generator,
) -> Echoes:  # fmt: skip
    """Add pulses of other LiDARs: in short bursts, the range runs with the difference of the two firing rates.

    Args:
        lidar: geometry of the sensor.
        ray, measured, strength: own echoes; pulses that arrive earlier or are stronger replace them.
        bursts: number of bursts per turn.
        rng: random generator of this turn.
    """
    rays, ranges = [], []
    for _ in range(bursts):
        width = int(rng.integers(lidar.steps // 80, lidar.steps // 12))
        steps = (int(rng.integers(lidar.steps)) + np.arange(width)) % lidar.steps
        low = int(rng.integers(lidar.beams - 3))
        beams = np.arange(low, min(low + int(rng.integers(3, lidar.beams)), lidar.beams))
        run = rng.uniform(0, lidar.reach) + rng.uniform(-1.5, 1.5) * np.arange(width)[:, None] + 0.3 * beams
        heard = rng.random(run.shape) < rng.uniform(0.15, 0.7)
        rays.append((steps[:, None] * lidar.beams + beams)[heard])
        ranges.append((1.5 + np.mod(run, lidar.reach - 2.0))[heard])
    foreign, first = np.unique(np.concatenate(rays), return_index=True)
    pulses = np.concatenate(ranges)[first]
    own = ~np.isin(ray, foreign)
    power = rng.integers(5, 160, len(foreign)).astype(np.float64)
    return (
        np.concatenate([ray[own], foreign]), np.concatenate([measured[own], pulses]),
        np.concatenate([strength[own], power]),
    )  # fmt: skip


THRESHOLD = 0.22
"""Change of ln(luminance) that triggers an event; about 25 %."""
_THRESHOLD_MISMATCH = 0.04
_MAX_EVENTS_PER_PIXEL = 12
"""Maximum number of events of one pixel in one segment; further events are lost, as in the refractory period."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """n events, sorted by time.

    Attributes:
        x, y: (n,) uint16 pixels.
        t: (n,) int64 nanoseconds from the beginning of the segment.
        polarity: (n,) bool.
    """

    x: npt.NDArray[np.uint16]
    y: npt.NDArray[np.uint16]
    t: npt.NDArray[np.int64]
    polarity: npt.NDArray[np.bool_]


def log_light(light: Floats, weather: Weather) -> Floats:
    """Log intensity (h, w) of (h, w, 3) radiance, ln(luminance + floor); its changes trigger events."""
    luma: Floats = light[..., 0] * _LUMA[0] + light[..., 1] * _LUMA[1] + light[..., 2] * _LUMA[2]
    return np.log(luma + np.float32(weather.event_floor))


def draw_thresholds(size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Random event threshold of every pixel, (H, W)."""
    return np.float32(THRESHOLD) * (1 + np.float32(_THRESHOLD_MISMATCH) * rng.standard_normal(size, np.float32))


def simulate_events(
    before: Floats, after: Floats, thresholds: Floats, duration: int, weather: Weather, rng: np.random.Generator
) -> EventBatch:
    """The events between two renderings.

    Every pixel starts at a random phase between two thresholds, as in a sensor that has been running for a while.

    Args:
        before: (H, W) result of `log_light` at the start.
        after: (H, W) result of `log_light` at the end.
        thresholds: (H, W) result of `draw_thresholds`.
        duration: nanoseconds between the renderings; from 65 ms on, event times are multiples of 2 us, and so on.
        weather: background noise and rain.
        rng: random generator of this segment.
    """
    change = (after - before).ravel()
    threshold = thresholds.ravel()
    phase = np.float32(0.999) * threshold * rng.random(change.shape, np.float32)
    count = ((np.abs(change) + phase) / threshold).astype(np.int32)
    count = np.minimum(count, _MAX_EVENTS_PER_PIXEL)
    active = np.flatnonzero(count)
    repeats = count[active]
    pixel = np.repeat(active, repeats)
    nth = np.arange(len(pixel)) - np.repeat(np.cumsum(repeats) - repeats, repeats) + 1
    share = (nth * threshold[pixel] - phase[pixel]) / np.abs(change[pixel])
    noise = rng.integers(0, change.size, rng.poisson(weather.event_noise * change.size * duration * 1e-9))
    pixel = np.concatenate([pixel, noise])
    time = np.concatenate([np.clip(share, 0, 1), rng.random(len(noise))])
    polarity = np.concatenate([change[active].repeat(repeats) > 0, rng.random(len(noise)) < 0.5])
    if weather.rain:
        drops = splash_events((before.shape[0], before.shape[1]), weather.rain, duration, rng)
        pixel, time = np.concatenate([pixel, drops.pixel]), np.concatenate([time, drops.share])
        polarity = np.concatenate([polarity, drops.polarity])
    # Event cameras and EVT3 have a resolution of 1 us; 16-bit times are sorted fastest.
    step = 1 + duration // (1000 << 16)
    ticks = (time * ((duration // 1000 - 1) // step)).astype(np.uint16)
    order = np.argsort(ticks, kind="stable")
    y, x = np.divmod(pixel[order], before.shape[1])
    return EventBatch(
        x.astype(np.uint16), y.astype(np.uint16), ticks[order].astype(np.int64) * (1000 * step), polarity[order]
    )
