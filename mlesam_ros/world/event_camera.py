"""An event camera: every pixel reports when the logarithm of its light has changed by a threshold.

The model is the usual one (Gallego et al., "Event-based Vision: A Survey", TPAMI 2022, eq. 1): light is taken to change
linearly in the logarithm between two renderings, thresholds differ between pixels, and there is background noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlesam_ros.world.rain import splashes
from mlesam_ros.world.vector import Floats, as_float32
from mlesam_ros.world.weather import Weather

THRESHOLD = 0.22
"""Change of ln(light) that makes an event; about 25 %."""
_MISMATCH = 0.04
_MOST = 12
"""Events of one pixel within one segment; more are lost, as in a sensor's refractory time."""
_LUMA = as_float32([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True, slots=True)
class EventBatch:
    """n events in order of time.

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
    """ln(luminance + floor) of (h, w, 3) radiance: what a pixel compares."""
    luma: Floats = light @ _LUMA
    return np.log(luma + np.float32(weather.event_floor))


def draw_thresholds(size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Every pixel's own threshold, (H, W): no two are quite alike."""
    return np.float32(THRESHOLD) * (1 + np.float32(_MISMATCH) * rng.standard_normal(size, np.float32))


def crossings(
    before: Floats, after: Floats, thresholds: Floats, duration: int, weather: Weather, rng: np.random.Generator
) -> EventBatch:
    """The events between two renderings.

    Every pixel starts at a random place between its thresholds, which is where a sensor that has run for a while is.

    Args:
        before: (H, W) of `log_light`.
        after: the same, later.
        thresholds: (H, W) of `draw_thresholds`.
        duration: nanoseconds between them; beyond 65 ms times come in steps of 2 microseconds, and so on.
        weather: the background noise, and the rain.
        rng: this segment's chance.
    """
    change = (after - before).ravel()
    threshold = thresholds.ravel()
    phase = np.float32(0.999) * threshold * rng.random(change.shape, np.float32)
    count = ((np.abs(change) + phase) / threshold).astype(np.int32)
    count = np.minimum(count, _MOST)
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
        drops = splashes((before.shape[0], before.shape[1]), weather.rain, duration, rng)
        pixel, time = np.concatenate([pixel, drops.pixel]), np.concatenate([time, drops.share])
        polarity = np.concatenate([polarity, drops.polarity])
    # A live sensor's clock ticks in microseconds, EVT3 carries no less; 16 bits are sorted fastest.
    step = 1 + duration // (1000 << 16)
    ticks = (time * ((duration // 1000 - 1) // step)).astype(np.uint16)
    order = np.argsort(ticks, kind="stable")
    y, x = np.divmod(pixel[order], before.shape[1])
    return EventBatch(
        x.astype(np.uint16), y.astype(np.uint16), ticks[order].astype(np.int64) * (1000 * step), polarity[order]
    )
