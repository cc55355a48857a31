# SPDX-License-Identifier: Apache-2.0
"""Three cameras and a LiDAR live: one node for all of them beside a node for each, and one camera pulled out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bench.measurement import BenchmarkResult, measure, row, summary
from mlesam_ros.bench.node_benchmark import child, process_usage, wait_for
from mlesam_ros.bench.traffic import PERIOD, TURNS, views
from mlesam_ros.config import NodeParameters
from mlesam_ros.messages import IMAGE
from mlesam_ros.pipeline import load_pipeline
from mlesam_ros.ros.subscribers import RawSubscriber
from mlesam_ros.types import CAMERA, LIDAR, NANOSECONDS, FrameSet
from mlesam_ros.view import View

_SECONDS_PER_REPEAT, _SETTLE = 0.3, 3.0
_COMMON = ("-p", "modalities:=[camera, lidar]", "-p", "lidar.topic:=/lidar/points")
_TOGETHER = {"/mlesam/{}": (*_COMMON, "-p", f"cameras:=[{', '.join(TURNS)}]")}
_APART = {f"/{camera}/mlesam": (*_COMMON, "-r", f"__ns:=/{camera}") for camera in TURNS}


@dataclass
class Run:
    """Measurements of one listening interval.

    Attributes:
        masks: camera → seconds from stamp to mask.
        labels: camera → pixels of its newest mask from both sensors, with the sweep before the image.
        seconds: duration.
        cpu: CPU seconds of the nodes.
        memory: bytes of the nodes at the end, each shared page divided among the processes that map it.
    """

    masks: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    cpu: float = 0.0
    memory: int = 0


def run(repeats: int) -> list[BenchmarkResult]:
    """Measure both in turn, and the one node again without the front camera."""
    seconds = max(_SECONDS_PER_REPEAT * repeats, 1.0)
    one, three = (drive(nodes, seconds) for nodes in (_TOGETHER, _APART))
    rest = drive(_TOGETHER, seconds, "front")
    ours, theirs = figures(one), figures(three)
    beside = "a node per camera"
    rows = [
        BenchmarkResult(
            name, unit, value, value, 0.0, 1, alternative=beside, alternative_median=theirs[name, unit],
            ratio=value / theirs[name, unit] if unit == "Hz" else theirs[name, unit] / value,
        )
        for (name, unit), value in ours.items()
    ]  # fmt: skip
    rows += latencies("stamp to mask", one, three, beside)
    rows.append(other_labels(one, three))
    others = [camera for camera in TURNS if camera != "front"]
    pulled, beside = "of the left and right camera, front camera pulled out", "with the front camera"
    rates = [rate(found, others) for found in (rest, one)]
    rows.append(
        BenchmarkResult(
            f"masks {pulled}", "Hz", rates[0], rates[0], 0.0, 1, alternative=beside, alternative_median=rates[1],
            ratio=rates[0] / rates[1],
        )
    )  # fmt: skip
    kept = replace(one, masks={camera: one.masks[camera] for camera in others})
    return rows + latencies(f"stamp to mask {pulled}", rest, kept, beside) + batches(max(repeats // 2, 3))


def batches(repeats: int) -> list[BenchmarkResult]:
    """Time the pipeline on three sets, in one batch and one after the other."""
    pipeline, robot = load_pipeline(NodeParameters()), views()
    sets = []
    for camera in robot.cameras.values():
        frames = {**camera.frames, **robot.frames}
        frame_set = FrameSet(frames[LIDAR].stamp, CAMERA, frames, dict.fromkeys(frames, 0))
        sets.append((frame_set, replace(camera.rig, tree=robot.rig.tree)))

    def together() -> None:
        for _ in pipeline.segment_views([View(*given) for given in sets]):
            pass

    def in_turn() -> None:
        for frame_set, rig in sets:
            pipeline.segment(frame_set, rig)

    return measure("three sets in one batch, without transport", together, repeats, ("one after the other", in_turn))


def rate(found: Run, cameras: Sequence[str]) -> float:
    """Masks per second of each camera, on average."""
    return sum(len(found.masks[camera]) for camera in cameras) / len(cameras) / found.seconds


def figures(found: Run) -> dict[tuple[str, str], float]:
    """(Name, unit) → figure of a run."""
    masks = sum(map(len, found.masks.values()))
    return {
        (f"masks of each camera at {NANOSECONDS / PERIOD:.1f} Hz", "Hz"): rate(found, tuple(TURNS)),
        ("CPU per mask", "ms"): 1e3 * found.cpu / masks,
        ("CPU of the nodes", "cores"): found.cpu / found.seconds,
        ("memory of the nodes", "MiB"): found.memory / 2**20,
    }


def latencies(name: str, ours: Run, theirs: Run, beside: str) -> list[BenchmarkResult]:
    """Row of the time from stamp to mask, of all cameras."""
    times = [summary([second for masks in found.masks.values() for second in masks]) for found in (ours, theirs)]
    return [row(name, "ms", times[0], (beside, times[1]))]


def other_labels(ours: Run, theirs: Run) -> BenchmarkResult:
    """Row of the pixels whose label differs between the newest masks of both; the images are the same throughout."""
    different = 100 * float(np.mean([(ours.labels[camera] != theirs.labels[camera]).mean() for camera in TURNS]))
    return BenchmarkResult("pixels with another label than by a node per camera", "%", different, different, 0.0, 1)


def drive(nodes: dict[str, Sequence[str]], seconds: float, without: str = "") -> Run:
    """Start nodes and cameras, and measure the nodes with labels and status subscribed.

    Args:
        nodes: name, with a place for the camera if it has several → arguments.
        seconds: duration of the measurement.
        without: camera that is pulled out.
    """
    run, types = Run(), typestore()
    cameras = [camera for camera in TURNS if camera != without]
    prefixes = {(name.format(camera) if "{}" in name else name): camera for name in nodes for camera in TURNS
                if "{}" in name or camera in name}  # fmt: skip

    pending: dict[tuple[str, int, int], np.ndarray] = {}  # camera and stamp → labels, until their status comes

    def hear(topic: str, arrival: int, raw: bytes) -> None:
        prefix, _, output = topic.rpartition("/")
        kind = IMAGE if output == "labels" else "mlesam_ros/msg/Status"
        message: Any = types.deserialize_cdr(raw, kind)
        camera, stamp = prefixes[prefix], message.header.stamp
        if output == "labels":
            pending[camera, stamp.sec, stamp.nanosec] = np.asarray(message.data)
            return
        whole = next(entry for entry in message.latencies if entry.stage == "stamp_to_mask")
        run.masks[camera].append(whole.seconds)
        labels = pending.pop((camera, stamp.sec, stamp.nanosec), None)
        sweep = next(sensor for sensor in message.sensors if sensor.modality == LIDAR)
        if labels is not None and sweep.used and sweep.skew < 0:  # of the two sweeps around an image, the earlier
            run.labels[camera] = labels

    with ExitStack() as stack:
        found = [
            stack.enter_context(child("mlesam_ros.cli", "node", "--ros-args", "--log-level", "fatal", *arguments))
            for arguments in nodes.values()
        ]
        stack.enter_context(child("mlesam_ros.bench.traffic", "views", *([without] if without else [])))
        observer = stack.enter_context(RawSubscriber(hear))
        for prefix in prefixes:
            observer.subscribe(f"{prefix}/status", "mlesam_ros/msg/Status")
            observer.subscribe(f"{prefix}/labels", IMAGE)
        wait_for(observer, lambda: all(run.masks[camera] for camera in cameras), "mask of each camera")
        observer.spin_for(_SETTLE)
        run, start = Run(), time.monotonic()
        before = sum(process_usage(node.pid)[0] for node in found)
        observer.spin_for(seconds)
        run.seconds = time.monotonic() - start
        run.cpu = sum(process_usage(node.pid)[0] for node in found) - before
        run.memory = sum(_proportional_bytes(node.pid) for node in found)
    return run


def _proportional_bytes(pid: int) -> int:
    """Proportional set size of a process, see proc_pid_smaps(5)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
