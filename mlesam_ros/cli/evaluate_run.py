# SPDX-License-Identifier: Apache-2.0
"""Evaluate bags, or a checkpoint on a data set, and print the results, for `mlesam evaluate`.

Several bags are distributed over the processes that torchrun started.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlesam_ros.cli.common import new_run_dir, write_json
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import BagError, ConfigError, LabelError, MlesamError
from mlesam_ros.evaluation.bag_evaluator import Evaluation, EvaluationOptions, NoMasksError, check_bag
from mlesam_ros.evaluation.bag_outputs import (
    METRICS,
    REPORT,
    Outputs,
    ProcessGroup,
    evaluate_to_folder,
    find_bags,
    unique_names,
)
from mlesam_ros.evaluation.report import write_overview
from mlesam_ros.evaluation.results import summary
from mlesam_ros.label_map import RawLabels
from mlesam_ros.pipeline import Pipeline, checkpoint_path, load_pipeline
from mlesam_ros.progress import spinner, track
from mlesam_ros.sync import COUNTERS
from mlesam_training.dataset_evaluation import DatasetEvalConfig, evaluate_checkpoint
from mlesam_training.distributed import is_first
from mlesam_training.recipe import FileData, load_data

Figures = Mapping[str, Any]


def show_bag(figures: Figures, console: Console) -> None:
    """Print the results of one bag: warnings, message counts per sensor, metrics and the result folder."""
    _warn(figures["warnings"])
    outcomes = [
        outcome
        for outcome in COUNTERS
        if outcome in COUNTERS[:2] or any(e[outcome] for e in figures["sensors"].values())
    ]
    (_sensor_table if console.is_terminal else _sensor_lines)(figures, outcomes, console)
    _print_figures(figures, console)


def _sensor_lines(figures: Figures, outcomes: list[str], console: Console) -> None:
    """Print one unwrapped line per sensor, for output to files and pipes."""
    for modality, entry in figures["sensors"].items():
        counts = ", ".join(f"{outcome} {entry[outcome]}" for outcome in outcomes)
        _print_line(f"{modality} {entry['topic']}: {counts}", console)


def _sensor_table(figures: Figures, outcomes: list[str], console: Console) -> None:
    table = Table(title=Path(figures["bag"]).name, title_justify="left")
    for heading in ("sensor", "topic", *outcomes):
        table.add_column(heading, justify="right" if heading in outcomes else "left", no_wrap=heading in outcomes)
    for modality, entry in figures["sensors"].items():
        counts = (entry[outcome] for outcome in outcomes)
        table.add_row(modality, entry["topic"], *map(str, counts))
    console.print(table)


def show_bags(figures: Figures, console: Console) -> None:
    """Print the results of several bags: one line each, then the metrics over all of them."""
    _warn(figures["warnings"])
    (_bag_table if console.is_terminal else _bag_lines)(figures, console)
    for row in figures["bags"]:
        if "error" in row:
            _print_line(f"{row['bag']}: {row['error']}", console)
    _print_figures(figures, console)


def _bag_lines(figures: Figures, console: Console) -> None:
    for row in figures["bags"]:
        if "error" not in row:
            latency = _format(row["latency_ms"]["p50"], " ms")
            _print_line(
                f"{row['bag']}: {row['masks']} masks, mIoU {_format(row['miou'], ' %')}, latency p50 {latency}", console
            )


def _bag_table(figures: Figures, console: Console) -> None:
    table = Table(title=f"{len(figures['bags'])} bags", title_justify="left")
    for heading in ("bag", "masks", "mIoU", "p50 latency", "warnings"):
        table.add_column(heading, justify="left" if heading == "bag" else "right")
    for row in figures["bags"]:
        if "error" in row:
            table.add_row(row["bag"], "failed", "–", "–", "–")
        else:
            latency = _format(row["latency_ms"]["p50"], " ms")
            table.add_row(row["bag"], str(row["masks"]), _format(row["miou"], " %"), latency, str(row["warnings"]))
    console.print(table)


def _print_figures(figures: Figures, console: Console) -> None:
    latency = figures["latency_ms"]
    lines = [
        f"{figures['masks']} masks, latency p50 {_format(latency['p50'], ' ms')}, p95 {_format(latency['p95'], ' ms')}",
        f"consistency {_format(figures['consistency'], ' %')}, confidence {_format(figures['confidence'], ' %')}",
    ]
    if figures["compared"]:
        lines.insert(0, f"mIoU {_format(figures['miou'], ' %')} over {figures['compared']} masks with ground truth")
    if figures["any_modal"]:
        lines.append(f"mIoU {_format(figures['any_modal']['average'], ' %')}, mean over all subsets of the sensors")
    if figures["interrupted"]:
        lines.append("interrupted: the results until then are kept")
    lines.append(f"results are in {figures['output_dir']}")
    for line in lines:
        _print_line(line, console)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        _print_line(f"warning: {warning}", Console(stderr=True))


def _print_line(line: str, console: Console) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _format(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.1f}{unit}"


_NETWORK_PARAMETERS = {"checkpoint", "base_weights", "device", "precision"}
"""Node parameters that apply to a data set; all others are for bags."""


def run_dataset(
    config: DatasetEvalConfig, parameters: NodeParameters, output: Path, quiet: bool
) -> dict[str, Any] | None:
    """Evaluate a checkpoint on a data set, print the result and write `metrics.json` into a new folder.

    Args:
        config: the data set and how it is evaluated.
        parameters: name the checkpoint and its base weights.
        output: parent folder of the result folder.
        quiet: print nothing to standard output.

    Returns:
        the result documented in `docs/results.md` as `evaluation.json`; None in all processes but the first.

    Raises:
        MlesamError: see `evaluate_checkpoint`.
    """
    base_weights = Path(parameters.base_weights) if parameters.base_weights else None
    figures, shown = evaluate_checkpoint(
        Path(checkpoint_path(parameters.checkpoint)), base_weights, config,
        lambda batches: track(f"segmenting {config.name}", batches, "batches"),
    )  # fmt: skip
    if not is_first():
        return None
    folder = new_run_dir(output, "evaluate")
    figures["output_dir"] = str(folder)
    write_json(figures, folder / METRICS)
    console = Console(stderr=quiet, highlight=False)
    console.print(*shown, f"results are in {folder}", sep="\n")
    return figures


def refuse_bags_only(options: Mapping[str, Any], parameters: NodeParameters, file: Path | None) -> None:
    """Reject options and parameters that apply only to bags.

    Args:
        options: options for bags: name → value.
        parameters: the node parameters.
        file: parameter file given by `--params`.

    Raises:
        ConfigError: names the option, the `-p` rule, or the file and the parameter that it sets.
    """
    rules = [f"-p {name}" for name in sorted(parameters.overridden - _NETWORK_PARAMETERS)]
    for typed in [*(f"--{name}" for name, value in options.items() if value), *rules]:
        raise ConfigError(f"{typed} is for bags, not for a data set.", f"Omit {typed}.")
    for name in sorted(parameters.given - parameters.overridden - _NETWORK_PARAMETERS):
        raise ConfigError(
            f"{file} sets {name}, which is for bags, not for a data set.",
            f"Omit --params {file} and give --checkpoint and --base-weights.",
        )


def dataset_config(
    dataset: str,
    paths: Sequence[Path],
    split: str,
    options: Sequence[str],
    robustness: bool,
    parameters: NodeParameters,
    raw_labels: RawLabels,
) -> DatasetEvalConfig:
    """Build the configuration of a data set evaluation from the command line.

    Args:
        dataset: name of the data set, or a data file, whose root the path replaces.
        paths: exactly one path, the folder of the data set.
        split: split of the data set.
        options: options of the data set, KEY=VALUE each.
        robustness: whether to evaluate missing and corrupted modalities as well.
        parameters: name the device and the precision.
        raw_labels: description of ground truth in another label space.

    Raises:
        ConfigError: not exactly one folder, an option without value, one that the data set does not have, or a data
            file of other data.
    """
    if len(paths) != 1:
        raise ConfigError(f"{len(paths)} folders are given; --dataset takes one.")
    if wrong := [pair for pair in options if "=" not in pair.strip("=")]:
        raise ConfigError(f"--option {wrong[0]!r} is not KEY=VALUE.", "Write KEY=VALUE, such as weather=night.")
    given: dict[str, Any] = dict(pair.split("=", 1) for pair in options)
    if Path(dataset).suffix in (".yaml", ".yml"):
        data = load_data(dataset)
        if not isinstance(data, FileData):
            raise ConfigError(f"the data of {dataset} is {data.kind}; --dataset is for data sets in files.")
        dataset, given = data.kind, {**data.options, **given}
    return DatasetEvalConfig(
        dataset, paths[0], split, given, robustness, parameters.device, parameters.precision, raw_labels
    )


SUMMARY = "summary.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class _Request:
    """An evaluation of one or several bags.

    Attributes:
        options, outputs: of every bag.
        output: parent folder of the result folder.
    """

    options: EvaluationOptions
    outputs: Outputs
    output: Path


def load_model(parameters: NodeParameters, device: str | None = None) -> Pipeline:
    """Load the pipeline on a device; by default that of the parameters."""
    with spinner("loading the model"):
        return load_pipeline(parameters, device)


def run_bags(
    paths: Sequence[Path], options: EvaluationOptions, outputs: Outputs, output: Path, quiet: bool
) -> dict[str, Any] | None:
    """Evaluate bags, print the results and write them.

    Args:
        paths: bags, and folders of bags.
        options, outputs: of every bag.
        output: parent folder of the result folder.
        quiet: print nothing to standard output.

    Returns:
        the result with the keys documented in `docs/results.md`; None in all processes but the first.

    Raises:
        MlesamError: invalid input, or no bag could be evaluated.
    """
    request, names = _Request(options, outputs, output), unique_names(find_bags(paths))
    console = Console(stderr=quiet)
    if len(names) == 1:
        return _run_one(request, next(iter(names.values())), console)
    with ProcessGroup() as group:
        return _run_many(request, names, group, console)


def _run_one(request: _Request, bag: Path, console: Console) -> dict[str, Any]:
    pipeline = load_model(request.options.parameters)
    seconds = check_bag(bag, pipeline, request.options)
    folder = new_run_dir(request.output, "evaluate")
    try:
        _, figures = _evaluate(request, folder, bag, pipeline, seconds)
    except (NoMasksError, LabelError, KeyboardInterrupt):
        _discard(folder)
        raise
    figures["output_dir"] = str(folder)
    write_json(figures, folder / METRICS)
    show_bag(figures, console)
    return figures


def _run_many(
    request: _Request, names: Mapping[str, Path], group: ProcessGroup, console: Console
) -> dict[str, Any] | None:
    pipeline = load_model(request.options.parameters, group.device)
    folder = Path(group.broadcast(str(new_run_dir(request.output, "evaluate")) if group.rank == 0 else None))
    mine = dict(list(names.items())[group.rank :: group.size])
    parts = group.all_gather(_evaluate_all(request, folder, mine, pipeline))
    if group.rank:
        return None
    found = {name: part.found[name] for name in names for part in parts if name in part.found}
    failed = {name: part.failed[name] for name in names for part in parts if name in part.failed}
    interrupted = any(part.interrupted for part in parts)
    if not found:
        _discard(folder)
        if interrupted:
            raise KeyboardInterrupt
        raise BagError("no bag could be evaluated: " + " ".join(failed.values()))
    evaluations = {name: evaluation for name, (evaluation, _) in found.items()}
    rows = [
        _row(name, found[name][1], request.outputs) if name in found else {"bag": name, "error": failed[name]}
        for name in names
        if name in found or name in failed
    ]
    result = {**summary(evaluations, request.options, pipeline), "bags": rows, "output_dir": str(folder)}
    result["interrupted"] = interrupted
    write_json(result, folder / SUMMARY)
    if request.outputs.report:
        write_overview(folder / REPORT, result, rows, pipeline.config.label_space)
    show_bags(result, console)
    return result


@dataclass
class _ProcessResult:
    """Results of one process.

    Attributes:
        found: bag name → (evaluation, figures).
        failed: bag name → error message.
        interrupted: whether the process was interrupted before the end of its last bag.
    """

    found: dict[str, tuple[Evaluation, dict[str, Any]]]
    failed: dict[str, str]
    interrupted: bool = False


def _evaluate_all(request: _Request, folder: Path, bags: Mapping[str, Path], pipeline: Pipeline) -> _ProcessResult:
    """Evaluate bags one after the other; a bag that fails does not stop the others."""
    result = _ProcessResult({}, {})
    for name, bag in bags.items():
        own = folder / name
        try:
            seconds = check_bag(bag, pipeline, request.options)
            own.mkdir()
            evaluation, figures = _evaluate(request, own, bag, pipeline, seconds)
        except MlesamError as error:
            result.failed[name] = str(error)
            if isinstance(error, NoMasksError | LabelError):
                shutil.rmtree(own, ignore_errors=True)
            continue
        except KeyboardInterrupt:
            shutil.rmtree(own, ignore_errors=True)
            result.interrupted = True
            break
        write_json({**figures, "output_dir": str(own)}, own / METRICS)
        result.found[name] = evaluation, figures
        if evaluation.interrupted:
            result.interrupted = True
            break
    return result


def _evaluate(
    request: _Request, folder: Path, bag: Path, pipeline: Pipeline, seconds: float
) -> tuple[Evaluation, dict[str, Any]]:
    with bag_progress(bag, seconds) as progress:
        return evaluate_to_folder(folder, bag, pipeline, request.options, request.outputs, progress)


@contextmanager
def bag_progress(bag: Path, seconds: float) -> Iterator[Callable[[float], None]]:
    """Show the progress of a bag: yield the callback of `evaluate`, which ends it after SIGINT or SIGTERM.

    Args:
        bag: its path.
        seconds: seconds of it that are segmented.
    """
    total, shown = max(1, round(seconds)), -1
    with _deferred_interrupt() as interrupted, track(f"segmenting {bag.name}", total, "seconds") as show:

        def progress(done: float) -> None:
            nonlocal shown
            if (second := min(round(done), total)) != shown:
                shown = second
                show(second, total)
            if interrupted():
                raise KeyboardInterrupt

        yield progress


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Defer the first SIGINT or SIGTERM: yield a function that returns whether it was caught.

    The caller checks it after each mask. The second signal raises `KeyboardInterrupt` at once.
    """
    caught: list[int] = []

    def remember(number: int, _: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _row(name: str, figures: Mapping[str, Any], outputs: Outputs) -> Row:
    return {
        "bag": name, "path": figures["bag"], "report": f"{name}/{REPORT}" if outputs.report else None,
        "metrics": f"{name}/{METRICS}", "masks": figures["masks"], "miou": figures["miou"],
        "latency_ms": figures["latency_ms"], "consistency": figures["consistency"],
        "warnings": len(figures["warnings"]),
    }  # fmt: skip


def _discard(folder: Path) -> None:
    """Delete the folder of a failed run, and `latest` if it points to it."""
    shutil.rmtree(folder)
    latest = folder.parent / "latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink()
