"""`mlesam bench`: how fast, beside what, and how fast it could be."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlesam_ros.cli.help import epilog, prose
from mlesam_ros.cli.results import JsonOption, write_json

_REPEATS = 60
Repeats = Annotated[int, typer.Option(help="How often each thing is timed.", min=3)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    examples = epilog("mlesam bench sensors", "mlesam bench sync --json sync.json")
    group = typer.Typer(help="Measure speed, ours and the alternative in turn.", epilog=examples)
    group.command(help=prose(sensors), epilog=epilog("mlesam bench sensors", "mlesam bench sensors --json -"))(sensors)
    group.command(help=prose(sync), epilog=epilog("mlesam bench sync", "mlesam bench sync --repeats 200"))(sync)
    app.add_typer(group, name="bench", no_args_is_help=True)


def sensors(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """Projection, events, pictures and every encoder, on 1080p, 131,072 points and 300,000 events."""
    _bench("sensors", repeats, json)


def sync(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """The synchroniser, per message of four modalities, beside the stock policy on the same stream."""
    _bench("sync", repeats, json)


def _bench(name: str, repeats: int, json: str | None) -> None:
    from importlib import import_module

    from mlesam_ros.bench import BENCHES
    from mlesam_ros.bench.machine import device, versions

    rows = [row.to_dict() for row in import_module(BENCHES[name]).run(repeats)]
    command = f"mlesam bench {name}" + (f" --repeats {repeats}" if repeats != _REPEATS else "")
    result = {"device": device(), "versions": versions(), "command": command, "rows": rows}
    if json is None:
        _show(result)
    else:
        write_json(result, json)


def _show(result: dict[str, Any]) -> None:
    typer.echo(result["device"])
    for row in result["rows"]:
        typer.echo(typer.style(row["name"], bold=True))
        parts = [f"{row['median']:.3g} {row['unit']}, p99 {row['p99']:.3g}, spread {100 * row['spread']:.0f} %"]
        if row["alternative"]:
            parts.append(f"{row['alternative']} {row['alternative_median']:.3g}: {row['ratio']:.3g} times as fast")
        if row["bound"] is not None:
            parts.append(f"bound by bytes {row['bound']:.3g}")
        typer.echo("  " + "; ".join(parts))
