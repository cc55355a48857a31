# SPDX-License-Identifier: Apache-2.0
"""`mlesam evaluate`: evaluate bags, or a checkpoint on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlesam_ros.cli import INTERRUPTED
from mlesam_ros.cli.common import (
    BaseWeightsOption,
    CalibrationOption,
    CheckpointOption,
    DeviceOption,
    DropOption,
    DurationOption,
    JsonOption,
    NodeOption,
    OutputOption,
    ParamOption,
    ParamsOption,
    StartOption,
    epilog,
    format_help,
    read_parameters,
    read_topics,
    write_json,
)
from mlesam_ros.types import GROUND_TRUTH, NODE

_BAG_FAILED = 1
"""Exit code."""
_EXAMPLES = epilog(
    "mlesam evaluate drive/",
    "mlesam evaluate drive/ --drop camera@10..16 --robustness --every 5",
    "mlesam evaluate drive/ --params rig.params.yaml -p lidar.offset:=0.05",
    "mlesam evaluate drive.mcap --topic camera:=/zed/left/image_raw --calibration rig.yaml",
    "mlesam evaluate drive/ --checkpoint my_experts.safetensors --labels labels/ --json -",
    "mlesam evaluate recordings/ --every 10 --clouds ply",
    "mlesam evaluate drive/ --labels labels/ --map foreign.yaml",
    "torchrun --nproc-per-node 4 -m mlesam_ros.cli evaluate recordings/",
    "mlesam evaluate DELIVER/ --dataset deliver --split test --checkpoint runs/deliver/experts.safetensors",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=format_help(evaluate), epilog=_EXAMPLES)(evaluate)


def evaluate(
    bags: Annotated[
        list[Path],
        typer.Argument(help="rosbag2 folders, .mcap or .db3 files, folders of them; or the folder of a data set."),
    ],
    params: ParamsOption = None,
    param: ParamOption = None,
    node: NodeOption = NODE,
    checkpoint: CheckpointOption = None,
    base_weights: BaseWeightsOption = None,
    device: DeviceOption = None,
    precision: Annotated[str | None, typer.Option(help="Short for -p precision:=fp32, bf16 or fp16.")] = None,
    threads: Annotated[int | None, typer.Option(help="Short for -p threads:=NUMBER.")] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SENSOR:=TOPIC",
            help="Short for -p SENSOR.topic:=TOPIC; truth:=TOPIC names the ground truth labels; repeatable.",
        ),
    ] = None,
    calibration: CalibrationOption = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of ground truth PNGs, named by their stamps.")] = None,
    label_map: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="Label map of ground truth in another label space.")
    ] = None,
    start: StartOption = 0.0,
    duration: DurationOption = None,
    every: Annotated[int, typer.Option(min=1, help="Segment only every n-th set.")] = 1,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Skip the sets that the live node would skip on this machine.")
    ] = False,
    drop: DropOption = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also segment every set with missing, incomplete and noisy sensors.")
    ] = False,
    output: OutputOption = Path("runs"),
    bag_out: Annotated[bool, typer.Option("--bag/--no-bag", help="Write the result bag.")] = True,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    clouds: Annotated[str, typer.Option(metavar="FORMAT", help="Save every labeled point cloud as ply or pcd.")] = "",
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Evaluate a data set in files instead of bags: its name, or a data file."),
    ] = None,
    split: Annotated[str, typer.Option(help="With --dataset: split, val, test or train.")] = "val",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="With --dataset: its option, such as weather=night; repeatable."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Segment bags as the live node would, and measure the quality of the masks.

    Needs no ROS. Writes a folder with the result bag, metrics.json and report.html, and points the link `latest` to it.
    Without ground truth it still reports class shares, consistency, confidence, skews, dropped messages and latency.
    Ctrl-C ends the evaluation early and keeps the results.

    --params and -p describe the sensors, as for the node. Topics that they do not set are found by name and type.

    Each of several bags gets its own folder, beside a summary of all. Under torchrun the bags are distributed over the
    processes. With --dataset the input is the folder of a data set in files, evaluated with every subset of the
    sensors.

    Ground truth outside the checkpoint's label space is an error. --map describes one in another label space, by the
    keys raw_space, map, palette and ignore.
    """
    parameters = read_parameters(
        params, param, node, topic, (GROUND_TRUTH,), checkpoint=checkpoint, base_weights=base_weights, device=device,
        precision=precision, threads=threads, calibration_file=calibration,
    )  # fmt: skip
    from mlesam_ros.label_map import RawLabels, read_raw_labels

    raw_labels = RawLabels() if label_map is None else read_raw_labels(label_map)
    if dataset is not None:
        from mlesam_ros.cli.evaluate_run import dataset_config, refuse_bags_only, run_dataset

        bags_only = {
            "threads": threads is not None, "calibration": calibration, "topic": topic, "labels": labels,
            "start": start, "duration": duration is not None, "every": every > 1, "real-time": real_time, "drop": drop,
            "clouds": clouds, "no-bag": not bag_out, "no-report": not report,
        }  # fmt: skip
        refuse_bags_only(bags_only, parameters, params)
        config = dataset_config(dataset, bags, split, option or (), robustness, parameters, raw_labels)
        result = run_dataset(config, parameters, output, quiet=json == "-")
    else:
        from mlesam_ros.bags.reader import parse_outage
        from mlesam_ros.cli.evaluate_run import run_bags
        from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions
        from mlesam_ros.evaluation.bag_outputs import Outputs

        options = EvaluationOptions(
            parameters=parameters, ground_truth=read_topics(topic, (GROUND_TRUTH,)).get(GROUND_TRUTH), labels=labels,
            raw_labels=raw_labels, start=start, duration=duration, every=every, real_time=real_time,
            robustness=robustness, outages=tuple(map(parse_outage, drop or ())),
        )  # fmt: skip
        result = run_bags(bags, options, Outputs(bag_out, report, clouds), output, quiet=json == "-")
    if result is not None and json is not None:
        write_json(result, json)
    if result is not None and result.get("interrupted"):
        raise typer.Exit(INTERRUPTED)
    if any("error" in row for row in (result or {}).get("bags", ())):
        raise typer.Exit(_BAG_FAILED)
