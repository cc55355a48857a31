"""Folders that one process owns at a time, and processes that end with the one that started them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlesam_ros.errors import FileError
from mlesam_ros.files import remove_drafts, write_error

LOCK = ".lock"
"""File in a folder that is owned; it holds the owner's process, host and command, and goes with the owner."""
PARENT = "MLESAM_PARENT"
"""Environment variable: number of the process with which a command ends."""
_POLL, _GRACE = 0.5, 5.0  # s between looks at the parent, and from SIGTERM to the end
_ATTEMPTS = 100  # at a lock file in a folder that comes and goes
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # of a file system


@contextmanager
def owned(folder: Path, what: str) -> Iterator[None]:
    """Own a folder; drafts that a killed owner left in it are removed.

    The lock is the kernel's: it is free as soon as its owner is gone, however that ended. Where a file system has no
    locks, the owner's process is looked for on its host.

    Args:
        folder: it is made, and removed if it is empty at the end.
        what: of work is done in it, such as `training`.

    Raises:
        FileError: another process owns it, or it cannot be written to.
    """
    path, is_new = folder / LOCK, not folder.exists()
    try:
        lock = _locked(path)
    except OSError as error:
        raise write_error(path, error, 0) from error
    if lock is None:
        raise FileError(
            f"{folder} is in use by another {what} run{_owner_text(_read_owner(path))}.",
            "Wait for that process to end, or give another folder.",
        )
    try:
        os.truncate(lock, 0)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)}
        os.write(lock, json.dumps(owner).encode())
        remove_drafts(folder)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)
        if is_new:  # nothing came of it
            with suppress(OSError):
                folder.rmdir()


def _locked(path: Path) -> int | None:
    """A descriptor of the locked file, whose folder is made; None where another process has it."""
    failed = 0
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, FileExistsError):  # its last owner may just have removed the folder
            failed += 1
            if failed == _ATTEMPTS:
                raise
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(lock)
                raise
            if _is_alive(_read_owner(path)):
                os.close(lock)
                return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)  # its last owner has just removed it


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
    """Whether the process that a lock file names may still run; on another host it may."""
    if not owner or owner.get("pid") == os.getpid():
        return False
    return owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int) or _exists(owner["pid"])


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def end_with_parent(parent: int) -> None:
    """End this process once its parent is gone, also where that was killed: SIGTERM, and after a while regardless.

    Args:
        parent: number of the process that started this one.
    """
    direct = os.getppid() == parent  # else something stands between the two, such as a launch prefix

    def watch() -> None:
        while os.getppid() == parent if direct else _exists(parent):
            time.sleep(_POLL)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def end_with_named_parent() -> None:
    """End with the process that `MLESAM_PARENT` names, where it is set; see `child_environment`."""
    parent = os.environ.pop(PARENT, "")  # not for this process's own children
    if parent.isdigit():
        end_with_parent(int(parent))


def end_with_torchrun() -> None:
    """End with `torchrun` where that started this process: the others wait for hours for one that is gone."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())


def child_environment() -> dict[str, str]:
    """Environment of a command of ours that ends with this process."""
    return {**os.environ, PARENT: str(os.getpid())}
