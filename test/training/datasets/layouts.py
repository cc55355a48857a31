# SPDX-License-Identifier: Apache-2.0
"""Tiny data sets in their published layouts, filled with the simulated street or with marked pixels."""

import json

import cv2
import h5py
import numpy as np

from mlesam_ros.simulation.world import World
from mlesam_ros.types import EVENT, LIDAR

MUSES_SIZE = (1080, 1920)
MUSES_CAMERA = World(6, size=(64, 64))


def png(path, pixels):
    """Write RGB or single-channel pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1]))


def muses_rig():
    """calib.json of the street's own rig at MUSES' sizes: the same view in 1920x1080, the LiDAR on the roof."""
    world = MUSES_CAMERA
    rgb = np.array([[960.0, 0, 959.5], [0, 960.0, 539.5], [0, 0, 1]])
    event = np.array([[640.0, 0, 639.5], [0, 640.0, 359.5], [0, 0, 1]])
    lidar = world.rig.extrinsic("lidar")
    lidar2rgb = np.eye(4)
    lidar2rgb[:3, :3], lidar2rgb[:3, 3] = lidar.rotation, lidar.translation
    return {
        "intrinsics": {"rgb": {"K": rgb.tolist()}, "event": {"K": event.tolist()}},
        "extrinsics": {"lidar2rgb": lidar2rgb.tolist(), "event2rgb": np.eye(4).tolist()},
    }


def muses(root, scenes=(("train", "clear", "day"), ("train", "fog", "night"), ("val", "rain", "day")), raw=True):
    """One frame per (split, weather, time); returns the simulated frame of all of them."""
    moment = MUSES_CAMERA.sample(3)
    (root / "calib.json").write_text(json.dumps(muses_rig()))
    for split, weather, time in scenes:
        inside, name = f"{split}/{weather}/{time}", "REC0001_frame_000123"
        picture = np.random.default_rng(0).integers(0, 256, (*MUSES_SIZE, 3), dtype=np.uint8)
        png(root / f"frame_camera/{inside}/{name}_frame_camera.png", picture)
        labels = np.full(MUSES_SIZE, 255, np.uint8)
        labels[:540] = 10
        png(root / f"gt_semantic/{inside}/{name}_gt_labelTrainIds.png", labels)
        if raw:
            write_raw(root, inside, name, moment)
    return moment


def write_raw(root, inside, name, moment):
    points = moment.frames[LIDAR].payload.points
    rows = np.stack([points[column].astype(np.float64) for column in ("x", "y", "z", "intensity", "ring", "time")], 1)
    path = root / f"lidar/{inside}/{name}_lidar.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.tofile(path)
    events = moment.frames[EVENT].payload
    path = root / f"event_camera/{inside}/{name}_event_camera.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        # Enlarged to 720 rows; a second's worth of older events comes first.
        x, y = (events.x.astype(np.int32) * 11 + 288, events.y.astype(np.int32) * 11)
        t = (events.t - events.start) // 1000 + 1_000_000
        old = np.arange(0, 900_000, 1000)
        file["events/x"] = np.concatenate([np.full(len(old), 5), x]).astype(np.uint16)
        file["events/y"] = np.concatenate([np.full(len(old), 5), y]).astype(np.uint16)
        file["events/t"] = np.concatenate([old, t]).astype(np.int64)
        file["events/p"] = np.concatenate([np.ones(len(old)), events.polarity]).astype(np.uint8)


def mcubes(root, names=("outscene1208_2_0000000150", "outscene1208_2_0000000180"), size=(64, 224 + 64)):
    """Frames with marked values in the left 192 columns, which must not be read."""
    for split in ("train", "val", "test"):
        path = root / "list_folder" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    rng = np.random.default_rng(1)
    for name in names:
        for folder in ("polL_aolp_sin", "polL_aolp_cos", "polL_dolp"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            values = rng.uniform(-1, 1, size).astype(np.float32)
            values[:, :192] = 99
            np.save(root / folder / f"{name}.npy", values)
        png(root / "polL_color" / f"{name}.png", rng.integers(0, 65536, (*size, 3), dtype=np.uint16))
        png(root / "NIR_warped" / f"{name}.png", rng.integers(0, 256, size, dtype=np.uint8))
        labels = rng.integers(0, 20, size, dtype=np.uint8)
        labels[:, :192], labels[0, 192:] = 200, 255
        png(root / "GT" / f"{name}.png", labels)
