# SPDX-License-Identifier: Apache-2.0
"""Message types without ROS: definitions, field values of messages to serialize, and CDR deserialization.

The functions from `header` to `event_packet` return the fields of a message for `BagWriter.add`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mlesam_ros.errors import BagError, PacketError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.resources import resource_path
from mlesam_ros.types import NANOSECONDS, RawImage

PACKAGE = "mlesam_ros"
_INTERFACES = Path(__file__).resolve().parents[1] / "interfaces"


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """The common interfaces of ROS 2 plus `msg/*.msg` and `interfaces/<package>/msg/*.msg`. Shared: do not change it.

    Raises:
        ConfigError: the message files of this package are not installed.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    folders = {PACKAGE: resource_path("msg"), **{path.parent.name: path for path in sorted(_INTERFACES.glob("*/msg"))}}
    types = {}
    for package, folder in folders.items():
        for path in sorted(folder.glob("*.msg")):
            name = f"{package}/msg/{path.stem}"
            if name not in store.fielddefs:
                types.update(get_types_from_msg(path.read_text(encoding="utf-8"), name))
    store.register(types)
    return store


def typestore_of(connections: Iterable[Connection]) -> Typestore:
    """Message types of a bag: its own definitions, and those of `typestore()` for types without one.

    A definition that cannot be parsed (such as IDL with includes) is ignored. If the definitions contradict each other
    or the ROS time types, as in a damaged bag, all are ignored.
    """
    types = {}
    for connection in connections:
        definition = connection.msgdef
        with suppress(TypesysError):
            if definition.format == MessageDefinitionFormat.MSG:
                types.update(get_types_from_msg(definition.data, connection.msgtype))
            elif definition.format == MessageDefinitionFormat.IDL:
                types.update(get_types_from_idl(definition.data))
    known = typestore().fielddefs
    if all(known.get(name) == fields for name, fields in types.items()):
        return typestore()
    store = get_typestore(Stores.EMPTY)
    try:
        store.register({**known, **types})
    except TypesysError:
        return typestore()
    return store


def deserialize(raw: bytes, type_name: str) -> Any:
    """Deserialize a message; its arrays are NumPy views of the bytes.

    Args:
        raw: the serialized message with its encapsulation, plain CDR in either byte order.
        type_name: such as `sensor_msgs/msg/Image`, a type in `typestore()`.

    Raises:
        PacketError: the bytes are not a message of this type.
    """
    try:
        return typestore().deserialize_cdr(memoryview(raw), type_name)
    except Exception as error:  # rosbags raises arbitrary exceptions on damaged data
        raise PacketError(
            f"{len(raw)} bytes are no {type_name}: {error}; its publisher sends something else or they are damaged."
        ) from error


Fields = dict[str, Any]

# NumPy type → datatype of sensor_msgs/PointField.
_DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def header(stamp: int, frame_id: str) -> Fields:
    """A std_msgs/Header from a timestamp in nanoseconds and a frame."""
    seconds, nanoseconds = divmod(stamp, NANOSECONDS)
    return {"stamp": {"sec": seconds, "nanosec": nanoseconds}, "frame_id": frame_id}


def image(stamp: int, frame_id: str, raw: RawImage) -> Fields:
    """A sensor_msgs/Image."""
    return {
        "header": header(stamp, frame_id), "height": raw.height, "width": raw.width,
        "encoding": raw.encoding, "is_bigendian": raw.is_bigendian, "step": raw.step, "data": raw.data,
    }  # fmt: skip


def pixels(stamp: int, frame_id: str, values: npt.NDArray[np.uint8], encoding: str) -> Fields:
    """A sensor_msgs/Image of (H, W) or (H, W, channels) uint8."""
    rows = np.ascontiguousarray(values)
    height, width = rows.shape[:2]
    return image(stamp, frame_id, RawImage(height, width, encoding, rows.strides[0], rows.reshape(-1)))


