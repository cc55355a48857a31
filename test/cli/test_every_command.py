# SPDX-License-Identifier: Apache-2.0
"""Properties of every command, collected from the application: a new command is checked as well."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from mlesam_ros.cli import run_cli
from mlesam_ros.cli.app import app
from mlesam_ros.simulation.export import write_simulated_bag
from mlesam_ros.simulation.world import World

ROOT = typer.main.get_command(app)
WITHOUT_RESULT = {"node"}
"""It runs until it is ended, and everything after it goes to ROS."""


def tree(command, path=()):
    """(path, command) of a command and all below it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from tree(below, (*path, name))


COMMANDS = dict(tree(ROOT))
LEAVES = {path: command for path, command in COMMANDS.items() if not hasattr(command, "commands")}
named = pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "mlesam")
each = pytest.mark.parametrize("path", LEAVES, ids=" ".join)


def examples(command) -> list[str]:
    return re.findall(r"\$ (.*?)\[/cyan\]", command.epilog or "")


def parse(line: str):
    """Read a command line as the application would, up to the point of running it."""
    own = line.partition(" | ")[0].rpartition("mlesam_ros.cli ")[-1]
    words = shlex.split(own.removeprefix("mlesam "))
    command, path = ROOT, []
    while words and words[0] in getattr(command, "commands", ()):
        path.append(words[0])
        command = command.commands[words.pop(0)]
    return path, command.make_context(path[-1], words)


@named
def test_help_has_a_sentence_and_valid_examples(path):
    command = COMMANDS[path]
    assert re.match(r"[A-Z].*\.", command.help)
    assert examples(command)
    for line in examples(command):
        assert line.startswith(("mlesam ", "torchrun "))
        found, _ = parse(line)
        assert tuple(found[: len(path)]) == path


@named
def test_every_option_has_help(path):
    silent = [parameter.name for parameter in COMMANDS[path].params if not (parameter.help or "").strip()]
    assert not silent


@each
def test_every_command_with_a_result_has_json(path):
    options = {name for parameter in LEAVES[path].params for name in parameter.opts}
    assert ("--json" in options) == (path[0] not in WITHOUT_RESULT)


@named
def test_help_without_a_terminal_is_plain_text(mlesam, path):
    shown = mlesam(*path, "--help")
    assert shown.exit_code == 0 and "\x1b" not in shown.stdout and shown.stderr == ""
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.fixture
def run(capsys):
    """Exit code, standard output and standard error of a command line, as the console script ends it."""

    def run(*arguments):
        code = run_cli(lambda: app([*map(str, arguments)], prog_name="mlesam"))
        return code, *capsys.readouterr()

    return run


def test_shell_completion_offers_commands_and_options():
    def completed(*words):
        asked = {"_MLESAM_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        code = "from mlesam_ros.cli.app import app; app(prog_name='mlesam')"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    assert completed("mlesam", "") == [path[0] for path in COMMANDS if len(path) == 1]
    assert completed("mlesam", "ev") == ["evaluate"]
    assert completed("mlesam", "sensors", "s") == ["show"]
    assert {"--robustness", "--real-time"} <= {*completed("mlesam", "evaluate", "--r")}


def test_only_results_are_on_standard_output(run, tmp_path):
    code, out, said = run("simulate", tmp_path / "street", "--steps", 2, "--image-size", 64, 64, "--json", "-")
    assert code == 0 and json.loads(out)["written"] == str(tmp_path / "street")
    assert "\x1b" not in said and "rendering: 2 of 2 steps" in said and len(said.splitlines()) <= 3


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_simulated_bag(tmp_path_factory.mktemp("bag") / "street", World(0, "day", (64, 64)), range(1))


@pytest.mark.parametrize("place", ["under a file", "/proc/nowhere"])
@pytest.mark.parametrize("command", ["simulate", "deliver", "evaluate", "info"])
def test_unwritable_target_is_one_sentence(run, place, command, street, tmp_path, tiny_checkpoint):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "below" if place == "under a file" else Path(place)
    small = ["--steps", 1, "--image-size", 64, 64]
    weights = ["--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base]
    arguments = {
        "simulate": ["simulate", target, *small],
        "deliver": ["simulate", "--deliver", target, *small],
        "evaluate": ["evaluate", street, "--output", target, *weights],
        "info": ["info", tiny_checkpoint.path, "--json", target / "info.json"],
    }
    code, out, said = run(*arguments[command])
    last = said.splitlines()[-1]
    assert code == 2 and out == "" and last.startswith("mlesam: ") and str(target) in last
    assert "Traceback" not in said
