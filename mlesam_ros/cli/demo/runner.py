# SPDX-License-Identifier: Apache-2.0
"""Run the demo: child processes for rendering, node and player, and a thread that records the result bag.

`ChildProcess` runs one `mlesam` command, `Recorder` writes messages into a bag, `StreetRecording` and `render` provide
the cached streets, and `DemoRunner` starts all of them and observes the node.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.cli.common import new_run_dir
from mlesam_ros.cli.demo.collector import (
    GROUND_TRUTH,
    LATCHED,
    ON_DEMAND,
    RECORDED_TOPICS,
    STEP_NS,
    DemoCollector,
    Phase,
    make_phases,
)
from mlesam_ros.cli.demo.display import View, write_results
from mlesam_ros.errors import ConfigError, MlesamError
from mlesam_ros.files import child_environment
from mlesam_ros.labels import LabelSpace, load_label_space
from mlesam_ros.model.checkpoint import describe_checkpoint
from mlesam_ros.model.weights import SHIPPED, resolve_weights
from mlesam_ros.progress import track
from mlesam_ros.resources import cache_folder, resource_path
from mlesam_ros.ros.subscribers import RawSubscriber
from mlesam_ros.simulation.export import TOPICS
from mlesam_ros.types import NANOSECONDS, NODE

_STOP_TIMEOUT_S = 5.0  # after each of SIGINT, SIGTERM and SIGKILL


class ProcessError(MlesamError):
    """A child process of the demo exited unexpectedly."""


class ChildProcess:
    """One `mlesam` command in a child process that writes its output to a log file."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        """Start the process.

        Args:
            name: name for error messages.
            arguments: command-line arguments after `mlesam`.
            log: file that receives stdout and stderr.
        """
        self.name = name
        self.log = log
        command = [sys.executable, "-m", "mlesam_ros.cli", *arguments]
        with log.open("wb") as out:
            # In a new session, Ctrl-C reaches only the demo, which then stops its children in the right order.
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, start_new_session=True, env=child_environment()
            )

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the process if it still runs."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.ended:
                return
            self._process.send_signal(number)
            self.wait(_STOP_TIMEOUT_S)

    @property
    def ended(self) -> bool:
        """Whether the process has exited."""
        return self._process.poll() is not None

    def wait(self, seconds: float) -> None:
        """Wait at most this many seconds for the process to exit."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def check(self, may_be_done: bool = False) -> None:
        """Check that the process has not failed.

        Args:
            may_be_done: accept an exit with code 0.

        Raises:
            ProcessError: the process exited otherwise; the message has the last lines of its log.
        """
        code = self._process.poll()
        if code is None or (may_be_done and code == 0):
            return
        raise ProcessError(f"the {self.name} exited with code {code}: {self.log_tail()}.", f"See {self.log}.")

    def log_tail(self, lines: int = 3) -> str:
        """Join the last non-empty lines of the log into one line; `no output` for an empty log."""
        output = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return " / ".join([line.strip() for line in output if line.strip()][-lines:]) or "no output"


