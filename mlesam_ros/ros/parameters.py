"""The node's parameters: one dataclass states each one's name, type, default, range, meaning and when it may change."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, Modality
from mlesam_ros.geometry.camera import FITS
from mlesam_ros.messages import MESSAGE_TYPES
from mlesam_ros.sync import SyncConfig

START = "start"
"""Read once when the process starts; read-only to `ros2 param`."""
CONFIGURE = "configure"
"""Read by the configure transition; may be set while the node is unconfigured."""
LIVE = "live"
"""May be set at any time and acts on the next mask."""

AUTO = "auto"
PRECISIONS = (AUTO, "fp32", "bf16", "fp16")
NETWORK = "network"
RESOLUTIONS = (CAMERA, NETWORK)


def parameter(
    default: Any, text: str, change: str = CONFIGURE, low: float | None = None, high: float | None = None
) -> Any:
    """A dataclass field that is a ROS parameter.

    Args:
        default: its value where nobody sets it; its type is the parameter's.
        text: one line for `ros2 param describe`.
        change: START, CONFIGURE or LIVE.
        low: least value of a number.
        high: greatest value of a number.
    """
    meta = {"text": text, "change": change, "range": None if low is None or high is None else (low, high)}
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class SensorParameters:
    """One sensor. Topics are relative, so that a namespace moves them and remapping works."""

    topic: str = parameter("", "Topic it is read from.")
    type: str = parameter(AUTO, "Message type, such as sensor_msgs/msg/Image; auto takes what the publisher sends.")
    frame_id: str = parameter("", "TF frame used instead of the one in its messages; empty: theirs.")
    required: bool = parameter(False, "No mask without it.")
    tolerance: float = parameter(0.06, "s its stamp may differ from the mask's.", low=0.0, high=10.0)
    offset: float = parameter(0.0, "s its stamps are late (positive) or early by construction.", low=-10.0, high=10.0)
    rate: float = parameter(
        0.0, "Hz expected of it; /diagnostics warns below four fifths of it. 0: unknown.", LIVE, low=0.0, high=10000.0
    )
    skew: float = parameter(
        0.0,
        "s that its stamps are expected to differ from the masks' at most, in the median; /diagnostics warns beyond. "
        "0: unknown.",
        LIVE,
        low=0.0,
        high=10.0,
    )


@dataclass(frozen=True)
class PictureParameters(SensorParameters):
    """A sensor with pixels, which has a lens."""

    info_topic: str = parameter("", "Topic of its CameraInfo.")
    rectified: bool = parameter(False, "Its pictures are rectified: P and R of CameraInfo count, not K and D.")
    fit: str = parameter("", f"How pictures of another size than CameraInfo's come from it: {', '.join(FITS)}.")
    picture_size: tuple[int, ...] = parameter((0, 0), "Width and height of those pictures; 0, 0 without fit.")


@dataclass(frozen=True)
class NodeParameters:
    """Everything that can be set on the node."""

    autostart: bool = parameter(True, "Configure and activate at start, without a lifecycle manager.", START)
    checkpoint: str = parameter(
        "",
        "Expert weights (.safetensors); empty: the shipped street weights. While the node is configured, another on "
        "the same backbone, with the same sensors and classes.",
        LIVE,
    )
    base_weights: str = parameter("", "Frozen backbone weights; empty: those that the checkpoint names, as shipped.")
    device: str = parameter(AUTO, "cpu, cuda, cuda:1 and so on; auto takes the first GPU, else the CPU.")
    precision: str = parameter(AUTO, "auto, fp32, bf16 or fp16; auto takes bf16 where the device multiplies in it.")
    threads: int = parameter(0, "CPU threads of the network; 0 takes half of the cores.", low=0, high=256)
    calibration_file: str = parameter("", "Rig file for what CameraInfo and TF do not say; empty: none.")
    modalities: tuple[str, ...] = parameter(MODALITIES, "Sensors that are listened to.", LIVE)
    primary_order: tuple[str, ...] = parameter(
        (CAMERA, LIDAR, DEPTH, EVENT), "Whose stamp a mask takes: the first of these that is alive."
    )
    primary_timeout: float = parameter(0.35, "s of silence after which the next takes over.", low=0.01, high=60.0)
    patience: float = parameter(0.05, "s to wait for the others once the primary is there.", low=0.0, high=10.0)
    sensor_timeout: float = parameter(1.0, "s of silence that /diagnostics reports.", LIVE, low=0.1, high=3600.0)
    calibration_timeout: float = parameter(
        10.0,
        "s that CameraInfo and transforms may take after activation before they count as missing.",
        LIVE,
        low=0.0,
        high=3600.0,
    )
    labels_resolution: str = parameter(
        CAMERA,
        "Size of the mask: camera for the camera's, network for that of the network's pictures.",
        LIVE,
    )
    confidence_threshold: float = parameter(
        0.0, "Pixels whose winning class is less probable than this are unlabelled (255).", LIVE, low=0.0, high=1.0
    )
    overlay_alpha: float = parameter(0.5, "Weight of the colours in ~/overlay.", LIVE, low=0.0, high=1.0)
    snapshot_seconds: float = parameter(
        0.0, "s of sensor messages kept in memory for ~/save_snapshot; 0 keeps none.", low=0.0, high=600.0
    )
    snapshot_megabytes: int = parameter(500, "Most memory that these may take.", low=1, high=1_000_000)
    snapshot_folder: str = parameter("", "Where ~/save_snapshot puts its bags; empty: the process's working folder.")
    camera: PictureParameters = PictureParameters(topic="camera/image_raw", info_topic="camera/camera_info")
    depth: PictureParameters = PictureParameters(topic="depth/image_raw", info_topic="depth/camera_info")
    event: PictureParameters = PictureParameters(topic="events", info_topic="events/camera_info")
    lidar: SensorParameters = SensorParameters(topic="lidar/points")

    def sensor(self, modality: Modality) -> SensorParameters:
        """The parameters of one sensor."""
        found: SensorParameters = getattr(self, modality)
        return found

    def check(self) -> None:
        """Refuse what types and ranges alone do not catch.

        Raises:
            ConfigError: names the parameter, its value and what is accepted.
        """
        _check_names("modalities", self.modalities)
        _check_names("primary_order", self.primary_order)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("labels_resolution", self.labels_resolution, RESOLUTIONS)
        kind, _, index = self.device.partition(":")
        if kind not in (AUTO, "cpu", "cuda") or (":" in self.device and not index.isdigit()):
            raise ConfigError(f"device is {self.device!r}; accepted are auto, cpu, cuda and cuda:<number>.")
        for modality in MODALITIES:
            self._check_sensor(modality, self.sensor(modality))

    def _check_sensor(self, modality: Modality, sensor: SensorParameters) -> None:
        if not sensor.topic:
            raise ConfigError(f"{modality}.topic is empty; to do without the sensor take it out of modalities.")
        _check_choice(f"{modality}.type", sensor.type, (AUTO, *MESSAGE_TYPES[modality]))
        if isinstance(sensor, PictureParameters):
            if sensor.fit:
                _check_choice(f"{modality}.fit", sensor.fit, FITS)
            size = sensor.picture_size
            if len(size) != 2 or (min(size) <= 0 if sensor.fit else any(size)):
                raise ConfigError(
                    f"{modality}.picture_size is {list(size)} with {modality}.fit {sensor.fit!r}; it is "
                    "the width and height of the pictures with a fit, and 0, 0 without."
                )


def _check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value in accepted:
        return
    near = difflib.get_close_matches(value, accepted, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise ConfigError(f"{name} is {value!r}; accepted are {', '.join(accepted)}{hint}")


def _check_names(name: str, values: tuple[str, ...]) -> None:
    if not values or len(set(values)) != len(values):
        raise ConfigError(f"{name} is {list(values)}; it needs at least one of {', '.join(MODALITIES)}, each once.")
    for value in values:
        _check_choice(name, value, MODALITIES)


def sync_config(parameters: NodeParameters, modalities: tuple[Modality, ...]) -> SyncConfig:
    """How the node brings the frames of these sensors together."""
    return SyncConfig(
        modalities=modalities,
        primary_order=parameters.primary_order,
        primary_timeout=parameters.primary_timeout,
        tolerance={m: parameters.sensor(m).tolerance for m in modalities},
        offset={m: parameters.sensor(m).offset for m in modalities},
        patience=parameters.patience,
        required=tuple(m for m in modalities if parameters.sensor(m).required),
    )


# The dataclass on a node


def flat(parameters: type | Any = NodeParameters, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """(name, field, default or value) of every parameter, sensors as `camera.topic`.

    Args:
        parameters: the dataclass for its defaults, or an instance for its values.
        prefix: put before each name.
    """
    instance = parameters() if isinstance(parameters, type) else parameters
    for entry in fields(instance):
        value = getattr(instance, entry.name)
        if is_dataclass(value):
            yield from flat(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, entry, value


def declare(node: Node) -> NodeParameters:
    """Declare every parameter on a node, with its description and range, and read what was given.

    Raises:
        ConfigError: a value is not accepted.
        rclpy.exceptions.InvalidParameterTypeException: a value has the wrong type.
        rclpy.exceptions.InvalidParameterValueException: a number is out of its range.
    """
    for name, entry, default in flat():
        value = list(default) if isinstance(default, tuple) else default
        node.declare_parameter(name, value, _descriptor(entry, default))
    parameters = read(node)
    parameters.check()
    return parameters


def read(node: Node, changes: Mapping[str, Any] | None = None) -> NodeParameters:
    """The node's parameters as they are, or as they would be with some changes."""
    changes = changes or {}
    values: dict[str, Any] = {}
    for name, _, default in flat():
        value = changes[name] if name in changes else node.get_parameter(name).value
        values[name] = tuple(value) if isinstance(default, tuple) else value
    return _build(values)


