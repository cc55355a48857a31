"""The simulated street, live, with the perception node.

    ros2 launch mlesam_ros demo.launch.py rviz:=true

The street is rendered into a bag once, which takes a minute or two, and then played in a loop.
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

from launch import LaunchContext, LaunchDescription
from mlesam_ros.share import share

WEATHERS = ["cloud", "fog", "night", "rain", "sun"]  # as mlesam_ros.world has them, which takes a second to import


def arguments() -> list[DeclareLaunchArgument]:
    """What can be said on the command line, besides the arguments of perception.launch.py, which are passed on."""
    return [
        DeclareLaunchArgument(
            "bag",
            default_value="",
            description="Where the rendered street lies, or will lie. Empty: ~/.ros/mlesam_ros/street_<weather>.",
        ),
        DeclareLaunchArgument(
            "weather",
            default_value="sun",
            description="Of the street; one that was rendered already, under the name given as bag, keeps its own.",
            choices=WEATHERS,
        ),
    ]


def street(context: LaunchContext) -> list[ExecuteProcess]:
    """The sensors: rendered first where that has not been done."""
    weather = LaunchConfiguration("weather").perform(context)
    bag = Path(LaunchConfiguration("bag").perform(context) or f"~/.ros/mlesam_ros/street_{weather}").expanduser()
    if bag.exists():
        words = ["play", str(bag), "--loop"]
    else:
        bag.parent.mkdir(parents=True, exist_ok=True)
        words = ["simulate", str(bag), "--weather", weather, "--play"]
    return [ExecuteProcess(cmd=[ExecutableInPackage("mlesam", "mlesam_ros"), *words], output="screen")]


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share("launch/perception.launch.py"))),
    )
    local = SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return LaunchDescription([local, *arguments(), perception, OpaqueFunction(function=street)])
