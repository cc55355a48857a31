# SPDX-License-Identifier: Apache-2.0
"""Removal of the shared-memory segments of killed processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from stale_shm import MEMORY, sweep

JOINED = """
import os, rclpy, time
rclpy.init()
node = rclpy.create_node("held")
print("joined", flush=True)
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(0.1)
"""


@pytest.fixture
def join():
    """Start a participant and return its shared-memory segments."""
    started = []

    def start():
        before = set(MEMORY.iterdir())
        started.append(subprocess.Popen([sys.executable, "-c", JOINED], stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "joined\n"
        words = Path(f"/proc/{started[-1].pid}/maps").read_text().split()
        looked_into = {Path(word) for word in words if word.startswith(f"{MEMORY}/fast") and "port" not in word}
        return started[-1], looked_into - before

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_segments_of_killed_processes_are_removed(join):
    killed, held = join()
    living, kept = join()
    assert held and kept
    killed.kill()
    killed.wait()
    assert all(path.exists() for path in held | kept)
    assert sweep()
    assert not any(path.exists() for path in held) and all(path.exists() for path in kept)
    living.kill()
    living.wait()
    assert sweep() and not any(path.exists() for path in kept)
