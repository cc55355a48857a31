"""`mlesam info`: what is in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlesam_ros.cli.help import epilog, prose
from mlesam_ros.cli.results import JsonOption, write_json

_EXAMPLES = epilog("mlesam info weights/street.safetensors", "mlesam info my_experts.safetensors --json -")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=prose(info), epilog=_EXAMPLES)(info)


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

    config = described["config"]
    shown = {key: value for key, value in described.items() if key != "config"}
    shown["image_size"], shown["encoders"] = config["image_size"], config["encoders"]
    table = Table(title=str(file), show_header=False, title_justify="left")
    for key, value in shown.items():
        table.add_row(key, _text(value))
    Console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
