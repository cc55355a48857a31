# SPDX-License-Identifier: Apache-2.0
"""Weights by name: resolution, and download from a server on the loopback."""

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from full_disk import run_on_a_small_disk
from weights_server import CONTENT, NAME, isolate, weights_server

from mlesam_ros.errors import CheckpointError, ConfigError, FileError
from mlesam_ros.model.backbones import BACKBONES
from mlesam_ros.model.weights import (
    PUBLISHED,
    SHIPPED,
    download,
    names_of,
    published_weights,
    resolve_base_weights,
    resolve_weights,
    weights_folder,
)
from mlesam_ros.resources import resource_path

FILE = f"{NAME}.pt"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def server():
    with weights_server() as running:
        yield running


@pytest.fixture
def get(server):
    """Download from the server as from a mirror."""
    return lambda: download(PUBLISHED[NAME], server.url)


def script(server):
    """Source of a process that downloads the file."""
    return (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (1, 2)]}\n"
        "from weights_server import small_row\n"
        "from mlesam_ros.model.weights import download\n"
        f"download(small_row(), {server.url!r})\n"
    )


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_table_has_weights_of_every_backbone():
    assert {name for name in BACKBONES if not names_of(name)} == set()
    assert {row.backbone for row in PUBLISHED.values()} == BACKBONES.keys() - SHIPPED.keys()
    assert len({row.sha256 for row in PUBLISHED.values()}) == len(PUBLISHED)
    for name, row in PUBLISHED.items():
        assert re.fullmatch(r"https://dl\.fbaipublicfiles\.com/segment_anything\w*/[\w./]+\.pth?", row.url)
        assert re.fullmatch("[0-9a-f]{64}", row.sha256) and row.file.startswith(name)


