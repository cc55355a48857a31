# SPDX-License-Identifier: Apache-2.0
"""Files with damage, and what reads them: bags, calibration, YAML."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from backports import zstd
from damage import damaged_bytes, damaged_tree, damaged_yaml
from live import check_sentence
from rosbags.rosbag2.enums import StoragePlugin
from small_bag import write_small_bag

from mlesam_ros.bags.calibrated_frame import load_calibrated_frame, read_pcd
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import NodeParameters, iter_parameters, parameter_spec
from mlesam_ros.errors import MlesamError
from mlesam_ros.geometry.rig import load_rig
from mlesam_ros.geometry.validation import validate_rig
from mlesam_ros.labels import load_label_space
from mlesam_ros.parameter_file import read_parameter_file
from mlesam_ros.strict_yaml import read_yaml
from mlesam_training.recipe import load_recipe

CONFIG = Path(__file__).parents[2] / "config"


class File:
    """A file that is written over and over, and read.

    Args:
        path: of the file.
        good: what it may hold.
        damaged: how one of those is damaged.
        read: what reads the file; it raises MlesamError or says whether something was refused.
    """

    def __init__(
        self,
        path: Path,
        good: list[Any],
        damaged: Callable[[random.Random, Any], bytes],
        read: Callable[[Path], bool | None],
    ) -> None:
        self.path, self.good, self.damaged, self.read = path, good, damaged, read

    def case(self, rng: random.Random) -> bytes:
        """One of the good contents, damaged."""
        return self.damaged(rng, rng.choice(self.good))

    def run(self, case: bytes) -> bool:
        """See `attack.Target`."""
        self.path.write_bytes(case)
        return is_refused(self.read, self.path)


def is_refused(read: Callable[..., bool | None], *arguments: Any) -> bool:
    """Whether a reader refused something, in a sentence if it was all of it."""
    try:
        return bool(read(*arguments))
    except MlesamError as error:
        check_sentence(error)
        return True


# YAML


def read_calibration(path: Path) -> bool:
    findings = validate_rig(read_yaml(path))
    for finding in findings:
        check_sentence(finding.message)
    assert any(finding.severity == "error" for finding in findings) or load_rig(path)
    load_rig(path)
    return False


def read_labels(path: Path) -> None:
    assert load_label_space(path).palette.shape == (256, 3)


ACCEPTED = {name: parameter_spec(name, entry, default) for name, entry, default in iter_parameters()}


def read_parameters(path: Path) -> bool:
    refused = 0
    for name, value in read_parameter_file(path, "/mlesam")[0].items():
        if name in ACCEPTED:
            refused += is_refused(ACCEPTED[name].validate, value)
    return refused > 0


def read_recipe(path: Path) -> None:
    load_recipe(path)


def yaml_targets(folder: Path) -> Iterator[tuple[str, File]]:
    readers: dict[str, Callable[[Path], bool | None]] = {
        "rigs": read_calibration, "labels": read_labels, "params": read_parameters, "training": read_recipe,
    }  # fmt: skip
    for kind, read in readers.items():
        texts = [path.read_text(encoding="utf-8") for path in sorted((CONFIG / kind).glob("*.yaml"))]
        assert texts
        yield f"{kind} file", File(folder / f"{kind}.yaml", texts, damaged_yaml, read)
    assert ACCEPTED.keys() >= {"device", "lidar.topic"} and NodeParameters()


# Bags


def read_bag(path: Path) -> bool:
    with BagReader(path) as bag:
        assert all(number >= 0 for number in bag.counts.values())
        read = sum(bool(message.topic) for message in bag)
        for words in bag.warnings:
            check_sentence(words)
        assert read <= 1000, "a few kilobytes do not hold so many messages"
        return bool(bag.warnings)


class BagFolder:
    """A good file beside a damaged `metadata.yaml`, or the other way round."""

    def __init__(self, folder: Path) -> None:
        write_small_bag(folder, 2)
        self.folder, self.metadata = folder, folder / "metadata.yaml"
        self.text = self.metadata.read_text(encoding="utf-8")
        self.outside = folder.parent / "outside.mcap"
        self.outside.write_bytes(next(folder.glob("*.mcap")).read_bytes())

    def case(self, rng: random.Random) -> bytes:
        """A `metadata.yaml`."""
        name = next(self.folder.glob("*.mcap")).name
        other = rng.choice(["../outside.mcap", str(self.outside), "..", "", "/dev/zero", f"./{name}", "metadata.yaml"])
        text = self.text.replace(name, other) if rng.random() < 0.2 else self.text
        return damaged_yaml(rng, text) if rng.random() < 0.9 else text.encode()

    def run(self, case: bytes) -> bool:
        """See `attack.Target`; nothing outside of the folder is ever read."""
        self.metadata.write_bytes(case)
        try:
            with BagReader(self.folder) as bag:
                assert all(file.parent == self.folder and file.suffix == ".mcap" for file in bag.files)
        except MlesamError as error:
            check_sentence(error)
            return True
        return is_refused(read_bag, self.folder)


def bag_targets(folder: Path) -> Iterator[tuple[str, Any]]:
    for suffix, plugin in ((".mcap", StoragePlugin.MCAP), (".db3", StoragePlugin.SQLITE3)):
        write_small_bag(folder / f"small{suffix}", 2, plugin)
        data = next((folder / f"small{suffix}").glob(f"*{suffix}")).read_bytes()
        yield f"{suffix} file", File(folder / f"bag{suffix}", [data], damaged_bytes, read_bag)
        packed = File(folder / f"bag{suffix}.zstd", [zstd.compress(data)], damaged_bytes, read_bag)
        yield f"{suffix}.zstd file", packed
    yield "bag folder", BagFolder(folder / "folder")


# A picture with its cloud and calibration


def lzf_literal(data: bytes) -> bytes:
    """LZF's simplest form: literal runs of up to 32 bytes."""
    return b"".join(bytes([len(run) - 1]) + run for run in (data[i : i + 32] for i in range(0, len(data), 32)))


