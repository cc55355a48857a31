# SPDX-License-Identifier: Apache-2.0
"""Files of other formats in place of a rosbag2: the error names the format and a remedy that works."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.errors import BagError
from mlesam_ros.evaluation.bag_outputs import find_bags

_CAPTURE = b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00" + bytes(16)
_CAPTURE_NG = b"\n\r\r\n\x1c\x00\x00\x00" + bytes(16)
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"


@pytest.fixture
def ros1_bag(tmp_path):
    path, store = tmp_path / "a drive.bag", get_typestore(Stores.ROS1_NOETIC)
    kind = store.types["std_msgs/msg/String"]
    with Writer(path) as writer:
        connection = writer.add_connection("/chatter", kind.__msgtype__, typestore=store)
        writer.write(connection, 10**9, store.serialize_ros1(kind(data="hello"), kind.__msgtype__))
    return path


def refusal(path):
    with pytest.raises(BagError) as refused, BagReader(path):
        pytest.fail("opened")
    return refused.value


def test_remedy_for_a_ros1_bag_works(ros1_bag):
    refused = refusal(ros1_bag)
    assert "is a ROS 1 bag" in refused.message
    command = shlex.split(refused.remedy.removeprefix("Convert it: ").removesuffix("."))
    assert command[0] == "rosbags-convert"
    subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], check=True)
    with BagReader(command[command.index("--dst") + 1]) as bag:
        assert bag.topics == {"/chatter": "std_msgs/msg/String"}


def test_folder_with_a_ros1_bag_is_rejected(ros1_bag):
    assert "a drive.bag is a ROS 1 bag" in refusal(ros1_bag.parent).message
    with pytest.raises(BagError, match=r"a drive\.bag is a ROS 1 bag.* rosbags-convert"):
        find_bags([ros1_bag.parent])


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("run.pcap", _CAPTURE, "a capture of network packets"),
        ("run.pcap", _CAPTURE[3::-1] + _CAPTURE[4:], "a capture of network packets"),
        ("run.pcapng", _CAPTURE_NG, "a capture of network packets"),
        ("bag.zip", b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        ("bag.tar.gz", b"\x1f\x8b\x08\x00" + bytes(30), "a gzip archive"),
        ("bag.mcap", _LFS, "a Git LFS pointer"),
        ("bag.db3", _LFS, "a Git LFS pointer"),
        ("bag.mcap", b"<!DOCTYPE html><html></html>", "an HTML page"),
        ("bag.mcap", b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        ("bag.mcap", b"#ROSBAG V2.0\n" + bytes(30), "a ROS 1 bag"),
        ("bag.bag", b"", "an empty file"),
    ],
)
def test_foreign_format_is_named_with_a_remedy(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    refused = refusal(tmp_path / name)
    assert f"{name} is {what}" in refused.message and refused.message.count(". ") == 0 and refused.remedy


@pytest.mark.parametrize("name", ["notes.txt", "image.bin"])
def test_unknown_format_is_rejected(tmp_path, name):
    (tmp_path / name).write_bytes(np.arange(100, dtype=np.uint8).tobytes())
    assert f"{name} is no bag" in str(refusal(tmp_path / name))
