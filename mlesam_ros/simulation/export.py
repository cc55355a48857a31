# SPDX-License-Identifier: Apache-2.0
"""Write the simulated street to a bag, with the topics and message types of a real vehicle, or as a DELIVER data set.

DELIVER's folder layout (Zhang et al., CVPR 2023), for any DELIVER loader:

    root / {img, depth, hha, event, lidar, semantic} / weather / split / MAP_n_pointk[_fault] / 000000_rgb_front.png

All images are 8-bit PNGs. `hha` and `lidar` contain the output of the preprocessors `hha` and `deliver_lidar`. `event`
shows positive events blue and negative events red on black, as in CARLA's documentation. `depth` has the encoding of
CARLA's depth camera. `semantic` contains class + 1, so that 0 is unlabeled.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.serialization import camera_info, event_packet, image, point_cloud, transforms
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.errors import ConfigError, DatasetError
from mlesam_ros.files import atomic_write, write_error
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.messages import CAMERA_INFO, TF_MESSAGE
from mlesam_ros.preprocessing.depth import HHA
from mlesam_ros.preprocessing.lidar import DeliverLidar
from mlesam_ros.preprocessing.preprocessors import encode, make_preprocessors
from mlesam_ros.simulation.sensors import BASE_FRAME, CAMERA_FRAME, EVENT_FRAME, ODOM_FRAME
from mlesam_ros.simulation.weather import NO_FAULT
from mlesam_ros.simulation.world import SimFrame, World
from mlesam_ros.types import (
    CAMERA,
    DEPTH,
    EVENT,
    EVENT_PACKET,
    IMAGE,
    LIDAR,
    POINT_CLOUD,
    EventWindow,
    FrameSet,
    Modality,
    PointCloud,
    RawImage,
)

LABELS_TOPIC = "/ground_truth/labels"
TOPICS = {CAMERA: "/camera/image_raw", DEPTH: "/depth/image_raw", LIDAR: "/lidar/points", EVENT: "/events"}
"""Modality → topic."""
INFO_TOPICS = {CAMERA: "/camera/camera_info", DEPTH: "/depth/camera_info", EVENT: "/events/camera_info"}
"""Modality → CameraInfo topic."""


def write_simulated_bag(
    path: str | Path,
    world: World,
    steps: Iterable[int] | None = None,
    progress: Callable[[int], None] | None = None,
    cameras: Mapping[str, World] = MappingProxyType({}),
) -> Path:
    """Simulate a drive along a street and record it.

    Args:
        path: folder of the bag; it must not exist.
        world: the street; its dropped sensors have no topic.
        steps: indices of the simulation steps; all `len(world)` by default.
        progress: called after every step with the number of steps done.
        cameras: name of a further camera → the same street as it sees it. Its topics are below its name, and its frames
            begin with it; it has no LiDAR of its own.

    Returns:
        The bag's folder.

    Raises:
        BagError: the folder exists or the disk is full.
    """
    condition = f"{world.weather.name}, fault {world.fault.name}, style {world.style}"
    notes = {"simulated": f"mlesam_ros street, seed {world.seed}, {condition}, {world.size[1]}x{world.size[0]}"}
    with BagWriter(path, notes) as writer:
        for done, index in enumerate(range(len(world)) if steps is None else steps):
            sample = world.sample(index)
            if done == 0:
                placed = [*world.rig.tree.static_transforms(), *_placed_cameras(cameras)]
                writer.add("/tf_static", TF_MESSAGE, sample.stamp, transforms(placed, sample.stamp), latched=True)
            writer.add(
                "/tf", TF_MESSAGE, sample.stamp, transforms([(ODOM_FRAME, BASE_FRAME, sample.pose)], sample.stamp)
            )
            _add_sample(writer, world, sample)
            for camera, street in cameras.items():
                _add_sample(writer, street, street.sample(index), camera)
            if progress is not None:
                progress(done + 1)
    return Path(path)


def _placed_cameras(cameras: Mapping[str, World]) -> list[tuple[str, str, Transform]]:
    """Parent frame, frame and pose of each camera."""
    lookups = {camera: street.rig.tree.lookup(BASE_FRAME, CAMERA_FRAME) for camera, street in cameras.items()}
    return [(BASE_FRAME, f"{camera}_{CAMERA_FRAME}", pose) for camera, pose in lookups.items()]


def _add_sample(writer: BagWriter, world: World, sample: SimFrame, camera: str = "") -> None:
    stamp = sample.stamp
    space, prefix = (f"/{camera}", f"{camera}_") if camera else ("", "")
    for modality, topic in INFO_TOPICS.items():
        if modality not in sample.frames and modality != CAMERA:  # labels need the info of a dropped camera
            continue
        frame_id = EVENT_FRAME if modality == EVENT else CAMERA_FRAME
        info = camera_info(stamp, prefix + frame_id, world.rig.model(frame_id))
        writer.add(space + topic, CAMERA_INFO, stamp, info)
    for modality, frame in sample.frames.items():
        topic, frame_id = space + TOPICS[modality], prefix + frame.frame_id
        if isinstance(frame.payload, RawImage):
            writer.add(topic, IMAGE, stamp, image(stamp, frame_id, frame.payload))
        elif isinstance(frame.payload, PointCloud):
            writer.add(topic, POINT_CLOUD, stamp, point_cloud(stamp, frame_id, frame.payload.points))
        else:
            packet = sample.packet_stamp, frame_id, world.event_size, sample.index, sample.evt3
            writer.add(topic, EVENT_PACKET, stamp, event_packet(*packet))
    height, width = sample.labels.shape
    labels = RawImage(height, width, "mono8", width, np.ascontiguousarray(sample.labels).reshape(-1))
    writer.add(space + LABELS_TOPIC, IMAGE, stamp, image(stamp, prefix + CAMERA_FRAME, labels))


Pixels = npt.NDArray[np.uint8]

SPLITS = ("train", "val", "test")
RAW_DEPTH, LABELS = "raw_depth", "labels"
FOLDERS = {CAMERA: "img", DEPTH: "hha", EVENT: "event", LIDAR: "lidar", LABELS: "semantic", RAW_DEPTH: "depth"}
"""Image kind → folder. Loaders read the depth modality from the HHA images."""
_FILE_TOKENS = {CAMERA: "rgb", DEPTH: "depth", EVENT: "event", LIDAR: "lidar", LABELS: "semantic", RAW_DEPTH: "depth"}
_PREPROCESSORS = {DEPTH: HHA.name, LIDAR: DeliverLidar.name}
_CARLA_MAX_DEPTH_M = 1000.0
"""Depth in meters at which all 24 bits of CARLA's depth are set: https://carla.readthedocs.io/en/latest/ref_sensors/."""


