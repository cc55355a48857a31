# SPDX-License-Identifier: Apache-2.0
"""Parameter files and -p rules compared with rcl's parser."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")
import rclpy
from rclpy.node import Node

from mlesam_ros.config import load_parameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.parameter_file import read_node_parameters, read_override, read_parameter_file

FILES = {
    "for all": "/**:\n  ros__parameters: {rate: 5, lidar: {topic: /a, tolerance: 0.5}}\n",
    "by name": "mlesam:\n  ros__parameters: {rate: 6}\n",
    "by full name": "/mlesam:\n  ros__parameters: {rate: 7}\n/robot/mlesam:\n  ros__parameters: {rate: 8}\n",
    "nested": "robot:\n  mlesam:\n    ros__parameters: {rate: 9, modalities: [camera, lidar]}\n",
    "one below": "/*/mlesam:\n  ros__parameters: {rate: 10}\n",
    "any below": "/**/mlesam:\n  ros__parameters: {rate: 11}\n",
    "any name": "/robot/*:\n  ros__parameters: {rate: 12}\n",
    "several": "/**:\n  ros__parameters: {rate: 1, a: x}\n/robot/mlesam:\n  ros__parameters: {rate: 2}\n",
    "others": "/other:\n  ros__parameters: {rate: 3}\n/robot/other:\n  ros__parameters: {rate: 4}\n",
    "twice": "/**: {ros__parameters: {a: 1, a: 2}}\n",
    "section twice": "/mlesam: {ros__parameters: {a: 3}}\n/**: {ros__parameters: {a: 4}}\n"
    "/mlesam: {ros__parameters: {a: 6}}\n",
    "two spellings": "mlesam: {ros__parameters: {a: 3}}\n/**: {ros__parameters: {a: 4}}\n"
    "/mlesam: {ros__parameters: {a: 6}}\n",
    "dots": "/**:\n  ros__parameters: {lidar.offset: 1, lidar: {topic: x}, 1: 2, qos_overrides./tf.x: 3}\n",
    "words": "/**:\n  ros__parameters:\n    a: ~\n    b: null\n    c: y\n    d: 'y'\n    e: 1:30\n    f: 2020-01-01\n"
    '    g: 1_000\n    h: ""\n',
    "numbers": "/**:\n  ros__parameters: {a: 1e-3, b: 010, c: 0x10, d: .inf, e: 99999999999999999999, f: +5}\n",
    "lists": "/**:\n  ros__parameters:\n    a: [y, no]\n    b: [1, 2]\n    c:\n    - x\n    - ~\n",
    "tags": "/**:\n  ros__parameters: {a: !!int '5', b: !foo 3, c: !!str 4}\n",
    "byte order mark": "\ufeff/**:\n  ros__parameters: {a: 1}\n",
    "merge key": "/**:\n  ros__parameters: {<<: {a: 1}}\n",
    "empty": "# nothing\n",
    "empty section": "/**:\n  ros__parameters: {}\n",
}


@pytest.mark.parametrize("namespace", ["", "/robot", "/big/robot"])
@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_values_equal_those_of_rcl(text, namespace, tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    assert read_parameter_file(path, f"{namespace}/mlesam")[0] == by_rcl(["--params-file", str(path)], namespace)


def by_rcl(arguments: list[str], namespace: str = "") -> dict:
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = Node(
            "mlesam",
            context=context,
            namespace=namespace,
            cli_args=["--ros-args", *arguments],
            automatically_declare_parameters_from_overrides=True,
        )
        found = {name: node.get_parameter(name).value for name in node._parameter_overrides}
        node.destroy_node()
    finally:
        context.shutdown()
    return {name: list(v) if not isinstance(v, str) and hasattr(v, "__iter__") else v for name, v in found.items()}


BAD = {
    "no YAML": "{{{",
    "a number": "5",
    "a list": "- a",
    "no parameters": "mlesam: 5",
    "parameters that are a number": "mlesam:\n  ros__parameters: 5",
    "values without ros__parameters": "/**:\n  a: 1\n",
    "ros__parameters without a node": "ros__parameters: {a: 1}\n",
    "no Unicode": "\xff",
    "no value": "/**:\n  ros__parameters:\n    a:\n",
    "no value in a list": "/**:\n  ros__parameters: {a: [1, !x ]}\n",
    "several types": "/**:\n  ros__parameters:\n    a: [1, b]\n",
    "several numbers": "/**:\n  ros__parameters:\n    a: [1, 2.0]\n",
    "an alias": "/**:\n  ros__parameters:\n    a: &x 1\n    b: *x\n",
    "no name of a node": "a b:\n  ros__parameters: {a: 1}\n",
    "a hyphen": "a-b:\n  ros__parameters: {a: 1}\n",
    "a slash too many": "/mlesam/:\n  ros__parameters: {a: 1}\n",
    "a tab": "/**:\n\tros__parameters: {a: 1}\n",
    "no key": '/**:\n  ros__parameters: {"": 1}\n',
    "not closed": "/**:\n  ros__parameters: {a: 1\n",
    "a list of parameters": "/**:\n  ros__parameters:\n    - a\n",
    "nothing below": "/**:\n  ros__parameters:\n",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_files_refused_by_rcl_are_refused_with_their_name(text, tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"robot\.yaml"):
        read_parameter_file(path, "/mlesam")
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_parameter_file(tmp_path / "none.yaml", "/mlesam")
    if text not in ("5",):  # rcl takes a file of one word for an empty one
        with pytest.raises(RuntimeError):
            by_rcl(["--params-file", str(path)])


@pytest.mark.parametrize("text", ["a: [[1]]", "a: [{b: 1}]"])
def test_nested_lists_are_refused(text, tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(f"/**:\n  ros__parameters: {{{text}}}\n")
    with pytest.raises(ConfigError, match="a list or a mapping within a list"):
        read_parameter_file(path, "/mlesam")


def test_empty_list_is_no_value(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text("/**:\n  ros__parameters: {modalities: [], lidar: {}}\n")
    assert read_parameter_file(path, "/mlesam")[0] == {"modalities": None, "lidar": None}
    node_overrides = overrides_of(["--params-file", str(path)])
    assert node_overrides == {"modalities": None, "lidar": None}


def overrides_of(arguments: list[str]) -> dict:
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = Node("mlesam", context=context, cli_args=["--ros-args", *arguments])
        found = {name: override.value for name, override in node._parameter_overrides.items()}
        node.destroy_node()
    finally:
        context.shutdown()
    return found


RULES = [
    "x:=1", "mlesam:x:=2", "other:x:=3", "a/b:=1", "a.b.c:=1e-3", "x:=1:=2", "x:= 7", "x:='5'", "x:=[y, n]", "x:=- 5",
    "qos_overrides./tf.subscription.reliability:=best_effort", "a//b:=1", "/a:=1", "a/:=1",
    "x:=~", "x:=5 # c", "x:=!!str 5", "x:=&a 5", "x:=''",
    "/mlesam:x:=1", "/**:x:=1", "x=1", "x:=", ":=1", "x.:=1", "x y:=1", "mlesam:y:x:=1", "ä:=1", "x-y:=1", "~x:=1",
    "x:={a: 1}", "x:=a: b", "x:=[1, 2.0]", "x:=%a", "x:=@b", "x:=[1",
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_read_or_refused_as_by_rcl(rule):
    try:
        expected = by_rcl(["-p", rule])
    except RuntimeError:
        with pytest.raises(ConfigError, match="Write NAME:=VALUE"):
            read_override(rule, "/mlesam")
    else:
        assert read_override(rule, "/mlesam") == expected


@pytest.mark.parametrize("namespace", ["", "/robot"])
@pytest.mark.parametrize(
    "rules", [["a:=9"], ["mlesam:a:=9"], ["mlesam:a:=8", "a:=9"], ["a:=8", "mlesam:a:=9", "a:=7", "rate:=6"]], ids=str
)
@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_precedence_of_rules_and_file_equals_that_of_rcl(text, rules, namespace, tmp_path):
    """Precedence of sections and -p rules."""
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    arguments = ["--params-file", str(path), *(word for rule in rules for word in ("-p", rule))]
    assert read_node_parameters(path, rules, f"{namespace}/mlesam").values == by_rcl(arguments, namespace)


def test_rule_without_effect_is_a_warning_whose_remedy_helps(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text("/**: {ros__parameters: {max_wait: 0.2}}\n/mlesam: {ros__parameters: {max_wait: 0.3}}\n")
    parameters = load_parameters(path, ["max_wait:=0.4", "sensor_timeout:=3.0"])
    assert (parameters.max_wait, parameters.overridden) == (0.3, {"sensor_timeout"})
    (warning,) = parameters.warnings
    assert "-p max_wait:=… has no effect" in warning and f"a later section of {path} sets max_wait" in warning
    path.write_text(path.read_text().replace("0.3", "0.4"))
    assert load_parameters(path).max_wait == 0.4
    assert not load_parameters(path, ["mlesam:max_wait:=0.5"]).warnings


words = st.text("0123456789+-.eExXpPinfatyYNo_:~ ", min_size=1, max_size=8).map(str.strip).filter(bool)


@settings(max_examples=150, deadline=None)
@given(words)
@example("1e999")
@example("1e-310")
@example("0x1p3")
@example("0x.8")
@example("-.inf")
@example("-nan")
@example("infinity")
@example("09")
@example("-0")
@example("-9223372036854775809")
def test_scalar_types_equal_those_of_rcl(text):
    try:
        (expected,) = by_rcl(["-p", f"x:={text}"]).values()
    except RuntimeError:
        return
    try:
        (found,) = read_override(f"x:={text}", "/mlesam").values()
    except ConfigError:
        return  # PyYAML is stricter than libyaml about indicators; the node refuses it, too: it asks us first
    same = found == expected or (isinstance(found, float) and math.isnan(found) and math.isnan(expected))
    assert type(found) is type(expected) and same


def test_file_for_other_nodes_lists_its_sections(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text("/robot/mlesam:\n  ros__parameters: {a: 1}\n/other:\n  ros__parameters: {a: 1}\n")
    assert read_parameter_file(path, "/mlesam") == ({}, ["/robot/mlesam", "/other"])
    assert read_parameter_file(path, "/robot/mlesam") == ({"a": 1}, [])
    assert read_parameter_file(Path(path), "/other") == ({"a": 1}, [])
