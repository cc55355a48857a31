"""The street in DELIVER's folder layout (Zhang et al., CVPR 2023), so that every loader of DELIVER reads it.

    root / {img, depth, hha, event, lidar, semantic} / weather / split / MAP_n_pointk[_fault] / 000000_rgb_front.png

All pictures are 8-bit PNGs. `hha` and `lidar` are what the encoders `hha` and `deliver_lidar` show; `event` paints
brighter blue and darker red on black, as CARLA's documentation does; `depth` is coded as CARLA's depth camera does;
`semantic` holds class + 1, so that 0 is unlabeled.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, DatasetError
from mlesam_ros.files import atomic_write, write_error
from mlesam_ros.preprocessing.depth import HHA
from mlesam_ros.preprocessing.lidar import DeliverLidar
from mlesam_ros.preprocessing.preprocessors import encode, make_preprocessors
from mlesam_ros.simulation.weather import NO_FAULT
from mlesam_ros.simulation.world import SimFrame, World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, EventWindow, FrameSet, Modality, RawImage

Pixels = npt.NDArray[np.uint8]

SPLITS = ("train", "val", "test")
RAW_DEPTH, LABELS = "raw_depth", "labels"
FOLDERS = {CAMERA: "img", DEPTH: "hha", EVENT: "event", LIDAR: "lidar", LABELS: "semantic", RAW_DEPTH: "depth"}
"""What is shown → its folder. The modality depth is read from the HHA pictures."""
_WORDS = {CAMERA: "rgb", DEPTH: "depth", EVENT: "event", LIDAR: "lidar", LABELS: "semantic", RAW_DEPTH: "depth"}
_ENCODERS = {DEPTH: HHA.name, LIDAR: DeliverLidar.name}
_CARLA_FAR = 1000.0
"""Meters at which all 24 bits of CARLA's depth are set: https://carla.readthedocs.io/en/latest/ref_sensors/."""


def frame_path(root: Path, what: Modality, weather: str, split: str, scene: str, number: str) -> Path:
    """Where the layout puts a file; `what` is a key of `FOLDERS`, `number` the frame's six digits."""
    return root / FOLDERS[what] / weather / split / scene / f"{number}_{_WORDS[what]}_front.png"


def scene_name(world: World) -> str:
    """A street's scene: its seed is the number of the map."""
    return f"MAP_{world.seed}_point1" + (f"_{world.fault.name}" if world.fault.name != NO_FAULT else "")


def write_deliver(root: str | Path, world: World, split: str, moments: Iterable[int]) -> list[Path]:
    """Write moments of a street.

    Args:
        root: of the data set; made where it does not exist.
        world: the street, with all its sensors.
        split: train, val or test.
        moments: numbers of the moments; they become the frames' numbers.

    Returns:
        The camera's pictures.

    Raises:
        ConfigError: no such split, or a sensor is dropped: the layout has no word for that.
        DatasetError: the scene is there already.
        FileError: the disk is full; nothing is left of the scene.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is not known; DELIVER has {', '.join(SPLITS)}.")
    if world.dropped:
        raise ConfigError(f"{' and '.join(world.dropped)} dropped: every frame of DELIVER has all four sensors.")
    scene, written = scene_name(world), []
    folder = frame_path(Path(root), CAMERA, world.weather.name, split, scene, "").parent
    if folder.exists():
        raise DatasetError(f"{folder} exists already.", "Choose another seed, split or folder.")
    made: set[Path] = set()
    try:
        for index in moments:
            for what, pixels in _pictures(world, world.moment(index)).items():
                path = frame_path(Path(root), what, world.weather.name, split, scene, f"{index:06d}")
                made.add(path.parent)
                write_image(path, pixels)
                if what == CAMERA:
                    written.append(path)
    except BaseException:  # half a scene would block the next try
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return written


def _pictures(world: World, moment: SimFrame) -> dict[str, Pixels]:
    """What is shown → (H, W, 3) RGB, or (H, W) for labels."""
    frames = moment.frames
    camera, depth, events = (frames[m].payload for m in (CAMERA, DEPTH, EVENT))
    assert isinstance(camera, RawImage) and isinstance(depth, RawImage) and isinstance(events, EventWindow)
    frame_set = FrameSet(moment.stamp, CAMERA, frames, dict.fromkeys(frames, 0))
    encoded = encode(frame_set, world.rig, world.size, make_preprocessors(_ENCODERS))
    shown = {m: np.rint(255 * image).astype(np.uint8).transpose(1, 2, 0) for m, image in encoded.items()}
    meters = depth.data.view("<u2").reshape(world.size) / 1000
    return {
        CAMERA: camera.data.reshape(*world.size, 3), EVENT: draw_events(events), **shown,
        RAW_DEPTH: _carla_depth(meters), LABELS: np.where(moment.labels == 255, 0, moment.labels + 1).astype(np.uint8),
    }  # fmt: skip


def draw_events(events: EventWindow) -> Pixels:
    """(H, W, 3) RGB: brighter blue, darker red, the last of a pixel's events on top."""
    picture = np.zeros((events.height, events.width, 3), np.uint8)
    picture[events.y, events.x] = np.where(events.polarity[:, None], (0, 0, 255), (255, 0, 0))
    return picture


def _carla_depth(meters: npt.NDArray[Any]) -> Pixels:
    """24 bits over red, green and blue, the lowest first; holes are as far as can be."""
    code = np.where(meters > 0, meters / _CARLA_FAR, 1.0) * (2**24 - 1)
    whole = np.rint(code).astype(np.uint32)
    return np.stack([whole & 255, (whole >> 8) & 255, whole >> 16], 2).astype(np.uint8)


def write_image(path: Path, pixels: Pixels, *options: int) -> None:
    """Write an image as its suffix says, whole or not at all; its folder is made.

    Args:
        path: of the file.
        pixels: (H, W, 3) RGB, or (H, W).
        options: of `cv2.imencode`.

    Raises:
        FileError: it cannot be written.
    """
    _, encoded = cv2.imencode(path.suffix, pixels if pixels.ndim == 2 else pixels[..., ::-1], options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path.parent, error, 0) from error
    atomic_write(path, encoded.tobytes())
