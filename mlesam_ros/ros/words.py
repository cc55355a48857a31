"""The messages of `/diagnostics`, each once: level, message, remedy and cause.

`docs/node.md` is made from it. Remedies that the doctor gives, too, are those of its catalog.
"""

from __future__ import annotations

from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus

from mlesam_ros.doctor.catalogue import RULES
from mlesam_ros.errors import Problem

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
TRANSITIONS = {"unconfigured": "configure", "inactive": "activate"}
"""Lifecycle state → what leads on from it."""
LEVELS = {OK: "OK", WARN: "WARN", ERROR: "ERROR"}


@dataclass(frozen=True, slots=True)
class DiagnosticTemplate:
    """One message of a status. Values stand in braces.

    Attributes:
        level: of `diagnostic_msgs/DiagnosticStatus`.
        message: names the topic and the values.
        cause: why it comes about; only for the documentation.
        remedy: one imperative sentence; empty where nothing need be done.
    """

    level: bytes
    message: str
    cause: str
    remedy: str = ""

    def format(self, **values: object) -> tuple[bytes, Problem]:
        """Level, and message and remedy with the values filled in."""
        return self.level, Problem(self.message.format(**values), self.remedy.format(**values).strip())


def as_problem(text: str) -> Problem:
    """A text as a problem without remedy, if it is none already."""
    return text if isinstance(text, Problem) else Problem(text)


SENSOR_MESSAGES = {
    "no_publisher": DiagnosticTemplate(
        WARN,
        "no publisher on {topic}{last}",
        "The sensor's topic has no publisher. Topics that have one, of a fitting type, are named.",
        RULES["no_publisher"].remedy,
    ),
    "obstacle": DiagnosticTemplate(
        ERROR,
        "no message on {topic}, publisher present, {obstacle.message}",
        "Publisher and node cannot talk: QoS that does not fit, a message type that is not read, or one whose package "
        "is not installed.",
        "{obstacle.remedy}",
    ),
    "never_heard": DiagnosticTemplate(
        ERROR,
        "no message for {silence:.1f} s on {topic}, publisher present",
        "A publisher is there and nothing ever came: the driver sends nothing, or messages that do not fit the "
        "shared-memory segment.",
        RULES["no_message"].remedy,
    ),
    "silent": DiagnosticTemplate(
        WARN,
        "no message for {silence:.1f} s on {topic}, publisher present, sensor_timeout is {timeout:g} s",
        "The sensor was heard and fell silent for longer than `sensor_timeout`, and than one and a half of its periods "
        "or those of its `rate`; masks go on without it.",
        "See the driver's log, its cable and its power; where the sensor is slower by nature, set {modality}.rate or "
        "raise sensor_timeout.",
    ),
    "several_publishers": DiagnosticTemplate(
        WARN,
        "{count} publishers on {topic}: {publishers}",
        "Two drivers, or one that was started twice, publish on one topic; their messages would be mixed.",
        RULES["several_publishers"].remedy,
    ),
    "waiting_place": DiagnosticTemplate(
        WARN,
        "waiting since {waited:.0f} s: {unplaced.message}",
        "TF does not connect the sensor's frame to the camera's yet, and `calibration_timeout` is not over; masks are "
        "made without it. While the robot is still starting nothing need be done.",
        "{unplaced.remedy} A frame with a wrong name is corrected by {modality}.frame_id.",
    ),
    "no_place": DiagnosticTemplate(
        ERROR,
        "waited {waited:.0f} s: {unplaced.message}",
        "TF does not connect the sensor's frame to the camera's after `calibration_timeout`; masks lack it.",
        "{unplaced.remedy} A frame with a wrong name is corrected by {modality}.frame_id.",
    ),
    "unusable": DiagnosticTemplate(
        WARN,
        "{trouble.message}",
        "The newest frame could not be put into the camera's plane: no lens, a size that does not match, damaged "
        "content. The message is the reason.",
        "{trouble.remedy}",
    ),
    "refused": DiagnosticTemplate(
        WARN,
        "{count} messages refused in the last second: {reason.message}",
        "Messages could not be read, or carry a stamp of another clock.",
        "{reason.remedy}",
    ),
    "lost": DiagnosticTemplate(
        WARN,
        "{count} messages on {topic} were lost on the way in the last second",
        "They were sent and the transport dropped them: mostly images and clouds that do not fit the publisher's "
        "shared-memory segment, or a network that is too slow for them.",
        RULES["lost_on_the_way"].remedy,
    ),
    "belated": DiagnosticTemplate(
        WARN,
        "messages on {topic} come {delay:.1f} s after their stamps",
        "Their stamps are older on arrival than `sensor_timeout`: the driver or the network is late, or its clock is.",
        "See the driver's load and the network, synchronize the clocks (chrony, PTP), or set {modality}.offset to what "
        "its stamps are off by.",
    ),
    "useless": DiagnosticTemplate(
        WARN,
        "of the last second's messages on {topic} {late} came too late and {unmatched} found no partner",
        "Most of its messages belong to no mask: they come after `max_wait`, or their stamps lie farther from the "
        "others' than `tolerance`. Compare `stamp_to_receipt_ms` of the sensors.",
        "Raise max_wait or {modality}.tolerance, or correct its clock or {modality}.offset.",
    ),
    "slow": DiagnosticTemplate(
        WARN,
        "{rate:.1f} Hz on {topic}, {expected:g} Hz expected",
        "It comes with less than four fifths of the rate that parameter `rate` promises.",
        "See the driver's settings and the load, or set {modality}.rate to what it sends.",
    ),
    "skewed": DiagnosticTemplate(
        WARN,
        "{skew:.0f} ms off the masks' stamps in the median, {expected:.0f} ms expected",
        "Its stamps lie farther from the masks' than parameter `skew` promises. `mlesam doctor` measures the offset.",
        "Synchronize the clocks (chrony, PTP), or set {modality}.offset or {modality}.skew.",
    ),
    "without": DiagnosticTemplate(
        OK,
        "{rate:.1f} Hz on {topic}; {note.message}",
        "It is used, but its image had to be made without something, such as the robot's own motion.",
        "{note.remedy}",
    ),
    "well": DiagnosticTemplate(OK, "{rate:.1f} Hz on {topic}", "It is heard and used."),
}
"""Messages of a sensor's status, the first that applies."""

