"""Export the street in DELIVER's folder layout (Zhang et al., CVPR 2023), for any DELIVER loader.

    root / {img, depth, hha, event, lidar, semantic} / weather / split / MAP_n_pointk[_fault] / 000000_rgb_front.png

All images are 8-bit PNGs. `hha` and `lidar` contain the output of the preprocessors `hha` and `deliver_lidar`. `event`
shows positive events blue and negative events red on black, as in CARLA's documentation. `depth` has the encoding of
CARLA's depth camera. `semantic` contains class + 1, so that 0 is unlabeled.
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
"""Image kind → folder. Loaders read the depth modality from the HHA images."""
_WORDS = {CAMERA: "rgb", DEPTH: "depth", EVENT: "event", LIDAR: "lidar", LABELS: "semantic", RAW_DEPTH: "depth"}
_PREPROCESSORS = {DEPTH: HHA.name, LIDAR: DeliverLidar.name}
_CARLA_FAR = 1000.0
"""Depth in meters at which all 24 bits of CARLA's depth are set: https://carla.readthedocs.io/en/latest/ref_sensors/."""


def frame_path(root: Path, what: Modality, weather: str, split: str, scene: str, number: str) -> Path:
    """Path of a file in the layout, for a key of `FOLDERS` and a frame number of six digits."""
    return root / FOLDERS[what] / weather / split / scene / f"{number}_{_WORDS[what]}_front.png"


def scene_name(world: World) -> str:
    """Scene name of a street: map number = seed, plus the fault, if any."""
    return f"MAP_{world.seed}_point1" + (f"_{world.fault.name}" if world.fault.name != NO_FAULT else "")


def write_deliver(root: str | Path, world: World, split: str, moments: Iterable[int]) -> list[Path]:
    """Write simulation steps of a street.

    Args:
        root: folder of the data set; created if it does not exist.
        world: the street, with all its sensors.
        split: train, val or test.
        moments: indices of the simulation steps, used as frame numbers.

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
    made: set[Path] = set()
    try:
        for index in moments:
            for what, pixels in _pictures(world, world.moment(index)).items():
                path = frame_path(Path(root), what, world.weather.name, split, scene, f"{index:06d}")
                made.add(path.parent)
                write_image(path, pixels)
                if what == CAMERA:
                    written.append(path)
    except BaseException:  # an incomplete scene would block the next export
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return written


def _pictures(world: World, moment: SimFrame) -> dict[str, Pixels]:
    """Key of `FOLDERS` → (H, W, 3) RGB, or (H, W) for labels."""
    frames = moment.frames
    camera, depth, events = (frames[m].payload for m in (CAMERA, DEPTH, EVENT))
    assert isinstance(camera, RawImage) and isinstance(depth, RawImage) and isinstance(events, EventWindow)
    frame_set = FrameSet(moment.stamp, CAMERA, frames, dict.fromkeys(frames, 0))
    encoded = encode(frame_set, world.rig, world.size, make_preprocessors(_PREPROCESSORS))
    shown = {m: np.rint(255 * image).astype(np.uint8).transpose(1, 2, 0) for m, image in encoded.items()}
    meters = depth.data.view("<u2").reshape(world.size) / 1000
    return {
        CAMERA: camera.data.reshape(*world.size, 3), EVENT: draw_events(events), **shown,
        RAW_DEPTH: _carla_depth(meters), LABELS: np.where(moment.labels == 255, 0, moment.labels + 1).astype(np.uint8),
    }  # fmt: skip


def draw_events(events: EventWindow) -> Pixels:
    """(H, W, 3) RGB: positive events blue, negative red; the last event of a pixel wins."""
    picture = np.zeros((events.height, events.width, 3), np.uint8)
    picture[events.y, events.x] = np.where(events.polarity[:, None], (0, 0, 255), (255, 0, 0))
    return picture


def _carla_depth(meters: npt.NDArray[Any]) -> Pixels:
    """24-bit depth in red, green and blue, low byte first; holes have the maximum depth."""
    code = np.where(meters > 0, meters / _CARLA_FAR, 1.0) * (2**24 - 1)
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
