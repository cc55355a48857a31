"""Results for machines: `--json FILE`, or `-` for standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mlesam_ros.files import atomic_write, check_writable, expand_path, is_standard_output, write_error


def _json_target(value: str | None) -> str | None:
    """Where `--json` writes, known to be writable before anything is computed.

    Raises:
        FileError: the file could not be written.
    """
    if value is None or is_standard_output(value):
        return value and "-"
    path = expand_path(value)
    check_writable(path)
    return str(path)


JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the result as JSON to this file, or to standard output with -.",
        callback=_json_target,
    ),
]


def write_json(result: dict[str, Any], target: str | Path) -> None:
    """Write a result where `--json` says.

    A file appears whole or not at all, so that another process may wait for it; missing folders are made.

    Raises:
        FileError: the file cannot be written.
    """
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()  # a reader that waits for it has it now
        return
    path = Path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error, len(text)) from error
    atomic_write(path, text)
