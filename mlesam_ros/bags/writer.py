"""Writing a bag: an mcap file in a rosbag2 folder that `ros2 bag`, RViz and Foxglove open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError

from mlesam_ros.bags.build import build
from mlesam_ros.bags.typestore import typestore
from mlesam_ros.errors import BagError

_VERSION: Literal[8] = 8
"""Metadata version: what Humble to Lyrical read."""
_FOR_EVER = QosTime(9223372036, 854775807)


def _qos(latched: bool) -> Qos:
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE, durability, _FOR_EVER, _FOR_EVER,
        QosLiveliness.AUTOMATIC, _FOR_EVER, False,
    )  # fmt: skip


class BagWriter:
    """A new bag, to be used in a `with` statement. What was added before an error stays readable."""

    def __init__(self, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
        """Create the folder.

        Args:
            path: where the bag's folder is made; it must not exist.
            notes: kept in the bag's metadata as custom data.

        Raises:
            BagError: it exists, or cannot be made.
        """
        self.path = Path(path)
        self._store = typestore()
        self._connections: dict[str, Connection] = {}
        if self.path.exists():
            raise BagError(
                f"{self.path} exists already.", "Give another name or remove it first, bags are never overwritten."
            )
        try:
            self._writer = Writer(self.path, version=_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            for key, value in (notes or {}).items():
                self._writer.set_custom_data(key, value)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(f"{self.path} cannot be made: {_reason(error)}.") from error

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
            stamp: nanoseconds at which it was "received".
            fields: as for `mlesam_ros.bags.build.build`.
            latched: the topic is transient local; counts on its first message.

        Raises:
            BagError: unknown type or field, a value that does not fit, two types on one topic, or the disk is full.
        """
        self.add_message(topic, type_name, stamp, build(self._store, type_name, fields), latched)

    def add_message(self, topic: str, type_name: str, stamp: int, message: Any, latched: bool = False) -> None:
        """Write one message as `BagReader` or `build` gives it; arguments and errors as for `add`."""
        raw = message if isinstance(message, bytes) else self._store.serialize_cdr(message, type_name)
        self.add_raw(topic, type_name, stamp, raw, latched)

    def add_raw(self, topic: str, type_name: str, stamp: int, raw: bytes | memoryview, latched: bool = False) -> None:
        """Write one message that is serialized (CDR) already; arguments and errors as for `add`."""
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic, type_name, typestore=self._store, offered_qos_profiles=[_qos(latched)]
            )
            self._connections[topic] = connection
        if connection.msgtype != type_name:
            raise BagError(f"{topic} carries {connection.msgtype}; a {type_name} needs a topic of its own.")
        try:
            self._writer.write(connection, stamp, raw)
        except OSError as error:
            raise BagError(f"{self.path} cannot be written any further: {_reason(error)}.") from error

    def close(self) -> None:
        """Write the index; called by the `with` statement.

        Raises:
            BagError: the disk is full.
        """
        try:
            self._writer.close()
        except OSError as error:
            raise BagError(f"{self.path} cannot be finished: {_reason(error)}; it has no index.") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).rstrip(".")
