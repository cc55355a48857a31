"""`mlesam evaluate`: evaluate bags, or a checkpoint on a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mlesam_ros.cli.common import (
    NODE,
    TRUTH,
    JsonOption,
    NodeOption,
    ParamOption,
    ParamsOption,
    epilog,
    format_help,
    read_parameters,
    read_topics,
    write_json,
)

_INTERRUPTED = 130
_SOME_FAILED = 1
_EXAMPLES = epilog(
    "mlesam evaluate drive/",
    "mlesam evaluate drive/ --drop camera@10..16 --robustness --every 5",
    "mlesam evaluate drive/ --params rig.params.yaml -p lidar.offset:=0.05",
    "mlesam evaluate drive.mcap --topic camera:=/zed/left/image_raw --calibration rig.yaml",
    "mlesam evaluate drive/ --checkpoint my_experts.safetensors --labels labels/ --json -",
    "mlesam evaluate recordings/ --every 10 --clouds ply",
    "torchrun --nproc-per-node 4 -m mlesam_ros.cli evaluate recordings/",
    "mlesam evaluate DELIVER/ --dataset deliver --split test --checkpoint runs/deliver/experts.safetensors",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(evaluate), epilog=_EXAMPLES)(evaluate)


def evaluate(
    bags: Annotated[
        list[Path],
        typer.Argument(help="rosbag2 folders, .mcap or .db3 files, folders of such bags; or the folder of a data set."),
    ],
    params: ParamsOption = None,
    param: ParamOption = None,
    node: NodeOption = NODE,
    checkpoint: Annotated[Path | None, typer.Option(help="Short for -p checkpoint:=FILE.")] = None,
    base_weights: Annotated[Path | None, typer.Option(help="Short for -p base_weights:=FILE.")] = None,
    device: Annotated[str | None, typer.Option(help="Short for -p device:=cpu, cuda or cuda:1.")] = None,
    precision: Annotated[str | None, typer.Option(help="Short for -p precision:=fp32, bf16 or fp16.")] = None,
    threads: Annotated[int | None, typer.Option(help="Short for -p threads:=NUMBER.")] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SENSOR:=TOPIC", help="Short for -p SENSOR.topic:=TOPIC; truth:=TOPIC has true labels; repeatable."
        ),
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="Short for -p calibration_file:=FILE.")] = None,
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
    """Make the masks that the live node would make of a bag, and measure their quality.

    Needs no ROS. Writes a folder with the result bag, metrics.json and report.html, and points `latest` to it. Without
    true labels it still reports class shares, consistency, confidence, skews, drops and latency. Ctrl-C ends it early
    and keeps the results until then.

    The sensors are described as for the node: by --params and -p. Topics that these do not name are guessed.

    Each of several bags gets its own folder, beside a summary of them all. Under torchrun they are distributed over the
    processes. With --dataset the input is a published data set in its own folders, evaluated with every subset of the
    sensors.
    """
    parameters = read_parameters(
        params, param, node, topic, (TRUTH,), checkpoint=checkpoint, base_weights=base_weights, device=device,
        precision=precision, threads=threads, calibration_file=calibration,
    )  # fmt: skip
    if dataset is not None:
        from mlesam_ros.cli.evaluate_run import dataset_config, refuse_bags_only, run_dataset

        bags_only = {
            "threads": threads is not None, "calibration": calibration, "topic": topic, "labels": labels,
            "start": start, "duration": duration, "every": every > 1, "real-time": real_time, "drop": drop,
            "clouds": clouds,
        }  # fmt: skip
        refuse_bags_only(bags_only, parameters, params)
        config = dataset_config(dataset, bags, split, option or (), robustness, parameters)
        result = run_dataset(config, parameters, output, quiet=json == "-")
    else:
        from mlesam_ros.bags.reader import parse_outage
        from mlesam_ros.cli.evaluate_run import Outputs, bag_request, run

        options = {
            "ground_truth": read_topics(topic, (TRUTH,)).get(TRUTH), "labels": labels, "start": start,
            "duration": duration, "every": every, "real_time": real_time, "robustness": robustness,
            "outages": tuple(map(parse_outage, drop or ())),
        }  # fmt: skip
        result = run(bag_request(bags, parameters, options, Outputs(bag_out, report, clouds), output), json == "-")
    if result is not None and json is not None:
        write_json(result, json)
    _exit(result or {})


def _exit(result: Mapping[str, Any]) -> None:
    """Exit with an error code if the evaluation was interrupted or a bag failed."""
    if result.get("interrupted"):
        raise typer.Exit(_INTERRUPTED)
    if any("error" in row for row in result.get("bags", ())):
        raise typer.Exit(_SOME_FAILED)
