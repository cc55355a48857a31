# SPDX-License-Identifier: Apache-2.0
"""Every remedy that the doctor and /diagnostics print for a live graph removes its fault.

Parameters, variables and commands are parsed from the printed text.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from ros_graph import Graph
from rule_findings import LIVE, findings_of_rule

from mlesam_ros.cli.common import allocate_domain
from mlesam_ros.doctor.diagnosis import DoctorReport
from mlesam_ros.doctor.rules import RULES
from mlesam_ros.doctor.timing import TopicStats
from mlesam_ros.doctor.tuning import simulate_sync
from mlesam_ros.errors import Finding, Problem
from mlesam_ros.evaluation.bag_sensors import TopicSource
from mlesam_ros.ros.diagnostics import OK, PIPELINE_MESSAGES, SENSOR_MESSAGES, WARN, DiagnosticBuilder, SensorHealth
from mlesam_ros.ros.live_doctor import diagnose_live
from mlesam_ros.sync import SyncConfig
from mlesam_ros.types import MODALITIES

HERE = Path(__file__).resolve().parent
PATH = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
NODE = "/mlesam"
TYPES = {"camera": "sensor_msgs/msg/Image", "lidar": "sensor_msgs/msg/PointCloud2"}


@dataclass
class World:
    """A graph and the settings of the doctor.

    Attributes:
        robots: what each robot is told, see `robot_process`.
        flood: environment of a driver of large images; None for no such driver.
        settings: of the perception node.
        doubles: arguments of nodes that are called as the perception node.
        environment: variables of the doctor.
    """

    robots: list[dict] = field(default_factory=lambda: [{}])
    flood: dict | None = None
    settings: dict = field(default_factory=dict)
    doubles: list[list[str]] = field(default_factory=list)
    environment: dict = field(default_factory=dict)


@dataclass
class Live:
    """A rule, a graph with that finding, and the change of the graph that applies its remedy."""

    kind: str
    fault: World
    apply: Callable[[str, World], World]


def setting(remedy: str, world: World) -> World:
    """`set NAME to VALUE` or `set NAME: VALUE`."""
    name, value = re.search(r"[Ss]et ([\w./]+?)(?: to|:) ([\w./]+?)[,.]?( |$)", remedy).groups()[:2]
    return replace(world, settings={**world.settings, name: value})


def without(remedy: str, world: World) -> World:
    """`remove SENSOR from modalities`."""
    taken = re.search(r"remove (\w+) from modalities", remedy)[1]
    return replace(world, settings={**world.settings, "modalities": [m for m in MODALITIES if m != taken]})


def said(words: str, mended: World) -> Callable[[str, World], World]:
    """Remedy outside of the node's parameters; it must contain these words."""

    def apply(remedy: str, world: World) -> World:
        assert words in remedy, remedy
        return mended

    return apply


def profile(remedy: str, world: World) -> World:
    name, path = re.search(r"Set (\w+)=(\S+) where the driver starts", remedy).groups()
    return replace(world, flood={name: path})


def rename(remedy: str, world: World) -> World:
    return replace(world, doubles=[[], re.search(r"(--ros-args -r \S+)", remedy)[1].split()])


OVERRIDE = "qos_overrides./lidar/points.subscription.reliability"
CLOCK = [{"clock": True}]
TRIALS = [
    Live("no_publisher", World(settings={"camera.topic": "/nowhere"}), setting),
    Live("no_publisher", World(settings={"camera.topic": "/nowhere"}), without),
    Live(
        "empty_graph",
        World(environment={"ROS_DOMAIN_ID": str(allocate_domain())}),
        said("the same values of these variables", World()),
    ),
    Live(
        "unreadable_type",
        World(settings={"lidar.topic": "/camera/camera_info"}),
        said("Set lidar.topic", World(settings={"lidar.topic": "/lidar/points"})),
    ),
    Live("no_clock", World(settings={"use_sim_time": True}), said("unset use_sim_time", World())),
    Live("two_nodes", World(doubles=[[], []]), rename),
    Live("several_publishers", World([{}, {}]), said("Stop all but one", World())),
    Live("no_message", World([{"silent": ["lidar"]}]), said("whether the driver sends", World())),
    Live("qos_mismatch", World([{"reliability": "BEST_EFFORT"}], settings={OVERRIDE: "reliable"}), setting),
    Live("clock_unused", World(CLOCK), said("Set use_sim_time", World(CLOCK, settings={"use_sim_time": True}))),
    Live("transport_loss", World(robots=[], flood={}, settings={"modalities": ["camera"]}), profile),
]


