# SPDX-License-Identifier: Apache-2.0
"""`mlesam weights`: names of weights, and their download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlesam_ros.cli.common import JsonOption, epilog, format_help, write_json

_MB = 1e6
_GET = "mlesam weights get sam2.1_hiera_base_plus"
_EXAMPLES = epilog("mlesam weights", "mlesam weights --json -", _GET)
_GET_EXAMPLES = epilog(_GET, "mlesam weights get sam_vit_b --base-url http://192.168.1.2/sam")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(invoke_without_command=True, help=format_help(weights), epilog=_EXAMPLES)
    group.callback()(weights)
    group.command(help=format_help(get), epilog=_GET_EXAMPLES)(get)
    app.add_typer(group, name="weights")


def weights(context: typer.Context, json: JsonOption = None) -> None:
    """List the weights that have a name, and download them.

    A name can be given wherever the path of a weights file can. Downloaded weights are kept in the folder
    MLESAM_WEIGHTS, or in mlesam_ros/weights of the user's cache folder.
    """
    if context.invoked_subcommand is not None:
        return
    from mlesam_ros.model.weights import weights_folder

    rows = _rows()
    if json is not None:
        write_json({"folder": str(weights_folder()), "weights": rows}, json)
    else:
        _show(weights_folder(), rows)


def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of mlesam weights.")],
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Folder of a mirror that has the file, instead of Meta's server.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Download weights into the cache folder, and check their SHA-256.

    Interrupted, the same command continues. Weights that are there already are checked only.
    """
    from mlesam_ros.files import format_size
    from mlesam_ros.model.weights import LICENSE, SHIPPED, download, published_weights, resolve_weights
    from mlesam_ros.progress import track

    facts: dict[str, Any] = {}
    if name in SHIPPED:
        if base_url is not None:
            raise typer.BadParameter(f"{name} comes with this package; only published weights are downloaded.")
        path = resolve_weights(name)
    else:
        row = published_weights(name)
        typer.echo(f"{row.file}: {format_size(row.size)}, {row.state}; {LICENSE} ({row.project})", err=True)
        with track(f"downloading {row.file}", row.size / _MB, "MB") as show:
            path = download(row, base_url, lambda done, total: show(done / _MB, total / _MB))
        typer.echo(f"SHA-256 {row.sha256} is right", err=True)
        facts = {"sha256": row.sha256, "license": LICENSE}
    if json is not None:
        write_json({"name": name, "path": str(path), **facts}, json)
    else:
        typer.echo(path)


def _rows() -> list[dict[str, Any]]:
    from mlesam_ros.model.weights import LICENSE, PUBLISHED, SHIPPED, resolve_weights

    rows: list[dict[str, Any]] = [
        {
            "name": name, "backbone": row.backbone, "size": row.size, "state": row.state, "path": str(row.path),
            "url": row.url, "sha256": row.sha256, "license": LICENSE,
        }
        for name, row in PUBLISHED.items()
    ]  # fmt: skip
    for name in SHIPPED:
        path = resolve_weights(name)
        rows.append({"name": name, "size": path.stat().st_size, "state": "shipped", "path": str(path)})
    return rows


def _show(folder: Path, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from mlesam_ros.files import format_size

    console = Console(highlight=False)
    if not console.is_terminal:
        for row in rows:
            typer.echo(f"{row['name']}: {format_size(row['size'])}, {row['state']}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("name", "left"), ("size", "right"), ("state", "left")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(row["name"], format_size(row["size"]), row["state"])
    console.print(table)
    console.print(f"folder: {folder}", markup=False, soft_wrap=True)
