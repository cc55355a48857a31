# SPDX-License-Identifier: Apache-2.0
"""The site: it builds without a warning, fetches nothing, and its front page is README.md."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")

CHECKOUT = Path(__file__).resolve().parents[2]
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
NO_NETWORK = "import socket; socket.socket.connect = None; from mkdocs.__main__ import cli; cli()"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-c", NO_NETWORK, "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Addresses(HTMLParser):
    """Addresses that a browser fetches to show a page, and targets of its links."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in FETCHED and values.get("rel") != "canonical":
            self.fetched += filter(None, [values.get(FETCHED[tag])])
        if tag == "a":
            self.linked += filter(None, [values.get("href")])


def test_pages_fetch_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        assert [a for a in Addresses(page).fetched if re.match(r"\w+:|//", a) and not a.startswith("data:")] == []
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\((?!['\"]?(?:data:|\.|#))['\"]?\w+:", style.read_text(encoding="utf-8"))


def test_links_lead_to_files_of_the_site(site):
    for page in site.glob("*.html"):
        for target in Addresses(page).linked:
            if page.name != "404.html" and not re.match(r"\w+:|#", target):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_front_page_is_the_readme(site):
    text = re.sub(r"<[^>]+>", "", (site / "index.html").read_text(encoding="utf-8"))
    for heading in re.findall(r"^## (.+)$", (CHECKOUT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert heading in text


def test_reference_has_signatures_and_arguments(site):
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text(encoding="utf-8"))
    assert "from_checkpoint" in text and "at most one frame per modality." in text


def test_commands_that_are_not_run_are_marked(site):
    assert "Not run by a test: needs Docker." in (site / "docker.html").read_text(encoding="utf-8")
