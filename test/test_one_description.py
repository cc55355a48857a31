# SPDX-License-Identifier: Apache-2.0
"""One description of the sensors: a file is refused by node and commands in one sentence, a parameter reaches all."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("rclpy")
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from mlesam_ros.cli.app import app
from mlesam_ros.config import (
    AUTO,
    NodeParameters,
    build_parameters,
    iter_parameters,
    load_parameters,
    parameter_spec,
    sync_config,
)
from mlesam_ros.errors import ConfigError, MlesamError
from mlesam_ros.parameter_file import read_parameter_file
from mlesam_ros.resources import resource_path
from mlesam_ros.ros.parameters import declare_parameters, read_parameters
from mlesam_ros.ros.process import spin_node
from mlesam_ros.types import MODALITIES
from mlesam_training.recipe import load_recipe

SPECS = {name: parameter_spec(name, entry, default) for name, entry, default in iter_parameters()}

VALUES = {
    "a text for a number": "max_wait: soon",
    "a number for a text": "camera: {frame_id: 5}",
    "a word that YAML takes for true": "camera: {frame_id: on}",
    "a number below its range": "max_wait: -1.0",
    "a number above its range": "confidence_threshold: 1.5",
    "not a number": "lidar: {offset: .nan}",
    "infinite": "lidar: {tolerance: .inf}",
    "a fraction for a whole number": "threads: 1.5",
    "more than 64 bits": "threads: 99999999999999999999",
    "a text for true": "lidar: {required: 'yes'}",
    "an unknown modality": "modalities: [camera, lidra]",
    "a modality twice": "primary_order: [camera, camera]",
    "no modality": "modalities: []",
    "a text for a list": "modalities: camera",
    "an unknown precision": "precision: fp8",
    "an unknown device": "device: gpu",
    "an unknown message type": "lidar: {type: sensor_msgs/msg/PointClod2}",
    "the type of another sensor": "lidar: {type: sensor_msgs/msg/Image}",
    "a blank in a topic": "camera: {topic: front camera}",
    "slashes in a topic": "camera: {info_topic: front//info}",
    "no topic": 'lidar: {topic: ""}',
    "one topic for two sensors": "event: {topic: /camera/image_raw}",
    "an unknown fit": "camera: {fit: crop_tap}",
    "a fit without a size": "camera: {fit: crop_top}",
    "a size without a fit": "depth: {picture_size: [640, 480]}",
    "a size of three": "depth: {fit: rescale, picture_size: [640, 480, 3]}",
    "a required sensor that is disabled": "{modalities: [camera, depth], lidar: {required: true}}",
    "an order of disabled sensors": "{modalities: [camera, depth], primary_order: [lidar, event]}",
    "a history shorter than the wait": "{max_wait: 2.0, history: 1.0}",
    "an age shorter than the wait of a sensor": "{max_age: 1.0, lidar: {max_wait: 1.5}}",
    "a home folder that does not exist": "calibration_file: ~nobody_of_that_name/rig.yaml",
}
"""Kind → what stands below `ros__parameters`; the file can be read, its values cannot be used."""
FILES = {
    "no YAML": "{{{",
    "a list": "- a",
    "no ros__parameters": "mlesam: 5",
    "values without ros__parameters": "/**: {a: 1}",
    "no value": "/**:\n  ros__parameters:\n    lidar: {offset: }",
    "a list of several types": "/**:\n  ros__parameters: {modalities: [camera, 1]}",
    "an alias": "/**:\n  ros__parameters: {max_wait: &p 1.0, primary_timeout: *p}",
}


def write(folder: Path, text: str) -> Path:
    path = folder / "rig.params.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def node():
    context = rclpy.Context()
    rclpy.init(context=context)
    made = Node("mlesam", context=context)
    yield made
    made.destroy_node()
    context.shutdown()


@pytest.fixture
def graph_node(node):
    """Makes further nodes in the context of `node`."""
    nodes = []

    def make(**options):
        nodes.append(Node("mlesam", context=node.context, **options))
        return nodes[-1]

    yield make
    for made in nodes:
        made.destroy_node()


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_parameters(path)
    return str(caught.value)


def said_by(arguments: list[object]) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="mlesam")
    assert result.exit_code == 2, result.output
    return result.stderr.strip().splitlines()[-1].removeprefix("mlesam: ")


def commands(folder: Path, path: Path) -> dict[str, list[object]]:
    """Every command that reads a description of the sensors, with one that is to be refused."""
    data = {"kind": "bags", "folder": "arrays", "train": ["a"], "held_out": ["b"], "size": [64, 96]}
    recipe = {"stage": "experts", "steps": 1, "backbone": "b.safetensors", "model": {}, "data": data}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    named = {**recipe, "data": {**data, "params": path.name}}
    (folder / "named.yaml").write_text(yaml.safe_dump(named))
    return {
        "evaluate": ["evaluate", folder, "--params", path],
        "evaluate --params-file": ["evaluate", folder, "--params-file", path],
        "label": ["label", folder, "--out", folder / "labels", "--params", path],
        "doctor": ["doctor", folder, "--params", path],
        "sensors show": ["sensors", "show", folder, "--out", folder, "--params", path],
        "sensors check": ["sensors", "check", resource_path("config/rigs/example.yaml"), "--params", path],
        "play": ["play", folder, "--params", path],
        "train": ["train", folder / "recipe.yaml", "--params", path],
        "train, named by the recipe": ["train", folder / "named.yaml", "--out", folder / "out"],
    }


@pytest.mark.parametrize("text", VALUES.values(), ids=VALUES)
def test_a_value_is_refused_by_node_and_commands_in_one_sentence(text, tmp_path, node):
    """Node and commands raise the same error."""
    text = text if text.startswith("{") else f"{{{text}}}"
    path = write(tmp_path, f"/**:\n  ros__parameters: {text}\n")
    expected = refusal(path)
    given = read_parameter_file(path, "/mlesam")[0]
    node._parameter_overrides = {name: Parameter(name, value=value) for name, value in given.items()}
    with pytest.raises(ConfigError) as caught:
        declare_parameters(node)
    assert str(caught.value) == expected
    said = {name: said_by(line) for name, line in commands(tmp_path, path).items()}
    assert said == dict.fromkeys(said, expected)


@pytest.mark.parametrize(
    ("topic", "same"),
    [("events", True), ("/robot/events", True), ("/events", False)],
    ids=["relative", "full", "other"],
)
def test_topics_are_compared_as_a_node_in_a_namespace_resolves_them(topic, same, graph_node):
    """The reference is the name resolution of rclpy."""
    made = graph_node(namespace="robot", parameter_overrides=[Parameter("camera.topic", value=topic)])
    assert (made.resolve_topic_name(topic) == made.resolve_topic_name("events")) == same
    rules = [f"camera.topic:={topic}"]
    if same:
        with pytest.raises(ConfigError, match=r"camera\.topic and event\.topic are both /robot/events"):
            load_parameters(None, rules, "/robot/mlesam")
        with pytest.raises(ConfigError, match=r"camera\.topic and event\.topic are both /robot/events"):
            declare_parameters(made)
        return
    assert load_parameters(None, rules, "/robot/mlesam").camera.topic == topic
    declare_parameters(made)
    read_parameters(made).check_together()


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_is_refused_by_node_and_commands_in_one_sentence(text, tmp_path, capfd):
    path = write(tmp_path, text)
    expected = refusal(path)
    assert spin_node(SimpleNamespace, ["--ros-args", "--params-file", str(path)]) == 1
    assert capfd.readouterr().err.strip() == f"mlesam_ros: {expected}"
    assert {said_by(line) for line in commands(tmp_path, path).values()} == {expected}


@pytest.mark.parametrize("rule", ["lidar.offset", "lidar.offset=1", "lidar.offset:=", "lidar.offset:={a: 1}", "x y:=1"])
def test_a_rule_is_refused_by_node_and_commands_in_one_sentence(rule, tmp_path, capfd):
    assert spin_node(SimpleNamespace, ["--ros-args", "-p", rule]) == 1
    expected = capfd.readouterr().err.strip().removeprefix("mlesam_ros: ")
    lines = [
        [*line[:-2], "-p", rule] for line in commands(tmp_path, write(tmp_path, "")).values() if "--params" in line
    ]
    assert {said_by(line) for line in lines} == {expected}


def other_value(name):
    """A value that is not the default and that each parameter accepts by itself."""
    spec = SPECS[name]
    default = spec.default
    if isinstance(default, bool):
        return not default
    if name.endswith("picture_size") or name.endswith("fit"):
        return [640, 480] if name.endswith("picture_size") else "rescale"
    if isinstance(default, tuple):
        return list(reversed(default)) if default[1:] else ["elsewhere"]
    if isinstance(default, float | int):
        low, high = spec.limits
        return type(default)(next(value for value in (high / 2, high, low) if value != default))
    if spec.topic:
        return f"/somewhere/{name.replace('.', '/')}"
    own = {"device": "cpu", "depth.gravity": "normals"}
    return next((c for c in spec.choices if c not in (default, AUTO)), own.get(name, "elsewhere"))


def together(name):
    """Return the value with the parameters it depends on."""
    sensor = name.rpartition(".")[0]
    pair = (f"{sensor}.fit", f"{sensor}.picture_size")
    return {n: other_value(n) for n in (pair if name in pair else (name,))}


@pytest.mark.parametrize("name", SPECS)
def test_each_parameter_reaches_each_command(name, tmp_path, monkeypatch):
    """All fields of the dataclass."""
    given = together(name)
    expected = build_parameters(given).alone
    assert expected != NodeParameters()
    path = write(tmp_path, yaml.safe_dump({"/**": {"ros__parameters": given}}))
    seen = []

    def caught(parameters, *_, **__):
        seen.append(parameters)
        raise MlesamError("seen.")

    monkeypatch.setattr("mlesam_ros.cli.evaluate_run.load_pipeline", caught)
    monkeypatch.setattr("mlesam_ros.doctor.diagnosis.diagnose_bag", lambda bag, parameters, **_: caught(parameters))
    monkeypatch.setattr(
        "mlesam_ros.cli.sensors_scene.open_scene", lambda path, fit, rig, parameters, at: caught(parameters)
    )
    monkeypatch.setattr("mlesam_ros.cli.play._on_topic", lambda drop, parameters: caught(parameters))
    monkeypatch.setattr("mlesam_ros.cli.sensors._calibration_file", lambda calibration, parameters: caught(parameters))
    monkeypatch.setattr("mlesam_training.train_run.train", lambda recipe, *_, **__: caught(recipe.data.description()))
    bag = write_small(tmp_path)
    for command, line in commands(tmp_path, path).items():
        typed = [
            bag if argument == tmp_path and line[0] in ("evaluate", "label", "doctor") else argument
            for argument in line
        ]
        assert said_by([*typed, "--drop", "camera"] if command == "play" else typed) == "seen.", command
        assert seen.pop() == expected, command


def write_small(folder: Path) -> Path:
    from small_bag import write_small_bag

    write_small_bag(folder / "bag", 2)
    return folder / "bag"


def test_training_encodes_anew_for_all_but_what_images_do_not_depend_on():
    """Every parameter that changes encoded images is in their manifest."""
    free = {name for name, entry, _ in iter_parameters() if not entry.metadata["encoding"]}
    sensors = {f"{m}.{short}" for m in MODALITIES for short in ("rate", "skew")}
    assert free == sensors | {
        "autostart", "cameras", "checkpoint", "base_weights", "device", "precision", "runtime", "threads", "modalities",
        "sensor_timeout", "calibration_timeout", "labels_resolution", "confidence_threshold", "overlay_alpha",
        "overlay_width", "snapshot_seconds", "snapshot_megabytes", "snapshot_folder", "navigation.obstacle_classes",
        "navigation.ground_classes", "navigation.sensors", "navigation.min_confidence", "navigation.max_range",
        "navigation.voxel_size", "aligned.width",
    }  # fmt: skip


def test_the_file_gives_way_to_rules_and_they_to_later_ones(tmp_path):
    path = write(tmp_path, "/**:\n  ros__parameters: {max_wait: 0.3, lidar: {offset: 1e-1, topic: top}}\n")
    found = load_parameters(path, ["lidar.offset:=2e-1", "lidar.offset:=0.05", "other:max_wait:=1.0"])
    assert (found.max_wait, found.lidar.offset, found.lidar.topic) == (0.3, 0.05, "top")
    assert found.given == {"max_wait", "lidar.offset", "lidar.topic"} and found.overridden == {"lidar.offset"}
    assert load_parameters(path, (), "/mlesam", {"lidar.offset": 7.0}).lidar.offset == 7.0


def test_what_has_no_effect_is_a_warning(tmp_path):
    """A misspelled name, or a file for another node."""
    path = write(tmp_path, "/robot/mlesam:\n  ros__parameters: {max_wait: 0.3, lidar: {ofset: 1.0}}\n")
    assert load_parameters(path).warnings == (
        f"{path} has no section for /mlesam and sets no parameter; its sections are /robot/mlesam.",
    )
    found = load_parameters(path, (), "/robot/mlesam")
    assert found.max_wait == 0.3
    assert found.warnings == ("parameter lidar.ofset does not exist; did you mean lidar.offset?",)


def test_a_recipe_names_the_file_beside_it(tmp_path):
    """Relative to the recipe, not to the working directory; the recipe's own parameters count over the file's."""
    (tmp_path / "rigs").mkdir()
    write(tmp_path / "rigs", "/**:\n  ros__parameters: {lidar: {offset: 0.2, tolerance: 0.3}}\n")
    data = {
        "kind": "bags", "folder": "arrays", "train": ["a"], "held_out": ["b"], "size": [64, 96],
        "params": "rigs/rig.params.yaml", "parameters": {"lidar.offset": 0.05, "camera.rectified": True},
    }  # fmt: skip
    recipe = {"stage": "experts", "steps": 1, "backbone": "b.safetensors", "model": {}, "data": data}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = load_recipe(tmp_path / "recipe.yaml").data.description()
    assert (found.lidar.offset, found.lidar.tolerance, found.camera.rectified) == (0.05, 0.3, True)


@pytest.mark.parametrize("name", [n for n, s in SPECS.items() if isinstance(s.default, float | int) and s.limits])
def test_no_accepted_number_contradicts_another_limit(name):
    """The limits of each number are usable with all others at their defaults."""
    for value in map(type(SPECS[name].default), SPECS[name].limits):
        try:
            parameters = build_parameters({name: value})
        except ConfigError as error:
            assert name in ("history", "max_age") and "derives it" in str(error)
            continue
        config = sync_config(parameters, MODALITIES)
        longest = max(parameters.max_wait_of(m) + parameters.sensor(m).tolerance for m in MODALITIES)
        assert math.isfinite(longest) and config.oldest > longest


def test_a_sensor_has_its_own_max_wait():
    parameters = load_parameters(overrides=["max_wait:=0.2", "lidar.max_wait:=1.5", "depth.max_wait:=0"])
    config = sync_config(parameters, MODALITIES)
    assert {m: config.nanoseconds("max_wait", m) / 1e9 for m in MODALITIES} == {
        "camera": 0.2, "depth": 0.0, "event": 0.2, "lidar": 1.5,
    }  # fmt: skip
