# SPDX-License-Identifier: Apache-2.0
"""`mlesam bench`: measure how fast this package runs on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.cli.common import JsonOption, epilog, format_help, prepare_own_domain, write_json

if TYPE_CHECKING:
    from mlesam_ros.bench.measurement import BenchmarkResult
    from mlesam_ros.bench.model_benchmark import Options

_REPEATS = 60
_OPTIONAL = {"bound": "", "memory": " MB"}
Repeats = Annotated[int, typer.Option(help="How often each operation is timed.", min=1)]
Backbone = Annotated[str, typer.Option(help="See mlesam info --backbones.")]
Size = Annotated[int, typer.Option(help="Side in pixels of the square images.", min=32)]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; the first GPU by default.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; half of the cores by default.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    examples = epilog("mlesam bench sensors", "mlesam bench model --backbone hiera_base_plus --size 1024 --repeats 1")
    group = typer.Typer(help="Measure speed on this machine.", epilog=examples)
    for command, example in (
        (sensors, "--json -"),
        (sync, "--repeats 200"),
        (_network_command("model", "run", _MODEL), "--backbone hiera_base_plus --size 1024 --repeats 1"),
        (_network_command("paths", "run_paths", _PATHS), "--backbone vit_b --size 512 --repeats 1"),
        (node, "--json node.json"),
        (training, "--repeats 24"),
    ):
        line = f"mlesam bench {command.__name__}"
        group.command(help=format_help(command), epilog=epilog(line, f"{line} {example}"))(command)
    app.add_typer(group, name="bench", no_args_is_help=True)


def sensors(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """Every preprocessor, and all of a frame set, on 1080p, 131,072 points and 300,000 events."""
    from mlesam_ros.bench.sensor_benchmark import run

    report("mlesam bench sensors", run, repeats, json)


def sync(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """The synchronizer, per message of four modalities."""
    from mlesam_ros.bench.sensor_benchmark import run_sync

    report("mlesam bench sync", run_sync, repeats, json)


def _network_command(name: str, run: str, text: str) -> Callable[..., None]:
    def command(
        repeats: Repeats = _REPEATS,
        backbone: Backbone = "hiera_nano",
        size: Size = 256,
        precision: Precision = "auto",
        device: Device = None,
        threads: Threads = None,
        json: JsonOption = None,
    ) -> None:
        from mlesam_ros.bench import model_benchmark

        options = model_benchmark.Options(backbone, size, precision, device, threads)
        report(f"mlesam bench {name}", partial(getattr(model_benchmark, run), options=options), repeats, json, options)

    command.__name__, command.__doc__ = name, text
    return command


_MODEL = """The network with four sensors and with one, its stages and its startup.

The weights are random, which does not affect the duration."""
_PATHS = "Speedup of each inference optimization of the network: all of them against all but one."


def node(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """The shipped network in the full node: robot, node and listener are separate processes, at 10 Hz; 1 minute.

    Measures rate, stamp to publish, each stage, CPU, memory and losses on a simulated street. Discovery stays on this
    machine, in its own domain.
    """
    prepare_own_domain()
    from mlesam_ros.bench.node_benchmark import run

    report("mlesam bench node", run, repeats, json)


def training(repeats: Repeats = _REPEATS, json: JsonOption = None) -> None:
    """Images per second of a training step in bf16, in fp32 and with activation checkpointing.

    Times five steps of each kind, a twelfth of the repeats.
    """
    from mlesam_ros.bench.training_benchmark import run

    report("mlesam bench training", run, repeats, json)


def report(
    command: str,
    run: Callable[[int], list[BenchmarkResult]],
    repeats: int,
    json: str | None,
    options: Options | None = None,
    facts: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Run a benchmark with so many repeats and write its result with the keys of docs/results.md, or print it.

    `options` are those of a network benchmark; `facts` returns further entries of the result, after the run.
    """
    from mlesam_ros.bench.measurement import device, versions

    given = {"repeats": repeats, **(vars(options) if options else {})}
    usual = {"repeats": _REPEATS, **(vars(type(options)()) if options else {})}
    typed = " ".join([command, *(f"--{name} {value}" for name, value in given.items() if value != usual[name])])
    load, rows = round(os.getloadavg()[0], 1), [row.to_dict() for row in run(repeats)]
    if json is not None:
        entries = {"config": options.config() if options else {"repeats": repeats}, **facts(), "rows": rows}
        machine = {"device": device(), "versions": versions(), "date": date.today().isoformat(), "load": load}
        write_json({**machine, "command": typed, **entries}, json)
        return
    typer.echo(device())
    for row in rows:
        parts = [f"{row['median']:.3g} {row['unit']}, p99 {row['p99']:.3g}, spread {100 * row['spread']:.0f} %"]
        if row["alternative"]:
            ratio = "" if row["ratio"] is None else f": {row['ratio']:.3g} times as fast"
            parts.append(f"{row['alternative']} {row['alternative_median']:.3g}{ratio}")
        parts += [f"{key} {row[key]:.3g}{unit}" for key, unit in _OPTIONAL.items() if row[key] is not None]
        typer.echo(f"{typer.style(row['name'], bold=True)}\n  {'; '.join(parts)}")
