# SPDX-License-Identifier: Apache-2.0
"""Write rosbag2 bags (MCAP, zstd), and build messages from plain values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from rosbags.interfaces import (
    Connection,
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys.store import Typestore

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.errors import BagError

_Descriptor = tuple[Nodetype, Any]


def build(store: Typestore, type_name: str, fields: Mapping[str, Any]) -> Any:
    """Build a message.

    Args:
        store: contains the type.
        type_name: such as `sensor_msgs/msg/Image`.
        fields: field → value: a dict for a nested message, a list of dicts for a list of messages, any array-like for
            numeric arrays. Missing fields are zero, empty or false, as in ROS.

    Raises:
        BagError: a type or field does not exist, or a value does not fit its field.
    """
    if type_name not in store.fielddefs:
        raise BagError(f"message type {type_name!r} is not known.", "Put its .msg file into mlesam_ros/interfaces.")
    definition = dict(store.fielddefs[type_name][1])
    for name in fields:
        if name not in definition:
            near = difflib.get_close_matches(name, definition, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(definition)}."
            raise BagError(f"{type_name} has no field {name!r}{hint}")
    values = {name: _value(store, f"{type_name}.{name}", kind, fields.get(name)) for name, kind in definition.items()}
    return store.types[type_name](**values)


def _value(store: Typestore, where: str, kind: _Descriptor, given: Any) -> Any:
    node, detail = kind
    try:
        if node == Nodetype.NAME:
            return given if hasattr(given, "__msgtype__") else build(store, detail, given or {})
        if node == Nodetype.BASE:
            return _scalar(detail[0], given)
        return _list(store, where, detail[0], detail[1] if node == Nodetype.ARRAY else None, given)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, BagError):
            raise
        raise BagError(f"{where} cannot hold {str(given)[:60]!r}: {error}.") from error


def _scalar(kind: str, given: Any) -> Any:
    if kind in ("string", "wstring"):
        return str(given) if given is not None else ""
    if kind == "bool":
        return bool(given)
    if kind.startswith("float"):
        return float(given or 0.0)
    value, limits = int(given or 0), np.iinfo(kind if kind not in ("octet", "byte", "char") else "uint8")
    if not limits.min <= value <= limits.max:
        raise ValueError(f"{kind} goes from {limits.min} to {limits.max}")
    return value


def _list(store: Typestore, where: str, item: _Descriptor, length: int | None, given: Any) -> Any:
    node, detail = item
    if node == Nodetype.BASE and detail[0] not in ("string", "wstring"):
        kind = {"octet": "uint8", "byte": "uint8", "char": "uint8"}.get(detail[0], detail[0])
        array = np.zeros(length or 0, kind) if given is None else np.ascontiguousarray(given, kind).reshape(-1)
        count = len(array)
        result: Any = array
    else:
        entries: Sequence[Any] = [None] * (length or 0) if given is None else list(given)
        count = len(entries)
        result = [_value(store, where, item, entry) for entry in entries]
    if length is not None and count != length:
        raise ValueError(f"it has {count} values, not {length}")
    return result


_METADATA_VERSION: Literal[8] = 8
"""Metadata version that Humble to Lyrical read."""
_INFINITE = QosTime(9223372036, 854775807)


def _qos(latched: bool) -> Qos:
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE, durability, _INFINITE, _INFINITE,
        QosLiveliness.AUTOMATIC, _INFINITE, False,
    )  # fmt: skip


class BagWriter:
    """Writer of a new bag, for use in a `with` statement. Messages added before an error stay readable."""

    def __init__(self, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
        """Create the folder.

        Args:
            path: folder of the bag; it must not exist.
            notes: custom data for the bag's metadata.

        Raises:
            BagError: the folder exists or cannot be created.
        """
        self.path = Path(path)
        self._store = typestore()
        self._connections: dict[str, Connection] = {}
        if self.path.exists():
            raise BagError(
                f"{self.path} exists already.", "Give another name or remove it first, bags are never overwritten."
            )
        try:
            self._writer = Writer(self.path, version=_METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            for key, value in (notes or {}).items():
                self._writer.set_custom_data(key, value)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(f"{self.path} cannot be created: {_reason(error)}.") from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, topic: str, type_name: str, stamp: int, fields: Mapping[str, Any], latched: bool = False) -> None:
        """Write one message.

        Args:
            topic: such as `/camera/image_raw`.
            type_name: such as `sensor_msgs/msg/Image`; the same for all messages of a topic.
            stamp: recording time in nanoseconds.
            fields: as for `build`.
            latched: offer transient local durability; read at the first message of a topic only.

        Raises:
            BagError: unknown type or field, a value that does not fit, a second type on a topic, or the disk is full.
        """
        self.add_message(topic, type_name, stamp, build(self._store, type_name, fields), latched)

    def add_message(self, topic: str, type_name: str, stamp: int, message: Any, latched: bool = False) -> None:
        """Write one message from `BagReader` or `build`; arguments and errors as for `add`."""
        raw = message if isinstance(message, bytes) else self._store.serialize_cdr(message, type_name)
        self.add_raw(topic, type_name, stamp, raw, latched)

    def add_raw(self, topic: str, type_name: str, stamp: int, raw: bytes | memoryview, latched: bool = False) -> None:
        """Write one serialized (CDR) message; arguments and errors as for `add`."""
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic, type_name, typestore=self._store, offered_qos_profiles=[_qos(latched)]
            )
            self._connections[topic] = connection
        if connection.msgtype != type_name:
            raise BagError(f"{topic} has the type {connection.msgtype}; a {type_name} needs another topic.")
        try:
            self._writer.write(connection, stamp, raw)
        except OSError as error:
            raise BagError(f"{self.path} cannot be written: {_reason(error)}.") from error

    def close(self) -> None:
        """Write the index and close the bag; called by the `with` statement.

        Raises:
            BagError: the disk is full.
        """
        try:
            self._writer.close()
        except OSError as error:
            raise BagError(f"{self.path} cannot be finished: {_reason(error)}; it has no index.") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).rstrip(".")
