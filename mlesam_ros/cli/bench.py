"""`mlesam bench`: measure speed, compare it with alternatives and with the limits of the machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlesam_ros.cli.common import JsonOption, epilog, format_help, prepare_own_domain, write_json

_REPEATS = 60
_MODEL: dict[str, Any] = {
    "backbone": "hiera_nano", "size": 256, "precision": "auto", "device": None, "threads": None,
}  # fmt: skip
Repeats = Annotated[int, typer.Option(help="How often each thing is timed.", min=1)]
Backbone = Annotated[str, typer.Option(help="See mlesam info --backbones.")]
Size = Annotated[int, typer.Option(help="Side in pixels of the square pictures.", min=32)]
Precision = Annotated[str, typer.Option(help="Ours: auto, fp32, bf16 or fp16; the plain way is fp32.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; the first GPU by default.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; half of the cores by default.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    examples = epilog("mlesam bench sensors", "mlesam bench model --backbone hiera_base_plus --size 1024 --repeats 1")
    group = typer.Typer(help="Measure speed, ours and the alternative in turn.", epilog=examples)
    for command, example in (
        (sensors, "--json -"),
        (sync, "--repeats 200"),
        (model, "--backbone hiera_base_plus --size 1024 --repeats 1"),
        (paths, "--backbone vit_b --size 512 --repeats 1"),
        (node, "--json node.json"),
        (training, "--repeats 24"),
    ):
        line = f"mlesam bench {command.__name__}"
        group.command(help=format_help(command), epilog=epilog(line, f"{line} {example}"))(command)
    app.add_typer(group, name="bench", no_args_is_help=True)


def sensors(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """Projection, events, images and every preprocessor, on 1080p, 131,072 points and 300,000 events."""
    _bench("sensors", repeats, json)


def sync(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """The synchronizer, per message of four modalities, against the stock policy on the same stream."""
    _bench("sync", repeats, json)


def model(
    repeats: Repeats = _REPEATS,
    backbone: Backbone = _MODEL["backbone"],
    size: Size = _MODEL["size"],
    precision: Precision = _MODEL["precision"],
    device: Device = _MODEL["device"],
    threads: Threads = _MODEL["threads"],
    json: JsonOption = None,
) -> None:
    """The network with four sensors, against one sensor after the other, the frozen encoder alone, and one sensor.

    Also measures its stages, its memory and its startup, against the arithmetic and memory speed of the device. The
    weights are random, which does not affect the duration.
    """
    options = {"backbone": backbone, "size": size, "precision": precision, "device": device, "threads": threads}
    _bench("model", repeats, json, options)


def paths(
    repeats: Repeats = _REPEATS,
    backbone: Backbone = _MODEL["backbone"],
    size: Size = _MODEL["size"],
    precision: Precision = _MODEL["precision"],
    device: Device = _MODEL["device"],
    threads: Threads = _MODEL["threads"],
    json: JsonOption = None,
) -> None:
    """Speedup of each inference optimization of the network: all of them against all but one."""
    options = {"backbone": backbone, "size": size, "precision": precision, "device": device, "threads": threads}
    _bench("paths", repeats, json, options)


def node(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """The shipped network in the full node: robot, node and listener are separate processes, at 10 Hz; 3 minutes.

    Measures rate, stamp to publish, each stage, CPU and losses, against the same with every topic subscribed. Then
    measures the parts other than the network. Discovery stays on this machine, in its own domain.
    """
    prepare_own_domain()
    _bench("node", repeats, json)


def training(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """Images per second of a training step against the plain loop, memory with checkpointing, and two processes.

    Times five steps of each kind, a twelfth of the repeats; 4 minutes on two cores.
    """
    _bench("training", repeats, json)


def _bench(name: str, repeats: int, json: str | None, given: dict[str, Any] | None = None) -> None:
    from datetime import date
    from importlib import import_module

    from mlesam_ros.bench import BENCHES
    from mlesam_ros.bench.machine import device, load, versions

    bench, busy = import_module(BENCHES[name]), load()
    options = () if given is None else (bench.Options(**given),)
    rows = [row.to_dict() for row in bench.run(repeats, *options)]
    result = {
        "device": device(),
        "versions": versions(),
        "date": date.today().isoformat(),
        "load": busy,
        "command": _typed(name, {"repeats": repeats, **(given or {})}),
        **(bench.facts(*options) if options else {"config": {"repeats": repeats}}),
        "rows": rows,
    }
    if json is None:
        _show(result)
    else:
        write_json(result, json)


def _typed(name: str, given: dict[str, Any]) -> str:
    """Command line of the benchmark, without options at their default."""
    usual = {"repeats": _REPEATS, **_MODEL}
    return " ".join([f"mlesam bench {name}", *(f"--{k} {v}" for k, v in given.items() if v != usual[k])])


def _show(result: dict[str, Any]) -> None:
    typer.echo(result["device"])
    for row in result["rows"]:
        typer.echo(typer.style(row["name"], bold=True))
        parts = [f"{row['median']:.3g} {row['unit']}, p99 {row['p99']:.3g}, spread {100 * row['spread']:.0f} %"]
        if row["alternative"]:
            ratio = "" if row["ratio"] is None else f": {row['ratio']:.3g} times as fast"
            parts.append(f"{row['alternative']} {row['alternative_median']:.3g}{ratio}")
        if row["bound"] is not None:
            parts.append(f"bound {row['bound']:.3g}")
        if row["memory"] is not None:
            parts.append(f"memory {row['memory']:.3g} MB")
        typer.echo("  " + "; ".join(parts))
