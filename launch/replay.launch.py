# SPDX-License-Identifier: Apache-2.0
"""Launch the perception node and play a bag to it.

ros2 launch mlesam_ros replay.launch.py bag:=/path/to/bag rviz:=true
"""

import os
from importlib.util import find_spec
from pathlib import Path

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
from mlesam_ros.bags.reader import read_metadata
from mlesam_ros.files import PARENT_VARIABLE, expand_path
from mlesam_ros.parameter_file import FLAGS, parse_scalar
from mlesam_ros.resources import resource_path
from mlesam_ros.ros.middleware import localhost_environment

CLOCK_RATE = "100"  # Hz; delays a set by up to one period
MAX_WAIT_S = "60"  # maximum seconds that `mlesam play` waits for the node to subscribe


def arguments() -> list[DeclareLaunchArgument]:
    """Return the launch arguments. Those of perception.launch.py are accepted as well and passed on."""
    flag = {"choices": FLAGS}
    return [
        DeclareLaunchArgument("bag", description="Recording: a rosbag2 folder, or a .mcap or .db3 file."),
        DeclareLaunchArgument("rate", default_value="1.0", description="Speed, above 0; 1.0 is real time."),
        DeclareLaunchArgument("loop", default_value="false", description="Start again at the end.", **flag),
        DeclareLaunchArgument(
            "clock",
            default_value="true",
            description="Keep the recorded stamps, publish /clock and set use_sim_time, whatever its value; false: "
            "shift all stamps to the present.",
            **flag,
        ),
        DeclareLaunchArgument(
            "player",
            default_value="auto",
            description="rosbag2: ros2 bag play; mlesam: mlesam play, which reads damaged bags and can shift stamps "
            "to the present; auto: rosbag2 if it is installed and supports the bag and the arguments.",
            choices=["auto", "rosbag2", "mlesam"],
        ),
    ]


def is_positive_number(text: str) -> bool:
    """Whether the text is a positive finite number."""
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def check_arguments(context: LaunchContext) -> None:
    """Check the arguments before any process is started, because a failing launch leaves its processes running.

    Raises:
        RuntimeError: the bag does not exist, the rate is invalid, or the player does not support the arguments.
    """
    given = values(context)
    bag, rate = recording(context), given["rate"]
    if not bag.exists():
        raise RuntimeError(f"bag:={bag} does not exist; give a rosbag2 folder, or a .mcap or .db3 file")
    if not is_positive_number(rate):
        raise RuntimeError(f"rate:={rate} is not a positive number; give one, such as 0.5")
    if given["player"] == "rosbag2" and not parse_scalar(given["clock"]):
        raise RuntimeError("player:=rosbag2 keeps the recorded stamps; set clock:=true or player:=mlesam")


def values(context: LaunchContext) -> dict[str, str]:
    """Return argument → value."""
    return {argument.name: str(LaunchConfiguration(argument.name).perform(context)) for argument in arguments()}


def recording(context: LaunchContext) -> Path:
    """Return the path of the bag. The shell does not expand `~` after `:=`."""
    return expand_path(values(context)["bag"])


def play(context: LaunchContext) -> list[ExecuteProcess]:
    """Return the player, whose exit shuts down the launch."""
    given, bag = values(context), recording(context)
    whole = not read_metadata(bag).fault  # rosbag2 requires valid metadata
    rosbag2 = parse_scalar(given["clock"]) and find_spec("ros2bag") is not None and whole
    flags = ["--rate", given["rate"], *(["--loop"] if parse_scalar(given["loop"]) else [])]
    if given["player"] == "rosbag2" or (given["player"] == "auto" and rosbag2):
        latched = ["--qos-profile-overrides-path", str(resource_path("config/replay_qos.yaml"))]
        command = ["ros2", "bag", "play", str(bag), "--clock", CLOCK_RATE, *flags, *latched]
    else:
        flags += ["--wait", MAX_WAIT_S, *(["--clock"] if parse_scalar(given["clock"]) else [])]
        command = [ExecutableInPackage("mlesam", "mlesam_ros"), "play", str(bag), *flags]
    return [
        ExecuteProcess(
            cmd=command,
            additional_env={PARENT_VARIABLE: str(os.getpid())},  # ends the player with a killed launch
            on_exit=[EmitEvent(event=Shutdown(reason="the playback has ended"))],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(resource_path("launch/perception.launch.py"))),
        launch_arguments={"use_sim_time": LaunchConfiguration("clock")}.items(),
    )
    # Limit the topics of the bag to this host.
    local = [SetEnvironmentVariable(name, value) for name, value in localhost_environment().items()]
    before, after = OpaqueFunction(function=check_arguments), OpaqueFunction(function=play)
    return LaunchDescription([*local, *arguments(), before, perception, after])
