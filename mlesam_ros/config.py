# SPDX-License-Identifier: Apache-2.0
"""ROS parameters of the sensors and the network, shared by node, evaluation, training from bags, doctor and play."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlesam_ros.errors import ConfigError, shorten
from mlesam_ros.geometry.rig import Rig, load_rig
from mlesam_ros.parameter_file import ParameterSpec, ineffective_rules, read_node_parameters, section_warnings
from mlesam_ros.parameter_groups import (
    LIVE,
    START,
    AlignedParameters,
    CameraParameters,
    ColorParameters,
    DepthParameters,
    EventParameters,
    LidarParameters,
    NavigationParameters,
    SensorParameters,
    data_settings,
    parameter,
)
from mlesam_ros.preprocessing.base import Preprocessing
from mlesam_ros.sync import SyncConfig
from mlesam_ros.types import AUTO, CAMERA, LIDAR, MESSAGE_TYPES, MODALITIES, NODE, Modality

PRECISIONS = (AUTO, "fp32", "bf16", "fp16")
RUNTIMES = (AUTO, "torch", "onnx", "openvino")
NETWORK = "network"
RESOLUTIONS = (CAMERA, NETWORK)
_RCLPY_PARAMETERS = ("qos_overrides.", "use_sim_time", "start_type_description_service")
"""Parameters that rclpy declares."""


@dataclass(frozen=True)
class NodeParameters:
    """All parameters of the node.

    Attributes:
        given: names set by a file or an override; not a parameter.
        overridden: names set by an override; not a parameter.
        warnings: one sentence for each setting without effect; not a parameter.
        node: full name of the node, which resolves relative topics; not a parameter.
        by_camera: camera → its parameters, if `cameras` names any; not a parameter.
    """

    autostart: bool = parameter(
        True, "Configure and activate at start, without a lifecycle manager.", START, encoding=False
    )
    checkpoint: str = parameter(
        "",
        "Expert weights (.safetensors); empty: the shipped street weights. Live: only for the same backbone, sensors "
        "and classes.",
        LIVE,
        path=True,
        encoding=False,
    )
    base_weights: str = parameter(
        "",
        "Backbone weights: a file, or a name of mlesam weights; empty: the shipped ones.",
        path=True,
        encoding=False,
    )
    device: str = parameter(AUTO, "cpu, cuda, cuda:1, ...; auto: the first GPU, else the CPU.", encoding=False)
    precision: str = parameter(
        AUTO,
        "Precision of the network; auto: bf16 where it is faster, else fp32.",
        choices=PRECISIONS,
        encoding=False,
    )
    runtime: str = parameter(
        AUTO,
        "Runtime of the network; auto: on a CPU openvino if there is an int8 file of mlesam export, else torch.",
        choices=RUNTIMES,
        encoding=False,
    )
    threads: int = parameter(
        0,
        "CPU threads of the network; 0: half of the cores, with several cameras all.",
        low=0,
        high=256,
        encoding=False,
    )
    calibration_file: str = parameter("", "Rig file for calibration that CameraInfo and TF lack.", path=True)
    cameras: tuple[str, ...] = parameter(
        ("",),
        "Names of several cameras, each with masks under ~/<name>/.",
        START,
        encoding=False,
    )
    modalities: tuple[str, ...] = parameter(
        MODALITIES, "Sensors that are used.", LIVE, choices=MODALITIES, encoding=False
    )
    primary_order: tuple[str, ...] = parameter(
        SyncConfig.primary_order,
        "A mask has the stamp of the first of these that is alive.",
        choices=MODALITIES,
    )
    primary_timeout: float = parameter(
        SyncConfig.primary_timeout, "Silence in s after which the next of primary_order is used.", low=0.01, high=60.0
    )
    max_wait: float = parameter(
        SyncConfig.max_wait, "Maximum wait in s for the other sensors after the primary.", low=0.0, high=10.0
    )
    history: float = parameter(
        0.0, "Time in s that a message is kept; 0: from max_wait and tolerance.", low=0.0,
        high=60.0,
    )  # fmt: skip
    max_age: float = parameter(
        0.0, "Maximum age of a stamp in s; 0: 5 s, or more with long waits.",
        low=0.0, high=3600.0,
    )  # fmt: skip
    max_future: float = parameter(
        SyncConfig.max_future, "Maximum lead of a stamp over the clock in s.", low=0.0, high=3600.0
    )
    sensor_timeout: float = parameter(
        0.6,
        "Silence, or delay from stamp to receipt, in s that is reported.",
        LIVE,
        low=0.1,
        high=3600.0,
        encoding=False,
    )
    calibration_timeout: float = parameter(
        10.0,
        "Time in s after which missing CameraInfo and transforms are errors.",
        LIVE,
        low=0.0,
        high=3600.0,
        encoding=False,
    )
    labels_resolution: str = parameter(
        CAMERA,
        "Size of the mask: that of the camera, or of the network's input.",
        LIVE,
        choices=RESOLUTIONS,
        encoding=False,
    )
    confidence_threshold: float = parameter(
        0.0, "Pixels of a lower probability are unlabeled (255).", LIVE, low=0.0, high=1.0,
        encoding=False,
    )  # fmt: skip
    overlay_alpha: float = parameter(0.5, "Weight of the colors in ~/overlay.", LIVE, low=0.0, high=1.0, encoding=False)
    overlay_width: int = parameter(
        960,
        "Columns of ~/overlay and ~/projected_lidar, at most those of ~/labels; 0: as many.",
        LIVE,
        low=0,
        high=65535,
        encoding=False,
    )
    snapshot_seconds: float = parameter(
        0.0,
        "Seconds of messages in memory for ~/save_snapshot; 0: none.",
        low=0.0,
        high=600.0,
        encoding=False,
    )
    snapshot_megabytes: int = parameter(
        500, "Maximum memory for these messages in MB.", low=1, high=1_000_000, encoding=False
    )
    snapshot_folder: str = parameter(
        "",
        "Folder for the bags of ~/save_snapshot; empty: the working directory.",
        path=True,
        encoding=False,
    )
    camera: ColorParameters = ColorParameters(topic="camera/image_raw", info_topic="camera/camera_info")
    depth: DepthParameters = DepthParameters(topic="depth/image_raw", info_topic="depth/camera_info")
    event: EventParameters = EventParameters(topic="events", info_topic="events/camera_info")
    lidar: LidarParameters = LidarParameters(topic="lidar/points")
    navigation: NavigationParameters = NavigationParameters()
    aligned: AlignedParameters = AlignedParameters()
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    overridden: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)
    node: str = field(default=NODE, compare=False, repr=False)
    by_camera: Mapping[str, NodeParameters] = field(default_factory=dict, compare=False, repr=False)

    @property
    def views(self) -> dict[str, NodeParameters]:
        """Camera → parameters of a node for it alone. The name of the default camera is empty."""
        named = {
            camera: {f"{m}.{short}" for m in MODALITIES if m != LIDAR for short in ("topic", "info_topic")}
            for camera in self.by_camera
        }
        return {
            camera: replace(
                view,
                given=_names_of_camera(camera, self.given) | named[camera],
                overridden=_names_of_camera(camera, self.overridden),
            )
            for camera, view in self.by_camera.items()
        } or {"": self}

    @property
    def alone(self) -> NodeParameters:
        """Parameters of the only camera.

        Raises:
            ConfigError: there are several.
        """
        first, *others = self.views
        if others:
            raise ConfigError(
                f"cameras is [{', '.join(self.views)}], but masks of one camera are made here.",
                f"Choose it, such as -p 'cameras:=[{first}]'.",
            )
        return self.views[first]

    def sensor(self, modality: Modality) -> SensorParameters:
        """Parameters of one sensor."""
        found: SensorParameters = getattr(self, modality)
        return found

    def resolve(self, topic: str) -> str:
        """Resolve a topic to its full name, as the node does without remappings."""
        space = self.node.rpartition("/")[0]
        words = {"node": self.node.rpartition("/")[2], "ns": space or "/", "namespace": space or "/"}
        for word, value in words.items():
            topic = topic.replace(f"{{{word}}}", value)
        if topic.startswith("~"):
            return self.node + topic[1:]
        return topic if topic.startswith("/") else f"{space}/{topic}"

    def sensors(self, experts: Collection[Modality]) -> tuple[Modality, ...]:
        """Sensors that a network with these experts can use, enabled or not.

        Raises:
            ConfigError: none of them is enabled, one that is required has no expert, or none of `primary_order` has.
        """
        known, listed = tuple(m for m in experts if m in MODALITIES), ", ".join(experts)
        usable = [m for m in self.modalities if m in known]
        if not usable:
            raise ConfigError(f"modalities is {list(self.modalities)}; the checkpoint has experts for {listed} only.")
        self._check_sets(usable, f"the checkpoint has experts for {listed} only", "use a checkpoint with its expert")
        return known

    def max_wait_of(self, modality: Modality) -> float:
        """Seconds that a mask waits for one sensor."""
        own = self.sensor(modality).max_wait
        return self.max_wait if own < 0 else own

    def values(self) -> dict[str, Any]:
        """Name → value of the given parameters, tuples as lists."""
        listed = ((name, value) for name, _, value in iter_declared(self) if name in self.given)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in listed}

    def check(self) -> None:
        """Refuse values that a parameter's type, range and choices accept, but that are invalid.

        Raises:
            ConfigError: names the parameter, its value and the accepted ones.
        """
        for camera, view in self.by_camera.items():
            with naming(camera):
                view.check()
        if not re.fullmatch(f"{AUTO}|cpu|cuda(:[0-9]+)?", self.device):
            raise ConfigError(f"device is {self.device!r}; accepted are auto, cpu, cuda and cuda:<number>.")
        for modality in MODALITIES:
            if not self.sensor(modality).topic:
                raise ConfigError(
                    f"{modality}.topic is empty; accepted are names of topics.",
                    "To disable the sensor, take it out of modalities.",
                )
        preprocessing(self)

    def check_together(self) -> None:
        """Refuse inconsistent values; separate from `check`, since parameters set one by one pass through such states.

        Raises:
            ConfigError: names the parameters, their values and the accepted ones.
        """
        images: dict[str, str] = {}
        for camera, view in self.by_camera.items():
            with naming(camera):
                view.check_together()
            topic = view.resolve(view.camera.topic)
            if CAMERA in view.modalities and (other := images.setdefault(topic, camera)) != camera:
                raise ConfigError(
                    f"{other}.camera.topic and {camera}.camera.topic are both {topic}; each camera needs its own.",
                    f"Set {camera}.camera.topic to another topic.",
                )
        if self.by_camera:
            return  # the sensors of its own are those of no camera
        for modality in MODALITIES:
            sensor = self.sensor(modality)
            if isinstance(sensor, CameraParameters):
                size = sensor.picture_size
                if min(size) <= 0 if sensor.fit else any(size):
                    raise ConfigError(
                        f"{modality}.picture_size is {list(size)} with {modality}.fit {sensor.fit!r}; it is the width "
                        "and height of the images with a fit, and 0, 0 without."
                    )
        self._check_sets(self.modalities, f"modalities is {list(self.modalities)}", "add it to modalities")
        topics: dict[str, Modality] = {}
        for modality in self.modalities:
            topic = self.resolve(self.sensor(modality).topic)
            if (other := topics.setdefault(topic, modality)) != modality:
                raise ConfigError(
                    f"{other}.topic and {modality}.topic are both {topic}; each sensor needs its own topic.",
                    f"Set {modality}.topic to another topic, or take {modality} out of modalities.",
                )
        for name in ("history", "max_age"):
            wait = sync_config(self, MODALITIES).longest_wait
            if 0 < getattr(self, name) < wait:
                raise ConfigError(
                    f"{name} is {getattr(self, name):g} s and a mask waits up to {wait:g} s (max_wait and tolerance of "
                    "a sensor); accepted are at least these seconds, and 0.",
                    f"Set {name} to 0, which derives it.",
                )

    def _check_sets(self, usable: Collection[Modality], reason: str, remedy: str) -> None:
        """Refuse a required sensor or a whole `primary_order` that is not used: no mask would ever be made."""
        for modality in MODALITIES:
            if self.sensor(modality).required and modality not in usable:
                raise ConfigError(
                    f"{modality}.required is true and {reason}, so that no mask can be made.",
                    f"Set {modality}.required to false, or {remedy}.",
                )
        if not set(self.primary_order) & set(usable):
            raise ConfigError(
                f"primary_order is {list(self.primary_order)} and {reason}, so that no mask can be made.",
                f"Add {' or '.join(usable)} to primary_order.",
            )


def initial_rig(parameters: NodeParameters) -> Rig:
    """Rig before any message: that of the calibration file, if one is set.

    `camera.frame_id` chooses among the cameras of the file.

    Raises:
        CalibrationError, ConfigError: the file is invalid, or lacks the frame of one of several cameras.
    """
    path, frame = parameters.calibration_file, parameters.camera.frame_id
    if not path:
        return Rig(frame)
    rig = load_rig(path)
    if frame in rig.models:
        return replace(rig, camera_frame=frame)
    if any(parameters.cameras) and rig.models:
        raise ConfigError(
            f"calibration_file {path} has the camera frames {', '.join(rig.models)}; camera.frame_id is {frame!r}.",
            "Set it for each camera, such as front.camera.frame_id.",
        )
    return rig


def sync_config(parameters: NodeParameters, modalities: Collection[Modality]) -> SyncConfig:
    """Synchronizer configuration of these sensors."""
    modalities = tuple(modalities)
    return SyncConfig(
        modalities=modalities,
        primary_order=parameters.primary_order,
        primary_timeout=parameters.primary_timeout,
        tolerance={m: parameters.sensor(m).tolerance for m in modalities},
        offset={m: parameters.sensor(m).offset for m in modalities},
        max_wait={m: parameters.max_wait_of(m) for m in modalities},
        required=tuple(m for m in modalities if parameters.sensor(m).required),
        history=parameters.history or SyncConfig.history,
        max_age=parameters.max_age or SyncConfig.max_age,
        max_future=parameters.max_future,
    )


def preprocessing(parameters: NodeParameters) -> Preprocessing:
    """Settings of the sensor data, for readers and preprocessors.

    Raises:
        ConfigError: an invalid value; names the parameter and the accepted values.
    """
    values: dict[str, Any] = {}
    for modality in MODALITIES:
        values |= data_settings(parameters.sensor(modality))
    return Preprocessing(**values)


# Names and values


def load_parameters(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    node: str = NODE,
    values: Mapping[str, Any] = MappingProxyType({}),
) -> NodeParameters:
    """Read a parameter file and overrides as the node does.

    Args:
        path: the file; None for the defaults.
        overrides: `NAME:=VALUE` or `NODE:NAME:=VALUE` as for ROS's `-p`; see `read_node_parameters` for their order.
        node: full name of the node whose sections apply.
        values: name → value, with precedence over both.

    Raises:
        ConfigError: the file or a rule cannot be read, or a value is invalid.
    """
    given = read_node_parameters(path, overrides, node)
    parameters = build_parameters({**given.values, **values}, node)
    ineffective = [name for name in given.ineffective if name not in values]
    warnings = section_warnings(path, node, given.other_sections) + ineffective_rules(path, ineffective)
    overridden = given.overridden | frozenset(values)
    return replace(parameters, overridden=overridden, warnings=(*warnings, *parameters.warnings))


def build_parameters(given: Mapping[str, Any], node: str = NODE) -> NodeParameters:
    """Parameters with the given values; unknown names become warnings.

    Args:
        given: name → value.
        node: full name of the node, which resolves relative topics.

    Raises:
        ConfigError: a value is invalid, or some are inconsistent.
    """
    specs = {name: parameter_spec(name, entry, default) for name, entry, default in iter_parameters()}
    values = {name: spec.validate(given[name]) if name in given else spec.default for name, spec in specs.items()}
    for camera in check_cameras(values["cameras"]):
        for name in CAMERA_PARAMETERS:
            own, default = f"{camera}.{name}", camera_default(camera, name, values)
            values[own] = replace(specs[name], name=own).validate(given[own]) if own in given else default
    warnings = tuple(unknown_names(given, values["cameras"]))
    parameters = replace(assemble(values, node), given=frozenset(given), warnings=warnings)
    parameters.check()
    parameters.check_together()
    return parameters


def check_cameras(cameras: Sequence[str]) -> list[str]:
    """Check the names of the cameras and return them; none for the default camera, which has no name.

    Raises:
        ConfigError: one is no name that ROS accepts in a topic.
    """
    names = [] if tuple(cameras) == ("",) else [*cameras]
    for name in names:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise ConfigError(
                f"cameras has {name!r}; accepted are names of letters, digits and underscores that begin with a letter."
            )
    return names


def camera_default(camera: str, name: str, values: Mapping[str, Any]) -> Any:
    """Value of a camera's parameter that is not given: that for all cameras.

    Relative topics are in the camera's namespace, `front/camera/image_raw`, except that of the LiDAR, which is shared.
    The CameraInfo of an absolute topic is beside it, as in image_transport: that of `/depth/image_raw` is
    `/depth/camera_info`. An `info_topic` for all cameras takes precedence.

    Args:
        camera: name of the camera.
        name: name of the parameter, without the camera.
        values: name → value, of the parameters for all cameras and of the topics of this one.
    """
    value, (sensor, _, short) = values[name], name.partition(".")
    if short not in ("topic", "info_topic") or sensor == LIDAR or _is_absolute(value):
        return value
    topic = values[f"{camera}.{sensor}.topic"] if short == "info_topic" else ""
    if _is_absolute(topic) and value == getattr(NodeParameters, sensor).info_topic:
        return f"{topic.rpartition('/')[0]}/camera_info"
    return f"{camera}/{value}" if value else value


def _is_absolute(topic: str) -> bool:
    """Whether a topic is the same in each camera's namespace."""
    return topic.startswith(("/", "~", "{"))


