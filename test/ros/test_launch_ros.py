# SPDX-License-Identifier: Apache-2.0
"""Launch files with the real `launch` and `launch_ros`, up to the command line of the node, which rcl then parses.

Both are part of every ROS installation and have no wheel; on a bare machine, PYTHONPATH has to name their sources.
"""

from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("launch_ros", reason="launch and launch_ros are not installed")
import rclpy
from launch.actions import DeclareLaunchArgument, ExecuteLocal, GroupAction, IncludeLaunchDescription, LogInfo
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.utilities import perform_substitutions
from launch_ros.actions import PushRosNamespace, SetParameter
from launch_ros.substitutions import ExecutableInPackage

from launch import LaunchDescription, LaunchService
from mlesam_ros.config import iter_parameters

PERCEPTION, REPLAY, DEMO = (
    Path(__file__).resolve().parents[2] / "launch" / f"{name}.launch.py" for name in ("perception", "replay", "demo")
)


@pytest.fixture
def launched(monkeypatch):
    """Runs launch entities; returns the command lines of the processes and the log entries."""
    commands: list[list[str]] = []
    said: list[str] = []

    def execute(self, context):
        commands.append([perform_substitutions(context, words) for words in self.cmd])

    def log(self, context):
        said.append(perform_substitutions(context, self.msg))

    monkeypatch.setattr(ExecuteLocal, "execute", execute)
    monkeypatch.setattr(LogInfo, "execute", log)
    monkeypatch.setattr(ExecutableInPackage, "perform", lambda self, context: "executable")

    def run(*entities, argv=()):
        commands.clear()
        said.clear()
        service = LaunchService(argv=list(argv), noninteractive=True)
        service.include_launch_description(LaunchDescription(entities))
        assert service.run(shutdown_when_idle=True) == 0
        return list(commands), list(said)

    return run


def include(file: Path = PERCEPTION, **arguments: str) -> IncludeLaunchDescription:
    return IncludeLaunchDescription(PythonLaunchDescriptionSource(str(file)), launch_arguments=arguments.items())


def parameters_of(command: list[str]) -> dict:
    """Parameters that rcl reads from a command line."""
    context = rclpy.Context()
    rclpy.init(context=context)
    options = {"automatically_declare_parameters_from_overrides": True, "start_parameter_services": False}
    node = rclpy.create_node("any", context=context, cli_args=command[1:], **options)
    found = {name: parameter.value for name, parameter in node._parameters.items() if name in ALL}
    node.destroy_node()
    rclpy.try_shutdown(context=context)
    return found


ALL = ["use_sim_time", *(name for name, _, _ in iter_parameters())]
FILE = "/**:\n  ros__parameters: {use_sim_time: true, autostart: false, max_wait: 0.1}\n"
SIM, REAL = {"use_sim_time": True}, {"use_sim_time": False}
FROM_FILE = {"use_sim_time": True, "autostart": False, "max_wait": 0.1}


@pytest.mark.parametrize(
    ("file", "around", "arguments", "expected"),
    [
        ("", {}, {}, REAL),
        ("", {**SIM, "max_wait": 0.2}, {}, {**SIM, "max_wait": 0.2}),
        (FILE, {}, {}, FROM_FILE),
        (FILE, {**REAL, "max_wait": 0.2}, {}, FROM_FILE),
        (FILE, {}, {"use_sim_time": "False", "autostart": "True"}, {**FROM_FILE, **REAL, "autostart": True}),
        ("", SIM, {"use_sim_time": "false"}, REAL),
        ("", {"device": "cuda"}, {"device": "cpu"}, {**REAL, "device": "cpu"}),
    ],
    ids=["defaults", "SetParameter", "file", "file over SetParameter", "argument over file",
         "argument over SetParameter", "argument over SetParameter of another"],
)  # fmt: skip
def test_arguments_take_precedence_over_the_file_and_the_file_over_set_parameter(
    launched, tmp_path, file, around, arguments, expected
):
    if file:
        (tmp_path / "rig.yaml").write_text(file)
        arguments = {"params_file": str(tmp_path / "rig.yaml"), **arguments}
    set_parameters = [SetParameter(name, value) for name, value in around.items()]
    ((command,), said) = launched(*set_parameters, include(**arguments))
    assert (parameters_of(command), said) == (expected, [])


def test_an_include_of_a_nav2_style_bring_up_is_accepted_without_warning(launched):
    """Flags are written True, the namespace is pushed, and the file around has arguments similar to ours."""
    around = [DeclareLaunchArgument("camera_topics", default_value="/a"), PushRosNamespace("robot1")]
    flags = dict.fromkeys(("use_sim_time", "autostart", "respawn", "global_tf"), "True")
    ((command,), said) = launched(*around, include(**flags), argv=["camera_topics:=/b"])
    assert not said and "__ns:=/robot1" in command
    assert parameters_of(command) == {"use_sim_time": True, "autostart": True}


def test_a_misspelled_argument_of_the_command_line_is_named(launched, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ros2", "launch", "mlesam_ros", PERCEPTION.name, "lidar_topc:=/points"])
    _, said = launched(include(lidar_topc="/points"), argv=["lidar_topc:=/points"])
    assert said == ["argument lidar_topc does not exist and has no effect; did you mean lidar_topic?"]


def test_arguments_of_an_include_reach_the_next_one_unless_it_is_scoped(launched):
    left, right = {"namespace": "left", "lidar_topic": "/points"}, {"namespace": "right"}
    commands, _ = launched(include(**left), include(**right))
    assert [parameters_of(command).get("lidar.topic") for command in commands] == ["/points", "/points"]
    scoped = [GroupAction([include(**given)]) for given in (left, right)]
    commands, _ = launched(SetParameter("use_sim_time", True), *scoped)
    assert [parameters_of(command).get("lidar.topic") for command in commands] == ["/points", None]
    assert [parameters_of(command).get("use_sim_time") for command in commands] == [True, True]


def test_demo_and_replay_start_node_and_player(launched, tmp_path):
    (tmp_path / "bag").mkdir()
    for file, options in ((DEMO, ["--loop"]), (REPLAY, ["--rate", "1.0", "--wait", "60", "--clock"])):
        (node, player), said = launched(include(file, bag=str(tmp_path / "bag")))
        assert not said and player[1:] == ["play", str(tmp_path / "bag"), *options]
        assert parameters_of(node) == {"use_sim_time": file == REPLAY}
