# SPDX-License-Identifier: Apache-2.0
"""`mlesam train`: train weights from a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlesam_ros.cli.common import JsonOption, ParamOption, ParamsOption, epilog, format_help, write_json

if TYPE_CHECKING:
    from mlesam_training.recipe import Recipe

_EXAMPLES = epilog(
    "mlesam train config/training/street.yaml",
    "mlesam train my_recipe.yaml --out runs/mine --device cuda",
    "mlesam train config/training/street_short.yaml --ablation",
    "mlesam train --data my_data.yaml --from street",
    "mlesam train --data my_data.yaml --from sam2.1_hiera_base_plus --device cuda",
    "mlesam train --recipe deliver --data /data/DELIVER --backbone sam2_hiera_base_plus",
    "torchrun --nproc-per-node 4 -m mlesam_ros.cli train my_recipe.yaml",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(train), epilog=_EXAMPLES)(train)


def train(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="RECIPE", help="Recipe file, such as those in config/training."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Name of a shipped recipe instead of a file, such as deliver.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="A .yaml file with data: and any other keys of a recipe, instead of a recipe; the keys that it lacks "
            "are chosen. Or the folder of the recipe's data set in files.",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Weights to start from: a checkpoint of experts, such as street, or a backbone's, such as those of "
            "SAM; a file, or a name of mlesam weights.",
        ),
    ] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="Frozen weights: a file, or a name of mlesam weights; overrides the recipe.")
    ] = None,
    params: ParamsOption = None,
    param: ParamOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of state, log, evaluation and weights; runs/<recipe> if omitted.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start over instead of resuming.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; overrides the recipe.")] = None,
    ablation: Annotated[
        bool,
        typer.Option("--ablation", help="Train four models: averaged, routed, both, both with auxiliary head."),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Train a backbone or experts, and evaluate them on held-out data.

    Of a checkpoint given by --from, classes of the same name, the experts of the sensors that the data has, and what
    all classes share are the start; a table names what was taken. The last weights are beside report.html, the best
    ones of the validations in best/.

    The recipe's params describe the sensors of bags; --params and -p override them.

    After an interruption, the same command resumes; the result is the same as without interruption. Under torchrun the
    work is distributed over the processes.
    """
    from mlesam_training.distributed import is_first
    from mlesam_training.train_run import ABLATION, ablate
    from mlesam_training.train_run import train as run

    open_recipe = data is not None and data.suffix in (".yaml", ".yml")
    if open_recipe and (file or recipe):
        raise typer.BadParameter(f"--data {data} replaces the recipe; give one of the two.")
    path = data if data is not None and open_recipe else _recipe_file(file, recipe)
    folder_of_data = None if open_recipe else data
    loaded = _load_recipe(path, folder_of_data, backbone, device, params, param or [], start, open_recipe)
    folder = out or Path("runs") / (f"{path.stem}_ablation" if ablation else path.stem)
    if ablation:
        result = {"ablation": str(ablate(loaded, folder, resume=not restart))}
        summary = f"ablation table: {folder / ABLATION}"
    else:
        trained = run(loaded, folder, resume=not restart)
        result = {"weights": str(trained.weights), "evaluation": str(trained.evaluation)}
        summary = f"weights: {trained.weights}, evaluation: {trained.evaluation}"
    if json is not None and is_first():
        write_json(result, json)
    if json != "-" and is_first():
        typer.echo(summary)


def _recipe_file(file: Path | None, recipe: str | None) -> Path:
    """Resolve the recipe: a file, or a shipped recipe by name."""
    from mlesam_ros.resources import resource_path
    from mlesam_ros.strict_yaml import check_choice

    if (file is None) == (recipe is None):
        raise typer.BadParameter("give either a RECIPE file or --recipe NAME.")
    if file is not None:
        return file
    shipped = {path.stem: path for path in sorted(resource_path("config/training").glob("*.yaml"))}
    check_choice("recipe", recipe, shipped)
    return shipped[str(recipe)]


def _load_recipe(
    path: Path,
    data: Path | None,
    backbone: Path | None,
    device: str | None,
    params: Path | None,
    rules: list[str],
    start: str | None,
    leave_open: bool,
) -> Recipe:
    """Load the recipe and apply the options."""
    from functools import partial

    from mlesam_ros.errors import ConfigError
    from mlesam_training.recipe import FileData, load_recipe
    from mlesam_training.recipe_choice import fill_recipe

    given = None if backbone is None else str(backbone)
    recipe = load_recipe(path, partial(fill_recipe, weights=start, backbone=given, leave_open=leave_open))
    if data is not None:
        if not isinstance(recipe.data, FileData):
            raise ConfigError(
                f"--data is for data sets in files; the data of {path} is {recipe.data.kind}.", "Omit --data."
            )
        recipe = replace(recipe, data=replace(recipe.data, root=str(data)))
    if params is not None or rules:
        recipe = _override_sensors(recipe, params, rules)
    return replace(recipe, device=device) if device else recipe


def _override_sensors(recipe: Recipe, params: Path | None, rules: list[str]) -> Recipe:
    """Replace the description of the bags' sensors in a recipe; its warnings go to standard error."""
    from mlesam_ros.errors import ConfigError
    from mlesam_ros.parameter_file import ineffective_rules, read_node_parameters
    from mlesam_training.recipe import BagData

    data = recipe.data
    if not isinstance(data, BagData):
        raise ConfigError(
            f"--params and -p describe the sensors of bags; the data of the recipe is {data.kind}.", "Omit them."
        )
    file = data.params if params is None else str(params)
    given = read_node_parameters(file, rules, data.node)
    changed = {name: given.values[name] for name in given.overridden}
    data = replace(data, params=file, parameters={**data.parameters, **changed})
    overruled = ineffective_rules(file, [name for name in given.ineffective if name not in data.parameters])
    for warning in (*overruled, *data.description().warnings):
        typer.echo(f"warning: {warning}", err=True)
    return replace(recipe, data=data)
