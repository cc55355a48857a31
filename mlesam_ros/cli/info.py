"""`mlesam info`: what is in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlesam_ros.cli.help import epilog
from mlesam_ros.cli.results import JsonOption, write_json

_EXAMPLES = epilog("mlesam info weights/street.safetensors", "mlesam info my_experts.safetensors --json -")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLES)(info)


def info(
    file: Annotated[Path, typer.Argument(help="A checkpoint: experts, routers and decoder.")],
    json: JsonOption = None,
) -> None:
    """Show what a checkpoint was made for and what it holds."""
    from mlesam_ros.model.checkpoint import describe_checkpoint

    described = describe_checkpoint(file)
    if json is None:
        _show(file, described)
    else:
        write_json(described, json)


def _show(file: Path, described: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=file.name, show_header=False, title_justify="left")
    for key, value in _flat(described):
        table.add_row(key, value)
    Console().print(table)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            rows.append((prefix + key, ", ".join(str(item) for item in value)))
        else:
            rows.append((prefix + key, f"{value:,}" if isinstance(value, int) else str(value)))
    return rows