def frame_path(root: Path, kind: Modality, weather: str, split: str, scene: str, number: str) -> Path:
    """Path of a file in the layout, for a key of `FOLDERS` and a frame number of six digits."""
    return root / FOLDERS[kind] / weather / split / scene / f"{number}_{_FILE_TOKENS[kind]}_front.png"


def scene_name(world: World) -> str:
    """Scene name of a street: map number = seed, plus the fault, if any."""
    return f"MAP_{world.seed}_point1" + (f"_{world.fault.name}" if world.fault.name != NO_FAULT else "")


def write_deliver_scene(root: str | Path, world: World, split: str, steps: Iterable[int]) -> list[Path]:
    """Write simulation steps of a street.

    Args:
        root: folder of the data set; created if it does not exist.
        world: the street, with all its sensors.
        split: train, val or test.
        steps: indices of the simulation steps, used as frame numbers.

    Returns:
        Paths of the camera images.

    Raises:
        ConfigError: the split does not exist, or a sensor is dropped, which the layout cannot represent.
        DatasetError: the scene exists already.
        FileError: the disk is full; the files of the scene are removed.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is not known; DELIVER has {', '.join(SPLITS)}.")
    if world.dropped:
        raise ConfigError(f"{' and '.join(world.dropped)} dropped: every frame of DELIVER has all four sensors.")
    scene, written = scene_name(world), []
    folder = frame_path(Path(root), CAMERA, world.weather.name, split, scene, "").parent
    if folder.exists():
        raise DatasetError(f"{folder} exists already.", "Choose another seed, split or folder.")
    folders: set[Path] = set()
    try:
        for index in steps:
            for kind, pixels in _deliver_images(world, world.sample(index)).items():
                path = frame_path(Path(root), kind, world.weather.name, split, scene, f"{index:06d}")
                folders.add(path.parent)
                write_image(path, pixels)
                if kind == CAMERA:
                    written.append(path)
    except BaseException:  # an incomplete scene would block the next export
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return written


def _deliver_images(world: World, sample: SimFrame) -> dict[str, Pixels]:
    """Key of `FOLDERS` → (H, W, 3) RGB, or (H, W) for labels."""
    frames = sample.frames
    camera, depth, events = (frames[m].payload for m in (CAMERA, DEPTH, EVENT))
    assert isinstance(camera, RawImage) and isinstance(depth, RawImage) and isinstance(events, EventWindow)
    frame_set = FrameSet(sample.stamp, CAMERA, frames, dict.fromkeys(frames, 0))
    encoded = encode(frame_set, world.rig, world.size, make_preprocessors(_PREPROCESSORS))
    shown = {m: np.rint(255 * image).astype(np.uint8).transpose(1, 2, 0) for m, image in encoded.items()}
    meters = depth.data.view("<u2").reshape(world.size) / 1000
    return {
        CAMERA: camera.data.reshape(*world.size, 3), EVENT: draw_events(events), **shown,
        RAW_DEPTH: _carla_depth(meters), LABELS: np.where(sample.labels == 255, 0, sample.labels + 1).astype(np.uint8),
    }  # fmt: skip


def draw_events(events: EventWindow) -> Pixels:
    """(H, W, 3) RGB: positive events blue, negative red; the last event of a pixel wins."""
    image = np.zeros((events.height, events.width, 3), np.uint8)
    image[events.y, events.x] = np.where(events.polarity[:, None], (0, 0, 255), (255, 0, 0))
    return image


def _carla_depth(meters: npt.NDArray[Any]) -> Pixels:
    """24-bit depth in red, green and blue, low byte first; holes have the maximum depth."""
    code = np.where(meters > 0, meters / _CARLA_MAX_DEPTH_M, 1.0) * (2**24 - 1)
    whole = np.rint(code).astype(np.uint32)
    return np.stack([whole & 255, (whole >> 8) & 255, whole >> 16], 2).astype(np.uint8)


def write_image(path: Path, pixels: Pixels, *options: int) -> None:
    """Write an image atomically, in the format of its suffix; create its folder.

    Args:
        path: path of the file.
        pixels: (H, W, 3) RGB, or (H, W).
        options: parameters of `cv2.imencode`.

    Raises:
        FileError: the file or its folder cannot be written.
    """
    _, encoded = cv2.imencode(path.suffix, pixels if pixels.ndim == 2 else pixels[..., ::-1], options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path.parent, error, 0) from error
    atomic_write(path, encoded.tobytes())
