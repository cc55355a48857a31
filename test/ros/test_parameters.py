"""The parameters: refused with the range, rolled back, and as the shipped file documents them."""

import dataclasses

import pytest
import yaml

pytest.importorskip("rclpy")
from rclpy.parameter import Parameter

from mlesam_ros.config import START, NodeParameters, iter_parameters, unknown_names
from mlesam_ros.errors import ConfigError
from mlesam_ros.resources import resource_path
from mlesam_ros.ros import parameters as declared


def flattened(tree: dict, prefix: str = "") -> dict:
    result: dict = {}
    for key, value in tree.items():
        result.update(flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return result


def test_the_shipped_file_states_every_default_and_nothing_else():
    stated = flattened(
        yaml.safe_load(resource_path("config/params/default.yaml").read_text())["/**"]["ros__parameters"]
    )
    defaults = {name: list(v) if isinstance(v, tuple) else v for name, _, v in iter_parameters()}
    assert stated == defaults
    assert {n: type(v) for n, v in stated.items()} == {n: type(v) for n, v in defaults.items()}


@pytest.mark.parametrize("path", sorted(resource_path("config/params").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_rig_is_accepted_by_the_node(graph, path):
    stated = flattened(yaml.safe_load(path.read_text())["/**"]["ros__parameters"])
    parameters = declared.declare(graph.node(parameter_overrides=[Parameter(n, value=v) for n, v in stated.items()]))
    assert not unknown_names(list(stated))
    read = dict((name, list(v) if isinstance(v, tuple) else v) for name, _, v in iter_parameters(parameters))
    assert {name: read[name] for name in stated} == stated
    assert set(parameters.primary_order) == set(parameters.modalities)


def test_every_parameter_is_described(graph):
    node = graph.node()
    declared.declare(node)
    for name, entry, default in iter_parameters():
        descriptor = node.describe_parameter(name)
        assert descriptor.description.endswith(".") and descriptor.additional_constraints
        assert descriptor.read_only == (entry.metadata["change"] == START)
        for choice in entry.metadata["choices"]:
            assert choice in descriptor.additional_constraints
        if isinstance(default, float):
            limits = descriptor.floating_point_range[0]
            assert limits.from_value <= default <= limits.to_value


def test_what_is_declared_is_what_is_read(graph):
    overrides = [
        Parameter("lidar.topic", value="roof/points"),
        Parameter("modalities", value=["lidar", "camera"]),
        Parameter("max_wait", value=0.2),
    ]
    parameters = declared.declare(graph.node(parameter_overrides=overrides))
    expected = dataclasses.replace(
        NodeParameters(),
        lidar=dataclasses.replace(NodeParameters().lidar, topic="roof/points"),
        modalities=("lidar", "camera"),
        max_wait=0.2,
    )
    assert parameters == expected


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("modalities", ["camera", "lidra"], "Did you mean lidar?"),
        ("modalities", ["camera", "camera"], "each once"),
        ("primary_order", [""], "accepted are lists of camera"),
        ("precision", "fp8", "fp32, bf16, fp16"),
        ("device", "gpu", "cuda:<number>"),
        ("device", "cuda:first", "cuda:<number>"),
        ("lidar.topic", "", "take it out of modalities"),
        ("camera.topic", "front camera", "such as camera/image_raw: topic name must not contain"),
        ("camera.info_topic", "front//info", "repeated"),
        ("camera.fit", "crop_tap", "Did you mean crop_top?"),
        ("camera.fit", "crop_top", "picture_size is [0, 0] with camera.fit 'crop_top'"),
        ("depth.picture_size", [640, 480], "0, 0 without"),
        ("lidar.type", "sensor_msgs/msg/PointClod2", "Did you mean sensor_msgs/msg/PointCloud2?"),
    ],
)
def test_bad_values_are_refused_by_name(graph, name, value, words):
    node = graph.node(parameter_overrides=[Parameter(name, value=value)])
    with pytest.raises(ConfigError) as caught:
        declared.declare(node)
    assert name in str(caught.value) and words in str(caught.value)


def test_misspelt_names_get_the_nearest():
    sentences = unknown_names(["confidence_treshold", "use_sim_time", "qos_overrides./x.y", "max_wait"])
    assert sentences == ["parameter confidence_treshold does not exist; did you mean confidence_threshold?"]
