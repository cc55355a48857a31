# SPDX-License-Identifier: Apache-2.0
"""Launch files: arguments, processes and environment."""

import json
from argparse import ArgumentParser
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")
import launch_stand_ins as stand_ins

from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.config import PRECISIONS, RUNTIMES, build_parameters, iter_parameters
from mlesam_ros.parameter_file import read_parameter_file
from mlesam_ros.resources import resource_path
from mlesam_ros.ros.middleware import PROFILE_VARIABLES
from mlesam_ros.ros.publishers import OUTPUTS

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
PERCEPTION, REPLAY, DEMO = (LAUNCH / f"{name}.launch.py" for name in ("perception", "replay", "demo"))


@pytest.fixture(autouse=True)
def log_dir(monkeypatch, tmp_path_factory):
    """Log directory of the launch."""
    folder = tmp_path_factory.mktemp("log")
    stand_ins.install(monkeypatch, folder)
    return folder


def parameters_of(node) -> dict:
    """Parameters that the launch file gives beside params_file."""
    sources = [source for source in node.options["parameters"] if Path(source).name.startswith("mlesam_arguments_")]
    return read_parameter_file(*sources, "/left/mlesam")[0] if sources else {}


def test_perception_starts_the_node_with_its_defaults():
    result = stand_ins.execute(PERCEPTION)
    (node,) = result.processes
    assert (node.options["package"], node.options["executable"]) == ("mlesam_ros", "perception_node")
    assert node.options["parameters"] == []
    assert ("/tf", "tf") in node.options["remappings"]


def test_only_given_arguments_override_the_file(log_dir):
    result = stand_ins.execute(
        PERCEPTION,
        namespace="left",
        lidar_topic="/ouster/points",
        autostart="False",
        use_sim_time="True",
        respawn="true",
        log_level="debug",
    )
    (node,) = result.processes
    assert parameters_of(node) == {"use_sim_time": True, "autostart": False, "lidar.topic": "/ouster/points"}
    assert node.options["parameters"] == [str(path) for path in log_dir.iterdir()], "/tmp stays as it was"
    assert (node.options["namespace"], node.options["name"], node.options["respawn"]) == ("/left", "mlesam", True)
    assert node.options["arguments"] == ["--ros-args", "--log-level", "debug"]


def test_names_of_several_cameras_are_one_list_parameter():
    (node,) = stand_ins.execute(PERCEPTION, cameras="front, left").processes
    assert parameters_of(node) == {"cameras": ["front", "left"]}
    assert build_parameters(parameters_of(node)).cameras == ("front", "left")


def test_runtime_reaches_the_node():
    (node,) = stand_ins.execute(PERCEPTION, runtime="openvino").processes
    assert parameters_of(node) == {"runtime": "openvino"}
    assert build_parameters(parameters_of(node)).runtime == "openvino"


def test_choices_of_arguments_are_those_of_their_parameters():
    arguments = stand_ins.execute(PERCEPTION).arguments
    assert arguments["precision"].choices == ["", *PRECISIONS] and arguments["runtime"].choices == ["", *RUNTIMES]


def test_global_tf_disables_the_remapping_of_tf():
    for given, remapped in (({}, True), ({"global_tf": "true"}, False)):
        for process in stand_ins.execute(PERCEPTION, namespace="left", rviz="true", **given).processes:
            assert (("/tf_static", "tf_static") in process.options["remappings"]) == remapped


def test_overrides_are_parameters_and_arguments_are_described():
    result = stand_ins.execute(PERCEPTION)
    overrides = __import__("runpy").run_path(str(PERCEPTION))["OVERRIDES"]
    assert set(overrides) <= set(result.arguments)
    assert set(overrides.values()) <= {name for name, _, _ in iter_parameters()}
    for argument in result.arguments.values():
        assert argument.description and argument.description.endswith(".")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("autostart", "yes"),
        ("use_sim_time", "1"),
        ("log_level", "loud"),
        ("precision", "fp8"),
        ("runtime", "tensorrt"),
        ("rviz", "maybe"),
    ],
)
def test_invalid_choices_are_refused(name, value):
    with pytest.raises(RuntimeError, match=name):
        stand_ins.execute(PERCEPTION, **{name: value})


def test_missing_parameter_file_is_refused(tmp_path):
    """launch_ros itself only warns."""
    for path in (tmp_path / "robot.yaml", tmp_path):
        with pytest.raises(RuntimeError, match=f"params_file:={path} is not a file"):
            stand_ins.execute(PERCEPTION, params_file=str(path))


def test_tilde_in_paths_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "robot.yaml").touch()
    (node,) = stand_ins.execute(PERCEPTION, params_file="~/robot.yaml", checkpoint="~/night.safetensors").processes
    assert node.options["parameters"][0] == str(tmp_path / "robot.yaml")
    assert parameters_of(node)["checkpoint"] == str(tmp_path / "night.safetensors")
    player = stand_ins.execute(REPLAY, bag="~/robot.yaml", player="mlesam").processes[-1]
    assert player.options["cmd"][2] == str(tmp_path / "robot.yaml")


