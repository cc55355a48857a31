# SPDX-License-Identifier: Apache-2.0
"""The faulty robot must not outlive its test."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
import watch

from mlesam_ros.types import MODALITIES

STARTER = """
import pathlib, sys, time
import watch
robot = watch.RobotProcess(pathlib.Path(sys.argv[1]))
print("driving", flush=True)
time.sleep(600)
"""


def robots(log):
    """Processes with this log in their command, the robot and its drivers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended just now
        if b"faulty.py" in b" ".join(words) and str(log).encode() in words:
            found.append(int(path.parent.name))
    return found


def gone(log):
    """Wait until none is left."""
    end = time.monotonic() + 60
    while robots(log):
        assert time.monotonic() < end, "drivers without a robot, or a robot without orders, go on"
        time.sleep(0.05)


def test_process_ends_with_its_parent(tmp_path):
    log = tmp_path / "robot.jsonl"
    paths = os.pathsep.join([str(Path(watch.__file__).parent), *filter(None, sys.path)])
    command = [sys.executable, "-c", STARTER, str(log)]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths})
    assert starter.stdout.readline() == b"driving\n"
    time.sleep(1.0)  # while it lives they drive
    assert len(robots(log)) == 1 + len(MODALITIES)
    starter.kill()
    starter.wait()
    gone(log)


def test_crashed_driver_ends_the_process(tmp_path):
    log = tmp_path / "robot.jsonl"
    robot = watch.RobotProcess(log)
    for pid in set(robots(log)) - {robot.pid}:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(ValueError, match="invalid literal"):
        robot.order(dict.fromkeys(MODALITIES))
    gone(log)
