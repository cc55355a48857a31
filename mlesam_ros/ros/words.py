"""Everything that `/diagnostics` can say, each in one place: how grave it is, the words, the cause and what helps.

`docs/node.md` is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
TRANSITIONS = {"unconfigured": "configure", "inactive": "activate"}
"""Lifecycle state → what leads on from it."""
LEVELS = {OK: "OK", WARN: "WARN", ERROR: "ERROR"}


@dataclass(frozen=True, slots=True)
class Saying:
    """One message of a status.

    Attributes:
        level: of `diagnostic_msgs/DiagnosticStatus`.
        words: the message, its values in braces.
        cause: why it is said.
        remedy: what to do; empty where nothing is wrong.
    """

    level: bytes
    words: str
    cause: str
    remedy: str = ""

    def say(self, **values: object) -> tuple[bytes, str]:
        """Level and message, the values filled in."""
        return self.level, self.words.format(**values)


SENSOR = {
    "no_publisher": Saying(
        WARN,
        "no publisher on {topic}{last}; start its driver, or set {modality}.topic{instead}",
        "Nobody publishes on the sensor's topic.",
        "Start the driver, or correct the topic: those that are published with a fitting type are named; a sensor that "
        "the robot lacks is taken out of `modalities`.",
    ),
    "obstacle": Saying(
        ERROR,
        "no message on {topic}, publisher present, {obstacle}",
        "Publisher and node cannot talk: QoS that does not fit, a message type that is not read, or one whose package "
        "is not installed.",
        "What the message says: a `qos_overrides` parameter, another topic, or the package.",
    ),
    "never_heard": Saying(
        ERROR,
        "no message for {silence:.1f} s on {topic}, publisher present; {hint}",
        "A publisher is there and nothing ever came: mostly messages that do not fit the shared-memory segment.",
        "Set the transport profile where the driver starts too (see robot.md); see with `ros2 topic hz` whether the "
        "driver really publishes.",
    ),
    "silent": Saying(
        WARN,
        "no message for {silence:.1f} s on {topic}, publisher present",
        "The sensor was heard and fell silent for longer than `sensor_timeout`, or than one and a half of its periods.",
        "Look at the driver's own log, cable and power; masks go on without the sensor.",
    ),
    "waiting_place": Saying(
        WARN,
        "waiting since {waited:.0f} s: {unplaced} A frame with a wrong name is corrected by {modality}.frame_id.",
        "TF does not say yet where the sensor sits, and `calibration_timeout` is not over; masks are made without it.",
        "None, where the robot is still starting.",
    ),
    "no_place": Saying(
        ERROR,
        "waited {waited:.0f} s: {unplaced} A frame with a wrong name is corrected by {modality}.frame_id.",
        "TF still does not say where the sensor sits after `calibration_timeout`; masks are made without it.",
        "Publish the missing transform (robot_state_publisher, static_transform_publisher), set `<sensor>.frame_id` "
        "or give a `calibration_file`.",
    ),
    "unusable": Saying(
        WARN,
        "{trouble}",
        "The newest frame could not be put into the camera's plane: no lens, a size that does not match, damaged "
        "content. The message is the reason.",
        "What the message says; `mlesam doctor` looks closer.",
    ),
    "refused": Saying(
        WARN,
        "{count} messages refused in the last second: {reason}",
        "Messages could not be read, or carry a stamp of another clock.",
        "What the message says; for stamps see robot.md, troubleshooting.",
    ),
    "lost": Saying(
        WARN,
        "{count} messages on {topic} were lost on the way in the last second; {hint}",
        "They were sent and the transport dropped them: mostly pictures and clouds that do not fit the publisher's "
        "shared-memory segment, or a network that is too slow for them.",
        "Set the transport profile where the driver starts too (see robot.md); over a network send compressed "
        "pictures, or run the node beside the driver.",
    ),
    "belated": Saying(
        WARN,
        "messages on {topic} come {delay:.1f} s after their stamps; see the driver and the network, synchronise the "
        "clocks (chrony, PTP), or set {modality}.offset",
        "Their stamps are older on arrival than `sensor_timeout`: the driver or the network is late, or its clock is.",
        "Look at the driver's load and the network; synchronise the clocks, or set `offset` to what its stamps are off "
        "by.",
    ),
    "useless": Saying(
        WARN,
        "of the last second's messages on {topic} {late} came too late and {unmatched} found no partner; see its delay "
        "and its clock, raise patience or {modality}.tolerance",
        "Most of its messages belong to no mask: they come after `patience`, or their stamps lie farther from the "
        "others' than `tolerance`.",
        "Compare `stamp_to_receipt_ms` of the sensors; synchronise the clocks, set `offset`, or raise `patience` or "
        "`tolerance`.",
    ),
    "slow": Saying(
        WARN,
        "{rate:.1f} Hz on {topic}, {expected:g} Hz expected; see the driver and the load, or set {modality}.rate",
        "It comes with less than four fifths of the rate that parameter `rate` promises.",
        "See the driver's settings, the bus and the machine's load; correct `rate` where the promise is wrong.",
    ),
    "skewed": Saying(
        WARN,
        "{skew:.0f} ms off the masks' stamps in the median, {expected:.0f} ms expected; synchronise the clocks, or set "
        "{modality}.offset or {modality}.skew",
        "Its stamps lie farther from the masks' than parameter `skew` promises.",
        "Synchronise the clocks (chrony, PTP), or set `offset` to what its stamps are late by, as `mlesam doctor` "
        "measures it.",
    ),
    "without": Saying(
        OK,
        "{rate:.1f} Hz on {topic}; {note}",
        "It is used, but its picture had to be made without something, such as the robot's own motion.",
        "Publish what is missing (odometry on /tf, CameraInfo) where the difference matters.",
    ),
    "well": Saying(OK, "{rate:.1f} Hz on {topic}", "It is heard and used."),
}
"""What a sensor's status can say, the first that applies."""

