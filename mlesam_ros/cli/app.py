# SPDX-License-Identifier: Apache-2.0
"""The `mlesam` typer application: registration and error handling of all commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.models import CommandInfo, TyperInfo

from mlesam_ros.cli import (
    USER_ERROR,
    bench,
    demo,
    doctor,
    evaluate,
    export,
    info,
    label,
    node,
    play,
    sensors,
    simulate,
    train,
    weights,
)
from mlesam_ros.cli.common import epilog, json_target
from mlesam_ros.errors import MlesamError
from mlesam_ros.files import expand_path


class _Commands(TyperGroup):
    """Command group that reports an `MlesamError` as one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept `--debug` at any position of the command line."""
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> object:
        """Run a command; an `MlesamError` becomes one line on stderr and exit code 2."""
        try:
            return super().invoke(ctx)
        except MlesamError as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"mlesam: {error}", err=True)
            raise typer.Exit(USER_ERROR) from error


app = typer.Typer(
    name="mlesam",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=epilog("mlesam demo", "mlesam info weights/street.safetensors", "mlesam play drive/ --drop camera@10..16"),
)


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Segment camera, depth, event and LiDAR data into one semantic mask, with any sensor missing."""


def _expands_paths(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: expand its paths (the shell does not expand `--out=~/x`) and check that `--json` is writable."""

    def expanded(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(expanded, value))
        return expand_path(value) if isinstance(value, Path) else value

    @wraps(command)
    def run(**given: Any) -> Any:
        given = {name: expanded(value) for name, value in given.items()}
        if given.get("json") is not None:
            given["json"] = json_target(given["json"], [value for value in given.values() if isinstance(value, Path)])
        return command(**given)

    return run


def _commands(group: typer.Typer) -> Iterator[CommandInfo | TyperInfo]:
    yield from group.registered_commands
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from filter(None, [inner.typer_instance.registered_callback])
            yield from _commands(inner.typer_instance)


for _module in (
    demo,
    node,
    play,
    evaluate,
    doctor,
    sensors,
    simulate,
    label,
    train,
    info,
    export,
    weights,
    bench,
):
    _module.register(app)
for _command in _commands(app):
    if _command.callback is not None:
        _command.callback = _expands_paths(_command.callback)
