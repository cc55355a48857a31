"""`~/status`: how one mask came about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlesam_ros.frame import NANOSECONDS, FrameSet, Modality, Segmentation
from mlesam_ros.msg import RouterWeight, SensorStatus, StageLatency, Status
from mlesam_ros.ros.conversions import header


@dataclass(frozen=True)
class Times:
    """When a mask was where.

    Attributes:
        received, taken, published: ROS time in nanoseconds at which the primary's message was received, the set handed
            out and the mask published; received is None where that is not known.
        publishing: seconds that publishing took.
    """

    received: int | None
    taken: int
    published: int
    publishing: float


@dataclass(frozen=True)
class Provenance:
    """One mask and the times it went through.

    Attributes:
        segmentation: the mask.
        frame_set: what it was made from, unusable frames already taken out.
        sequence: masks since activation, this one included.
        times: when it was where.
    """

    segmentation: Segmentation
    frame_set: FrameSet
    sequence: int
    times: Times

    @property
    def latencies(self) -> dict[str, float]:
        """Stage → seconds.

        They are: until the primary's message was received, until its set was handed out, the pipeline's stages,
        publishing; and the whole way. The first two and the last are ROS time, since stamps are; the others are the
        machine's, whatever a simulated clock does meanwhile.
        """
        stamp, times = self.segmentation.stamp, self.times
        received = stamp if times.received is None else times.received
        return {
            "receive": _seconds(received - stamp),
            "synchronise": _seconds(times.taken - received),
            **self.segmentation.timings,
            "publish": times.publishing,
            "stamp_to_mask": _seconds(times.published - stamp),
        }


def status_message(
    mask: Provenance, topics: Mapping[Modality, str], counters: Mapping[Modality, Mapping[str, int]]
) -> Status:
    """Everything about one mask.

    Args:
        mask: the mask.
        topics: the resolved topic of every configured sensor.
        counters: what became of each sensor's messages, with the keys of `Synchroniser.counters`.
    """
    return Status(
        header=header(mask.segmentation.stamp, mask.segmentation.frame_id),
        primary=mask.frame_set.primary,
        sequence=mask.sequence,
        sensors=[_sensor(mask, modality, topic, counters[modality]) for modality, topic in topics.items()],
        latencies=[StageLatency(stage=stage, seconds=seconds) for stage, seconds in mask.latencies.items()],
    )


def _sensor(mask: Provenance, modality: Modality, topic: str, counts: Mapping[str, int]) -> SensorStatus:
    used = modality in mask.segmentation.used
    age = _seconds(mask.times.published - mask.frame_set.frames[modality].stamp) if used else math.nan
    weights = [
        RouterWeight(level=level, weight=float(weight[modality]))
        for level, weight in mask.segmentation.weights.items()
        if modality in weight
    ]
    return SensorStatus(
        modality=modality,
        topic=topic,
        used=used,
        skew=_seconds(mask.frame_set.skews[modality]) if used else math.nan,
        age=age,
        weights=weights if used else [],
        received=counts["received"],
        used_total=counts["used"],
        superseded=counts["superseded"],
        late=counts["late"],
        unmatched=counts["unmatched"],
        refused=counts["refused"],
    )


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / NANOSECONDS
