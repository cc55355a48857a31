"""Tables in a page: what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mlesam_ros.errors import ConfigError


def fill(page: Path, name: str, text: str) -> None:
    """Put a text into its place in a page.

    Raises:
        ConfigError: the page has no such place.
    """
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ConfigError(f"{page} has no {begin.strip()} and {end} on lines of their own; put them where {name} goes.")
    page.write_text(f"{before}{begin}{text.rstrip()}\n{end}{after}", encoding="utf-8")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column is words, the others are numbers."""
    rule = ["---", *["--:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *rows))
