# SPDX-License-Identifier: Apache-2.0
"""Launch files with the real `launch` and `launch_ros`, up to the command line of the node, which rcl then parses.

Both are part of every ROS installation and have no wheel; `make oracles` runs these tests with the sources of each
distribution's.
"""

from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("launch_ros", reason="launch and launch_ros are not installed")
import rclpy
from launch.actions import DeclareLaunchArgument, ExecuteLocal, GroupAction, IncludeLaunchDescription, LogInfo
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration
from launch.utilities import perform_substitutions
from launch_ros.actions import PushRosNamespace, SetParameter, SetParametersFromFile
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
OWN_FIRST = "mlesam: {ros__parameters: {max_wait: 0.2}}\n/**: {ros__parameters: {max_wait: 0.1}}\n"
SIM, REAL = {"use_sim_time": True}, {"use_sim_time": False}
FROM_FILE = {"use_sim_time": True, "autostart": False, "max_wait": 0.1}


@pytest.mark.parametrize(
    ("file", "around", "arguments", "expected"),
    [
        ("", {}, {}, REAL),
        ("", {**SIM, "max_wait": 0.2}, {}, {**SIM, "max_wait": 0.2}),
        (FILE, {}, {}, FROM_FILE),
        (FILE, {**REAL, "max_wait": 0.2}, {}, FROM_FILE),
        (FILE, {}, {"use_sim_time": "False"}, {**FROM_FILE, **REAL}),
        ("", {}, {"autostart": "False"}, {**REAL, "autostart": False}),
        (OWN_FIRST, {}, {}, {**REAL, "max_wait": 0.1}),
        (OWN_FIRST, {"device": "cpu"}, {}, {**REAL, "max_wait": 0.2, "device": "cpu"}),
        ("", SIM, {"use_sim_time": "false"}, REAL),
        ("", {"device": "cuda"}, {"device": "cpu"}, {**REAL, "device": "cpu"}),
    ],
    ids=["defaults", "SetParameter", "file", "file over SetParameter", "argument over file", "argument",
         "last section", "SetParameter makes /** the first section",
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
    written = [Path(word) for word in command if Path(word).name.startswith("mlesam_arguments_")]
    assert [path.parent for path in written] == [Path(launch_config.log_dir)] * bool(arguments.keys() - {"params_file"})


def sections(tmp_path, name: str, **max_waits: float) -> str:
    """Write a parameter file, whose sections all set `device`, too."""
    text = "".join(
        f"{section}: {{ros__parameters: {{max_wait: {value}, device: cuda}}}}\n" for section, value in max_waits.items()
    )
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


ALL_NODES, OWN, NAME, ELSEWHERE, ANYWHERE = "/**", "/mlesam", "mlesam", "/left/mlesam", "/**/mlesam"


@pytest.mark.parametrize(
    ("file", "namespace", "expected"),
    [
        ({NAME: 0.2}, "", 0.2),
        ({NAME: 0.2}, "left", None),
        ({ELSEWHERE: 0.3}, "left", 0.3),
        ({ANYWHERE: 0.4}, "left", 0.4),
        ({ALL_NODES: 0.1, OWN: 0.2}, "", 0.2),
        ({OWN: 0.2, ALL_NODES: 0.1}, "", 0.1),
        ({NAME: 0.2, OWN: 0.3}, "", 0.3),
        ({OWN: 0.3, NAME: 0.2}, "", 0.2),
        ({ELSEWHERE: 0.3, OWN: 0.2, ALL_NODES: 0.1}, "left", 0.1),
        ({ALL_NODES: 0.1, ELSEWHERE: 0.3, OWN: 0.2}, "left", 0.3),
    ],
    ids=str,
)
def test_last_section_takes_precedence_and_an_argument_over_all(launched, tmp_path, file, namespace, expected):
    path = sections(tmp_path, "rig.yaml", **file)
    ((command,), _) = launched(include(params_file=path, namespace=namespace, device="cpu"))
    found = parameters_of(command)
    assert (found.get("max_wait"), found["device"]) == (expected, "cpu")


@pytest.mark.parametrize(
    ("around", "file", "expected"),
    [
        ({ALL_NODES: 0.3}, {}, 0.3),
        ({ALL_NODES: 0.3}, {ALL_NODES: 0.1}, 0.1),
        ({ALL_NODES: 0.3}, {OWN: 0.1}, 0.1),
        ({OWN: 0.3}, {OWN: 0.1}, 0.1),
        ({OWN: 0.3}, {ALL_NODES: 0.1}, 0.1),
        ({ALL_NODES: 0.2, OWN: 0.3}, {ALL_NODES: 0.1}, 0.3),
    ],
    ids=str,
)
def test_precedence_of_set_parameters_from_file(launched, tmp_path, around, file, expected):
    """In the last case the section of the node comes first from the file around, and later than that of all nodes."""
    given = {"params_file": sections(tmp_path, "rig.yaml", **file)} if file else {}
    outer = SetParametersFromFile(sections(tmp_path, "robot.yaml", **around))
    ((command,), _) = launched(outer, include(**given, device="cpu"))
    assert (parameters_of(command)["max_wait"], parameters_of(command)["device"]) == (expected, "cpu")


@pytest.mark.parametrize(
    ("pushed", "namespace", "expected"),
    [
        ([], "left", "/left"),
        (["robot1"], "", "/robot1"),
        (["robot1"], "robot1", "/robot1"),
        (["/robot1"], "/robot1", "/robot1"),
        (["fleet", "robot1"], "robot1", "/fleet/robot1"),
        (["fleet", "robot1"], "fleet/robot1", "/fleet/robot1"),
        (["robot1"], "left", "/robot1/left"),
        (["rear_left"], "left", "/rear_left/left"),
        (["robot1"], "/left", "/left"),
    ],
    ids=str,
)
def test_pushed_namespace_is_applied_once(launched, pushed, namespace, expected):
    ((command,), _) = launched(*map(PushRosNamespace, pushed), include(namespace=namespace))
    assert f"__ns:={expected}" in command


def bring_up(**values: str) -> list:
    """A file in the manner of nav2's bringup_launch.py, which includes ours without arguments."""
    declared = [DeclareLaunchArgument(name, default_value=value) for name, value in values.items()]
    return [*declared, GroupAction([PushRosNamespace(LaunchConfiguration("namespace")), include()])]


NAV2 = "amcl: {ros__parameters: {alpha1: 0.2}}\n"


@pytest.mark.parametrize(
    ("section", "autostart", "expected"),
    [
        ("", "True", {"autostart": True}),
        ("/**/mlesam: {ros__parameters: {max_wait: 0.2}}", "false", {"autostart": False, "max_wait": 0.2}),
        ("/**/mlesam: {ros__parameters: {autostart: false}}", "True", {"autostart": False}),
    ],
    ids=["no section", "section", "section of a managed node"],
)
def test_include_in_a_nav2_style_bring_up(launched, tmp_path, section, autostart, expected):
    """One parameter file for all nodes; the pushed namespace once; the file says whether a manager starts the node."""
    (tmp_path / "nav2.yaml").write_text(NAV2 + section)
    around = {"namespace": "robot1", "params_file": str(tmp_path / "nav2.yaml"), "autostart": autostart}
    similar = {"use_sim_time": "True", "use_respawn": "False", "camera_topics": "/a", "log_level": "info"}
    ((command,), said) = launched(*bring_up(**around, **similar), argv=["camera_topics:=/b"])
    assert not said and "__ns:=/robot1" in command
    assert parameters_of(command) == {"use_sim_time": True, **expected}


def test_autostart_of_the_command_line_takes_precedence_over_the_file(launched, tmp_path, monkeypatch):
    (tmp_path / "rig.yaml").write_text(FILE)
    given = {"params_file": str(tmp_path / "rig.yaml"), "autostart": "true"}
    monkeypatch.setattr("sys.argv", ["ros2", "launch", "mlesam_ros", PERCEPTION.name])
    ((command,), _) = launched(include(**given), argv=["autostart:=true"])
    assert parameters_of(command)["autostart"] is True


@pytest.mark.parametrize("argument", [{}, {"use_sim_time": "false"}], ids=["file", "argument"])
def test_rviz_has_the_clock_of_the_node_and_no_other_parameter(launched, tmp_path, argument):
    (tmp_path / "rig.yaml").write_text("mlesam: {ros__parameters: {use_sim_time: true, max_wait: 0.2}}\n")
    (commands, _) = launched(include(params_file=str(tmp_path / "rig.yaml"), rviz="true", **argument))
    rviz, node = map(parameters_of, commands)
    assert node == {"use_sim_time": not argument, "max_wait": 0.2}
    assert rviz == {"use_sim_time": not argument}


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