class TestDownload:
    def test_file_is_kept_under_its_published_name(self, get, server, folder):
        seen = []
        path = download(PUBLISHED[NAME], f"{server.url}/sam/", lambda *progress: seen.append(progress))
        assert path == folder / FILE and path.read_bytes() == CONTENT
        assert server.asked == [(f"/sam/{FILE}", None)] and seen[-1] == (len(CONTENT), len(CONTENT))
        assert left(folder) == [FILE] and list(folder.iterdir()) == [path]
        assert get() == path and len(server.asked) == 1

    @pytest.mark.parametrize("ranges", [True, False])
    @pytest.mark.parametrize("with_length", [True, False])
    def test_broken_off_download_is_continued(self, get, server, folder, ranges, with_length):
        server.break_after, server.ranges, server.with_length = 100_000, ranges, with_length
        with pytest.raises(CheckpointError, match=r"broke off after 100\.0 kB of 512\.0 kB\. Repeat the command"):
            get()
        assert PUBLISHED[NAME].state == "partial" and not (folder / FILE).exists()
        server.break_after = None
        assert get().read_bytes() == CONTENT
        assert server.asked[1][1] == "bytes=100000-" and left(folder) == [FILE]

    def test_interrupted_download_is_continued(self, get, server):
        def interrupt(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            download(PUBLISHED[NAME], server.url, interrupt)
        assert PUBLISHED[NAME].state == "partial"
        assert get().read_bytes() == CONTENT and server.asked[1][1] == "bytes=65536-"

    def test_complete_download_of_a_killed_process_is_kept(self, get, server, folder):
        partial = PUBLISHED[NAME].partial
        partial.parent.mkdir(parents=True)
        partial.write_bytes(CONTENT)
        assert get().read_bytes() == CONTENT and server.asked == [] and left(folder) == [FILE]

    @pytest.mark.parametrize("start", [b"", b"of another file", b"longer" * len(CONTENT)])
    def test_another_file_is_refused_and_removed(self, get, server, folder, start):
        partial = PUBLISHED[NAME].partial
        partial.parent.mkdir(parents=True)
        partial.write_bytes(start)
        server.content = CONTENT if start else b"x" * len(CONTENT)
        with pytest.raises(CheckpointError, match=rf"has SHA-256 \w+, but {FILE} has {PUBLISHED[NAME].sha256}"):
            get()
        assert left(folder) == []
        server.content = CONTENT
        assert get().read_bytes() == CONTENT

    def test_damaged_file_is_named(self, get, server, folder):
        get().write_bytes(b"x" + CONTENT[1:])
        with pytest.raises(CheckpointError, match=r"tiny\.pt has SHA-256 \w+, but .* Delete the file and repeat"):
            get()
        assert left(folder) == [FILE]

    @pytest.mark.parametrize(("content", "kind"), [(CONTENT[:-1], "octet-stream"), (b"<html>Log in", "html")])
    def test_answer_that_is_not_the_file_is_refused_before_it_is_read(self, get, server, folder, content, kind):
        server.content, server.content_type = content, "text/html" if kind == "html" else server.content_type
        with pytest.raises(CheckpointError, match=rf"is not {FILE}, .* {len(content)} bytes of \w+/{kind}\. Log in"):
            get()
        assert left(folder) == []

    def test_endless_answer_is_ended(self, get, server):
        server.content, server.with_length = CONTENT * 50, False
        with pytest.raises(CheckpointError, match="has SHA-256"):
            get()

    def test_missing_file(self, get, server):
        server.status = 404
        with pytest.raises(CheckpointError, match=rf"/{FILE} answers 404 Not Found\. Give the address of a folder"):
            get()

    def test_offline(self, folder):
        with pytest.raises(CheckpointError) as refused:
            download(PUBLISHED[NAME])
        assert refused.value.message == (
            "dl.fbaipublicfiles.com cannot be reached: Temporary failure in name resolution."
        )
        assert "--base-url" in refused.value.remedy and str(folder / FILE) in refused.value.remedy
        assert left(folder) == []

    def test_refused_connection(self, server):
        with pytest.raises(CheckpointError, match=r"127\.0\.0\.1:1 cannot be reached: Connection refused"):
            download(PUBLISHED[NAME], "http://127.0.0.1:1")

    @pytest.mark.parametrize(
        "url", ["", "nowhere", "file:///etc", "ftp://127.0.0.1", "http://", "http://[::1", "http://x:y"]
    )
    def test_base_url_is_an_address(self, url):
        with pytest.raises(ConfigError, match=r"--base-url is .*; accepted are addresses that begin with http"):
            download(PUBLISHED[NAME], url)

    @pytest.mark.parametrize("path", ["/März", ""])
    @pytest.mark.parametrize("host", ["127.0.0.1:1", "a..b"])
    def test_address_that_cannot_be_sent_is_one_sentence(self, host, path):
        with pytest.raises(CheckpointError, match="cannot be reached"):
            download(PUBLISHED[NAME], f"http://{host}{path}")

    def test_unreadable_files_are_one_sentence(self, monkeypatch, folder):
        def refuse(path, **_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(Path, "stat", refuse)
        for examine in (
            lambda: PUBLISHED[NAME].state,
            lambda: resolve_weights(NAME),
            lambda: download(PUBLISHED[NAME]),
        ):
            with pytest.raises(CheckpointError, match="cannot be read: Permission denied") as refused:
                examine()
            assert "MLESAM_WEIGHTS" in refused.value.remedy

    def test_partial_file_counts_as_free_space_without_ranges(self, get, server, monkeypatch):
        server.break_after, server.ranges = 300_000, False
        with pytest.raises(CheckpointError, match="broke off"):
            get()
        server.break_after = None
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=len(CONTENT) - 300_000))
        assert get().read_bytes() == CONTENT

    def test_second_process_is_refused_meanwhile(self, get, server, folder):
        server.go_on.clear()
        with subprocess.Popen([sys.executable, "-c", script(server)]) as first:
            try:
                end = time.monotonic() + 30
                while not server.asked:
                    assert first.poll() is None and time.monotonic() < end
                    time.sleep(0.01)
                with pytest.raises(FileError, match=rf"is in use by another download run, process {first.pid}\b"):
                    get()
            finally:
                server.go_on.set()
        assert first.returncode == 0
        assert (folder / FILE).read_bytes() == CONTENT and len(server.asked) == 1

    def test_unwritable_folder(self, get, folder):
        folder.write_text("")
        with pytest.raises(FileError, match="cannot be written"):
            get()

    @pytest.mark.parametrize(("noticed", "partial"), [("before", ""), ("while writing", f" {FILE}.download/{FILE}")])
    def test_full_disk(self, server, folder, noticed, partial):
        folder.mkdir()
        free = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1, 1, 10**9)\n"
        done = run_on_a_small_disk(folder, 200, "-c", (free if noticed == "while writing" else "") + script(server))
        assert re.search(rf"FileError: .*{FILE} needs .* are free", done.stderr), done.stderr
        assert "Free disk space and repeat the command" in done.stderr
        assert done.stdout.splitlines()[-1] == f"left:{partial}"


