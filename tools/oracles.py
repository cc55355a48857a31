# SPDX-License-Identifier: Apache-2.0
"""Run the tests whose oracles have no wheels, with the sources of these packages.

    python tools/oracles.py                                      # those of every distribution
    python tools/oracles.py --only kilted --from '/mirror/{repository}.git'
    python tools/oracles.py --only kilted --also cv_bridge=/opt/ros/kilted/lib/python3.12/site-packages

git fetches each package at the tag of its release into build/oracles, where it stays. The rclpy is the installed one,
whichever the distribution. cv_bridge has a compiled part; its test runs with `--also`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CHECKOUT = Path(__file__).resolve().parents[1]
BUILD = CHECKOUT / "build" / "oracles"
ORIGIN = "https://github.com/{repository}.git"


@dataclass(frozen=True)
class Source:
    """A Python package in a commit of a repository.

    Attributes:
        repository: owner and name.
        tag: tag of the commit.
        commit: its hash; a tag that has been moved is refused.
        folder: folder of the package in the repository.
    """

    repository: str
    tag: str
    commit: str
    folder: str

    def fetch(self, origin: str = ORIGIN, build: Path = BUILD) -> Path:
        """Fetch the commit unless it is there, and return the package's folder.

        Args:
            origin: address or path of the repositories, with `{repository}`, or `{owner}` and `{name}`.
            build: folder for the sources.

        Raises:
            SystemExit: the tag cannot be fetched or is another commit.
        """
        kept = build / f"{self.repository.replace('/', '+')}-{self.commit[:12]}"
        if not kept.is_dir():
            owner, _, name = self.repository.partition("/")
            address = origin.format(repository=self.repository, owner=owner, name=name)
            partial = kept.with_suffix(".partial")
            partial.mkdir(parents=True, exist_ok=True)
            _git(partial, "init", "--quiet")
            _git(partial, "fetch", "--quiet", "--depth", "1", address, f"refs/tags/{self.tag}")
            found = _git(partial, "rev-parse", "FETCH_HEAD^{commit}").strip()
            if found != self.commit:
                raise SystemExit(f"tag {self.tag} of {address} is {found}, but {self.commit} is pinned here.")
            _git(partial, "checkout", "--quiet", found)
            partial.rename(kept)
        return kept / self.folder


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout


_REPOSITORIES = {"bondpy": "bond_core", "smclib": "bond_core", "sensor_msgs_py": "common_interfaces"}
"""Package → its repository, if that has another name."""

_RELEASES = {
    "humble": {
        "launch": ("1.0.14-1", "e738d23fc607396b6641caf5f7a39aa669377c5f"),
        "launch_ros": ("0.19.14-1", "e8e1e420314d24e75afa7488ae954c935ffd145d"),
        "bondpy": ("4.1.4-1", "96cab083b5dd1a3dba609ef3aa50395c291b21d5"),
        "smclib": ("4.1.4-1", "0ece48e09e70b51f63ae2346bd4fc7bf92c376b8"),
        "sensor_msgs_py": ("4.9.1-1", "72ef0f4ebfe9255a80fb85f0e198a4c22e00f2ad"),
    },
    "jazzy": {
        "launch": ("3.4.11-1", "7585e053f985b56b4eeaa5be9efa5b4aae6f6e3f"),
        "launch_ros": ("0.26.12-1", "f174755a58dfb31f69556b493f732c7c858611d2"),
        "bondpy": ("4.2.0-1", "d43dd7f18274e0d375c2aa70beebbdd2a609e747"),
        "smclib": ("4.2.0-1", "28a83ba1c7a3448116da8d1a7e761afb099968a2"),
        "sensor_msgs_py": ("5.3.7-1", "293efc1128e44d2be5b291a26af56ce8466c7769"),
    },
    "kilted": {
        "launch": ("3.8.8-1", "b2743d30cf88e35edfb28f2c7035042dbded78d2"),
        "launch_ros": ("0.28.6-1", "524cbcc266cf4c429bf61523545a01481ba80d7b"),
        "bondpy": ("4.3.0-1", "f27a4f10f3e85f1bfc5869e30e3732d6e4c4c158"),
        "smclib": ("4.3.0-1", "4182cf5928ba0dd99da994e4c4bd8232ac2f66e2"),
        "sensor_msgs_py": ("5.5.2-1", "fb785c8278506a6cd104ed4de98d22ddafa29e82"),
    },
    "lyrical": {
        "launch": ("3.9.8-1", "707a48118759ffb0e5f41552b80453714b5a7917"),
        "launch_ros": ("0.29.9-1", "f97b40a2550e094bf6bc7a4da253ccc62b62ee4b"),
        "bondpy": ("4.4.0-3", "b614f679eb5fb51967bdffd36267ac50f7161cb2"),
        "smclib": ("4.4.0-3", "bc2db84527cf0ba67fb4f7960d8f03603e28cd85"),
    },
}
"""Distribution → package → version and commit of its release, which bloom tags."""

_MESSAGE_FILTERS = {
    "humble": ("4.3.5", "fc93cd991ffbb4be67db57ae91f1cde3a8719fc0"),
    "jazzy": ("4.11.2", "d3eecd6e1103ac44bf4bb9216e89353998b4c152"),
    "kilted": ("6.0.6", "a5412ecc24a6a85481f9e5535f4a53985ecab150"),  # before Kilted's release
}
_OSRF_PYCOMMON = "d3acec6fa61ee078b583a38ecfc41f4075454544"


def _sources(distribution: str) -> dict[str, Source]:
    found = {"osrf_pycommon": Source("osrf/osrf_pycommon", "2.1.6", _OSRF_PYCOMMON, "osrf_pycommon")}
    for package, (version, commit) in _RELEASES[distribution].items():
        repository = f"ros2-gbp/{_REPOSITORIES.get(package, package)}-release"
        found[package] = Source(repository, f"release/{distribution}/{package}/{version}", commit, package)
    if distribution in _MESSAGE_FILTERS:
        found["message_filters"] = Source(
            "ros2/message_filters", *_MESSAGE_FILTERS[distribution], "src/message_filters"
        )
    return found


SOURCES = {distribution: _sources(distribution) for distribution in _RELEASES}
"""Distribution → module → its source."""

TESTS = {
    "launch_ros": "test/ros/test_launch_ros.py",
    "bondpy": "test/ros/test_bond.py",
    "message_filters": "test/ros/test_message_filters.py",
    "sensor_msgs_py": "test/ros/test_sensor_msgs_py.py",
    "cv_bridge": "test/ros/test_cv_bridge.py",
}
"""Module → its tests."""


def link(folder: Path, modules: Mapping[str, Path]) -> None:
    """Make a folder for PYTHONPATH that has these modules and no other; what an earlier run left there is removed.

    launch_ros imports composition_interfaces to load components into containers. It is compiled, and no test loads any,
    so an empty service stands for it.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name, path in modules.items():
        (folder / name).symlink_to(path, target_is_directory=True)
    stand_in = folder / "composition_interfaces"
    stand_in.mkdir()
    (stand_in / "__init__.py").touch()
    (stand_in / "srv.py").write_text("class LoadNode:\n    class Request: ...\n")


