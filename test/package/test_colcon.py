# SPDX-License-Identifier: Apache-2.0
"""The colcon way: builds without a ROS installation, holds what pip's wheel holds, and its node starts and stops."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePath

import pytest

pytest.importorskip("rclpy")
import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor

CHECKOUT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

# A sourced environment, as a person has it: the virtual environment activated, or ROS sourced.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH") or sys.prefix,
}

if shutil.which("colcon", path=ENVIRONMENT["PATH"]) is None:
    pytest.skip("colcon is not installed", allow_module_level=True)


def run(command: list, folder: Path) -> str:
    """What a command prints, which must succeed."""
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A folder in which `colcon build` has just run."""
    folder = tmp_path_factory.mktemp("workspace")
    command = ["colcon", "--log-base", "log", "build", "--base-paths", CHECKOUT, "--executor", "sequential"]
    run(command, folder)
    return folder


def sourced(workspace: Path, *command: str) -> list[str]:
    """A command in the workspace's environment, in the same process, so that signals reach it."""
    return ["bash", "-c", f'. {workspace}/install/local_setup.bash && exec "$@"', "bash", *command]


SHARED = ("config", "launch", "weights", "msg")
PACKAGES = ("mlesam_ros", "mlesam_training")


def laid(paths: Iterable[str]) -> set[str]:
    """Which modules, executables and shared files of ours an installation holds, wherever it keeps its modules."""
    found = set()
    for path in map(PurePath, paths):
        at = next(i for i, part in enumerate(path.parts) if part in PACKAGES)
        before, after = path.parts[:at], path.parts[at + 1 :]
        place = before[0] if before in (("lib",), ("share",)) else path.parts[at]
        generated = path.suffix in (".c", ".pyc", ".idl") or (path.suffix == ".json" and path.parent.name == "msg")
        if (place != "share" or after[0] in SHARED) and not generated:
            found.add(str(PurePath(place, *after)))
    return found


def in_the_checkout() -> set[str]:
    """The same for the sources: what has to be laid, besides what is generated."""
    places = {"mlesam_ros": "mlesam_ros", "training/mlesam_training": "mlesam_training", "scripts": "lib"}
    places.update({name: f"share/{name}" for name in SHARED})
    return {
        f"{place}/{path.relative_to(CHECKOUT / source)}"
        for source, place in places.items()
        for path in (CHECKOUT / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_colcon_and_pip_lay_the_same_files(workspace, tmp_path):
    installed = workspace / "install" / "mlesam_ros"
    files = (str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file())
    by_colcon = laid(path for path in files if any(f"/{name}/" in path for name in PACKAGES))
    assert in_the_checkout() <= by_colcon

    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path, "."]
    run(pip, CHECKOUT)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).infolist()
    names = {info: info.filename.partition(".data/data/")[2] or info.filename for info in wheel}
    assert laid(name for name in names.values() if any(f"{part}/" in name for part in PACKAGES)) == by_colcon
    executable = {name for info, name in names.items() if info.external_attr >> 16 & 0o111 and ".so" not in name}
    assert executable == {"lib/mlesam_ros/mlesam", "lib/mlesam_ros/perception_node"}


def test_the_workspace_brings_its_own_messages(workspace):
    program = """
from rclpy.serialization import deserialize_message, serialize_message
from mlesam_ros.msg import SensorStatus, Status

sent = Status(primary="lidar", sensors=[SensorStatus(modality="lidar", skew=0.25)])
assert deserialize_message(serialize_message(sent), Status) == sent
print(open("/proc/self/maps").read())
"""
    command = sourced(workspace, sys.executable, "-c", program)
    lines = run(command, workspace).splitlines()
    loaded = {line.split()[-1] for line in lines if "libmlesam_ros__" in line}
    assert loaded
    assert all(path.startswith(str(workspace)) for path in loaded)


def test_the_installed_node_answers_and_ends_cleanly(workspace):
    executable = workspace / "install" / "mlesam_ros" / "lib" / "mlesam_ros" / "perception_node"
    command = sourced(workspace, str(executable), "--ros-args", "-p", "autostart:=false")
    process = subprocess.Popen(command, cwd=workspace, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        assert state_of("/mlesam", process) == "unconfigured"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def state_of(name: str, process: subprocess.Popen, timeout: float = 60.0) -> str:
    """The lifecycle state that a node reports."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("asker", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    client = node.create_client(GetState, f"{name}/get_state")
    end = time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            assert process.poll() is None, process.stderr.read()
            if client.wait_for_service(timeout_sec=0.5):
                answer = client.call_async(GetState.Request())
                # Asked again, since a server drops the reply to a client that it has not discovered in its turn.
                executor.spin_until_future_complete(answer, timeout_sec=2)
                if answer.done():
                    return answer.result().current_state.label
        pytest.fail(f"{name} did not come up")
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
