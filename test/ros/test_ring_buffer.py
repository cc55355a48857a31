# SPDX-License-Identifier: Apache-2.0
"""The ring buffer is bounded; its snapshot contains CameraInfo and static transforms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bags.writer import build
from mlesam_ros.errors import BagError
from mlesam_ros.ros.snapshot import BufferedMessage, RingBuffer, write_snapshot
from mlesam_ros.types import NANOSECONDS

SECOND = NANOSECONDS
STRING = "std_msgs/msg/String"


def string_message(topic: str, stamp: int, text: str = "", latched: bool = False) -> BufferedMessage:
    store = typestore()
    return BufferedMessage(
        topic, STRING, stamp, bytes(store.serialize_cdr(build(store, STRING, {"data": text}), STRING)), latched
    )


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 40)), min_size=1, max_size=60), st.integers(1, 90))
def test_buffer_is_bounded(messages, most):
    ring = RingBuffer(2.0, most)
    now = 0
    for gap, size in messages:
        now += gap * SECOND // 10
        ring.add(BufferedMessage("/a", STRING, now, bytes(size)))
        kept = ring.contents()
        assert sum(len(m.raw) for m in kept) == ring._bytes <= most
        assert all(now - m.stamp <= 2 * SECOND for m in kept)
    newest = messages[-1][1]
    assert bool(kept) == (newest <= most), "the newest is there unless it alone is too much"


def test_camera_info_and_static_transforms_outlive_the_window(tmp_path):
    ring = RingBuffer(1.0, 10_000, ["/info"])
    ring.add(string_message("/info", SECOND, "old lens"))
    ring.add(string_message("/tf_static", SECOND, "mounting", latched=True))
    ring.add(string_message("/tf_static", 2 * SECOND, "mounting", latched=True))
    for tenth in range(20, 60):
        ring.add(string_message("/image", tenth * SECOND // 10, str(tenth)))
    count = write_snapshot(ring, tmp_path / "new" / "bag")
    with BagReader(tmp_path / "new" / "bag") as bag:
        found = [(m.topic, m.stamp, m.message.data) for m in bag.messages()]
    assert count == len(found) == 13
    assert ("/info", 4_900_000_000, "old lens") in found
    assert [f for f in found if f[0] == "/tf_static"] == [("/tf_static", 4_900_000_000, "mounting")]
    assert [text for topic, _, text in found if topic == "/image"] == [str(n) for n in range(49, 60)]


def test_newest_static_transform_is_kept():
    """2,000 latched messages, each with its own stamp."""
    ring = RingBuffer(1.0, 10_000)
    for number in range(2000):
        ring.add(string_message("/tf_static", number * SECOND // 10, str(number), latched=True))
    kept = [message.stamp for message in ring.contents()]
    assert kept[-1] == 1999 * SECOND // 10 and len(kept) < 1100


def test_backward_clock_jump_clears_the_buffer():
    ring = RingBuffer(1.0, 10_000)
    ring.add(string_message("/a", 100 * SECOND))
    ring.add(string_message("/a", 5 * SECOND))
    assert [m.stamp for m in ring.contents()] == [5 * SECOND]


def test_empty_buffer_and_existing_folder_are_errors(tmp_path):
    ring = RingBuffer(1.0, 10_000)
    with pytest.raises(BagError, match="the buffer has no message yet"):
        write_snapshot(ring, tmp_path / "bag")
    ring.add(string_message("/a", SECOND))
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="snapshot_folder"):
        write_snapshot(ring, tmp_path / "file" / "bag")


def test_aborted_snapshot_leaves_no_files(tmp_path):
    ring = RingBuffer(100.0, 10_000)
    for second in range(1, 9):
        ring.add(string_message("/a", second * SECOND, "text"))
    asked = iter([False] * 5 + [True])
    with pytest.raises(BagError, match="snapshot aborted"):
        write_snapshot(ring, tmp_path / "bags" / "snapshot", lambda: next(asked))
    assert list((tmp_path / "bags").iterdir()) == []
    assert write_snapshot(ring, tmp_path / "bags" / "snapshot") == 8
    with pytest.raises(BagError, match="exists already"):
        write_snapshot(ring, tmp_path / "bags" / "snapshot")
    assert [path.name for path in (tmp_path / "bags").iterdir()] == ["snapshot"]


def test_changed_type_discards_older_messages(tmp_path):
    ring = RingBuffer(5.0, 10_000)
    ring.add(BufferedMessage("/a", "std_msgs/msg/Empty", 1 * SECOND, b"\0\1\0\0\0"))
    ring.add(string_message("/b", 2 * SECOND, "other"))
    ring.add(string_message("/a", 3 * SECOND, "new"))
    assert write_snapshot(ring, tmp_path / "bag") == 2
    with BagReader(tmp_path / "bag") as bag:
        assert bag.topics == {"/a": STRING, "/b": STRING}
