"""`~/status`: how one mask came about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlesam_ros.frame import NANOSECONDS, FrameSet, Modality, Segmentation
from mlesam_ros.msg import RouterWeight, SensorStatus, StageLatency, Status
from mlesam_ros.ros.conversions import header


@dataclass(frozen=True)
class Provenance:
    """One mask and the times it went through.

    Attributes:
        segmentation: the mask.
        frame_set: what it was made from, unusable frames already taken out.
        sequence: masks since activation, this one included.
        taken, published: ROS time in nanoseconds at which the set was handed out and the mask published.
        publishing: seconds that publishing took.
    """

    segmentation: Segmentation
    frame_set: FrameSet
    sequence: int
    taken: int
    published: int
    publishing: float

    @property
    def latencies(self) -> dict[str, float]:
        """Stage → seconds: waiting for the set, the pipeline's stages, publishing; and the whole way.

        The first and the last are ROS time, since stamps are; the others are the machine's, whatever a simulated clock
        does meanwhile.
        """
        return {
            "synchronise": _seconds(self.taken - self.segmentation.stamp),
            **self.segmentation.timings,
            "publish": self.publishing,
            "stamp_to_mask": _seconds(self.published - self.segmentation.stamp),
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
    age = _seconds(mask.published - mask.frame_set.frames[modality].stamp) if used else math.nan
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
