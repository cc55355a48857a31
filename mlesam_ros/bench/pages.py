"""Results as tables in pages: `python -m mlesam_ros.bench.pages` brings docs/ up to date with benchmarks/results/.

A page holds `<!-- bench:NAME -->` and `<!-- /bench -->`, and the table of benchmarks/results/NAME.json goes between.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlesam_ros.errors import ConfigError

_BLOCK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)
_HEAD = (
    "| | median | p99 | alternative | its median | times as fast | bound by bytes |\n|---|--:|--:|---|--:|--:|--:|\n"
)


def table(result: Mapping[str, Any]) -> str:
    """A result of `mlesam bench` as Markdown, with the machine below."""
    lines = [_line(row) for row in result["rows"]]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return _HEAD + "".join(lines) + f"\n{result['device']}; {versions}. `{result['command']}`.\n"


def filled(page: str, results: Path) -> str:
    """A page with its tables as the results are now.

    Raises:
        ConfigError: a page names a result that is not there.
    """

    def block(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.json"
        if not path.is_file():
            raise ConfigError(
                f"the page shows bench:{match[2]}, but {path} does not exist; run mlesam bench {match[2]}."
            )
        return match[1] + table(json.loads(path.read_text(encoding="utf-8"))) + match[3]

    return _BLOCK.sub(block, page)


def _line(row: Mapping[str, Any]) -> str:
    unit = row["unit"]
    cells = [
        row["name"],
        f"{_figure(row['median'])} {unit}",
        _figure(row["p99"]),
        row["alternative"] or "",
        _figure(row["alternative_median"]),
        _figure(row["ratio"]),
        _figure(row["bound"]),
    ]
    return "| " + " | ".join(cells) + " |\n"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{float(f'{value:.3g}'):g}"


def main() -> None:
    """Rewrite the pages of the checkout that this module lies in."""
    checkout = Path(__file__).resolve().parents[2]
    for page in sorted((checkout / "docs").glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = filled(before, checkout / "benchmarks" / "results")
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{page.relative_to(checkout)}\n")


if __name__ == "__main__":
    main()
