# SPDX-License-Identifier: Apache-2.0
"""`mlesam bench`."""

import json
import re

import pytest


def test_result_is_written_as_json(mlesam, tmp_path):
    result = mlesam("bench", "sync", "--repeats", "3", "--json", tmp_path / "sync.json")
    assert result.exit_code == 0
    written = json.loads((tmp_path / "sync.json").read_text())
    assert set(written) == {"device", "versions", "date", "load", "command", "config", "rows"}
    assert written["command"] == "mlesam bench sync --repeats 3"


def test_result_is_shown_as_text(mlesam):
    shown = mlesam("bench", "sync", "--repeats", "3").stdout
    assert re.search(r"message of 4 modalities, 10 Hz.*\n +[\d.]+ us, p99 [\d.]+, spread \d+ %\n", shown)


def test_network_options_are_in_the_command_line_and_in_the_config(mlesam, tmp_path):
    command = ("bench", "paths", "--size", "64", "--repeats", "1")
    assert "times as fast" in mlesam(*command).stdout
    mlesam(*command, "--json", tmp_path / "paths.json")
    written = json.loads((tmp_path / "paths.json").read_text())
    assert written["command"] == "mlesam bench paths --repeats 1 --size 64"
    assert (written["config"]["backbone"], written["config"]["size"]) == ("hiera_nano", 64)


@pytest.mark.parametrize("command", ["sensors", "sync", "model", "paths", "node", "training"])
def test_help_shows_examples_of_the_command_itself(mlesam, command):
    result = mlesam("bench", command, "--help")
    examples = [line.strip() for line in result.stdout.split("Examples")[1].splitlines() if "$ " in line]
    assert examples
    assert all(line.startswith(f"$ mlesam bench {command}") for line in examples)


def test_too_few_repeats_are_refused(mlesam):
    assert mlesam("bench", "sync", "--repeats", "0").exit_code == 2
