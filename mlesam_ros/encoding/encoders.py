"""The encoders by name, and a whole set encoded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from mlesam_ros.encoding.context import Context
from mlesam_ros.encoding.deliver_lidar import DeliverLidar
from mlesam_ros.encoding.encoder import Encoder, Image
from mlesam_ros.encoding.event_counts import EventCounts
from mlesam_ros.encoding.hha import Hha
from mlesam_ros.encoding.log_depth import LogDepth
from mlesam_ros.encoding.picture import MILLIMETRE
from mlesam_ros.encoding.range_intensity_height import RangeIntensityHeight
from mlesam_ros.encoding.rgb import Rgb
from mlesam_ros.encoding.time_surface import TimeSurface
from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import CAMERA, DEPTH, EVENT, LIDAR, FrameSet, Modality
from mlesam_ros.geometry.rig import Rig

ENCODERS: dict[str, type[Encoder]] = {
    cls.name: cls for cls in (Rgb, LogDepth, Hha, EventCounts, TimeSurface, RangeIntensityHeight, DeliverLidar)
}
"""Name → class; called without arguments it makes an encoder with the stated defaults."""

DEFAULT_ENCODERS: dict[Modality, str] = {
    CAMERA: Rgb.name,
    DEPTH: LogDepth.name,
    EVENT: EventCounts.name,
    LIDAR: RangeIntensityHeight.name,
}


def make_encoders(names: Mapping[Modality, str]) -> dict[Modality, Encoder]:
    """Encoders with their defaults.

    Args:
        names: modality → encoder name, such as `DEFAULT_ENCODERS` or a model's configuration.

    Raises:
        ConfigError: no encoder has that name, or it reads another modality.
    """
    encoders = {}
    for modality, name in names.items():
        if name not in ENCODERS:
            near = difflib.get_close_matches(name, ENCODERS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"no encoder is called {name!r}; {hint}accepted are {', '.join(ENCODERS)}.")
        if ENCODERS[name].modality != modality:
            raise ConfigError(f"encoder {name} reads {ENCODERS[name].modality}, not {modality}; choose another.")
        encoders[modality] = ENCODERS[name]()
    return encoders


def encode(
    frame_set: FrameSet, rig: Rig, size: tuple[int, int], encoders: Mapping[Modality, Encoder]
) -> dict[Modality, Image]:
    """Encode the frames of a set, in the encoders' order; frames without an encoder are passed over.

    Args:
        frame_set: the frames.
        rig: as for `Encoder`.
        size: (h, w) of the network's pictures.
        encoders: modality → encoder.

    Returns:
        modality → (3, h, w) float32.

    Raises:
        MlesamError: a frame cannot be encoded. Encode the others by leaving it out of the set.
    """
    frames, context, rig = frame_set.frames, make_context(frame_set, encoders), rig.of_set(frame_set)
    return {
        modality: encoder(frames[modality], rig, size, context)
        for modality, encoder in encoders.items()
        if modality in frames
    }


def make_context(frame_set: FrameSet, encoders: Mapping[Modality, Encoder]) -> Context:
    """What surrounds the frames of a set, depth pictures read in the unit that the depth encoder reads them in."""
    return Context(frame_set, getattr(encoders.get(DEPTH), "unit", MILLIMETRE))
