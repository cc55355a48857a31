# SPDX-License-Identifier: Apache-2.0
"""`mlesam evaluate`: one bag, several bags, several processes, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from analytic_scene import LIDAR_FRAME, without_place, write

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.simulation.export import write_simulated_bag
from mlesam_ros.simulation.world import World

QUICK = ("--no-bag", "--no-report", "--device", "cpu", "--precision", "fp32", "--threads", "1")


@pytest.fixture(scope="session")
def streets(tmp_path_factory):
    """Three streets, and one that is none."""
    folder = tmp_path_factory.mktemp("streets")
    for seed in range(3):
        write_simulated_bag(folder / f"street_{seed}", World(seed, "day", (64, 64)), range(2 + seed))
    (folder / "broken").mkdir()
    (folder / "broken" / "broken.mcap").write_bytes(b"no bag at all")
    return folder


@pytest.fixture(scope="session")
def long_street(tmp_path_factory):
    return write_simulated_bag(tmp_path_factory.mktemp("long") / "street", World(5, "day", (64, 64)), range(30))


@pytest.fixture
def evaluate(mlesam, tiny_checkpoint, tmp_path):
    def run(*arguments: object):
        weights = ("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base)
        return mlesam("evaluate", *arguments, *weights, "--output", tmp_path / "runs")

    return run


def test_one_bag_writes_one_folder(evaluate, streets, tmp_path):
    result = evaluate(streets / "street_1", "--clouds", "pcd", "--robustness")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "runs" / "latest"
    assert sorted(path.name for path in folder.iterdir()) == ["clouds", "metrics.json", "report.html", "result"]
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["masks"] == 3 and len(figures["subsets"]) == 15 and figures["emm"]["average"] is not None
    assert f"results are in {figures['output_dir']}" in result.stdout
    assert f"mIoU {figures['miou']:.1f} % over 3 masks" in result.stdout
    assert "segmenting street_1" in result.stderr


def test_file_names_that_are_not_utf8(tiny_checkpoint, streets, tmp_path):
    """Kind: names from outside that no text holds: all was computed, then lost at the report."""
    name = os.fsdecode(b"stra\xdfe")
    bag = shutil.copytree(streets / "street_0", tmp_path / name / name)
    weights = ("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base)
    out = tmp_path / name / "runs"
    arguments = ["evaluate", bag, *weights, "--output", out, "--json", tmp_path / name / "m.json", "--clouds", "ply"]
    command = [sys.executable, "-m", "mlesam_ros.cli", *arguments]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == 0 and b"results are in" in result.stdout, result.stderr
    written = {path.name for path in (out / "latest").iterdir()}
    assert written == {"clouds", "metrics.json", "report.html", "result"}
    assert json.loads((tmp_path / name / "m.json").read_text())["bag"] == str(bag)
    assert "stra" in (out / "latest" / "report.html").read_text(encoding="utf-8")
    with BagReader(out / "latest" / "result") as reader:
        assert reader.topics


def test_json_on_stdout_equals_the_file(evaluate, streets, tmp_path):
    result = evaluate(streets / "street_0", "--json", "-", *QUICK)
    assert json.loads(result.stdout) == json.loads((tmp_path / "runs" / "latest" / "metrics.json").read_text())
    assert "results are in" in result.stderr


def test_several_bags_with_a_broken_one(evaluate, streets, tmp_path):
    result = evaluate(streets, "--json", tmp_path / "all.json", "--no-bag")
    assert result.exit_code == 1, result.stderr
    whole = json.loads((tmp_path / "all.json").read_text())
    rows = {row["bag"]: row for row in whole["bags"]}
    assert "broken.mcap" in rows["broken"]["error"]
    folder = tmp_path / "runs" / "latest"
    counts = 0
    for seed in range(3):
        part = json.loads((folder / f"street_{seed}" / "metrics.json").read_text())
        assert (folder / rows[f"street_{seed}"]["report"]).exists()
        counts = counts + np.array(part["confusion"])
    assert np.array_equal(whole["confusion"], counts)
    assert whole["masks"] == 9 and whole["frames"] == 36
    assert json.loads((folder / "summary.json").read_text()) == whole
    assert "street_2/report.html" in (folder / "report.html").read_text()
    assert not (folder / "broken").exists()


def test_torchrun_distributes_bags_with_equal_results(evaluate, streets, tiny_checkpoint, tmp_path):
    good = [streets / f"street_{seed}" for seed in range(3)]
    assert evaluate(*good, "--json", tmp_path / "alone.json", *QUICK).exit_code == 0
    weights = ("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "mlesam_ros.cli", "evaluate", *good, *weights, *QUICK),
        *("--output", tmp_path / "shared", "--json", tmp_path / "shared.json"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    alone, shared = (json.loads((tmp_path / name).read_text()) for name in ("alone.json", "shared.json"))
    for key in ("confusion", "per_class", "miou", "counters", "masks", "class_shares", "router", "compared", "frames"):
        assert shared[key] == alone[key], key
    assert [row["bag"] for row in shared["bags"]] == [row["bag"] for row in alone["bags"]]
    assert done.stdout.count("results are in") == 1


def test_interrupt_keeps_finished_bags(evaluate, streets, tmp_path, monkeypatch):
    from mlesam_ros.cli import evaluate_run as run

    whole, calls = run.evaluate_to_folder, []

    def second_is_interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(run, "evaluate_to_folder", second_is_interrupted)
    good = [streets / f"street_{seed}" for seed in range(3)]
    result = evaluate(*good, "--json", tmp_path / "all.json", *QUICK)
    assert result.exit_code == 130, result.stderr
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["interrupted"] and [row["bag"] for row in found["bags"]] == ["street_0"]
    assert sorted(p.name for p in (tmp_path / "runs" / "latest").iterdir()) == ["street_0", "summary.json"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_interrupted_evaluation_keeps_its_results(long_street, tiny_checkpoint, tmp_path, number):
    command = [
        *(sys.executable, "-m", "mlesam_ros.cli", "evaluate", long_street, "--output", tmp_path, "--threads", "1"),
        *("--checkpoint", tiny_checkpoint.path, "--base-weights", tiny_checkpoint.base, "--robustness"),
    ]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "1 of 3 seconds" in line:
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    figures = json.loads((tmp_path / "latest" / "metrics.json").read_text())
    assert figures["interrupted"] and 5 <= figures["masks"] < 30
    assert (tmp_path / "latest" / "report.html").stat().st_size > 10_000
    with BagReader(tmp_path / "latest" / "result") as reader:
        assert reader.warnings == []
        assert sum(1 for _ in reader.messages(["/mlesam/labels"])) == figures["masks"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["BAG", "--topic", "camera=/image"], "camera:=/image"),
        (["BAG", "--topic", "camera:=/nowhere"], "/nowhere"),
        (["BAG", "--drop", "camera@5..1"], "camera@5..1"),
        (["BAG", "--drop", "radar"], "radar"),
        (["BAG", "--start", "99"], "start is 99 s"),
        (["BAG", "--clouds", "las"], "las"),
        (["BAG", "--labels", "nowhere"], "no label images"),
        (["BAG", "--calibration", "nowhere.yaml"], "nowhere.yaml"),
        (["BAG", "-p", "lidar.offset=0.05"], "Write NAME:=VALUE, such as lidar.offset:=0.05."),
        (["BAG", "-p", "lidar.offset:=soon"], "lidar.offset is 'soon'; accepted are numbers from"),
        (["BAG", "--params", "nowhere.yaml"], "nowhere.yaml"),
        (["BAG", "--precision", "fp8"], "precision is 'fp8'; accepted are auto, fp32, bf16, fp16."),
    ],
)
def test_bad_input_ends_in_one_sentence_without_files(evaluate, streets, tmp_path, arguments, said):
    result = evaluate(*(streets / "street_0" if a == "BAG" else a for a in arguments))
    assert result.exit_code == 2, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("mlesam: ") and said in last
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--topic", "camera:=/x"], "--topic is for bags, not for a data set. Omit --topic."),
        (["--no-bag"], "--no-bag is for bags, not for a data set. Omit --no-bag."),
        (["--no-report"], "--no-report is for bags, not for a data set. Omit --no-report."),
        (["--threads", "0"], "--threads is for bags, not for a data set. Omit --threads."),
        (["-p", "camera.topic:=/x"], "-p camera.topic is for bags, not for a data set. Omit -p"),
        (["--params", "FILE"], "rig.yaml sets camera.topic, which is for bags, not for a data set. Omit"),
        (["--params", "FILE", "-p", "lidar.offset:=0.1"], "-p lidar.offset is for bags"),
    ],
)
def test_bag_options_are_refused_with_dataset_as_typed(evaluate, tmp_path, arguments, said):
    """Kind: a refusal that names an option that was not typed."""
    file = tmp_path / "rig.yaml"
    file.write_text("/**: {ros__parameters: {camera: {topic: /x}, device: cpu}}\n")
    typed = [file if argument == "FILE" else argument for argument in arguments]
    result = evaluate(tmp_path, "--dataset", "deliver", *typed)
    assert result.exit_code == 2 and said in result.stderr.splitlines()[-1]


def test_error_if_no_bag_can_be_evaluated(evaluate, streets, tmp_path):
    (tmp_path / "bags" / "also").mkdir(parents=True)
    for name in ("broken.mcap", "also/broken.mcap"):
        (tmp_path / "bags" / name).write_bytes(b"no bag at all")
    result = evaluate(tmp_path / "bags" / "broken.mcap", tmp_path / "bags" / "also")
    assert result.exit_code == 2
    assert "no bag could be evaluated" in result.stderr
    assert not list((tmp_path / "runs").glob("*"))


def test_sweeps_without_a_mask_count_as_refused(evaluate, tmp_path):
    """The kind: `used 10` of sweeps whose place is not known."""
    result = evaluate(write(tmp_path / "bag", without_place(LIDAR_FRAME), 10), *QUICK)
    assert "lidar /lidar/points: received 10, used 0, refused 10" in result.stdout
    figures = json.loads((tmp_path / "runs" / "latest" / "metrics.json").read_text())
    lidar, camera = figures["sensors"]["lidar"], figures["sensors"]["camera"]
    assert [lidar[name] for name in ("received", "used", "refused", "unusable")] == [10, 0, 10, 10]
    assert [camera[name] for name in ("received", "used", "refused", "unusable")] == [10, 10, 0, 0]
    assert sum(lidar["refusals"].values()) == 10 and not camera["refusals"]
    assert figures["counters"]["used"] == 30 and figures["counters"]["refused"] == 10
