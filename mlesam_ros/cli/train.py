"""`mlesam train`: a recipe becomes weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mlesam_ros.cli.help import epilog, prose
from mlesam_ros.cli.results import JsonOption, write_json

_EXAMPLES = epilog(
    "mlesam train config/training/street.yaml",
    "mlesam train my_recipe.yaml --out runs/mine --device cuda",
    "mlesam train config/training/street.yaml --ablation",
    "torchrun --nproc-per-node 4 -m mlesam_ros.cli train my_recipe.yaml",
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
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, instead of the recipe's.")] = None,
    ablation: Annotated[
        bool,
        typer.Option("--ablation", help="Train four: averaged features, routed, both, both with auxiliary head."),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Train a backbone or experts, and measure them on data they have not seen.

    Ended at any moment, the same command goes on as if it had not been. Started by torchrun it shares the work.
    """
    from mlesam_ros.training.ablation import ABLATION, ablate
    from mlesam_ros.training.distributed import is_first
    from mlesam_ros.training.recipe import load_recipe
    from mlesam_ros.training.train import train as run

    wanted, folder = load_recipe(recipe), out or Path("runs") / recipe.stem
    wanted = replace(wanted, device=device) if device else wanted
    if ablation:
        folder = out or Path("runs") / f"{recipe.stem}_ablation"
        result = {"ablation": str(ablate(wanted, folder, resume=not restart))}
        said = f"the four rows are in {folder / ABLATION}"
    else:
        made = run(wanted, folder, resume=not restart)
        result = {"weights": str(made.weights), "evaluation": str(made.evaluation)}
        said = f"weights are in {made.weights}, their evaluation is in {made.evaluation}"
    if json is not None and is_first():
        write_json(result, json)
    if json != "-" and is_first():
        typer.echo(said)
