# SPDX-License-Identifier: Apache-2.0
"""Every fault of every sensor, and of pairs: `python test/reliability/faults.py --page docs/reliability.md`.

A robot with a process per sensor, the node with a tiny network, and this process, which listens, lets the sensors fail
one case after the other, and makes masks again with the offline pipeline. The pairs are: the same fault on each two
sensors, and each two different faults on the first two of the primary order, camera and LiDAR.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from checkout import CHECKOUT
from pages import table, write_recorded

from mlesam_ros.bench.measurement import device, versions
from mlesam_ros.cli.common import prepare_own_domain
from mlesam_ros.types import CAMERA, LIDAR, MODALITIES

GAP = 2.0  # s without a mask that are too many on any machine; the time-out and the max_wait are 0.4 s
PAUSE = 0.2  # s without a processor after which what was measured is the machine
_TRIES = 3
_HEALTH, _SINGLE, _SAME, _MIXED = "none", "single", "same on two sensors", "camera and LiDAR"


def singles() -> list[dict[str, str]]:
    """Every fault of every sensor."""
    from faulty import FAULTS

    return [{sensor: fault} for fault in FAULTS for sensor in MODALITIES]


def same() -> list[dict[str, str]]:
    """Every fault on each two sensors at once."""
    from faulty import FAULTS

    return [dict.fromkeys(pair, fault) for fault in FAULTS for pair in itertools.combinations(MODALITIES, 2)]


def mixed() -> list[dict[str, str]]:
    """Each two different faults, one of the camera and one of the LiDAR."""
    from faulty import FAULTS

    return [{CAMERA: first, LIDAR: second} for first, second in itertools.permutations(FAULTS, 2)]


CASES: dict[str, Callable[[], list[dict[str, str]]]] = {_SINGLE: singles, _SAME: same, _MIXED: mixed}


@contextmanager
def watched(folder: Path, weights: dict[str, Any]) -> Iterator[Any]:
    """A `Watch` over a node and a robot of their own.

    Args:
        folder: for their logs.
        weights: the node's parameters that name the model.
    """
    from faulty import RELIABLE
    from node_process import NodeProcess
    from offline import Offline
    from watch import RobotProcess, Watch

    log = folder / "robot.jsonl"
    with ExitStack() as stack:
        node = NodeProcess(folder / "node.log", **weights, **RELIABLE)
        stack.callback(node.kill)
        robot = RobotProcess(log)
        stack.callback(robot.close)
        watch = Watch(robot, Offline(log, weights))
        stack.callback(watch.close)
        yield watch
        assert node.end(signal.SIGTERM) == 0, node.log.read_text()
        assert not node.said("Traceback"), node.log.read_text()


def run(cases: Sequence[tuple[str, dict[str, str]]], tell: Callable[[dict[str, Any]], None]) -> None:
    """Cases of some kinds, one after the other; the first is one without a fault.

    Args:
        cases: a key of `CASES` and the faults.
        tell: told the `report` of each.
    """
    from tiny_model import write_tiny_model

    with tempfile.TemporaryDirectory() as folder, watched(Path(folder), write_tiny_model(Path(folder))) as watch:
        tell(report(_HEALTH, watch.case({}, least=10.0)))
        for kind, faults in cases:
            tell(report(kind, undisturbed(watch, faults)))


def undisturbed(watch: Any, faults: dict[str, str]) -> Any:
    """The outcome of a case in which the machine left the listener time to listen; of the best of `_TRIES`, if none."""
    tries = []
    while len(tries) < _TRIES and (not tries or tries[-1].paused > PAUSE):
        tries.append(watch.case(faults))
    return min(tries, key=lambda outcome: outcome.paused)


def report(kind: str, outcome: Any) -> dict[str, Any]:
    """An `Outcome` for JSON, null where something did not happen."""
    facts = {"told": outcome.told, "wrong": outcome.wrong(GAP), "load": os.getloadavg()[0]}
    return _finite({"kind": kind, **vars(outcome), **facts})


def written(result: dict[str, Any]) -> str:
    """The reports as Markdown: a row with the worst of each fault."""
    from faulty import FAULTS

    (health,) = (case for case in result["cases"] if case["kind"] == _HEALTH)
    cases = [case for case in result["cases"] if case["kind"] != _HEALTH]
    heads = ("fault", "gap: camera", "another", "two", "status", "diagnostics", "recovered: one", "two", "well")
    rows = [_row(fault, cases) for fault in FAULTS]
    wrong = [f"{_named(case['faults'])}: {', '.join(case['wrong'])}" for case in cases if case["wrong"]]
    libraries = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    load = sorted(case["load"] for case in cases)
    disturbed = sum(case["paused"] > PAUSE for case in cases)
    equal, compared = (sum(case[key] for case in [health, *cases]) for key in ("equal", "compared"))
    return (
        f"{len(cases)} cases on {result['device']} ({libraries}), load {load[len(load) // 2]:.1f} in the median, "
        f"{load[0]:.1f} to {load[-1]:.1f}; {disturbed} cases in which the listener got no processor for {PAUSE:g} s, "
        f"{_TRIES} times in a row. Without a fault: longest gap {_worst([health], 'gap')} s. "
        f"{equal} of {compared} masks equal.\n\n"
        f"{table(heads, rows, range(1, len(heads)))}\n{_slow(cases)}\n\n"
        f"Not as it should be: {'; '.join(wrong) or 'nothing'}.\n"
    )


def _named(faults: Mapping[str, str]) -> str:
    return " and ".join(f"{sensor} {fault}" for sensor, fault in faults.items())


def _row(fault: str, cases: Sequence[dict[str, Any]]) -> list[str]:
    """The worst of the cases with a fault; of two different ones, of those in which the camera has it."""
    single = [case for case in cases if case["kind"] == _SINGLE and fault in case["faults"].values()]
    camera, others = ([case for case in single if (CAMERA in case["faults"]) is of] for of in (True, False))
    two = [case for case in cases if case["kind"] == _SAME and fault in case["faults"].values()]
    two += [case for case in cases if case["kind"] == _MIXED and case["faults"][CAMERA] == fault]
    named = [case for case in (*single, *two) if case["told"]]
    return [
        fault,
        *(_worst(some, "gap") for some in (camera, others, two)),
        _worst(named, "status"),
        _worst(named, "diagnostics"),
        *(_worst(some, "recovered") for some in (single, two)),
        _worst([*single, *two], "silent"),
    ]


def _slow(cases: Sequence[dict[str, Any]]) -> str:
    """How many were beyond a second, in words."""
    named = [case for case in cases if case["told"]]
    parts = (("status", named, "in ~/status"), ("diagnostics", named, "in /diagnostics"), ("recovered", cases, "well"))
    counts = [f"{sum(_beyond(case[key]) for case in of)} of {len(of)} {words}" for key, of, words in parts]
    return f"Later than a second: {', '.join(counts)}."


def _beyond(seconds: float | None) -> bool:
    return seconds is None or seconds > 1.0


def _worst(cases: Iterable[dict[str, Any]], key: str) -> str:
    values = [case[key] for case in cases]
    if not values:
        return "–"
    return "never" if None in values else f"{max(values):.2f}"


def _finite(value: Any) -> Any:
    """With null for what JSON cannot say."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--most", type=int, default=1000, help="cases of a kind, evenly taken")
    parser.add_argument("--json", type=Path, default=CHECKOUT / "build" / "faults.json")
    parser.add_argument("--resume", action="store_true", help="keep what the JSON file has of cases that went well")
    parser.add_argument("--page", type=Path, help="where the table goes between its markers")
    given = parser.parse_args()
    prepare_own_domain()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    given.json.parent.mkdir(exist_ok=True)
    kept = json.loads(given.json.read_text(encoding="utf-8"))["cases"] if given.resume else []
    result = {"device": device(), "versions": versions(), "cases": [case for case in kept if not case["wrong"]]}
    done = [(case["kind"], case["faults"]) for case in result["cases"]]

    def tell(case: dict[str, Any]) -> None:
        if case["kind"] != _HEALTH or (_HEALTH, {}) not in done:
            result["cases"].append(case)
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(case), flush=True)

    run([case for case in chosen(given.kinds, given.most) if case not in done], tell)
    if given.page:
        write_recorded(given.page, "faults", written(result))
    wrong = sum(bool(case["wrong"]) for case in result["cases"])
    raise SystemExit(f"{wrong} of {len(result['cases'])} cases are not as they should be" if wrong else 0)


def chosen(kinds: Sequence[str], most: int) -> list[tuple[str, dict[str, str]]]:
    """The cases of some kinds, of each at most so many, evenly taken."""
    found = []
    for kind in kinds:
        given = CASES[kind]()
        count = min(len(given), most)
        found += [(kind, given[number * len(given) // count]) for number in range(count)]
    return found


if __name__ == "__main__":
    main()
