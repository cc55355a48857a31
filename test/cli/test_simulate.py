"""`mlesam simulate`: what was asked for is what lies there afterwards."""

import cv2
import pytest

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.street import TOPICS
from mlesam_ros.training.datasets.deliver import Deliver

SMALL = ("--side", "64", "--moments", "2")


def test_a_bag_under_any_condition(mlesam, tmp_path):
    bag = tmp_path / "street"
    result = mlesam("simulate", str(bag), "--weather", "fog", "--fault", "eventlowres", "--drop", "depth", *SMALL)
    assert result.exit_code == 0, result.stderr
    with BagReader(bag) as reader:
        assert reader.counts[TOPICS["event"]] == 2 and TOPICS["depth"] not in reader.topics
        for topic, _, _, message in reader.messages([TOPICS["event"], "/events/camera_info"]):
            assert (message.height, message.width) == (31, 31), topic


def test_a_data_set_of_several_streets_and_conditions(mlesam, tmp_path):
    conditions = ("--weather", "rain,night", "--fault", "none, overexposure", "--streets", "2", "--every", "30")
    result = mlesam("simulate", "--deliver", str(tmp_path / "D"), "--split", "val", *conditions, *SMALL)
    assert result.exit_code == 0, result.stderr
    found = Deliver(tmp_path / "D", "val")
    assert len(found) == 2 * 2 * 2 * 2 and len(Deliver(tmp_path / "D", "val", weather="rain", fault="none")) == 4
    assert {name.split("/")[-1] for name in found.names} == {"000000", "000030"}
    again = mlesam("simulate", "--deliver", str(tmp_path / "D"), "--split", "val", *SMALL, "--weather", "night")
    assert again.exit_code == 2 and "exists already" in again.stderr


def test_the_contact_sheet_is_a_picture_of_everything(mlesam, tmp_path):
    path = tmp_path / "sheet.png"
    assert mlesam("simulate", "--contact-sheet", str(path), *SMALL).exit_code == 0
    sheet = cv2.imread(str(path))
    rows, columns = 6, 5
    height, width = sheet.shape[0] // rows, sheet.shape[1] // columns
    for tile in range(rows * columns):
        top, left = tile // columns * height, tile % columns * width
        assert sheet[top + 24 : top + height, left : left + width].std() > 10, f"tile {tile} is blank"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one thing"),
        (["street", "--contact-sheet", "a.png"], "one thing"),
        (["street", "--fault", "dirt"], "motionblur"),
        (["street", "--drop", "radar"], "radar"),
        (["--deliver", "D", "--weather", "rain,snow"], "snow"),
        (["--deliver", "D", "--split", "half"], "half"),
        (["--deliver", "D", "--drop", "lidar"], "lidar dropped"),
        (["--deliver", "D", "--every", "0"], "every 0"),
        (["--contact-sheet", "sheet.words"], "sheet.words"),
    ],
)
def test_bad_input_ends_in_one_sentence(mlesam, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = mlesam("simulate", *arguments, *SMALL)
    assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
