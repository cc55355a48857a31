"""Every remedy that the doctor and /diagnostics print of a live graph is tried: with it the fault goes.

The kind: advice that cannot help, or names what is set already. Parameters, variables and commands are parsed from it.
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
from rclpy.lifecycle import LifecycleNode
from ros_graph import Graph

from mlesam_ros.doctor.catalogue import CATALOGUE
from mlesam_ros.doctor.record import Record
from mlesam_ros.doctor.rehearsal import rehearse
from mlesam_ros.evaluation.topics import Source
from mlesam_ros.ros.checkup import examine_live
from mlesam_ros.ros.diagnostics import Reporter, SensorHealth
from mlesam_ros.ros.words import OK, PIPELINE, SENSOR, WARN
from mlesam_ros.sync import SyncConfig

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
    """A kind of finding, the world that has it, and how its remedy changes that world."""

    kind: str
    fault: World
    apply: Callable[[str], World]


def setting(remedy: str) -> World:
    """`set NAME to VALUE` or `set NAME: VALUE`."""
    name, value = re.search(r"[Ss]et ([\w./]+?)(?: to|:) ([\w./]+?)\.?( |$)", remedy).groups()[:2]
    return World(settings={name: value})


def said(words: str, world: World) -> Callable[[str], World]:
    """A remedy for those who run the drivers; it must name what is changed."""

    def apply(remedy: str) -> World:
        assert words in remedy, remedy
        return world

    return apply


def profile(remedy: str) -> World:
    name, path = re.search(r"Set (\w+)=(\S+) where the driver starts", remedy).groups()
    return World(robots=[], flood={name: path}, settings={"modalities": ["camera"]})


def rename(remedy: str) -> World:
    return World(doubles=[[], re.search(r"(--ros-args -r \S+)", remedy)[1].split()])


OVERRIDE = "qos_overrides./lidar/points.subscription.reliability"
TRIALS = [
    Live("no_publisher", World(settings={"camera.topic": "/nowhere"}), setting),
    Live(
        "alone",
        World(environment={"ROS_DOMAIN_ID": "78"}),
        said("the same of these variables", World()),
    ),
    Live(
        "not_understood",
        World(settings={"lidar.topic": "/camera/camera_info"}),
        said("Set lidar.topic", World(settings={"lidar.topic": "/lidar/points"})),
    ),
    Live("no_message", World([{"silent": ["lidar"]}]), said("whether the driver sends", World())),
    Live("qos_mismatch", World([{"reliability": "BEST_EFFORT"}], settings={OVERRIDE: "reliable"}), setting),
    Live("no_clock", World(settings={"use_sim_time": True}), said("unset use_sim_time", World())),
    Live(
        "clock_unused",
        World([{"clock": True}]),
        said("Set use_sim_time", World([{"clock": True}], None, {"use_sim_time": True})),
    ),
    Live("several_publishers", World([{}, {}]), said("Stop all but one", World())),
    Live("two_nodes", World(doubles=[[], []]), rename),
    Live("lost_on_the_way", World(robots=[], flood={}, settings={"modalities": ["camera"]}), profile),
]


@pytest.fixture
def enter(monkeypatch):
    """Starts the processes and nodes of a world; ends the last one's."""
    running: list = []
    graphs: list[Graph] = []

    def leave():
        for process in running:
            process.kill()
            process.wait(20)
        for graph in graphs:
            graph.close()
        running.clear()
        graphs.clear()

    def start(world: World) -> None:
        leave()
        base = {**os.environ, "PYTHONPATH": PATH}
        for robot in world.robots:
            command = [sys.executable, str(HERE / "robot_process.py"), json.dumps(robot)]
            running.append(subprocess.Popen(command, env=base, stdout=subprocess.PIPE))
            assert running[-1].stdout.readline() == b"driving\n"
        if world.flood is not None:
            command = [sys.executable, str(HERE / "flood.py"), "/camera/image_raw", *map("=".join, world.flood.items())]
            running.append(subprocess.Popen(command, env=base))
        for arguments in world.doubles:
            graphs.append(Graph())
            graphs[-1].node("mlesam", cli_args=arguments or None)
        for name, value in world.environment.items():
            monkeypatch.setenv(name, value)

    yield start
    leave()


def findings(kind: str, world: World, wanted: bool) -> list:
    """Those of the kind; a busy machine gets several tries."""
    pattern = ".*".join(map(re.escape, re.split(r"\{[^}]*\}", CATALOGUE[kind].message)))
    for _ in range(6):
        checkup = examine_live(NODE, world.settings, None, 1.5)
        found = [f for f in checkup.findings if re.fullmatch(pattern, f.message)]
        if bool(found) == wanted:
            break
    return found


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.kind)
def test_a_printed_remedy_helps(enter, monkeypatch, trial):
    enter(trial.fault)
    with monkeypatch.context():
        found = findings(trial.kind, trial.fault, True)
    assert found, trial.kind
    monkeypatch.undo()
    mended = trial.apply(found[0].remedy)
    enter(mended)
    left = [
        f for f in findings(trial.kind, mended, False) if (f.subject, f.message) == (found[0].subject, found[0].message)
    ]
    assert not left


