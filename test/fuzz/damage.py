# SPDX-License-Identifier: Apache-2.0
"""Damage with a seed: to bytes, to the fields of a message, to the tree of a YAML file."""

from __future__ import annotations

import copy
import math
import random
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import yaml
from rosbags.interfaces import Nodetype

from mlesam_ros.bags.serialization import typestore

INTEGERS = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (8, 16, 32, 64)}
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 1e-20, 1e20, math.nan, math.inf, -math.inf]
LENGTHS = [0, 1, 2, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC, 1 << 24, 1 << 16]
WORDS = [
    *("", "/", "camera", "/camera", "lidar", "event", "depth", "base", "odom", "a\nb", "../../x", "ü" * 40, "x" * 3000),
    *("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "8UC1", "8UC3", "16UC1", "32FC1", "64FC1", "bayer_rggb8"),
    *("yuv422", "yuv422_yuy2", "nv12", "nv21", "nv24", "uyvy", "yuyv", "bayer_gbrg16"),
    *("jpeg", "png", "rgb8; jpeg compressed bgr8", "16UC1; compressedDepth png", "32FC1; compressedDepth rvl", "tiff"),
    *("evt3", "mono", "libcaer", "libcaer_cmp", "trigger", "evt2"),
    *("x", "y", "z", "intensity", "i", "t", "time", "timestamp", "offset_time", "ring", "reflectivity"),
    *("plumb_bob", "rational_polynomial", "equidistant", "fisheye", "pinhole", "none"),
]


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flipped, overwritten, cut, repeated or lengthened, up to four times."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _damage(rng, made)
    return bytes(made)


def _damage(rng: random.Random, made: bytearray) -> None:
    at = rng.randrange(len(made) + 1)
    word = at // 4 * 4
    match rng.randrange(9):
        case 0 if at < len(made):
            made[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        case 1 if at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        case 2 if word + 4 <= len(made):
            made[word : word + 4] = struct.pack("<I", rng.choice([*LENGTHS, rng.getrandbits(32), len(made)]))
        case 3:
            del made[at:]
        case 4:
            del made[at : at + rng.randrange(1, 64)]
        case 5:
            made[at:at] = made[at : at + rng.randrange(1, 64)]
        case 6:
            made[at:at] = rng.randbytes(rng.randrange(1, 16))
        case 7:
            made += bytes(rng.randrange(1, 16))
        case _:
            made[: min(4, len(made))] = bytes((rng.randrange(2), rng.randrange(12), rng.randrange(2), rng.randrange(8)))


def damaged_message(rng: random.Random, raw: bytes, kind: str) -> bytes:
    """A serialized message of that type with up to four of its fields changed; still well-formed."""
    store = typestore()
    message: Any = store.deserialize_cdr(raw, kind)
    leaves = list(_leaves(message, kind))
    for _ in range(rng.choice((1, 1, 2, 4))):
        owner, name, node = rng.choice(leaves)
        setattr(owner, name, _changed(rng, getattr(owner, name), *node))
    return bytes(store.serialize_cdr(message, kind))


def _leaves(message: Any, kind: str) -> Iterator[tuple[Any, str, Any]]:
    """(owner, name, definition) of every field that is a number, a text or a sequence, at any depth."""
    for name, (node, about) in typestore().fielddefs[kind][1]:
        value = getattr(message, name)
        if node == Nodetype.NAME:
            yield from _leaves(value, about)
            continue
        yield message, name, (node, about)
        if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) and about[0][0] == Nodetype.NAME:
            for element in value[:8]:
                yield from _leaves(element, about[0][1])


def _changed(rng: random.Random, value: Any, node: Nodetype, about: Any) -> Any:
    if node == Nodetype.BASE:
        return _other(rng, value, about[0])
    if about[0][0] == Nodetype.NAME:
        return _other_list(rng, value)
    array = np.array(value)
    if array.dtype == np.uint8 and node == Nodetype.SEQUENCE:
        return np.frombuffer(damaged_bytes(rng, array.tobytes()), np.uint8)
    for _ in range(rng.choice((1, 1, 3))):
        if len(array):
            array[rng.randrange(len(array))] = _other(rng, 0.0, "float64")
    keep = rng.randrange(len(array) + 1) if node == Nodetype.SEQUENCE and rng.random() < 0.3 else len(array)
    return np.resize(array, rng.choice((keep, keep, 2 * keep))) if node == Nodetype.SEQUENCE else array


def _other(rng: random.Random, value: Any, base: str) -> Any:
    if base == "string":
        return rng.choice(WORDS) if rng.random() < 0.8 else "".join(rng.sample(value, len(value)))
    if base == "bool":
        return not value
    if base in INTEGERS:
        bits = INTEGERS[base]
        low, high = (0, 2**bits - 1) if base.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        near = value + 1, value - 1, 2 * value
        found = rng.choice((0, 1, low, high, *near, rng.randrange(64), rng.randint(low, high)))
        return min(max(found, low), high)
    return rng.choice([*FLOATS, rng.uniform(-10, 10), value * 1.001, -value])


def _other_list(rng: random.Random, values: list[Any]) -> list[Any]:
    some = rng.choice(values) if values else None
    return rng.choice([
        [], values[1:], values[::-1], [*values, *([] if some is None else [copy.deepcopy(some)])],
        values * rng.choice((2, 40)), rng.sample(values, len(values)),
    ])  # fmt: skip


SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**400, 0.5, math.nan, math.inf, -math.inf, "", "x", "nan"),
    *("../../../x", "/etc/passwd", "/dev/zero", "a\0b", "é" * 50, "x" * 5000, "2020-13-45", "1e999", "camera"),
    *([], {}, [[]], {"a": {}}, [0] * 200, {"": ""}, [1, "a", None]),
]
ROGUES = [
    '!!python/object/apply:os.system ["exit 3"]', "!!python/name:os.system", "!!python/object/new:os.system [exit 3]",
    "!!set {a, b}", "!!binary aGVsbG8=", "!!timestamp 2020-02-30", "2020-13-45", "!unknown {a: 1}", "*nowhere",
    "&a [*a]", "[" * 3000, "{a: " * 2000, "- " * 3000, "? " * 500, "0x" + "f" * 5000, "1" * 6000, "\t",
    "%YAML 9.9\n---", "---\n---", "\x85\u2028", "0o9", "1:2:3:4", "=", "<<: *x", "<<: [1, 2]", "<<: {<<: 3}",
]  # fmt: skip
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Nine lists of nine of the list before: 9⁹ words for whoever walks them."""


_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@cache
def _tree(text: str) -> Any:
    return yaml.safe_load(text)


def damaged_yaml(rng: random.Random, text: str) -> bytes:
    """A YAML file with some values of other kinds, other keys, rogue tags, or damaged bytes."""
    way = rng.random()
    if way < 0.55:
        tree = copy.deepcopy(_tree(text))
        for _ in range(rng.choice((1, 1, 2, 4))):
            tree = damaged_tree(rng, tree)
        return yaml.dump(tree, Dumper=_Dumper, allow_unicode=True).encode("utf-8", "surrogatepass")
    if way < 0.75:
        return damaged_bytes(rng, text.encode())
    lines = text.splitlines()
    at = rng.randrange(len(lines) + 1)
    rogue = rng.choice([*ROGUES, BOMB])
    if way < 0.9 and at < len(lines) and ":" in lines[at]:
        lines[at] = f"{lines[at].partition(':')[0]}: {rogue}"
    else:
        lines.insert(at, rogue)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damaged_tree(rng: random.Random, tree: Any) -> Any:
    """One node of it changed."""
    places = list(_places(tree))
    if not places:
        return rng.choice(SCALARS)
    owner, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del owner[key]
        case 1 if isinstance(owner, dict):
            owner[rng.choice([f"{key}x", str(key)[1:], rng.choice(WORDS), 3, True, None, 2.5])] = owner.pop(key)
        case 2 if isinstance(owner[key], dict | list):
            owner[key] = [copy.deepcopy(owner[key])] * rng.choice((1, 3))
        case 3:
            donor, other = rng.choice(places)
            owner[key] = copy.deepcopy(donor[other]) if other in donor or isinstance(donor, list) else None
        case _:
            owner[key] = copy.deepcopy(rng.choice(SCALARS))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items[:60]:
        yield tree, key
        yield from _places(value)
