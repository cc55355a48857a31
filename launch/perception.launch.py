# SPDX-License-Identifier: Apache-2.0
"""Launch the perception node on a robot.

ros2 launch mlesam_ros perception.launch.py --show-args
"""

import json
import sys
from difflib import get_close_matches
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from mlesam_ros.files import expand_path
from mlesam_ros.parameter_file import FLAGS, parse_scalar, read_parameter_file
from mlesam_ros.resources import resource_path
from mlesam_ros.ros.middleware import transport_environment
from mlesam_ros.types import NODE

# Launch argument → parameter. An empty argument leaves the parameter to params_file.
OVERRIDES = {
    "checkpoint": "checkpoint",
    "base_weights": "base_weights",
    "device": "device",
    "precision": "precision",
    "runtime": "runtime",
    "calibration_file": "calibration_file",
    "camera_topic": "camera.topic",
    "camera_info_topic": "camera.info_topic",
    "depth_topic": "depth.topic",
    "depth_info_topic": "depth.info_topic",
    "event_topic": "event.topic",
    "event_info_topic": "event.info_topic",
    "lidar_topic": "lidar.topic",
}

# Flag → parameter of that name. An empty flag leaves it to params_file, and without a value there to SetParameter.
OVERRIDING_FLAGS = ("use_sim_time", "autostart")

FILES = ("params_file", "checkpoint", "base_weights", "calibration_file")

# Remapped to relative names, so that a namespaced robot has its own TF tree, as in nav2, unless global_tf is set.
REMAPPINGS = [("/tf", "tf"), ("/tf_static", "tf_static")]


def arguments() -> list[DeclareLaunchArgument]:
    """Return the launch arguments."""
    flag = {"choices": FLAGS}
    optional_flag = {"default_value": "", "choices": ["", *FLAGS]}
    levels = ["debug", "info", "warn", "error", "fatal"]
    return [
        DeclareLaunchArgument(
            "namespace",
            default_value="",
            description="Namespace of the node, its relative topics and TF: left gives /left/mlesam, "
            "/left/camera/image_raw and /left/tf. One that a file around this one has pushed is not applied again.",
        ),
        DeclareLaunchArgument(
            "global_tf",
            default_value="false",
            description="Keep /tf and /tf_static out of the namespace: true for several cameras of one robot, false "
            "for several robots.",
            **flag,
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value="",
            description="YAML file with the node's parameters; the arguments below override it. Empty: the defaults, "
            f"which {resource_path('config/params/default.yaml')} lists; files for several rigs are beside it.",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            description="Use the time of /clock, as simulators require. Empty: use_sim_time of params_file, else of a "
            "SetParameter around this file, else false.",
            **optional_flag,
        ),
        DeclareLaunchArgument(
            "autostart",
            description="Configure and activate at start; false: leave that to a lifecycle manager. Empty: autostart "
            "of params_file, else of a SetParameter around this file, else true. In an include, autostart of "
            "params_file takes precedence.",
            **optional_flag,
        ),
        DeclareLaunchArgument(
            "respawn", default_value="false", description="Restart the node 2 s after it ends.", **flag
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            description="Log level; debug includes messages of the ROS libraries.",
            choices=levels,
        ),
        DeclareLaunchArgument(
            "rviz",
            default_value="false",
            description="Start RViz with a view of all outputs.",
            **flag,
        ),
        DeclareLaunchArgument(
            "rviz_frame",
            default_value="",
            description="Fixed frame of RViz, such as the camera's on a robot without base_link. Empty: base_link.",
        ),
        DeclareLaunchArgument(
            "cameras",
            default_value="",
            description="Several cameras with one network: their names, as front,left,right, below which their topics "
            "and masks are. Empty: cameras of params_file, else one camera without a name.",
        ),
        *overriding_arguments(),
    ]


def overriding_arguments() -> list[DeclareLaunchArgument]:
    """Return the launch arguments that override parameters of params_file."""
    infos = "sensor_msgs/CameraInfo: intrinsics and size of the "
    return [
        overriding("checkpoint", "Expert weights, a .safetensors file that mlesam train wrote."),
        overriding("base_weights", "Frozen backbone weights of the checkpoint: a file, or a name of mlesam weights."),
        overriding("device", "Device of the network: cpu, cuda, cuda:1 and so on; auto: the first GPU, else the CPU."),
        overriding("precision", "Precision of the network.", choices=["", "auto", "fp32", "bf16", "fp16"]),
        overriding(
            "runtime",
            "Runtime of the network; auto: on a CPU the fastest that is installed and has a file of mlesam export.",
            choices=["", "auto", "torch", "onnx", "openvino"],
        ),
        overriding("calibration_file", "Rig file (YAML) for calibration that CameraInfo and TF do not contain."),
        overriding("camera_topic", "Camera: sensor_msgs/Image or CompressedImage."),
        overriding("camera_info_topic", f"{infos}camera."),
        overriding("depth_topic", "Depth camera: sensor_msgs/Image or CompressedImage (compressedDepth)."),
        overriding("depth_info_topic", f"{infos}depth camera."),
        overriding("event_topic", "Event camera: EventPacket or EventArray of any driver, or images of events."),
        overriding("event_info_topic", f"{infos}event camera."),
        overriding("lidar_topic", "LiDAR: sensor_msgs/PointCloud2."),
    ]


