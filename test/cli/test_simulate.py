# SPDX-License-Identifier: Apache-2.0
"""`mlesam simulate`: bags and data sets."""

import os

import pytest
from full_disk import run_on_a_small_disk

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.simulation.export import TOPICS
from mlesam_training.datasets.deliver import Deliver

SMALL = ("--image-size", "64", "64", "--steps", "2")


def test_bag_with_weather_fault_and_dropped_sensor(mlesam, tmp_path):
    bag = tmp_path / "street"
    result = mlesam("simulate", str(bag), "--weather", "fog", "--fault", "eventlowres", "--drop", "depth", *SMALL)
    assert result.exit_code == 0, result.stderr
    with BagReader(bag) as reader:
        assert reader.counts[TOPICS["event"]] == 2 and TOPICS["depth"] not in reader.topics
        for topic, _, _, message in reader.messages([TOPICS["event"], "/events/camera_info"]):
            assert (message.height, message.width) == (31, 31), topic


def test_data_set_of_several_streets_and_conditions(mlesam, tmp_path):
    conditions = ("--weather", "rain,night", "--fault", "none, overexposure", "--streets", "2", "--every", "30")
    result = mlesam("simulate", "--deliver", str(tmp_path / "D"), "--split", "val", *conditions, *SMALL)
    assert result.exit_code == 0, result.stderr
    found = Deliver(tmp_path / "D", "val")
    assert len(found) == 2 * 2 * 2 * 2 and len(Deliver(tmp_path / "D", "val", weather="rain", fault="none")) == 4
    assert {name.split("/")[-1] for name in found.names} == {"000000", "000030"}
    again = mlesam("simulate", "--deliver", str(tmp_path / "D"), "--split", "val", *SMALL, "--weather", "night")
    assert again.exit_code == 2 and "exists already" in again.stderr


@pytest.mark.parametrize("arguments", [("{}/street",), ("--deliver", "{}/D")], ids=["bag", "deliver"])
def test_full_disk_leaves_no_files(tmp_path, arguments):
    """Kind: a full disk; sizes are said in a unit that shows them."""
    (tmp_path / "disk").mkdir()
    arguments = [argument.format(tmp_path / "disk") for argument in arguments]
    more = ("--image-size", "128", "128", "--steps", "60")
    done = run_on_a_small_disk(tmp_path / "disk", 300, "-m", "mlesam_ros.cli", "simulate", *arguments, *more)
    assert done.returncode == 2 and done.stdout.splitlines()[-1] == "left:", done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert "No space left on device" in last and "Free disk space and repeat the command." in last
    assert " 0.0 " not in last


def test_folder_name_that_is_not_utf8(mlesam, tmp_path):
    """Kind: names from outside that no text holds; files are written there all the same."""
    folder = tmp_path / os.fsdecode(b"stra\xdfe")
    for arguments in (("street",), ("--deliver", "D")):
        result = mlesam("simulate", *arguments[:-1], folder / arguments[-1], *SMALL)
        assert result.exit_code == 0, result.stderr
    assert len(Deliver(folder / "D", "train")) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either a bag or a data set"),
        (["street", "--deliver", "D"], "either a bag or a data set"),
        (["street", "--fault", "dirt"], "motionblur"),
        (["street", "--drop", "radar"], "radar"),
        (["street", "--camera", "left"], "--camera is 'left'; accepted is NAME:=DEGREES"),
        (["street", "--camera", "left:=70", "--camera", "left:=80"], "each name once"),
        (["--deliver", "D", "--weather", "rain,snow"], "snow"),
        (["--deliver", "D", "--split", "half"], "half"),
        (["--deliver", "D", "--drop", "lidar"], "lidar dropped"),
        (["--deliver", "D", "--every", "0"], "every 0"),
    ],
)
def test_bad_input_ends_in_one_sentence(mlesam, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = mlesam("simulate", *arguments, *SMALL)
    assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
