# SPDX-License-Identifier: Apache-2.0
"""Parameters of the synchronizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlesam_ros.errors import ConfigError
from mlesam_ros.types import CAMERA, LIDAR, MODALITIES, NANOSECONDS, Modality

DELAY_MARGIN_S = 0.5
"""Seconds by which the delays of sensors may differ; a frame waits that much beyond `longest_wait`."""
Seconds = float | Mapping[Modality, float]
"""One number for all modalities, or a number for each modality that differs from the default."""


@dataclass(frozen=True)
class SyncConfig:
    """Parameters of the synchronizer. All times in seconds.

    Attributes:
        modalities: synchronized modalities, in the model's order.
        primary_order: preferred primary first, then its fallbacks; modalities that are not synchronized are skipped.
        primary_timeout: silence after which a modality counts as dead: it is not waited for, and the primary fails
            over. At least one and a half periods of the modality.
        tolerance: largest distance of a partner from the primary, per modality.
        offset: delay of a modality's stamps, per modality, in place of its frames' own `offset`; None, or a modality
            that is not listed, leaves the frames unchanged.
        max_wait: longest time that a set waits for a modality after the arrival of its primary, per modality.
        required: modalities without which there is no set; all others are optional.
        history: longest time that a frame waits for its primary; at least `longest_wait` plus `DELAY_MARGIN_S`.
        max_age, max_future: largest distance of a frame's time from now; farther ones are refused as times of another
            clock. `max_age` is at least `longest_wait` plus `DELAY_MARGIN_S`.
        capacity: most frames that wait per modality and second of history.
    """

    modalities: tuple[Modality, ...] = MODALITIES
    primary_order: tuple[Modality, ...] = (CAMERA, LIDAR, *(m for m in MODALITIES if m not in (CAMERA, LIDAR)))
    primary_timeout: float = 0.35
    tolerance: Seconds = 0.06
    offset: Seconds | None = None
    max_wait: Seconds = 0.05
    required: tuple[Modality, ...] = ()
    history: float = 1.0
    max_age: float = 5.0
    max_future: float = 0.5
    capacity: int = 256

    def __post_init__(self) -> None:
        """Validate the parameters.

        Raises:
            ConfigError: a modality is not synchronized, or a number is out of range.
        """
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ConfigError(f"modalities are {list(self.modalities)}.", "Name at least one, and each once.")
        for modality in self.required:
            self._check_modality(modality, "required")
        for modality in set(self.primary_order) - set(MODALITIES):
            self._check_modality(modality, "primary_order")
        if not self.order:
            raise ConfigError(
                f"primary_order {list(self.primary_order)} contains none of the modalities {list(self.modalities)}."
            )
        for name in ("primary_timeout", "tolerance", "max_wait", "history", "max_age", "max_future"):
            self._check_times(name, least=0.0)
        if self.offset is not None:
            self._check_times("offset", least=-math.inf)
        if self.capacity < 1:
            raise ConfigError(f"capacity is {self.capacity}; it must be at least 1.")

    @property
    def order(self) -> tuple[Modality, ...]:
        """`primary_order` without the modalities that are not synchronized."""
        return tuple(m for m in self.primary_order if m in self.modalities)

    @property
    def longest_wait(self) -> float:
        """Longest wait of a frame for its set in seconds: the largest `max_wait` plus `tolerance` of a modality."""
        waits = (self.nanoseconds("max_wait", m) + self.nanoseconds("tolerance", m) for m in self.modalities)
        return max(waits) / NANOSECONDS

    @property
    def oldest(self) -> float:
        """Largest age of a frame in seconds: `max_age`, at least `longest_wait` plus `DELAY_MARGIN_S`."""
        return max(self.max_age, self.longest_wait + DELAY_MARGIN_S)

    def nanoseconds(self, name: str, modality: Modality) -> int:
        """Nanoseconds of `tolerance` or `max_wait` for a modality."""
        value = getattr(self, name)
        if isinstance(value, Mapping):
            value = value.get(modality, getattr(SyncConfig, name))
        return round(value * NANOSECONDS)

    def offset_of(self, modality: Modality) -> int | None:
        """Offset for a modality's frames in nanoseconds; None to leave them unchanged."""
        value = self.offset.get(modality) if isinstance(self.offset, Mapping) else self.offset
        return None if value is None else round(value * NANOSECONDS)

    def _check_times(self, name: str, least: float) -> None:
        value = getattr(self, name)
        times = value if isinstance(value, Mapping) else dict.fromkeys(self.modalities, value)
        for modality, time in times.items():
            self._check_modality(modality, name)
            if not (isinstance(time, int | float) and math.isfinite(time) and time >= least):
                accepted = "a finite number" if least < 0 else "a finite number and not negative"
                raise ConfigError(f"{name} is {time!r}; a time in seconds must be {accepted}.")

    def _check_modality(self, modality: Modality, name: str) -> None:
        if modality not in self.modalities:
            raise ConfigError(f"{name} contains {modality!r}; the modalities are {', '.join(self.modalities)}.")
