"""A recording played to the perception node.

ros2 launch mlesam_ros replay.launch.py bag:=/path/to/bag rviz:=true
"""

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

from launch import LaunchContext, LaunchDescription
from mlesam_ros.share import share


def arguments() -> list[DeclareLaunchArgument]:
    """What can be said on the command line, besides the arguments of perception.launch.py, which are passed on."""
    flag = {"choices": ["true", "false"]}
    return [
        DeclareLaunchArgument("bag", description="rosbag2 folder or file, mcap or sqlite3."),
        DeclareLaunchArgument("rate", default_value="1.0", description="Speed; 1.0 is real time."),
        DeclareLaunchArgument("loop", default_value="false", description="Start again at the end.", **flag),
        DeclareLaunchArgument(
            "clock",
            default_value="false",
            description="Keep the recorded stamps and publish /clock; false: stamp everything with today's time.",
            **flag,
        ),
    ]


def play(context: LaunchContext) -> list[ExecuteProcess]:
    """The player; when it is through, so is the launch."""

    def given(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    flags = [f"--{name}" for name in ("loop", "clock") if given(name) == "true"]
    executable = ExecutableInPackage("mlesam", "mlesam_ros")
    return [
        ExecuteProcess(
            cmd=[executable, "play", given("bag"), "--rate", given("rate"), *flags],
            on_exit=[EmitEvent(event=Shutdown(reason="the recording is over"))],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share("launch/perception.launch.py"))),
        launch_arguments={"use_sim_time": LaunchConfiguration("clock")}.items(),
    )
    # A recording is nobody else's robot: its topics stay on this machine.
    local = SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return LaunchDescription([local, *arguments(), perception, OpaqueFunction(function=play)])
