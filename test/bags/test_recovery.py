# SPDX-License-Identifier: Apache-2.0
"""Truncated, overwritten and incomplete bags: readable messages are read, faults are reported."""

import os
import random
import shutil
import sqlite3
from itertools import pairwise

import apsw
import mcap_file
import pytest
import yaml
from backports import zstd
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.recovery import McapRecoveryReader, SqliteRecoveryReader, decompress_partial
from mlesam_ros.bags.serialization import typestore
from mlesam_ros.errors import BagError

HEADER = "std_msgs/msg/Header"
STORE = typestore()
DEFINITION = STORE.generate_msgdef(HEADER, ros_version=2)[0]


def raw(number: int) -> bytes:
    time = STORE.types["builtin_interfaces/msg/Time"](0, number)
    return bytes(STORE.serialize_cdr(STORE.types[HEADER](time, f"frame {number:03}"), HEADER))


def chunks(packing: str, sizes=(3, 3, 2)) -> tuple[bytes, list[int]]:
    """An mcap file in chunks, and where each chunk ends."""
    content, ends, number = mcap_file.header(), [], 0
    for size in sizes:
        records = b"" if number else mcap_file.schema(1, HEADER, DEFINITION) + mcap_file.channel(1, "/a")
        records += b"".join(mcap_file.message(1, n, raw(n)) for n in range(number, number + size))
        content += mcap_file.chunk(records, number, number + size - 1, packing)
        ends.append(len(content))
        number += size
    return content + mcap_file.footer(), ends