class TestNames:
    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "/etc/passwd", f"{NAME}/../x", f"../{FILE}", "", "sam2.1_hiera_tiny\0", "..", "*"]
    )
    def test_only_names_of_the_table_are_downloaded(self, name):
        with pytest.raises(ConfigError, match=r"is unknown; accepted are sam2\.1_hiera_tiny, "):
            published_weights(name)

    @pytest.mark.parametrize(
        ("wrong", "near"),
        [
            ("sam2.1_hiera_base", "sam2.1_hiera_base_plus"),
            ("sam2_hirea_large", "sam2_hiera_large"),
            ("vit_h", "sam_vit_h"),
        ],
    )
    def test_wrong_name_gets_the_nearest_one(self, wrong, near):
        with pytest.raises(ConfigError, match=rf"did you mean {re.escape(near)}\?"):
            published_weights(wrong)
        with pytest.raises(CheckpointError, match=rf"no weights file {wrong}.* Did you mean {re.escape(near)}\?"):
            resolve_weights(wrong)

    def test_wrong_name_without_a_near_one(self):
        with pytest.raises(CheckpointError, match=r"no weights have that name\. See the names: mlesam weights\."):
            resolve_weights("unheard-of")

    @pytest.mark.parametrize("given", [NAME, FILE, Path(NAME)])
    def test_name_means_the_downloaded_file(self, get, folder, given):
        with pytest.raises(CheckpointError, match=f"are not in {folder}.* Download them: mlesam weights get {NAME}\\."):
            resolve_weights(given)
        get()
        assert resolve_weights(given) == folder / FILE

    def test_half_a_file_is_named(self, get, folder):
        get().write_bytes(CONTENT[:1000])
        with pytest.raises(CheckpointError, match=rf"has 1000 bytes, but {NAME} has 512000\. Delete .* get {NAME}"):
            resolve_weights(NAME)
        assert PUBLISHED[NAME].state == "damaged"

    def test_file_precedes_a_name_and_a_name_precedes_a_folder(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        Path("street").mkdir()
        Path("hiera_nano").write_text("")
        assert resolve_weights("street") == resource_path("weights/street.safetensors")
        assert resolve_weights("hiera_nano") == Path("hiera_nano")
        assert resolve_base_weights("hiera_nano", None) == resource_path("weights/hiera_nano.safetensors")

    @pytest.mark.parametrize("path", ["/nowhere/sam.pt", f"./{NAME}", f"x/{FILE}", "."])
    def test_paths_stay_paths(self, path):
        assert resolve_weights(path) == Path(path)

    def test_weights_that_do_not_ship_are_named(self):
        with pytest.raises(
            CheckpointError, match=r"do not come .* Give sam2\.1_hiera_base_plus or sam2_hiera_base_plus"
        ):
            resolve_base_weights("hiera_base_plus", None)
        with pytest.raises(CheckpointError, match="Give sam_vit_h as base weights"):
            resolve_base_weights("vit_h", None)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MLESAM_WEIGHTS": "~/w", "XDG_CACHE_HOME": "/cache"}, "/home/me/w"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/mlesam_ros/weights"),
        ({}, "/home/me/.cache/mlesam_ros/weights"),
    ],
)
def test_folder_of_the_downloads(monkeypatch, variables, expected):
    for name in ("MLESAM_WEIGHTS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert weights_folder() == Path(expected)