@pytest.mark.parametrize("file", [PERCEPTION, REPLAY], ids=lambda path: path.stem)
def test_misspelled_argument_of_the_command_line_is_logged(tmp_path, monkeypatch, file):
    given = {"lidar_topc": "/points", "bag": str(tmp_path)}
    monkeypatch.setattr("sys.argv", ["ros2", "launch", "mlesam_ros", file.name])
    (said,) = stand_ins.execute(file, **given).said
    assert said == "argument lidar_topc does not exist and has no effect; did you mean lidar_topic?"
    assert not stand_ins.execute(file, bag=str(tmp_path), lidar_topic="/points").said
    monkeypatch.setattr("sys.argv", ["ros2", "launch", "my_robot", file.name])
    assert not stand_ins.execute(file, **given).said, "of a file around this one, which may well have such an argument"


def test_perception_keeps_the_discovery_range():
    for environment in ({}, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}):
        result = stand_ins.execute(PERCEPTION, environment)
        assert result.environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == environment.get(
            "ROS_AUTOMATIC_DISCOVERY_RANGE"
        )
        (profile,) = (result.environment[name] for name in PROFILE_VARIABLES if name in result.environment)
        assert "<address>" not in Path(profile).read_text()
    kept = stand_ins.execute(PERCEPTION, {PROFILE_VARIABLES[0]: "mine.xml"}).environment
    assert kept == {PROFILE_VARIABLES[0]: "mine.xml"}


def test_rviz_shows_topics_that_exist():
    result = stand_ins.execute(PERCEPTION, rviz="true", namespace="left", use_sim_time="true")
    rviz = result.processes[0]
    assert (rviz.options["namespace"], rviz.options["parameters"]) == ("/left", [{"use_sim_time": True}])
    assert (rviz.options["package"], rviz.options["arguments"][2:]) == ("rviz2", [])
    framed = stand_ins.execute(PERCEPTION, rviz="True", rviz_frame="camera_link").processes[0]
    assert framed.options["arguments"][2:] == ["-f", "camera_link"]
    config = yaml.safe_load(Path(rviz.options["arguments"][1]).read_text())
    displays = {d["Topic"]["Value"]: d for d in config["Visualization Manager"]["Displays"] if "Topic" in d}
    ours = {"semantic_points", "overlay", "projected_lidar", "confidence", "sensor_health"}
    assert set(displays) == {*(f"mlesam/{name}" for name in ours), "lidar/points"}
    for name in ours:
        kind = displays[f"mlesam/{name}"]["Class"].rpartition("/")[2]
        assert OUTPUTS[name].type_name.rpartition("/")[2] == kind


def test_foxglove_shows_topics_that_exist():
    layout = json.loads(resource_path("config/foxglove/perception.json").read_text())
    topics = {"/diagnostics", "/mlesam/labels", *(f"/mlesam/{name}" for name in OUTPUTS)}
    panels = layout["configById"]
    images = {p["imageMode"]["imageTopic"] for p in panels.values() if "imageMode" in p}
    assert images == {"/mlesam/overlay", "/mlesam/projected_lidar"} and images <= topics
    (space,) = (p for p in panels.values() if "topics" in p and "imageMode" not in p)
    assert set(space["topics"]) <= topics
    plotted = [path["value"] for p in panels.values() for path in p.get("paths", [])]
    assert plotted and all(path.startswith("/mlesam/status.latencies[:]{stage==") for path in plotted)
    used: list = []

    def walk(part):
        if isinstance(part, str):
            used.append(part)
        else:
            walk(part["first"])
            walk(part["second"])

    walk(layout["layout"])
    assert sorted(used) == sorted(panels), "every panel is in the layout, once"


def test_missing_rviz_fails_before_any_process(monkeypatch):
    monkeypatch.setattr(stand_ins, "ABSENT", {"rviz2"})
    with pytest.raises(LookupError, match="rviz2"):
        stand_ins.execute(PERCEPTION, rviz="true")


def test_demo_is_limited_to_localhost_and_renders_once(tmp_path):
    new = tmp_path / "streets" / "one"
    result = stand_ins.execute(DEMO, bag=str(new), weather="night")
    assert result.environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    (profile,) = (result.environment[name] for name in PROFILE_VARIABLES if name in result.environment)
    assert "<address>127.0.0.1</address>" in Path(profile).read_text()
    assert str(new) in result.said[0]
    node, street = result.processes
    assert node.options["executable"] == "perception_node"
    rendering = new.parent / ".rendering_one" / "one"
    assert street.options["cmd"] == ["mlesam_ros/mlesam", "simulate", str(rendering), "--weather", "night"]
    rendering.mkdir()
    player = street.options["on_exit"](stand_ins.ProcessExited(0), None)
    assert player.options["cmd"][1:] == ["play", str(new), "--loop"]
    assert new.is_dir() and not rendering.parent.exists()
    again = stand_ins.execute(DEMO, bag=str(new))
    assert not again.said
    assert again.processes[-1].options["cmd"][1:] == player.options["cmd"][1:]


