"""`mlesam bench`."""

import json

import pytest


def test_the_command_writes_json(mlesam, tmp_path):
    result = mlesam("bench", "sync", "--repeats", "3", "--json", tmp_path / "sync.json")
    assert result.exit_code == 0
    written = json.loads((tmp_path / "sync.json").read_text())
    assert set(written) == {"device", "versions", "date", "load", "command", "config", "rows"}
    assert written["command"] == "mlesam bench sync --repeats 3"


def test_the_command_shows_every_figure(mlesam):
    shown = mlesam("bench", "sync", "--repeats", "3").stdout
    assert "message of 4 modalities" in shown
    assert "times as fast" in shown


@pytest.mark.parametrize("command", ["sensors", "sync", "model", "paths", "node", "training"])
def test_help_shows_examples_of_the_command_itself(mlesam, command):
    result = mlesam("bench", command, "--help")
    examples = [line.strip() for line in result.stdout.split("Examples")[1].splitlines() if "$ " in line]
    assert examples
    assert all(line.startswith(f"$ mlesam bench {command}") for line in examples)


def test_too_few_repeats_are_refused(mlesam):
    assert mlesam("bench", "sync", "--repeats", "0").exit_code == 2
