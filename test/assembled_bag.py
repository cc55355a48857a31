# SPDX-License-Identifier: Apache-2.0
"""Assemble one bag from a calibrated camera and LiDAR frame and the bag of an event camera.

The two were not recorded together: the frame is static while the events move. The bag's metadata contain a note about
this. Image, point layout, event packets and camera-LiDAR calibration are real. The pose and the intrinsics of the event
camera are assumed here, not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.calibrated_frame import CalibratedFrame, load_calibrated_frame
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.serialization import Fields, camera_info, header, image, point_cloud, transforms
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.errors import BagError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.messages import stamp_ns
from mlesam_ros.simulation.export import INFO_TOPICS, TOPICS
from mlesam_ros.types import CAMERA, EVENT, LIDAR, NANOSECONDS

LIDAR_FRAME, CAMERA_FRAME, EVENT_FRAME = "lidar", "camera_optical_frame", "event_camera_optical_frame"
COMPRESSED_TOPIC = "/camera/image_raw/compressed"
_PACKET, _INFO = "event_camera_msgs/msg/EventPacket", "sensor_msgs/msg/CameraInfo"
_PERIOD = NANOSECONDS // 10
_EVENT_OFFSET = np.array([0.06, 0.0, 0.0])
"""Assumed position of the event camera in the camera's optical frame, meters; same orientation."""
_EVENT_WIDTH = 70.0
"""Assumed horizontal field of view of the event camera, degrees."""
_NOTE = (
    "Camera and LiDAR frame {still} and event recording {events} do not belong together: the frame is one still moment "
    "repeated at 10 Hz over the time of the events. The event camera's pose and lens are stated, not measured."
)


@dataclass(frozen=True)
class Assembled:
    """Result of an assembly: the bag's folder, the numbers of frames and packets, and warnings of the event bag."""

    path: Path
    frames: int
    packets: int
    warnings: tuple[str, ...]


def assemble_real_bag(
    camera_lidar_folder: str | Path,
    event_bag: str | Path,
    out: str | Path,
    compressed: bool = True,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Assembled:
    """Assemble one bag from a calibrated frame and a bag of event packets.

    Topics: `/camera/image_raw/compressed` with the bytes of the image file or `/camera/image_raw` with its pixels,
    `/camera/camera_info`, `/lidar/points` with the columns of the point cloud file, `/events` with the recorded
    packets, `/events/camera_info`, and `/tf_static` with both cameras below the LiDAR frame. All stamps lie in the time
    of the event recording.

    Args:
        camera_lidar_folder: see `calibrated_frame.load_calibrated_frame`.
        event_bag: a rosbag2 folder or file with one topic of `event_camera_msgs/EventPacket`.
        out: folder of the new bag; it must not exist.
        compressed: whether to write the bytes of the image file (`sensor_msgs/CompressedImage`) or the decoded image
            (`sensor_msgs/Image`, rgb8).
        progress: called with the number of packets copied and their total.

    Raises:
        BagError: a file is missing or damaged, or `out` exists.
        CalibrationError: the image size differs from that of its calibration; the message names both.
        CloudError: the point cloud is damaged.
    """
    still = load_calibrated_frame(camera_lidar_folder)
    with BagReader(event_bag) as reader:
        topic = _event_topic(reader)
        first = next(iter(reader.messages([topic])), None)
        if first is None:
            raise BagError(f"{event_bag} has no message on {topic}; a bag with event packets is needed.")
        note = _NOTE.format(still=Path(camera_lidar_folder).name, events=Path(event_bag).name)
        with BagWriter(out, {"note": note}) as writer:
            start = stamp_ns(first.message.header)
            lens = _event_lens(int(first.message.width), int(first.message.height))
            writer.add("/tf_static", "tf2_msgs/msg/TFMessage", start, _mounting(still, start), latched=True)
            image_file = _image_file(Path(camera_lidar_folder)) if compressed else None
            add_still = partial(_add_still, writer, still, image_file)
            frames, packets = _merge(writer, reader, topic, add_still, lens, progress)
        return Assembled(Path(out), frames, packets, tuple(reader.warnings))


def _event_topic(reader: BagReader) -> str:
    found = [topic for topic, kind in reader.topics.items() if kind == _PACKET]
    if len(found) != 1:
        raise BagError(
            f"{reader.path} has {len(found)} topics of {_PACKET} where exactly one is needed; "
            f"its topics are {', '.join(reader.topics) or 'none'}."
        )
    return found[0]


def _event_lens(width: int, height: int) -> CameraModel:
    focal = width / 2 / np.tan(np.radians(_EVENT_WIDTH / 2))
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return CameraModel(width, height, intrinsics, np.zeros(5), "plumb_bob")


def _mounting(still: CalibratedFrame, stamp: int) -> Fields:
    entries = [
        (LIDAR_FRAME, CAMERA_FRAME, still.camera_from_lidar.inverse()),
        (CAMERA_FRAME, EVENT_FRAME, Transform(np.eye(3), _EVENT_OFFSET)),
    ]
    return transforms(entries, stamp)


def _merge(
    writer: BagWriter,
    reader: BagReader,
    topic: str,
    add_still: Callable[[int], None],
    lens: CameraModel,
    progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Copy the packets; add the static frame once per `_PERIOD`."""
    frames = packets = 0
    due = None
    for _, kind, recorded, packet in reader.messages([topic]):
        stamp = stamp_ns(packet.header)
        due = stamp if due is None else due
        while stamp >= due:
            add_still(due)
            writer.add(INFO_TOPICS[EVENT], _INFO, due, camera_info(due, EVENT_FRAME, lens))
            frames, due = frames + 1, due + _PERIOD
        packet.header.frame_id = EVENT_FRAME
        writer.add_message(TOPICS[EVENT], kind, max(recorded, stamp), packet)
        packets += 1
        progress(packets, reader.counts[topic])
    return frames, packets


def _image_file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.suffix in (".jpg", ".jpeg", ".png"))


def _add_still(writer: BagWriter, still: CalibratedFrame, image_file: Path | None, stamp: int) -> None:
    writer.add(INFO_TOPICS[CAMERA], _INFO, stamp, camera_info(stamp, CAMERA_FRAME, still.camera))
    if image_file is not None:
        form = "png" if image_file.suffix == ".png" else "jpeg"
        fields = {"header": header(stamp, CAMERA_FRAME), "format": form, "data": np.fromfile(image_file, np.uint8)}
        writer.add(COMPRESSED_TOPIC, "sensor_msgs/msg/CompressedImage", stamp, fields)
    else:
        plain = image(stamp, CAMERA_FRAME, still.image)
        writer.add(TOPICS[CAMERA], "sensor_msgs/msg/Image", stamp, plain)
    sweep = point_cloud(stamp, LIDAR_FRAME, _at(still.points, stamp))
    writer.add(TOPICS[LIDAR], "sensor_msgs/msg/PointCloud2", stamp, sweep)


def _at(points: npt.NDArray[np.void], stamp: int) -> npt.NDArray[np.void]:
    """The sweep with its `timestamp` column, if any, shifted so that the newest point is at `stamp` nanoseconds."""
    if "timestamp" not in (points.dtype.names or ()) or not len(points):
        return points
    moved = points.copy()
    moved["timestamp"] += stamp / NANOSECONDS - points["timestamp"].max()
    return moved
