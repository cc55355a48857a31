# SPDX-License-Identifier: Apache-2.0
"""Process: signals, sockets, invalid arguments and exit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("rclpy")
from mlesam_ros.ros.middleware import PROFILE_VARIABLES, transport_environment

NODE = """
import threading
from rclpy.node import Node
from mlesam_ros.errors import ConfigError
from mlesam_ros.ros.process import exit_fast, spin_node

class Busy(Node):
    def __init__(self):
        super().__init__("busy")
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.stopping.wait)
        self.thread.start()
        self.create_timer(0.01, lambda: None)
        self.create_subscription(__import__("std_msgs.msg").msg.String, "words", print, 1)
    def start(self):
        print("ready", flush=True)
    def destroy_node(self):
        self.stopping.set()
        self.thread.join()
        print("joined", flush=True)
        super().destroy_node()

exit_fast(spin_node(Busy))
"""


@pytest.fixture
def busy():
    process = subprocess.Popen([sys.executable, "-c", NODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]], ids=str)
def test_signals_end_the_process_cleanly(busy, signals):
    time.sleep(0.3)
    for number in signals:
        busy.send_signal(number)
        time.sleep(0.05)
    out, err = busy.communicate(timeout=60)
    assert (busy.returncode, out, err) == (0, "joined\n", "")


def sockets(pid: int) -> list[tuple[str, str, int]]:
    """(protocol, local address as /proc has it, port) of every UDP and TCP socket of a process."""
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for protocol in ("udp", "udp6", "tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes:
                address, port = words[1].split(":")
                found.append((protocol, address, int(port, 16)))
    return found


@pytest.mark.skipif(not Path("/proc/net/udp").exists(), reason="needs Linux's /proc")
def test_sockets_listen_on_the_loopback_only(busy):
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    time.sleep(0.5)
    found = sockets(busy.pid)
    # rmw_fastrtps adds sockets of its own for sending, on ports that the kernel chooses; nobody is told these ports.
    listening = [entry for entry in found if entry[2] < lowest]
    assert listening, f"no DDS socket among {found}"
    assert {(protocol, address) for protocol, address, _ in listening} == {("udp", "0100007F")}
    assert {protocol for protocol, *_ in found} == {"udp"}


def test_no_packet_leaves_the_host():
    """The node runs in a network namespace with a card whose packets are counted."""
    card = Path(__file__).with_name("network_card.py")
    command = ["unshare", "--net", "--map-root-user", sys.executable, str(card), sys.executable, "-c", NODE]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip(f"this machine does not let us make a network: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert "ready" in result.stdout
    assert result.stdout.splitlines()[-1] == "IPv4 packets sent: 0"


def test_invalid_arguments_are_reported_in_one_line(tmp_path):
    (tmp_path / "robot.yaml").write_text("/**:\n  ros__parameters: {lidar: {topic: }}\n")
    refused = {
        "-p max_wait:=99.0": "max_wait is 99.0; accepted are numbers from 0 to 10.",
        "-p precision:=fp8": "fp32, bf16, fp16",
        f"--params-file {tmp_path}/robot.yaml": "robot.yaml cannot be read: lidar.topic in line 2 has no value.",
        "--no-such-argument": "--no-such-argument",
    }
    command = [sys.executable, "-m", "mlesam_ros.ros.node", "--ros-args"]
    processes = {a: subprocess.Popen([*command, *a.split()], stderr=subprocess.PIPE, text=True) for a in refused}
    for arguments, process in processes.items():
        err = process.communicate(timeout=120)[1]
        assert process.returncode == 1 and "Traceback" not in err
        last = err.splitlines()[-1]
        assert last.startswith("mlesam_ros: ") and refused[arguments] in last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_signal_during_imports_ends_quietly(tmp_path, number):
    """The script that `ros2 launch` starts, with a slow import of torch."""
    (tmp_path / "torch.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    script = Path(__file__).resolve().parents[2] / "scripts" / "perception_node"
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    process = subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "loading\n"
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 0


def test_fast_exit_skips_teardown_and_leaves_the_graph(graph):
    """Python's teardown with torch takes 1 s of CPU time; the shared memory is removed without it."""
    code = NODE.replace("import threading", "import atexit, threading\natexit.register(print, 'taken apart')")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    looker = graph.node("looker")
    assert graph.spin_until(lambda: looker.count_subscribers("/words") == 1)
    maps = Path(f"/proc/{process.pid}/maps").read_text().split()
    ours = "/dev/shm/fastdds_", "/dev/shm/fastrtps_"  # Kilted's, Jazzy's
    held = {Path(word) for word in maps if word.startswith(ours) and "port" not in word}
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "joined\n" and process.returncode == 0
    assert graph.spin_until(lambda: looker.count_subscribers("/words") == 0)
    assert any(not path.exists() for path in held)


def test_profile_follows_the_discovery_range_unless_the_user_set_one():
    local = transport_environment({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"})
    robot = transport_environment({})
    assert set(local) == set(robot) and len(local) == 1 and set(local) <= set(PROFILE_VARIABLES)
    (local_profile,), (robot_profile,) = local.values(), robot.values()
    assert "<address>127.0.0.1</address>" in Path(local_profile).read_text()
    assert "<address>" not in Path(robot_profile).read_text()
    for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS"):
        assert transport_environment({name: "the user's"}) == {}


def test_profiles_have_short_announcement_and_health_check_periods():
    """With the defaults, half of the restarted drivers are received after 1 to 3 s: docs/reliability.md."""
    for where in ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, {}):
        (path,) = transport_environment(where).values()
        root = ElementTree.parse(path).getroot()
        (announced,) = root.findall(".//{*}leaseAnnouncement")
        (waited,) = root.findall(".//{*}healthy_check_timeout_ms")
        seconds = {part.tag.rpartition("}")[2]: int(part.text) for part in announced}
        assert seconds["sec"] + seconds["nanosec"] / 1e9 <= 0.25 and int(waited.text) <= 250
