# SPDX-License-Identifier: Apache-2.0
"""Help, errors and exit codes of the commands."""

import json
import re
import signal
import subprocess
import sys

import pytest

from mlesam_ros.cli.app import app
from mlesam_ros.errors import CheckpointError

COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands)


def test_all_commands_are_there(mlesam):
    shown = mlesam("--help").stdout
    for name in ("demo", "node", "play", "simulate", "train", "info"):
        assert f" {name} " in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_of_the_command_itself(mlesam, command):
    result = mlesam(command, "--help")
    assert result.exit_code == 0
    examples = [line.strip() for line in result.stdout.split("Examples")[1].splitlines() if "$ " in line]
    assert examples
    assert all(re.match(rf"\$ (torchrun .* -m mlesam_ros\.cli|mlesam) {command}", line) for line in examples)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "nowhere.safetensors"], "nowhere.safetensors"),
        (["play", "nowhere"], "nowhere"),
        (["play", "nowhere", "--drop", "camera@9..1"], "camera@9..1"),
        (["play", "nowhere", "--rate", "0"], "rate"),
        (["simulate", "street", "--weather", "dusk"], "dusk"),
        (["demo", "--seconds", "1"], "seconds is 1.0"),
        (["demo", "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_exit_code_2(mlesam, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = mlesam(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("mlesam: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["infos"], ["info"], ["info", "a", "b"], ["play", "a", "--rate", "fast"]])
def test_wrong_usage_prints_usage_and_exits_with_2(mlesam, arguments):
    result = mlesam(*arguments)
    assert result.exit_code == 2
    assert "Usage: mlesam" in result.stderr


def test_unknown_command_suggests_a_similar_one(mlesam):
    assert "play" in mlesam("pley").stderr


@pytest.mark.parametrize("arguments", [["--debug", "info", "nowhere"], ["info", "nowhere", "--debug"]])
def test_debug_shows_the_traceback(mlesam, arguments):
    result = mlesam(*arguments)
    assert isinstance(result.exception, CheckpointError)
    assert result.exit_code == 1


def test_help_imports_neither_torch_nor_opencv():
    code = (
        "import sys; from mlesam_ros.cli.app import app; app(['demo', '--help'], standalone_mode=False);"
        "print(sorted({'torch', 'cv2', 'open3d', 'rclpy', 'rosbags'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "mlesam_ros.cli", "simulate", str(tmp_path / "street"), "--image-size", "64", "64"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert "rendering" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_info_json_equals_the_description(mlesam, tiny_checkpoint, tmp_path):
    shown = mlesam("info", tiny_checkpoint.path)
    assert shown.exit_code == 0
    assert "hiera_nano" in shown.stdout
    on_stdout = json.loads(mlesam("info", tiny_checkpoint.path, "--json", "-").stdout)
    assert mlesam("info", tiny_checkpoint.path, "--json", tmp_path / "info.json").stdout == ""
    assert json.loads((tmp_path / "info.json").read_text()) == on_stdout
    assert set(on_stdout) >= {"backbone", "modalities", "rank", "label_space", "parameters", "base_sha256", "metrics"}
