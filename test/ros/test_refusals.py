"""Every parameter refuses what it does not accept, with name, value and what it accepts; the old value stays."""

import math

import pytest

pytest.importorskip("rclpy")
from hypothesis import given, settings
from hypothesis import strategies as st
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter
from robot import Robot
from sensor_msgs.msg import Image
from test_exchange import trained

from mlesam_ros.config import iter_parameters, parameter_spec
from mlesam_ros.errors import ConfigError
from mlesam_ros.parameter_file import shown
from mlesam_ros.ros import parameters as declared
from mlesam_ros.ros.node import PerceptionNode

KNOWN = {name: parameter_spec(name, entry, default) for name, entry, default in iter_parameters()}
SAMPLES = (True, 1, 1.5, "on", b"on", ["camera", "sonar"], [1, 2, 3], [0.5], [True], [], None)
"""A value of every type that ROS has; each of the lists is wrong for every list of ours."""


def wrong_values(limits):
    """Of another type, below, above, not a number, of another length, not among the choices, no name, none at all."""
    default, several = limits.default, isinstance(limits.default, tuple)
    fits = (int, float) if isinstance(default, float) else (type(default),)
    yield from (sample for sample in SAMPLES if type(sample) not in fits)
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
    """Name, value and what is accepted are in it."""
    value = Parameter.from_parameter_msg(message(name, value)).value
    assert reason.startswith(f"{name} has no value;" if value is None else f"{name} is {shown(value)};")
    assert f"accepted are {KNOWN[name].words}" in reason or "accepted are names of topics, such as" in reason


def test_there_is_something_wrong_for_every_parameter():
    assert {name for name, _ in WRONG} == set(KNOWN) and len(WRONG) > 10 * len(KNOWN)
    numbers = [limits for limits in KNOWN.values() if type(limits.default) in (int, float)]
    assert numbers and all(limits.limits for limits in numbers)


def test_nothing_wrong_is_taken_at_start(graph):
    node = graph.node()
    for name, value in WRONG:
        node._parameter_overrides = {name: Parameter.from_parameter_msg(message(name, value))}
        with pytest.raises(ConfigError) as caught:
            declared.declare(node)
        assert_says(str(caught.value), name, value)
    assert not any(node.has_parameter(name) for name in KNOWN)


@pytest.fixture
def node(graph, weights):
    made = graph.node("mlesam", PerceptionNode, parameter_overrides=[Parameter(n, value=v) for n, v in weights.items()])
    made.start()
    return made


@pytest.fixture
def ask(graph, node):
    """What `ros2 param set` does: ask the node's service."""
    asker = graph.node("asker")

    def call(kind, name, messages):
        client = asker.create_client(kind, f"/mlesam/{name}")
        assert graph.spin_until(client.service_is_ready)
        answer = client.call_async(kind.Request(parameters=messages))
        assert graph.spin_until(answer.done)
        return answer.result()

    return call


def test_a_node_keeps_the_old_values_and_runs_on(graph, node, ask):
    def types():
        return [descriptor.type for descriptor in node.describe_parameters(list(KNOWN))]

    before, described = declared.read(node), types()
    results = ask(SetParameters, "set_parameters", [message(*wrong) for wrong in WRONG]).results
    for (name, value), result in zip(WRONG, results, strict=True):
        assert not result.successful
        if name != "autostart":
            assert_says(result.reason, name, value)
    assert (declared.read(node), types()) == (before, described)
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
    ],
)
def test_what_else_cannot_be_set_says_why(node, ask, name, value, words):
    (result,) = ask(SetParameters, "set_parameters", [message(name, value)]).results
    assert not result.successful and words in result.reason


def test_a_whole_number_will_do_for_a_double(graph, node, ask):
    changes = [message("overlay_alpha", 1), message("sensor_timeout", 5)]
    assert ask(SetParametersAtomically, "set_parameters_atomically", changes).result.successful
    found = [node.get_parameter(name) for name in ("overlay_alpha", "sensor_timeout")]
    assert [(p.type_, p.value) for p in found] == [(Parameter.Type.DOUBLE, 1.0), (Parameter.Type.DOUBLE, 5.0)]
    assert node.parameters.sensor_timeout == 5.0
    changes = [message("overlay_alpha", 0), message("rat", 1)]
    refused = ask(SetParametersAtomically, "set_parameters_atomically", changes)
    assert not refused.result.successful and node.parameters.overlay_alpha == 1.0
    at_start = graph.node("other", parameter_overrides=[Parameter("max_wait", value=1)])
    assert declared.declare(at_start).max_wait == 1.0
    assert at_start.get_parameter("max_wait").type_ == Parameter.Type.DOUBLE


def test_what_belongs_together_can_be_set_one_by_one_and_is_judged_by_configure(node):
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
        values = {**weights, **parameters, **({"checkpoint": checkpoint} if checkpoint else {})}
        given = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        made = graph.node("mlesam", PerceptionNode, parameter_overrides=given)
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
def test_a_live_change_is_judged_together_with_the_other_parameters(start, begun, modalities, words):
    """Kind: values refused together at start and taken one after the other while the node runs."""
    node = start(**begun)
    before = node.get_parameter("modalities").value
    result = node.set_parameters([Parameter("modalities", value=modalities)])[0]
    assert not result.successful and words in result.reason and result.reason.count(".") >= 2, result.reason
    assert node.get_parameter("modalities").value == before == list(node.parameters.modalities)


def test_a_live_change_is_judged_by_the_experts_of_the_checkpoint(start, weights, tmp_path):
    """Kind: sensors that configure refuses for want of an expert, and `ros2 param set` takes."""
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
def test_configure_refuses_what_the_experts_cannot_serve(graph, weights, tmp_path, given, words):
    """Kind: a required sensor, or an order of sensors, without an expert: the node would be mute, or not require it."""
    two = trained(tmp_path, weights, "two", modalities=("camera", "depth"))
    values = {**weights, "checkpoint": two, "modalities": ["depth", "lidar"], **given}
    made = graph.node("mlesam", PerceptionNode, parameter_overrides=[Parameter(n, value=v) for n, v in values.items()])
    made.start()
    assert made.state == "unconfigured" and words in made._failure and "experts for camera, depth only" in made._failure


entries = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=20))
anything = st.one_of(entries, st.lists(entries, max_size=5), st.none())


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(KNOWN)), anything)
def test_a_value_is_either_taken_as_it_is_or_refused_in_one_line(name, value):
    limits = KNOWN[name]
    try:
        taken = limits.take(value)
    except ConfigError as error:
        assert str(error).startswith(f"{name} ") and "accepted are" in str(error) and "\n" not in str(error)
    else:
        assert type(taken) is type(limits.default) and limits.take(taken) == taken
        assert taken == (tuple(value) if isinstance(value, list) else value)


@given(st.sampled_from(sorted(n for n, limits in KNOWN.items() if limits.limits)), st.data())
def test_every_number_within_the_range_is_taken(name, data):
    limits = KNOWN[name]
    low, high = limits.limits
    numbers = st.floats(low, high) if isinstance(limits.default, float) else st.integers(int(low), int(high))
    value = data.draw(st.tuples(numbers, numbers) if isinstance(limits.default, tuple) else numbers)
    assert limits.take(value) == value
