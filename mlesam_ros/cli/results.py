"""Results for machines: `--json FILE`, or `-` for standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mlesam_ros.bags.whole import write_whole
from mlesam_ros.errors import ConfigError

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON to this file, or to standard output with -."),
]


def write_json(result: dict[str, Any], target: str | Path) -> None:
    """Write a result where `--json` says.

    A file appears whole or not at all, so that another process may wait for it.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()  # a reader that waits for it has it now
        return
    path = Path(target)
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ConfigError(f"the result cannot be written to {path}: {error.strerror}; give another --json.") from error
