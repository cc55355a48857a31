"""`mlesam train`: a recipe becomes weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlesam_ros.cli.help import epilog, prose
from mlesam_ros.cli.results import JsonOption, write_json

_EXAMPLES = epilog(
    "mlesam train config/training/street.yaml",
    "mlesam train my_recipe.yaml --out runs/mine",
    "mlesam train my_recipe.yaml --out runs/mine --restart",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=prose(train), epilog=_EXAMPLES)(train)


def train(
    recipe: Annotated[Path, typer.Argument(help="What to train on what, a file like those in config/training.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for state, log, evaluation and weights; runs/<recipe> by default.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again instead of going on where it was ended.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Train a backbone or experts, and measure them on streets they have not seen.

    Ended at any moment, the same command goes on as if it had not been.
    """
    from mlesam_ros.training.train import EVALUATION
    from mlesam_ros.training.train import train as run

    folder = out or Path("runs") / recipe.stem
    weights = run(recipe, folder, resume=not restart)
    if json is not None:
        write_json({"weights": str(weights), "evaluation": str(folder / EVALUATION)}, json)
    if json != "-":
        typer.echo(f"weights are in {weights}, their evaluation is in {folder / EVALUATION}")
