"""Severity, message and remedy of each kind of finding."""

from __future__ import annotations

from dataclasses import dataclass

from mlesam_ros.findings import ERROR, NOTE, WARNING, Finding
from mlesam_ros.preprocessing.point_cloud import NO_INTENSITY


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding.

    Attributes:
        severity: see `mlesam_ros.findings`.
        message: description of the fault, a format string.
        remedy: instruction that mends it, a format string; may be empty.
    """

    severity: str
    message: str
    remedy: str


def finding(kind: str, subject: str, **values: object) -> Finding:
    """Create a finding of a kind in `RULES` with formatted values."""
    about = RULES[kind]
    return Finding(about.severity, subject, about.message.format(**values), about.remedy.format(**values))


RULES = {
    # The recording
    "bag_damaged": Rule(
        WARNING,
        "{sentence}",
        "What can be read is used; record again where the rest matters, and end a recorder with Ctrl-C.",
    ),
    "topic_ambiguous": Rule(NOTE, "{sentence}", ""),
    "no_sensor": Rule(ERROR, "{sentence}", "Record the sensors' topics, or name them with -p SENSOR.topic:=TOPIC."),
    # Content of a sensor's messages
    "sensor_missing": Rule(NOTE, "there is none among the topics; masks are made without it.", ""),
    "sensor_silent": Rule(WARNING, "{topic} has no message.", "See whether its driver ran; masks are made without it."),
    "all_unreadable": Rule(ERROR, "none of its {total} messages can be used: {reason}.", "{remedy}"),
    "some_unreadable": Rule(
        WARNING, "{count} of {total} messages cannot be used, the last because {reason}.", "{remedy}"
    ),
    "no_frame_id": Rule(ERROR, "its messages name no frame.", "Set the driver's frame_id, or {modality}.frame_id."),
    "size_changes": Rule(WARNING, "its pictures have several sizes: {sizes}.", "Set the driver to one resolution."),
    "sweep_pieces": Rule(NOTE, "its sweeps are sent in pieces, {pieces} to a turn, and are put together.", ""),
    "several_frames": Rule(
        WARNING,
        "its messages come in several frames, {frames}: two sensors share {topic}.",
        "Publish, or record, each sensor on a topic of its own; with one sensor, set {modality}.frame_id.",
    ),
    "packets_lost": Rule(
        WARNING,
        "{lost} of {total} event packets are missing, by their numbers.",
        "Record events in a process of their own, with a deeper queue, or let the driver send larger packets.",
    ),
    "picture_blank": Rule(
        WARNING,
        "{count} of {total} pictures looked at are one even grey.",
        "Take off the cap, or see to exposure and the driver.",
    ),
    "cloud_empty": Rule(
        ERROR,
        "{count} of {total} clouds looked at have no return at all.",
        "See whether the LiDAR spins and its driver decodes.",
    ),
    "cloud_out_of_view": Rule(
        ERROR,
        "of its returns {share:.1f} % land in the picture, by the calibration.",
        "Check the transform between the two: the LiDAR does not look where the camera looks.",
    ),
    "depth_empty": Rule(
        ERROR,
        "{count} of {total} depth pictures looked at have no valid pixel.",
        "See to the sensor, its range and its driver.",
    ),
    "depth_unit": Rule(
        ERROR,
        "its median depth is {meters:.4g} m, which is no robot's: the unit is another.",
        "Send 32FC1 in metres or 16UC1 in millimetres, or set depth.unit to the metres per count.",
    ),
    "depth_scale": Rule(
        ERROR,
        "its depth is {factor:.3g} times the LiDAR's, in pixel after pixel: the unit is another.",
        "Set depth.unit: {unit:.3g}.",
    ),
    "intensity_missing": Rule(
        NOTE,
        "its intensity is taken as 0: {words}.",
        NO_INTENSITY,
    ),
    "data_found": Rule(NOTE, "{name}: {words}.", ""),
    # Time
    "gaps": Rule(
        WARNING,
        "{silences} longer than {limit:.2f} s; the longest is {longest:.2f} s, from {at:.1f} s on.",
        "Look at the driver and the recorder's load at that moment.",
    ),
    "quiet_events": Rule(NOTE, "{silences}; the longest is {longest:.2f} s, from {at:.1f} s on.", ""),
    "messages_lost": Rule(
        WARNING,
        "about {lost} of {total} messages are missing, by its period of {period:.0f} ms.",
        "Record with a larger cache or fewer topics, and give large messages room: docs/doctor.md.",
    ),
    "jitter": Rule(
        WARNING,
        "its stamps come unevenly: one in twenty is {jitter:.0f} ms or more off its period of {period:.0f} ms.",
        "Let the driver stamp when it measures, not when it publishes.",
    ),
    "stamp_zero": Rule(
        ERROR,
        "{count} of {total} messages have no stamp.",
        "Let the driver fill header.stamp; such messages are refused.",
    ),
    "stamp_back": Rule(
        WARNING,
        "{count} of {total} stamps lie before the one they follow.",
        "Look for two publishers on {topic}, or a clock that was set.",
    ),
    "stamp_twice": Rule(
        WARNING,
        "{count} of {total} stamps occur twice.",
        "Look for two publishers on {topic}; the second of a kind is refused.",
    ),
    "clock_foreign": Rule(
        ERROR,
        "its stamps lie {distance} the clock by which they arrive, and a node refuses every message: {cause}.",
        "{remedy}",
    ),
    "stamp_ahead": Rule(
        ERROR,
        "its stamps lie {ahead:.0f} ms ahead of their own arrival: they are later than the measurement.",
        "Synchronise its clock (PTP, NTP), or set {modality}.offset: {offset:.3f}.",
    ),
    "clock_ahead": Rule(
        WARNING,
        "the stamps of all sensors lie {ahead:.0f} ms ahead of the machine that hears them.",
        "Synchronise the clocks of the two machines (PTP, NTP).",
    ),
    "clock_drift": Rule(
        WARNING,
        "its clock runs away from the host's by {drift:.1f} ms a minute.",
        "Let the driver convert to the host's time, or synchronise the clocks (PTP).",
    ),
    # Calibration
    "no_label_camera": Rule(
        ERROR,
        "there is no CameraInfo of the camera: its masks would be made without knowing its lens.",
        "Publish it beside the picture, or give a calibration file.",
    ),
    "no_info": Rule(
        WARNING,
        "there is no CameraInfo of it, so it cannot be used beside another camera.",
        "Publish it beside the picture, or give a calibration file.",
    ),
    "bad_info": Rule(ERROR, "its CameraInfo cannot be used: {reason}.", "{remedy}"),
    "doubtful_lens": Rule(WARNING, "{reason}.", "{remedy}"),
    "info_size": Rule(
        ERROR,
        "its pictures are {picture}, its CameraInfo is for {info}.",
        "Calibrate at the resolution that is sent, or set the driver back to it.",
    ),
    "info_frame": Rule(
        ERROR,
        "its pictures are in frame {picture!r}, its CameraInfo in {info!r}.",
        "Give both the same header.frame_id, or set {modality}.frame_id to the CameraInfo's.",
    ),
    "no_transform": Rule(
        ERROR,
        "nothing connects its frame {frame!r} to the camera's {camera!r}: it cannot be used.",
        "Publish the transform on /tf_static, or give a calibration file.",
    ),
    "transform_late": Rule(
        ERROR,
        "{share:.0f} % of its messages cannot be placed at their time: {reason}.",
        "Publish what moves at the sensor's rate or more, and a rigid mounting on /tf_static.",
    ),
    "bad_transform": Rule(ERROR, "{reason}.", "{remedy}"),
    "transform_gaps": Rule(
        WARNING,
        "{parent} to {child} was silent for up to {longest:.2f} s, from {at:.1f} s on.",
        "Publish it at the sensors' rate or more; without it motion between the sensors is not made up for.",
    ),
    "turned": Rule(
        ERROR,
        "its outlines meet the picture's when turned {size:.1f} degrees to the {side}: the calibration is off.",
        "Calibrate again, or turn its mounting by as much to the {side}; see it with: mlesam sensors show BAG "
        "--yaw {angle:.1f} --out pictures/",
    ),
    "shifted": Rule(
        ERROR,
        "its sweeps fit the pictures taken {offset:.0f} ms {side} best: one of the two has its stamps wrong.",
        "Set lidar.offset: {parameter:.3f}, or make the driver stamp the moment of the measurement.",
    ),
    "unaligned": Rule(
        WARNING,
        "its outlines meet the picture's nowhere within 6 degrees of the calibration.",
        "Look at it with: mlesam sensors show BAG --out pictures/; the mounting, or the stamps, may be far off.",
    ),
    "alignment_unclear": Rule(
        NOTE, "whether it fits the picture could not be told: too few outlines that both see, or too much noise.", ""
    ),
    # Synchronization in the node
    "no_sets": Rule(
        ERROR,
        "not one set of frames comes about.",
        "See the errors above; without them, name the topics with -p SENSOR.topic:=TOPIC.",
    ),
    "few_partners": Rule(
        WARNING,
        "it is part of {share:.0f} % of the sets, where its rate would allow {possible:.0f} %: {why}.",
        "{remedy}",
    ),
    "frames_refused": Rule(ERROR, "{count} of {total} messages are refused: {reason}.", "{remedy}"),
    "primary_poor": Rule(
        WARNING,
        "as the first of primary_order it gives {now:.1f} complete sets a second; {other} would give {then:.1f}.",
        "Set primary_order: [{order}].",
    ),
    # The live graph
    "node_absent": Rule(NOTE, "it does not run; the topics are looked at with the settings that it would have.", ""),
    "node_inactive": Rule(
        WARNING, "it is {state}, so it makes no masks.", "Bring it on: ros2 lifecycle set {node} {transition}"
    ),
    "node_fails": Rule(ERROR, "it reports of {part}: {words}.", "{remedy}"),
    "node_warns": Rule(WARNING, "it reports of {part}: {words}.", "{remedy}"),
    "no_publisher": Rule(
        WARNING,
        "nobody publishes on {topic}.",
        "Start its driver, set {modality}.topic{instead}, or take {modality} out of modalities.",
    ),
    "several_publishers": Rule(
        WARNING,
        "{count} publishers send on {topic}: {publishers}.",
        "Stop all but one of them, or remap the others to topics of their own.",
    ),
    "two_nodes": Rule(
        WARNING,
        "{count} nodes have this name, and their masks come on the same topics.",
        "Stop one of them, or give it another name: --ros-args -r __node:=mlesam2",
    ),
    "alone": Rule(
        WARNING,
        "not one sensor's topic has a publisher, as seen from ROS_DOMAIN_ID={domain}{range}.",
        "Start drivers, node and this command with the same of these variables; ros2 topic list shows the rest.",
    ),
    "not_understood": Rule(ERROR, "{topic}: {reason}.", "{remedy}"),
    "no_message": Rule(
        ERROR,
        "{topic} has a publisher, but in {seconds:.0f} s not one message came.",
        "See with ros2 topic hz whether the driver sends. {transport}",
    ),
    "lost_on_the_way": Rule(
        ERROR,
        "{lost} of {total} messages were sent and did not arrive: the transport lost them.",
        "{transport} Over a network send compressed images, or run the node beside the driver.",
    ),
    "qos_mismatch": Rule(
        ERROR,
        "on {topic} {publisher} offers {offered} and {subscriber} asks for {asked}: nothing gets across.",
        "{remedy}",
    ),
    "no_clock": Rule(
        ERROR,
        "use_sim_time is set, but nothing comes on /clock: time stands still.",
        "Publish /clock (mlesam play --clock, ros2 bag play --clock, a simulator) or unset use_sim_time.",
    ),
    "clock_unused": Rule(
        WARNING,
        "/clock is published, but the node goes by the machine's time.",
        "Set use_sim_time where the sensors are simulated or played with their own stamps.",
    ),
}
