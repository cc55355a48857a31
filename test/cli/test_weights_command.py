# SPDX-License-Identifier: Apache-2.0
"""`mlesam weights`: the list and the download; names in place of paths everywhere."""

import json
import re
import subprocess
import sys

import pytest
from weights_server import CONTENT, NAME, isolate, weights_server

from mlesam_ros.files import child_environment
from mlesam_ros.model.weights import PUBLISHED, SHIPPED
from mlesam_ros.resources import resource_path
from mlesam_ros.simulation.export import write_simulated_bag
from mlesam_ros.simulation.world import World

MISSING = "sam2.1_hiera_base_plus"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def server():
    with weights_server() as running:
        yield running


def test_list_has_every_name_and_its_state(mlesam, server):
    server.break_after = 100
    mlesam("weights", "get", NAME, "--base-url", server.url)
    lines = mlesam("weights").stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*PUBLISHED, *SHIPPED]
    assert lines[0] == f"{NAME}: 512.0 kB, partial" and lines[2] == f"{MISSING}: 323.6 MB, missing"
    found = json.loads(mlesam("weights", "--json", "-").stdout)
    assert found["weights"][0]["state"] == "partial" and found["weights"][-1]["state"] == "shipped"
    assert {row["license"] for row in found["weights"] if "url" in row} == {"Apache License 2.0, Meta Platforms, Inc."}


def test_broken_off_download_is_continued(mlesam, server, folder):
    """`pytest -rP` prints the log."""
    command = ["weights", "get", NAME, "--base-url", server.url]
    server.break_after = 300_000
    log = [mlesam(*command)]
    server.break_after = None
    log += [mlesam(*command), mlesam(*command), mlesam("weights", "get", NAME, "--json", "-")]
    for result in log:
        print(f"$ mlesam {' '.join(command)}\n{result.output}exit code {result.exit_code}")
    assert [result.exit_code for result in log] == [2, 0, 0, 0]
    assert "downloading sam2.1_hiera_tiny.pt: 1 of 1 MB" in log[1].stderr
    assert "512.0 kB, partial; Apache License 2.0, Meta Platforms, Inc. (https://github.com" in log[1].stderr
    assert f"SHA-256 {PUBLISHED[NAME].sha256} is right" in log[1].stderr and "SHA-256" not in log[0].stderr
    assert log[1].stdout == f"{folder / NAME}.pt\n" and (folder / f"{NAME}.pt").read_bytes() == CONTENT
    assert json.loads(log[3].stdout)["sha256"] == PUBLISHED[NAME].sha256
    assert [wanted for _, wanted in server.asked] == [None, "bytes=300000-"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sam2.1_hiera_tinny"], "accepted are sam2.1_hiera_tiny, .*; did you mean sam2.1_hiera_tiny\\?"),
        ([NAME], "dl.fbaipublicfiles.com cannot be reached: .* Connect to a network"),
        ([NAME, "--base-url", "file:///etc"], "--base-url is 'file:///etc'"),
    ],
)
def test_failed_download_is_one_sentence(mlesam, arguments, words):
    result = mlesam("weights", "get", *arguments)
    last = result.stderr.splitlines()[-1]
    assert result.exit_code == 2 and result.stdout == "" and re.match(f"mlesam: .*{words}", last)


def test_shipped_weights_need_no_download(mlesam):
    assert mlesam("weights", "get", "street").stdout == f"{resource_path('weights/street.safetensors')}\n"


def test_list_does_not_import_torch():
    code = (
        "import sys; from mlesam_ros.cli.app import app; app(['weights'], standalone_mode=False);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=child_environment()
    )
    assert done.stdout.splitlines()[-1] == "False"


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_simulated_bag(tmp_path_factory.mktemp("bag") / "street", World(0, "day", (64, 64)), range(1))


@pytest.mark.parametrize(
    "command",
    [
        ["info", MISSING],
        ["demo", "--base-weights", MISSING],
        ["demo", "--checkpoint", MISSING],
        ["evaluate", "{street}", "--base-weights", MISSING],
        ["evaluate", "{street}", "-p", f"base_weights:={MISSING}"],
        ["train", "{recipe}", "--backbone", MISSING, "--out", "{out}"],
    ],
)
def test_names_are_accepted_where_paths_are(mlesam, command, street, tmp_path):
    places = {
        "street": street, "recipe": resource_path("config/training/street_short.yaml"), "out": tmp_path / "out",
    }  # fmt: skip
    result = mlesam(*(argument.format(**places) for argument in command), *output(command, tmp_path))
    assert result.exit_code != 0 and f"Download them: mlesam weights get {MISSING}." in result.stderr, result.output


def output(command, folder):
    return ["--output", folder] if command[0] in ("demo", "evaluate") else []


def test_shipped_checkpoint_has_a_name(mlesam):
    assert "backbone: hiera_nano" in mlesam("info", "street").stdout
