# SPDX-License-Identifier: Apache-2.0
"""Atomic writes, path expansion, exclusive folders. Device nodes and FIFOs are made in a scratch folder."""

import io
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from mlesam_ros import files
from mlesam_ros.cli.app import app
from mlesam_ros.config import load_parameters
from mlesam_ros.errors import ConfigError, FileError
from mlesam_ros.files import LOCK_FILE, atomic_write, check_writable, exclusive_folder, expand_path, format_size
from mlesam_ros.resources import resource_path

root = pytest.mark.skipif(os.getuid() != 0, reason="only root makes device nodes, or is held up by nothing")


def device(path, minor):
    """A character device of the kernel's memory devices: 3 swallows everything, 7 is always full."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    except PermissionError:
        pytest.skip("this user makes no device nodes")
    try:
        path.read_bytes() if minor == 3 else path.stat()
    except PermissionError:
        pytest.skip("this file system opens no device nodes")
    return path


def received(fifo):
    """Collects what is written into a FIFO; a function that waits for it."""
    got = []
    thread = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
    thread.start()

    def wait():
        thread.join(20)
        return got[0]

    return wait


class TestAtomicWrite:
    """Kind: an atomic replace of something that is no regular file."""

    def test_regular_file_is_replaced_and_keeps_its_mode(self, tmp_path):
        path = tmp_path / "x"
        path.write_text("old")
        path.chmod(0o640)
        before = path.stat().st_ino
        atomic_write(path, "new")
        assert path.read_text() == "new" and path.stat().st_ino != before
        assert stat.S_IMODE(path.stat().st_mode) == 0o640 and os.listdir(tmp_path) == ["x"]

    def test_new_file_obeys_the_umask(self, tmp_path):
        before = os.umask(0o027)
        try:
            atomic_write(tmp_path / "x", b"new")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640

    def test_device_is_written_in_place(self, tmp_path):
        path = device(tmp_path / "null", 3)
        atomic_write(path, b"x")
        assert stat.S_ISCHR(path.lstat().st_mode) and os.listdir(tmp_path) == ["null"]

    def test_full_device_raises_and_stays(self, tmp_path):
        path = device(tmp_path / "full", 7)
        with pytest.raises(FileError, match="No space left"):
            atomic_write(path, b"x")
        assert stat.S_ISCHR(path.lstat().st_mode)

    def test_fifo_is_written_in_place(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        wait = received(tmp_path / "fifo")
        atomic_write(tmp_path / "fifo", b"content" * 50_000)
        assert wait() == b"content" * 50_000 and stat.S_ISFIFO((tmp_path / "fifo").lstat().st_mode)

    @pytest.mark.parametrize("there", [True, False], ids=["its file is there", "its file is not there yet"])
    def test_link_stays_and_its_target_is_replaced(self, tmp_path, there):
        (tmp_path / "folder").mkdir()
        real = tmp_path / "folder" / "real"
        if there:
            real.write_text("old")
        (tmp_path / "first").symlink_to("folder/real")
        (tmp_path / "second").symlink_to("first")
        atomic_write(tmp_path / "second", "new")
        assert (tmp_path / "second").is_symlink() and (tmp_path / "first").is_symlink()
        assert real.read_text() == "new" and os.listdir(tmp_path / "folder") == ["real"]

    def test_link_to_a_device_stays(self, tmp_path):
        device(tmp_path / "null", 3)
        (tmp_path / "link").symlink_to("null")
        atomic_write(tmp_path / "link", b"x")
        assert (tmp_path / "link").is_symlink() and stat.S_ISCHR((tmp_path / "null").lstat().st_mode)

    def test_cyclic_links_are_refused(self, tmp_path):
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(FileError, match="cannot be written"):
            atomic_write(tmp_path / "a", b"x")

    @pytest.mark.parametrize("kind", ["pipe", "file"])
    def test_open_descriptor_is_written_in_place(self, tmp_path, kind):
        if kind == "pipe":
            reading, number = os.pipe()
        else:
            number = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
            reading = os.open(tmp_path / "x", os.O_RDONLY)
        atomic_write(f"/proc/self/fd/{number}", b"content")
        assert os.read(reading, 100) == b"content" and os.fstat(number).st_nlink == 1
        os.close(number)
        os.close(reading)

    def test_folder_is_refused(self, tmp_path):
        (tmp_path / "folder").mkdir()
        with pytest.raises(FileError, match="folder cannot be written"):
            atomic_write(tmp_path / "folder", b"x")
        assert os.listdir(tmp_path) == ["folder"]

    def test_missing_parent_folder_is_named(self, tmp_path):
        with pytest.raises(FileError) as refused:
            atomic_write(tmp_path / "none" / "x", b"x")
        assert f"the folder {tmp_path / 'none'} does not exist" in refused.value.message
        assert refused.value.remedy == "Create it, or choose another path."

    @pytest.mark.parametrize("name", ["n" * 255, os.fsdecode(b"stra\xdfe")], ids=["longest", "not UTF-8"])
    def test_longest_and_non_utf8_names(self, tmp_path, name):
        atomic_write(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"

    def test_text_that_utf8_cannot_encode_is_escaped(self, tmp_path):
        atomic_write(tmp_path / "x", os.fsdecode(b"stra\xdfe"))
        assert (tmp_path / "x").read_text(encoding="utf-8") == r"stra\udcdfe"

    def test_old_file_stays_if_the_disk_fills(self, tmp_path, monkeypatch):
        class Full(io.FileIO):
            def write(self, content):
                super().write(bytes(content)[:1000])
                raise OSError(28, "No space left on device")

        path = tmp_path / "weights"
        path.write_bytes(b"good")
        refused = pytest.raises(FileError, match=r"needs 2\.0 MB, .*No space left.*unchanged")
        with monkeypatch.context() as patched, refused as told:
            patched.setattr(Path, "open", lambda path, mode: Full(path, "w"))
            atomic_write(path, bytes(2_000_000))
        assert told.value.remedy == "Free disk space and repeat the command."
        assert path.read_bytes() == b"good" and [p.name for p in tmp_path.iterdir()] == ["weights"]

    def test_file_size_limit_is_reported_with_sizes(self, tmp_path):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(FileError, match=r"x needs 2\.0 kB, [1-9].* are free"):
                atomic_write(tmp_path / "x", bytes(2_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not os.listdir(tmp_path)

    def test_mounted_file_is_written_in_place(self, tmp_path, monkeypatch):
        """A file that a container mounts by itself cannot be renamed over: EBUSY."""
        path = tmp_path / "x"
        path.write_text("a longer old content")

        def busy(*names):
            raise OSError(16, "Device or resource busy")

        monkeypatch.setattr(files.os, "replace", busy)
        atomic_write(path, "new")
        assert path.read_text() == "new" and os.listdir(tmp_path) == ["x"]

    def test_mounted_file_keeps_its_content_if_the_disk_is_full(self, tmp_path, monkeypatch):
        """Kind: truncated before it is known that the new content fits. The limit of the process stands for the disk.

        The draft is elsewhere than the mounted file, and has room.
        """
        path = tmp_path / "x"
        path.write_bytes(b"old content" * 10)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)

        def busy(*names):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            raise OSError(16, "Device or resource busy")

        monkeypatch.setattr(files.os, "replace", busy)
        try:
            with pytest.raises(FileError, match="unchanged"):
                atomic_write(path, bytes(2_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == b"old content" * 10 and os.listdir(tmp_path) == ["x"]


class TestCheckWritable:
    def test_writable_paths_are_accepted(self, tmp_path):
        (tmp_path / "x").write_text("")
        os.mkfifo(tmp_path / "fifo")
        for name in ("x", "fifo", "new", "missing/folders/new"):
            check_writable(tmp_path / name, [tmp_path / "missing"])
        assert sorted(os.listdir(tmp_path)) == ["fifo", "x"]

    def test_folder_and_file_as_parent_are_refused(self, tmp_path):
        (tmp_path / "x").write_text("")
        with pytest.raises(FileError, match="is a folder"):
            check_writable(tmp_path)
        with pytest.raises(FileError, match="Not a directory"):
            check_writable(tmp_path / "x" / "y")

    def test_missing_folder_is_refused(self, tmp_path):
        with pytest.raises(FileError, match=r"folder .*missing does not exist"):
            check_writable(tmp_path / "missing" / "x", [tmp_path / "other"])

    def test_missing_permissions_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files.os, "access", lambda path, mode: False)
        with pytest.raises(FileError, match="Permission denied"):
            check_writable(tmp_path / "x")


def mlesam(*args, env=None, **how):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **(env or {})}
    command = [sys.executable, "-m", "mlesam_ros.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, check=False, env=environment, **how)


class TestJsonOption:
    """`--json FILE` of every command goes through one option; `info` stands for all."""

    WEIGHTS = resource_path("weights") / "street.safetensors"

    def test_device_fifo_and_link_stay(self, tmp_path):
        null = device(tmp_path / "null", 3)
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "real.json").write_text("old")
        (tmp_path / "link.json").symlink_to("real.json")
        wait = received(tmp_path / "fifo")
        for name in ("null", "fifo", "link.json"):
            done = mlesam("info", self.WEIGHTS, "--json", tmp_path / name)
            assert done.returncode == 0, done.stderr
        assert stat.S_ISCHR(null.lstat().st_mode) and stat.S_ISFIFO((tmp_path / "fifo").lstat().st_mode)
        assert (tmp_path / "link.json").is_symlink()
        texts = [wait().decode(), (tmp_path / "real.json").read_text()]
        assert all(json.loads(text)["backbone"] == "hiera_nano" for text in texts)

    @pytest.mark.parametrize("spelling", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
    @pytest.mark.parametrize("into", ["pipe", "file"])
    def test_standard_output_has_only_the_json(self, tmp_path, spelling, into):
        if into == "pipe":
            out = mlesam("info", self.WEIGHTS, "--json", spelling).stdout
        else:
            with (tmp_path / "x").open("wb") as file:
                command = [sys.executable, "-m", "mlesam_ros.cli", "info", str(self.WEIGHTS), "--json", spelling]
                subprocess.run(command, stdout=file, check=True)
            out = (tmp_path / "x").read_bytes()
        assert json.loads(out)

    def test_unwritable_file_is_refused_before_any_work(self, tmp_path):
        done = mlesam("info", tmp_path / "no weights", f"--json={tmp_path}", text=True)
        assert done.returncode == 2 and "is a folder" in done.stderr and "no weights" not in done.stderr

    def test_home_folder_is_expanded(self, tmp_path):
        (tmp_path / "cwd").mkdir()
        done = mlesam("info", self.WEIGHTS, "--json=~/x.json", env={"HOME": str(tmp_path)}, cwd=tmp_path / "cwd")
        assert done.returncode == 0 and json.loads((tmp_path / "x.json").read_text())
        assert not os.listdir(tmp_path / "cwd")


def test_every_path_of_a_command_is_expanded(tmp_path, monkeypatch):
    """`--out=~/x` is expanded by no shell; `train` stands for all commands, whose paths go through one place."""
    seen = {}

    def train(recipe, out, resume):
        seen.update(out=out, backbone=recipe.backbone, root=recipe.data.root)
        return SimpleNamespace(weights="w", evaluation="e")

    monkeypatch.setattr("mlesam_training.train_run.train", train)
    monkeypatch.setenv("HOME", "/home/me")
    options = ["--out=~/x", "--backbone=$HOME/b.pt", "--data=~/DELIVER"]
    done = CliRunner().invoke(app, ["train", "--recipe", "deliver", *options])
    assert done.exit_code == 0, done.output
    assert seen == {"out": Path("/home/me/x"), "backbone": "/home/me/b.pt", "root": "/home/me/DELIVER"}


def test_every_path_of_the_parameters_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    names = ("checkpoint", "base_weights", "calibration_file", "snapshot_folder")
    parameters = load_parameters(None, [f"{name}:=~/x" for name in names])
    assert [getattr(parameters, name) for name in names] == ["/home/me/x"] * len(names)


class TestExpandPath:
    """Kind: a path's spelling that no shell has expanded."""

    @pytest.fixture(autouse=True)
    def home(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", "/home/me")
        monkeypatch.setenv("DATA", "/data")
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            ("~", "/home/me"), ("~/x", "/home/me/x"), ("~root/x", os.path.expanduser("~root/x")),
            ("$DATA/x", "/data/x"), ("${DATA}x", "/datax"), ("$HOME/a b", "/home/me/a b"),
            ("x/~", "x/~"), ("./~", "~"), ("/x", "/x"), ("x", "x"), ("a$", "a$"),
        ],
    )  # fmt: skip
    def test_spellings(self, given, meant):
        assert expand_path(given) == Path(meant)

    def test_existing_literal_path_is_not_expanded(self, tmp_path):
        for name in ("~nobody_of_that_name", "a$NOTHING"):
            (tmp_path / name).mkdir()
            assert expand_path(name) == Path(name)

    def test_folder_named_tilde_is_not_the_home_folder(self, tmp_path):
        (tmp_path / "~").mkdir()
        assert expand_path("~/x") == Path("/home/me/x")

    @pytest.mark.parametrize("given", ["~nobody_of_that_name/x", "$NOTHING_OF_THAT_NAME/x"])
    def test_unknown_user_or_variable_is_refused(self, given):
        with pytest.raises(ConfigError, match=r"OF_THAT_NAME|of_that_name"):
            expand_path(given)


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.3e6, "2.3 MB"), (5e12, "5000.0 GB")]
)
def test_sizes_have_a_suitable_unit(size, said):
    assert format_size(size) == said


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
        Street(folder, s, Conditions("sun", "none", "plain"), tuple(range(2000 * s, 2000 * (s + 1))), 2000, 64,
               64, (("camera", "rgb"),))
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
arguments = ["simulate", str(folder / "bag"), "--steps", "100000", "--image-size", "64", "64"]
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