def record(path, numbers, storage=StoragePlugin.MCAP, mode=None, topic="/a"):
    """A bag as rosbags writes it."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        connection = writer.add_connection(topic, HEADER, typestore=STORE)
        for number in numbers:
            writer.write(connection, number, raw(number))
    return path


def compressed(path, numbers, storage, mode):
    writer = Writer(path, version=8, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/a", HEADER, typestore=STORE)
        for number in numbers:
            writer.write(connection, number, raw(number))
    return path


def read(path) -> tuple[list[int], list[str]]:
    """Numbers of the messages that are read, and the warnings; an error counts as a warning without messages."""
    try:
        with BagReader(path) as reader:
            return [entry.message.stamp.nanosec for entry in reader], reader.warnings
    except BagError as error:
        return [], [str(error)]


@pytest.mark.parametrize("packing", ["", "zstd", "lz4"])
def test_mcap_truncated_at_every_byte(tmp_path, packing):
    content, ends = chunks(packing)
    file = tmp_path / "bag.mcap"
    file.write_bytes(content)
    assert read(file) == ([*range(8)], [])
    # A message in the clear is whole as soon as its last byte is there; one in a chunk at the latest with its chunk.
    whole = [content.find(raw(n)) + len(raw(n)) if not packing else ends[(n >= 3) + (n >= 6)] for n in range(8)]
    for length in range(len(content)):
        file.write_bytes(content[:length])
        numbers, warnings = read(file)
        expected = sum(end <= length for end in whole)
        assert numbers == [*range(len(numbers))] and len(numbers) >= expected, f"cut after {length} bytes"
        assert packing or len(numbers) == expected, f"cut after {length} bytes"
        assert len(warnings) == 1 and str(file) in warnings[0] and len(warnings[0]) < 400


def small_sqlite(path, count) -> tuple[bytes, list[int]]:
    """A bag as Humble records it, in SQLite's smallest pages, and the length from which each message can be reached.

    SQLite itself tells which pages lie on the way to a row: those of its tree, of the topics and of the schema.
    """
    database = apsw.Connection(str(path))
    database.execute("pragma page_size = 512")
    database.execute(
        "create table topics(id integer primary key, name text not null, type text not null,"
        " serialization_format text not null, offered_qos_profiles text not null);"
        "create table messages(id integer primary key, topic_id integer not null, timestamp integer not null,"
        " data blob not null); create index timestamp_idx on messages (timestamp asc)"
    )
    database.execute("insert into topics values (1, '/a', ?, 'cdr', '')", (HEADER,))
    for number in range(count):
        database.execute("insert into messages values (?, 1, ?, ?)", (number + 1, number, raw(number)))
    pages = [*database.execute("select name, path, pageno, pagetype, ncell from dbstat order by path")]
    database.close()
    common = max(page for name, _, page, _, _ in pages if name in ("sqlite_schema", "topics"))
    tree = [entry for entry in pages if entry[0] == "messages"]
    needed = []
    for _, way, _, kind, rows in tree:
        reached = max(page for _, above, page, _, _ in tree if way.startswith(above))
        needed += [512 * max(common, reached)] * (rows if kind == "leaf" else 0)
    return path.read_bytes(), needed


def test_sqlite_truncated_at_every_byte(tmp_path):
    content, needed = small_sqlite(tmp_path / "bag.db3", 30)
    file = tmp_path / "cut.db3"
    file.write_bytes(content)
    assert read(file) == ([*range(30)], []) and len({*needed}) > 2
    for length in reversed(range(len(content))):
        os.truncate(file, length)
        numbers, warnings = read(file)
        assert numbers == [n for n in range(30) if needed[n] <= length], f"cut after {length} bytes"
        assert len(warnings) == 1 and str(file) in warnings[0] and len(warnings[0]) < 400


def test_warning_has_the_position_and_the_message_count(tmp_path):
    content, ends = chunks("zstd")
    file = tmp_path / "bag.mcap"
    file.write_bytes(content[: ends[1] + 20])
    assert read(file)[1] == [f"{file}: cut off after {ends[1] + 20} bytes; 6 messages can be read."]


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_large_bags_truncated_at_random(tmp_path, storage):
    path = record(tmp_path / "bag", range(3000), storage)
    (file,) = [entry for entry in path.iterdir() if entry.suffix != ".yaml"]
    data, generator = file.read_bytes(), random.Random(1)
    found = {}
    for length in sorted(generator.sample(range(1, len(data)), 12)):
        file.write_bytes(data[:length])
        numbers, warnings = read(path)
        assert warnings and numbers == [*range(len(numbers))]
        found[length] = len(numbers)
    # Nearly all of what was written before the cut: the messages lie in the file's first two thirds or more.
    assert max(found.values()) > 2000 and sorted(found.values()) == list(found.values())


def test_damaged_chunk_does_not_affect_others(tmp_path):
    content, ends = chunks("zstd", (200, 200, 200))
    bad = bytearray(content)
    bad[ends[0] + 100 : ends[1] - 100] = bytes(len(range(ends[0] + 100, ends[1] - 100)))
    (tmp_path / "bag.mcap").write_bytes(bad)
    numbers, warnings = read(tmp_path / "bag.mcap")
    assert {*range(200), *range(400, 600)} <= {*numbers} and numbers == sorted(numbers)
    assert f"a chunk at byte {ends[0]}" in warnings[0]


def test_damaged_length_does_not_affect_other_chunks(tmp_path):
    content, ends = chunks("lz4")
    bad = bytearray(content)
    bad[ends[0] + 1 : ends[0] + 9] = b"\xff" * 8
    (tmp_path / "bag.mcap").write_bytes(bad)
    numbers, warnings = read(tmp_path / "bag.mcap")
    assert {0, 1, 2, 6, 7} <= {*numbers} and f"damaged at byte {ends[0]}" in warnings[0]


def test_reading_continues_without_a_wrong_index(tmp_path):
    """rosbags reads by the index at the end; where it fails the rest is read without it, nothing twice or missing."""
    path = record(tmp_path / "bag", [n // 2 for n in range(60_000)])
    (file,) = path.glob("*.mcap")
    data = bytearray(file.read_bytes())
    at = data.find(raw(12_000)) - 30  # the length of this message's record
    data[at : at + 8] = b"\xff" * 8
    file.write_bytes(data)
    with BagReader(path) as reader:
        stamps = [entry[2] for entry in reader.raw_messages()]
        assert len(reader.warnings) == 1 and "can be read" in reader.warnings[0]
    gaps = [(a, b) for a, b in pairwise(stamps) if b - a not in (0, 1)]
    assert stamps[0] == 0 and stamps[-1] == 29_999 and len(gaps) == 1 and gaps[0][0] == 11_999
    whole = [n for n in range(30_000) if not gaps[0][0] < n < gaps[0][1]]
    assert stamps == sorted([*whole, *whole])


def test_undeserializable_message_is_skipped(tmp_path):
    file = tmp_path / "bag.mcap"
    records = mcap_file.schema(1, HEADER, DEFINITION) + mcap_file.channel(1, "/a")
    records += b"".join(mcap_file.message(1, n, raw(n)[: 9 if n == 1 else 99]) for n in range(3))
    file.write_bytes(mcap_file.header() + mcap_file.chunk(records, 0, 2, "") + mcap_file.footer())
    assert read(file) == ([0, 2], [f"{file}: skipped 1 damaged message on /a."])


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_random_bit_flips_never_crash(tmp_path, storage):
    path = record(tmp_path / "bag", range(4), storage)
    (file,) = [entry for entry in path.iterdir() if entry.suffix != ".yaml"]
    data, generator = file.read_bytes(), random.Random(2)
    for _ in range(60):
        bad = bytearray(data)
        for _ in range(generator.choice((1, 4))):
            bad[generator.randrange(len(bad))] ^= 1 << generator.randrange(8)
        file.write_bytes(bad)
        numbers, warnings = read(path)
        assert all(isinstance(n, int) for n in numbers) and (warnings or len(numbers) == 4)


def split(tmp_path):
    """A bag in three files."""
    path = record(tmp_path / "bag", (0, 3, 6))
    for name, numbers in (("two", (1, 4, 7)), ("three", (2, 5, 8))):
        record(tmp_path / name, numbers)
        shutil.move(tmp_path / name / f"{name}.mcap", path / f"{name}.mcap")
    metadata = path / "metadata.yaml"
    about = yaml.safe_load(metadata.read_text())
    about["rosbag2_bagfile_information"].update(
        relative_file_paths=["bag.mcap", "two.mcap", "three.mcap"], message_count=9
    )
    metadata.write_text(yaml.safe_dump(about))
    return path


def test_split_bag_with_a_damaged_file(tmp_path):
    path = split(tmp_path)
    assert read(path) == ([*range(9)], [])
    (path / "two.mcap").write_bytes(b"")
    numbers, warnings = read(path)
    assert numbers == [0, 2, 3, 5, 6, 8]
    assert "two.mcap is empty (0 bytes)" in warnings[0] and "declares 9 messages, the files contain 6" in warnings[1]
    (path / "two.mcap").write_bytes(b"no mcap at all" * 9)
    assert read(path)[0] == [0, 2, 3, 5, 6, 8] and "two.mcap cannot be read" in read(path)[1][0]
    (path / "two.mcap").unlink()
    numbers, warnings = read(path)
    assert numbers == [0, 2, 3, 5, 6, 8] and "lists two.mcap, which does not exist" in warnings[0]


def test_file_not_in_the_metadata_is_skipped(tmp_path):
    path = record(tmp_path / "bag", range(3))
    shutil.copy(path / "bag.mcap", path / "copy.mcap")
    assert read(path) == ([0, 1, 2], [f"{path}: metadata.yaml does not list copy.mcap; skipped."])


@pytest.mark.parametrize("mode", [CompressionMode.MESSAGE, CompressionMode.FILE])
@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_compressed_bags_without_metadata_are_read(tmp_path, storage, mode):
    path = compressed(tmp_path / "bag", range(5), storage, mode)
    assert read(path) == ([*range(5)], [])
    (path / "metadata.yaml").unlink()
    numbers, warnings = read(path)
    assert numbers == [*range(5)] and "no metadata.yaml" in warnings[0]


def test_truncated_compressed_file_is_read_in_part(tmp_path):
    content, _ = chunks("", (3000, 3000))
    packed = zstd.compress(content)
    (tmp_path / "bag.mcap.zstd").write_bytes(packed[: len(packed) * 3 // 4])
    numbers, warnings = read(tmp_path / "bag.mcap.zstd")
    assert numbers == [*range(len(numbers))] and len(numbers) > 2000
    assert "decompressed in part only, it is truncated" in warnings[0] and "can be read" in warnings[1]
    (tmp_path / "bag.mcap.zstd").write_bytes(packed[:9])
    assert "empty" in read(tmp_path / "bag.mcap.zstd")[1][0]


def test_messages_in_the_write_ahead_log_are_read(tmp_path):
    """A recorder that is killed leaves its last messages in SQLite's write-ahead log; the files are not touched."""
    path = record(tmp_path / "bag", range(3), StoragePlugin.SQLITE3)
    database = sqlite3.connect(path / "bag.db3")
    database.execute("pragma journal_mode = wal")
    database.execute("insert into messages (topic_id, timestamp, data) values (1, 3, ?)", (raw(3),))
    database.commit()
    killed = tmp_path / "killed"
    shutil.copytree(path, killed)
    database.close()
    (killed / "bag.db3-shm").unlink()
    before = {file.name: file.read_bytes() for file in killed.iterdir()}
    numbers, warnings = read(killed)
    assert numbers == [0, 1, 2, 3] and "bag.db3-wal" in " ".join(warnings)
    assert {file.name: file.read_bytes() for file in killed.iterdir()} == before


