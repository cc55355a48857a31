# SPDX-License-Identifier: Apache-2.0
"""Groups of ROS parameters: those of each sensor, of the points for costmaps and of the aligned images.

Each dataclass field is a ROS parameter with its name, type, default, range, description and mutability.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlesam_ros.geometry.camera import FITS
from mlesam_ros.messages import FrameReader
from mlesam_ros.preprocessing.base import DEPTH_UNIT_RANGE, EVENT_WINDOW_RANGE, INTENSITY_SCALE_RANGE, Preprocessing
from mlesam_ros.preprocessing.point_cloud import GATHER_AUTO, TIME_UNITS
from mlesam_ros.preprocessing.preprocessors import PREPROCESSORS
from mlesam_ros.sync import SyncConfig
from mlesam_ros.types import AUTO, DEPTH, EVENT, LIDAR, Modality

START = "start"
"""Read once when the process starts; read-only to `ros2 param`."""
CONFIGURE = "configure"
"""Read by the configure transition; may be set while the node is unconfigured."""
LIVE = "live"
"""May be set at any time and acts on the next mask."""

REPRESENTATIONS = tuple(name for name, preprocessor in PREPROCESSORS.items() if preprocessor.modality == EVENT)
"""Event preprocessors."""


def parameter(
    default: Any,
    text: str,
    change: str = CONFIGURE,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    path: bool = False,
    encoding: bool = True,
) -> Any:
    """Declare a dataclass field that is a ROS parameter.

    Args:
        default: default value; its type is the parameter's.
        text: one line for `ros2 param describe`.
        change: START, CONFIGURE or LIVE.
        low: minimum of a number.
        high: maximum of a number.
        choices: accepted texts, each entry of a list at most once; empty for any.
        path: the text is the path of a file or folder; a relative one starts at the working directory.
        encoding: whether a bag's cached training images depend on it, so that a change of it preprocesses the bag
            again.
    """
    limits = None if low is None or high is None else (low, high)
    facts = {"text": text, "change": change, "range": limits, "choices": choices, "path": path, "encoding": encoding}
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class SensorParameters:
    """Parameters of one sensor. Topics are relative, so that namespaces and remapping apply."""

    topic: str = parameter("", "Topic of its messages.")
    type: str = parameter(AUTO, "Message type, as sensor_msgs/msg/Image; auto: the publisher's.")
    frame_id: str = parameter("", "TF frame; empty: that in its messages.")
    required: bool = parameter(False, "No mask is made without it.")
    tolerance: float = parameter(
        SyncConfig.tolerance, "Maximum difference between its stamp and the mask's in s.", low=0.0, high=10.0
    )
    offset: float = parameter(0.0, "Error of its stamps in s, positive if late.", low=-1e10, high=1e10)
    max_wait: float = parameter(-1.0, "Maximum wait for it in s; negative: max_wait of the node.", low=-1.0, high=10.0)
    rate: float = parameter(
        0.0, "Expected rate in Hz; a warning below 80 % of it. 0: unknown.", LIVE, low=0.0, high=10000.0,
        encoding=False,
    )  # fmt: skip
    skew: float = parameter(
        0.0,
        "Expected difference between its stamps and the masks' in s; a warning if the median is larger. 0: unknown.",
        LIVE,
        low=0.0,
        high=10.0,
        encoding=False,
    )


@dataclass(frozen=True)
class CameraParameters(SensorParameters):
    """Parameters of a sensor with pixels and a lens."""

    info_topic: str = parameter("", "Topic of its CameraInfo.")
    rectified: bool = parameter(False, "Its images are rectified: P and R of CameraInfo apply.")
    fit: str = parameter("", "How images of another size derive from CameraInfo's.", choices=("", *FITS))
    picture_size: tuple[int, ...] = parameter((0, 0), "Width and height of the images with a fit.", low=0, high=65535)


@dataclass(frozen=True)
class ColorParameters(CameraParameters):
    """Parameters of the camera."""

    significant_bits: int = parameter(
        0, "Bits in use of 16-bit samples: 8, 10, 12, 14 or 16; 0: by the largest sample so far.", low=0, high=16
    )


@dataclass(frozen=True)
class DepthParameters(CameraParameters):
    """Parameters of the depth camera."""

    unit: float = parameter(
        0.0,
        "Meters per count, at least 1e-6; 0: 0.001 for integers, 1 for floats.",
        low=0.0,
        high=DEPTH_UNIT_RANGE[1],
    )
    gravity: str = parameter(
        AUTO,
        "Source of gravity for hha: auto, tf, normals, or a direction in the optical frame, as '0, 1, 0'.",
    )


@dataclass(frozen=True)
class EventParameters(CameraParameters):
    """Parameters of the event camera."""

    window: float = parameter(
        0.0,
        "Duration of an image in s, at least 0.001; 0: that of the checkpoint.",
        low=0.0,
        high=EVENT_WINDOW_RANGE[1],
    )
    representation: str = parameter(
        AUTO, "Preprocessor; auto: that of the checkpoint.", choices=(AUTO, *REPRESENTATIONS)
    )


@dataclass(frozen=True)
class LidarParameters(SensorParameters):
    """Parameters of the LiDAR."""

    time_unit: str = parameter(
        AUTO,
        "Unit of the points' times; auto: that which puts the sweep around its stamp.",
        choices=(AUTO, *TIME_UNITS),
    )
    gather: float = parameter(
        GATHER_AUTO,
        "Duration in s of a sweep that is sent in pieces; 0: a message is a sweep; negative: by the azimuths.",
        low=-1.0,
        high=10.0,
    )
    intensity_field: str = parameter(AUTO, "Field of the intensity; auto: the first of the usual names.")
    intensity_scale: float = parameter(
        0.0, "Full value of the intensity, at least 1e-6; 0: 1, 255 or 65535 by type and range.",
        low=0.0, high=INTENSITY_SCALE_RANGE[1],
    )  # fmt: skip


@dataclass(frozen=True)
class NavigationParameters:
    """Parameters of the points for costmaps."""

    obstacle_classes: tuple[str, ...] = parameter(
        (AUTO,), "Classes of ~/obstacle_points; [auto]: those of the label space.", LIVE, encoding=False
    )
    ground_classes: tuple[str, ...] = parameter(
        (AUTO,), "Classes of ~/ground_points; [auto]: those of the label space.", LIVE, encoding=False
    )
    sensors: tuple[str, ...] = parameter(
        (LIDAR, DEPTH),
        "Sensors of both clouds; the frame is that of the first in the mask.",
        LIVE,
        choices=(LIDAR, DEPTH),
        encoding=False,
    )
    min_confidence: float = parameter(
        0.0, "Pixels of a lower probability give no points.", LIVE, low=0.0, high=1.0, encoding=False
    )
    max_range: float = parameter(
        20.0, "Maximum distance from the camera in m.", LIVE, low=0.1, high=1000.0, encoding=False
    )
    voxel_size: float = parameter(
        0.0,
        "Side in m of cubes with at most one point of each cloud; 0: all points.",
        LIVE,
        low=0.0,
        high=10.0,
        encoding=False,
    )


@dataclass(frozen=True)
class AlignedParameters:
    """Parameters of the aligned labels, confidence and points."""

    width: int = parameter(
        320, "Columns of ~/aligned/*, at most those of the camera.", LIVE, low=16, high=4096, encoding=False
    )


def data_settings(sensor: SensorParameters) -> dict[str, Any]:
    """Fields of `Preprocessing` that one sensor's parameters set."""
    if isinstance(sensor, ColorParameters):
        return {"significant_bits": sensor.significant_bits}
    if isinstance(sensor, DepthParameters):
        return {"depth_unit": sensor.unit, "gravity": sensor.gravity}
    if isinstance(sensor, EventParameters):
        return {"event_window": sensor.window, "event_representation": sensor.representation}
    if isinstance(sensor, LidarParameters):
        names = ("time_unit", "gather", "intensity_field", "intensity_scale")
        return {name: getattr(sensor, name) for name in names}
    return {}


def frame_reader(
    sensor: SensorParameters, modality: Modality, type_name: str, event_window: float = 0.0
) -> FrameReader:
    """Build the reader of a sensor's messages of one type, with the settings of its parameters.

    Args:
        sensor: its parameters.
        modality: the sensor.
        type_name: message type.
        event_window: seconds of events where the parameter is 0: the checkpoint's training value.
    """
    values = data_settings(sensor)
    if "event_window" in values:
        values["event_window"] = values["event_window"] or event_window
    return FrameReader(modality, type_name, Preprocessing(**values), sensor.offset)
