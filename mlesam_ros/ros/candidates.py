"""Topics that a sensor which nobody publishes may be meant to be on."""

from __future__ import annotations

from collections.abc import Collection
from difflib import SequenceMatcher

from rclpy.node import Node

from mlesam_ros.frame import CAMERA, EVENT, Modality
from mlesam_ros.messages import MESSAGE_TYPES
from mlesam_ros.ros.topics import OUTPUTS

_MOST = 3


def suggest_topics(node: Node, modality: Modality, topic: str, taken: Collection[str]) -> list[str]:
    """Look through the graph.

    Args:
        node: whose graph it is.
        modality: which sensor.
        topic: where it is looked for.
        taken: topics that other sensors are read from.

    Returns:
        topics that somebody publishes with one of its message types, a perception node's own left out; at most three,
        the name that is most alike first.
    """
    pictures = MESSAGE_TYPES[CAMERA] if modality == EVENT else ()  # which can be event pictures, but hardly are
    types = {*MESSAGE_TYPES[modality]} - {*pictures}
    found = [
        name
        for name, offered in node.get_topic_names_and_types()
        if types & {*offered}
        and name not in taken
        and name.rpartition("/")[2] not in OUTPUTS
        and node.count_publishers(name)
    ]
    return sorted(found, key=lambda name: -SequenceMatcher(None, topic, name).ratio())[:_MOST]


def instead(found: Collection[str]) -> str:
    """Such topics as the end of an advice to set a parameter: ` to /points`; empty for none."""
    return f" to {' or '.join(found)}" if found else ""