class TestExclusiveFolder:
    """Kind: a folder that two runs write into at the same time."""

    def test_owner_is_named(self, tmp_path):
        owner = start(OWNER, tmp_path / "run", tmp_path)
        try:
            with pytest.raises(FileError) as refused, exclusive_folder(tmp_path / "run", "training"):
                pytest.fail("two owners")
            message = refused.value.message
            assert "another training run" in message and f"process {owner.pid} on {socket.gethostname()}" in message
            assert "program.py" in message and refused.value.remedy
        finally:
            kill(owner)

    def test_killed_owner_frees_the_folder_and_its_temporary_files_are_removed(self, tmp_path):
        folder = tmp_path / "run"
        kill(start(OWNER, folder, tmp_path))
        assert (folder / LOCK_FILE).exists()
        for name in (".state.pt.123.part", "state.pt", ".profile.part"):
            (folder / name).write_text("")
        with exclusive_folder(folder, "training"):
            assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()
        assert sorted(os.listdir(folder)) == [".profile.part", "state.pt"]

    def test_folder_is_free_after_an_error(self, tmp_path):
        with pytest.raises(KeyError), exclusive_folder(tmp_path, "training"):
            raise KeyError
        with exclusive_folder(tmp_path, "training"):
            pass
        assert not os.listdir(tmp_path)

    def test_lock_file_of_another_host_without_a_lock_is_ignored(self, tmp_path):
        (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": 1, "host": "elsewhere", "command": "x"}))
        with exclusive_folder(tmp_path, "training"):
            pass

    @pytest.mark.parametrize(("owner", "free"), [({"pid": 2**22 + 1}, True), ({"pid": 1}, False), ({}, True)])
    def test_owner_process_is_checked_without_file_system_locks(self, tmp_path, monkeypatch, owner, free):
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

    def test_owner_that_leaves_meanwhile_is_no_error(self, tmp_path, monkeypatch):
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

    def test_unwritable_lock_file_is_named(self, tmp_path):
        (tmp_path / LOCK_FILE).symlink_to(tmp_path / "nowhere" / "x")
        with pytest.raises(FileError, match="cannot be written"), exclusive_folder(tmp_path, "training"):
            pass

    def test_file_in_place_of_the_folder_is_named(self, tmp_path):
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
