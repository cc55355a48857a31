"""One demo from the first process to the last picture."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from mlesam_ros.bags.street import TOPICS
from mlesam_ros.cli.demo.processes import ChildProcess, ProcessError
from mlesam_ros.cli.demo.recorder import Recorder
from mlesam_ros.cli.demo.recording import default_cache, recordings_for, render
from mlesam_ros.cli.demo.report import write_results
from mlesam_ros.cli.demo.script import PERIOD, Phase, write_script
from mlesam_ros.cli.demo.view import View
from mlesam_ros.cli.demo.witness import ALWAYS, LATCHED, NODE, NOW_AND_THEN, TRUTH, DemoCollector
from mlesam_ros.cli.folder import new_run_dir
from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import NANOSECONDS
from mlesam_ros.labels import LabelSpace, load_label_space
from mlesam_ros.model.checkpoint import describe_checkpoint
from mlesam_ros.ros.observer import RawSubscriber
from mlesam_ros.share import resource_path

_NODE_PATIENCE = 60.0  # s from the node's start to its being active
_PLAYER_PATIENCE = 20.0  # s for the node to find the sensors
_GLIMPSE = NANOSECONDS  # ns before and after the middle of a phase in which the node's overlay and cloud are recorded
_DRAIN = 0.5  # s for the last masks to arrive
_STEP = 0.05  # s


class DemoRunner:
    """The simulated robot's drive and what it takes: recordings, the node, the player; this process is the observer."""

    def __init__(
        self,
        seconds: float,
        side: int,
        cache: Path | None,
        output: Path,
        checkpoint: Path | None,
        base_weights: Path | None,
        live: bool,
    ) -> None:
        """Plan it; nothing is started yet.

        Args:
            seconds: length.
            side: height and width of the street's pictures in pixels.
            cache: where rendered streets are kept; the user's cache folder by default.
            output: folder in which the results' folder is made.
            checkpoint: experts; the shipped ones by default.
            base_weights: the frozen backbone that they were trained on; the shipped one by default.
            live: redraw the view in place where the terminal can.

        Raises:
            ConfigError: too short, or the checkpoint speaks of other classes than the street's truth.
            CheckpointError: the checkpoint is not one.
        """
        self.phases = write_script(seconds)
        self._side = side
        self._cache = cache or default_cache()
        self._output = output
        self._weights = {"checkpoint": checkpoint, "base_weights": base_weights}
        self._live = live
        self._label_space = _label_space(checkpoint or resource_path("weights/street.safetensors"))

    def run(self, quiet: bool) -> dict[str, Any]:
        """Do it.

        Args:
            quiet: say nothing on standard output.

        Returns:
            the result with the keys that `docs/results.md` documents.

        Raises:
            ProcessError: the renderer, the node or the player failed.
            KeyboardInterrupt: Ctrl-C; what was seen until then is in the folder.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        console = Console(stderr=quiet)
        streets = self._render()
        folder = new_run_dir(self._output)
        interrupted = False
        with Recorder(folder / "result", {**ALWAYS, **NOW_AND_THEN}, LATCHED) as recorder:
            witness = DemoCollector(self.phases, len(self._label_space), recorder.record)
            try:
                self._observe(witness, streets, folder, console)
            except KeyboardInterrupt:
                interrupted = True
        result = write_results(witness, self._label_space, streets, folder, console)
        if interrupted:
            raise KeyboardInterrupt
        return result

    def _render(self) -> list[Path]:
        scenes: dict[str, int] = {}
        for phase in self.phases:
            scenes[phase.daylight] = scenes.get(phase.daylight, 0) + (phase.end - phase.start) // PERIOD
        return render(recordings_for(list(scenes.items()), self._side), self._cache)

    def _observe(self, witness: DemoCollector, streets: list[Path], folder: Path, console: Console) -> None:
        report = folder / "player.json"
        with ExitStack() as stack:
            node = stack.enter_context(ChildProcess("node", self._node_arguments(), folder / "node.log"))
            observer = stack.enter_context(RawSubscriber(witness.hear))
            _wait_until_active(observer, node, console)
            for topic, type_name in ALWAYS.items():
                observer.listen(topic, type_name, latched=topic in LATCHED)
            player = stack.enter_context(
                ChildProcess("player", self._player_arguments(streets, report), folder / "player.log")
            )
            view = stack.enter_context(View(console, witness, self._live and console.is_terminal))
            self._watch(observer, witness, view, report, (node, player))
            observer.hear(_DRAIN)
        witness.score.published = _read(report)["published"].get(TRUTH, 0)

    def _watch(
        self,
        observer: RawSubscriber,
        witness: DemoCollector,
        view: View,
        report: Path,
        children: tuple[ChildProcess, ChildProcess],
    ) -> None:
        node, player = children
        while not player.ended:
            observer.hear(_STEP)
            node.check()
            if not witness.score.start and report.exists():
                witness.score.begin(_read(report)["start_ns"])
            self._record_optional_topics(observer, witness)
            view.show()
        player.check(may_be_done=True)

    def _record_optional_topics(self, observer: RawSubscriber, witness: DemoCollector) -> None:
        """Listen to what is made only for listeners, for a while in the middle of each phase."""
        offset = time.time_ns() - witness.score.start
        if any(abs(offset - _middle(phase)) < _GLIMPSE for phase in self.phases):
            for topic, type_name in NOW_AND_THEN.items():
                observer.listen(topic, type_name)
        else:
            observer.unsubscribe(NOW_AND_THEN)

    def _node_arguments(self) -> list[str]:
        given = {name: path.resolve() for name, path in self._weights.items() if path is not None}
        return ["node", "--ros-args", *(part for name, path in given.items() for part in ("-p", f"{name}:={path}"))]

    def _player_arguments(self, streets: list[Path], report: Path) -> list[str]:
        drops = [option for phase in self.phases if phase.drop for option in ("--drop", phase.drop)]
        listeners = [option for topic in (*TOPICS.values(), TRUTH) for option in ("--listener", topic)]
        return ["play", *map(str, streets), *drops, *listeners, "--wait", str(_PLAYER_PATIENCE), "--json", str(report)]


def _read(report: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return result


def _middle(phase: Phase) -> int:
    return (phase.start + phase.end) // 2


def _label_space(checkpoint: Path) -> LabelSpace:
    truth = load_label_space("deliver")
    space = describe_checkpoint(checkpoint)["label_space"]
    if tuple(space["classes"]) != truth.names:
        raise ConfigError(
            f"{checkpoint} speaks {space['name']}, the street's truth {truth.name}.", "Give experts for it."
        )
    return truth


def _wait_until_active(observer: RawSubscriber, node: ChildProcess, console: Console) -> None:
    with console.status("loading the model"):
        begun = time.monotonic()
        while (state := observer.lifecycle_state(NODE)) != "active":
            node.check()
            if state == "unconfigured" or time.monotonic() - begun > _NODE_PATIENCE:
                raise ProcessError(f"the node is {state or 'silent'}: {node.log_tail()} (all its words: {node.log}).")
            time.sleep(_STEP)
    console.print(f"the node is active after {time.monotonic() - begun:.1f} s", highlight=False)