def test_the_printed_transition_makes_the_node_active(enter):
    """Live("node_inactive"): the command that is printed, through the node's own services."""
    graph = Graph()
    node = graph.node("mlesam", LifecycleNode)
    spinning = threading.Thread(target=graph.spin_until, args=(lambda: done, 60), daemon=True)
    done: list = []
    spinning.start()
    try:
        for transition, state in (("configure", "unconfigured"), ("activate", "inactive")):
            found = findings("node_inactive", World(), True)
            assert found and f"it is {state}" in found[0].message
            name, printed = re.search(r"ros2 lifecycle set (\S+) (\w+)$", found[0].remedy).groups()
            assert (name, printed) == (NODE, transition)
            getattr(node, f"trigger_{printed}")()
        assert not findings("node_inactive", World(), False)
    finally:
        done.append(True)
        spinning.join()
        graph.close()


DOCTORS = {
    "no_publisher",
    "obstacle",
    "never_heard",
    "several_publishers",
    "lost",
    "failed",
    "idle",
    "no_time",
    "two_nodes",
}
"""Words of /diagnostics whose remedy is made as that of a kind above, or of the node's own tests of its lifecycle."""
HANDED_ON = {
    "waiting_place", "no_place", "unusable", "refused", "without", "waiting_calibration", "no_calibration", "error",
    "several_infos", "no_mask",
}  # fmt: skip
"""Those that hand on the remedy of an error, or send to the sensors' statuses."""
BY_HAND = {
    "silent": "a cable, the power and a driver's log are looked at",
    "belated": "the load of a driver and clocks of machines",
    "skewed": "clocks of machines",
}
PARAMETERS = {"useless", "slow"}
"""Those that name a parameter; see test_a_parameter_that_diagnostics_name_helps."""


def test_a_parameter_that_diagnostics_name_helps():
    """`slow` names `<sensor>.rate`, `useless` the limit of the synchronizer that the messages miss."""
    facts = {"modality": "lidar", "topic": "/points", "type_name": "", "received": 9, "lost": 0, "obstacle": None}
    listening = SimpleNamespace(**facts, publishers=1, rivals=[], silence=0.1, rate=5.0, decoded={}, found={})
    counts = dict.fromkeys(("received", "used", "superseded", "late", "unmatched", "refused"), 0)

    def status(rate):
        return Reporter(NODE).sensor(listening, SensorHealth(counts, rate=rate), 1.0)

    assert "set lidar.rate to what it sends" in status(10.0).message and status(10.0).level == WARN
    assert status(listening.rate).level == OK
    moments = np.arange(50) * 10**8 + 10**18
    records = {m: Record(m, Source(f"/{m}", TYPES[m])) for m in ("camera", "lidar")}
    for late, apart, limit in ((8 * 10**7, 0, "patience"), (0, 9 * 10**7, "lidar.tolerance")):
        records = {m: Record(m, Source(f"/{m}", TYPES[m])) for m in ("camera", "lidar")}
        for moment in moments:
            records["camera"].note(moment, moment, moment, "camera")
            other = moment + apart if apart == 0 else moment - apart
            records["lidar"].note(other, other, moment + late, "lidar")
        config = SyncConfig(modalities=("camera", "lidar"), tolerance=0.005)
        before = rehearse(records, config).counters["lidar"]
        reporter = Reporter(NODE, iter((0.0, 0.0, 2.0, 2.0, 2.0)).__next__)
        reporter.sensor(listening, SensorHealth(counts), 1.0)
        words = reporter.sensor(listening, SensorHealth({**counts, **before}), 1.0)
        assert limit in re.search(r"Raise ([\w.]+) or ([\w.]+),", words.message).groups()
        wider = {"patience": 0.2} if limit == "patience" else {"tolerance": {"camera": 0.005, "lidar": 0.1}}
        after = rehearse(records, replace(config, **wider)).counters["lidar"]
        assert after["late"] + after["unmatched"] < before["late"] + before["unmatched"]


def test_every_word_of_diagnostics_is_accounted_for():
    named = {name for name, saying in {**SENSOR, **{f"{k}": v for k, v in PIPELINE.items()}}.items() if saying.remedy}
    assert named == DOCTORS | HANDED_ON | set(BY_HAND) | PARAMETERS