def test_rows_after_a_damaged_page_are_read(tmp_path):
    path = record(tmp_path / "bag", range(3000), StoragePlugin.SQLITE3)
    file = path / "bag.db3"
    data = bytearray(file.read_bytes())
    at = data.find(raw(1500)) // 4096 * 4096
    data[at : at + 4096] = bytes(4096)
    file.write_bytes(data)
    numbers, warnings = read(path)
    assert {*range(1300), *range(1700, 3000)} <= {*numbers} and numbers == sorted(numbers) and warnings


def test_rows_of_wrong_types_are_skipped(tmp_path):
    """SQLite keeps any type in any column, and text that is none."""
    record(tmp_path / "bag", range(6), StoragePlugin.SQLITE3)
    database = sqlite3.connect(tmp_path / "bag" / "bag.db3")
    for number, changed in ((1, "timestamp = x'00'"), (2, "topic_id = cast(x'e1' as text)"), (4, "data = 5")):
        database.execute(f"update messages set {changed} where id = {number}")
    database.commit()
    database.close()
    remains = SqliteRecoveryReader(tmp_path / "bag" / "bag.db3")
    assert remains.message_count == 3
    assert len(list(remains.messages(remains.connections))) == 3
    remains.close()


def test_messages_outside_of_chunks_are_in_order_of_time(tmp_path):
    file = tmp_path / "bag.mcap"
    order = (3, 1, 2, 0)
    records = mcap_file.schema(1, HEADER, DEFINITION) + mcap_file.channel(1, "/a")
    file.write_bytes(mcap_file.header() + records + b"".join(mcap_file.message(1, n, raw(n)) for n in order))
    assert read(file)[0] == [0, 1, 2, 3]
    remains = McapRecoveryReader(file)
    assert [entry.stamp for entry in remains.messages(remains.connections, 1, 3)] == [1, 2]
    remains.close()


def test_qos_is_read_and_foreign_encodings_are_rejected(tmp_path):
    profiles = "- history: 1\n  depth: 1\n  reliability: 1\n  durability: 1\n" + "".join(
        f"  {name}:\n    sec: 0\n    nsec: 0\n" for name in ("deadline", "lifespan", "liveliness_lease_duration")
    )
    profiles += "  liveliness: 1\n  avoid_ros_namespace_conventions: false\n"
    records = mcap_file.schema(1, HEADER, DEFINITION) + mcap_file.channel(1, "/a", profiles=profiles)
    records += mcap_file.channel(2, "/json", "json") + mcap_file.message(1, 0, raw(0))
    (tmp_path / "bag.mcap").write_bytes(mcap_file.header() + records)
    with BagReader(tmp_path / "bag.mcap") as reader:
        assert reader.latched == {"/a"} and reader.topics == {"/a": HEADER}
        assert "/json is encoded as 'json'" in reader.warnings[0]


def test_fault_of_an_unknown_compression_is_short():
    content, reason = decompress_partial("zs\0d" * 3000, b"packed", 100)
    assert content == b""
    assert reason.startswith("unknown compression 'zs") and len(reason) < 100
