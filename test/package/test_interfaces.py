# SPDX-License-Identifier: Apache-2.0
"""The interface packages of others: on the wire they must be what everybody else means by their names."""

import json
import sys
from pathlib import Path

import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

INTERFACES = Path(__file__).resolve().parents[2] / "mlesam_ros" / "interfaces"

# REP-2016 hashes of the upstream definitions: ros/bond_core, ros-event-camera/event_camera_msgs, ros2/geometry2,
# ros-perception/vision_msgs; uzh-rpg/rpg_dvs_ros and prophesee-ai/prophesee_ros_wrapper with ROS 1's Header and time
# read as std_msgs/Header and builtin_interfaces/Time.
HASHES = {
    "bond/msg/Constants": "347874ac7a49af69eb313fc911d72cd59152a5a157b6577cafad31ad43a8d63e",
    "bond/msg/Status": "87eaccffa254ffffadc0b61600452e8251740f06c25659a2dbda4927fdb1f70a",
    "event_camera_msgs/msg/EventPacket": "d6fa176260b1f37e5a40845305315e150a0f18191241eb64f407442aa29844aa",
    "tf2_msgs/msg/TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
    "vision_msgs/msg/LabelInfo": "3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "vision_msgs/msg/VisionClass": "1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a",
    "dvs_msgs/msg/Event": "51cfc8e311acf01bf39b01e0e8f2fee8f9fa97e7979cf505c0610c8a8bc3fc3a",
    "dvs_msgs/msg/EventArray": "0ea4aa5f4670adab1336550158b2e3c9bf60fe515a284c4215ed605bd559c995",
    "prophesee_event_msgs/msg/Event": "ac23767ec35f4371abd366cf2b523fa84ae732e64e60f282d3bef3eb8efd4b63",
    "prophesee_event_msgs/msg/EventArray": "9581cad55eb44695901e91e5b4483e859f082498085746d6dfb2a8f3bac7ce18",
}


def ours() -> dict[str, Path]:
    """The .msg files by the names of their types."""
    return {f"{path.parts[-3]}/msg/{path.stem}": path for path in INTERFACES.glob("*/msg/*.msg")}


def test_every_field_list_has_a_known_hash():
    assert ours().keys() == HASHES.keys()


@pytest.mark.parametrize("name", HASHES)
def test_field_lists_hash_like_the_real_types(name):
    types = {}
    for other, path in ours().items():
        types.update(get_types_from_msg(path.read_text(encoding="utf-8"), other))
    common = get_typestore(Stores.ROS2_JAZZY).fielddefs
    store = get_typestore(Stores.EMPTY)
    store.register({**common, **types})
    assert store.hash_rihs01(name) == f"RIHS01_{HASHES[name]}"


@pytest.mark.parametrize("name", HASHES)
def test_compiled_types_hash_like_the_real_ones(name):
    package, _, message = name.split("/")
    described = Path(sys.prefix) / "share" / package / "msg" / f"{message}.json"
    if not described.exists():
        pytest.skip(f"{package} is not in this Python environment")
    hashes = {h["type_name"]: h["hash_string"] for h in json.loads(described.read_text())["type_hashes"]}
    assert hashes[name] == f"RIHS01_{HASHES[name]}"
