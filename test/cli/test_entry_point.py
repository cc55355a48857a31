# SPDX-License-Identifier: Apache-2.0
"""Exit codes and messages of interrupted and failed commands."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

from mlesam_ros.cli import run_cli


def ended(start, capsys, *arguments):
    """The exit code and what was said on stderr."""
    before, sys.argv = sys.argv, ["mlesam", *arguments]
    handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run_cli(start), capsys.readouterr().err
    finally:
        sys.argv = before
        signal.signal(signal.SIGINT, handler)


def raising(error):
    def start():
        raise error

    return start


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SystemExit(3), 3, ""),
        (SystemExit("no"), 1, ""),
        (SystemExit(), 0, ""),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device", "/x/y"), 2, "/x/y: No space left on device"),
        (ModuleNotFoundError("No module named 'rclpy'", name="rclpy"), 2, "rclpy"),
        (RuntimeError("two\nlines"), 70, "RuntimeError: two lines"),
    ],
)
def test_outcome_maps_to_exit_code_and_message(error, code, said, capsys):
    found, words = ended(raising(error), capsys)
    assert found == code
    assert said in words and words.count("\n") == bool(said)
    assert words == "" or words.startswith("mlesam: ")


def test_debug_raises_unexpected_errors(capsys):
    with pytest.raises(RuntimeError):
        ended(raising(RuntimeError("x")), capsys, "info", "--debug")


def test_interrupt_turned_into_an_error_by_a_library_is_an_interrupt(capsys):
    def start():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    assert ended(start, capsys) == (130, "")


def test_interrupt_during_an_import_waits_for_the_import(capsys, tmp_path, monkeypatch):
    """Extension modules abort the process when an exception comes while they load."""
    lines = ["import os, signal, time", "os.kill(os.getpid(), signal.SIGINT)", "time.sleep(0.2)", "whole = True"]
    (tmp_path / "slow_to_load.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)

    def start():
        importlib.import_module("slow_to_load")
        for _ in range(100):
            time.sleep(0.1)

    assert ended(start, capsys) == (130, "")
    assert sys.modules.pop("slow_to_load").whole


def test_second_interrupt_during_an_import_exits_at_once(tmp_path):
    strike = "os.kill(os.getpid(), signal.SIGINT)"
    (tmp_path / "slow_to_load.py").write_text(f"import os, signal\n{strike}\n{strike}\nprint('not reached')")
    load = "lambda: importlib.import_module('slow_to_load')"
    code = f"import importlib; from mlesam_ros.cli import run_cli; run_cli({load})"
    command, path = [sys.executable, "-c", code], os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ignored_interrupts_stay_ignored(capsys):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run_cli(lambda: os.kill(os.getpid(), signal.SIGINT)) == 0
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("out", ["closed pipe", "full disk"])
def test_unwritable_standard_output(out, tiny_checkpoint):
    command = [sys.executable, "-m", "mlesam_ros.cli", "info", str(tiny_checkpoint.path), "--json", "-"]
    if out == "full disk":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    done = subprocess.run(command, stdout=target, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(target)
    if out == "full disk":
        assert done.returncode == 2 and done.stderr.startswith("mlesam: No space left on device")
        assert done.stderr.count("\n") == 1
    else:
        assert done.returncode == 1 and done.stderr == ""
