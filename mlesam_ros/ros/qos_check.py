"""Quality of service in words: who does not hear whom, and what to change."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

from mlesam_ros.doctor.catalogue import finding
from mlesam_ros.findings import Finding


def qos_findings(
    node: Node, topic: str, subject: str, subscribers: Collection[str], each: bool = False
) -> Iterator[Finding]:
    """Every publisher on a topic that no subscription of a node can hear.

    Args:
        node: through which the graph is seen.
        topic: absolute name.
        subject: of the findings.
        subscribers: names of the nodes whose subscriptions count.
        each: it counts if one of the node's subscriptions cannot, such as the one for what was sent before.
    """
    listeners = [info for info in node.get_subscriptions_info_by_topic(topic) if info.node_name in subscribers]
    told = set()
    for publisher in node.get_publishers_info_by_topic(topic):
        verdicts = [(one, *qos_check_compatible(publisher.qos_profile, one.qos_profile)) for one in listeners]
        heard = {_name(one) for one, verdict, _ in verdicts if verdict != QoSCompatibility.ERROR}
        for listener, verdict, reason in verdicts:
            pair = _name(publisher), _name(listener)
            if (each or pair[1] not in heard) and verdict == QoSCompatibility.ERROR and pair not in told:
                told.add(pair)
                offered, asked, remedy = _words(topic, publisher.qos_profile, listener.qos_profile, reason)
                values = {"offered": offered, "asked": asked, "remedy": remedy}
                yield finding("qos_mismatch", subject, topic=topic, publisher=pair[0], subscriber=pair[1], **values)


def _name(endpoint: TopicEndpointInfo) -> str:
    space = endpoint.node_namespace.rstrip("/")
    return f"{space}/{endpoint.node_name}"


def _words(topic: str, offered: QoSProfile, asked: QoSProfile, reason: str) -> tuple[str, str, str]:
    """What one offers, what the other asks for, and what to do."""
    override = f"qos_overrides.{topic}.subscription"
    if asked.reliability == ReliabilityPolicy.RELIABLE and offered.reliability == ReliabilityPolicy.BEST_EFFORT:
        return "best effort", "reliable", f"Publish it reliably, or set {override}.reliability: best_effort"
    if asked.durability == DurabilityPolicy.TRANSIENT_LOCAL and offered.durability == DurabilityPolicy.VOLATILE:
        remedy = (
            "Publish it with durability transient_local; ros2 bag play takes --qos-profile-overrides-path for that."
        )
        return "volatile messages", "those sent before it came (transient local)", remedy
    words = " ".join(reason.split()).rstrip(".;") or "another profile"
    return "one profile", f"another ({words})", f"Match the two, with {override}.*"