class Stage:
    """Processes and nodes of a graph; those that the next graph also has are kept."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen] = []
        self._graphs: list[Graph] = []
        self._drivers: tuple | None = None
        self._doubles: list[list[str]] = []

    def enter(self, world: World) -> None:
        if self._drivers != (world.robots, world.flood):
            self._end_drivers()
            for robot in world.robots:
                self._start("robot_process.py", json.dumps(robot))
            if world.flood is not None:
                self._start("oversize_publisher.py", "/camera/image_raw", *map("=".join, world.flood.items()))
            self._drivers = world.robots, world.flood
        if self._doubles != world.doubles:
            self._end_doubles()
            for arguments in world.doubles:
                self._graphs.append(Graph())
                self._graphs[-1].node("mlesam", cli_args=arguments or None)
            self._doubles = world.doubles

    def leave(self) -> None:
        self._end_drivers()
        self._end_doubles()

    def _start(self, script: str, *arguments: str) -> None:
        command = [sys.executable, str(HERE / script), *arguments]
        self._running.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PATH}, stdout=subprocess.PIPE))
        assert self._running[-1].stdout.readline() == b"driving\n"

    def _end_drivers(self) -> None:
        for process in self._running:
            process.kill()
            process.wait(20)
        self._running.clear()
        self._drivers = None

    def _end_doubles(self) -> None:
        for graph in self._graphs:
            graph.close()
        self._graphs.clear()
        self._doubles = []


@pytest.fixture(scope="module")
def stage():
    made = Stage()
    yield made
    made.leave()


def look(world: World, done: Callable[[DoctorReport], bool], seconds: float = 1.0) -> DoctorReport:
    """Examine until it is done; a busy machine gets several tries, each longer than the one before.

    No node of these worlds tells diagnostics. Without `doubles` none has the name, and those answer no service.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.environment.items():
            patch.setenv(name, value)
        patch.setattr("mlesam_ros.ros.live_doctor._DIAGNOSTICS_TIMEOUT_S", 0.0)
        if world.doubles:
            patch.setattr("mlesam_ros.ros.live_doctor._SERVICE_TIMEOUT_S", 0.2)
        for attempt in range(1, 7):
            patch.setattr("mlesam_ros.ros.live_doctor._DISCOVERY_S", (0.5 * attempt, 0.5 * attempt))
            report = diagnose_live(NODE, world.settings, None, seconds * attempt)
            if done(report):
                break
    return report


def delivers(report: DoctorReport, world: World) -> bool:
    """Whether messages of every sensor arrived, and every node of the world was seen."""
    sensors = {modality for modality, row in report.sensors.items() if row["messages"]}
    seen = not (world.doubles and findings_of_rule(report, "node_absent"))
    return sensors == {*world.settings.get("modalities", MODALITIES)} and seen


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.kind)
def test_printed_remedy_helps(stage, trial):
    stage.enter(trial.fault)
    found = findings_of_rule(look(trial.fault, lambda report: bool(findings_of_rule(report, trial.kind))), trial.kind)
    assert found, trial.kind
    mended = trial.apply(found[0].remedy, trial.fault)
    assert mended != trial.fault
    stage.enter(mended)
    subjects = {f.subject for f in found}

    def left(report: DoctorReport) -> list[Finding]:
        return [f for f in findings_of_rule(report, trial.kind) if f.subject in subjects]

    report = look(mended, lambda report: delivers(report, mended) and not left(report))
    assert not left(report)
    assert delivers(report, mended), report.sensors


def test_printed_transition_activates_the_node():
    """Kind `node_inactive`: the commands that are printed, through the node's own services.

    They are those that a failed configure names, too.
    """
    graph = Graph()
    node = graph.node("mlesam", LifecycleNode)
    spinning = threading.Thread(target=graph.spin_until, args=(lambda: done, 60), daemon=True)
    done: list = []
    spinning.start()
    _, failed = PIPELINE_MESSAGES["failed"].format(failure=Problem("", ""), node=NODE)
    commands = re.findall(r"ros2 lifecycle set (\S+) (\w+)", failed.remedy)
    assert commands == [(NODE, "configure"), (NODE, "activate")]
    try:
        for transition, state in (("configure", "unconfigured"), ("activate", "inactive")):
            report = look(World(), lambda report: bool(findings_of_rule(report, "node_inactive")), 0.2)
            (found,) = findings_of_rule(report, "node_inactive")
            assert f"the node is {state}" in found.message
            name, printed = re.search(r"ros2 lifecycle set (\S+) (\w+)$", found.remedy).groups()
            assert (name, printed) == (NODE, transition)
            assert getattr(node, f"trigger_{printed}")() == TransitionCallbackReturn.SUCCESS
        kinds = "node_inactive", "node_absent"
        report = look(World(), lambda report: not any(findings_of_rule(report, kind) for kind in kinds), 0.2)
        assert not any(findings_of_rule(report, kind) for kind in kinds)
    finally:
        done.append(True)
        spinning.join()
        graph.close()


