"""The message types that bags are read and written with: ROS's own, ours, and the foreign ones that we speak."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mlesam_ros.share import resource_path

PACKAGE = "mlesam_ros"
_FOREIGN = Path(__file__).resolve().parents[1] / "interfaces"


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """ROS 2's common interfaces with `msg/*.msg` and `interfaces/<package>/msg/*.msg` added. Shared: do not change it.

    Raises:
        ConfigError: our message files are not in the installation.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    folders = {PACKAGE: resource_path("msg"), **{path.parent.name: path for path in sorted(_FOREIGN.glob("*/msg"))}}
    types = {}
    for package, folder in folders.items():
        for path in sorted(folder.glob("*.msg")):
            name = f"{package}/msg/{path.stem}"
            if name not in store.fielddefs:
                types.update(get_types_from_msg(path.read_text(encoding="utf-8"), name))
    store.register(types)
    return store


def typestore_of(connections: Iterable[Connection]) -> Typestore:
    """The types of a recording: as it defines them itself, and as `typestore()` does where it does not.

    A definition that cannot be parsed (IDL with includes, as some recorders embed) counts as none, and so do all of
    them when they contradict ROS's own time or each other, as damaged ones may.
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
