# SPDX-License-Identifier: Apache-2.0
"""The real event recordings, as the bags hold them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

EVENT_PACKET = """
std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""


@pytest.fixture(scope="session")
def event_packets(shared_data: Path) -> Callable[[str], list[Any]]:
    """Name of a recording → its `event_camera_msgs/msg/EventPacket`s in time order."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(EVENT_PACKET, "event_camera_msgs/msg/EventPacket"))

    def read(name: str) -> list[Any]:
        with Reader(shared_data / "events" / name) as reader:
            return [store.deserialize_cdr(raw, c.msgtype) for c, _, raw in reader.messages()]

    return read
