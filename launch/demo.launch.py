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
            default_value="~/.ros/mlesam_ros/street_day",
            description="Where the rendered street lies, or will lie; give another for the night.",
        ),
        DeclareLaunchArgument(
            "weather", default_value="sun", description="Of a street yet to be rendered.", choices=WEATHERS
        ),
    ]


def street(context: LaunchContext) -> list[ExecuteProcess]:
    """The sensors: rendered first where that has not been done."""
    bag = Path(LaunchConfiguration("bag").perform(context)).expanduser()
    if bag.exists():
        words = ["play", str(bag), "--loop"]
    else:
        bag.parent.mkdir(parents=True, exist_ok=True)
        words = ["simulate", str(bag), "--weather", LaunchConfiguration("weather").perform(context), "--play"]
    return [ExecuteProcess(cmd=[ExecutableInPackage("mlesam", "mlesam_ros"), *words], output="screen")]


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share("launch/perception.launch.py"))),
    )
    local = SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return LaunchDescription([local, *arguments(), perception, OpaqueFunction(function=street)])
