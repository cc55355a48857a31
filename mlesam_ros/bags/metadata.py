"""`metadata.yaml`: what a recorder claims of a folder, as far as it can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlesam_ros.bags.storage import is_storage
from mlesam_ros.errors import ConfigError
from mlesam_ros.strict_yaml import read_yaml

_STORAGES = ("mcap", "sqlite3")


@dataclass(frozen=True)
class Metadata:
    """What is of use in it.

    Attributes:
        fault: what is wrong with it, in words; empty when it can be believed.
        files: names of the storage files that it lists, in order.
        messages: how many messages it declares; None where it does not say.
    """

    fault: str
    files: tuple[str, ...] = ()
    messages: int | None = None


def read_metadata(folder: Path) -> Metadata:
    """Read a folder's metadata; whatever is wrong with it is its `fault`."""
    if not (folder / "metadata.yaml").exists():
        return Metadata("it has no metadata.yaml")
    try:
        about = read_yaml(folder / "metadata.yaml", "metadata")["rosbag2_bagfile_information"]
        files = tuple(Path(str(name)).name for name in about["relative_file_paths"])
        return Metadata(_fault(about, files, folder), files, _number(about.get("message_count")))
    except (ConfigError, KeyError, TypeError, AttributeError, ValueError):
        return Metadata("its metadata.yaml cannot be read")


def _fault(about: dict[str, Any], files: tuple[str, ...], folder: Path) -> str:
    strange = [name for name in files if not is_storage(Path(name))]
    if strange:
        return f"metadata.yaml lists {', '.join(map(repr, strange))}, which is no .mcap or .db3 file"
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        return f"metadata.yaml lists {', '.join(missing)}, which is not there"
    if not files:
        return "metadata.yaml lists no file"
    storage = about.get("storage_identifier")
    return "" if storage in _STORAGES else f"metadata.yaml names the storage {storage!r}"


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None
