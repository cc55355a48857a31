"""Where results go: a folder of their own each time, and `latest`, which leads to the newest."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from mlesam_ros.errors import ConfigError


def new_run_dir(parent: Path, kind: str = "demo") -> Path:
    """Make `<kind>-<date>-<time>` and point `latest` at it.

    Args:
        parent: folder that collects results.
        kind: of result.

    Raises:
        ConfigError: it cannot be written to.
    """
    stem = f"{kind}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    folder, number = parent / stem, 1
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while not _made(folder):
            number += 1
            folder = parent / f"{stem}-{number}"
        link = parent / f".latest.{os.getpid()}"
        link.symlink_to(folder.name)
        link.replace(parent / "latest")
    except OSError as error:
        raise ConfigError(
            f"results cannot be written to {parent}: {error.strerror}.", "Give another --output."
        ) from error
    return folder


def _made(folder: Path) -> bool:
    """Whether it was this process that made it, of several that may try at once."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True
