# SPDX-License-Identifier: Apache-2.0
"""Severity, message, cause and remedy of each rule of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

from mlesam_ros.errors import ERROR, NOTE, WARNING, Finding
from mlesam_ros.preprocessing.point_cloud import NO_INTENSITY


@dataclass(frozen=True, slots=True)
class Rule:
    """Template of a finding.

    Attributes:
        severity: one of `mlesam_ros.errors.SEVERITIES`.
        message: description of the fault, a format string without the subject.
        cause: usual cause; only for the documentation.
        remedy: instruction that fixes it, a format string; may be empty.
    """

    severity: str
    message: str
    cause: str
    remedy: str


def finding(name: str, subject: str, /, **values: object) -> Finding:
    """Create the finding of a rule with formatted values."""
    rule = RULES[name]
    return Finding(rule.severity, subject, rule.message.format(**values), rule.remedy.format(**values))


RULE_GROUPS = {
    "The recording": {
        "bag_damaged": Rule(
            WARNING,
            "{sentence}",
            "Recorder killed, disk full, file lost or edited.",
            "The readable part is used. Record again if the rest matters; stop a recorder with Ctrl-C.",
        ),
        "topic_ambiguous": Rule(
            NOTE,
            "{sentence}",
            "Several topics match this sensor.",
            "",
        ),
        "no_sensor": Rule(
            ERROR,
            "{sentence}",
            "No topic has a sensor's name and type.",
            "Record the sensors' topics, or set them with -p SENSOR.topic:=TOPIC.",
        ),
    },
    "Content": {
        "sensor_missing": Rule(
            NOTE,
            "no topic found; masks are made without this sensor.",
            "No such sensor, or an unusual topic name.",
            "",
        ),
        "sensor_silent": Rule(
            WARNING,
            "no messages on {topic}; masks are made without this sensor.",
            "The driver was not running.",
            "Check that its driver was running.",
        ),
        "all_unreadable": Rule(
            ERROR,
            "none of {total} messages is usable: {reason}.",
            "Unsupported encoding, layout or packet format.",
            "{remedy}",
        ),
        "some_unreadable": Rule(
            WARNING,
            "{count} of {total} messages are unusable, most often because {reason}.",
            "Damage in transport, or a changing format.",
            "{remedy}",
        ),
        "no_frame_id": Rule(
            ERROR,
            "header.frame_id of its messages is empty.",
            "The driver's frame is not set.",
            "Set frame_id in the driver, or {modality}.frame_id.",
        ),
        "size_changes": Rule(
            WARNING,
            "images have several sizes: {sizes}.",
            "Two cameras on one topic, or a reconfigured driver.",
            "Set the driver to one resolution.",
        ),
        "split_sweeps": Rule(
            NOTE,
            "each sweep arrives in {messages} messages, which are merged.",
            "The driver sends packets (`lidar.gather`).",
            "",
        ),
        "several_frames": Rule(
            WARNING,
            "messages have several frame_ids, {frames}: two sensors may share {topic}.",
            "Two sensors on one topic, or a reconfigured driver.",
            "Publish or record each sensor on a topic of its own; for a single sensor, set {modality}.frame_id.",
        ),
        "packets_lost": Rule(
            WARNING,
            "{lost} of {total} event packets are missing, according to their sequence numbers.",
            "Network, recorder or driver dropped packets.",
            "Record events in a separate process with a deeper queue, or configure larger packets in the driver.",
        ),
        "image_blank": Rule(
            WARNING,
            "{count} of {total} sampled images are uniform.",
            "Lens cap, darkness, or empty buffers.",
            "Check the lens cap, the exposure and the driver.",
        ),
        "cloud_empty": Rule(
            ERROR,
            "{count} of {total} sampled point clouds have no valid return.",
            "Head not turning, firewall, or wrong model in the driver.",
            "Check that the LiDAR spins and that its driver decodes the packets.",
        ),
        "cloud_out_of_view": Rule(
            ERROR,
            "only {share:.1f} % of its returns project into the image with this calibration.",
            "A wrong or inverted transform.",
            "Check the transform between LiDAR and camera.",
        ),
        "depth_empty": Rule(
            ERROR,
            "{count} of {total} sampled depth images have no valid pixel.",
            "Nothing within range, or projector off.",
            "Check the sensor, its range and its driver.",
        ),
        "depth_unit": Rule(
            ERROR,
            "the median depth is {meters:.4g} m, which is implausible: the unit is wrong.",
            "Millimeters in 32FC1, or meters in 16UC1.",
            "Publish 32FC1 in meters or 16UC1 in millimeters, or set depth.unit to the meters per count.",
        ),
        "depth_scale": Rule(
            ERROR,
            "its depth is {factor:.3g} times the LiDAR's throughout the image: the unit is wrong.",
            "Other counts than millimeters.",
            "Set depth.unit: {unit:.3g}.",
        ),
        "intensity_missing": Rule(
            NOTE,
            "intensity is taken as 0: {reason}.",
            "No field of a known name.",
            NO_INTENSITY,
        ),
        "data_found": Rule(
            NOTE,
            "{name}: {value}.",
            "Intensity field and scale; bits of 16-bit images.",
            "",
        ),
    },
    "Time": {
        "gaps": Rule(
            WARNING,
            "{gaps} longer than {limit:.2f} s; the longest is {longest:.2f} s, from {at:.1f} s on.",
            "Driver, network or disk paused.",
            "Check the driver, and the load of the recorder at that time.",
        ),
        "event_gaps": Rule(
            NOTE,
            "{gaps} without events; the longest is {longest:.2f} s, from {at:.1f} s on.",
            "No motion: full packets are sent.",
            "",
        ),
        "messages_lost": Rule(
            WARNING,
            "about {lost} of {total} messages are missing, given the period of {period:.0f} ms.",
            "Dropped before the recorder, mostly large ones.",
            "Record with a larger cache or fewer topics, and enlarge the transport's buffers for large messages.",
        ),
        "jitter": Rule(
            WARNING,
            "stamps are irregular: 5 % deviate by {jitter:.0f} ms or more from the period of {period:.0f} ms.",
            "Stamps of transfer or processing.",
            "Stamp messages at the time of measurement in the driver, not at the time of publication.",
        ),
        "stamp_zero": Rule(
            ERROR,
            "{count} of {total} messages have no stamp and are refused.",
            "The driver does not set header.stamp.",
            "Set header.stamp in the driver.",
        ),
        "stamp_backward": Rule(
            WARNING,
            "{count} of {total} stamps are earlier than the stamp before.",
            "Two drivers, a looped recording, or a clock that was set.",
            "Check for two publishers on {topic}, or a clock that was set back.",
        ),
        "stamp_repeated": Rule(
            WARNING,
            "{count} of {total} stamps repeat the stamp before; such messages are refused.",
            "A driver that repeats its last image, or two publishers.",
            "Check for two publishers on {topic}.",
        ),
        "foreign_clock": Rule(
            ERROR,
            "stamps are {distance} the clock of arrival, so the node refuses every message: {cause}.",
            "TAI (37 s), GPS time (18 s), time since a start, local or simulated time.",
            "{remedy}",
        ),
        "stamp_ahead": Rule(
            ERROR,
            "stamps are {ahead:.0f} ms ahead of their arrival: they are later than the measurement.",
            "A clock ahead, or a driver that adds the exposure time.",
            "Synchronize its clock (PTP, NTP), or set {modality}.offset: {offset:.3f}.",
        ),
        "clock_ahead": Rule(
            WARNING,
            "stamps of all sensors are {ahead:.0f} ms ahead of the receiving machine's clock.",
            "The clock of the sensors' machine.",
            "Synchronize the clocks of the two machines (PTP, NTP).",
        ),
        "clock_drift": Rule(
            WARNING,
            "its clock drifts from the host's by {drift:.1f} ms per minute.",
            "Stamps of the sensor's own clock.",
            "Convert stamps to the host's time in the driver, or synchronize the clocks (PTP).",
        ),
    },
    "Calibration": {
        "no_camera_info": Rule(
            ERROR,
            "no CameraInfo of the camera: masks are made without its calibration.",
            "Not recorded, not published, or unusable.",
            "Publish CameraInfo beside the images, or give a calibration file.",
        ),
        "no_sensor_info": Rule(
            WARNING,
            "no CameraInfo of this sensor: it cannot be registered to the camera.",
            "The same; a depth camera in the camera's frame needs none.",
            "Publish CameraInfo beside the images, or give a calibration file.",
        ),
        "bad_info": Rule(
            ERROR,
            "CameraInfo is unusable: {reason}.",
            "Empty K, meters instead of pixels, or principal point outside.",
            "{remedy}",
        ),
        "doubtful_info": Rule(
            WARNING,
            "{reason}.",
            "The topic name contradicts the CameraInfo.",
            "{remedy}",
        ),
        "info_size": Rule(
            ERROR,
            "images are {image}, CameraInfo is for {info}.",
            "Calibrated at another resolution, or binned silently.",
            "Calibrate at the published resolution, or set the driver back to the calibrated one.",
        ),
        "info_frame": Rule(
            ERROR,
            "images are in frame {image!r}, CameraInfo in {info!r}.",
            "Two names of the optical frame.",
            "Use the same header.frame_id for both, or set {modality}.frame_id to the CameraInfo's.",
        ),
        "no_transform": Rule(
            ERROR,
            "no transform connects its frame {frame!r} to the camera's {camera!r}: it cannot be used.",
            "/tf_static not recorded (start the recorder first), or not published.",
            "Publish the transform on /tf_static, or give a calibration file.",
        ),
        "transform_late": Rule(
            ERROR,
            "no transform is available at the time of {share:.0f} % of its messages: {reason}.",
            "A moving mounting is published too slowly.",
            "Publish moving transforms at the sensor's rate or faster, and rigid mountings on /tf_static.",
        ),
        "bad_transform": Rule(
            ERROR,
            "{reason}.",
            "An invalid rotation, or a cycle of frames.",
            "{remedy}",
        ),
        "transform_gaps": Rule(
            WARNING,
            "no transform from {parent} to {child} for up to {longest:.2f} s, from {at:.1f} s on.",
            "Odometry stopped temporarily.",
            "Publish it at the sensors' rate or faster; motion is not compensated in a gap.",
        ),
        "rotated": Rule(
            ERROR,
            "depth edges match the image's edges when rotated {size:.1f} degrees to the {side}: the calibration "
            "is wrong.",
            "The mounting moved, or was measured roughly.",
            "Calibrate again, or rotate its mounting by that angle to the {side}. Check with: mlesam sensors "
            "show BAG --yaw {angle:.1f} --out images/",
        ),
        "shifted": Rule(
            ERROR,
            "sweeps match the images taken {offset:.0f} ms {side} best: the stamps of one of the two are wrong.",
            "Stamps of the transfer, or a buffer.",
            "Set lidar.offset: {parameter:.3f}, or stamp at the time of measurement in the driver.",
        ),
        "unaligned": Rule(
            WARNING,
            "depth edges match the image's edges nowhere within 6 degrees of the calibration.",
            "Many degrees or seconds off, or no vertical edges.",
            "Check with: mlesam sensors show BAG --out images/; the mounting or the stamps may be far off.",
        ),
        "alignment_unclear": Rule(
            NOTE,
            "alignment with the image is undetermined: too few edges in view of both, or too much noise.",
            "Short recording, standing robot, night, or underexposure.",
            "",
        ),
    },
    "Synchronization": {
        "no_sets": Rule(
            ERROR,
            "the node would make no set.",
            "All messages refused, or none of a sensor in primary_order.",
            "Fix the errors above; if there are none, set the topics with -p SENSOR.topic:=TOPIC.",
        ),
        "few_sets": Rule(
            WARNING,
            "it is part of {share:.0f} % of the sets; its rate would allow {possible:.0f} %: {reason}.",
            "Messages too far from the primary's, or too late.",
            "{remedy}",
        ),
        "frames_refused": Rule(
            ERROR,
            "{count} of {total} messages are refused: {reason}.",
            "Stamps from the future, or a clock at zero.",
            "{remedy}",
        ),
        "poor_primary": Rule(
            WARNING,
            "as the primary sensor it gives {now:.1f} complete sets per second; {other} would give {then:.1f}.",
            "The primary's messages are irregular or rare.",
            "Set primary_order: [{order}].",
        ),
    },
    "The live graph": {
        "node_absent": Rule(
            NOTE,
            "the node is not running; the topics are checked with the settings that it would have.",
            "Not started, or another name: `--node`.",
            "",
        ),
        "node_inactive": Rule(
            WARNING,
            "the node is {state}, so it makes no masks.",
            "configure failed, or no manager activated it.",
            "Run: ros2 lifecycle set {node} {transition}",
        ),
        "node_error": Rule(
            ERROR,
            "the node reports for {part}: {message}.",
            "A report of the node on `/diagnostics`.",
            "{remedy}",
        ),
        "node_warning": Rule(
            WARNING,
            "the node reports for {part}: {message}.",
            "A report of the node on `/diagnostics`.",
            "{remedy}",
        ),
        "no_publisher": Rule(
            WARNING,
            "no publisher on {topic}.",
            "No driver, or another topic.",
            "Start its driver, set {modality}.topic{instead}, or remove {modality} from modalities.",
        ),
        "several_publishers": Rule(
            WARNING,
            "{count} publishers on {topic}: {publishers}.",
            "Two drivers, or a recording beside the robot.",
            "Stop all but one of them, or remap the others to topics of their own.",
        ),
        "two_nodes": Rule(
            WARNING,
            "{count} nodes have this name and publish masks on the same topics.",
            "Started by hand and by a launch file.",
            "Stop one of them, or rename it: --ros-args -r __node:=mlesam2",
        ),
        "empty_graph": Rule(
            WARNING,
            "no sensor topic has a publisher, as seen from ROS_DOMAIN_ID={domain}{range}.",
            "No driver, or another domain, discovery range or middleware.",
            "Start drivers, node and this command with the same values of these variables; ros2 topic list "
            "shows the visible topics.",
        ),
        "unreadable_type": Rule(
            ERROR,
            "{topic}: {reason}.",
            "Not supported, or not installed.",
            "{remedy}",
        ),
        "no_message": Rule(
            ERROR,
            "{topic} has a publisher, but no message arrived in {seconds:.0f} s.",
            "Fast DDS loses messages above 0.5 MB by default; or the driver sends nothing.",
            "Check with ros2 topic hz whether the driver sends. {transport}",
        ),
        "transport_loss": Rule(
            ERROR,
            "the transport lost {lost} of {total} messages.",
            "The same, or a slow network.",
            "{transport} Over a network, send compressed images or run the node on the driver's machine.",
        ),
        "qos_mismatch": Rule(
            ERROR,
            "incompatible QoS on {topic}: {publisher} offers {offered}, {subscriber} requests {requested}.",
            "The subscriber requests more than is offered.",
            "{remedy}",
        ),
        "no_clock": Rule(
            ERROR,
            "use_sim_time is set, but there is no message on /clock: time stands still.",
            "No simulator or player, or one without clock.",
            "Publish /clock (mlesam play --clock, ros2 bag play --clock, a simulator), or unset use_sim_time.",
        ),
        "clock_unused": Rule(
            WARNING,
            "/clock is published, but use_sim_time of the node is off.",
            "use_sim_time is not set.",
            "Set use_sim_time if the sensors are simulated, or played back with their own stamps.",
        ),
    },
}
"""Part of the diagnosis → name → rule."""

RULES = {name: rule for group in RULE_GROUPS.values() for name, rule in group.items()}
