# SPDX-License-Identifier: Apache-2.0
"""Pages of the site that are not in docs/: hooks of mkdocs.yml.

README.md becomes the front page, CONTRIBUTING.md a page beside it. Files of the checkout that a page links to are
copied below `source/`; a link to a folder becomes plain text.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
"""Page of the site → file of the checkout."""

_LINK = re.compile(r"(\[(?:[^\[\]]|\[[^\]]*\])*\])\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_BADGES = re.compile(r"^\[!\[.*\n", re.MULTILINE)
_TABLE_MARKER = re.compile(r"^<!-- (?:begin|end) \w+ -->$", re.MULTILINE)
_NOT_RUN = re.compile(r"^<!-- not run: (.*) -->$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages in `PAGES` and the linked files."""
    for page, name in PAGES.items():
        files.append(File.generated(config, page, content=(CHECKOUT / name).read_text(encoding="utf-8")))
    for name in sorted(_linked_files()):
        files.append(File.generated(config, f"source/{name}", content=(CHECKOUT / name).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links out of docs/, show which commands no test runs, and leave out badges and markers of tables."""
    markdown = _TABLE_MARKER.sub("", _BADGES.sub("", markdown))
    markdown = _NOT_RUN.sub(r"*Not run by a test: \1.*", markdown)
    here = page.file.src_uri

    def rewritten(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        name = _resolved(_origin(here), target)
        if (CHECKOUT / name).is_dir():
            return text[1:-1]
        return f"{text}({posixpath.relpath(_on_site(name), posixpath.dirname(here) or '.')}{anchor or ''})"

    return _LINK.sub(rewritten, markdown)


def _linked_files() -> Iterator[str]:
    """Files of the checkout that a page links to and that are not pages, without duplicates."""
    found = set()
    for origin in (*PAGES.values(), *(f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md"))):
        for _, target, _ in _LINK.findall((CHECKOUT / origin).read_text(encoding="utf-8")):
            name = _resolved(origin, target)
            if _on_site(name).startswith("source/") and (CHECKOUT / name).is_file():
                found.add(name)
    return iter(found)


def _origin(page: str) -> str:
    """File of the checkout that a page is made from."""
    return PAGES.get(page) or (page.removeprefix("source/") if page.startswith("source/") else f"docs/{page}")


def _resolved(origin: str, target: str) -> str:
    return os.path.normpath(posixpath.join(posixpath.dirname(origin), target))


def _on_site(name: str) -> str:
    """Address below the root of the site of a file of the checkout."""
    pages = {origin: page for page, origin in PAGES.items()}
    return pages.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else f"source/{name}")