def run_tests(folder: Path, tests: list[str]) -> dict[str, int]:
    """Run tests with a folder on PYTHONPATH; returns the counts of pytest's report.

    Raises:
        SystemExit: a test failed or was skipped, or pytest made no report.
    """
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    search = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, "-m", "pytest", "-q", "-rs", f"--junitxml={report}", *tests]
    done = subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": search}, check=False)
    if not report.is_file():
        raise SystemExit(f"pytest made no report and returned {done.returncode}.")
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    counts = {name: int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors")}
    if done.returncode or counts["skipped"]:
        raise SystemExit(f"{counts}: every test must pass, and none may be skipped.")
    return counts


def main() -> None:
    """Fetch the sources and run the tests, one distribution after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SOURCES, help="distribution; all by default")
    parser.add_argument("--from", dest="origin", default=ORIGIN, help="address of the repositories: %(default)s")
    parser.add_argument("--also", action="append", default=[], metavar="MODULE=FOLDER", help="an installed module")
    given = parser.parse_args()
    installed = {
        module: Path(folder).resolve() / module for module, _, folder in (a.partition("=") for a in given.also)
    }
    for distribution in given.only or SOURCES:
        sources, folder = SOURCES[distribution], BUILD / distribution
        link(folder, {**{name: source.fetch(given.origin) for name, source in sources.items()}, **installed})
        tests = [test for module, test in TESTS.items() if module in sources or module in installed]
        versions = ", ".join(f"{name} {source.tag.rpartition('/')[2]}" for name, source in sources.items())
        print(f"==> {distribution}: {versions}", flush=True)
        print(f"==> {distribution}: {run_tests(folder, tests)['tests']} tests passed", flush=True)


if __name__ == "__main__":
    main()
