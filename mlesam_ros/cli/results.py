"""Results for machines: `--json FILE`, or `-` for standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from mlesam_ros.files import atomic_write, check_writable, expand_path, is_standard_output

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON to this file, or to standard output with -."),
]


def json_target(value: str, made: Collection[Path]) -> str:
    """Expand the value of `--json`, and know that it can be written before anything is computed.

    Args:
        value: as given.
        made: folders that the command may make.

    Returns:
        `-` for standard output, however it is spelled; else the path.

    Raises:
        FileError: the file could not be written.
    """
    if is_standard_output(value):
        return "-"
    path = expand_path(value)
    check_writable(path, made)
    return str(path)


def write_json(result: dict[str, Any], target: str | Path) -> None:
    """Write a result where `--json` says.

    A file appears whole or not at all, so that another process may wait for it.

    Raises:
        FileError: the file cannot be written.
    """
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()  # a reader that waits for it has it now
        return
    atomic_write(target, text)
