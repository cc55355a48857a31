"""The command as it is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlesam_ros.cli.help import epilog, prose
from mlesam_ros.cli.results import JsonOption, write_json
from mlesam_ros.errors import ConfigError

_INTERRUPTED = 130
_SOME_FAILED = 1
_EXAMPLES = epilog(
    "mlesam evaluate drive/",
    "mlesam evaluate drive/ --drop camera@10..16 --robustness --every 5",
    "mlesam evaluate drive.mcap --topic camera:=/zed/left/image_raw --calibration rig.yaml",
    "mlesam evaluate drive/ --checkpoint my_experts.safetensors --labels labels/ --json -",
    "mlesam evaluate recordings/ --every 10 --clouds ply",
    "torchrun --nproc-per-node 4 -m mlesam_ros.cli evaluate recordings/",
    "mlesam evaluate DELIVER/ --dataset deliver --split test --checkpoint runs/deliver/experts.safetensors",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=prose(evaluate), epilog=_EXAMPLES)(evaluate)


def evaluate(
    bags: Annotated[
        list[Path],
        typer.Argument(help="rosbag2 folders, .mcap or .db3 files, folders of such bags; or the folder of a data set."),
    ],
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
    rectified: Annotated[
        list[str] | None, typer.Option(metavar="MODALITY", help="Its pictures are rectified; repeatable.")
    ] = None,
    sync: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="As the node's parameters: patience=0.1, lidar.offset=0.05; repeatable."
        ),
    ] = None,
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
        bool, typer.Option("--robustness", help="Also segment every set with sensors missing, holed and noisy.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder in which the result's folder is made.")] = Path("runs"),
    bag_out: Annotated[bool, typer.Option("--bag/--no-bag", help="Write the result bag.")] = True,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    clouds: Annotated[str, typer.Option(metavar="FORM", help="Save every labelled cloud as ply or pcd.")] = "",
    dataset: Annotated[str | None, typer.Option(help="A published set, not bags: deliver, muses or mcubes.")] = None,
    split: Annotated[str, typer.Option(help="Of the data set: val, test, train.")] = "val",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of the data set, such as weather=night; repeatable."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Make the masks that the live node would make of a bag, and say how good they are.

    Needs no ROS. Leaves a folder with the result bag, metrics.json and report.html, and `latest` pointing to it.
    Without true labels it still reports class shares, consistency, confidence, skews, drops and latency. Ctrl-C ends it
    early and keeps what was done.

    Of several bags each gets a folder of its own, beside a summary of them all. Under torchrun they are shared out
    among the processes. With --dataset it is a published set in its own folders, with every subset of the sensors.
    """
    from mlesam_ros.bags.drops import parse_drop
    from mlesam_ros.cli.evaluate.dataset import exam, run_dataset
    from mlesam_ros.cli.evaluate.run import Request, run
    from mlesam_ros.evaluation.options import Options, parse_sync
    from mlesam_ros.evaluation.output import Outputs
    from mlesam_ros.pipeline import Pipeline
    from mlesam_ros.share import share

    experts = checkpoint or share("weights/street.safetensors")
    if dataset is not None:
        bags_only = {
            "topic": topic, "calibration": calibration, "rectified": rectified, "sync": sync, "labels": labels,
            "start": start, "duration": duration, "every": every > 1, "real-time": real_time, "drop": drop,
            "clouds": clouds, "threads": threads,
        }  # fmt: skip
        asked = exam(dataset, bags, split, option or (), bags_only,
                     robustness=robustness, device=device or "auto", precision=precision)  # fmt: skip
        figures = run_dataset(experts, base_weights, asked, output, quiet=json == "-")
        if figures is not None and json is not None:
            write_json(figures, json)
        return
    options = Options(
        topics=_chosen(topic or ()), calibration=calibration, labels=labels, start=start, duration=duration,
        every=every, real_time=real_time, drops=tuple(map(parse_drop, drop or ())), robustness=robustness,
        rectified=tuple(rectified or ()), sync=parse_sync(sync or ()),
    )  # fmt: skip

    def load(own_device: str | None) -> Pipeline:
        pipeline = Pipeline.from_checkpoint(experts, base_weights, device or own_device, precision, threads)
        pipeline.warm_up()  # as the node does, so that the first masks' latency is the others'
        return pipeline

    result = run(Request(tuple(bags), load, options, Outputs(bag_out, report, clouds), output), quiet=json == "-")
    if result is None:
        return
    if json is not None:
        write_json(result, json)
    if result["interrupted"]:
        raise typer.Exit(_INTERRUPTED)
    if any("error" in row for row in result.get("bags", ())):
        raise typer.Exit(_SOME_FAILED)


def _chosen(pairs: list[str] | tuple[str, ...]) -> dict[str, str]:
    chosen = {}
    for pair in pairs:
        what, separator, topic = pair.partition(":=")
        if not (what and separator and topic):
            raise ConfigError(
                f"topic {pair!r} cannot be read.", "Write a modality and a topic, such as camera:=/image."
            )
        chosen[what] = topic
    return chosen
