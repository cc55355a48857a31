# SPDX-License-Identifier: Apache-2.0
"""Cases with numbers: tried one after the other, each one's time taken, and how to repeat what was found.

python test/fuzz/fuzz_runner.py "bag folder" 7 1234          # case 1234 of seed 7, with its traceback
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

LONGEST = 1.0
"""Seconds of CPU that a case may take; a clock on the wall would measure what else the machine does."""
STUCK = 900.0
"""Seconds on the wall after which a block of cases hangs: the process ends, and the file `stack` says where it was.
Many, since a busy machine is slow; and no timer of CPU time, beside which Linux' clock of it counts in ticks."""
BLOCK = 100
GROWTH = 64.0
"""MiB that the process may grow by between the first fifth of the cases and the end."""
GULP = 256.0
"""MiB that one case may take on its way; the cases have some kilobytes, a model ten megabytes."""
FIGURES = "figures"
"""Under which a test hands them on."""


class Target(Protocol):
    """What is attacked."""

    def case(self, rng: random.Random) -> Any:
        """Something damaged."""

    def run(self, case: Any) -> bool:
        """Read it; whether some of it was refused. Whatever is raised is a finding."""


@dataclass
class Figures:
    """What an attack came to: cases, how many of them were refused, seconds of CPU, and MiB."""

    target: str
    cases: int = 0
    refused: int = 0
    cpu_s: float = 0.0
    slowest_s: float = 0.0
    slowest: int = 0
    grown_mib: float = 0.0
    gulp_mib: float = 0.0


class Attack:
    """Cases of one target.

    Args:
        name: of the target.
        target: what reads them.
        seed: of all cases.
        mark: file that always holds the number of the case that is being tried, for those that end the process.

    Attributes:
        figures: what it came to so far.
    """

    def __init__(self, name: str, target: Target, seed: int, mark: Path) -> None:
        self.name, self.target, self.seed, self.figures = name, target, seed, Figures(name)
        self._mark = os.open(mark, os.O_CREAT | os.O_WRONLY, 0o600)
        self._stack = mark.with_name("stack").open("w", encoding="utf-8")
        self._findings: dict[str, list[int]] = {}

    def run(self, first: int, count: int) -> None:
        """Try them.

        Raises:
            AssertionError: something was raised, took too long or too much memory; says which cases.
        """
        settled = 0.0
        for number in range(first, first + count):
            if (number - first) % BLOCK == 0:
                faulthandler.dump_traceback_later(STUCK, exit=True, file=self._stack)
            if number - first == count // 5:
                settled = _resident()
            self._try(number, self.figures)
        faulthandler.cancel_dump_traceback_later()
        os.close(self._mark)
        self._stack.close()
        self.figures.grown_mib = grown = round(_resident() - settled, 1)
        assert not self._findings, self._told()
        assert grown < GROWTH, f"{self.name}: {grown} MiB more after {count} cases"

    def _try(self, number: int, figures: Figures) -> None:
        os.pwrite(self._mark, b"%12d\n" % number, 0)
        before, start = _forget_peak(), time.process_time()
        try:
            figures.refused += self.one(number)
        except Exception as error:
            self._note(number, _place(error))
        seconds, gulp = time.process_time() - start, _peak() - before
        figures.cases += 1
        figures.cpu_s += seconds
        if seconds > figures.slowest_s:
            figures.slowest_s, figures.slowest = seconds, number
        figures.gulp_mib = max(figures.gulp_mib, gulp)
        if seconds > LONGEST:
            self._note(number, f"took {seconds:.2f} s of CPU")
        if gulp > GULP:
            self._note(number, f"took {gulp:.0f} MiB")

    def one(self, number: int) -> bool:
        """Try one case; see `Target.run`."""
        rng = random.Random(f"{self.name}/{self.seed}/{number}")
        case = self.target.case(rng)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            return self.target.run(case)

    def _note(self, number: int, words: str) -> None:
        self._findings.setdefault(words, []).append(number)

    def _told(self) -> str:
        """Each thing that was found, how often, and how to see it again."""
        again = f'python test/fuzz/fuzz_runner.py "{self.name}" {self.seed}'
        return "\n".join(f"{len(n)}x {words}\n    {again} {n[0]}" for words, n in self._findings.items())


def _place(error: Exception) -> str:
    """What was raised and where, without what differs from case to case."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    about = str(error).splitlines()[0][:120] if isinstance(error, AssertionError) and str(error) else ""
    return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno} {frame.name} {about}".rstrip()


def _forget_peak() -> float:
    """MiB in use; `_peak` is of what comes from now on. See proc(5), clear_refs: a process' own peak never falls."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _resident() -> float:
    """MiB in use, after everything was given back that can be."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Repeat one case."""
    for folder in (Path(__file__).parents[1], Path(__file__).parents[2]):
        sys.path.insert(0, str(folder))
    from targets import all_targets

    name, seed, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        target = all_targets(Path(folder))[name]
        refused = Attack(name, target, seed, Path(folder) / "mark").one(number)
    print("refused" if refused else "read")


if __name__ == "__main__":
    main()
