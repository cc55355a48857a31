"""The street of the demo: rendered once, by two processes, and kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mlesam_ros.cli.demo.processes import ChildProcess
from mlesam_ros.files import expand_path
from mlesam_ros.progress import track

_FIRST_SEED = 9000  # training stays below
_POLL = 0.2  # s
_DONE = re.compile(r"(\d+) of \d+ moments")
_CODE = ("world/*.py", "encoding/evt3_encode.py", "bags/street.py", "bags/fields.py", "bags/build.py", "bags/writer.py")


@dataclass(frozen=True)
class Recording:
    """A stretch of street, as a bag.

    Attributes:
        daylight: "day" or "night"; any weather of the street would do.
        moments: how many, at 10 Hz.
        side: height and width of the pictures in pixels.
        seed: of the street.
    """

    daylight: str
    moments: int
    side: int
    seed: int

    @property
    def name(self) -> str:
        """What it is called, whatever version of the code made it."""
        return f"street_{self.daylight}_{self.seed}_{self.moments}_{self.side}"

    def path(self, cache: Path) -> Path:
        """Where it is kept; another version of the code has another place."""
        digest = hashlib.sha256()
        package = Path(__file__).resolve().parents[2]
        for pattern in _CODE:
            for source in sorted(package.glob(pattern)):
                digest.update(source.read_bytes())
        return cache / f"{self.name}_{digest.hexdigest()[:12]}"

    def arguments(self, out: Path) -> list[str]:
        """The command that renders it."""
        return [
            "simulate", str(out), "--seed", str(self.seed), "--weather", self.daylight,
            "--moments", str(self.moments), "--side", str(self.side),
        ]  # fmt: skip


def default_cache() -> Path:
    """The user's cache folder, as the XDG base directory specification has it."""
    return expand_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mlesam_ros"


def recordings_for(scenes: Sequence[tuple[str, int]], side: int) -> list[Recording]:
    """One recording per (daylight, moments), on streets that no training has seen."""
    return [Recording(daylight, moments, side, _FIRST_SEED + i) for i, (daylight, moments) in enumerate(scenes)]


def render(recordings: Sequence[Recording], cache: Path) -> list[Path]:
    """Render what is not there yet, each recording in a process of its own.

    Args:
        recordings: what is wanted.
        cache: folder in which they are kept.

    Returns:
        the bags.

    Raises:
        ProcessError: a renderer failed; nothing half-done stays.
    """
    cache.mkdir(parents=True, exist_ok=True)
    missing = [recording for recording in recordings if not recording.path(cache).exists()]
    if missing:
        _render(missing, cache)
    return [recording.path(cache) for recording in recordings]


def _render(missing: Sequence[Recording], cache: Path) -> None:
    partial = {recording: cache / f".{recording.daylight}.{os.getpid()}" for recording in missing}
    total = sum(recording.moments for recording in missing)
    try:
        with ExitStack() as stack:
            progress = stack.enter_context(track("rendering the street, once", total, "moments"))
            renderers = [
                stack.enter_context(ChildProcess("renderer", recording.arguments(out), out.with_suffix(".log")))
                for recording, out in partial.items()
            ]
            while not all(child.ended for child in renderers):
                progress(sum(_done(child) for child in renderers), total)
                for child in renderers:
                    child.check(may_be_done=True)
                time.sleep(_POLL)
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


def _done(child: ChildProcess) -> int:
    match = _DONE.search(child.log_tail(1))
    return int(match[1]) if match else 0
