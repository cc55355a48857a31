# SPDX-License-Identifier: Apache-2.0
"""Launch the perception node with a simulated street.

    ros2 launch mlesam_ros demo.launch.py rviz:=true

The street is rendered into a bag once, which takes one to two minutes, and then played in a loop.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

from launch import LaunchContext, LaunchDescription
from mlesam_ros.files import PARENT_VARIABLE, expand_path
from mlesam_ros.resources import resource_path
from mlesam_ros.ros.middleware import localhost_environment

WEATHERS = ["cloud", "fog", "night", "rain", "sun"]  # those of mlesam_ros.simulation, whose import takes 1 s


def arguments() -> list[DeclareLaunchArgument]:
    """Return the launch arguments. Those of perception.launch.py are accepted as well and passed on."""
    return [
        DeclareLaunchArgument(
            "bag",
            default_value="",
            description="Bag of the street; rendered if it does not exist. Empty: ~/.ros/mlesam_ros/street_<weather>.",
        ),
        DeclareLaunchArgument(
            "weather",
            default_value="sun",
            description="Weather of the street; has no effect on a bag that exists.",
            choices=WEATHERS,
        ),
    ]


def bag_path(context: LaunchContext) -> Path:
    """Return the path of the bag."""
    weather = LaunchConfiguration("weather").perform(context)
    return expand_path(LaunchConfiguration("bag").perform(context) or f"~/.ros/mlesam_ros/street_{weather}")


def draft_folder(bag: Path) -> Path:
    """Return the folder of the rendering in progress, so that an aborted one is not taken for a complete bag."""
    return bag.parent / f".rendering_{bag.name}"


def create_folder(context: LaunchContext) -> list[LogInfo]:
    """Create the folder before any process is started, because a failing launch leaves its processes running."""
    bag = bag_path(context)
    if bag.exists():
        return []
    shutil.rmtree(draft_folder(bag), ignore_errors=True)
    draft_folder(bag).mkdir(parents=True)
    return [LogInfo(msg=f"rendering a street into {bag}; the sensors have no publisher until it is complete")]


def player(context: LaunchContext) -> list[ExecuteProcess]:
    """Return the process that plays the street, or renders it first if the bag does not exist."""
    bag = bag_path(context)
    if bag.exists():
        return [mlesam("play", str(bag), "--loop")]
    new = draft_folder(bag) / bag.name

    def rendered(event: ProcessExited, context: LaunchContext) -> ExecuteProcess | None:
        if event.returncode == 0:
            new.rename(bag)
        shutil.rmtree(new.parent, ignore_errors=True)
        return mlesam("play", str(bag), "--loop") if event.returncode == 0 else None

    weather = LaunchConfiguration("weather").perform(context)
    return [mlesam("simulate", str(new), "--weather", weather, on_exit=rendered)]


def mlesam(*words: str, **options: Any) -> ExecuteProcess:
    """Return a process of the command `mlesam`."""
    command = [ExecutableInPackage("mlesam", "mlesam_ros"), *words]
    parent = {PARENT_VARIABLE: str(os.getpid())}  # ends the player with a killed launch
    return ExecuteProcess(cmd=command, output="screen", additional_env=parent, **options)


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(resource_path("launch/perception.launch.py"))),
    )
    local = [SetEnvironmentVariable(name, value) for name, value in localhost_environment().items()]
    before, after = OpaqueFunction(function=create_folder), OpaqueFunction(function=player)
    return LaunchDescription([*local, *arguments(), before, perception, after])
