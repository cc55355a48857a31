# SPDX-License-Identifier: Apache-2.0
"""A disk that is really full: a process with a small file system of its own in memory, which nobody else sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run_on_a_small_disk(folder: Path, kilobytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a file system of that size at a folder, and say what is in the folder at the end.

    Args:
        folder: which exists; nothing of it is seen outside.
        kilobytes: that fit on it.
        arguments: of Python.

    Returns:
        the process; its stdout ends with a line `left: ` and the names of all files, relative to the folder.
    """
    mount = f'mount -t tmpfs -o size={kilobytes}k none "$0" || exit 77; '
    look = 'code=$?; printf "left:"; cd "$0" && find . -type f -printf " %P"; echo; exit $code'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount + '"$@"; ' + look, str(folder)]
    done = subprocess.run(
        [*command, sys.executable, *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip(f"this machine does not let us mount a file system: {done.stderr.strip()}")
    return done
