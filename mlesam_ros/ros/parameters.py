"""The node's parameters: one dataclass states each one's name, type, default, range, meaning and when it may change."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, Modality
from mlesam_ros.geometry.camera import FITS
from mlesam_ros.messages import MESSAGE_TYPES
from mlesam_ros.ros.accepted import Accepted
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
    default: Any,
    text: str,
    change: str = CONFIGURE,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that is a ROS parameter.

    Args:
        default: its value where nobody sets it; its type is the parameter's.
        text: one line for `ros2 param describe`.
        change: START, CONFIGURE or LIVE.
        low: least value of a number.
        high: greatest value of a number.
        choices: the only texts that are accepted, each of a list's once; any where there are none.
    """
    limits = None if low is None or high is None else (low, high)
    return field(default=default, metadata={"text": text, "change": change, "range": limits, "choices": choices})


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
    fit: str = parameter("", "How pictures of another size than CameraInfo's come from it.", choices=("", *FITS))
    picture_size: tuple[int, ...] = parameter(
        (0, 0), "Width and height of those pictures; 0, 0 without fit.", low=0, high=65535
    )


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
    precision: str = parameter(
        AUTO, "Of the network; auto takes bf16 where the device multiplies in it.", choices=PRECISIONS
    )
    threads: int = parameter(0, "CPU threads of the network; 0 takes half of the cores.", low=0, high=256)
    calibration_file: str = parameter("", "Rig file for what CameraInfo and TF do not say; empty: none.")
    modalities: tuple[str, ...] = parameter(MODALITIES, "Sensors that are listened to.", LIVE, choices=MODALITIES)
    primary_order: tuple[str, ...] = parameter(
        (CAMERA, LIDAR, DEPTH, EVENT),
        "Whose stamp a mask takes: the first of these that is alive.",
        choices=MODALITIES,
    )
    primary_timeout: float = parameter(0.35, "s of silence after which the next takes over.", low=0.01, high=60.0)
    patience: float = parameter(0.05, "s to wait for the others once the primary is there.", low=0.0, high=10.0)
    sensor_timeout: float = parameter(
        0.6, "s of silence, or from stamp to receipt, that /diagnostics reports.", LIVE, low=0.1, high=3600.0
    )
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
        choices=RESOLUTIONS,
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
        """Refuse what no parameter's own type, range and choices catch.

        Raises:
            ConfigError: names the parameter, its value and what is accepted.
        """
        if not re.fullmatch(f"{AUTO}|cpu|cuda(:[0-9]+)?", self.device):
            raise ConfigError(f"device is {self.device!r}; accepted are auto, cpu, cuda and cuda:<number>.")
        for modality in MODALITIES:
            if not self.sensor(modality).topic:
                raise ConfigError(f"{modality}.topic is empty; to do without the sensor take it out of modalities.")

    def check_together(self) -> None:
        """Refuse what does not go together, though each may be set on the way to what does.

        Raises:
            ConfigError: names the parameters, their values and what is accepted.
        """
        for modality in MODALITIES:
            sensor = self.sensor(modality)
            if isinstance(sensor, PictureParameters):
                size = sensor.picture_size
                if min(size) <= 0 if sensor.fit else any(size):
                    raise ConfigError(
                        f"{modality}.picture_size is {list(size)} with {modality}.fit {sensor.fit!r}; it is the width "
                        "and height of the pictures with a fit, and 0, 0 without."
                    )


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

_USE_SIM_TIME = Accepted("use_sim_time", False)
"""Declared and read by rclpy, which refuses without a name and a value."""


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


def accepted(name: str, entry: Field[Any], default: Any) -> Accepted:
    """What a parameter of `flat` accepts."""
    modality, _, short = name.rpartition(".")
    choices = (AUTO, *MESSAGE_TYPES[modality]) if short == "type" else entry.metadata["choices"]
    return Accepted(name, default, entry.metadata["range"], choices, topic=short in ("topic", "info_topic"))


def declare(node: Node) -> NodeParameters:
    """Declare every parameter on a node, with its description and range, and read what was given.

    Raises:
        ConfigError: a value is not accepted; nothing has been declared then.
    """
    given = {name: override.value for name, override in node._parameter_overrides.items()}
    known = {name: (accepted(name, entry, default), entry) for name, entry, default in flat()}
    values = {name: a.take(given[name]) if name in given else a.default for name, (a, _) in known.items()}
    parameters = _build(values)
    parameters.check()
    parameters.check_together()
    for name, (limits, entry) in known.items():
        node.declare_parameter(name, _plain(values[name]), _descriptor(entry, limits), ignore_override=True)
    return parameters


def cast(node: Node, change: Parameter[Any]) -> Parameter[Any]:
    """A change of a node's parameter as the type that was declared: 5 for 5.0; not ours as it is.

    Raises:
        ConfigError: the value is not accepted, or there is no such parameter, or it is read once at start.
    """
    found = next(((entry, default) for name, entry, default in flat() if name == change.name), None)
    if found is not None:
        if found[0].metadata["change"] == START:
            raise ConfigError(
                f"{change.name} is read once at start; give it on the command line or in the parameter file, and start "
                "the node again."
            )
        limits = accepted(change.name, *found)
    elif change.name == _USE_SIM_TIME.name:
        limits = _USE_SIM_TIME
    elif node.has_parameter(change.name):
        return change
    else:
        raise ConfigError(_unknown(change.name))
    return Parameter(change.name, limits.ros_type, _plain(limits.take(change.value)))


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


def unknown_names(given: Iterable[str]) -> list[str]:
    """One sentence for each name that no parameter has, with the nearest that exists."""
    known = {name for name, _, _ in flat()}
    return [_unknown(n) for n in given if n not in known and not n.startswith(("qos_overrides.", "use_sim_time"))]


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, [known for known, _, _ in flat()], 1)
    return f"parameter {name} does not exist" + (f"; did you mean {near[0]}?" if near else ".")


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


def _descriptor(entry: Field[Any], limits: Accepted) -> ParameterDescriptor:
    meta = entry.metadata
    descriptor = ParameterDescriptor(description=meta["text"], read_only=meta["change"] == START)
    said = f"Accepted are {limits.words}. " if limits.choices else ""
    descriptor.additional_constraints = said + WHEN[meta["change"]]
    if limits.limits is not None:
        low, high = limits.limits
        if isinstance(limits.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        else:
            span = FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
            descriptor.floating_point_range = [span]
    return descriptor


def _plain(value: Any) -> Any:
    """As ROS has it: lists, not tuples."""
    return list(value) if isinstance(value, tuple) else value
