# SPDX-License-Identifier: Apache-2.0
"""Parameters: declaration, validation at start and at run time, and the shipped files."""

import math

import pytest
import yaml

pytest.importorskip("rclpy")
from hypothesis import given, settings
from hypothesis import strategies as st
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter
from robot import Robot
from sensor_msgs.msg import Image
from test_checkpoint_swap import trained

from mlesam_ros.config import iter_parameters, parameter_spec, unknown_names
from mlesam_ros.errors import ConfigError
from mlesam_ros.parameter_file import format_value
from mlesam_ros.parameter_groups import START
from mlesam_ros.resources import resource_path
from mlesam_ros.ros.parameters import declare_parameters, read_parameters


def flattened(tree: dict, prefix: str = "") -> dict:
    result: dict = {}
    for key, value in tree.items():
        result.update(flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return result


def test_default_file_has_every_default_and_nothing_else():
    stated = flattened(
        yaml.safe_load(resource_path("config/params/default.yaml").read_text())["/**"]["ros__parameters"]
    )
    defaults = {name: list(v) if isinstance(v, tuple) else v for name, _, v in iter_parameters()}
    assert stated == defaults
    assert {n: type(v) for n, v in stated.items()} == {n: type(v) for n, v in defaults.items()}


@pytest.mark.parametrize("path", sorted(resource_path("config/params").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_parameter_files_are_valid(graph, path):
    stated = flattened(yaml.safe_load(path.read_text())["/**"]["ros__parameters"])
    parameters = declare_parameters(graph.node(parameter_overrides=[Parameter(n, value=v) for n, v in stated.items()]))
    assert not unknown_names(list(stated))
    read = dict((name, list(v) if isinstance(v, tuple) else v) for name, _, v in iter_parameters(parameters))
    assert {name: read[name] for name in stated} == stated
    assert set(parameters.primary_order) == set(parameters.modalities)


def test_every_parameter_is_described(graph):
    node = graph.node()
    declare_parameters(node)
    for name, entry, default in iter_parameters():
        descriptor = node.describe_parameter(name)
        assert descriptor.description.endswith(".") and descriptor.additional_constraints
        assert descriptor.read_only == (entry.metadata["change"] == START)
        for choice in entry.metadata["choices"]:
            assert choice in descriptor.additional_constraints
        if isinstance(default, float):
            limits = descriptor.floating_point_range[0]
            assert limits.from_value <= default <= limits.to_value


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
def test_invalid_values_are_refused_with_their_name(graph, name, value, words):
    node = graph.node(parameter_overrides=[Parameter(name, value=value)])
    with pytest.raises(ConfigError) as caught:
        declare_parameters(node)
    assert name in str(caught.value) and words in str(caught.value)


def test_misspelled_name_has_a_suggestion():
    sentences = unknown_names(["confidence_treshold", "use_sim_time", "qos_overrides./x.y", "max_wait"])
    assert sentences == ["parameter confidence_treshold does not exist; did you mean confidence_threshold?"]


KNOWN = {name: parameter_spec(name, entry, default) for name, entry, default in iter_parameters()}
SAMPLES = (True, 1, 1.5, "on", b"on", ["camera", "sonar"], [1, 2, 3], [0.5], [True], [], None)
"""A value of every type that ROS has; each of the lists is wrong for every list of ours."""


def wrong_values(limits):
    """Yield values of a wrong type, range, length, choice or name."""
    default, several = limits.default, isinstance(limits.default, tuple)
    fits = (int, float) if isinstance(default, float) else (type(default),)
    names = several and isinstance(default[0], str) and not limits.choices  # of classes, which the checkpoint has
    yield from (s for s in SAMPLES if type(s) not in fits and not (names and s and s == SAMPLES[5]))
    if isinstance(default, float):
        yield from (math.nan, math.inf, -math.inf)
    if limits.limits is not None:
        low, high = (type(default)(end) if not several else int(end) for end in limits.limits)
        yield from ([low - 1, high], [low, high + 1], [low]) if several else (low - 1, high + 1)
    if limits.choices:
        yield from ([[word] if several else word for word in ("nonsense", " camera", "CAMERA")])
    if limits.topic:
        yield from ("a b", "/a//b", "9a", "a/")


WRONG = [(name, value) for name, limits in KNOWN.items() for value in wrong_values(limits)]


def message(name, value):
    if value is None or value == []:
        kind = ParameterType.PARAMETER_NOT_SET if value is None else ParameterType.PARAMETER_STRING_ARRAY
        return ParameterMessage(name=name, value=ParameterValue(type=kind))
    if isinstance(value, bytes):
        listed = ParameterValue(type=ParameterType.PARAMETER_BYTE_ARRAY, byte_array_value=[value[:1]])
        return ParameterMessage(name=name, value=listed)
    return Parameter(name, value=value).to_parameter_msg()


def assert_says(reason, name, value):
    """Check that the reason has name, value and accepted values."""
    value = Parameter.from_parameter_msg(message(name, value)).value
    assert reason.startswith(f"{name} has no value;" if value is None else f"{name} is {format_value(value)};")
    assert f"accepted are {KNOWN[name].description}" in reason or "accepted are names of topics, such as" in reason


def test_every_parameter_has_invalid_values():
    assert {name for name, _ in WRONG} == set(KNOWN) and len(WRONG) > 10 * len(KNOWN)
    numbers = [limits for limits in KNOWN.values() if type(limits.default) in (int, float)]
    assert numbers and all(limits.limits for limits in numbers)


def test_invalid_values_are_refused_at_start(graph):
    node = graph.node()
    for name, value in WRONG:
        node._parameter_overrides = {name: Parameter.from_parameter_msg(message(name, value))}
        with pytest.raises(ConfigError) as caught:
            declare_parameters(node)
        assert_says(str(caught.value), name, value)
    assert not any(node.has_parameter(name) for name in KNOWN)


@pytest.fixture
def node(graph, weights):
    made = graph.perception_node(weights)
    made.start()
    return made


@pytest.fixture
def ask(graph, node):
    """Call a parameter service of the node, as `ros2 param set` does."""
    asker = graph.node("asker")

    def call(kind, name, messages):
        client = asker.create_client(kind, f"/mlesam/{name}")
        assert graph.spin_until(client.service_is_ready)
        answer = client.call_async(kind.Request(parameters=messages))
        assert graph.spin_until(answer.done)
        return answer.result()

    return call


def test_refused_values_leave_the_node_unchanged(graph, node, ask):
    def types():
        return [descriptor.type for descriptor in node.describe_parameters(list(KNOWN))]

    before, described = read_parameters(node), types()
    results = ask(SetParameters, "set_parameters", [message(*wrong) for wrong in WRONG]).results
    for (name, value), result in zip(WRONG, results, strict=True):
        assert not result.successful
        if name not in ("autostart", "cameras"):  # read once at start
            assert_says(result.reason, name, value)
    assert (read_parameters(node), types()) == (before, described)
    assert node.parameters == before and node.state == "active"
    robot, masks = Robot(graph.node("robot")), []
    graph.node("listener").create_subscription(Image, "/mlesam/labels", masks.append, 5)
    for _ in range(300):
        robot.sense()
        if graph.spin_until(lambda: masks, 0.1):
            break
    assert masks


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("autostart", False, "read once at start"),
        ("use_sim_time", 1, "use_sim_time is 1; accepted are true and false."),
        ("confidence_treshold", 0.5, "did you mean confidence_threshold?"),
        ("camera.frame_id", True, "write 'true' in a file, and \"'true'\" in a shell."),
        ("navigation.obstacle_classes", ["Cars", "Trucks"], "Did you mean Truck?"),
        ("navigation.ground_classes", ["Road", "Cars"], "both have Cars"),
    ],
)
def test_other_refusals_have_a_reason(node, ask, name, value, words):
    (result,) = ask(SetParameters, "set_parameters", [message(name, value)]).results
    assert not result.successful and words in result.reason


def test_integer_is_accepted_for_a_double(graph, node, ask):
    changes = [message("overlay_alpha", 1), message("sensor_timeout", 5)]
    assert ask(SetParametersAtomically, "set_parameters_atomically", changes).result.successful
    found = [node.get_parameter(name) for name in ("overlay_alpha", "sensor_timeout")]
    assert [(p.type_, p.value) for p in found] == [(Parameter.Type.DOUBLE, 1.0), (Parameter.Type.DOUBLE, 5.0)]
    assert node.parameters.sensor_timeout == 5.0
    changes = [message("overlay_alpha", 0), message("rat", 1)]
    refused = ask(SetParametersAtomically, "set_parameters_atomically", changes)
    assert not refused.result.successful and node.parameters.overlay_alpha == 1.0
    at_start = graph.node("other", parameter_overrides=[Parameter("max_wait", value=1)])
    assert declare_parameters(at_start).max_wait == 1.0
    assert at_start.get_parameter("max_wait").type_ == Parameter.Type.DOUBLE


def test_classes_that_the_checkpoint_lacks_are_refused_by_configure(graph, weights):
    made = graph.perception_node({**weights, "navigation.obstacle_classes": ["car"]})
    made.start()
    assert made.state == "unconfigured" and "Did you mean Cars?" in made._failure
    assert made.set_parameters([Parameter("navigation.obstacle_classes", value=["Cars"])])[0].successful
    made.start()
    assert made.state == "active"


def test_dependent_parameters_are_checked_by_configure(node):
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert node.set_parameters([Parameter("camera.fit", value="rescale")])[0].successful
    node.start()
    assert node.state == "unconfigured", "there is no size yet"
    assert node.set_parameters([Parameter("camera.picture_size", value=[640, 480])])[0].successful
    node.start()
    assert node.state == "active"


@pytest.fixture
def start(graph, weights):
    """An active node with the tiny model."""

    def make(checkpoint=None, **parameters):
        given = {name.replace("__", "."): value for name, value in parameters.items()}
        made = graph.perception_node({**weights, **given, **({"checkpoint": checkpoint} if checkpoint else {})})
        made.start()
        assert made.state == "active"
        return made

    return make


@pytest.mark.parametrize(
    ("begun", "modalities", "words"),
    [
        ({"modalities": ["camera"], "camera__topic": "/events"}, ["camera", "event"], "are both /events"),
        ({"lidar__required": True}, ["camera", "depth"], "lidar.required is true and modalities is"),
        ({"primary_order": ["lidar"]}, ["camera", "depth"], "primary_order is ['lidar'] and modalities is"),
    ],
    ids=["one topic twice", "required", "order"],
)
def test_live_change_is_checked_with_the_other_parameters(start, begun, modalities, words):
    """Combinations that start refuses are refused one by one, too."""
    node = start(**begun)
    before = node.get_parameter("modalities").value
    result = node.set_parameters([Parameter("modalities", value=modalities)])[0]
    assert not result.successful and words in result.reason and result.reason.count(".") >= 2, result.reason
    assert node.get_parameter("modalities").value == before == list(node.parameters.modalities)


def test_live_change_is_checked_with_the_experts_of_the_checkpoint(start, weights, tmp_path):
    """Sensors without an expert are refused as by configure."""
    two = trained(tmp_path, weights, "two", modalities=("camera", "depth"))
    node = start(two)
    for wrong in (["event"], ["lidar", "event"]):
        result = node.set_parameters([Parameter("modalities", value=wrong)])[0]
        assert not result.successful and "experts for camera, depth only" in result.reason
    assert node.set_parameters([Parameter("modalities", value=["depth", "event"])])[0].successful
    assert list(node.parameters.modalities) == ["depth", "event"]


@pytest.mark.parametrize(
    ("given", "words"),
    [({"lidar.required": True}, "lidar.required is true"), ({"primary_order": ["lidar", "event"]}, "primary_order is")],
    ids=["required", "order"],
)
def test_configure_refuses_required_sensors_without_expert(graph, weights, tmp_path, given, words):
    """A required sensor, or all of primary_order, without an expert."""
    two = trained(tmp_path, weights, "two", modalities=("camera", "depth"))
    values = {**weights, "checkpoint": two, "modalities": ["depth", "lidar"], **given}
    made = graph.perception_node(values)
    made.start()
    assert made.state == "unconfigured" and words in made._failure and "experts for camera, depth only" in made._failure


entries = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=20))
anything = st.one_of(entries, st.lists(entries, max_size=5), st.none())


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(KNOWN)), anything)
def test_value_is_accepted_unchanged_or_refused(name, value):
    limits = KNOWN[name]
    try:
        taken = limits.validate(value)
    except ConfigError as error:
        assert str(error).startswith(f"{name} ") and "accepted are" in str(error) and "\n" not in str(error)
    else:
        assert type(taken) is type(limits.default) and limits.validate(taken) == taken
        assert taken == (tuple(value) if isinstance(value, list) else value)


@given(st.sampled_from(sorted(n for n, limits in KNOWN.items() if limits.limits)), st.data())
def test_every_number_within_the_range_is_accepted(name, data):
    limits = KNOWN[name]
    low, high = limits.limits
    numbers = st.floats(low, high) if isinstance(limits.default, float) else st.integers(int(low), int(high))
    value = data.draw(st.tuples(numbers, numbers) if isinstance(limits.default, tuple) else numbers)
    assert limits.validate(value) == value