def follow_common(values: Mapping[str, Any], changes: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """Name → new value of the cameras' parameters that follow changes of the parameters for all cameras.

    Args:
        values: name → value of every parameter before the changes.
        changes: name → new value.
        own: names of the cameras' parameters that are set separately, which do not follow.
    """
    new = {**values, **changes}
    for camera in check_cameras(values["cameras"]):
        for name in CAMERA_PARAMETERS:
            if f"{camera}.{name}" not in {*own, *changes}:
                new[f"{camera}.{name}"] = camera_default(camera, name, new)
    return {name: value for name, value in new.items() if value != values[name] and name not in changes}


def camera_parameter(name: str) -> str:
    """Name of a parameter for all cameras: `camera.topic` of `front.camera.topic`; other names are unchanged."""
    shared = name.partition(".")[2]
    return shared if shared in CAMERA_PARAMETERS and name not in CAMERA_PARAMETERS else name


def _names_of_camera(camera: str, names: Collection[str]) -> frozenset[str]:
    """Names that are set for a camera, as those of a node for it alone."""
    return frozenset(names) | {name.partition(".")[2] for name in names if name.startswith(f"{camera}.")}


@contextmanager
def naming(camera: str) -> Iterator[None]:
    """Context manager that adds the camera, if it has a name, to the message of a `ConfigError`."""
    try:
        yield
    except ConfigError as error:
        if not camera:
            raise
        raise ConfigError(f"camera {camera}: {error.message}", error.remedy) from error


def iter_parameters(parameters: type | Any = NodeParameters, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Iterate over (name, field, default or value) of every parameter, nested ones as `camera.topic`.

    Args:
        parameters: the dataclass for its defaults, or an instance for its values.
        prefix: put before each name.
    """
    instance = parameters() if isinstance(parameters, type) else parameters
    for entry in fields(instance):
        value = getattr(instance, entry.name)
        if is_dataclass(value):
            yield from iter_parameters(value, f"{prefix}{entry.name}.")
        elif entry.metadata:
            yield prefix + entry.name, entry, value


CAMERA_PARAMETERS = tuple(
    name for name, _, _ in iter_parameters() if name == "modalities" or name.partition(".")[0] in MODALITIES
)
"""Names of the parameters that each camera of `cameras` has, as `front.camera.topic`."""


def iter_declared(parameters: NodeParameters) -> Iterator[tuple[str, Field[Any], Any]]:
    """Iterate over (name, field, value) of every parameter, and then over those of each camera."""
    yield from iter_parameters(parameters)
    for camera, view in parameters.by_camera.items():
        for name, entry, value in iter_parameters(view):
            if name in CAMERA_PARAMETERS:
                yield f"{camera}.{name}", entry, value


def parameter_spec(name: str, entry: Field[Any], default: Any) -> ParameterSpec:
    """Specification of a parameter of `iter_parameters`."""
    group, _, short = name.rpartition(".")
    choices = (AUTO, *MESSAGE_TYPES[group]) if short == "type" else entry.metadata["choices"]
    topic, path = short in ("topic", "info_topic"), entry.metadata["path"]
    return ParameterSpec(name, default, entry.metadata["range"], choices, topic, path)


def assemble(values: Mapping[str, Any], node: str = NODE) -> NodeParameters:
    """Build the parameters from checked values of all of them, those of cameras included.

    Args:
        values: name → value.
        node: full name of the node.
    """
    common = replace(_assembled(NodeParameters(), values, ""), node=node)
    own = {
        camera: {**values, **{name: values[f"{camera}.{name}"] for name in CAMERA_PARAMETERS}}
        for camera in check_cameras(common.cameras)
    }
    return replace(common, by_camera={camera: _assembled(common, mine, "") for camera, mine in own.items()})


def _assembled(tree: Any, values: Mapping[str, Any], prefix: str) -> Any:
    changes = {}
    for entry in fields(tree):
        value = getattr(tree, entry.name)
        if is_dataclass(value):
            changes[entry.name] = _assembled(value, values, f"{prefix}{entry.name}.")
        elif entry.metadata:
            changes[entry.name] = values[prefix + entry.name]
    return replace(tree, **changes)


def mutability(name: str) -> str | None:
    """START, CONFIGURE or LIVE; None for an unknown name."""
    wanted = camera_parameter(name)
    return next((str(entry.metadata["change"]) for known, entry, _ in iter_parameters() if known == wanted), None)


def unknown_names(given: Iterable[str], cameras: Sequence[str] = ()) -> list[str]:
    """One warning for each unknown name, with the nearest known one."""
    known = known_names(cameras)
    return [unknown_name(n, cameras) for n in given if n not in known and not n.startswith(_RCLPY_PARAMETERS)]


def unknown_name(name: str, cameras: Sequence[str] = ()) -> str:
    """Warning for an unknown name."""
    near = difflib.get_close_matches(name, known_names(cameras), 1)
    return shorten(f"parameter {name} does not exist" + (f"; did you mean {near[0]}?" if near else "."))


def known_names(cameras: Sequence[str] = ()) -> list[str]:
    """Names of all parameters, and of those of cameras."""
    own = [f"{camera}.{name}" for camera in cameras if camera for name in CAMERA_PARAMETERS]
    return [*(name for name, _, _ in iter_parameters()), *own]
