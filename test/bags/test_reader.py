# SPDX-License-Identifier: Apache-2.0
"""Round trips of bags, damaged bags, and files that are no bags."""

import sqlite3

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin, Writer

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bags.writer import BagWriter, build
from mlesam_ros.errors import MAX_TEXT_LENGTH, BagError
from mlesam_ros.messages import FrameReader, stamp_ns
from mlesam_ros.types import EVENT

HEADER, IMAGE = "std_msgs/msg/Header", "sensor_msgs/msg/Image"


def write(path, stamps=(1, 2, 3), topic="/a", latched=False):
    with BagWriter(path) as writer:
        for stamp in stamps:
            writer.add(topic, HEADER, stamp, {"frame_id": str(stamp)}, latched=latched)
    return path


def write_sqlite(path, stamps=(1, 2, 3)):
    store = typestore()
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/a", HEADER, typestore=store)
        for stamp in stamps:
            message = store.types[HEADER](store.types["builtin_interfaces/msg/Time"](0, stamp), str(stamp))
            writer.write(connection, stamp, store.serialize_cdr(message, HEADER))
    return path


def edit(path, **changes):
    metadata = path / "metadata.yaml"
    about = yaml.safe_load(metadata.read_text())
    about["rosbag2_bagfile_information"].update(changes)
    metadata.write_text(yaml.safe_dump(about))


def frames(path):
    with BagReader(path) as reader:
        return [entry.message.frame_id for entry in reader]


@settings(max_examples=20, deadline=None)
@given(stamps=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2**62)), min_size=1, max_size=30))
def test_messages_are_read_in_order_of_time(tmp_path_factory, stamps):
    path = tmp_path_factory.mktemp("bag") / "bag"
    with BagWriter(path) as writer:
        for topic, stamp in stamps:
            writer.add(f"/{topic}", HEADER, stamp, {"frame_id": f"{topic}{stamp}"})
    with BagReader(path) as reader:
        entries = list(reader)
        assert [entry.stamp for entry in entries] == sorted(stamp for _, stamp in stamps)
        assert sorted(entry.message.frame_id for entry in entries) == sorted(f"{t}{s}" for t, s in stamps)
        assert (reader.start, reader.end) == (entries[0].stamp, entries[-1].stamp)
        assert sum(reader.counts.values()) == len(stamps) and not reader.warnings


def test_selection_by_topic_and_time(tmp_path):
    with BagWriter(tmp_path / "bag", {"note": "made for a test"}) as writer:
        for stamp in range(10):
            writer.add("/even" if stamp % 2 == 0 else "/odd", HEADER, stamp, {})
    with BagReader(tmp_path / "bag") as reader:
        assert [entry.stamp for entry in reader.messages(["/odd"], start=2, stop=8)] == [3, 5, 7]
        assert [entry[2] for entry in reader.raw_messages(["/even"])] == [0, 2, 4, 6, 8]
        with pytest.raises(BagError, match=r"no topic /none; it has /even, /odd"):
            list(reader.messages(["/none"]))
    assert "made for a test" in (tmp_path / "bag/metadata.yaml").read_text()


def test_event_arrays_are_read_as_bytes(tmp_path):
    """Deserialized they would be an object per event; so nothing between the bag and the frame deserializes them."""
    arrays = "dvs_msgs/msg/EventArray"
    events = [build(typestore(), "dvs_msgs/msg/Event", {"x": n, "y": 2, "polarity": True}) for n in range(3)]
    with BagWriter(tmp_path / "bag") as writer:
        header = {"stamp": {"sec": 7, "nanosec": 9}, "frame_id": "dvs"}
        writer.add("/dvs", arrays, 5, {"header": header, "height": 48, "width": 64, "events": events})
    with BagReader(tmp_path / "bag") as reader, BagWriter(tmp_path / "copy") as writer:
        [entry] = reader
        writer.add_message(*entry)
    assert isinstance(entry.message, bytes)
    assert stamp_ns(entry.message.header) == 7_000_000_009
    assert FrameReader(EVENT, arrays).read(entry.message).payload.x.tolist() == [0, 1, 2]
    with BagReader(tmp_path / "copy") as reader:
        assert list(reader) == [entry]


def test_latched_topics_are_detected(tmp_path):
    with BagReader(write(tmp_path / "latched", latched=True)) as reader:
        assert reader.latched == {"/a"}
    with BagReader(write(tmp_path / "plain")) as reader:
        assert reader.latched == set()


def test_existing_bag_is_not_overwritten(tmp_path):
    write(tmp_path / "bag")
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path / "bag")
    assert frames(tmp_path / "bag") == ["1", "2", "3"]


