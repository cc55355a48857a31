"""`mlesam evaluate --dataset`: a published set in its folders instead of bags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mlesam_ros.cli.folder import new_run_dir
from mlesam_ros.cli.results import write_json
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.evaluation.output import METRICS
from mlesam_ros.progress import track
from mlesam_ros.training.distributed import is_first
from mlesam_ros.training.measure import DatasetEvalConfig, evaluate_checkpoint

_OF_NETWORK = {"checkpoint", "base_weights", "device", "precision"}
"""Parameters that count for a data set."""


def run_dataset(
    checkpoint: Path, base_weights: Path | None, exam: DatasetEvalConfig, output: Path, quiet: bool
) -> dict[str, Any] | None:
    """Measure, show, and leave `metrics.json` in a folder of its own.

    Args:
        checkpoint, base_weights, exam: see `evaluate_checkpoint`.
        output: folder in which the result's folder is made.
        quiet: say nothing on standard output.

    Returns:
        what `docs/results.md` documents as `evaluation.json`; None in all processes but the first.

    Raises:
        MlesamError: see `evaluate_checkpoint`.
    """
    figures, shown = evaluate_checkpoint(
        checkpoint, base_weights, exam, lambda batches: track(f"segmenting {exam.name}", batches, "batches")
    )
    if not is_first():
        return None
    folder = new_run_dir(output, "evaluate")
    figures["output_dir"] = str(folder)
    write_json(figures, folder / METRICS)
    console = Console(stderr=quiet, highlight=False)
    console.print(*shown, f"results are in {folder}", sep="\n")
    return figures


def refuse_bags_only(options: Mapping[str, Any], parameters: NodeParameters, file: Path | None) -> None:
    """Refuse what makes sense for bags alone.

    Args:
        options: option → its value, of those for bags.
        parameters: as they were read.
        file: parameter file that was named.

    Raises:
        ConfigError: names the option, the `-p` rule, or the file and what it sets.
    """
    rules = [(f"-p {name}", name) for name in sorted(parameters.overridden - _OF_NETWORK)]
    for typed, name in [*((f"--{name}", name) for name, value in options.items() if value), *rules]:
        raise ConfigError(f"{typed} is for bags; a data set has no {name}.", f"Leave {typed} out.")
    for name in sorted(parameters.given - parameters.overridden - _OF_NETWORK):
        raise ConfigError(
            f"{file} sets {name}, which is for bags; a data set has no {name}.",
            f"Leave --params {file} out and name the network by --checkpoint and --base-weights.",
        )


def exam(dataset: str, paths: Sequence[Path], split: str, options: Sequence[str], **how: Any) -> DatasetEvalConfig:
    """What was asked for, in words.

    Args:
        dataset: name of the set.
        paths: its folder, and nothing else.
        split: of the set.
        options: KEY=VALUE each.
        how: the other attributes of `DatasetEvalConfig`.

    Raises:
        ConfigError: not one folder, an option without a value, or one that a data set does not have.
    """
    if len(paths) != 1:
        raise ConfigError(f"{len(paths)} folders are given; a data set lies in one.")
    if wrong := [pair for pair in options if "=" not in pair.strip("=")]:
        raise ConfigError(f"option {wrong[0]!r} cannot be read.", "Write KEY=VALUE, such as weather=night.")
    return DatasetEvalConfig(dataset, paths[0], split, dict(pair.split("=", 1) for pair in options), **how)
