"""Write masks of an evaluation as labeled point clouds and as a bag."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.serialization import camera_info, pixels, transforms
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.evaluation.bag_topics import CAMERA_INFO, TRANSFORMS
from mlesam_ros.evaluation.scores import Labels, MaskListener, MaskRecord
from mlesam_ros.files import atomic_write, write_error
from mlesam_ros.labels import LabelSpace
from mlesam_ros.mask_messages import (
    IMAGE,
    LABEL_SPACE,
    MASK_TYPES,
    STATUS,
    MaskReport,
    label_space,
    mask_messages,
    status,
)
from mlesam_ros.types import LIDAR, Modality, PointCloud
from mlesam_ros.visualization import labeled_cloud

FORMS = ("ply", "pcd")

_PLY = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("label", "u1"), ("red", "u1"), ("green", "u1"),
     ("blue", "u1")]
)  # fmt: skip
_PLY_NAMES = {"f": "float", "u": "uchar"}


class CloudFiles(MaskListener):
    """Writes the labeled point cloud of every mask that used a LiDAR, with the stamp as file name."""

    def __init__(self, folder: Path, space: LabelSpace, form: str = "ply") -> None:
        """Create the folder.

        Args:
            folder: for the files.
            space: label space with the colors.
            form: one of `FORMS`.

        Raises:
            FileError: the folder cannot be created.
        """
        self._folder, self._space, self._form = folder, space, form
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error, 0) from error

    def take(self, made: MaskRecord) -> None:
        """Write a point cloud.

        Raises:
            FileError: the disk is full.
        """
        points = points_of(made, self._space)
        if points is None:
            return
        write = write_ply if self._form == "ply" else write_pcd
        path = self._folder / f"{made.mask.stamp}.{self._form}"
        write(path, points)


def points_of(made: MaskRecord, space: LabelSpace) -> npt.NDArray[np.void] | None:
    """(M,) of `visualization.POINT`, the points inside the label camera's image; None without a LiDAR."""
    sweep = made.frame_set.frames.get(LIDAR)
    if sweep is None or not isinstance(sweep.payload, PointCloud):
        return None
    return labeled_cloud(sweep.payload, made.mask, made.rig, space, sweep)


def write_ply(path: Path, points: npt.NDArray[np.void]) -> None:
    """Write a binary PLY file: x y z intensity (float), label red green blue (uchar).

    Args:
        path: the file.
        points: (M,) of `visualization.POINT`.
    """
    rows = np.zeros(len(points), _PLY)
    for name in ("x", "y", "z", "intensity", "label"):
        rows[name] = points[name]
    rgb = points["rgb"].astype(np.float32).view(np.uint32)
    rows["red"], rows["green"], rows["blue"] = rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255
    properties = [f"property {_PLY_NAMES[kind.kind]} {name}" for name, kind in _columns(_PLY)]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}", *properties, "end_header", ""]
    atomic_write(path, "\n".join(head).encode() + rows.tobytes())


def write_pcd(path: Path, points: npt.NDArray[np.void]) -> None:
    """Write a binary PCD 0.7 file with the fields x y z intensity label rgb, as PCL and RViz read them.

    Args:
        path: the file.
        points: (M,) of `visualization.POINT`.
    """
    columns = _columns(points.dtype)
    packed = np.dtype([(name, kind.newbyteorder("<")) for name, kind in columns])  # PCD has no padding
    rows = np.zeros(len(points), packed)
    for name, _ in columns:
        rows[name] = points[name]
    lines = {
        "VERSION": "0.7", "FIELDS": " ".join(name for name, _ in columns),
        "SIZE": " ".join(str(kind.itemsize) for _, kind in columns),
        "TYPE": " ".join(kind.kind.upper() for _, kind in columns), "COUNT": " ".join("1" for _ in columns),
        "WIDTH": str(len(rows)), "HEIGHT": "1", "VIEWPOINT": "0 0 0 1 0 0 0", "POINTS": str(len(rows)),
        "DATA": "binary",
    }  # fmt: skip
    head = "".join(f"{key} {value}\n" for key, value in lines.items())
    atomic_write(path, head.encode() + rows.tobytes())


def _columns(kind: np.dtype[Any]) -> list[tuple[str, np.dtype[Any]]]:
    return [(name, kind[name]) for name in kind.names or ()]


NODE = "/mlesam"


class ResultBag(MaskListener):
    """Writes the messages that the node would publish for every mask, and ground truth, to a bag; a context manager."""

    def __init__(self, path: str | Path, space: LabelSpace, topics: dict[Modality, str], alpha: float) -> None:
        """Create the bag.

        Args:
            path: its folder, which must not exist.
            space: label space of the masks.
            topics: modality → topic, for the status.
            alpha: weight of the colors in the overlay.

        Raises:
            BagError: the folder exists, or cannot be created.
        """
        self._writer = BagWriter(path)
        self._space, self._topics, self._alpha = space, topics, alpha
        self._known: set[str] = set()
        self._frame = ""

    def __enter__(self) -> ResultBag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def take(self, made: MaskRecord) -> None:
        """Write all messages of one mask.

        Raises:
            BagError: the disk is full.
        """
        stamp, frame = made.mask.stamp, made.mask.frame_id
        self._frame = frame
        add = self._writer.add
        if made.sequence == 1:
            add(f"{NODE}/label_info", LABEL_SPACE, stamp, label_space(self._space, stamp), latched=True)
        self._add_mounting(made)
        add(f"{NODE}/camera_info", CAMERA_INFO, stamp, camera_info(stamp, frame, made.rig.camera))
        makers = mask_messages(made.mask, made.frame_set, made.rig, self._space, self._alpha)
        for name, make in makers.items():
            add(f"{NODE}/{name}", MASK_TYPES[name], stamp, make())
        provenance = MaskReport(made.mask, made.frame_set, made.sequence)
        add(f"{NODE}/status", STATUS, stamp, status(provenance, self._topics, made.counters, made.found))

    def compare(self, stamp: int, labels: Labels, truth: Labels) -> None:
        """Write the ground truth of a mask.

        Raises:
            BagError: the disk is full.
        """
        self._writer.add(f"{NODE}/truth", IMAGE, stamp, pixels(stamp, self._frame, truth, "mono8"))

    def _add_mounting(self, made: MaskRecord) -> None:
        """Write new static transforms; dynamic ones are in the evaluated bag."""
        new = [entry for entry in made.rig.tree.static_transforms() if entry[1] not in self._known]
        if new:
            self._known.update(child for _, child, _ in new)
            stamp = made.mask.stamp
            self._writer.add("/tf_static", TRANSFORMS, stamp, transforms(new, stamp), latched=True)
