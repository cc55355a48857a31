# SPDX-License-Identifier: Apache-2.0
"""A camera image and a LiDAR sweep with their calibration: loaded from a folder or a bag, scored, and drawn.

`open_scene` loads a `Scene`, which projects the points and computes their depth spread inside image segments;
`draw_projection` and `draw_inputs` draw it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.calibrated_frame import load_calibrated_frame
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import NodeParameters
from mlesam_ros.doctor.calibration_checks import DepthSpread, Segments, best_yaw, rotate_extrinsic, score_by_yaw
from mlesam_ros.errors import BagError, MlesamError
from mlesam_ros.evaluation.bag_sensors import BagRig, find_topics
from mlesam_ros.evaluation.replay import Replay
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Lens, Rig, load_rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.labels import load_label_space
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.preprocessing.point_cloud import cloud_xyz
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, make_preprocessors
from mlesam_ros.preprocessing.registration import FrameContext, cloud_to_camera
from mlesam_ros.types import (
    CAMERA,
    LIDAR,
    CompressedImage,
    FrameSet,
    Modality,
    PointCloud,
    RawImage,
    SensorFrame,
)

RGB = npt.NDArray[np.uint8]

_CELL_SPACINGS_PX = (48, 64, 96)
"""Distances of the watershed seeds in an image 1920 pixels wide; several, for objects of several sizes."""
_REFERENCE_WIDTH_PX = 1920
_MIN_CELL_POINTS = 8
"""Fewer than for a mask, since cells are smaller."""


def mask_segments(folder: str | Path, size: tuple[int, int]) -> Segments | None:
    """Read the masks in a folder, one image each, nonzero inside; None if there is no folder or no mask.

    Args:
        folder: folder of .png files.
        size: (height, width) of the image that the masks belong to.

    Raises:
        BagError: a mask cannot be read or has another size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    masks = []
    for path in sorted(folder.glob("*.png")):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise BagError(f"{path} is not a decodable image.", "Store masks as gray PNG files.")
        if mask.shape != size:
            raise BagError(f"{path} is {mask.shape[1]}x{mask.shape[0]}; its image is {size[1]}x{size[0]}.")
        masks.append(mask > 0)
    return Segments(masks) if masks else None


