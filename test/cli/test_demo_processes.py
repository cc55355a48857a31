"""Processes of the demo: their last words, and that none survives."""

import os
import time

import pytest

from mlesam_ros.cli.common import new_run_dir
from mlesam_ros.cli.demo import runner as processes
from mlesam_ros.cli.demo.runner import ChildProcess, ProcessError
from mlesam_ros.errors import ConfigError


def wait_for_end(child):
    end = time.monotonic() + 120
    while not child.ended and time.monotonic() < end:
        time.sleep(0.05)


def test_last_words_are_in_the_error(tmp_path):
    with ChildProcess("node", ["info", "nowhere.safetensors"], tmp_path / "log") as child:
        wait_for_end(child)
        with pytest.raises(ProcessError, match=r"node exited with code 2: .*nowhere\.safetensors"):
            child.check()
        with pytest.raises(ProcessError):
            child.check(may_be_done=True)


def test_ending_well_is_well_where_it_may(tmp_path):
    with ChildProcess("helper", ["--help"], tmp_path / "log") as child:
        wait_for_end(child)
        child.check(may_be_done=True)
        assert "Usage" in (tmp_path / "log").read_text()
        with pytest.raises(ProcessError):
            child.check()


def test_children_run_the_code_of_their_parent(tmp_path, monkeypatch):
    (tmp_path / "mlesam_ros").mkdir()
    (tmp_path / "mlesam_ros" / "__init__.py").write_text("raise SystemExit('another copy')")
    monkeypatch.chdir(tmp_path)
    with ChildProcess("helper", ["--help"], tmp_path / "log") as child:
        wait_for_end(child)
        child.check(may_be_done=True)


def test_no_child_outlives_its_block(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_STOP_TIMEOUT_S", 3.0)
    with ChildProcess(
        "renderer", ["simulate", str(tmp_path / "street"), "--side", "64", "--moments", "5000"], tmp_path / "log"
    ) as child:
        time.sleep(1.0)
        assert not child.ended
        pid = child._process.pid
    assert child.ended
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_results_get_a_folder_each_and_latest_leads_to_the_newest(tmp_path):
    first, second = new_run_dir(tmp_path / "runs"), new_run_dir(tmp_path / "runs")
    assert first != second
    assert first.is_dir()
    assert (tmp_path / "runs" / "latest").resolve() == second.resolve()


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--output"):
        new_run_dir(tmp_path / "file")
