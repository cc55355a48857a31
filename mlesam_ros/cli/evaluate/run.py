"""One bag or many, in one process or many, into one folder."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mlesam_ros.cli.evaluate.show import show_bag, show_bags
from mlesam_ros.cli.folder import new_run_dir
from mlesam_ros.cli.results import write_json
from mlesam_ros.errors import BagError, MlesamError
from mlesam_ros.evaluation.evaluate import Evaluation, NoMasksError, check_bag
from mlesam_ros.evaluation.many import find_bags, unique_names
from mlesam_ros.evaluation.metrics import summary
from mlesam_ros.evaluation.options import Options
from mlesam_ros.evaluation.output import METRICS, REPORT, Outputs, evaluate_to_folder
from mlesam_ros.evaluation.report.page import write_overview
from mlesam_ros.evaluation.team import ProcessGroup
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.progress import busy, track

SUMMARY = "summary.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        paths: bags, and folders of bags.
        load: this process's GPU, or None → the pipeline.
        options, outputs: of every bag.
        output: folder in which the result's folder is made.
    """

    paths: tuple[Path, ...]
    load: Callable[[str | None], Pipeline]
    options: Options
    outputs: Outputs
    output: Path


def run(request: Request, quiet: bool) -> dict[str, Any] | None:
    """Do it, and tell people.

    Args:
        request: what to do.
        quiet: say nothing on standard output.

    Returns:
        the result with the keys that `docs/results.md` documents; None in all processes but the first.

    Raises:
        MlesamError: bad input, or not one bag could be evaluated.
    """
    names = unique_names(find_bags(request.paths))
    console = Console(stderr=quiet)
    if len(names) == 1:
        return _run_one(request, next(iter(names.values())), console)
    with ProcessGroup() as team:
        return _run_many(request, names, team, console)


def _run_one(request: Request, bag: Path, console: Console) -> dict[str, Any]:
    with busy("loading the model"):
        pipeline = request.load(None)
    seconds = check_bag(bag, pipeline, request.options)
    folder = new_run_dir(request.output, "evaluate")
    try:
        _, figures = _evaluate(request, folder, bag, pipeline, seconds)
    except (NoMasksError, KeyboardInterrupt):
        _discard(folder)
        raise
    figures["output_dir"] = str(folder)
    write_json(figures, folder / METRICS)
    show_bag(figures, console)
    return figures


def _run_many(
    request: Request, names: Mapping[str, Path], team: ProcessGroup, console: Console
) -> dict[str, Any] | None:
    with busy("loading the model"):
        pipeline = request.load(team.device)
    folder = Path(team.told(str(new_run_dir(request.output, "evaluate")) if team.rank == 0 else None))
    mine = dict(list(names.items())[team.rank :: team.size])
    shared = team.all_gather(_evaluate_all(request, folder, mine, pipeline))
    if team.rank:
        return None
    found = {name: part.found[name] for name in names for part in shared if name in part.found}
    failed = {name: part.failed[name] for name in names for part in shared if name in part.failed}
    interrupted = any(part.interrupted for part in shared)
    if not found:
        _discard(folder)
        if interrupted:
            raise KeyboardInterrupt
        raise BagError("not one bag could be evaluated: " + " ".join(failed.values()))
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
class _Share:
    """What one process did.

    Attributes:
        found: bag's name → what came out, and its figures.
        failed: bag's name → why.
        interrupted: not all of its bags were tried to their end.
    """

    found: dict[str, tuple[Evaluation, dict[str, Any]]]
    failed: dict[str, str]
    interrupted: bool = False


def _evaluate_all(request: Request, folder: Path, bags: Mapping[str, Path], pipeline: Pipeline) -> _Share:
    """One after the other; a bag that cannot be used does not keep the others from being."""
    share = _Share({}, {})
    for name, bag in bags.items():
        own = folder / name
        try:
            seconds = check_bag(bag, pipeline, request.options)
            own.mkdir()
            evaluation, figures = _evaluate(request, own, bag, pipeline, seconds)
        except MlesamError as error:
            share.failed[name] = str(error)
            if isinstance(error, NoMasksError):
                shutil.rmtree(own)
            continue
        except KeyboardInterrupt:
            shutil.rmtree(own, ignore_errors=True)
            share.interrupted = True
            break
        write_json({**figures, "output_dir": str(own)}, own / METRICS)
        share.found[name] = evaluation, figures
        if evaluation.interrupted:
            share.interrupted = True
            break
    return share


def _evaluate(
    request: Request, folder: Path, bag: Path, pipeline: Pipeline, seconds: float
) -> tuple[Evaluation, dict[str, Any]]:
    total = max(1, round(seconds))
    with _polite_end() as ended, track(f"segmenting {bag.name}", total, "seconds") as show:
        shown = -1

        def progress(done: float) -> None:
            nonlocal shown
            if (second := min(round(done), total)) != shown:
                shown = second
                show(second, total)
            if ended():
                raise KeyboardInterrupt

        return evaluate_to_folder(folder, bag, pipeline, request.options, request.outputs, progress)


@contextmanager
def _polite_end() -> Iterator[Callable[[], bool]]:
    """The first SIGINT or SIGTERM is waited with until a mask is written whole; the second one is not."""
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
    """Nothing came of it: leave nothing behind."""
    shutil.rmtree(folder)
    latest = folder.parent / "latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink()
