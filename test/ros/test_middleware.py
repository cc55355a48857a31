# SPDX-License-Identifier: Apache-2.0
"""Errors of the environment at start, and their remedies."""

import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
from mlesam_ros.errors import ConfigError
from mlesam_ros.ros import middleware
from mlesam_ros.ros.middleware import (
    PROFILE_VARIABLES,
    check_environment,
    memory_problem,
    transport_environment,
    transport_remedy,
)

CHECKOUT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
WRONG = {
    "HOME unset": ({"HOME": None, "ROS_LOG_DIR": None, "ROS_HOME": None}, "HOME is not set"),
    "HOME read-only": ({"HOME": "/proc", "ROS_LOG_DIR": None, "ROS_HOME": None}, "HOME is '/proc'"),
    "log folder": ({"ROS_LOG_DIR": "/proc/nowhere"}, "ROS_LOG_DIR is '/proc/nowhere'"),
    "domain of letters": ({"ROS_DOMAIN_ID": "abc"}, "ROS_DOMAIN_ID is 'abc'; accepted are integers from 0 to 232"),
    "domain too high": ({"ROS_DOMAIN_ID": "300"}, "ROS_DOMAIN_ID is '300'"),
    "negative domain": ({"ROS_DOMAIN_ID": "-1"}, "ROS_DOMAIN_ID is '-1'"),
    "middleware": ({"RMW_IMPLEMENTATION": "rmw_nowhere_cpp"}, "RMW_IMPLEMENTATION is 'rmw_nowhere_cpp'"),
    "profile": ({PROFILE_VARIABLES[0]: "/nowhere.xml"}, f"{PROFILE_VARIABLES[0]} is '/nowhere.xml'"),
}
COMMANDS = {
    "node": ["-m", "mlesam_ros.cli", "node", "--ros-args", "-p", "autostart:=maybe"],
    "play": ["-m", "mlesam_ros.cli", "play", "/nowhere"],
    "demo": ["-m", "mlesam_ros.cli", "demo", "--seconds", "0.5"],
    "doctor": ["-m", "mlesam_ros.cli", "doctor", "--seconds", "0.5"],
    "perception_node": ["scripts/perception_node", "--ros-args", "-p", "autostart:=maybe"],
}
"""Each ends by itself, with another error, in an environment that is right."""


def changed(changes: dict) -> dict[str, str]:
    return {name: value for name, value in {**os.environ, **changes}.items() if value is not None}


def mended(changes: dict, remedy: str, tmp_path: Path) -> dict:
    """Apply the remedy: set the folder or unset the variable."""
    if named := re.search(r"Set (\w+) to a folder that can be written", remedy):
        return {**changes, named[1]: str(tmp_path / "log")}
    assert "unset it" in remedy.lower(), remedy
    return dict.fromkeys(changes)


@pytest.mark.parametrize("name", WRONG)
def test_invalid_variable_is_named_and_its_remedy_helps(tmp_path, name):
    changes, words = WRONG[name]
    with pytest.raises(ConfigError, match=re.escape(words)) as refused:
        check_environment(changed(changes))
    check_environment(changed(mended(changes, refused.value.remedy, tmp_path)))


@pytest.mark.parametrize(("command", "name"), list(zip(COMMANDS, WRONG, strict=False)))
def test_commands_refuse_an_invalid_environment(tmp_path, command, name):
    changes, words = WRONG[name if command != "perception_node" else "middleware"]
    environment = {**changes, "PYTHONPATH": str(CHECKOUT)}

    def run(extra):
        line = [sys.executable, *COMMANDS[command]]
        options = {"env": changed(extra), "capture_output": True, "text": True, "timeout": 120, "cwd": CHECKOUT}
        return subprocess.run(line, check=False, **options)

    result = run(environment)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1 and words in result.stderr, result.stderr
    after = run({**environment, **mended(changes, result.stderr, tmp_path)})
    assert words.split()[0] not in after.stderr, after.stderr


Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def memory(monkeypatch):
    """Sets the size and the free bytes of /dev/shm."""

    def set_to(total, free):
        monkeypatch.setattr(middleware.shutil, "disk_usage", lambda path: Usage(total, total - free, free))

    return set_to


def test_small_shared_memory_gets_smaller_segments(memory):
    """The default of Docker is 64 MiB."""
    memory(1 << 34, 1 << 34)
    ((name, whole),) = transport_environment({}).items()
    assert memory_problem({name: whole}) is None
    memory(64 * MIB, 64 * MIB)
    problem = memory_problem({name: whole})
    assert "64 MiB" in problem.message and "--shm-size" in problem.remedy and "--ipc=host" in problem.remedy
    ((_, small),) = transport_environment({}).items()
    text = Path(small).read_text()
    assert "<segment_size>16777216<" in text and memory_problem({name: small}) is None
    assert text.replace("16777216", "67108864") == Path(whole).read_text()
    memory(16 * MIB, 16 * MIB)
    assert transport_environment({}) == {name: whole}  # nothing of use fits: the sentence has the cure


def test_full_shared_memory_is_reported(memory):
    memory(1 << 30, 10 * MIB)
    problem = memory_problem(transport_environment({}))
    assert "10 MiB free" in problem.message and "rm /dev/shm/" in problem.remedy


def test_remedy_differs_from_the_environment(monkeypatch, tmp_path, memory):
    monkeypatch.setattr(middleware, "_SHARED_MEMORY", tmp_path)
    memory(1 << 34, 1 << 34)
    ours = transport_environment({})
    ((name, path),) = ours.items()
    assert f"Set {name}={path}" in transport_remedy({})
    udp = transport_remedy({"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"})
    assert f"Set {name}={path}, instead of FASTDDS_BUILTIN_TRANSPORTS=UDPv4" in udp
    assert f"Set {name}=" not in transport_remedy(ours)
    (tmp_path / "fastdds_0123456789abcdef").write_bytes(bytes(549_408))  # a driver's, without the profile
    assert f"Set {name}={path} where the driver starts" in transport_remedy(ours)
    assert name not in transport_remedy({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"})
    memory(16 * MIB, 16 * MIB)
    assert "--shm-size" in transport_remedy(ours) and f"Set {name}" not in transport_remedy(ours)
