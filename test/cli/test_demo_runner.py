# SPDX-License-Identifier: Apache-2.0
"""Child processes and cached recordings of the demo."""

import os
import time
from pathlib import Path

import pytest

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.cli.common import new_run_dir
from mlesam_ros.cli.demo import runner as processes
from mlesam_ros.cli.demo import runner as recording
from mlesam_ros.cli.demo.runner import ChildProcess, ProcessError, StreetRecording, recordings_for, render
from mlesam_ros.errors import ConfigError


def wait_for_end(child):
    end = time.monotonic() + 120
    while not child.ended and time.monotonic() < end:
        time.sleep(0.05)


def test_error_contains_the_end_of_the_log(tmp_path):
    with ChildProcess("node", ["info", "nowhere.safetensors"], tmp_path / "log") as child:
        wait_for_end(child)
        with pytest.raises(ProcessError, match=r"node exited with code 2: .*nowhere\.safetensors"):
            child.check()
        with pytest.raises(ProcessError):
            child.check(may_be_done=True)


def test_exit_code_0_is_accepted_only_if_allowed(tmp_path):
    with ChildProcess("helper", ["--help"], tmp_path / "log") as child:
        wait_for_end(child)
        child.check(may_be_done=True)
        assert "Usage" in (tmp_path / "log").read_text()
        with pytest.raises(ProcessError):
            child.check()


def test_child_imports_the_package_of_its_parent(tmp_path, monkeypatch):
    (tmp_path / "mlesam_ros").mkdir()
    (tmp_path / "mlesam_ros" / "__init__.py").write_text("raise SystemExit('another copy')")
    monkeypatch.chdir(tmp_path)
    with ChildProcess("helper", ["--help"], tmp_path / "log") as child:
        wait_for_end(child)
        child.check(may_be_done=True)


def test_child_is_stopped_at_the_end_of_the_block(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_STOP_TIMEOUT_S", 3.0)
    with ChildProcess(
        "renderer",
        ["simulate", str(tmp_path / "street"), "--image-size", "64", "64", "--steps", "5000"],
        tmp_path / "log",
    ) as child:
        time.sleep(1.0)
        assert not child.ended
        pid = child._process.pid
    assert child.ended
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_each_run_has_its_own_folder_and_latest_links_to_the_newest(tmp_path):
    first, second = new_run_dir(tmp_path / "runs"), new_run_dir(tmp_path / "runs")
    assert first != second
    assert first.is_dir()
    assert (tmp_path / "runs" / "latest").resolve() == second.resolve()


def test_unwritable_output_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--output"):
        new_run_dir(tmp_path / "file")


def test_seeds_differ_and_are_not_used_in_training():
    made = recordings_for([("day", 5), ("night", 6)], (48, 64))
    assert [(r.daylight, r.steps, r.image_size) for r in made] == [("day", 5, (48, 64)), ("night", 6, (48, 64))]
    assert len({r.seed for r in made}) == 2
    assert min(r.seed for r in made) >= 9000


def test_recording_is_rendered_again_only_after_a_change_of_code(tmp_path, monkeypatch):
    wanted = [StreetRecording("day", 2, (32, 32), 9000)]
    (path,) = render(wanted, tmp_path)
    with BagReader(path) as reader:
        assert reader.counts["/ground_truth/labels"] == 2
    assert list(tmp_path.iterdir()) == [path]
    born = path.stat().st_ino
    assert render(wanted, tmp_path) == [path]
    assert path.stat().st_ino == born
    monkeypatch.setattr(recording, "_CACHE_SOURCES", ("errors.py",))
    (newer,) = render(wanted, tmp_path)
    assert list(tmp_path.iterdir()) == [newer] != [path]


def test_failed_rendering_leaves_no_files(tmp_path):
    with pytest.raises(ProcessError, match="dusk"):
        render([StreetRecording("dusk", 2, (32, 32), 9000)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_cache_sources_exist():
    package = Path(recording.__file__).resolve().parents[2]
    assert [pattern for pattern in recording._CACHE_SOURCES if not list(package.glob(pattern))] == []
