# SPDX-License-Identifier: Apache-2.0
"""Nothing is installed whose hash was not written down, and what was written down is complete."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[2]
REQUIREMENTS = CHECKOUT / "requirements"
RELEASES = ("kilted", "jazzy")
WITHOUT_DEPENDENCIES = {"open3d-cpu", "sam2"}
"""Of requirements/bare.txt."""


def pins(*paths: Path) -> dict[str, str]:
    """Name → version of every requirement, each of which must be exact."""
    found = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if text := line.partition("#")[0].partition("--hash")[0].strip():
                requirement = Requirement(text)
                (only,) = requirement.specifier
                assert only.operator == "==" and "*" not in only.version, f"{path}: {text}"
                found[canonicalize_name(requirement.name)] = only.version
    return found


def locked(release: str) -> dict[str, str]:
    return pins(*(REQUIREMENTS / f"locked/{name}.txt" for name in ("torch", f"ros-{release}", "core")))


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.glob("locked/*.txt")), ids=lambda path: path.name)
def test_every_version_has_its_hashes(path):
    entries = re.findall(r"^(?=\w)(?:.*\\\n)*.*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert entries
    for entry in entries:
        assert re.fullmatch(r"\S+==\S+( ;[^\\]+)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\\n)?)+", entry), entry


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_wanted_is_locked(release):
    wanted = pins(*(REQUIREMENTS / f"{name}.txt" for name in ("torch", f"ros-{release}", "core", "dev", "bare")))
    assert wanted.items() <= locked(release).items()
    assert pins(REQUIREMENTS / "lock.txt").items() <= pins(REQUIREMENTS / "locked/uv.txt").items()


def test_both_releases_share_all_but_ros():
    assert {name for name in locked("kilted").keys() ^ locked("jazzy").keys() if not name.startswith("ros-")} == set()


def test_pip_is_told_to_refuse_everything_else():
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^HASHED := \$\(PIP\) --require-hashes -r requirements/locked$", makefile, re.MULTILINE)
    used = re.findall(r"(?:\$\(PIP\)|\$\(HASHED\)|pip -qq install)\S* ?.*", makefile)
    for call in used:
        assert call.startswith("$(HASHED)/") or call == "$(PIP) ." or "--require-hashes" in call, call
    assert len(used) >= 7


INSTALLED = {canonicalize_name(d.name): d for d in metadata.distributions()}


@pytest.mark.skipif("ros-wheels-bootstrapper" not in INSTALLED, reason="this machine's packages come from elsewhere")
def test_nothing_that_a_package_asks_for_was_left_out():
    """Dependencies are not resolved when they are installed, so that a lock that lacks one would show only later."""
    release = "jazzy" if "ros-jazzy-rclpy" in INSTALLED else "kilted"
    for name, version in locked(release).items():
        if name not in INSTALLED:
            continue  # for another Python
        assert INSTALLED[name].version.partition("+")[0] == version
        if name in WITHOUT_DEPENDENCIES:
            continue
        for line in INSTALLED[name].requires or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                there = INSTALLED.get(canonicalize_name(need.name))
                assert there is not None and need.specifier.contains(there.version, True), f"{name} needs {need}"