def overriding(name: str, description: str, **options: list[str]) -> DeclareLaunchArgument:
    """Return an argument that overrides its parameter unless it is empty."""
    kept = f" Empty: {OVERRIDES[name]} of params_file."
    return DeclareLaunchArgument(name, default_value="", description=description + kept, **options)


def command_line(context: LaunchContext) -> list[str]:
    """Return the names of the arguments on a command line that starts a file of this folder; none for other ones.

    The context does not distinguish the arguments of an include from those of the files around it.
    """
    files = {str(path) for path in Path(__file__).resolve().parent.glob("*.launch.py")}
    ours = any(word == "mlesam_ros" or str(Path(word).resolve()) in files for word in sys.argv)
    words = (word.partition(":=") for word in context.argv) if ours else ()
    return [name for name, assigned, _ in words if assigned]


def misspelled(context: LaunchContext) -> list[LogInfo]:
    """Return a log entry for each undeclared argument similar to a declared one; `ros2 launch` ignores it silently."""
    known = [argument.name for argument in arguments()]
    near = {name: get_close_matches(name, known, 1, 0.8) for name in command_line(context) if name not in known}
    words = "argument {} does not exist and has no effect; did you mean {}?"
    return [LogInfo(msg=words.format(name, found[0])) for name, found in near.items() if found]


def absolute_namespace(context: LaunchContext) -> str:
    """Return the namespace of the node: the one that files around this one have pushed, and the argument.

    nav2's bring-up pushes its argument `namespace`, and launch passes the arguments of a file to its includes. So an
    argument that ends the pushed namespace is not applied again.
    """
    given = str(LaunchConfiguration("namespace").perform(context))
    pushed = context.launch_configurations.get("ros_namespace", "").rstrip("/")
    if given.startswith("/"):
        return given
    return (pushed if not given or pushed.endswith(f"/{given}") else f"{pushed}/{given}") or "/"


def overriding_file(values: dict[str, Any]) -> str:
    """Write a parameter file that takes precedence over all others, and return its path in the log directory.

    rcl applies the sections that match a node in the order in which their names first appear. So this one has a name
    that no other file has; launch_ros would take that of the node.
    """
    with NamedTemporaryFile(
        "w", dir=launch_config.log_dir, prefix="mlesam_arguments_", suffix=".yaml", delete=False
    ) as file:
        json.dump({"/**/*": {"ros__parameters": values}}, file)  # YAML, with quotes around every string
    return file.name


def start(context: LaunchContext) -> list[LogInfo | SetEnvironmentVariable | Node]:
    """Return the node with the parameters that were given, and the environment of a transport for images.

    Errors are raised first, because a failing launch leaves its processes running.
    """

    def given(name: str) -> str:
        value = str(LaunchConfiguration(name).perform(context))
        return str(expand_path(value)) if value and name in FILES else value  # the shell does not expand ~ after :=

    file, namespace = given("params_file"), absolute_namespace(context)
    if file and not Path(file).is_file():  # launch_ros only warns and starts the node with defaults
        raise RuntimeError(f"params_file:={file} is not a file; leave it out, or see config/params")
    in_file = read_parameter_file(file, namespace.rstrip("/") + NODE)[0] if file else {}

    overrides: dict[str, Any] = {p: given(name) for name, p in OVERRIDES.items() if given(name)}
    if given("cameras"):
        overrides["cameras"] = [name.strip() for name in given("cameras").split(",")]
    overrides |= {name: parse_scalar(given(name)) for name in OVERRIDING_FLAGS if given(name)}
    if "autostart" in in_file and "autostart" not in command_line(context):  # it may be that of nav2's bring-up
        overrides.pop("autostart", None)
    parameters = [source for source in (file, overrides and overriding_file(overrides)) if source]
    remappings = [] if parse_scalar(given("global_tf")) else REMAPPINGS
    transport = transport_environment(dict(context.environment))
    time = {name: value for name, value in {**in_file, **overrides}.items() if name == "use_sim_time"}
    return [
        *misspelled(context),
        *(SetEnvironmentVariable(name, value) for name, value in transport.items()),
        *([rviz(namespace, given("rviz_frame"), time, remappings)] if parse_scalar(given("rviz")) else []),
        Node(
            package="mlesam_ros",
            executable="perception_node",
            name=NODE[1:],
            namespace=namespace,
            parameters=parameters,
            remappings=remappings,
            arguments=["--ros-args", "--log-level", given("log_level")],
            respawn=parse_scalar(given("respawn")),
            respawn_delay=2.0,
            output="screen",
        ),
    ]


def rviz(namespace: str, frame: str, time: dict[str, bool], remappings: list[tuple[str, str]]) -> Node:
    """Return RViz with a configuration that shows all outputs, and the node's `use_sim_time` if it is given."""
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=namespace,
        arguments=["-d", str(resource_path("config/rviz/perception.rviz")), *(["-f", frame] if frame else [])],
        parameters=[time] if time else [],
        remappings=remappings,
        output="screen",
    )


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start)])
