# SPDX-License-Identifier: Apache-2.0
"""Files: path expansion, atomic writes, file types, exclusive folders; child processes end with their parent."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlesam_ros.errors import ConfigError, FileError

_NO_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of writes that exceed the disk, the quota or the process's file size limit."""
_NO_REPLACE_ERRORS = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS)
"""Errors if no temporary file can replace the file, such as a single mounted file."""
_STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_TEMP_SUFFIX = ".part"


def expand_path(text: str | os.PathLike[str]) -> Path:
    """Expand `~`, `~user`, `$NAME` and `${NAME}` as a shell would.

    A path that exists literally is not expanded, unless it begins with `~/`.

    Raises:
        ConfigError: no such user or environment variable.
    """
    given = os.fspath(text)
    if given != "~" and not given.startswith("~/") and os.path.lexists(given):
        return Path(given)
    expanded = os.path.expanduser(given)
    if given.startswith("~") and expanded == given:
        raise ConfigError(
            f"the home folder in the path {given!r} is unknown.",
            "Set HOME, or write the full path; write ./~ for a file name that begins with ~.",
        )
    for braced, bare in _VARIABLE.findall(given):
        if (braced or bare) not in os.environ:
            raise ConfigError(
                f"the environment variable {braced or bare} in the path {given!r} is not set.",
                "Set it, or write the full path.",
            )
    return Path(_VARIABLE.sub(lambda found: os.environ[found[1] or found[2]], expanded))


def is_standard_output(target: str | os.PathLike[str]) -> bool:
    """Whether an output path means standard output: `-` or one of its device paths."""
    return os.fspath(target) in _STANDARD_OUTPUT


