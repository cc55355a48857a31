"""`mlesam evaluate`: a bag in, evidence out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlesam_ros.cli.folder import new_folder
from mlesam_ros.cli.help import epilog, prose
from mlesam_ros.cli.progress import track
from mlesam_ros.cli.results import JsonOption, write_json
from mlesam_ros.errors import ConfigError

if TYPE_CHECKING:
    from mlesam_ros.evaluation.evaluate import Options
    from mlesam_ros.pipeline import Pipeline

_EXAMPLES = epilog(
    "mlesam evaluate drive/",
    "mlesam evaluate drive/ --drop camera@10..16 --robustness --every 5",
    "mlesam evaluate drive.mcap --topic camera:=/zed/left/image_raw --calibration rig.yaml",
    "mlesam evaluate drive/ --checkpoint my_experts.safetensors --labels labels/ --json -",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=prose(evaluate), epilog=_EXAMPLES)(evaluate)


def evaluate(
    bag: Annotated[Path, typer.Argument(help="A rosbag2 folder, or an .mcap or .db3 file.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Experts to use instead of the shipped ones.")] = None,
    base_weights: Annotated[Path | None, typer.Option(help="The backbone that the experts were trained on.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; the first GPU by default.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; half of the cores by default.")] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT:=TOPIC", help="Read a modality, or truth, from this topic; repeatable."),
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="Rig file for what the bag does not say.")] = None,
    rectified: Annotated[list[str] | None, typer.Option(help="A modality whose pictures are rectified.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of true labels, PNGs called by their stamps.")] = None,
    start: Annotated[float, typer.Option(help="Seconds to skip at the beginning.")] = 0.0,
    duration: Annotated[float | None, typer.Option(help="Seconds to evaluate.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Segment only every n-th set.")] = 1,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Skip the sets that this machine would skip live.")
    ] = False,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT@FROM..TO", help="Silence a modality or topic, seconds from the start; repeatable."),
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Segment every set with each subset of its sensors as well.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder in which the result's folder is made.")] = Path("runs"),
    bag_out: Annotated[bool, typer.Option("--bag/--no-bag", help="Write the result bag.")] = True,
    json: JsonOption = None,
) -> None:
    """Make the masks that the live node would make of a bag, and say how good they are.

    Needs no ROS. Leaves a folder with the result bag, metrics.json and report.html. Without true labels it still
    reports class shares, consistency, confidence, skews, drops and latency.
    """
    from mlesam_ros.bags.drops import parse_drop
    from mlesam_ros.evaluation.evaluate import Options
    from mlesam_ros.pipeline import Pipeline
    from mlesam_ros.share import share

    options = Options(
        topics=_chosen(topic or ()), calibration=calibration, labels=labels, start=start, duration=duration,
        every=every, real_time=real_time, drops=tuple(map(parse_drop, drop or ())), robustness=robustness,
        rectified=tuple(rectified or ()),
    )  # fmt: skip
    experts = checkpoint or share("weights/street.safetensors")
    pipeline = Pipeline.from_checkpoint(experts, base_weights, device, precision, threads)
    result = _evaluate(bag, pipeline, options, output, bag_out)
    if json is not None:
        write_json(result, json)


def _evaluate(bag: Path, pipeline: Pipeline, options: Options, output: Path, bag_out: bool) -> dict[str, Any]:
    from mlesam_ros.bags.reader import BagReader
    from mlesam_ros.evaluation.evaluate import Listener, evaluate
    from mlesam_ros.evaluation.metrics import metrics
    from mlesam_ros.evaluation.result_bag import ResultBag
    from mlesam_ros.evaluation.topics import find_topics

    with BagReader(bag) as reader:
        topics = find_topics(reader.topics, options.topics, pipeline.config.modalities)
        seconds = options.duration or (reader.end - reader.start) / 1e9 - options.start
    folder = new_folder(output, "evaluate")
    with ExitStack() as stack:
        listeners: list[Listener] = []
        if bag_out:
            names = {m: source.topic for m, source in topics.sensors.items()}
            listeners.append(stack.enter_context(ResultBag(folder / "result", pipeline.config.label_space, names)))
        show = stack.enter_context(track("segmenting", round(seconds), "seconds"))
        evaluation = evaluate(bag, pipeline, options, listeners, lambda done: show(round(done), round(seconds)))
    result = {**metrics(evaluation, options, pipeline), "output_dir": str(folder)}
    write_json(result, folder / "metrics.json")
    return result


def _chosen(pairs: list[str] | tuple[str, ...]) -> dict[str, str]:
    chosen = {}
    for pair in pairs:
        what, separator, topic = pair.partition(":=")
        if not (what and separator and topic):
            raise ConfigError(f"topic {pair!r} cannot be read; write a modality and a topic, such as camera:=/image.")
        chosen[what] = topic
    return chosen
