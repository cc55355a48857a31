"""Messages from plain Python: nested dicts in, rosbags' typed messages out, nothing forgotten and nothing unknown."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys.store import Typestore

from mlesam_ros.errors import BagError

_Descriptor = tuple[Nodetype, Any]


def build(store: Typestore, type_name: str, fields: Mapping[str, Any]) -> Any:
    """A message of a type.

    Args:
        store: knows the type.
        type_name: such as `sensor_msgs/msg/Image`.
        fields: field → value; a dict for a nested message, a list of dicts for a list of them, for numbers anything
            that NumPy takes. Fields that are left out are zero, empty or false, as in ROS.

    Raises:
        BagError: a type or field that does not exist, or a value that does not fit.
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