def test_aborted_rendering_is_repeated(tmp_path):
    bag = tmp_path / "one"
    for _ in range(2):
        street = stand_ins.execute(DEMO, bag=str(bag)).processes[-1]
        half = Path(street.options["cmd"][2])
        assert not half.exists(), "simulate overwrites nothing"
        half.mkdir()
    assert street.options["on_exit"](stand_ins.ProcessExited(130), None) is None
    assert not any(tmp_path.iterdir())


def test_demo_has_one_bag_per_weather(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for weather in ("sun", "fog"):
        command = stand_ins.execute(DEMO, weather=weather).processes[-1].options["cmd"]
        bag = f"street_{weather}"
        rendering = tmp_path / ".ros/mlesam_ros" / f".rendering_{bag}" / bag
        assert command[1:] == ["simulate", str(rendering), "--weather", weather]


def test_invalid_parameter_file_starts_no_player(tmp_path):
    for path, given in ((DEMO, {}), (REPLAY, {"bag": str(tmp_path)})):
        with pytest.raises(RuntimeError, match=r"params_file:=/nowhere\.yaml is not a file"):
            stand_ins.execute(path, **{"bag": str(tmp_path / "new"), **given}, params_file="/nowhere.yaml")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"bag": "/nowhere"}, "bag:=/nowhere does not exist"),
        *(({"rate": r}, f"rate:={r}") for r in ("fast", "0", "-1", "1.2.3", "nan", "inf")),
    ],
)
def test_invalid_replay_is_refused_before_any_process(tmp_path, wrong, words):
    with pytest.raises(RuntimeError, match=words):
        stand_ins.execute(REPLAY, **{"bag": str(tmp_path), **wrong})


def test_replay_plays_the_bag_and_shares_its_clock(tmp_path):
    with pytest.raises(RuntimeError, match="bag"):
        stand_ins.execute(REPLAY)
    result = stand_ins.execute(REPLAY, bag=str(tmp_path), rate="0.5", player="mlesam")
    node, player = result.processes
    assert parameters_of(node)["use_sim_time"] is True
    command = player.options["cmd"]
    assert command[:5] == ["mlesam_ros/mlesam", "play", str(tmp_path), "--rate", "0.5"] and "--clock" in command
    assert result.environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def rosbag2_arguments():
    """What `ros2 bag play` accepts in every distribution from Humble on, of the arguments that replay.launch.py uses.

    After ros2bag/verb/play.py and ros2bag/api of github.com/ros2/rosbag2, branches humble, jazzy and rolling.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("bag_path")
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--clock", type=float, nargs="?", const=40, default=0)
    parser.add_argument("--qos-profile-overrides-path", type=Path)
    return parser


def test_replay_uses_rosbag2_if_it_supports_the_arguments(tmp_path, monkeypatch):
    bag = tmp_path / "bag"
    with BagWriter(bag):
        pass

    def player(**given):
        return stand_ins.execute(REPLAY, **{"bag": str(bag), **given}).processes[-1].options["cmd"]

    def accepted(command):
        assert command[:3] == ["ros2", "bag", "play"]
        return rosbag2_arguments().parse_args(command[3:])

    given = accepted(player(player="rosbag2", loop="true", rate="0.5"))
    assert (given.bag_path, given.rate, given.loop, given.clock) == (str(bag), 0.5, True, 100)
    latched = yaml.safe_load(given.qos_profile_overrides_path.read_text())["/tf_static"]
    assert latched["durability"] == "transient_local" and latched["depth"] >= 100
    monkeypatch.setattr("importlib.util.find_spec", {"ros2bag": "installed"}.get)
    assert not accepted(player()).loop
    ours = player(clock="False", loop="True")
    assert ours[:3] == ["mlesam_ros/mlesam", "play", str(bag)] and "--loop" in ours and "--clock" not in ours
    for unfit in (tmp_path, bag / "bag.mcap"):  # a folder without metadata, a bare file
        assert player(bag=str(unfit))[0] == "mlesam_ros/mlesam"
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    assert player()[0] == "mlesam_ros/mlesam"
    with pytest.raises(RuntimeError, match="player:=mlesam"):
        player(player="rosbag2", clock="false")


def test_replay_without_clock_uses_system_time(tmp_path):
    node, _ = stand_ins.execute(REPLAY, bag=str(tmp_path), clock="false").processes
    assert parameters_of(node) == {"use_sim_time": False}


def test_demo_and_replay_stay_on_the_machine_with_humble(tmp_path, monkeypatch):
    """Before Iron only ROS_LOCALHOST_ONLY is read."""
    monkeypatch.setattr("mlesam_ros.ros.middleware._rclpy_version", lambda: 3)
    for file in (DEMO, REPLAY):
        environment = stand_ins.execute(file, bag=str(tmp_path)).environment
        assert environment["ROS_LOCALHOST_ONLY"] == "1"
        assert "<address>127.0.0.1</address>" in Path(environment[PROFILE_VARIABLES[1]]).read_text()
