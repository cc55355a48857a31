"""Contact sheet of the simulated street: one row of sensors per weather, then one tile per fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.projection import project
from mlesam_ros.labels import load_label_space
from mlesam_ros.simulation.deliver_export import draw_events, write_image
from mlesam_ros.simulation.weather import FAULTS, NO_FAULT, WEATHERS
from mlesam_ros.simulation.world import SimFrame, World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, EventWindow, Modality, PointCloud, RawImage
from mlesam_ros.visualization import colorize

Rgb = npt.NDArray[np.uint8]

_SIDE = 272  # pixels of a tile
_CAPTION = 22
_INK, _PAPER = (235, 235, 235), (24, 24, 28)
_FARTHEST = 60.0  # meters; drawn blue
_COLUMNS = (CAMERA, DEPTH, LIDAR, EVENT, "labels")
_HURT = {"lidarjitter": LIDAR, "eventlowres": EVENT}  # other faults affect the camera


TILES = len(WEATHERS) * len(_COLUMNS) + len(FAULTS) - 1


def write_contact_sheet(
    path: Path, seed: int, index: int, side: int = 512, progress: Callable[[int, int], None] = lambda done, of: None
) -> None:
    """Draw one simulation step of a street under every condition.

    Args:
        path: output image; its suffix selects the format.
        seed: seed of the street.
        index: simulation step.
        side: height and width of the rendered images in pixels.
        progress: called with the number of drawn tiles and their total.

    Raises:
        ConfigError: OpenCV cannot write the format of the suffix, or the folder does not exist.
    """
    if not (cv2.haveImageWriter(path.name) and path.parent.is_dir()):
        raise ConfigError(f"{path} cannot be written.", "Name a .jpg or .png file in a folder that exists.")
    worlds = [World(seed, weather, (side, side)) for weather in WEATHERS]
    faulty = [World(seed, "sun", (side, side), fault=fault) for fault in FAULTS if fault != NO_FAULT]
    rows, drawn = [], 0
    for world in worlds:
        rows.append(_weather_row(world, index))
        progress(drawn := drawn + len(_COLUMNS), TILES)
    tiles = []
    for world in faulty:
        tiles.append(_fault_tile(world, index))
        progress(drawn := drawn + 1, TILES)
    rows.append(np.hstack(tiles))
    write_image(path, np.vstack(rows), cv2.IMWRITE_JPEG_QUALITY, 82)


def _weather_row(world: World, index: int) -> Rgb:
    moment = world.moment(index)
    return np.hstack([_tile(_draw(world, moment, what), f"{world.weather.name}: {what}") for what in _COLUMNS])


def _fault_tile(world: World, index: int) -> Rgb:
    name = world.fault.name
    return _tile(_draw(world, world.moment(index), _HURT.get(name, CAMERA)), f"{world.weather.name}: {name}")


def _tile(picture: Rgb, caption: str) -> Rgb:
    how = cv2.INTER_AREA if picture.shape[0] >= _SIDE else cv2.INTER_NEAREST
    tile = np.full((_SIDE + _CAPTION, _SIDE + 4, 3), _PAPER, np.uint8)
    tile[_CAPTION:, 2:-2] = cv2.resize(picture, (_SIDE, _SIDE), interpolation=how)
    cv2.putText(tile, caption, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
    return tile


def _draw(world: World, moment: SimFrame, what: Modality) -> Rgb:
    if what not in moment.frames:
        return colorize(moment.labels, load_label_space("deliver"))
    payload = moment.frames[what].payload
    if isinstance(payload, EventWindow):
        return draw_events(payload)
    if isinstance(payload, PointCloud):
        return _draw_cloud(world, payload)
    assert isinstance(payload, RawImage)
    if what == DEPTH:
        meters = payload.data.view("<u2").reshape(payload.height, payload.width) / 1000
        return _near_to_far(meters.astype(np.float32))
    return payload.data.reshape(payload.height, payload.width, 3)


def _draw_cloud(world: World, cloud: PointCloud) -> Rgb:
    xyz = np.stack([cloud.points[axis] for axis in "xyz"], 1)
    seen = project(xyz, world.rig.extrinsic("lidar"), world.rig.camera, world.size, near=0.5, dilation=2)
    meters = np.zeros(world.size, np.float32)
    meters[seen.rows, seen.cols] = seen.range
    return _near_to_far(meters)


def _near_to_far(meters: npt.NDArray[np.float32]) -> Rgb:
    """Colorize distances: orange near, blue far, black without a value."""
    share = np.clip(np.log1p(meters) / np.log1p(_FARTHEST), 0, 1)
    colors = cv2.applyColorMap((235 - 215 * share).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(meters[..., None] > 0, colors, 0).astype(np.uint8)
