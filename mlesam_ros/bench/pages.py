"""Benchmark tables in the docs: `python -m mlesam_ros.bench.pages` updates docs/ from benchmarks/results/.

The table of benchmarks/results/NAME.json is inserted between `<!-- bench:NAME -->` and `<!-- /bench -->`. Two names
combine several results: `goals`, the performance targets, and `switches`, the optimizations.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlesam_ros.bench.goals import GOALS, SWITCHES, times
from mlesam_ros.errors import ConfigError

_BLOCK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)
_HEAD = (
    "| | median | p99 | spread | CPU "
    "| alternative | its median | its CPU | times as fast | by CPU | bound | MB | its MB |\n"
    "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|\n"
)
_GOALS = "| Goal | | Found | Standing | |\n|---|---|---|---|---|\n"
_SWITCHES = "| Switch | What it is | What it brings | Held to the plain way by | Tolerance |\n|---|---|---|---|---|\n"


def table(result: Mapping[str, Any]) -> str:
    """Format a result of `mlesam bench` as a Markdown table with a caption that describes the machine."""
    lines = [_line(row) for row in result["rows"]]
    return _HEAD + "".join(lines) + f"\n{_caption(result)}\n"


def filled(page: str, results: Path) -> str:
    """Replace the tables of a page by those of the current results.

    Raises:
        ConfigError: the page refers to a result that does not exist.
    """

    def block(match: re.Match[str]) -> str:
        if match[2] in _SEVERAL:
            return match[1] + _SEVERAL[match[2]](results) + match[3]
        return match[1] + table(_read(results, match[2])) + match[3]

    return _BLOCK.sub(block, page)


def _read(results: Path, name: str) -> dict[str, Any]:
    path = results / f"{name}.json"
    if not path.is_file():
        raise ConfigError(f"the page shows bench:{name}, but {path} does not exist.", f"Run mlesam bench {name}.")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def _caption(result: Mapping[str, Any]) -> str:
    """Caption with device, versions, date, load, ceilings and the command that reproduces the result."""
    told = [result["device"], ", ".join(f"{name} {number}" for name, number in result["versions"].items())]
    if "date" in result:
        busy = "load not noted" if result["load"] is None else f"load {result['load']:g} at the start"
        told.append(f"{result['date']}, {busy}")
    if "ceilings" in result:
        top = result["ceilings"]
        told.append(f"ceilings {top['gflops']:.4g} GFLOP/s, {top['gbytes']:.3g} GB/s")
    return "; ".join(told) + f". `{result['command']}`."


def _goals(results: Path) -> str:
    lines = []
    for goal in GOALS:
        result = _read(results, goal.result) if goal.result else None
        standing, figure = goal.verdict(result)
        command = f"`{result['command']}`" if result else ""
        remark = "; ".join(filter(None, [command, goal.remark]))
        lines.append(f"| {goal.words} | {goal.limit} | {figure} | {standing} | {remark} |\n")
    return _GOALS + "".join(lines)


def _switches(results: Path) -> str:
    named = {name: _read(results, name) for switch in SWITCHES for name, _ in switch.rows}
    lines = [
        f"| {s.name} | {s.words} | {s.speedup(named)} | `{s.test}` | {s.tolerance} |\n" for s in SWITCHES
    ]  # fmt: skip
    commands = ", ".join(f"`{result['command']}`" for result in named.values())
    return _SWITCHES + "".join(lines) + f"\nBy processor time, each turned off by itself: {commands}.\n"


_SEVERAL = {"goals": _goals, "switches": _switches}


def _line(row: Mapping[str, Any]) -> str:
    by_cpu = times(row) if row.get("alternative_cpu") else None
    cells = [
        row["name"],
        f"{_figure(row['median'])} {row['unit']}",
        _figure(row["p99"]),
        f"{100 * row['spread']:.0f} %" if row["repeats"] > 1 else "once",
        _figure(row.get("cpu")),
        row["alternative"] or "",
        _figure(row["alternative_median"]),
        *(_figure(row.get(key)) for key in ("alternative_cpu", "ratio")),
        _figure(by_cpu),
        *(_figure(row.get(key)) for key in ("bound", "memory", "alternative_memory")),
    ]
    return "| " + " | ".join(cells) + " |\n"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{float(f'{value:.3g}'):g}"


def main() -> None:
    """Update the pages of the source checkout that contains this module and print the changed paths."""
    checkout = Path(__file__).resolve().parents[2]
    for page in sorted((checkout / "docs").glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = filled(before, checkout / "benchmarks" / "results")
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{page.relative_to(checkout)}\n")


if __name__ == "__main__":
    main()
