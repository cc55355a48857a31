"""Files that appear whole or not at all, and what to say when the disk is full."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from mlesam_ros.errors import CheckpointError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one move, once the new content is on the disk; until then the old file stays as it is.

    Raises:
        CheckpointError: it cannot be written; where there is too little room, says how much it takes and how much is
            there.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(refusal(path, len(content), error)) from error


def refusal(path: Path, size: int, error: OSError) -> str:
    """A sentence for a file of that many bytes that could not be written."""
    if error.errno not in _FULL:
        return f"{path} cannot be written: {error.strerror}; give another folder."
    free = shutil.disk_usage(path.parent).free
    kept = f"; the {path.name} that was there is untouched" if path.exists() else ""
    return (
        f"{path} takes {size / 1e6:.1f} MB and {free / 1e6:.1f} MB are free ({error.strerror}){kept}. "
        "Make room and give the same command again."
    )


def packed(content: dict[str, Any]) -> bytes:
    """What `torch.save` would write, made in memory: its size is known before the disk is asked for room."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
