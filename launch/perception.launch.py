"""The perception node on a robot.

ros2 launch mlesam_ros perception.launch.py --show-args
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from mlesam_ros.ros.process import transport_environment
from mlesam_ros.share import share

# Launch argument → parameter. An argument that is left empty leaves the parameter to params_file.
OVERRIDES = {
    "checkpoint": "checkpoint",
    "base_weights": "base_weights",
    "device": "device",
    "precision": "precision",
    "calibration_file": "calibration_file",
    "camera_topic": "camera.topic",
    "camera_info_topic": "camera.info_topic",
    "depth_topic": "depth.topic",
    "event_topic": "event.topic",
    "lidar_topic": "lidar.topic",
}

# Remapped to relative names, so that a namespaced robot has a tree of its own, as in nav2.
REMAPPINGS = [("/tf", "tf"), ("/tf_static", "tf_static")]


def arguments() -> list[DeclareLaunchArgument]:
    """What can be said on the command line."""
    flag = {"choices": ["true", "false"]}
    levels = ["debug", "info", "warn", "error", "fatal"]
    kept = " Empty: as in params_file."
    return [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics."),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(share("config/params/default.yaml")),
            description="YAML file with the node's parameters; the arguments below go before it.",
        ),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="Time from /clock.", **flag),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            description="Configure and activate at start; false leaves that to a lifecycle manager.",
            **flag,
        ),
        DeclareLaunchArgument("respawn", default_value="false", description="Start the node again if it ends.", **flag),
        DeclareLaunchArgument("log_level", default_value="info", description="Of the node.", choices=levels),
        DeclareLaunchArgument("rviz", default_value="false", description="Show what comes out in RViz.", **flag),
        DeclareLaunchArgument("checkpoint", default_value="", description="Expert weights (.safetensors)." + kept),
        DeclareLaunchArgument("base_weights", default_value="", description="Frozen backbone weights." + kept),
        DeclareLaunchArgument("device", default_value="", description="auto, cpu, cuda, cuda:1 and so on." + kept),
        DeclareLaunchArgument(
            "precision",
            default_value="",
            description="Of the network." + kept,
            choices=["", "auto", "fp32", "bf16", "fp16"],
        ),
        DeclareLaunchArgument("calibration_file", default_value="", description="Rig file (YAML)." + kept),
        DeclareLaunchArgument("camera_topic", default_value="", description="Image or CompressedImage." + kept),
        DeclareLaunchArgument("camera_info_topic", default_value="", description="Its CameraInfo." + kept),
        DeclareLaunchArgument("depth_topic", default_value="", description="Depth image." + kept),
        DeclareLaunchArgument("event_topic", default_value="", description="EventPacket." + kept),
        DeclareLaunchArgument("lidar_topic", default_value="", description="PointCloud2." + kept),
    ]


def start(context: LaunchContext) -> list[SetEnvironmentVariable | Node]:
    """The node, with those parameters that were really given, and a transport that carries images."""

    def given(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    overrides = {parameter: given(name) for name, parameter in OVERRIDES.items() if given(name)}
    flags = {name: given(name) == "true" for name in ("use_sim_time", "autostart")}
    transport = transport_environment(dict(context.environment))
    return [
        *(SetEnvironmentVariable(name, value) for name, value in transport.items()),
        Node(
            package="mlesam_ros",
            executable="perception_node",
            name="mlesam",
            namespace=given("namespace"),
            parameters=[given("params_file"), {**flags, **overrides}],
            remappings=REMAPPINGS,
            arguments=["--ros-args", "--log-level", given("log_level")],
            respawn=given("respawn") == "true",
            respawn_delay=2.0,
            output="screen",
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", str(share("config/rviz/perception.rviz"))],
        parameters=[{"use_sim_time": LaunchConfiguration("use_sim_time")}],
        remappings=REMAPPINGS,
        condition=IfCondition(LaunchConfiguration("rviz")),
        output="screen",
    )
    return LaunchDescription([*arguments(), OpaqueFunction(function=start), rviz])