PIPELINE = {
    "failed": Saying(
        ERROR,
        "configure failed: {failure} Then: ros2 lifecycle set {node} configure, and activate after it",
        "Weights, calibration file, device or a parameter is not usable; the sentence says which.",
        "Correct it (`ros2 param set`, or start anew), then configure and activate.",
    ),
    "idle": Saying(
        OK,
        "{state}, so it makes no masks; a lifecycle manager brings it on, or: ros2 lifecycle set {node} {transition}",
        "The node is not active; this is its lifecycle state. With `autostart` it configures and activates itself.",
        "Configure it, then activate it.",
    ),
    "state": Saying(OK, "{state}", "The node is about to end; this is its lifecycle state."),
    "no_time": Saying(
        ERROR,
        "no time yet: use_sim_time is set and nothing came on /clock; publish it or unset use_sim_time",
        "Simulated time was asked for and nobody tells it.",
        "Play the bag with `--clock`, start the simulator, or unset use_sim_time.",
    ),
    "waiting_calibration": Saying(
        WARN,
        "waiting since {waited:.0f} s: {missing}",
        "The label camera's size and lens are not known yet, and `calibration_timeout` is not over.",
        "None, where the driver is still starting.",
    ),
    "no_calibration": Saying(
        ERROR,
        "waited {waited:.0f} s: {missing}",
        "The label camera's size and lens are still not known after `calibration_timeout`.",
        "Publish CameraInfo, correct `camera.info_topic`, or set `calibration_file`.",
    ),
    "error": Saying(
        ERROR,
        "{error}",
        "The last mask broke off, for instance for lack of GPU memory. The message is the reason.",
        "What the message says.",
    ),
    "no_mask": Saying(
        ERROR,
        "no mask for {silence:.1f} s: no sensor delivers anything usable; see their statuses",
        "Longer than `sensor_timeout` without a mask, or than one and a half of their usual distance.",
        "The sensors' statuses say what is wrong with each.",
    ),
    "waiting": Saying(OK, "waiting for the first mask", "It is active and has made none yet."),
    "well": Saying(
        OK, "{rate:.1f} masks/s from {used}, {delay:.0f} ms from stamp to mask", "Masks are being published."
    ),
}
"""What the pipeline's status can say, the first that applies."""
