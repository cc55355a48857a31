"""Write the simulated street to a bag, with the topics and message types of a real vehicle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from mlesam_ros.bags.serialization import camera_info, event_packet, image, point_cloud, transforms
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.simulation.sensors import BASE_FRAME, CAMERA_FRAME, EVENT_FRAME, ODOM_FRAME
from mlesam_ros.simulation.world import SimFrame, World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, PointCloud, RawImage

LABELS_TOPIC = "/ground_truth/labels"
TOPICS = {CAMERA: "/camera/image_raw", DEPTH: "/depth/image_raw", LIDAR: "/lidar/points", EVENT: "/events"}
"""Modality → topic."""
INFO_TOPICS = {CAMERA: "/camera/camera_info", DEPTH: "/depth/camera_info", EVENT: "/events/camera_info"}
"""Modality → CameraInfo topic."""
_IMAGE, _INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
_CLOUD, _PACKET, _TRANSFORMS = (
    "sensor_msgs/msg/PointCloud2",
    "event_camera_msgs/msg/EventPacket",
    "tf2_msgs/msg/TFMessage",
)


def write_simulated_bag(
    path: str | Path,
    world: World,
    moments: Iterable[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Simulate a drive along a street and record it.

    Args:
        path: folder of the bag; it must not exist.
        world: the street; its dropped sensors have no topic.
        moments: indices of the simulation steps; all `len(world)` by default.
        progress: called after every step with the number of steps done.

    Returns:
        The bag's folder.

    Raises:
        BagError: the folder exists or the disk is full.
    """
    condition = f"{world.weather.name}, fault {world.fault.name}"
    notes = {"simulated": f"mlesam_ros street, seed {world.seed}, {condition}, {world.size[1]}x{world.size[0]}"}
    with BagWriter(path, notes) as writer:
        for done, index in enumerate(range(len(world)) if moments is None else moments):
            moment = world.moment(index)
            if done == 0:
                statics = transforms(world.rig.tree.static_transforms(), moment.stamp)
                writer.add("/tf_static", _TRANSFORMS, moment.stamp, statics, latched=True)
            _add(writer, world, moment)
            if progress is not None:
                progress(done + 1)
    return Path(path)


def _add(writer: BagWriter, world: World, moment: SimFrame) -> None:
    stamp = moment.stamp
    writer.add("/tf", _TRANSFORMS, stamp, transforms([(ODOM_FRAME, BASE_FRAME, moment.pose)], stamp))
    for modality, topic in INFO_TOPICS.items():
        if modality not in moment.frames and modality != CAMERA:  # labels need the info of a dropped camera
            continue
        frame_id = EVENT_FRAME if modality == EVENT else CAMERA_FRAME
        writer.add(topic, _INFO, stamp, camera_info(stamp, frame_id, world.rig.model(frame_id)))
    for modality, frame in moment.frames.items():
        if isinstance(frame.payload, RawImage):
            writer.add(TOPICS[modality], _IMAGE, stamp, image(stamp, frame.frame_id, frame.payload))
        elif isinstance(frame.payload, PointCloud):
            cloud = point_cloud(stamp, frame.frame_id, frame.payload.points)
            writer.add(TOPICS[modality], _CLOUD, stamp, cloud)
        else:
            packet = moment.packet_stamp, frame.frame_id, world.event_size, moment.index, moment.evt3
            writer.add(TOPICS[modality], _PACKET, stamp, event_packet(*packet))
    height, width = moment.labels.shape
    labels = RawImage(height, width, "mono8", width, np.ascontiguousarray(moment.labels).reshape(-1))
    writer.add(LABELS_TOPIC, _IMAGE, stamp, image(stamp, CAMERA_FRAME, labels))
