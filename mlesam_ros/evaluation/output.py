"""One bag's evaluation, with all that it leaves behind in a folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.errors import ConfigError
from mlesam_ros.evaluation.clouds import FORMS, CloudFiles
from mlesam_ros.evaluation.evaluate import Evaluation, evaluate, topics_of
from mlesam_ros.evaluation.made import MaskListener
from mlesam_ros.evaluation.metrics import metrics
from mlesam_ros.evaluation.options import Options
from mlesam_ros.evaluation.report.page import write_report
from mlesam_ros.evaluation.report.strip import SampleCollector
from mlesam_ros.evaluation.result_bag import ResultBag
from mlesam_ros.pipeline import Pipeline

RESULT_BAG, REPORT, METRICS, CLOUDS = "result", "report.html", "metrics.json", "clouds"


@dataclass(frozen=True)
class Outputs:
    """What is left behind besides `metrics.json`.

    Attributes:
        bag: the result bag.
        report: `report.html`.
        clouds: the form of the labeled clouds' files, `ply` or `pcd`; empty for none.
    """

    bag: bool = True
    report: bool = True
    clouds: str = ""

    def __post_init__(self) -> None:
        """Refuse another form of cloud.

        Raises:
            ConfigError: with what is accepted.
        """
        if self.clouds and self.clouds not in FORMS:
            raise ConfigError(f"clouds are asked for as {self.clouds!r}; accepted are {' and '.join(FORMS)}.")


def evaluate_to_folder(
    folder: Path,
    bag: Path,
    pipeline: Pipeline,
    options: Options,
    outputs: Outputs,
    progress: Callable[[float], None] | None = None,
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate a bag and leave its files, but for `metrics.json`, in a folder.

    Args:
        folder: exists and is empty.
        bag, pipeline, options, progress: as for `evaluate`; the errors too.
        outputs: which files.

    Returns:
        What came out, and the same as `metrics` writes it.

    Raises:
        BagError: the disk is full; what was written before is good.
    """
    config = pipeline.config
    strip = SampleCollector(config.label_space, config.statistics)
    listeners: list[MaskListener] = [strip] if outputs.report else []
    if outputs.clouds:
        listeners.append(CloudFiles(folder / CLOUDS, config.label_space, outputs.clouds))
    with ExitStack() as stack:
        if outputs.bag:
            with BagReader(bag) as reader:
                sensors = topics_of(reader, pipeline, options).sensors
            parameters = options.parameters
            configured = parameters.sensors(config.modalities)
            names = {m: parameters.resolve(parameters.sensor(m).topic) for m in configured}
            names |= {modality: source.topic for modality, source in sensors.items()}
            alpha = parameters.overlay_alpha
            listeners.append(stack.enter_context(ResultBag(folder / RESULT_BAG, config.label_space, names, alpha)))
        evaluation = evaluate(bag, pipeline, options, listeners, progress)
    figures = metrics(evaluation, options, pipeline)
    if outputs.report:
        write_report(folder / REPORT, figures, evaluation.scores.traces, strip.moments, config.label_space)
    return evaluation, figures
