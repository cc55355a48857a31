# SPDX-License-Identifier: Apache-2.0
"""`mlesam info`: content of a checkpoint, and parameters and operations of the backbones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.cli.common import JsonOption, epilog, format_help, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from mlesam_ros.model.flops import BackboneCost

_EXAMPLES = epilog(
    "mlesam info weights/street.safetensors",
    "mlesam info my_experts.safetensors --json -",
    "mlesam info --backbones",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(info), epilog=_EXAMPLES)(info)


def info(
    file: Annotated[Path | None, typer.Argument(help="Checkpoint: experts, routers and decoder.")] = None,
    backbones: Annotated[
        bool, typer.Option("--backbones", help="Show parameters and operations of every backbone instead.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Show the configuration and content of a checkpoint."""
    if backbones == (file is not None):
        raise typer.BadParameter("give either a checkpoint FILE or --backbones.")
    if file is None:
        _info_backbones(json)
    else:
        _info_checkpoint(file, json)


def _info_checkpoint(file: Path, json: str | None) -> None:
    from mlesam_ros.model.checkpoint import describe_checkpoint

    described = describe_checkpoint(file)
    if json is None:
        _show(file, described)
    else:
        write_json(described, json)


def _info_backbones(json: str | None) -> None:
    from rich.console import Console

    from mlesam_ros.model.flops import backbone_costs
    from mlesam_ros.model.model_config import MLESAMConfig

    costs, config = backbone_costs(), MLESAMConfig.paper()
    if json is None:
        Console(width=120, highlight=False).print(backbone_table(costs))
        return
    conditions = {"rank": config.rank, "modalities": len(config.modalities), "classes": len(config.label_space)}
    write_json({**conditions, "backbones": [_row(cost) for cost in costs]}, json)


def backbone_table(costs: Sequence[BackboneCost]) -> Table:
    """Format the costs as a table in Markdown."""
    from rich.box import MARKDOWN
    from rich.table import Table

    table = Table(box=MARKDOWN)
    table.add_column("backbone", no_wrap=True)
    for title in ("encoder M", "GMACs 1024", "= layers", "+ attention", "GMACs 512", "expert M", "trained M"):
        table.add_column(title, justify="right", no_wrap=True)
    for cost in costs:
        large, small = cost.macs.values()
        macs = [large.total, large.projections, large.attention, small.total]
        row = [f"{cost.encoder / 1e6:.2f}", *(f"{n / 1e9:.1f}" for n in macs)]
        table.add_row(cost.name, *row, f"{cost.expert / 1e6:.3f}", f"{cost.trained / 1e6:.2f}")
    return table


def _row(cost: BackboneCost) -> dict[str, Any]:
    gmacs = {
        f"gmacs_{side}": {
            "layers": round(macs.projections / 1e9, 3),
            "attention": round(macs.attention / 1e9, 3),
            "total": round(macs.total / 1e9, 3),
        }
        for side, macs in cost.macs.items()
    }
    parameters = {"encoder": cost.encoder, "expert": cost.expert, "trained": cost.trained}
    return {"name": cost.name, "parameters": parameters, **gmacs}


def _show(file: Path, described: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    config = described["config"]
    shown = {key: value for key, value in described.items() if key != "config"}
    shown["image_size"], shown["preprocessors"] = config["image_size"], config["preprocessors"]
    console = Console()
    if not console.is_terminal:
        for key, value in shown.items():
            typer.echo(f"{key}: {', '.join(_text(value).splitlines())}")
        return
    table = Table(title=str(file), show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in shown.items():
        table.add_row(key, _text(value))
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
