"""The simulated street, live, with the perception node.

    ros2 launch mlesam_ros demo.launch.py rviz:=true

The street is rendered into a bag once, which takes a minute or two, and then played in a loop.
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
from mlesam_ros.files import PARENT, expand_path
from mlesam_ros.resources import resource_path

WEATHERS = ["cloud", "fog", "night", "rain", "sun"]  # as mlesam_ros.simulation has them, which takes a second to import


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


def street(context: LaunchContext) -> Path:
    """The bag."""
    weather = LaunchConfiguration("weather").perform(context)
    return expand_path(LaunchConfiguration("bag").perform(context) or f"~/.ros/mlesam_ros/street_{weather}")


def unfinished(bag: Path) -> Path:
    """Where it is rendered: a rendering that is broken off must not pass for a street."""
    return bag.parent / f".rendering_{bag.name}"


def prepare(context: LaunchContext) -> list[LogInfo]:
    """Whatever can fail, before a process is started: what a launch that fails has started runs on without it."""
    bag = street(context)
    if bag.exists():
        return []
    shutil.rmtree(unfinished(bag), ignore_errors=True)
    unfinished(bag).mkdir(parents=True)
    return [LogInfo(msg=f"rendering a street into {bag}, this once; until it is played the node misses its sensors")]


def sensors(context: LaunchContext) -> list[ExecuteProcess]:
    """The street, rendered first where that has not been done."""
    bag = street(context)
    if bag.exists():
        return [mlesam("play", str(bag), "--loop")]
    new = unfinished(bag) / bag.name

    def rendered(event: ProcessExited, context: LaunchContext) -> ExecuteProcess | None:
        if event.returncode == 0:
            new.rename(bag)
        shutil.rmtree(new.parent, ignore_errors=True)
        return mlesam("play", str(bag), "--loop") if event.returncode == 0 else None

    weather = LaunchConfiguration("weather").perform(context)
    return [mlesam("simulate", str(new), "--weather", weather, on_exit=rendered)]


def mlesam(*words: str, **options: Any) -> ExecuteProcess:
    """A process of our command."""
    command = [ExecutableInPackage("mlesam", "mlesam_ros"), *words]
    parent = {PARENT: str(os.getpid())}  # a launch that is killed takes its player along
    return ExecuteProcess(cmd=command, output="screen", additional_env=parent, **options)


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(resource_path("launch/perception.launch.py"))),
    )
    local = SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    before, after = OpaqueFunction(function=prepare), OpaqueFunction(function=sensors)
    return LaunchDescription([local, *arguments(), before, perception, after])