def change_of(name: str) -> str | None:
    """START, CONFIGURE or LIVE; None where no parameter of ours has that name."""
    return next((str(entry.metadata["change"]) for known, entry, _ in flat() if known == name), None)


def unknown_names(given: Iterator[str] | list[str]) -> list[str]:
    """One sentence for each name that no parameter has, with the nearest that exists."""
    known = [name for name, _, _ in flat()]
    foreign = [name for name in given if name not in known and not name.startswith(("qos_overrides.", "use_sim_time"))]
    sentences = []
    for name in foreign:
        near = difflib.get_close_matches(name, known, 1)
        sentences.append(f"parameter {name} does not exist" + (f"; did you mean {near[0]}?" if near else "."))
    return sentences


def _build(values: Mapping[str, Any]) -> NodeParameters:
    sensors = {}
    for modality in MODALITIES:
        start = f"{modality}."
        own = {name[len(start) :]: value for name, value in values.items() if name.startswith(start)}
        sensors[modality] = type(getattr(NodeParameters, modality))(**own)
    return NodeParameters(**{n: v for n, v in values.items() if "." not in n}, **sensors)


WHEN = {
    START: "Read once at start.",
    CONFIGURE: "Read by configure; may be set while the node is unconfigured.",
    LIVE: "May be set at any time.",
}


def _descriptor(entry: Field[Any], default: Any) -> ParameterDescriptor:
    meta = entry.metadata
    descriptor = ParameterDescriptor(description=meta["text"], read_only=meta["change"] == START)
    descriptor.additional_constraints = WHEN[meta["change"]]
    if meta["range"] is not None:
        low, high = meta["range"]
        if isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    return descriptor
