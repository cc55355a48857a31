# SPDX-License-Identifier: Apache-2.0
"""Every command on every page is run here, by a test that is named here, or marked `<!-- not run: reason -->`."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_ros.resources import resource_path
from mlesam_ros.simulation.export import write_simulated_bag
from mlesam_ros.simulation.world import World

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
PROGRAMS = {
    "cd", "cp", "colcon", "docker", "export", "git", "make", "mkdir", "mlesam", "pip", "python", "python3", "ros2",
    "rosdep", "source", "sudo", "torchrun", "touch",
}  # fmt: skip
ELSEWHERE = {
    "make run": "test/cli/test_demo.py",
    "make test": ".ci/run",
    "make pytest": ".ci/run",
    "make setup": ".ci/run",
    "make site": "test/tools/test_site.py",
    "python benchmarks/compare.py": "test/benchmarks/test_compare.py",
    "mlesam info --backbones": "test/cli/test_info.py",
    "mlesam train config/training/smoke.yaml": "test/training/test_train_run.py",
    "mlesam label --out labels/ --import corrected/": "test/ros/test_your_data.py",
    "mlesam train --data labels/data.yaml --from street --out runs/yard": "test/ros/test_your_data.py",
    "mlesam train --data yard.yaml": "test/ros/test_your_data.py",
    "mlesam evaluate photos": "test/ros/test_your_data.py",
}
"""Beginning of a command → what runs it."""
SMALLER = {
    ("simulate",): ["--steps", "2", "--image-size", "64", "64"],
    ("bench", "model"): ["--repeats", "1", "--size", "64", "--threads", "1"],
}
"""Options that are added here."""


class Command(NamedTuple):
    """A line of a code block, without its comment; `reason` why it is not run, empty if it is."""

    page: str
    line: str
    reason: str


def commands(page: Path) -> Iterator[Command]:
    """Commands in the code blocks of a page, indented or fenced."""
    reason, fenced = "", False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
            continue
        if not fenced and (marked := re.fullmatch(r"<!-- not run: (.+) -->", line)):
            reason = marked[1]
        if not fenced and line.startswith("#"):
            reason = ""
        text = re.sub(r"\s+#\s.*", "", line).strip().removeprefix("$ ")
        if (line.startswith("    ") or fenced) and text.split(" ")[0] in PROGRAMS:
            yield Command(page.name, text, reason)


ALL = [command for page in PAGES for command in commands(page)]
RUN = sorted({command.line for command in ALL if not command.reason})
MLESAM = [line for line in RUN if line.startswith("mlesam ") and not line.startswith(tuple(ELSEWHERE))]


def test_commands_are_found():
    assert len(ALL) > 80 and len(MLESAM) > 15


@pytest.mark.parametrize("line", [line for line in RUN if line not in MLESAM])
def test_other_commands_are_run_elsewhere(line):
    runners = [path for beginning, path in ELSEWHERE.items() if line.startswith(beginning)]
    assert runners, f"mark {line!r} with <!-- not run: reason -->, or name its test"
    assert (CHECKOUT / runners[0]).exists()


@pytest.mark.parametrize("line", sorted({c.line for c in ALL if c.line.startswith(("mlesam ", "torchrun "))}))
def test_options_exist(line):
    words = shlex.split(line.rpartition("mlesam_ros.cli ")[-1].removeprefix("mlesam "))
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", ()):
        command = command.commands[words.pop(0)]
    command.make_context("mlesam", words)


@pytest.fixture(scope="module")
def robot(tmp_path_factory) -> Path:
    """A folder with what the commands of the pages read."""
    folder = tmp_path_factory.mktemp("robot")
    write_simulated_bag(folder / "drive", World(0, "day", (64, 64)), range(12))
    shutil.copytree(folder / "drive", folder / "recordings" / "monday")
    shutil.copy(resource_path("config/rigs/example.yaml"), folder / "rig.yaml")
    (folder / "rig.params.yaml").write_text("/**:\n  ros__parameters:\n    max_wait: 0.1\n")
    shutil.copy(resource_path("weights/street.safetensors"), folder / "mine.safetensors")
    return folder


def test_example_of_the_python_api_runs(robot, monkeypatch, capsys):
    monkeypatch.chdir(robot)
    (code,) = re.findall(r"^```python\n(.*?)^```$", (CHECKOUT / "docs/api.md").read_text("utf-8"), re.M | re.S)
    exec(compile(code, "docs/api.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 12


@pytest.mark.parametrize("line", MLESAM)
def test_command_runs(robot, tmp_path, monkeypatch, line):
    words = shlex.split(line)[1:]
    kept = words[0] != "simulate"  # it refuses a folder that exists
    for path in robot.iterdir():
        if kept or path.name != "drive":
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLESAM_WEIGHTS", str(tmp_path / "weights"))
    more = next((options for path, options in SMALLER.items() if tuple(words[: len(path)]) == path), [])
    done = CliRunner().invoke(app, [*words, *more], prog_name="mlesam")
    assert done.exit_code in ((0, 1) if words[0] in ("doctor", "sensors") else (0,)), done.output
