"""Folders with one owner, and children that end with their parent: real processes, killed as the kernel kills them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlesam_ros.errors import FileError
from mlesam_ros.files import LOCK_FILE, exclusive_folder

CHECKOUT = Path(__file__).parents[1]
OWNER = """
import sys, time
from pathlib import Path
from mlesam_ros.files import exclusive_folder
with exclusive_folder(Path(sys.argv[1]), "training"):
    print("owned", flush=True)
    time.sleep(120)
"""
RENDERS = """
from mlesam_training.street_dataset import Conditions
from mlesam_training.street_dataset import Street, render_streets
import sys, numpy as np
from numpy.lib.format import open_memmap
if __name__ == "__main__":
    folder, rows = sys.argv[1], 4000
    open_memmap(f"{folder}/camera.npy", "w+", np.float16, (rows, 3, 64, 64))
    open_memmap(f"{folder}/labels.npy", "w+", np.uint8, (rows, 64, 64))
    open_memmap(f"{folder}/done.npy", "w+", bool, (rows,))
    streets = [
        Street(folder, s, Conditions("sun", "none"), tuple(range(2000 * s, 2000 * (s + 1))), 2000, 64, 64,
               (("camera", "rgb"),))
        for s in range(2)
    ]
    print("owned", flush=True)
    list(render_streets(streets, 2))
"""
COMMANDS = """
import sys, time
from pathlib import Path
from mlesam_ros.cli.demo.runner import ChildProcess
folder = Path(sys.argv[1])
arguments = ["simulate", str(folder / "bag"), "--moments", "100000", "--side", "64"]
with ChildProcess("renderer", arguments, folder / "log"):
    while not (folder / "bag").exists():
        time.sleep(0.1)
    print("owned", flush=True)
    time.sleep(120)
"""


def start(program, folder, tmp_path):
    script = tmp_path / "program.py"  # spawned workers import it
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, str(script), str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "owned\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def children(parent):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def running(processes):
    alive = []
    for number in processes:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        alive += [number] if state != "Z" else []
    return alive


class TestOwned:
    """Kind: a folder that two runs write into at the same time."""

    def test_another_process_is_named(self, tmp_path):
        owner = start(OWNER, tmp_path / "run", tmp_path)
        try:
            with pytest.raises(FileError) as refused, exclusive_folder(tmp_path / "run", "training"):
                pytest.fail("two owners")
            message = refused.value.message
            assert "another training run" in message and f"process {owner.pid} on {socket.gethostname()}" in message
            assert "program.py" in message and refused.value.remedy
        finally:
            kill(owner)

    def test_a_killed_owner_holds_nothing_and_its_drafts_go(self, tmp_path):
        folder = tmp_path / "run"
        kill(start(OWNER, folder, tmp_path))
        assert (folder / LOCK_FILE).exists()
        for name in (".state.pt.123.part", "state.pt", ".profile.part"):
            (folder / name).write_text("")
        with exclusive_folder(folder, "training"):
            assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()
        assert sorted(os.listdir(folder)) == [".profile.part", "state.pt"]

    def test_it_is_free_after_an_error(self, tmp_path):
        with pytest.raises(KeyError), exclusive_folder(tmp_path, "training"):
            raise KeyError
        with exclusive_folder(tmp_path, "training"):
            pass
        assert not os.listdir(tmp_path)

    def test_a_lock_file_of_another_host_is_no_lock_where_the_kernel_says_so(self, tmp_path):
        (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": 1, "host": "elsewhere", "command": "x"}))
        with exclusive_folder(tmp_path, "training"):
            pass

    @pytest.mark.parametrize(("owner", "free"), [({"pid": 2**22 + 1}, True), ({"pid": 1}, False), ({}, True)])
    def test_without_locks_of_the_file_system_the_owner_is_looked_for(self, tmp_path, monkeypatch, owner, free):
        def no_locks(*_):
            raise OSError(37, "No locks available")

        monkeypatch.setattr("mlesam_ros.files.fcntl.flock", no_locks)
        text = json.dumps({"host": socket.gethostname(), "command": "x", **owner}) if owner else "garbage"
        (tmp_path / LOCK_FILE).write_text(text)
        if free:
            with exclusive_folder(tmp_path, "training"):
                pass
        else:
            with pytest.raises(FileError, match="process 1 on"), exclusive_folder(tmp_path, "training"):
                pytest.fail("two owners")

    def test_an_owner_that_leaves_meanwhile_is_no_error(self, tmp_path, monkeypatch):
        """Kind: a look and an act with another process in between: before each of three steps its folder goes, once."""
        folder, steps = tmp_path / "run", []
        folder.mkdir()

        def leaves_before(act, wanted):
            def acting(path, *args, **kwargs):
                if path == wanted and act not in steps:
                    steps.append(act)
                    shutil.rmtree(folder)
                return act(path, *args, **kwargs)

            return acting

        for where, name, path in (
            (Path, "is_dir", folder),
            (os, "open", folder / LOCK_FILE),
            (Path, "stat", folder / LOCK_FILE),
        ):
            monkeypatch.setattr(where, name, leaves_before(getattr(where, name), path))
        with exclusive_folder(folder, "training"):
            assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()
        assert len(steps) == 3

    def test_a_lock_file_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / LOCK_FILE).symlink_to(tmp_path / "nowhere" / "x")
        with pytest.raises(FileError, match="cannot be written"), exclusive_folder(tmp_path, "training"):
            pass

    def test_a_file_for_a_folder_is_named(self, tmp_path):
        (tmp_path / "x").write_text("")
        with pytest.raises(FileError, match="cannot be written"), exclusive_folder(tmp_path / "x", "training"):
            pass


@pytest.mark.parametrize("program", [RENDERS, COMMANDS], ids=["rendering pool", "demo's command"])
def test_children_end_with_a_killed_parent(tmp_path, program):
    """Kind: children outlive a parent that the kernel kills."""
    parent = start(program, tmp_path, tmp_path)
    deadline = time.monotonic() + 60
    started: list[int] = []
    while len(started) < (2 if program is RENDERS else 1) and time.monotonic() < deadline:
        time.sleep(0.2)
        commands = {process: Path(f"/proc/{process}/cmdline").read_bytes() for process in children(parent.pid)}
        started = [process for process, command in commands.items() if b"resource_tracker" not in command]
    time.sleep(3)  # workers that have begun to work
    kill(parent)
    assert started
    deadline = time.monotonic() + 30
    while running(started) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = running(started)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left