DOCTORS = {
    "no_publisher": "no_publisher", "no_message": "no_message", "several_publishers": "several_publishers",
    "lost": "transport_loss", "idle": "node_inactive", "no_time": "no_clock", "two_nodes": "two_nodes",
}  # fmt: skip
"""Message of /diagnostics → rule with the same remedy."""
HANDED_ON = {
    "problem", "failed", "waiting_extrinsic", "no_extrinsic", "unusable", "refused", "degraded",
    "waiting_calibration", "no_calibration", "error", "several_infos",
}  # fmt: skip
"""Messages with the remedy of an error."""
BY_HAND = {
    "silent": "a cable, the power and a driver's log are looked at",
    "delayed": "the load of a driver and clocks of machines",
    "skewed": "clocks of machines",
    "no_mask": "the sensors' statuses are looked at",
}
PARAMETERS = {"unmatched", "slow"}
"""Messages whose remedy is a parameter; see test_parameter_named_by_diagnostics_helps."""


def test_parameter_named_by_diagnostics_helps():
    """`slow` names `<sensor>.rate`, `unmatched` the limit of the synchronizer that the messages miss."""
    facts = {"modality": "lidar", "topic": "/points", "type_name": "", "received": 9, "lost": 0, "problem": None}
    subscription = SimpleNamespace(
        **facts, publishers=1, competing_publishers=[], silence=0.1, rate=5.0, decoded={}, found={}
    )
    counts = dict.fromkeys(("received", "used", "superseded", "late", "unmatched", "refused"), 0)

    def status(rate):
        return DiagnosticBuilder(NODE).sensor(subscription, SensorHealth(counts, rate=rate), 1.0)

    assert "set lidar.rate to the actual rate" in status(10.0).message and status(10.0).level == WARN
    assert status(subscription.rate).level == OK
    stamps = np.arange(50) * 10**8 + 10**18
    for late, apart, limit in ((8 * 10**7, 0, "max_wait"), (0, 9 * 10**7, "lidar.tolerance")):
        records = {m: TopicStats(m, TopicSource(f"/{m}", TYPES[m])) for m in ("camera", "lidar")}
        for stamp in stamps:
            records["camera"].add(stamp, stamp, stamp, "camera")
            records["lidar"].add(stamp - apart, stamp - apart, stamp + late, "lidar")
        config = SyncConfig(modalities=("camera", "lidar"), tolerance=0.005)
        before = simulate_sync(records, config).counters["lidar"]
        builder = DiagnosticBuilder(NODE, iter((0.0, 0.0, 2.0, 2.0, 2.0)).__next__)
        builder.sensor(subscription, SensorHealth(counts), 1.0)
        words = builder.sensor(subscription, SensorHealth({**counts, **before}), 1.0)
        assert limit in re.search(r"Raise ([\w.]+) or ([\w.]+),", words.message).groups()
        wider = {"max_wait": 0.2} if limit == "max_wait" else {"tolerance": {"camera": 0.005, "lidar": 0.1}}
        after = simulate_sync(records, replace(config, **wider)).counters["lidar"]
        assert after["late"] + after["unmatched"] < before["late"] + before["unmatched"]


def test_every_remedy_of_diagnostics_is_tested():
    templates = {**SENSOR_MESSAGES, **PIPELINE_MESSAGES}
    named = {name for name, template in templates.items() if template.remedy}
    assert named == {*DOCTORS} | HANDED_ON | {*BY_HAND} | PARAMETERS
    assert all(".remedy}" in templates[name].remedy for name in HANDED_ON)
    assert {*DOCTORS.values()} <= LIVE
    assert all(templates[name].remedy == RULES[kind].remedy for name, kind in DOCTORS.items())


def test_every_live_rule_is_tested():
    assert {trial.kind for trial in TRIALS} | {"node_inactive"} == LIVE
