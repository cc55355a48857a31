# SPDX-License-Identifier: Apache-2.0
"""Repeated starts and ends of the node: `python test/reliability/restart_stress.py --endings 60`.

A robot drives all the time. The node is started, asked for snapshots without a break, and ended by SIGINT or SIGTERM at
a random time: every second time while it loads, from its first line of Python on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from checkout import CHECKOUT

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.cli.common import prepare_own_domain
from mlesam_ros.errors import MlesamError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PHASES = ("working", "loading")
_WORK = 4.0  # s of work within which the signal comes
_LOAD = 5.0  # s that loading takes until it was measured


@dataclass
class Ending:
    """One end of the node.

    Attributes:
        signal: which it got.
        uptime: seconds from its start to the signal.
        phase: one of `PHASES`: once it was active, or from its first line of Python on until about then.
        seconds: from the signal to its end.
        code: its exit code.
        traceback: whether it left one.
        files: what it left in the folder for snapshots: whole bags, and names of what is none.
    """

    signal: str
    uptime: float
    phase: str
    seconds: float
    code: int
    traceback: bool
    files: tuple[int, list[str]]

    @property
    def clean(self) -> bool:
        """Whether it ended as it should, whatever time it took."""
        return self.code == 0 and not self.traceback and not self.files[1]


class Node:
    """What `ros2 launch` starts, with its output in a file."""

    def __init__(self, log: Path, **parameters: Any) -> None:
        self.log = log
        settings = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        command = [sys.executable, str(CHECKOUT / "scripts" / "perception_node"), "--ros-args", *settings]
        paths = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.begun = time.monotonic()
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": paths}, stdout=out, stderr=out, start_new_session=True
            )

    def has_begun(self) -> None:
        """Wait for the script's first lines; before them a signal is the interpreter's. See proc(5)."""
        while not self._caught() >> (signal.SIGTERM - 1) & 1:
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.002)

    def is_active(self) -> None:
        """Wait until it says so."""
        while not self.said("[mlesam]: active"):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def _caught(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("SigCgt")), 16)

    def said(self, words: str) -> bool:
        """Whether its log has these words."""
        return words in self.log.read_text(encoding="utf-8", errors="replace")

    def end(self, number: int) -> tuple[float, int]:
        """Send a signal; seconds until it ended, and its exit code."""
        begin = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(120)
        return time.monotonic() - begin, code


@contextmanager
def asking_for_snapshots() -> Iterator[None]:
    """Request snapshots continuously, with or without a node."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions
    from std_srvs.srv import Trigger

    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("asker", context=context)
    client, stopping = node.create_client(Trigger, "/mlesam/save_snapshot"), threading.Event()
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def ask() -> None:
        while not stopping.is_set():
            if client.service_is_ready():
                executor.spin_until_future_complete(client.call_async(Trigger.Request()), 1.0)
            stopping.wait(0.05)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def endings(count: int, folder: Path, weights: dict[str, Any], tell: Callable[[Ending], None]) -> list[Ending]:
    """End the node that often; a robot must be driving.

    Args:
        count: how often.
        folder: for logs and snapshots.
        weights: the node's parameters that name the model.
        tell: told each.
    """
    found, chance, whole = [], random.Random(), _LOAD
    with asking_for_snapshots():
        for number in range(count):
            saved = folder / f"snapshots{number}"
            saved.mkdir()
            node = Node(folder / f"{number}.log", **weights, snapshot_seconds=10.0, snapshot_folder=saved)
            node.has_begun()
            phase = PHASES[number % 2]
            if phase == "working":
                node.is_active()
                whole = time.monotonic() - node.begun
            time.sleep(chance.uniform(0.0, whole if phase == "loading" else _WORK))
            uptime, number_sent = time.monotonic() - node.begun, chance.choice(SIGNALS)
            seconds, code = node.end(number_sent)
            files = whole_bags(saved)
            ending = Ending(number_sent.name, uptime, phase, seconds, code, node.said("Traceback"), files)
            found.append(ending)
            tell(ending)
    return found


def whole_bags(folder: Path) -> tuple[int, list[str]]:
    """How many bags there are, and what there is beside them."""
    whole, others = 0, []
    for path in sorted(folder.iterdir()):
        try:
            with BagReader(path) as bag:
                count = sum(1 for _ in bag.messages())
                others += [f"{path.name}: {warning}" for warning in bag.warnings]
                whole += count > 0
        except MlesamError as error:
            others.append(str(error))
    return whole, others


def summed_up(found: list[Ending]) -> str:
    """In a sentence each for loading and working."""
    parts = []
    for phase in PHASES:
        seconds = [e.seconds for e in found if e.phase == phase]
        if seconds:
            parts.append(
                f"{len(seconds)} while {phase}: {np.median(seconds):.2f} s in the median, {max(seconds):.2f} s at "
                f"most, {sum(s >= 2 for s in seconds)} of 2 s or more"
            )
    bags = sum(e.files[0] for e in found)
    return f"{'; '.join(parts)}. {sum(not e.clean for e in found)} not clean; {bags} snapshots."


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endings", type=int, default=60)
    given = parser.parse_args()
    prepare_own_domain()
    from tiny_model import write_tiny_model
    from watch import RobotProcess

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        robot = RobotProcess(folder / "robot.jsonl")
        try:
            found = endings(
                given.endings, folder, write_tiny_model(folder), lambda e: print(json.dumps(vars(e)), flush=True)
            )
            for index, ending in enumerate(found):
                if not ending.clean:
                    print((folder / f"{index}.log").read_text()[-3000:], flush=True)
        finally:
            robot.close()
    print(summed_up(found))
    raise SystemExit(0 if all(ending.clean for ending in found) else 1)


if __name__ == "__main__":
    main()
