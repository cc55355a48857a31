"""DELIVER's five sensor faults, each of which hurts one sensor and leaves the others alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mlesam_ros.errors import ConfigError
from mlesam_ros.world.weather import Weather

NO_FAULT = "none"
FAULTS = (NO_FAULT, "motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")
"""No fault, then DELIVER's five under the names of its folders."""
_LOW_RES = 512 / 1042
"""DELIVER's low-resolution events have 512 pixels where its pictures have 1042."""


@dataclass(frozen=True)
class Fault:
    """What is wrong.

    Attributes:
        name: one of `FAULTS`.
        exposure: factor on the camera's exposure.
        gain_noise: factor on the camera's read noise.
        shutter: seconds for which the camera's shutter stays open, 0 for an instant.
        shake: standard deviation of the LiDAR's rotation, radians, and of its translation, meters, about each axis.
        event_share: pixels per side of the event camera, as a share of the camera's.
    """

    name: str = NO_FAULT
    exposure: float = 1.0
    gain_noise: float = 1.0
    shutter: float = 0.0
    shake: tuple[float, float] = (0.0, 0.0)
    event_share: float = 1.0

    def exposed(self, weather: Weather) -> Weather:
        """The weather as a camera with this fault exposes it."""
        noise = weather.camera_noise * self.gain_noise
        return replace(weather, exposure=weather.exposure * self.exposure, camera_noise=noise)


def fault_name(name: str) -> str:
    """The name itself.

    Raises:
        ConfigError: no such fault.
    """
    if name not in FAULTS:
        raise ConfigError(f"fault {name!r} is not known; the street has {', '.join(FAULTS)}.")
    return name


def draw_fault(name: str, rng: np.random.Generator) -> Fault:
    """A fault of random severity.

    Raises:
        ConfigError: no such fault.
    """
    fault_name(name)
    if name == "motionblur":
        return Fault(name, shutter=float(rng.uniform(0.09, 0.16)))
    if name == "overexposure":
        return Fault(name, exposure=float(rng.uniform(7, 14)))
    if name == "underexposure":
        return Fault(name, exposure=float(rng.uniform(0.03, 0.07)), gain_noise=1.5)
    if name == "lidarjitter":
        return Fault(name, shake=(float(np.radians(rng.uniform(0.6, 1.2))), 0.02))
    return Fault(name, event_share=_LOW_RES) if name == "eventlowres" else Fault()