class Recorder:
    """Writes serialized messages into an MCAP bag in a background thread; chunks are compressed."""

    def __init__(self, path: Path, types: Mapping[str, str], latched: Collection[str]) -> None:
        """Create a bag and start the writer thread.

        Args:
            path: folder that does not exist yet.
            types: topic → message type of all topics that can be recorded.
            latched: those topics whose durability is transient local.

        Raises:
            BagError: the folder exists or cannot be made.
        """
        self._writer = BagWriter(path)
        self._types = types
        self._latched = latched
        self._queue: queue.SimpleQueue[tuple[str, int, bytes] | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        """Write the queued messages and close the bag.

        Raises:
            BagError: the bag could not be written.
        """
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def record(self, topic: str, time: int, raw: bytes) -> None:
        """Queue a message without blocking.

        Args:
            topic: one of the topics in `types`.
            time: time of recording in nanoseconds.
            raw: CDR with encapsulation header.
        """
        self._queue.put((topic, time, raw))

    def _write(self) -> None:
        try:
            with self._writer as writer:
                while (message := self._queue.get()) is not None:
                    topic, time, raw = message
                    writer.add_raw(topic, self._types[topic], time, raw, latched=topic in self._latched)
        except Exception as error:  # re-raised by __exit__ in the recording thread
            self._failure = error


_FIRST_SEED = 9000  # training uses smaller seeds
_POLL_S = 0.2
_PROGRESS = re.compile(r"(\d+) of \d+ steps")
_CACHE_SOURCES = (
    "simulation/*.py",
    "preprocessing/evt3.py",
    "bags/serialization.py",
    "bags/writer.py",
)


@dataclass(frozen=True)
class StreetRecording:
    """A simulated street that is rendered into a bag.

    Attributes:
        daylight: "day" or "night"; the `--weather` of the simulation.
        steps: number of simulation steps, at 10 Hz.
        image_size: (height, width) of the images in pixels.
        seed: seed of the street.
    """

    daylight: str
    steps: int
    image_size: tuple[int, int]
    seed: int

    @property
    def name(self) -> str:
        """Name of the recording, independent of the code version."""
        height, width = self.image_size
        return f"street_{self.daylight}_{self.seed}_{self.steps}_{width}x{height}"

    def path(self, cache: Path) -> Path:
        """Path of the bag in the cache; it contains a hash of the source files in `_CACHE_SOURCES`."""
        digest = hashlib.sha256()
        package = Path(__file__).resolve().parents[2]
        for pattern in _CACHE_SOURCES:
            for source in sorted(package.glob(pattern)):
                digest.update(source.read_bytes())
        return cache / f"{self.name}_{digest.hexdigest()[:12]}"

    def arguments(self, out: Path) -> list[str]:
        """Command-line arguments that render the bag to `out`."""
        return [
            "simulate", str(out), "--seed", str(self.seed), "--weather", self.daylight,
            "--steps", str(self.steps), "--image-size", *map(str, self.image_size),
        ]  # fmt: skip


def recordings_for(scenes: Sequence[tuple[str, int]], image_size: tuple[int, int]) -> list[StreetRecording]:
    """Return one recording per (daylight, steps), on streets with seeds that training does not use."""
    return [StreetRecording(daylight, steps, image_size, _FIRST_SEED + i) for i, (daylight, steps) in enumerate(scenes)]


def render(recordings: Sequence[StreetRecording], cache: Path) -> list[Path]:
    """Render the recordings that are not in the cache yet, each in its own process.

    Args:
        recordings: the required recordings.
        cache: folder of the bags.

    Returns:
        the paths of the bags.

    Raises:
        ProcessError: a renderer failed; incomplete bags are deleted.
    """
    cache.mkdir(parents=True, exist_ok=True)
    missing = [recording for recording in recordings if not recording.path(cache).exists()]
    if missing:
        _render(missing, cache)
    return [recording.path(cache) for recording in recordings]


def _render(missing: Sequence[StreetRecording], cache: Path) -> None:
    partial = {recording: cache / f".{recording.daylight}.{os.getpid()}" for recording in missing}
    total = sum(recording.steps for recording in missing)
    try:
        with ExitStack() as stack:
            progress = stack.enter_context(track("rendering the street (first run only)", total, "steps"))
            renderers = [
                stack.enter_context(ChildProcess("renderer", recording.arguments(out), out.with_suffix(".log")))
                for recording, out in partial.items()
            ]
            while not all(child.ended for child in renderers):
                progress(sum(_steps_done(child) for child in renderers), total)
                for child in renderers:
                    child.check(may_be_done=True)
                time.sleep(_POLL_S)
            for child in renderers:
                child.check(may_be_done=True)
        for recording, out in partial.items():
            for outdated in cache.glob(f"{recording.name}_*"):
                shutil.rmtree(outdated, ignore_errors=True)
            out.rename(recording.path(cache))
    finally:
        for out in partial.values():
            shutil.rmtree(out, ignore_errors=True)
            out.with_suffix(".log").unlink(missing_ok=True)


def _steps_done(child: ChildProcess) -> int:
    match = _PROGRESS.search(child.log_tail(1))
    return int(match[1]) if match else 0


_NODE_TIMEOUT_S = 60.0  # from the node's start to its active state
_PLAYER_TIMEOUT_S = 20.0  # for the node to subscribe to the sensors' topics
_ON_DEMAND_NS = NANOSECONDS  # around a phase's middle in which overlay and point cloud are recorded
_DRAIN_S = 0.5  # for the last masks to arrive
_STEP_S = 0.05


class DemoRunner:
    """Runs the demo: renders the streets, starts the node and the player, and observes the node in this process."""

    def __init__(
        self,
        seconds: float,
        image_size: tuple[int, int],
        cache: Path | None,
        output: Path,
        checkpoint: Path | None,
        base_weights: Path | None,
        live: bool,
    ) -> None:
        """Prepare the demo without starting a process.

        Args:
            seconds: duration of the drive.
            image_size: (height, width) of the images in pixels.
            cache: folder of the rendered streets; the user's cache folder by default.
            output: parent folder of the result folder.
            checkpoint: experts; the shipped ones by default.
            base_weights: frozen backbone that the experts were trained on; the shipped one by default.
            live: redraw the view in place if the output is a terminal.

        Raises:
            ConfigError: `seconds` is too short, or the classes of the checkpoint differ from those of the street.
            CheckpointError: the file is not a valid checkpoint.
        """
        self.phases = make_phases(seconds)
        self._image_size = image_size
        self._cache = cache or cache_folder()
        self._output = output
        weights = {"checkpoint": checkpoint, "base_weights": base_weights}
        self._weights = {name: resolve_weights(given).resolve() for name, given in weights.items() if given}
        self._live = live
        self._label_space = _label_space(self._weights.get("checkpoint", resource_path(SHIPPED["street"])))

    def run(self, quiet: bool) -> dict[str, Any]:
        """Run the demo and write its results.

        Args:
            quiet: print nothing to standard output.

        Returns:
            the result with the keys documented in `docs/results.md`.

        Raises:
            ProcessError: the renderer, the node or the player failed.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the results until then are written.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        console = Console(stderr=quiet)
        streets = self._render()
        folder = new_run_dir(self._output)
        interrupted = False
        with Recorder(folder / "result", {**RECORDED_TOPICS, **ON_DEMAND}, LATCHED) as recorder:
            collector = DemoCollector(self.phases, len(self._label_space), recorder.record)
            try:
                self._observe(collector, streets, folder, console)
            except KeyboardInterrupt:
                interrupted = True
        result = write_results(collector, self._label_space, streets, folder, console)
        if interrupted:
            raise KeyboardInterrupt
        return result

    def _render(self) -> list[Path]:
        scenes: dict[str, int] = {}
        for phase in self.phases:
            scenes[phase.daylight] = scenes.get(phase.daylight, 0) + (phase.end - phase.start) // STEP_NS
        return render(recordings_for(list(scenes.items()), self._image_size), self._cache)

    def _observe(self, collector: DemoCollector, streets: list[Path], folder: Path, console: Console) -> None:
        report = folder / "player.json"
        with ExitStack() as stack:
            node = stack.enter_context(ChildProcess("node", self._node_arguments(), folder / "node.log"))
            observer = stack.enter_context(RawSubscriber(collector.add))
            _wait_until_active(observer, node, console)
            for topic, type_name in RECORDED_TOPICS.items():
                observer.subscribe(topic, type_name, latched=topic in LATCHED)
            player = stack.enter_context(
                ChildProcess("player", self._player_arguments(streets, report), folder / "player.log")
            )
            view = stack.enter_context(View(console, collector, self._live and console.is_terminal))
            self._watch(observer, collector, view, report, (node, player))
            observer.spin_for(_DRAIN_S)
        collector.score.published = _read(report)["published"].get(GROUND_TRUTH, 0)

    def _watch(
        self,
        observer: RawSubscriber,
        collector: DemoCollector,
        view: View,
        report: Path,
        children: tuple[ChildProcess, ChildProcess],
    ) -> None:
        node, player = children
        while not player.ended:
            observer.spin_for(_STEP_S)
            node.check()
            if not collector.score.start and report.exists():
                collector.score.begin(_read(report)["start_ns"])
            self._record_optional_topics(observer, collector)
            view.show()
        player.check(may_be_done=True)

    def _record_optional_topics(self, observer: RawSubscriber, collector: DemoCollector) -> None:
        """Subscribe to the on-demand outputs around the middle of each phase, unsubscribe otherwise."""
        offset = time.time_ns() - collector.score.start
        if any(abs(offset - _middle(phase)) < _ON_DEMAND_NS for phase in self.phases):
            for topic, type_name in ON_DEMAND.items():
                observer.subscribe(topic, type_name)
        else:
            observer.unsubscribe(ON_DEMAND)

    def _node_arguments(self) -> list[str]:
        given = (part for name, path in self._weights.items() for part in ("-p", f"{name}:={path}"))
        return ["node", "--ros-args", *given]

    def _player_arguments(self, streets: list[Path], report: Path) -> list[str]:
        drops = [option for phase in self.phases if phase.drop for option in ("--drop", phase.drop)]
        listeners = [option for topic in (*TOPICS.values(), GROUND_TRUTH) for option in ("--listener", topic)]
        return ["play", *map(str, streets), *drops, *listeners, "--wait", str(_PLAYER_TIMEOUT_S), "--json", str(report)]


def _read(report: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return result


def _middle(phase: Phase) -> int:
    return (phase.start + phase.end) // 2


def _label_space(checkpoint: Path) -> LabelSpace:
    street = load_label_space("deliver")
    trained = describe_checkpoint(checkpoint)["label_space"]
    if tuple(trained["classes"]) != street.names:
        raise ConfigError(
            f"{checkpoint} has the label space {trained['name']}; the street's is {street.name}.",
            f"Give a checkpoint with the label space {street.name}.",
        )
    return street


def _wait_until_active(observer: RawSubscriber, node: ChildProcess, console: Console) -> None:
    with console.status("loading the model"):
        start = time.monotonic()
        while (state := observer.lifecycle_state(NODE)) != "active":
            node.check()
            if state == "unconfigured" or time.monotonic() - start > _NODE_TIMEOUT_S:
                raise ProcessError(f"the node is {state or 'not responding'}: {node.log_tail()}.", f"See {node.log}.")
            time.sleep(_STEP_S)
    console.print(f"the node is active after {time.monotonic() - start:.1f} s", highlight=False)