def test_second_type_on_a_topic_is_rejected_and_the_bag_stays_readable(tmp_path):
    with pytest.raises(BagError, match=r"/a has the type std_msgs/msg/Header"), BagWriter(tmp_path / "bag") as writer:
        writer.add("/a", HEADER, 1, {"frame_id": "kept"})
        writer.add("/a", IMAGE, 2, {})
    assert frames(tmp_path / "bag") == ["kept"]


def test_error_names_an_unwritable_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="file"):
        BagWriter(tmp_path / "file" / "bag")


@pytest.mark.parametrize("make", [write, write_sqlite])
def test_files_without_metadata_are_read(tmp_path, make):
    folder = make(tmp_path / "bag")
    (file,) = [path for path in folder.iterdir() if path.suffix in (".mcap", ".db3")]
    assert frames(file) == ["1", "2", "3"]


@pytest.mark.parametrize("make", [write, write_sqlite])
@pytest.mark.parametrize(
    "changes", [{"storage_identifier": ""}, {"relative_file_paths": []}, {"relative_file_paths": ["gone"]}]
)
def test_invalid_metadata_is_a_warning(tmp_path, make, changes):
    path = make(tmp_path / "bag")
    edit(path, **changes)
    with BagReader(path) as reader:
        assert [entry.message.frame_id for entry in reader] == ["1", "2", "3"]
        assert len(reader.warnings) == 1 and "by extension" in reader.warnings[0]


def test_missing_or_damaged_metadata_is_ignored(tmp_path):
    path = write(tmp_path / "bag")
    (path / "metadata.yaml").write_bytes(b"\xff{{{")
    assert frames(path) == ["1", "2", "3"]
    (path / "metadata.yaml").unlink()
    assert frames(path) == ["1", "2", "3"]


def test_wrong_message_count_is_a_warning(tmp_path):
    path = write(tmp_path / "bag")
    edit(path, message_count=176)
    with BagReader(path) as reader:
        assert len(list(reader)) == 3
        assert "176" in reader.warnings[0] and "3" in reader.warnings[0]


def test_several_files_are_merged_by_time(tmp_path):
    first, second = write(tmp_path / "one", (1, 4, 5)), write(tmp_path / "two", (2, 3, 6), topic="/b")
    (second / "two.mcap").rename(first / "two.mcap")
    edit(first, storage_identifier="")
    assert frames(first) == ["1", "2", "3", "4", "5", "6"]


def test_topic_of_unknown_type_is_skipped_with_a_warning(tmp_path):
    path = write_sqlite(tmp_path / "bag")
    file = path / "bag.db3"
    with sqlite3.connect(file) as database:
        database.execute("update topics set type = 'no_msgs/msg/Such'")
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        if "message_definitions" in tables:
            database.execute("delete from message_definitions")
    (path / "metadata.yaml").unlink()
    with BagReader(path) as reader:
        assert list(reader) == []
        assert any("no_msgs/msg/Such" in warning for warning in reader.warnings)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("none", None, "does not exist"),
        ("folder", {}, "no metadata.yaml"),
        ("folder", {"a.mcap": b""}, "0 bytes"),
        ("folder", {"a.mcap": b"garbage" * 100}, "cannot be read"),
        ("folder", {"a.db3": b"garbage" * 100}, "cannot be read"),
        ("notes.txt", b"hello", "no bag"),
        ("empty.mcap", b"", "0 bytes"),
    ],
)
def test_error_of_a_non_bag_is_one_line(tmp_path, name, content, text):
    path = tmp_path / name
    if isinstance(content, dict):
        path.mkdir()
        for file, data in content.items():
            (path / file).write_bytes(data)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BagError, match=text) as error:
        BagReader(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["..", "", "/dev/zero", "metadata.yaml", "."])
def test_metadata_entries_that_are_no_storage_files_are_not_opened(tmp_path, name):
    path = write(tmp_path / "bag")
    edit(path, relative_file_paths=[name])
    with BagReader(path) as reader:
        assert [file.name for file in reader.files] == ["bag.mcap"] and len(list(reader)) == 3
        assert "which is no .mcap or .db3 file" in reader.warnings[0]


@pytest.mark.parametrize("prefix", ["../", "../other/", "{other}/", "./x/../../other/"])
def test_metadata_entries_outside_the_folder_are_not_read(tmp_path, prefix):
    write(tmp_path / "other", stamps=(7, 8, 9))
    path = write(tmp_path / "bag")
    edit(path, relative_file_paths=[prefix.format(other=tmp_path / "other") + "other.mcap"])
    assert frames(path) == ["1", "2", "3"]


def test_warning_is_one_line_of_limited_length(tmp_path):
    path = write(tmp_path / "bag")
    edit(path, storage_identifier="x\n" * 5000)
    with BagReader(path) as reader:
        (warning,) = reader.warnings
    assert "\n" not in warning and len(warning) <= MAX_TEXT_LENGTH