def check_writable(path: Path, creatable: Collection[Path] = ()) -> None:
    """Check, before any computation, that a file can be written.

    Args:
        path: the file.
        creatable: folders that are created later.

    Raises:
        FileError: the path is a folder, its parent folder is missing, or permissions are missing.
    """
    if path.is_dir():
        raise FileError(f"{path} is a folder, not a file.", "Give a file name.")
    if path.exists() and os.access(path, os.W_OK):
        return
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if folder != path.absolute().parent and not {p.absolute() for p in creatable} & {*path.absolute().parents}:
        raise write_error(path, OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
    if not folder.is_dir():
        raise write_error(path, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if path.exists() or not os.access(folder, os.W_OK | os.X_OK):
        raise write_error(path, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file atomically: the old content stays until the new content is on disk.

    Only regular files are replaced. A symbolic link stays and its target is replaced; devices, FIFOs and open
    descriptors are written in place.

    Args:
        path: the file; its folder exists.
        content: bytes, or text; characters that UTF-8 cannot encode (of a path in another encoding) are escaped.

    Raises:
        FileError: the file cannot be written; the old content is unchanged and no temporary file is left.
    """
    path = Path(path)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        if _is_regular(path):
            _replace(Path(os.path.realpath(path)), data)
        else:
            _append(path, data)
    except OSError as error:
        raise write_error(path, error, len(data)) from error


def _remove_temp_files(folder: Path) -> None:
    """Remove temporary files of killed writers from a folder; only for the folder's owner."""
    for temporary in folder.glob(f".*.*{_TEMP_SUFFIX}"):
        if temporary.is_file() and temporary.name.split(".")[-2].isdigit():
            temporary.unlink(missing_ok=True)


def detect_file_type(path: Path) -> tuple[str, str] | None:
    """Detect by its first bytes a file of another type in place of weights, a bag or an image.

    Returns:
        Noun phrase and remedy; None for an unknown type.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return "an empty file (0 bytes)", "Download it again."
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    starts = (head.lower(), text)
    for magic, name, remedy in _FILE_TYPES:
        if any(start.startswith(magic) for start in starts):
            return name, remedy.format(path=shlex.quote(str(path)), folder=shlex.quote(f"{path}_ros2"))
    return None


_HEAD_BYTES = 512
_HTML_PAGE = "an HTML page, such as of a login or a download error", "Download the file itself."
_PACKET_CAPTURE = (
    "a capture of network packets",
    "Play it to the sensor's driver and record: ros2 bag record -a.",
)
_FILE_TYPES = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself",
        "Run git lfs pull in the clone, or download the file itself.",
    ),
    (b"<!doctype html", *_HTML_PAGE),
    (b"<html", *_HTML_PAGE),
    (b"<?xml", *_HTML_PAGE),
    (
        b"#rosbag v",
        "a ROS 1 bag",
        "Convert it: rosbags-convert --src {path} --dst {folder}.",
    ),
    (b"\xd4\xc3\xb2\xa1", *_PACKET_CAPTURE),
    (b"\xa1\xb2\xc3\xd4", *_PACKET_CAPTURE),
    (b"m<\xb2\xa1", *_PACKET_CAPTURE),
    (b"\xa1\xb2<m", *_PACKET_CAPTURE),
    (b"\n\r\r\n", *_PACKET_CAPTURE),
    (b"pk\x03\x04", "a ZIP archive", "Unpack it and give its content."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it and give its content."),
    (b"\xfd7zxz\x00", "an xz archive", "Unpack it and give its content."),
    (b"bzh", "a bzip2 archive", "Unpack it and give its content."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it and give its content."),
    (b"rar!", "a RAR archive", "Unpack it and give its content."),
)
"""First bytes in lower case, noun phrase, remedy."""


def format_size(size: float) -> str:
    """Format a number of bytes with a suitable unit, such as `3.2 kB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def _is_regular(path: Path) -> bool:
    """Whether a path is a regular file or does not exist yet, and is no path of an open descriptor."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
    except FileNotFoundError:
        return True
    while path.is_symlink():
        if os.path.realpath(path.parent).startswith("/proc/"):
            return False
        path = path.parent / path.readlink()
    return True


def _append(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
        file.write(data)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:200])}.{os.getpid()}{_TEMP_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _NO_REPLACE_ERRORS or not path.is_file():
            raise
        _overwrite(path, data)
    finally:
        if temporary.exists():
            temporary.unlink()


def _overwrite(path: Path, data: bytes) -> None:
    """Overwrite a file that cannot be replaced; its old content is restored if the new one does not fit."""

    def fill(content: bytes) -> None:
        file.seek(0)
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        file.truncate()
        os.fsync(file.fileno())

    with path.open("r+b", buffering=0) as file:
        old = file.readall()
        try:
            fill(data)
        except OSError:
            fill(old)
            raise


def write_error(path: Path, error: OSError, size: int = 0) -> FileError:
    """Build the error for a file or folder that cannot be written.

    Args:
        path: the file or folder.
        error: of the operating system.
        size: bytes to write; 0 if unknown.
    """
    reason = error.strerror or str(error)
    folder = path.parent
    if error.errno in _NO_SPACE_ERRORS:
        existing = next(parent for parent in path.absolute().parents if parent.exists())
        needed = format_size(size) if size else "more space"
        kept = f"; the old {path.name} is unchanged" if path.is_file() else ""
        return FileError(
            f"{path} needs {needed}, {format_size(shutil.disk_usage(existing).free)} are free ({reason}){kept}.",
            "Free disk space and repeat the command.",
        )
    if error.errno == errno.ENOENT and not folder.exists():
        return FileError(
            f"{path} cannot be written: the folder {folder} does not exist.", "Create it, or choose another path."
        )
    return FileError(f"{path} cannot be written: {reason}.", "Choose another path, or change its permissions.")


LOCK_FILE = ".lock"
"""Lock file in an owned folder; it stores the owner's process, host and command, and is removed by the owner."""
PARENT_VARIABLE = "MLESAM_PARENT"
"""Environment variable: process id of the parent with which a command ends."""
_POLL_S, _GRACE_S = 0.5, 5.0  # between checks of the parent, and from SIGTERM to the exit
_MAX_ATTEMPTS = 100  # to lock a file while other processes create and remove its folder
_NO_LOCK_ERRORS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of a file system without locks."""


@contextmanager
def exclusive_folder(folder: Path, kind: str) -> Iterator[None]:
    """Lock a folder for one process; temporary files of a killed owner are removed.

    The lock is the kernel's: it is released when its owner ends, even by SIGKILL. On file systems without locks,
    the owner's process id is checked on its host.

    Args:
        folder: created if missing, and then removed at the end if empty.
        kind: of the run, such as `training`.

    Raises:
        FileError: another process owns the folder, or it cannot be written to.
    """
    path, is_new = folder / LOCK_FILE, not folder.exists()
    try:
        lock = _lock(path)
    except OSError as error:
        raise write_error(path, error) from error
    if lock is None:
        raise FileError(
            f"{folder} is in use by another {kind} run{_owner_text(_read_owner(path))}.",
            "Wait for that process to end, or choose another folder.",
        )
    try:
        os.truncate(lock, 0)
        owner = {"pid": os.getpid(), "host": os.uname().nodename, "command": " ".join(sys.argv)}
        os.write(lock, json.dumps(owner).encode())
        _remove_temp_files(folder)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)
        if is_new:  # remove it if still empty
            with suppress(OSError):
                folder.rmdir()


def _lock(path: Path) -> int | None:
    """Create the folder and lock the file: its descriptor; None if another process holds the lock."""
    failed = 0
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, FileExistsError):  # race: the last owner may have removed the folder
            failed += 1
            if failed == _MAX_ATTEMPTS:
                raise
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError as error:
            if error.errno not in _NO_LOCK_ERRORS:
                os.close(lock)
                raise
            if _is_alive(_read_owner(path)):
                os.close(lock)
                return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)  # race: the last owner has removed it


def _read_owner(path: Path) -> dict[str, Any]:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _owner_text(owner: dict[str, Any]) -> str:
    if not owner:
        return ""
    return f", process {owner.get('pid')} on {owner.get('host')} ({owner.get('command')})"


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process of a lock file may still run; always true for another host."""
    if not owner or owner.get("pid") == os.getpid():
        return False
    return owner.get("host") != os.uname().nodename or not isinstance(owner.get("pid"), int) or _exists(owner["pid"])


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def end_with_parent(parent: int) -> None:
    """End this process when its parent ends, even by SIGKILL: SIGTERM first, exit after a grace period.

    Args:
        parent: process id of the process that started this one.
    """
    direct = os.getppid() == parent  # else there is a process between the two, such as a launch prefix

    def watch() -> None:
        while os.getppid() == parent if direct else _exists(parent):
            time.sleep(_POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def end_with_named_parent() -> None:
    """End with the process of `MLESAM_PARENT`, if set; see `child_environment`."""
    parent = os.environ.pop(PARENT_VARIABLE, "")  # not inherited by this process's children
    if parent.isdigit():
        end_with_parent(int(parent))


def end_with_torchrun() -> None:
    """End with `torchrun`, if it started this process: the other ranks wait for hours for a missing one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())


def child_environment() -> dict[str, str]:
    """Environment of a child process that imports this copy of the package and ends with this process.

    The copy is the same in any working directory of the child.
    """
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", PARENT_VARIABLE: str(os.getpid())}
    return {**os.environ, **own}
