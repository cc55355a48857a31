"""`mlesam bench`: how fast, beside what, and how fast it could be."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlesam_ros.cli.environment import prepare_own_domain
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
    group.command(help=prose(node), epilog=epilog("mlesam bench node", "mlesam bench node --json node.json"))(node)
    group.command(help=prose(training), epilog=epilog("mlesam bench training", "mlesam bench training --repeats 24"))(
        training
    )
    app.add_typer(group, name="bench", no_args_is_help=True)


def sensors(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """Projection, events, pictures and every encoder, on 1080p, 131,072 points and 300,000 events."""
    _bench("sensors", repeats, json)


def sync(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """The synchroniser, per message of four modalities, beside the stock policy on the same stream."""
    _bench("sync", repeats, json)


def node(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """The shipped network in the full node: robot, node and listener are processes of their own, at 10 Hz; 3 minutes.

    Rate, stamp to publish, each stage, CPU, losses; beside it the same while every topic is listened to. Then what is
    not the network, part by part. Discovery stays on this machine, in a domain of its own.
    """
    prepare_own_domain()
    _bench("node", repeats, json)


def training(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """Pictures per second of a training step beside the plain loop, what checkpointing saves, two processes beside one.

    Times five steps of each kind, a twelfth of the repeats; 4 minutes on two cores.
    """
    _bench("training", repeats, json)


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
            ratio = "" if row["ratio"] is None else f": {row['ratio']:.3g} times as fast"
            parts.append(f"{row['alternative']} {row['alternative_median']:.3g}{ratio}")
        if row["bound"] is not None:
            parts.append(f"bound by bytes {row['bound']:.3g}")
        typer.echo("  " + "; ".join(parts))
