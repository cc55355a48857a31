"""`metadata.yaml`: what a recorder claims of a folder, as far as it can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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
    try:
        about = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        files = tuple(Path(str(name)).name for name in about["relative_file_paths"])
        return Metadata(_fault(about, files, folder), files, _number(about.get("message_count")))
    except FileNotFoundError:
        return Metadata("it has no metadata.yaml")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
        return Metadata("its metadata.yaml cannot be read")


def _fault(about: dict[str, Any], files: tuple[str, ...], folder: Path) -> str:
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        return f"metadata.yaml lists {', '.join(missing)}, which is not there"
    if not files:
        return "metadata.yaml lists no file"
    storage = about.get("storage_identifier")
    return "" if storage in _STORAGES else f"metadata.yaml names the storage {storage!r}"


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None
