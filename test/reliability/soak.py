# SPDX-License-Identifier: Apache-2.0
"""Soak test of the node for an hour: `python test/reliability/soak.py --page docs/reliability.md`.

Three processes: the street robot of `mlesam bench node`, whose messages are serialized beforehand; the node with the
shipped weights; and this one, which subscribes to every topic and samples the resources of the node every few seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from checkout import CHECKOUT
from pages import table, write_recorded
from trend import BLOCKS, trend

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bench.measurement import device, versions
from mlesam_ros.bench.node_benchmark import LABELS, STATUS, child
from mlesam_ros.bench.traffic import PERIOD
from mlesam_ros.ros.publishers import ON_DEMAND, OUTPUTS
from mlesam_ros.ros.subscribers import RawSubscriber
from mlesam_ros.types import MODALITIES

_STATUS_TYPE, _DIAGNOSTICS_TYPE = "mlesam_ros/msg/Status", "diagnostic_msgs/msg/DiagnosticArray"
_FATES = ("used_total", "superseded", "late", "unmatched", "refused")
_NAMED = tuple(fate.removesuffix("_total") for fate in _FATES)
_PERIOD = 5.0  # s between samples
_WARM = 0.1  # of the run, before which nothing counts: caches and pools fill
_SHOWN = 2  # kinds of warnings that the table tells of
_START = 120.0  # s for the first mask of all sensors
GRAINS = {
    "rss_mib": 8.0,
    "gpu_mib": 8.0,
    "threads": 0.5,
    "fds": 0.5,
    "cpu_ms_per_mask": 20.0,
    "latency_p50_ms": 5.0,
    "latency_p99_ms": 50.0,
}
"""Figure → what it may rise by over a run without being worth a word, such as less than a step of the allocator."""
_WORDS = {
    "rss_mib": "memory, MiB",
    "gpu_mib": "GPU memory, MiB",
    "threads": "threads",
    "fds": "open files",
    "cpu_ms_per_mask": "CPU time per mask, ms",
    "latency_p50_ms": "stamp to mask, median, ms",
    "latency_p99_ms": "stamp to mask, 99th percentile, ms",
}


class Ear:
    """Counters of received messages, since the last sample and in total."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.masks = self.heard = self.complete = self.missed = self.disordered = self.reports = 0
        self.newest: Any = None
        self.worst: dict[str, int] = {}
        self._types = typestore()

    def hear(self, topic: str, arrival: int, raw: bytes) -> None:
        """One message, serialized."""
        if topic == STATUS:
            self._status(self._types.deserialize_cdr(raw, _STATUS_TYPE))
        elif topic == LABELS:
            self.masks += 1
        elif topic == "/diagnostics":
            self.reports += 1
            for status in self._types.deserialize_cdr(raw, _DIAGNOSTICS_TYPE).status:
                if status.level:
                    words = f"{status.name.split(': ')[1]}: {_without_numbers(status.message)}"
                    self.worst[words] = self.worst.get(words, 0) + 1

    def _status(self, status: Any) -> None:
        if self.newest is not None:
            self.missed += max(status.sequence - self.newest.sequence - 1, 0)
            self.disordered += _stamp(status) <= _stamp(self.newest)
        self.newest = status
        self.heard += 1
        self.complete += all(sensor.used for sensor in status.sensors)
        self.latencies += [entry.seconds for entry in status.latencies if entry.stage == "stamp_to_mask"]