def compressed_image(stamp: int, frame_id: str, image_format: str, data: npt.NDArray[np.uint8]) -> Fields:
    """A sensor_msgs/CompressedImage of an encoded file, (n,) uint8, such as `rgb8; jpeg compressed bgr8`."""
    return {"header": header(stamp, frame_id), "format": image_format, "data": data}


def camera_info(stamp: int, frame_id: str, model: CameraModel) -> Fields:
    """A sensor_msgs/CameraInfo; R and P describe the rectification if the camera has one, see `CameraModel`."""
    rectification = model.rectification or Transform.identity()
    projection = np.hstack([model.K, model.K @ rectification.translation[:, None]])
    named = ("plumb_bob", np.zeros(5)) if model.model == "pinhole" else (model.model, model.D)
    return {
        "header": header(stamp, frame_id), "height": model.height, "width": model.width,
        "distortion_model": named[0], "d": named[1],
        "k": model.K, "r": rectification.rotation, "p": projection,
    }  # fmt: skip


def point_cloud(stamp: int, frame_id: str, points: npt.NDArray[np.void]) -> Fields:
    """A sensor_msgs/PointCloud2 with the memory layout of a structured array, (n,) or (rows, columns).

    Raises:
        BagError: PointField has no datatype for the type of a column.
    """
    rows = points.reshape(1, -1) if points.ndim == 1 else points
    itemsize = points.dtype.itemsize
    columns: Mapping[str, Any] = points.dtype.fields or {}
    return {
        "header": header(stamp, frame_id), "height": rows.shape[0], "width": rows.shape[1],
        "fields": [_point_field(name, kind, offset) for name, (kind, offset, *_) in columns.items()],
        "is_bigendian": False, "point_step": itemsize, "row_step": itemsize * rows.shape[1],
        "data": np.ascontiguousarray(rows).reshape(-1).view(np.uint8),
        "is_dense": all(bool(np.isfinite(points[name]).all()) for name in ("x", "y", "z")),
    }  # fmt: skip


def _point_field(name: str, kind: np.dtype[Any], offset: int) -> Fields:
    base, count = (kind.subdtype[0], int(np.prod(kind.shape))) if kind.subdtype else (kind, 1)
    datatype = _DATATYPES.get(base.str[1:])
    if datatype is None or base.str[0] == ">":
        raise BagError(
            f"point column {name!r} of type {base} has no PointField datatype.", f"Use {', '.join(_DATATYPES)}."
        )
    return {"name": name, "offset": offset, "datatype": datatype, "count": count}


def transforms(entries: Sequence[tuple[str, str, Transform]], stamp: int) -> Fields:
    """A tf2_msgs/TFMessage from (parent, child, parent_from_child) entries."""
    return {"transforms": [_transform(parent, child, pose, stamp) for parent, child, pose in entries]}


def _transform(parent: str, child: str, pose: Transform, stamp: int) -> Fields:
    x, y, z, w = pose.to_quaternion()
    a, b, c = pose.translation
    return {
        "header": header(stamp, parent), "child_frame_id": child,
        "transform": {"translation": {"x": a, "y": b, "z": c}, "rotation": {"x": x, "y": y, "z": z, "w": w}},
    }  # fmt: skip


def event_packet(
    stamp: int, frame_id: str, size: tuple[int, int], sequence: int, evt3: npt.NDArray[np.uint8]
) -> Fields:
    """An event_camera_msgs/EventPacket in EVT3.

    Args:
        stamp: host time of the packet's first event in nanoseconds.
        frame_id: optical frame of the event camera.
        size: (height, width) of the sensor.
        sequence: sequence number of the packet.
        evt3: (n,) uint8. EVT3 contains the sensor time, so `time_base` is 0, as in the packets of drivers.
    """
    return {
        "header": header(stamp, frame_id), "height": size[0], "width": size[1], "seq": sequence, "time_base": 0,
        "encoding": "evt3", "is_bigendian": False, "events": evt3,
    }  # fmt: skip
