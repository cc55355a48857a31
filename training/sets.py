"""What a recipe says of data that exists already: a published set in its own layout, or labeled bags."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mlesam_ros.bags.storage import is_storage
from mlesam_ros.config import NodeParameters, load_parameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.parameter_file import NODE
from mlesam_ros.training.crops import CropRecipe
from mlesam_ros.training.fields import PathText

_SIDE = 32


@dataclass(frozen=True)
class PublishedData:
    """A published set. Its modalities are the model's; encoders, statistics and label space are the set's own.

    Attributes:
        kind: deliver, muses or mcubes.
        crops: how its pictures are varied; their size at scale 1 and in evaluation follows from the model's
            `image_size`.
        root: the folder in which it lies; `mlesam train --data`.
        train, held_out: two of its splits.
        options: whatever else the set's class takes, such as weather, source or protocol.
    """

    kinds: ClassVar[tuple[str, ...]] = ("deliver", "muses", "mcubes")

    kind: str
    crops: CropRecipe
    root: PathText = ""
    train: str = "train"
    held_out: str = "val"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a test on what was trained on, and crops that no network reads.

        Raises:
            ConfigError: names the value and what is accepted.
        """
        if self.train == self.held_out:
            raise ConfigError(f"train and held_out are both {self.train}; a held-out split must be one never seen.")
        if taken := [key for key in ("root", "modalities", "split") if key in self.options]:
            raise ConfigError(
                f"options has {taken[0]}.", "Say it as data.root, model.modalities, data.train or held_out."
            )
        _check_crops(self.crops)


@dataclass(frozen=True)
class BagData:
    """Bags with a topic of true labels. See `datasets.bag.BagOptions`.

    Attributes:
        kind: bags.
        folder: where the encoded arrays are kept.
        train, held_out: bags, folders or files; none may be in both.
        size: height and width of the encoded pictures and labels: what a node of that `image_size`, the longer of the
            two, makes of the bags' camera.
        space: name or file of the label space.
        truth: topic of the labels, where the bags' names do not say enough.
        params: parameter file of the node, which describes the sensors; relative to the recipe.
        parameters: parameter → value, such as `lidar.offset: 0.05`, over those of the file.
        node: full name of the node whose sections of the file count.
    """

    kinds: ClassVar[tuple[str, ...]] = ("bags",)

    kind: str
    folder: PathText
    train: tuple[PathText, ...]
    held_out: tuple[PathText, ...]
    size: tuple[int, int]
    space: PathText = "deliver"
    truth: str | None = None
    params: PathText | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    node: str = NODE

    def __post_init__(self) -> None:
        """Refuse a test on what was trained on, and pictures that no network reads.

        Raises:
            ConfigError: names the value and what is accepted.
        """
        for name in ("train", "held_out"):
            if not getattr(self, name):
                raise ConfigError(f"{name} names no bag; it needs at least one.")
        trained = {path: bag for bag in self.train for path in _real_paths(bag)}
        for bag in self.held_out:
            if both := [trained[path] for path in _real_paths(bag) if path in trained]:
                also = "" if both[0] == bag else f", there as {both[0]}"
                raise ConfigError(f"{bag} is in held_out and in train{also}; a held-out bag must be one never seen.")
        for side in self.size:
            _check_side("size", side)

    def description(self) -> NodeParameters:
        """The parameters of the sensors.

        Raises:
            ConfigError: the file or a value is not accepted; as the node refuses it.
        """
        return load_parameters(self.params, (), self.node, self.parameters)


def _real_paths(bag: str) -> list[str]:
    """Paths without links of a bag and, where it is a folder, of its storage files."""
    paths = [Path(bag)]
    with suppress(OSError):  # no folder, or one that is gone: its arrays may still be there
        paths += [path for path in sorted(paths[0].iterdir()) if is_storage(path)]
    return [os.path.realpath(path) for path in paths]


def _check_crops(crops: CropRecipe) -> None:
    _check_side("crop", crops.crop)
    if not 0 < crops.scales[0] <= crops.scales[1]:
        raise ConfigError(f"scales is {list(crops.scales)}; it must be two factors above 0, the smaller one first.")
    for name in ("flip", "jitter", "blur"):
        if not 0 <= getattr(crops, name) <= 1:
            raise ConfigError(f"{name} is {getattr(crops, name)}; it must be from 0 to 1.")


def _check_side(name: str, side: int) -> None:
    if side < _SIDE or side % _SIDE:
        raise ConfigError(f"{name} is {side}; it must be a multiple of {_SIDE}.")
