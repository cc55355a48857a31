"""How a bag is evaluated."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlesam_ros.bags.drops import Drop
from mlesam_ros.config import NodeParameters, build_parameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import LIDAR, MODALITIES, Modality
from mlesam_ros.sync import SyncConfig

_PER_SENSOR = ("tolerance", "offset", "patience")


@dataclass(frozen=True)
class Options:
    """What the user may say.

    Attributes:
        topics: modality or `truth` → topic, where guessing is not wanted.
        calibration: rig file for what the bag does not say.
        labels: folder of true labels, called by stamp.
        start, duration: seconds from the bag's beginning; None for all of it.
        every: only every n-th set is segmented.
        real_time: skip what this machine would skip if the bag were live.
        drops: sensors to silence.
        robustness: try every subset of each set's sensors, and damaged pictures, as well.
        rectified: modalities whose pictures are rectified.
        sync: changes to the synchroniser's configuration.
    """

    topics: Mapping[str, str] = field(default_factory=dict)
    calibration: Path | None = None
    labels: Path | None = None
    start: float = 0.0
    duration: float | None = None
    every: int = 1
    real_time: bool = False
    drops: tuple[Drop, ...] = ()
    robustness: bool = False
    rectified: tuple[Modality, ...] = ()
    sync: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: with the value and what is accepted.
        """
        if not (math.isfinite(self.start) and self.start >= 0):
            raise ConfigError(f"start is {self.start:g} s; it must be 0 or more.")
        if self.duration is not None and not (math.isfinite(self.duration) and self.duration > 0):
            raise ConfigError(f"duration is {self.duration:g} s; it must be more than 0.")
        if self.every < 1:
            raise ConfigError(f"every is {self.every}; 1 segments every set, 2 every other one.")
        for modality in self.rectified:
            if modality not in MODALITIES:
                raise ConfigError(f"rectified names {modality!r}; the modalities are {', '.join(MODALITIES)}.")

    def synchroniser(self, modalities: Collection[Modality]) -> SyncConfig:
        """The node's configuration for the bag's sensors, with `sync` on top.

        Raises:
            ConfigError: a value that the synchroniser does not accept.
        """
        changes = dict(self.sync)
        for name in _PER_SENSOR:
            if isinstance(given := changes.get(name), Mapping):
                changes[name] = {m: value for m, value in given.items() if m in modalities}
        return replace(SyncConfig(tuple(modalities)), **changes)  # type: ignore[arg-type]

    @property
    def parameters(self) -> NodeParameters:
        """The description of the sensors."""
        given: dict[str, object] = {f"{modality}.rectified": True for modality in self.rectified if modality != LIDAR}
        return build_parameters(given | {"calibration_file": str(self.calibration or "")})

    def span(self, seconds: float) -> float:
        """How many seconds of a bag that lasts `seconds` are evaluated.

        Raises:
            ConfigError: the bag is over before `start`.
        """
        if self.start > seconds:
            raise ConfigError(f"start is {self.start:g} s, but the bag lasts {seconds:.1f} s; start earlier.")
        rest = seconds - self.start
        return rest if self.duration is None else min(self.duration, rest)


def parse_sync(pairs: Collection[str]) -> dict[str, object]:
    """Changes to the synchroniser, named as the node's parameters.

    Args:
        pairs: such as `patience=0.1`, `lidar.offset=0.05`, `camera.required=true`, `primary_order=lidar,camera`.

    Raises:
        ConfigError: a pair that cannot be read, or a name that the synchroniser has not.
    """
    changes: dict[str, object] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        sensor, dot, field_name = name.rpartition(".")
        if not separator or (dot and sensor not in MODALITIES):
            raise ConfigError(f"sync {pair!r} cannot be read; write such as patience=0.1 or lidar.offset=0.05.")
        if field_name == "required" and dot:
            changes["required"] = _required(changes.get("required", ()), sensor, text)
        elif field_name in _PER_SENSOR and dot:
            known = changes.get(field_name)
            changes[field_name] = {**(known if isinstance(known, dict) else {}), sensor: _seconds(pair, text)}
        elif field_name == "primary_order" and not dot:
            changes[field_name] = tuple(text.split(","))
        elif field_name in ("primary_timeout", "history", "max_age", "max_future", "tolerance", "patience") and not dot:
            changes[field_name] = _seconds(pair, text)
        else:
            raise ConfigError(
                f"sync {pair!r} names nothing of the synchroniser; accepted are patience, tolerance, primary_timeout, "
                "primary_order, history, max_age, max_future, and SENSOR.offset, SENSOR.tolerance, SENSOR.required."
            )
    return changes


def _required(known: object, sensor: Modality, text: str) -> tuple[Modality, ...]:
    if text not in ("true", "false"):
        raise ConfigError(f"{sensor}.required is {text!r}; it is true or false.")
    others = tuple(m for m in known if m != sensor) if isinstance(known, tuple) else ()
    return (*others, sensor) if text == "true" else others


def _seconds(pair: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"sync {pair!r} needs a number of seconds, such as 0.05.") from None