PIPELINE_MESSAGES = {
    "failed": DiagnosticTemplate(
        ERROR,
        "configure failed: {failure.message}",
        "Weights, calibration file, device or a parameter is not usable; the message says which.",
        "{failure.remedy} Then: ros2 lifecycle set {node} configure, and activate after it",
    ),
    "idle": DiagnosticTemplate(
        OK,
        "{state}, so it makes no masks",
        "The node is not active; this is its lifecycle state. With `autostart` it configures and activates itself.",
        RULES["node_inactive"].remedy,
    ),
    "state": DiagnosticTemplate(OK, "{state}", "The node is about to end; this is its lifecycle state."),
    "no_time": DiagnosticTemplate(
        ERROR,
        "no time yet: use_sim_time is set and nothing came on /clock",
        "Simulated time was asked for and no message came on /clock.",
        RULES["no_clock"].remedy,
    ),
    "waiting_calibration": DiagnosticTemplate(
        WARN,
        "waiting since {waited:.0f} s: {missing.message}",
        "The label camera's size and lens are not known yet, and `calibration_timeout` is not over. While the driver "
        "is still starting nothing need be done.",
        "{missing.remedy}",
    ),
    "no_calibration": DiagnosticTemplate(
        ERROR,
        "waited {waited:.0f} s: {missing.message}",
        "The label camera's size and lens are not known after `calibration_timeout`.",
        "{missing.remedy}",
    ),
    "error": DiagnosticTemplate(
        ERROR,
        "{error.message}",
        "The last mask broke off, for instance for lack of GPU memory. The message is the reason.",
        "{error.remedy}",
    ),
    "several_infos": DiagnosticTemplate(
        WARN,
        "{rivals.message}",
        "Several nodes publish the CameraInfo of one camera; the lens is that of the newest, or of the image's frame.",
        "{rivals.remedy}",
    ),
    "two_nodes": DiagnosticTemplate(
        WARN,
        "{count} nodes are called {node}",
        "A second node of this name runs: both publish masks on the same topics.",
        RULES["two_nodes"].remedy,
    ),
    "no_mask": DiagnosticTemplate(
        ERROR,
        "no mask for {silence:.1f} s, sensor_timeout is {timeout:g} s: no sensor delivers anything usable",
        "Longer than `sensor_timeout` without a mask, and than one and a half of their usual distance.",
        "See the statuses of the sensors; where all of them are slower by nature, raise sensor_timeout.",
    ),
    "waiting": DiagnosticTemplate(OK, "waiting for the first mask", "It is active and has made none yet."),
    "well": DiagnosticTemplate(
        OK, "{rate:.1f} masks/s from {used}, {delay:.0f} ms from stamp to mask", "Masks are being published."
    ),
}
"""Messages of the pipeline's status, the first that applies."""
