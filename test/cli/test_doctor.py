# SPDX-License-Identifier: Apache-2.0
"""Output of `mlesam doctor BAG`: verdicts, exit codes, JSON."""

import json

import pytest
from analytic_scene import on, write

from mlesam_ros.cli.doctor import print_report
from mlesam_ros.doctor.diagnosis import diagnose_bag


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """A recording whose sweeps arrive late."""
    return write(
        tmp_path_factory.mktemp("doctor") / "late",
        on("/lidar/points", lambda stamp, message: (stamp + 80_000_000, message)),
        20,
    )


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A recording without transforms."""
    without = lambda entry: [] if entry[0] == "/tf_static" else [entry]  # noqa: E731
    return write(tmp_path_factory.mktemp("doctor") / "faulty", without, 8)


def test_recommended_parameters_are_printed_last(mlesam, late):
    result = mlesam("doctor", late)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{late}, ") and "lidar /lidar/points: messages 20, Hz 10.0" in result.stdout
    assert "The node would make 20 sets of it" in result.stdout
    assert lines[-3:] == [
        "usable: masks are made; check the warnings",
        "Recommended node parameters:",
        "    lidar.max_wait: 0.09",
    ]
    assert (
        "reading: 0 of 2 seconds" in result.stderr
        and "checking images and point clouds: 12 of 12 samples" in result.stderr
    )


def test_exit_code_is_1_with_errors(mlesam, faulty, tmp_path):
    result = mlesam("doctor", faulty, "--json", tmp_path / "found.json")
    assert result.exit_code == 1 and "error lidar: no transform connects" in result.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["verdict"] == "faulty" and found["findings"][0]["severity"] == "error"
    assert set(found) == {"verdict", "findings", "name", "seconds", "sensors", "sets", "parameters"}


def test_json_is_alone_on_standard_output(mlesam, late):
    result = mlesam("doctor", late, "--json", "-")
    found = json.loads(result.stdout)
    assert found["verdict"] == "usable" and found["parameters"] == {"lidar.max_wait": 0.09}
    assert found["sensors"]["lidar"]["unmatched"] == 20 and found["sets"]["parts"]["lidar"] == 0


def test_unreadable_bag_exits_with_2(mlesam, tmp_path):
    (tmp_path / "bag.mcap").write_bytes(b"no bag")
    result = mlesam("doctor", tmp_path / "bag.mcap", "--json", "-")
    assert result.exit_code == 2 and result.stderr.startswith("mlesam: ") and result.stderr.count("\n") == 1
    found = json.loads(result.stdout)
    assert found["verdict"] == "unreadable" and "bag.mcap" in found["findings"][0]["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--topic", "camera"], "camera:=/image"),
        (["--topic", "radar:=/x"], "radar"),
        (["--topic", "truth:=/x"], "is for 'truth'; accepted are camera, depth, event, lidar."),
        (["--calibration", "no.yaml"], "no.yaml"),
    ],
)
def test_wrong_options_end_in_one_sentence(mlesam, late, arguments, said):
    result = mlesam("doctor", late, *arguments)
    assert result.exit_code == 2 and said in result.stderr.splitlines()[-1] and result.stdout == ""


def test_terminal_output_has_a_table(late):
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    print_report(diagnose_bag(late), Console(file=screen, force_terminal=True, width=170, highlight=False))
    text = screen.getvalue()
    assert "longest gap s" in text and "\x1b[" in text and "max_wait: 0.09" in text
