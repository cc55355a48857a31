"""What a user can tell the synchronizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlesam_ros.errors import ConfigError
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, NANOSECONDS, Modality

DELAYS = 0.5
"""Seconds that delays of sensors may differ by, which a frame waits besides `longest_wait`."""
Seconds = float | Mapping[Modality, float]
"""One number for all modalities, or one for each that differs from the default."""


@dataclass(frozen=True)
class SyncConfig:
    """How frames are brought together. All times in seconds.

    Attributes:
        modalities: those that are synchronized, in the model's order.
        primary_order: who opens the sets, and who when that one is silent; modalities that are not synchronized are
            skipped.
        primary_timeout: silence after which a modality counts as dead: it is not waited for, and the primary fails
            over. One that is slower by nature is given one and a half of its own periods.
        tolerance: farthest a partner may lie from the primary, per modality.
        offset: what a modality's stamps are late by, per modality, in place of its frames' own `offset`; None, or a
            modality that is not named, leaves the frames as they are.
        max_wait: longest a set waits for a modality after its primary came, per modality.
        required: modalities without which there is no set; all others are optional.
        history: longest a frame waits for a primary that belongs to it; never less than `longest_wait` and `DELAYS`.
        max_age, max_future: times farther from now are refused as another clock's; the first as for history.
        capacity: most frames that wait per modality and second of history.
    """

    modalities: tuple[Modality, ...] = MODALITIES
    primary_order: tuple[Modality, ...] = (CAMERA, LIDAR, DEPTH, EVENT)
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
        """Refuse what cannot work.

        Raises:
            ConfigError: a modality that is not synchronized, or a number out of range.
        """
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ConfigError(f"modalities are {list(self.modalities)}.", "Name at least one, and each once.")
        for modality in self.required:
            self._known(modality, "required")
        for modality in set(self.primary_order) - set(MODALITIES):
            self._known(modality, "primary_order")
        if not self.order:
            raise ConfigError(
                f"primary_order {list(self.primary_order)} names none of the modalities {list(self.modalities)}."
            )
        for name in ("primary_timeout", "tolerance", "max_wait", "history", "max_age", "max_future"):
            self._check_times(name, least=0.0)
        if self.offset is not None:
            self._check_times("offset", least=-math.inf)
        if self.capacity < 1:
            raise ConfigError(f"capacity is {self.capacity}; at least 1 frame must be able to wait.")

    @property
    def order(self) -> tuple[Modality, ...]:
        """`primary_order` without the modalities that are not synchronized."""
        return tuple(m for m in self.primary_order if m in self.modalities)

    @property
    def longest_wait(self) -> float:
        """Seconds that a frame may have to wait for its set: the longest max_wait and tolerance of a modality."""
        waits = (self.nanoseconds("max_wait", m) + self.nanoseconds("tolerance", m) for m in self.modalities)
        return max(waits) / NANOSECONDS

    @property
    def oldest(self) -> float:
        """Seconds that a frame's time may lie behind now: `max_age`, or more where frames wait for longer."""
        return max(self.max_age, self.longest_wait + DELAYS)

    def nanoseconds(self, name: str, modality: Modality) -> int:
        """The value of `tolerance` or `max_wait` for a modality."""
        value = getattr(self, name)
        if isinstance(value, Mapping):
            value = value.get(modality, getattr(SyncConfig, name))
        return round(value * NANOSECONDS)

    def offset_of(self, modality: Modality) -> int | None:
        """Nanoseconds that a modality's frames are given as their offset; None to leave them as they are."""
        value = self.offset.get(modality) if isinstance(self.offset, Mapping) else self.offset
        return None if value is None else round(value * NANOSECONDS)

    def _check_times(self, name: str, least: float) -> None:
        value = getattr(self, name)
        times = value if isinstance(value, Mapping) else dict.fromkeys(self.modalities, value)
        for modality, time in times.items():
            self._known(modality, name)
            if not (isinstance(time, int | float) and math.isfinite(time) and time >= least):
                accepted = "a finite number" if least < 0 else "a finite number and not negative"
                raise ConfigError(f"{name} is {time!r}; a time in seconds must be {accepted}.")

    def _known(self, modality: Modality, name: str) -> None:
        if modality not in self.modalities:
            raise ConfigError(f"{name} names {modality!r}; the modalities are {', '.join(self.modalities)}.")