def sample(pid: int, ear: Ear, seconds: float, since: float) -> dict[str, float]:
    """Sample memory, CPU time and counters of the last `since` seconds."""
    latencies, ear.latencies = ear.latencies, []
    masks, ear.masks = ear.masks, 0
    timed = dict(zip(("p50", "p99"), np.quantile(latencies, (0.5, 0.99)) * 1e3, strict=True)) if latencies else {}
    fates = {f"{s.modality}_{fate}": getattr(s, fate) for s in ear.newest.sensors for fate in ("received", *_FATES)}
    return {
        "seconds": seconds,
        "rss_mib": resident(pid) / 2**20,
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
        **device_memory(pid),
        "cpu_seconds": cpu_seconds(pid),
        "load": os.getloadavg()[0],
        "masks_hz": masks / since,
        **{f"latency_{name}_ms": float(value) for name, value in timed.items()},
        **fates,
    }


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Seconds that its threads worked, see proc(5)."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def device_memory(pid: int) -> dict[str, float]:
    """MiB that it holds on GPUs, as `gpu_mib`; nothing where there is none."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    held = [float(memory) for number, memory in (line.split(",") for line in lines) if int(number) == pid]
    return {"gpu_mib": sum(held)} if held else {}


def soak(minutes: float, parameters: Sequence[str] = (), period: float = _PERIOD) -> dict[str, Any]:
    """Run it and sum it up.

    Args:
        minutes: how long it is listened to.
        parameters: of the node, such as `threads:=1`.
        period: seconds between samples.

    Returns:
        `device`, `versions`, `minutes`, `trends` (figure → trend, and whether it grows), `totals`, `samples`.
    """
    given = [word for parameter in parameters for word in ("-p", parameter)]
    ear = Ear()
    with ExitStack() as stack:
        node = stack.enter_context(child("mlesam_ros.cli", "node", "--ros-args", *given))
        stack.enter_context(child("mlesam_ros.bench.traffic", "street"))
        observer = stack.enter_context(RawSubscriber(ear.hear))
        for name, output in OUTPUTS.items():
            if output.when == ON_DEMAND:
                observer.subscribe(f"/mlesam/{name}", output.type_name)
        observer.subscribe("/diagnostics", _DIAGNOSTICS_TYPE)
        _until_complete(observer, ear)
        samples = _sampled(observer, ear, node, minutes * 60, period)
    return summed_up(samples, ear, minutes)


def _until_complete(observer: RawSubscriber, ear: Ear) -> None:
    end = time.monotonic() + _START
    while not ear.complete:
        assert time.monotonic() < end, f"no mask of all sensors in {_START:.0f} s"
        observer.spin_for(0.1)


def _sampled(
    observer: RawSubscriber, ear: Ear, node: subprocess.Popen[bytes], seconds: float, period: float
) -> list[dict[str, float]]:
    begin = last = time.monotonic()
    ear.latencies.clear()
    ear.masks = 0
    samples = []
    while last - begin < seconds:
        observer.spin_for(period)
        now = time.monotonic()
        assert node.poll() is None, f"the node ended with code {node.returncode} after {now - begin:.0f} s"
        samples.append(sample(node.pid, ear, now - begin, now - last))
        print(json.dumps(samples[-1]), flush=True)
        last = now
    return samples


def summed_up(samples: list[dict[str, float]], ear: Ear, minutes: float) -> dict[str, Any]:
    """Samples → what `soak` returns."""
    first, last = samples[0], samples[-1]
    for before, after in itertools.pairwise(samples):
        if done := after["camera_used_total"] - before["camera_used_total"]:
            after["cpu_ms_per_mask"] = 1e3 * (after["cpu_seconds"] - before["cpu_seconds"]) / done
    kept = [s for s in samples if s["seconds"] >= _WARM * last["seconds"]]
    trends = {}
    for figure, grain in GRAINS.items():
        there = [s for s in kept if figure in s]
        if len(there) >= BLOCKS:
            found = trend([s["seconds"] for s in there], [s[figure] for s in there])
            trends[figure] = {**vars(found), "grows": found.grows(grain)}
    seconds = last["seconds"] - first["seconds"]
    lost = {m: {f: last[f"{m}_{f}"] - first[f"{m}_{f}"] for f in ("received", *_FATES)} for m in MODALITIES}
    return {
        "device": device(),
        "versions": versions(),
        "minutes": minutes,
        "offered_hz": 1e9 / PERIOD,
        "masks_hz": float(np.mean([s["masks_hz"] for s in samples])),
        "load": [float(f([s["load"] for s in samples])) for f in (min, np.median, max)],
        "node_cores": (last["cpu_seconds"] - first["cpu_seconds"]) / seconds,
        "trends": trends,
        "totals": {
            "masks": ear.newest.sequence,
            "heard": ear.heard,
            "complete": ear.complete,
            "missed": ear.missed,
            "disordered": ear.disordered,
            "reports": ear.reports,
            "fates": lost,
            "warnings": ear.worst,
        },
        "samples": samples,
    }


def written(result: dict[str, Any]) -> str:
    """What `soak` returns, as Markdown: a table of the trends and what was counted."""
    heads = ("figure", "begin", "end", "rise per hour", "grows")
    rows = [
        (_WORDS[n], f"{t['begin']:.1f}", f"{t['end']:.1f}", f"{t['slope']:+.1f} ± {t['error']:.1f}",
         "yes" if t["grows"] else "no")
        for n, t in result["trends"].items()
    ]  # fmt: skip
    totals, load = result["totals"], result["load"]
    fates = [(m, *(f"{count:.0f}" for count in counts.values())) for m, counts in totals["fates"].items()]
    often = sorted(totals["warnings"].items(), key=lambda pair: -pair[1])
    warned = "; ".join(f'{count} x "{words}"' for words, count in often[:_SHOWN]) or "none"
    warned += f"; and {len(often) - _SHOWN} rarer ones" if len(often) > _SHOWN else ""
    libraries = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"{result['minutes']:g} minutes on {result['device']} ({libraries}). Other work shared the cores: the "
        f"machine's load was {load[1]:.1f} in the median, {load[0]:.1f} to {load[2]:.1f}; the node itself took "
        f"{result['node_cores']:.2f} cores. {result['offered_hz']:.1f} sets per second were offered and "
        f"{result['masks_hz']:.1f} masks per second were published: "
        f"{totals['heard']} received, {totals['complete']} of all sensors, "
        f"{totals['missed']} missed by the listener, {totals['disordered']} out of order.\n\n"
        f"{table(heads, rows, range(1, 5))}\n"
        f"{table(('sensor', 'received', *_NAMED), fates, range(1, 7))}\n"
        f"Statuses on /diagnostics other than OK, in {totals['reports']} reports: {warned}.\n"
    )


def _without_numbers(words: str) -> str:
    """A message with its figures taken out, so that it counts as the same the next time."""
    return re.sub(r"\d+(\.\d+)?", "#", words)[:160]


def _stamp(status: Any) -> int:
    return int(status.header.stamp.sec * 10**9 + status.header.stamp.nanosec)


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json", type=Path, default=CHECKOUT / "build" / "soak.json")
    parser.add_argument("--page", type=Path, help="where the table goes between its markers")
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME:=VALUE")
    given = parser.parse_args()
    from mlesam_ros.cli.common import prepare_own_domain

    prepare_own_domain()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    result = soak(given.minutes, given.parameters)
    given.json.parent.mkdir(exist_ok=True)
    given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.page:
        write_recorded(given.page, "soak", written(result))
    print(json.dumps({name: result[name] for name in ("masks_hz", "load", "trends", "totals")}, indent=1))
    grows = [name for name, found in result["trends"].items() if found["grows"] and "latency" not in name]
    raise SystemExit(f"grows: {', '.join(grows)}" if grows else 0)


if __name__ == "__main__":
    main()