def outline_segments(rgb: RGB) -> Segments:
    """Segment an image into watershed cells that grow from a grid of seeds to the image's edges.

    The cells are smaller than objects and have no semantics, so their score is less reliable than that of masks.

    Args:
        rgb: (H, W, 3) uint8.
    """
    smooth = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), (0, 0), 2)
    steepness = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(axis=2)
    cells = [_cells(steepness, max(cell * rgb.shape[1] // _REFERENCE_WIDTH_PX, 8)) for cell in _CELL_SPACINGS_PX]
    return Segments(cells, min_pixels=1, max_pixels=rgb.shape[0] * rgb.shape[1], min_points=_MIN_CELL_POINTS)


def _cells(steepness: RGB, spacing: int) -> npt.NDArray[np.int32]:
    """Return (H, W) int32 cell ids from 1; 0 on the lines between cells."""
    seeds, count, reach = np.zeros(steepness.shape, np.int32), 0, spacing // 3
    for y in range(spacing // 2, steepness.shape[0], spacing):
        for x in range(spacing // 2, steepness.shape[1], spacing):
            top, left = max(y - reach, 0), max(x - reach, 0)
            around = steepness[top : y + reach + 1, left : x + reach + 1]
            row, col = divmod(int(around.argmin()), around.shape[1])
            count += 1
            seeds[top + row, left + col] = count
    return np.asarray(np.maximum(cv2.watershed(cv2.merge([steepness] * 3), seeds), 0), np.int32)


_MIN_DEPTH_M = 1.0
"""Minimum depth of drawn points; nearer points lie on the robot itself."""
_MAX_SETS = 50
"""Maximum number of frame sets that are searched for one with all sensors."""
_CAMERA_FRAME, _LIDAR_FRAME = "camera_optical_frame", "lidar"


@dataclass(frozen=True, eq=False)
class Scene:
    """A camera image and a LiDAR sweep with their calibration.

    Attributes:
        name: name of the folder or bag.
        rgb: (H, W, 3) uint8.
        points: (N, 3) float64 meters in the camera's optical frame at the set's time, as preprocessors place them.
        camera: camera model of the image.
        turn: rotation added in the optical frame.
        masks: folder of the image's masks; None for a bag.
        frames: frame set of the image and the sweep.
        rig: rig for the preprocessors, without the added rotation.
        added: the added angles, such as `yaw +1 deg`; empty without.
    """

    name: str
    rgb: RGB
    points: npt.NDArray[np.float64]
    camera: CameraModel
    turn: Transform
    masks: Path | None
    frames: FrameSet
    rig: Rig
    added: str = ""

    def rotated(self, yaw: float, pitch: float, roll: float) -> Scene:
        """Return the scene with angles in degrees added to the extrinsic rotation."""
        angles = {"yaw": yaw, "pitch": pitch, "roll": roll}
        added = ", ".join(f"{name} {angle:+g} deg" for name, angle in angles.items() if angle)
        return replace(self, turn=rotate_extrinsic(self.turn, **angles), added=added)

    @cached_property
    def projected(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """(rows, columns, meters from the camera) of the points that project into the image."""
        optical = self.turn.apply(self.points)
        index, u, v = self.camera.project_visible(optical, _MIN_DEPTH_M)
        rows, cols = np.floor(v + 0.5).astype(np.intp), np.floor(u + 0.5).astype(np.intp)
        return rows, cols, np.linalg.norm(optical[index], axis=1)

    @property
    def landed(self) -> int:
        """Number of points that project into the image."""
        return len(self.projected[0])

    @cached_property
    def _masks(self) -> Segments | None:
        return mask_segments(self.masks, self.rgb.shape[:2]) if self.masks else None

    @cached_property
    def segments(self) -> Segments:
        """Segments of the image: its masks, otherwise its outlines."""
        return self._masks or outline_segments(self.rgb)

    @property
    def segments_from(self) -> str:
        """Source of the segments: `masks` or `outlines`."""
        return "masks" if self._masks else "outlines"

    @cached_property
    def scores(self) -> Mapping[float, DepthSpread]:
        """Added yaw in degrees → depth spread inside the segments."""
        return score_by_yaw(self.points, self.turn, self.camera, self.segments)

    @property
    def best_yaw(self) -> float | None:
        """Added yaw in degrees with the lowest depth spread; None if no segment has enough points."""
        return best_yaw(self.scores)


def open_scene(
    path: Path, fit: str | None, calibration: Path | None, parameters: NodeParameters, after: float
) -> Scene:
    """Read a scene from a folder or a bag.

    Args:
        path: a folder of `mlesam_ros.bags.calibrated_frame`, or a bag.
        fit: relation of an image to a calibration of another size; None to reject it.
        calibration: calibration file that overrides the bag's own calibration.
        parameters: node parameters that describe the bag's sensors.
        after: start in seconds from the beginning of the bag.

    Raises:
        MlesamError: a file is missing or damaged, or the sensors do not fit together.
    """
    if path.is_dir() and any(path.glob("*.pcd")):
        return _from_frame(path, fit)
    return _from_bag(path, fit, calibration, parameters, after)


def _from_frame(folder: Path, fit: str | None) -> Scene:
    frame = load_calibrated_frame(folder, fit)
    rig = Rig(_CAMERA_FRAME, {_CAMERA_FRAME: frame.camera})
    rig.tree.set(_CAMERA_FRAME, _LIDAR_FRAME, frame.camera_from_lidar)
    payloads: list[tuple[str, str, Any]] = [
        (CAMERA, _CAMERA_FRAME, frame.image),
        (LIDAR, _LIDAR_FRAME, PointCloud(frame.points)),
    ]
    frames = {modality: SensorFrame(modality, 0, frame, payload) for modality, frame, payload in payloads}
    frame_set = FrameSet(0, CAMERA, frames, dict.fromkeys(frames, 0))
    return _scene(folder, frame_set, rig, frame.camera, folder / "masks")


def _from_bag(path: Path, fit: str | None, calibration: Path | None, parameters: NodeParameters, after: float) -> Scene:
    with BagReader(path) as reader:
        found = find_topics(reader.topics, parameters)
        missing = [modality for modality in (CAMERA, LIDAR) if modality not in found.sensors]
        if missing:
            if disabled := [modality for modality in missing if modality not in parameters.modalities]:
                raise BagError(
                    f"modalities is {list(parameters.modalities)}; camera and lidar are needed.",
                    f"Add {' and '.join(disabled)} to modalities.",
                )
            known, absent = ", ".join(reader.topics) or "none", " and ".join(missing)
            remedy = f"Set it with -p {missing[0]}.topic:=TOPIC."
            raise BagError(f"{path} has no topic for {absent}; its topics are {known}.", remedy)
        bag_rig = BagRig(reader, found, parameters)
        replay = Replay(reader, found, bag_rig, load_label_space("deliver"), parameters)
        sets = (step for step in replay.steps(after) if isinstance(step, FrameSet))
        best = _fullest(itertools.islice(sets, _MAX_SETS), len(found.sensors))
    if best is None or not {CAMERA, LIDAR} <= set(best.frames):
        reasons = " ".join([*replay.problems.values(), *replay.warnings])
        raise BagError(f"{path} has no set with camera and LiDAR after {after:g} s. {reasons}".rstrip())
    rig = bag_rig.rig.of_set(best)
    rig.lenses = rig.lenses | {m: f.lens for m, f in best.frames.items() if isinstance(f.lens, Lens)}
    if calibration is not None:
        _override(rig, load_rig(calibration))
    rig.camera_frame = rig.camera_frame or best.frames[CAMERA].frame_id
    best = replace(best, frames={m: replace(frame, lens=None) for m, frame in best.frames.items()})
    return _scene(path, best, rig, _fitted(best.frames[CAMERA], rig, fit), None)


def _fullest(sets: Iterable[FrameSet], sensors: int) -> FrameSet | None:
    """Return the first set with all sensors, otherwise the first one with the most sensors; None without sets."""
    best: FrameSet | None = None
    for frame_set in sets:
        if best is None or len(frame_set.frames) > len(best.frames):
            best = frame_set
        if len(best.frames) == sensors:
            break
    return best


def _override(rig: Rig, calibration: Rig) -> None:
    """Override the calibration of a bag by that of a file, which is the one to be examined."""
    if CAMERA not in rig.lenses:
        rig.camera_frame = calibration.camera_frame
    rig.models.update(calibration.models)
    rig.lenses = {m: lens for m, lens in rig.lenses.items() if lens.frame_id not in calibration.models}
    for parent, child, transform in calibration.tree.static_transforms():
        rig.tree.set(parent, child, transform)


def _fitted(frame: SensorFrame, rig: Rig, fit: str | None) -> CameraModel:
    rgb = _rgb(frame)
    if fit is not None:
        fitted = rig.camera.adapt_to_size(rgb.shape[0], rgb.shape[1], fit)
        rig.lenses = rig.lenses | {CAMERA: Lens(rig.camera_frame, fitted)}
    rig.camera.check(rgb.shape[0], rgb.shape[1], "camera image")
    return rig.camera


def _rgb(frame: SensorFrame) -> RGB:
    if not isinstance(frame.payload, RawImage | CompressedImage):
        raise BagError(f"the camera's payload is {type(frame.payload).__name__}; it must be an image.")
    return to_rgb(frame.payload)


def _scene(path: Path, frame_set: FrameSet, rig: Rig, camera: CameraModel, masks: Path | None) -> Scene:
    sweep = frame_set.frames[LIDAR]
    if not isinstance(sweep.payload, PointCloud):
        raise BagError(f"the LiDAR's payload is {type(sweep.payload).__name__}; it must be a point cloud.")
    context = FrameContext(frame_set.time, frame_set.frames)
    transform, xyz = cloud_to_camera(sweep, rig, context), cloud_xyz(sweep.payload)
    points = transform.apply(xyz.astype(np.float64)).astype(np.float64, copy=False)
    rgb = _rgb(frame_set.frames[CAMERA])
    return Scene(path.stem, rgb, points, camera, Transform.identity(), masks, frame_set, rig)


_FOREGROUND, _BACKGROUND = (235, 235, 235), (24, 24, 28)
_MIN_DISTANCE_M, _MAX_DISTANCE_M = 2.0, 100.0
"""Ends of the color map; fixed, so that images of different scenes are comparable."""
_TICKS_M = (2, 5, 10, 20, 50, 100)
_BRIGHTNESS = 0.65
"""Brightness factor of the image behind the points."""
_MIN_WIDTH_PX = 1000
"""Narrower images are enlarged by an integer factor, so that points stay small relative to objects."""
_INPUT_SIDE_PX = 768
"""Longer side of a drawn network input, close to the input size of the experts."""


def draw_projection(scene: Scene) -> RGB:
    """Draw the points over the image, nearest on top, with caption and legend: (H, W, 3) uint8 RGB."""
    factor = -(-_MIN_WIDTH_PX // scene.rgb.shape[1])
    canvas = (np.repeat(np.repeat(scene.rgb, factor, axis=0), factor, axis=1) * _BRIGHTNESS).astype(np.uint8)
    rows, cols, meters = scene.projected
    order = np.argsort(-meters)
    _draw_dots(canvas, rows[order] * factor + factor // 2, cols[order] * factor + factor // 2, _colors(meters[order]))
    unit = canvas.shape[1] / _REFERENCE_WIDTH_PX
    added = f", {scene.added} added" if scene.added else ""
    score = scene.scores[0.0]
    caption = f"{scene.name}: {scene.landed} of {len(scene.points)} points are inside the image{added}"
    if score.segments:
        caption += f"; spread of depth inside {scene.segments_from} {score.score:.3f}"
    return np.concatenate([_caption(caption, canvas.shape[1], unit), canvas, _legend(canvas.shape[1], unit)])


def draw_inputs(scene: Scene) -> dict[str, RGB]:
    """Draw the input of each expert: name, such as `camera_rgb` → (h, w, 3) uint8.

    Colors span the 0.5th to the 99.5th percentile of each channel. A sensor that cannot be encoded gives an image with
    the error message.
    """
    height, width = scene.rgb.shape[:2]
    size = (round(height * _INPUT_SIDE_PX / max(height, width)), round(width * _INPUT_SIDE_PX / max(height, width)))
    names = {m: DEFAULT_PREPROCESSORS[m] for m in scene.frames.frames if m in DEFAULT_PREPROCESSORS}
    return {f"{m}_{name}": _draw_input(scene, m, name, size) for m, name in names.items()}


def _draw_input(scene: Scene, modality: Modality, name: str, size: tuple[int, int]) -> RGB:
    preprocessor = make_preprocessors({modality: name})[modality]
    context = FrameContext(scene.frames.time, scene.frames.frames)
    try:
        image = preprocessor(scene.frames.frames[modality], scene.rig, size, context).transpose(1, 2, 0)
    except MlesamError as error:
        return _caption(str(error), size[1], 0.5)
    mean, std = np.array(preprocessor.normalization[0]), np.array(preprocessor.normalization[1])
    valid = (image != 0).any(axis=2)
    values = image * std + mean
    low, high = np.percentile(values[valid], (0.5, 99.5), axis=0) if valid.any() else (mean, mean + 1)
    shown = np.clip((values - low) / np.maximum(high - low, 1e-6), 0, 1) * 255
    shown[~valid] = 0
    ranges = " ".join(f"{least:.3g}..{most:.3g}" for least, most in zip(low, high, strict=True))
    caption = _caption(f"{name}: {ranges}; {100 * valid.mean():.1f} % of pixels", size[1], 0.5)
    return np.concatenate([caption, shown.astype(np.uint8)])


def _draw_dots(canvas: RGB, rows: npt.NDArray[np.intp], cols: npt.NDArray[np.intp], colors: RGB) -> None:
    """Draw round dots in order, later ones on top; their radius is proportional to the width of the canvas."""
    height, width = canvas.shape[:2]
    radius = max(width / 1200, 1.5)
    reach = int(radius)
    offsets = [
        (dy, dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if dy * dy + dx * dx <= radius * radius
    ]
    y = (rows[:, None] + [dy for dy, _ in offsets]).clip(0, height - 1)
    x = (cols[:, None] + [dx for _, dx in offsets]).clip(0, width - 1)
    canvas[y.ravel(), x.ravel()] = np.repeat(colors, len(offsets), axis=0)


def _colors(meters: npt.NDArray[np.floating]) -> RGB:
    """Return (N, 3) uint8 RGB colors by the logarithm of the distance: red near, blue far."""
    position = _color_position(np.clip(meters, _MIN_DISTANCE_M, _MAX_DISTANCE_M))
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    return np.asarray(table[np.round(255 * (1 - position)).astype(np.intp)], np.uint8)


def _color_position(meters: Any) -> Any:
    """Position on the logarithmic color map: 0 at its nearest distance, 1 at its farthest."""
    return np.log(meters / _MIN_DISTANCE_M) / np.log(_MAX_DISTANCE_M / _MIN_DISTANCE_M)


def _legend(width: int, unit: float) -> RGB:
    bar = np.full((round(56 * unit), width, 3), _BACKGROUND, np.uint8)
    left, right = round(0.04 * width), round(0.96 * width)
    steps = np.geomspace(_MIN_DISTANCE_M, _MAX_DISTANCE_M, right - left)
    bar[: round(22 * unit), left:right] = _colors(steps)
    for tick in _TICKS_M:
        x = left + round((right - left - 1) * _color_position(tick))
        cv2.line(bar, (x, 0), (x, round(28 * unit)), _FOREGROUND, max(round(2 * unit), 1))
        _put_text(bar, f"{tick} m", (x - round(20 * unit), round(50 * unit)), unit)
    return bar


def _caption(text: str, width: int, unit: float) -> RGB:
    bar = np.full((round(44 * unit), width, 3), _BACKGROUND, np.uint8)
    _put_text(bar, text.encode("ascii", "replace").decode(), (round(16 * unit), round(31 * unit)), unit)
    return bar


def _put_text(image: RGB, text: str, at: tuple[int, int], unit: float) -> None:
    thickness = max(round(2 * unit), 1)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.8 * unit, _FOREGROUND, thickness, cv2.LINE_AA)