def pcd(encoding: str, size: str, kind: str) -> bytes:
    count = 5
    itemsize = sum(int(each) for each in size.split())
    head = f"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z intensity\nSIZE {size}\nTYPE {kind}\nCOUNT 1 1 1 1\nWIDTH {count}\n"
    head += f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {encoding}\n"
    body = bytes(range(count * itemsize))
    if encoding == "ascii":
        body = b"1.5 2 -3e2 7\n" * count
    elif encoding == "binary_compressed":
        packed = lzf_literal(body)
        body = struct.pack("<II", len(packed), len(body)) + packed
    return head.encode() + body


def pcds() -> list[bytes]:
    layouts = [("4 4 4 4", "F F F F"), ("8 8 8 2", "F F F U"), ("4 4 4 1", "F F F I")]
    return [pcd(encoding, *layout) for encoding in ("ascii", "binary", "binary_compressed") for layout in layouts]


CALIB = b"K: 5 0 3.5 0 5 2.5 0 0 1\nD: 0.1 0 0 0\nT: 1 0 0 0 0 1 0 0 0 0 1 0\n"
LENS = {"img_dist_w": 8, "img_dist_h": 6, "cam_K": {"data": [[5, 0, 3.5], [0, 5, 2.5], [0, 0, 1]]},
        "cam_dist": {"data": [[0, 0, 0, 0]]}}  # fmt: skip
PLACE = {"sensor_calib": {"data": np.eye(4).tolist()}}


class Still:
    """A folder with a picture, a cloud and its calibration in one of two layouts, of which one file is damaged."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
        common = {"a.png": cv2.imencode(".png", pixels)[1].tobytes(), "a.pcd": pcds()[0]}
        files = {f"a-{name}.json": json.dumps({"x": {"param": part}}).encode()
                 for name, part in (("intrinsic", LENS), ("extrinsic", PLACE))}  # fmt: skip
        self.layouts = [{**common, "calib.txt": CALIB}, {**common, **files}]

    def case(self, rng: random.Random) -> Mapping[str, bytes]:
        """File → content."""
        files = dict(rng.choice(self.layouts))
        name = rng.choice(sorted(files))
        if name.endswith(".json") and rng.random() < 0.7:
            files[name] = json.dumps(damaged_tree(rng, json.loads(files[name])), default=str).encode()
        else:
            files[name] = damaged_bytes(rng, files[name])
        return files

    def run(self, case: Mapping[str, bytes]) -> bool:
        """See `attack.Target`."""
        for old in self.folder.iterdir():
            old.unlink()
        for name, content in case.items():
            (self.folder / name).write_bytes(content)
        return is_refused(lambda: load_calibrated_frame(self.folder) is None)


def read_points(path: Path) -> None:
    assert read_pcd(path).dtype.names


def file_targets(folder: Path) -> dict[str, Any]:
    """Name → target."""
    found: dict[str, Any] = dict([*yaml_targets(folder), *bag_targets(folder)])
    found["pcd file"] = File(folder / "cloud.pcd", pcds(), damaged_bytes, read_points)
    found["still folder"] = Still(folder / "still")
    return found
