# SPDX-License-Identifier: Apache-2.0
"""What attacks came to, added up.

python test/fuzz/figures.py build/fuzz/*.jsonl         # of several runs, as a table
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROW = "| {target} | {cases:,} | {refused:,} | {cpu_s:,.0f} | {slowest_s:.3f} | {grown_mib:.1f} | {gulp_mib:.1f} |"
HEAD = "| what | cases | refused | CPU, s | slowest, s of CPU | growth, MiB | one case, MiB |"


def read(path: Path) -> list[dict[str, Any]]:
    """The parts of a run."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def summed(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each target, and one for all: counts and times added up, the worst of what is a worst."""
    parts = defaultdict(list)
    for figures in found:
        parts[figures["target"]].append(figures)
    rows = [_row(target, some) for target, some in sorted(parts.items())]
    return [*rows, _row("all", rows)]


def _row(target: str, some: list[dict[str, Any]]) -> dict[str, Any]:
    added = {key: sum(figures[key] for figures in some) for key in ("cases", "refused", "cpu_s")}
    worst = {key: max(figures[key] for figures in some) for key in ("slowest_s", "grown_mib", "gulp_mib")}
    return {"target": target, **added, **worst}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    return "\n".join([HEAD, "|---" + "|---:" * 6 + "|", *(ROW.format(**row) for row in rows)])


if __name__ == "__main__":
    print(table(summed(figures for name in sys.argv[1:] for figures in read(Path(name)))))
